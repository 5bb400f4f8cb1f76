//! The options of `sluice operator`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

/// `sluice operator`
#[derive(Debug, Args)]
#[command(after_help = "\
One per cluster, where there are more the one that holds the Lease `sluice-operator` writes. It says in the condition Valid of each
CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy whether agents enforce it, and in an Event that a NetworkPolicy or
ClusterNetworkPolicy is rejected. Where agents' pods are ready it takes the taint node.sluice.io/agent-not-ready off their nodes.
What agents enforce does not depend on it.

Example:
  sluice operator --kubeconfig ~/.kube/config
  kubectl get cnp -A")]
pub struct OperatorArgs {
    /// Kubeconfig to reach the API server with [default: the pod's service account or, outside a pod, KUBECONFIG or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of the lease and of the agents' pods
    #[arg(
        long,
        value_name = "NAME",
        env = "POD_NAMESPACE",
        default_value = "kube-system"
    )]
    pub namespace: String,
    /// Name of this replica's pod, shown as the lease's holder [default: the host name]
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub pod_name: Option<String>,
    /// Label selector of the agents' pods
    #[arg(
        long,
        value_name = "SELECTOR",
        default_value = "app.kubernetes.io/name=sluice,app.kubernetes.io/component=agent"
    )]
    pub agent_pod_labels: String,
    /// Where Prometheus finds /metrics
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9963")]
    pub metrics_address: SocketAddr,
}
