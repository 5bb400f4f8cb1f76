//! How commands for the whole cluster reach it.

use std::path::PathBuf;

use clap::Args;

/// Options of every command that asks the API server.
#[derive(Debug, Clone, Args)]
pub struct AccessArgs {
    /// Kubeconfig to reach the API server with [default: KUBECONFIG or ~/.kube/config; in a pod its service account]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// Namespace that sluice is installed in
    #[arg(short, long, value_name = "NAME", default_value = "kube-system")]
    pub namespace: String,
}

impl AccessArgs {
    /// Whether the command line says that a cluster is meant.
    #[must_use]
    pub const fn is_given(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some()
    }
}
