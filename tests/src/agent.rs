//! The running agent as its command line tool shows it. Only what tests ask for is read.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use policy::{DropReason, EndpointKey, PodName};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::wait;

/// `sluice status -o json`
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// Whether policies are enforced on every endpoint.
    pub is_ready: bool,
    /// Revision published last.
    pub revision: u64,
    /// Packets sent on.
    pub forwarded: u64,
    /// Drops by reason and direction.
    pub drops: Vec<DropCount>,
    /// Frames of the UMEM.
    pub frames: FrameCount,
    /// Local pods.
    pub endpoints: Vec<EndpointStatus>,
    /// Worker threads.
    pub workers: Vec<WorkerStatus>,
    /// Packets between pods and the kernel past sluice; the guards dropped them.
    #[serde(default)]
    pub guarded: u64,
    /// What impairs sluice.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Packets dropped for one reason.
#[derive(Debug, Clone, Deserialize)]
pub struct DropCount {
    /// [`DropReason`].
    pub code: u8,
    /// How many.
    pub packets: u64,
}

/// Where frames are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct FrameCount {
    /// All.
    pub total: u64,
    /// In the pool.
    pub free: u64,
    /// In rings.
    pub in_rings: u64,
    /// Held on purpose.
    pub held: u64,
}

impl FrameCount {
    /// Whether every frame is somewhere.
    #[must_use]
    pub const fn is_balanced(&self) -> bool {
        self.free + self.in_rings + self.held == self.total
    }
}

/// A local pod.
#[derive(Debug, Clone, Deserialize)]
pub struct EndpointStatus {
    /// Slot and occupant.
    pub key: EndpointKey,
    /// The pod.
    pub pod: PodName,
    /// The host's end of its veth pair.
    pub interface: String,
    /// Whether packets flow.
    pub is_ready: bool,
    /// How XDP runs.
    pub mode: Option<String>,
    /// Packets from or to the pod that sluice dropped.
    pub dropped: u64,
}

/// A worker thread.
#[derive(Debug, Clone, Deserialize)]
pub struct WorkerStatus {
    /// Conntrack entries in use.
    pub flows: u64,
    /// Flow events that nobody read in time.
    pub lost_events: u64,
}

/// A line of `sluice flows -o json`
#[derive(Debug, Clone, Deserialize)]
pub struct Flow {
    /// `forwarded`, `dropped` or `audit`.
    pub verdict: String,
    /// Why.
    pub drop_reason: Option<FlowDropReason>,
    /// From whom.
    pub source: FlowPeer,
    /// To whom.
    pub destination: FlowPeer,
    /// What was asked.
    pub http: Option<serde_json::Value>,
}

/// Why a packet was dropped.
#[derive(Debug, Clone, Deserialize)]
pub struct FlowDropReason {
    /// [`DropReason`].
    pub code: u8,
}

/// A side of a flow.
#[derive(Debug, Clone, Deserialize)]
pub struct FlowPeer {
    /// The pod, if the address is a pod's.
    pub pod: Option<PodName>,
    /// Identity.
    pub identity: u32,
    /// Address.
    pub addr: std::net::IpAddr,
    /// Port.
    pub port: u16,
}

/// Counts of dropped packets; those that pods' kernels cause at any time are left out ([`Drops::is_noise`]).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drops(BTreeMap<DropReason, u64>);

impl Drops {
    /// Exactly `packets` for `reason`.
    #[must_use]
    pub fn of(reason: DropReason, packets: u64) -> Self {
        Self([(reason, packets)].into())
    }

    /// Multicast listener reports come from every pod's kernel when it likes (RFC 3810, 6.1).
    #[must_use]
    pub fn is_noise(reason: DropReason) -> bool {
        reason == DropReason::Multicast
    }

    /// Packets dropped for `reason`.
    #[must_use]
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0.get(&reason).copied().unwrap_or(0)
    }

    /// Packets dropped for any reason.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// What came on top of `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let grown = self
            .0
            .iter()
            .map(|(reason, packets)| (*reason, packets - before.get(*reason)));
        Self(grown.filter(|(_, packets)| *packets > 0).collect())
    }
}

/// The agent of a lab.
#[derive(Debug, Clone)]
pub struct Agent {
    /// The binary.
    pub binary: PathBuf,
    /// Its run directory.
    pub run_dir: PathBuf,
}

impl Agent {
    /// Runs the command line tool; returns what it prints.
    ///
    /// # Errors
    /// It ends with another status than 0.
    pub fn cli(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(&self.binary)
            .arg("--run-dir")
            .arg(&self.run_dir)
            .args(arguments)
            .output()?;
        if !output.status.success() {
            bail!(
                "sluice {}: {}: {}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The agent's state.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn status(&self) -> Result<Status> {
        parse(&self.cli(&["status", "-o", "json"])?)
    }

    /// Packets dropped so far.
    ///
    /// # Errors
    /// The agent does not answer, or names an unknown reason.
    pub fn drops(&self) -> Result<Drops> {
        let mut drops = BTreeMap::new();
        for count in self.status()?.drops {
            let reason = DropReason::from_code(count.code)
                .with_context(|| format!("unknown reason {}", count.code))?;
            if !Drops::is_noise(reason) {
                *drops.entry(reason).or_default() += count.packets;
            }
        }
        Ok(Drops(drops))
    }

    /// The last flow records, oldest first.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn flows(&self, last: usize) -> Result<Vec<Flow>> {
        let lines = self.cli(&["flows", "-o", "json", "--last", &last.to_string()])?;
        lines.lines().map(parse).collect()
    }

    /// Runs `attack`, which says how many packets it sent, and demands that exactly those were dropped, for `reason`, and nothing else.
    ///
    /// # Errors
    /// Anything else happened.
    pub fn expect_drops(&self, reason: DropReason, attack: impl FnOnce() -> Result<u64>) -> Result<()> {
        let before = self.drops()?;
        let sent = attack()?;
        ensure!(sent > 0, "nothing was sent");
        let mut grown = Drops::default();
        let arrived = wait::until(
            &format!("{sent} packets dropped for {reason:?}"),
            wait::LONG,
            || {
                grown = self.drops()?.since(&before);
                Ok((grown.total() >= sent).then_some(()))
            },
        );
        ensure!(
            grown == Drops::of(reason, sent),
            "sent {sent} for {reason:?}, dropped were {grown:?}"
        );
        arrived
    }

    /// Waits until every frame is accounted for, in two looks running.
    ///
    /// # Errors
    /// The sum does not come right.
    pub fn expect_balanced_frames(&self) -> Result<()> {
        let mut last = None;
        let mut quiet = 0;
        let balanced = wait::until("all frames are accounted for", wait::LONG, || {
            let frames = self.status()?.frames;
            quiet = if frames.is_balanced() && frames.total > 0 {
                quiet + 1
            } else {
                0
            };
            last = Some(frames);
            Ok((quiet == 2).then_some(()))
        });
        balanced.with_context(|| format!("{last:?}"))
    }
}

fn parse<T: DeserializeOwned>(json: &str) -> Result<T> {
    serde_json::from_str(json).with_context(|| format!("cannot read {json}"))
}
