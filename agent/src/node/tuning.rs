//! Pod-side settings that make the difference between 1.9 and 3.9 Gb/s: offloads, threaded NAPI and a queue on the host veth.
//!
//! A pod's settings are made by child processes in the pod's namespaces, since a thread of the agent that entered them could
//! not safely come back. Every failure is a warning that status shows; none stops an endpoint from being attached.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// Longest that one tool may take.
const TOOL_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of a tool's error output that are kept.
const ERROR_BYTES: u64 = 512;

/// Packets that the host veth's queue holds when the pod does not keep up.
const QUEUE_PACKETS: &str = "1000";

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TuningStep {
    /// TSO off on the host veth: the pod's end may then run NAPI with GRO (`veth_skb_is_eligible_for_gro`).
    HostSegmentationOff,
    /// `pfifo` on the host veth: a full veth ring pushes back instead of dropping.
    HostQueue,
    /// GRO at the pod's end: on with threaded NAPI, off without, where it has one packet at a time and nothing to merge.
    PodReceiveOffload,
    /// Threaded NAPI at the pod's end: its TCP stack runs in a thread of its own and not inside the worker's `sendto`.
    PodThreadedNapi,
    /// Threaded NAPI at the host's end, on the worker's CPU ([`super::napi`]).
    HostThreadedNapi,
}

impl fmt::Display for TuningStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HostSegmentationOff => "TSO off on the host veth",
            Self::HostQueue => "pfifo on the host veth",
            Self::PodReceiveOffload => "GRO in the pod",
            Self::PodThreadedNapi => "threaded NAPI in the pod",
            Self::HostThreadedNapi => "threaded NAPI of the host veth",
        })
    }
}

/// Why a step was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TuningError {
    /// The pod's network namespace is not known.
    #[error("no network namespace given for the pod")]
    NoNamespace,
    /// The tool is not installed or cannot be started.
    #[error("cannot start {tool}: {reason}")]
    Start {
        /// Program name.
        tool: &'static str,
        /// The reason.
        reason: std::io::ErrorKind,
    },
    /// The tool failed.
    #[error("{tool} failed: {output}")]
    Failed {
        /// Program name.
        tool: &'static str,
        /// Its error output, cut.
        output: String,
    },
    /// The tool took too long and was ended.
    #[error("{tool} did not finish in time")]
    Timeout {
        /// Program name.
        tool: &'static str,
    },
    /// Nobody of the kernel's threads has the interface in its name.
    #[error("no kernel thread polls the interface")]
    NoKernelThread,
    /// The kernel thread cannot be given the CPU.
    #[error("the kernel thread cannot be placed: {reason}")]
    Placement {
        /// The reason.
        reason: std::io::ErrorKind,
    },
}

/// What became of each step.
pub type TuningOutcome = Vec<(TuningStep, Result<(), TuningError>)>;

/// Makes all settings for an endpoint: `host_interface` is the host's end of the veth, `netns` a file of the pod's network
/// namespace, `pod_interface` the name of its end there; `threaded` says whether its NAPI gets a thread of its own.
pub async fn tune(
    host_interface: &str,
    netns: Option<&Path>,
    pod_interface: &str,
    threaded: bool,
) -> TuningOutcome {
    let mut outcome = vec![
        (
            TuningStep::HostSegmentationOff,
            run("ethtool", ["-K", host_interface, "tso", "off"]).await,
        ),
        (
            TuningStep::HostQueue,
            run(
                "tc",
                [
                    "qdisc",
                    "replace",
                    "dev",
                    host_interface,
                    "root",
                    "pfifo",
                    "limit",
                    QUEUE_PACKETS,
                ],
            )
            .await,
        ),
    ];
    let Some(netns) = netns else {
        for step in [TuningStep::PodReceiveOffload, TuningStep::PodThreadedNapi] {
            outcome.push((step, Err(TuningError::NoNamespace)));
        }
        return outcome;
    };
    // NAPI exists only while GRO is on, and its thread can be set only while it exists.
    let steps = if threaded {
        [TuningStep::PodReceiveOffload, TuningStep::PodThreadedNapi]
    } else {
        [TuningStep::PodThreadedNapi, TuningStep::PodReceiveOffload]
    };
    for step in steps {
        outcome.push((step, tune_pod(step, netns, pod_interface, threaded).await));
    }
    outcome
}

// sysfs shows the interfaces of the namespace in which it was mounted, so it is mounted anew, out of everybody's sight.
// Not at /sys, where in a container of the node's network that very sysfs is mounted already, which the kernel refuses to do twice.
// The pod's containers make it read-only for everybody: what is set already must not be written.
const THREADED: &str = r#"mount -t sysfs sysfs /tmp && file=/tmp/class/net/$0/threaded && read -r now <"$file" &&
        { [ "$now" = "$1" ] || echo "$1" >"$file"; }"#;

/// The command that gives an interface's NAPI threads, or takes them away.
fn threaded_command(interface: &str, threaded: bool) -> [&str; 7] {
    let value = if threaded { "1" } else { "0" };
    ["unshare", "--mount", "sh", "-c", THREADED, interface, value]
}

/// Gives the NAPI of an interface of the calling thread's network namespace threads, or takes them away.
pub(super) async fn set_threaded(interface: &str, threaded: bool) -> Result<(), TuningError> {
    run("unshare", &threaded_command(interface, threaded)[1..]).await
}

/// Makes one setting at the pod's end.
async fn tune_pod(
    step: TuningStep,
    netns: &Path,
    pod_interface: &str,
    threaded: bool,
) -> Result<(), TuningError> {
    let mut enter = std::ffi::OsString::from("--net=");
    enter.push(netns);
    let command: &[&str] = match (step, threaded) {
        (TuningStep::PodThreadedNapi, _) => &threaded_command(pod_interface, threaded),
        (_, true) => &["ethtool", "-K", pod_interface, "gro", "on"],
        (_, false) => &["ethtool", "-K", pod_interface, "gro", "off"],
    };
    let command = std::iter::once(enter.as_os_str()).chain(command.iter().map(OsStr::new));
    run("nsenter", command).await
}

/// Takes the settings of the host's end back: the default queue, and TSO as the driver begins with.
pub async fn restore(host_interface: &str) -> TuningOutcome {
    vec![
        (
            TuningStep::HostSegmentationOff,
            run("ethtool", ["-K", host_interface, "tso", "on"]).await,
        ),
        (
            TuningStep::HostQueue,
            run("tc", ["qdisc", "del", "dev", host_interface, "root"]).await,
        ),
    ]
}

pub(super) async fn run<A: AsRef<OsStr>>(
    tool: &'static str,
    arguments: impl IntoIterator<Item = A>,
) -> Result<(), TuningError> {
    let mut child = Command::new(tool)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| TuningError::Start {
            tool,
            reason: e.kind(),
        })?;
    let finish = async {
        let mut output = Vec::new();
        if let Some(stderr) = child.stderr.take() {
            // A read error leaves the message empty; the exit status decides.
            let _unread = stderr.take(ERROR_BYTES).read_to_end(&mut output).await;
        }
        (child.wait().await, output)
    };
    let Ok((status, output)) = tokio::time::timeout(TOOL_TIMEOUT, finish).await else {
        return Err(TuningError::Timeout { tool });
    };
    match status {
        Ok(status) if status.success() => Ok(()),
        _ => Err(TuningError::Failed {
            tool,
            output: String::from_utf8_lossy(&output).trim().escape_debug().to_string(),
        }),
    }
}
