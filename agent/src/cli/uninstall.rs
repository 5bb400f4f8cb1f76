//! `sluice uninstall`: its options.

use clap::Args;

use super::AccessArgs;

/// `sluice uninstall`
#[derive(Debug, Args)]
#[command(after_help = "\
Deletes the agents, then runs `sluice cleanup` once on every node that they ran on (by a DaemonSet of a few seconds, with the agents'
image, mounts and tolerations), then deletes the operator and the roles. Between the end of a node's agent and its cleanup its pods
are cut off; afterwards they connect without any policy.
CustomResourceDefinitions and policies stay, unless --crds is given: then those definitions go that sluice brought and of which no object
is left.
What Helm has installed, Helm must remove: run `helm uninstall`, then this with --nodes-only.
Exit status: 0 when everything is removed, 1 when something could not be, with the names of nodes that could not be cleaned.

Examples:
  sluice uninstall
  sluice uninstall --yes --crds
  sluice uninstall --nodes-only --image registry.example/sluice:0.1.0")]
pub struct UninstallArgs {
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Only clean the nodes, after the agents were removed by other means
    #[arg(long)]
    pub nodes_only: bool,
    /// Delete CustomResourceDefinitions, too
    #[arg(long, conflicts_with = "nodes_only")]
    pub crds: bool,
    /// Image for the cleanup [default: the agents']
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// How long each step may take, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 180, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
    /// The cluster.
    #[command(flatten)]
    pub access: AccessArgs,
}
