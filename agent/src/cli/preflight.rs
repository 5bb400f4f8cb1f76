//! `sluice preflight`: its options.

use std::path::PathBuf;

use clap::Args;

use super::{AccessArgs, Output};

/// `sluice preflight`
#[derive(Debug, Args)]
#[command(after_help = "\
Says what would keep sluice from working, before it is installed, and what to change. Nothing is changed.
Without options: this node, as root, and the cluster too where --kubeconfig or --context is given.
Exit status: 0 when there are no errors (warnings do not count), 1 when there are.

Examples:
  sluice preflight                                on a node
  sluice preflight --cluster                      from anywhere: the cluster only
  sluice preflight -o json | jq '.checks[] | select(.level == \"error\")'")]
pub struct PreflightArgs {
    /// Check the cluster only
    #[arg(long)]
    pub cluster: bool,
    /// Folder of the node's CNI configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// The BPF file system
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
    /// Form of output
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// The cluster.
    #[command(flatten)]
    pub access: AccessArgs,
}
