//! Who counted a packet that did not arrive: the kernel on either side of sluice, or sluice.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

use crate::agent::Agent;
use crate::netns::Netns;
use crate::pod::Pod;

/// Drops by place, of all places a datagram between two pods goes through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Losses(BTreeMap<String, u64>);

impl Losses {
    /// Reads all counters.
    ///
    /// # Errors
    /// A pod is gone, or the agent does not answer.
    pub fn count(agent: &Agent, node: &Netns, pods: &[&Pod]) -> Result<Self> {
        let mut places = BTreeMap::new();
        let names: Vec<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
        let of_pods = agent
            .status()?
            .endpoints
            .into_iter()
            .filter(|endpoint| names.contains(&endpoint.pod.to_string().as_str()));
        places.insert(
            "sluice".to_owned(),
            of_pods.map(|endpoint| endpoint.dropped).sum(),
        );
        for pod in pods {
            let (device, sockets) = pod
                .netns
                .enter(|| -> Result<_> { Ok((device_drops("eth0")?, socket_drops()?)) })?;
            places.insert(format!("{}: eth0", pod.name), device);
            places.insert(format!("{}: sockets", pod.name), sockets);
            // What the worker sends on a veth shows up here if the pod's queue is full; what the pod sends, if the worker's is.
            places.insert(
                format!("{}: {}", pod.name, pod.veth),
                node.enter(|| device_drops(&pod.veth))?,
            );
        }
        Ok(Self(places))
    }

    /// What came on top of `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let grown = self
            .0
            .iter()
            .map(|(place, now)| (place.clone(), now - before.0.get(place).copied().unwrap_or(0)));
        Self(grown.filter(|(_, drops)| *drops > 0).collect())
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

/// Received and sent packets that an interface of this thread's namespace dropped.
fn device_drops(interface: &str) -> Result<u64> {
    let table = fs::read_to_string("/proc/thread-self/net/dev")?;
    let row = table
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'));
    let fields: Vec<&str> = row
        .with_context(|| format!("no {interface}"))?
        .split_whitespace()
        .collect();
    // bytes packets errs drop fifo frame compressed multicast, then the same for sending.
    let field = |at: usize| -> Result<u64> { Ok(fields.get(at).context("a short row")?.parse()?) };
    Ok(field(3)? + field(11)?)
}

/// Datagrams that sockets of this thread's namespace had no room for, or refused.
fn socket_drops() -> Result<u64> {
    let v4 = fs::read_to_string("/proc/thread-self/net/snmp")?;
    let mut rows = v4.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (
        rows.next().context("no names")?,
        rows.next().context("no values")?,
    );
    let at = names
        .split(' ')
        .position(|name| name == "InErrors")
        .context("no InErrors")?;
    let v4: u64 = values.split(' ').nth(at).context("a short row")?.parse()?;
    let v6 = fs::read_to_string("/proc/thread-self/net/snmp6")?;
    let v6 = v6
        .lines()
        .find_map(|line| line.strip_prefix("Udp6InErrors"))
        .context("no Udp6InErrors")?;
    Ok(v4 + v6.trim().parse::<u64>()?)
}
