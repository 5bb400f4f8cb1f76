//! A naive evaluator of network policy on objects as a user writes them. Slow, short, and independent of the engine: it shares no
//! code with it and is written from the meaning of the objects, sentence by sentence. Numbers in comments are sections of the
//! specification of Cilium's semantics that the project follows (policy objects 1.x, evaluation 2.x, HTTP 3.x, identities 4.x,
//! Kubernetes' own policies 5.x).
//!
//! Where the project differs from Cilium: NetworkPolicy and ClusterNetworkPolicy mean what upstream Kubernetes says; an address of
//! a pod CIDR that is no pod's is `unmanaged`, which no prefix selects but is denied what is denied to part of them or to the world;
//! what Cilium lets pass by accident is refused.

mod cilium;
mod cluster;
mod http;
mod kubernetes;
mod matching;
mod tests;

use std::fmt;
use std::net::IpAddr;

pub use cluster::{Cluster, Pod};
use cluster::{End, Who};
pub use http::Http;
use serde_json::Value;

/// One end of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// `namespace/name`.
    Pod(String),
    /// The local node.
    Host,
    /// Some address outside the cluster.
    World,
    /// Whoever has the address.
    Address(IpAddr),
}

/// What becomes of a flow and, where HTTP rules judge it, of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    /// A deny rule or default deny.
    Deny,
    /// HTTP rules cover the flow and none allows the request.
    L7Deny,
}

/// Policy direction, seen from the pod that is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

/// What is sent.
#[derive(Debug)]
struct Traffic<'a> {
    /// `TCP`, `UDP`, `SCTP`, `ICMP` or `ICMPv6`.
    protocol: &'a str,
    /// Destination port; ICMP: the type.
    port: u16,
    http: Option<&'a Http>,
    /// The receiving pod: named ports are its.
    destination: Option<&'a Pod>,
}

impl Traffic<'_> {
    /// Whether the receiving pod has a container port of this name, protocol and the flow's number.
    fn is_to_named_port(&self, name: &str) -> bool {
        self.destination.is_some_and(|pod| {
            pod.ports
                .iter()
                .any(|p| p.name == name && p.protocol == self.protocol && p.number == self.port)
        })
    }

    fn has_ports(&self) -> bool {
        matches!(self.protocol, "TCP" | "UDP" | "SCTP")
    }
}

/// What the policies of the middle tier that select a pod say of one flow.
#[derive(Debug, Default)]
struct Said<'a> {
    /// One of them wants what no rule allows to be denied.
    default_deny: bool,
    /// A deny rule covers the flow.
    denied: bool,
    /// A rule without HTTP rules allows the flow.
    allowed: bool,
    /// HTTP rules of the rules that allow the flow.
    http: Vec<&'a [Value]>,
}

/// What one tier of ClusterNetworkPolicies says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tier {
    Accept,
    Deny,
    /// `Pass`, or no rule matches.
    Next,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(name) => write!(f, "pod {name}"),
            Self::Host => f.write_str("host"),
            Self::World => f.write_str("world"),
            Self::Address(addr) => write!(f, "{addr}"),
        }
    }
}

impl Cluster {
    /// What this node makes of a new flow: the egress policy of a source pod on this node and the ingress policy of a destination
    /// pod on this node must both allow it (2.1). Pods of other nodes are judged there.
    ///
    /// `protocol` is TCP, UDP, SCTP, ICMP or ICMPv6; for the last two `port` is the type. Flows that HTTP rules cover and that carry
    /// no request are [`Verdict::L7Deny`].
    pub fn decide(&self, from: &Peer, to: &Peer, protocol: &str, port: u16, http: Option<&Http>) -> Verdict {
        let (from, to) = self.ends(from, to, protocol);
        let destination = match &to.who {
            Who::Pod(pod) => Some(*pod),
            _ => None,
        };
        if let (Who::Pod(source), Some(pod)) = (&from.who, destination)
            && source.name == pod.name
        {
            // A pod reaches itself, whatever policy says (2.5).
            return Verdict::Allow;
        }
        let traffic = Traffic {
            protocol,
            port,
            http,
            destination,
        };
        let side = |own: &End<'_>, other: &End<'_>, direction| match own.who {
            Who::Pod(pod) if self.is_local(pod) => self.judge(pod, direction, other, &traffic),
            // The node's processes, other nodes and the world are nobody's subject: no host firewall.
            _ => Verdict::Allow,
        };
        let sides = [
            side(&from, &to, Direction::Egress),
            side(&to, &from, Direction::Ingress),
        ];
        [Verdict::Deny, Verdict::L7Deny]
            .into_iter()
            .find(|verdict| sides.contains(verdict))
            .unwrap_or(Verdict::Allow)
    }

    fn judge(&self, subject: &Pod, direction: Direction, peer: &End<'_>, traffic: &Traffic<'_>) -> Verdict {
        match self.tier("Admin", subject, direction, peer, traffic) {
            Tier::Accept => return Verdict::Allow,
            Tier::Deny => return Verdict::Deny,
            Tier::Next => {}
        }
        let mut said = Said::default();
        for policy in &self.policies {
            match policy["kind"].as_str() {
                Some("CiliumNetworkPolicy" | "CiliumClusterwideNetworkPolicy") => {
                    self.cilium(policy, subject, direction, peer, traffic, &mut said);
                }
                Some("NetworkPolicy") => {
                    self.network_policy(policy, subject, direction, peer, traffic, &mut said);
                }
                _ => {}
            }
        }
        // A deny of any width beats every allow (2.2).
        if said.denied {
            return Verdict::Deny;
        }
        // The node reaches its own pods, and HTTP rules do not restrict it (2.5).
        if direction == Direction::Ingress && matches!(peer.who, Who::Host) {
            return Verdict::Allow;
        }
        // A plain allow lifts the HTTP rules (2.4).
        if said.allowed {
            return Verdict::Allow;
        }
        if !said.http.is_empty() {
            // Without default deny every set of HTTP rules has one that allows any request (2.1).
            let passes = |rules: &&[Value]| traffic.http.is_some_and(|request| http::allows(rules, request));
            return if !said.default_deny || said.http.iter().any(passes) {
                Verdict::Allow
            } else {
                Verdict::L7Deny
            };
        }
        if said.default_deny {
            return Verdict::Deny;
        }
        match self.tier("Baseline", subject, direction, peer, traffic) {
            Tier::Deny => Verdict::Deny,
            Tier::Accept | Tier::Next => Verdict::Allow,
        }
    }
}
