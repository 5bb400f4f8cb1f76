//! Random clusters, policies and flows out of a vocabulary so small that they meet. Everything generated is valid.

mod cilium;
mod inventory;
mod kubernetes;

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::oracle::{Http, Peer};

/// Name of the node that decides.
pub const LOCAL_NODE: &str = "node-a";
/// Pod CIDRs beside those of Node objects.
pub const POD_CIDRS: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/48"];

/// splitmix64: the same numbers for the same seed, everywhere.
#[derive(Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `n` - 1.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).expect("small")
    }

    pub fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// `least` to `most` values.
    pub fn several<T>(&mut self, least: usize, most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = least + self.below(most - least + 1);
        (0..count).map(|_| make(self)).collect()
    }
}

/// A new flow.
#[derive(Debug, Clone)]
pub struct Flow {
    pub from: Peer,
    pub to: Peer,
    pub protocol: &'static str,
    pub port: u16,
    pub http: Option<Http>,
}

/// Objects that are there together.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Namespaces, nodes, pods, services, groups.
    pub inventory: Vec<Value>,
    pub policies: Vec<Value>,
    ends: Ends,
}

/// Who may be an end of a flow.
#[derive(Debug, Clone, Default)]
struct Ends {
    /// Pods that the local node judges, with their addresses.
    local: Vec<(String, Vec<IpAddr>)>,
    others: Vec<String>,
    /// Of nodes, of nobody known, of pod CIDRs.
    addresses: Vec<IpAddr>,
    /// The local node's IPv6 address: a destination only, as a sender it is [`Peer::Host`].
    host_v6: Option<IpAddr>,
}

pub const APPS: [&str; 3] = ["web", "db", "api"];
pub const TIERS: [&str; 2] = ["front", "back"];
pub const NAMESPACES: [&str; 3] = ["red", "green", "blue"];
pub const TEAMS: [&str; 2] = ["one", "two"];
/// The first ones are the most frequent.
pub const PORTS: [u16; 9] = [80, 80, 80, 8080, 53, 443, 9090, 8081, 65535];
pub const NAMES: [&str; 3] = ["http", "dns", "metrics"];
pub const PATHS: [&str; 6] = ["/", "/public", "/public/x", "/admin", "/v1/items?id=7", "/v2"];
pub const HEADERS: [(&str, &str); 3] = [("X-Token", "42"), ("x-token", "43"), ("X-Team", "one")];

impl Scenario {
    pub fn generate(rng: &mut Rng) -> Self {
        let (inventory, ends) = inventory::generate(rng);
        // More often many than few.
        let count = rng.below(9).max(rng.below(9));
        let policies = (0..count)
            .map(|number| {
                let mut policy = Self::policy(rng);
                policy["metadata"]["name"] = json!(format!("p{number}"));
                policy
            })
            .collect();
        Self {
            inventory,
            policies,
            ends,
        }
    }

    fn policy(rng: &mut Rng) -> Value {
        match rng.below(100) {
            0..20 => kubernetes::cluster_network_policy(rng),
            20..40 => cilium::policy(rng, true),
            40..65 => kubernetes::network_policy(rng),
            _ => cilium::policy(rng, false),
        }
    }

    pub fn objects(&self) -> Vec<Value> {
        self.inventory.iter().chain(&self.policies).cloned().collect()
    }

    pub fn flow(&self, rng: &mut Rng) -> Flow {
        let (own, own_addresses) = rng.pick(&self.ends.local);
        let outgoing = rng.percent(50);
        let (name, protocol, port) = match rng.below(100) {
            0..60 => (rng.below(3), "TCP", rng.pick(&PORTS)),
            60..85 => (rng.below(3), "UDP", rng.pick(&PORTS)),
            85..90 => (rng.below(3), "SCTP", rng.pick(&PORTS)),
            _ => (0, "ICMP", rng.pick(&[8, 0, 3])),
        };
        let port = if rng.percent(3) && protocol != "ICMP" {
            1
        } else {
            port
        };
        let other = match rng.below(100) {
            0..50 => {
                let (pod, addresses) = rng.pick(&self.ends.local);
                // An address of the second family tells the flow's family; both ends must have it.
                match (addresses.get(1), own_addresses.get(1)) {
                    (Some(addr), Some(_)) if rng.percent(40) => Peer::Address(*addr),
                    _ => Peer::Pod(pod),
                }
            }
            50..62 if !self.ends.others.is_empty() => Peer::Pod(rng.pick(&self.ends.others)),
            62..70 => match (self.ends.host_v6, own_addresses.get(1)) {
                (Some(addr), Some(_)) if outgoing && rng.percent(40) => Peer::Address(addr),
                _ => Peer::Host,
            },
            70..75 => Peer::World,
            _ => {
                let addr = rng.pick(&self.ends.addresses);
                if own_addresses.iter().any(|own| own.is_ipv6() == addr.is_ipv6()) {
                    Peer::Address(addr)
                } else {
                    Peer::World
                }
            }
        };
        let v6 = matches!(other, Peer::Address(addr) if addr.is_ipv6());
        let (protocol, port) = match (protocol, v6, name) {
            ("ICMP", true, _) => ("ICMPv6", rng.pick(&[128, 129, 3])),
            (protocol, ..) => (protocol, port),
        };
        let http = (protocol == "TCP" && rng.percent(85)).then(|| Http {
            method: rng.pick(&["GET", "POST", "HEAD"]).to_owned(),
            path: rng.pick(&PATHS).to_owned(),
            host: rng
                .pick(&["api.example.com", "api.example.com:8080", "x"])
                .to_owned(),
            headers: rng.several(0, 2, |rng| {
                let (name, value) = rng.pick(&HEADERS);
                (name.to_owned(), value.to_owned())
            }),
        });
        let own = Peer::Pod(own);
        let (from, to) = if outgoing { (own, other) } else { (other, own) };
        Flow {
            from,
            to,
            protocol,
            port,
            http,
        }
    }
}

/// Some part of a map of labels.
fn labels(rng: &mut Rng, vocabulary: &[(&str, &[&str])]) -> Value {
    let mut labels = json!({});
    for (key, values) in vocabulary {
        if rng.percent(65) {
            labels[*key] = json!(rng.pick(values));
        }
    }
    labels
}

/// A LabelSelector with up to two requirements.
fn selector(rng: &mut Rng, vocabulary: &[(&str, &[&str])]) -> Value {
    let (mut labels, mut expressions) = (json!({}), Vec::new());
    for _ in 0..rng.pick(&[0, 1, 1, 1, 2]) {
        let (key, values) = rng.pick(vocabulary);
        match rng.below(10) {
            0..6 => labels[key] = json!(rng.pick(values)),
            6 => {
                expressions.push(json!({"key": key, "operator": "In", "values": rng.several(1, 2, |rng| rng.pick(values))}));
            }
            7 => {
                expressions.push(json!({"key": key, "operator": "NotIn", "values": rng.several(1, 2, |rng| rng.pick(values))}));
            }
            8 => expressions.push(json!({"key": key, "operator": "Exists"})),
            _ => expressions.push(json!({"key": key, "operator": "DoesNotExist"})),
        }
    }
    let mut selector = json!({});
    if labels != json!({}) {
        selector["matchLabels"] = labels;
    }
    if !expressions.is_empty() {
        selector["matchExpressions"] = json!(expressions);
    }
    selector
}

const CIDRS: [&str; 13] = [
    "0.0.0.0/0",
    "::/0",
    "198.51.100.0/24",
    "198.51.100.128/25",
    "198.51.100.7/32",
    "10.0.0.0/8",
    "10.244.0.0/16",
    "10.244.0.0/29",
    "172.18.0.0/16",
    "172.18.0.3/32",
    "2001:db8::/32",
    "2001:db8:1::/48",
    "fd00::/8",
];

/// A prefix and parts of it.
fn block(rng: &mut Rng) -> (&'static str, Vec<&'static str>) {
    let cidr = rng.pick(&CIDRS);
    let parts: &[&str] = match cidr {
        "0.0.0.0/0" => &[
            "198.51.100.0/24",
            "10.0.0.0/8",
            "172.18.0.0/16",
            "198.51.100.7/32",
        ],
        "::/0" => &["2001:db8:1::/48", "fd00::/8"],
        "198.51.100.0/24" => &["198.51.100.128/25", "198.51.100.7/32"],
        "10.0.0.0/8" => &["10.244.0.0/16", "10.244.0.0/29", "10.0.0.9/32"],
        "10.244.0.0/16" => &["10.244.0.0/29"],
        "172.18.0.0/16" => &["172.18.0.3/32", "172.18.0.2/32"],
        "2001:db8::/32" => &["2001:db8:1::/48"],
        _ => &[],
    };
    if parts.is_empty() || rng.percent(50) {
        return (cidr, Vec::new());
    }
    let parts = rng.several(1, 2, |rng| rng.pick(parts));
    (cidr, parts)
}
