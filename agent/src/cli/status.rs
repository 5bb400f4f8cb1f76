//! `sluice status`: its options.

use clap::Args;

use super::{AccessArgs, Output};

/// `sluice status`
#[derive(Debug, Args)]
#[command(after_help = "\
Without options: the agent of this node. Exit status: 0 when it answers, 1 when it does not, or with --wait does not become ready in
time.
With --cluster, --kubeconfig or --context, and where no agent runs and a kubeconfig is there: the whole cluster. Exit status: 0 when
every agent enforces what the API server has, 1 when something is missing (with --wait: still at the end).

Examples:
  sluice status
  sluice status --wait --timeout 60               block until every endpoint's policy is enforced
  sluice status -o json | jq '.drops'
  sluice status --cluster --wait                  block until every node's agent is ready and has all policies")]
pub struct StatusArgs {
    /// Show the whole cluster
    #[arg(long)]
    pub cluster: bool,
    /// Wait until the agent answers and is ready; of a cluster, until nothing is missing
    #[arg(long)]
    pub wait: bool,
    /// Have the agent read its policies now, and wait until they are in force
    #[arg(long, conflicts_with_all = ["wait", "cluster", "kubeconfig", "context"])]
    pub sync: bool,
    /// Exit with 1 unless pods that come now come under policy: for readiness probes
    #[arg(long, conflicts_with_all = ["wait", "sync", "cluster", "kubeconfig", "context"])]
    pub takes_pods: bool,
    /// How long --wait waits, seconds [default: 30; of a cluster: 300]
    #[arg(long, value_name = "SECONDS", requires = "wait")]
    pub timeout: Option<u64>,
    /// Form of output
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// The cluster.
    #[command(flatten)]
    pub access: AccessArgs,
}
