//! The command line of `sluice`.

mod cluster;
mod cni;
mod connectivity;
mod operator;
mod policy;
mod preflight;
mod status;
mod sysdump;
mod uninstall;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use ::policy::PodName;
use clap::{Args, Parser, Subcommand, ValueEnum};
use datapath::interface::MacAddr;
use ipnet::IpNet;

pub use self::cluster::AccessArgs;
pub use self::cni::CniArgs;
pub use self::connectivity::{ConnectivityCommand, ConnectivityTestArgs, ProbeArgs, ServeArgs};
pub use self::operator::OperatorArgs;
pub use self::policy::{
    CheckArgs, ClusterArgs, DecideArgs, ExplainArgs, ManifestArgs, MatrixArgs, MatrixOutput, PolicyCommand,
    PortProtocol, ProtocolError, TestArgs, parse_protocol,
};
pub use self::preflight::PreflightArgs;
pub use self::status::StatusArgs;
pub use self::sysdump::SysdumpArgs;
pub use self::uninstall::UninstallArgs;
use crate::capture::MAX_SNAPLEN;
use crate::endpoint_registry::AuditMode;
use crate::flow_record::FlowVerdict;

/// Where the agent keeps its socket and state, unless told otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/sluice";

/// Network policy at L3, L4 and L7 for the pods of a node, enforced inline: no sidecar, no proxy, no TCP termination.
#[derive(Debug, Parser)]
#[command(
    name = "sluice",
    version,
    propagate_version = true,
    after_help = "\
Getting started, as root:
  sluice agent --manifests ./manifests            enforce the policies in a folder
  sluice endpoint add --pod db/postgres --interface veth1a2b --ipv4 10.244.0.7 --mac 02:42:0a:f4:00:07
  sluice status                                   what is enforced, and what was dropped why
  sluice flows -f --verdict dropped               watch denials as they happen
  sluice policy explain --from dummy/debug --to db/postgres --port 5432

Without root, without an agent:
  sluice policy check -f ./manifests              what is wrong with the policies in a folder
  sluice policy matrix -f ./manifests             who may talk to whom

`sluice <command> --help` shows each command's options and examples."
)]
pub struct Cli {
    /// Where the agent keeps its socket and state; give client commands the agent's own.
    #[arg(long, global = true, value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent of this node
    Agent(AgentArgs),
    /// Show the agent of this node, or the whole cluster: what is enforced, what is dropped why, what is missing
    Status(StatusArgs),
    /// Put pods' interfaces under policy, or take them out
    #[command(subcommand)]
    Endpoint(EndpointCommand),
    /// Show the flow log: who talked to whom, and the verdict
    Flows(FlowsArgs),
    /// Check, test and ask policies: those in force, or a folder of manifests without any agent
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Write packets with their verdicts to a pcapng file
    Capture(CaptureArgs),
    /// Try every kind of policy on the cluster
    #[command(subcommand)]
    Connectivity(ConnectivityCommand),
    /// Say what would keep sluice from working on this node and in the cluster, and what to change
    Preflight(PreflightArgs),
    /// Write a file with what a bug report needs, without secrets
    Sysdump(SysdumpArgs),
    /// Remove everything that sluice left on this node
    Cleanup(CleanupArgs),
    /// Run the operator of a cluster: it writes whether policies are valid into their status
    Operator(OperatorArgs),
    /// Remove sluice from a cluster, and clean its nodes
    Uninstall(UninstallArgs),
}

/// Form of output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs; streams have one object per line.
    Json,
}

/// What the ends of pods' veths are tuned for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PodTuning {
    /// Bulk data: GRO and threaded NAPI, so that the pod's TCP stack runs beside the worker.
    Throughput,
    /// Requests and responses: GRO, but the pod's TCP stack runs within the worker's transmission, which saves a wake-up per packet.
    Latency,
    /// Left as they are.
    Off,
}

/// `sluice agent`
#[derive(Debug, Args)]
#[command(after_help = "\
The agent runs in the foreground and logs to standard error (RUST_LOG=debug for more). Policies are read from the folder, or
from the API server, and followed: a change is enforced at once, an invalid object is reported and its last good state stays in force.

When the agent ends, however it ends, the pods under policy are cut off until it runs again; `sluice cleanup` sets them free.

Example:
  sluice agent --manifests /etc/sluice/manifests --pod-cidr 10.244.0.0/16 --node-address 192.0.2.10
  sluice agent --kubernetes --node-name worker-1 --cni-conf-dir /etc/cni/net.d --cni-bin-dir /opt/cni/bin")]
pub struct AgentArgs {
    /// Folder of Kubernetes manifests (YAML, also in subfolders): Namespaces, Pods, Services, EndpointSlices and policies
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "kubernetes",
        conflicts_with = "kubernetes"
    )]
    pub manifests: Option<PathBuf>,
    /// Follow the Kubernetes API server: by the pod's service account or, outside a pod, KUBECONFIG or ~/.kube/config
    #[arg(long)]
    pub kubernetes: bool,
    /// Kubeconfig to reach the API server with
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    pub kubeconfig: Option<PathBuf>,
    /// Where the XDP programs, their links and maps are pinned
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/sluice")]
    pub bpffs: PathBuf,
    /// The node's /proc/sys/net, writable; in a container a mount of the host's
    #[arg(long, value_name = "DIR", default_value = crate::node::PROC_SYS_NET)]
    pub proc_sys_net: PathBuf,
    /// Name of this node in Kubernetes [default: the host name]
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// An address of this node that its Node object does not list: NodePorts are there. Who is at an address of its interfaces is
    /// `host` without it; may be given several times
    #[arg(long = "node-address", value_name = "IP")]
    pub node_addresses: Vec<IpAddr>,
    /// A range that pods have their addresses from: an address in it that is no known pod's never counts as `world`; may be
    /// given several times
    #[arg(long = "pod-cidr", value_name = "CIDR")]
    pub pod_cidrs: Vec<IpNet>,
    /// Where Prometheus finds /metrics
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9964")]
    pub metrics_address: SocketAddr,
    /// Worker threads
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1))]
    pub workers: u16,
    /// Packet buffers of 4 KiB each
    #[arg(long, value_name = "N", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(256..=65_536))]
    pub umem_frames: u32,
    /// Packet buffers in huge pages of 2 MiB (512 buffers each), which the node must have reserved (vm.nr_hugepages)
    #[arg(long)]
    pub umem_huge_pages: bool,
    /// How long an idle worker spins before it sleeps, microseconds: more is lower latency and more CPU
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 50, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub spin_us: u32,
    /// Give the last CPU that the agent may run on to the worker, and the others to everything else of the agent; with one CPU only, a
    /// warning
    #[arg(long)]
    pub pin_worker: bool,
    /// Receive what pods send in kernel threads on the worker's CPU (threaded NAPI of the pods' host ends), in batches while the worker
    /// waits, and not in the sender's own time: for nodes of few CPUs, and pods that do not mean to flood. The agent must see the node's
    /// processes (hostPID)
    #[arg(long, requires = "pin_worker")]
    pub worker_napi: bool,
    /// What to tune the ends of pods' veths for: bulk throughput, or short requests and few cores
    #[arg(long, value_enum, default_value_t = PodTuning::Throughput)]
    pub pod_tuning: PodTuning,
    /// Serve ClusterIPs to the node's own processes, too, on a node without kube-proxy; needs `nft`. NodePorts and load balancers are not
    /// served to the outside
    #[arg(long)]
    pub kube_proxy_replacement: bool,
    /// Forward what policy denies and report it with verdict AUDIT; `sluice endpoint config` decides for single pods
    #[arg(long)]
    pub policy_audit_mode: bool,
    /// Leave the pods of this namespace to the node's own network: no policy is enforced at them, though policies of other pods
    /// select them as peers; may be given several times
    #[arg(long = "exclude-namespace", value_name = "NAMESPACE")]
    pub excluded_namespaces: Vec<String>,
    /// CNI.
    #[command(flatten)]
    pub cni: CniArgs,
}

/// `sluice endpoint`
#[derive(Debug, Subcommand)]
pub enum EndpointCommand {
    /// Put a pod's interface under policy; adding the same again is no error
    #[command(after_help = "\
From here on every packet that leaves the pod goes to sluice, and nothing else can send to it. Addresses are never learnt from
packets: what the pod sends with others is dropped.

Example:
  sluice endpoint add --pod db/postgres --interface veth1a2b --ipv4 10.244.0.7 --ipv6 fd00:10:244::7 \\
      --mac 02:42:0a:f4:00:07 --netns /run/netns/postgres")]
    Add(EndpointAddArgs),
    /// Take a pod's interface out of sluice's hands, as when the pod is deleted
    Delete {
        /// The pod
        #[arg(long, value_name = "NAMESPACE/NAME")]
        pod: PodName,
    },
    /// Change how a pod's policy is treated
    #[command(after_help = "\
An endpoint in audit mode forwards what its own policy denies, and reports it with verdict AUDIT. The policy of the other side of a
flow is enforced as ever. The setting survives a restart of the agent, and ends with the endpoint.

Example:
  sluice endpoint config --pod db/postgres --audit on && sluice flows -f --verdict audit --pod db/postgres")]
    Config {
        /// The pod
        #[arg(long, value_name = "NAMESPACE/NAME")]
        pod: PodName,
        /// Audit its policy, enforce it, or do as the agent was started
        #[arg(long, value_enum)]
        audit: AuditMode,
    },
    /// Show all endpoints
    List {
        /// Form of output
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

/// `sluice endpoint add`
#[derive(Debug, Args)]
pub struct EndpointAddArgs {
    /// The pod
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub pod: PodName,
    /// The pod's metadata.uid; the endpoint is then ready only once its Pod object is known
    #[arg(long, value_name = "UID")]
    pub uid: Option<String>,
    /// The host's end of the pod's veth
    #[arg(long, value_name = "NAME")]
    pub interface: String,
    /// The pod's IPv4 address
    #[arg(long, value_name = "ADDRESS", required_unless_present = "ipv6")]
    pub ipv4: Option<Ipv4Addr>,
    /// The pod's IPv6 address
    #[arg(long, value_name = "ADDRESS")]
    pub ipv6: Option<Ipv6Addr>,
    /// MAC address of the pod's end of the veth
    #[arg(long, value_name = "MAC")]
    pub mac: MacAddr,
    /// A file of the pod's network namespace, for tuning the pod's end
    #[arg(long, value_name = "PATH")]
    pub netns: Option<PathBuf>,
}

/// `sluice flows`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice flows -f                                 follow all verdicts
  sluice flows -f --verdict dropped               follow denials only
  sluice flows --last 50 --pod db/postgres
  sluice flows -o json | jq 'select(.http)'       HTTP requests, one JSON object per line")]
pub struct FlowsArgs {
    /// Go on with new flows until interrupted
    #[arg(short, long)]
    pub follow: bool,
    /// Begin with so many past records [default: 20, or 0 with --follow]
    #[arg(long, value_name = "N")]
    pub last: Option<usize>,
    /// Only flows with this verdict
    #[arg(long, value_enum)]
    pub verdict: Option<FlowVerdict>,
    /// Only flows from or to this pod
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub pod: Option<PodName>,
    /// Form of output
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// `sluice capture`
#[derive(Debug, Args)]
#[command(after_help = "\
tcpdump on the node does not see this path. Each packet's comment tells the verdict and the drop reason.

Examples:
  sluice capture -w denied.pcapng --pod db/postgres --count 100
  sluice capture -w - | tshark -r - -T fields -e ip.src -e ip.dst -e frame.comment")]
pub struct CaptureArgs {
    /// The file to write, `-` for standard output
    #[arg(short, long, value_name = "FILE")]
    pub write: PathBuf,
    /// Bytes to keep of each packet
    #[arg(long, value_name = "BYTES", default_value_t = MAX_SNAPLEN, value_parser = clap::value_parser!(u32).range(14..=i64::from(MAX_SNAPLEN)))]
    pub snaplen: u32,
    /// End after so many packets
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Only packets from or to this local pod
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub pod: Option<PodName>,
}

/// `sluice cleanup`
#[derive(Debug, Args)]
#[command(after_help = "\
Removes XDP programs, guards, interfaces, rules, routes and the run directory. Pods keep their connectivity, without any policy.
Refused while an agent is running.

With --cni-conf-dir and --cni-bin-dir the CNI configuration and plugin that the agent installed are removed, too. Where the runtime
deletes pods by the configuration they were added with (CRI-O), leave the plugin there until those pods are gone.")]
pub struct CleanupArgs {
    /// Where the agent pinned its programs
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/sluice")]
    pub bpffs: PathBuf,
    /// The runtime's folder of CNI configurations, to remove 00-sluice.conflist from
    #[arg(long, value_name = "DIR")]
    pub cni_conf_dir: Option<PathBuf>,
    /// The runtime's folder of CNI plugins, to remove sluice-cni from
    #[arg(long, value_name = "DIR")]
    pub cni_bin_dir: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn audit_mode_is_off_unless_asked_for() {
        let agent = |extra: &[&str]| {
            let line = ["sluice", "agent", "--manifests", "m"];
            match Cli::try_parse_from(line.iter().chain(extra)).unwrap().command {
                Command::Agent(args) => args.policy_audit_mode,
                _ => unreachable!(),
            }
        };
        assert!(!agent(&[]) && agent(&["--policy-audit-mode"]));
        let config = |audit: &[&str]| {
            let line = ["sluice", "endpoint", "config", "--pod", "a/b"];
            Cli::try_parse_from(line.iter().chain(audit))
        };
        for (text, mode) in [
            ("on", AuditMode::On),
            ("off", AuditMode::Off),
            ("inherit", AuditMode::Inherit),
        ] {
            let command = config(&["--audit", text]).unwrap().command;
            assert!(matches!(
                command,
                Command::Endpoint(EndpointCommand::Config { audit, .. }) if audit == mode
            ));
        }
        assert!(config(&[]).is_err() && config(&["--audit", "maybe"]).is_err());
    }

    #[test]
    fn endpoint_needs_an_address() {
        let parse = |extra: &[&str]| {
            let line = [
                "sluice",
                "endpoint",
                "add",
                "--pod",
                "a/b",
                "--interface",
                "v",
                "--mac",
                "02:00:00:00:00:01",
            ];
            Cli::try_parse_from(line.iter().chain(extra))
        };
        assert!(parse(&[]).is_err());
        assert!(parse(&["--ipv4", "10.0.0.1"]).is_ok());
        assert!(parse(&["--ipv6", "fd00::1"]).is_ok());
    }
}
