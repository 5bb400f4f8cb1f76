//! The desired state: constant pairs, tables and rules, and the pods whose traffic they carry.

use std::collections::BTreeSet;
use std::net::IpAddr;

use datapath::interface::MacAddr;
use datapath::translation::{NODE_CLIENT_V4, NODE_CLIENT_V6};

/// Routing table with the pods' routes for packets of the node's own processes.
pub const HOST_TABLE: u32 = 7301;
/// Routing table with the pods' routes for packets that the kernel forwards.
pub const FORWARD_TABLE: u32 = 7302;
/// Preference of the rule `iif lo lookup 7301`.
pub const HOST_RULE_PRIORITY: u32 = 90;
/// Preference of the rule `not iif lo lookup 7302`.
pub const FORWARD_RULE_PRIORITY: u32 = 91;
/// Value of `rtm_protocol` and `FRA_PROTOCOL` on everything that sluice adds, so that `ip route` and `ip rule` show the owner.
pub const ROUTE_PROTOCOL: u8 = 73;
/// Largest MTU of a pair: what the kernel's IP stack can use. veth itself takes no more.
pub const MAX_MTU: u32 = 65_535;

/// A veth pair between the node's stack and the worker.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// Name of the end in the node's stack.
    pub outer: &'static str,
    /// Name of the end that carries XDP and the worker's socket.
    pub inner: &'static str,
    /// MAC of the outer end: destination of what the worker sends into the stack.
    pub outer_mac: MacAddr,
    /// MAC of the inner end: destination of what the stack sends to pods.
    pub inner_mac: MacAddr,
    /// Routing table whose pod routes lead into the pair; `None` for the keeper.
    pub table: Option<u32>,
}

/// What the node's own processes send to pods ([`policy::Slot::HOST`]).
pub const HOST_PAIR: Pair = Pair {
    outer: "sluice_host",
    inner: "sluice_hostx",
    outer_mac: MacAddr([0x02, 0x73, 0x6c, 0, 0, 0x01]),
    inner_mac: MacAddr([0x02, 0x73, 0x6c, 0, 0, 0x02]),
    table: Some(HOST_TABLE),
};

/// What the kernel forwards to pods, and what pods send to anything but local pods ([`policy::Slot::FORWARD`]).
pub const FORWARD_PAIR: Pair = Pair {
    outer: "sluice_fwd",
    inner: "sluice_fwdx",
    outer_mac: MacAddr([0x02, 0x73, 0x6c, 0, 0, 0x03]),
    inner_mac: MacAddr([0x02, 0x73, 0x6c, 0, 0, 0x04]),
    table: Some(FORWARD_TABLE),
};

/// Owns the UMEM for the life of the process ([`policy::Slot::KEEPER`]); carries nothing.
pub const KEEPER_PAIR: Pair = Pair {
    outer: "sluice_keep",
    inner: "sluice_keepx",
    outer_mac: MacAddr([0x02, 0x73, 0x6c, 0, 0, 0x05]),
    inner_mac: MacAddr([0x02, 0x73, 0x6c, 0, 0, 0x06]),
    table: None,
};

/// Every pair.
pub static PAIRS: [Pair; 3] = [HOST_PAIR, FORWARD_PAIR, KEEPER_PAIR];

/// What varies of the desired state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeState {
    /// MTU of the pairs, bytes.
    pub mtu: u32,
    /// Addresses of local pods under policy.
    pub pods: BTreeSet<IpAddr>,
    /// ClusterIPs that the worker serves to the node's own processes; none beside kube-proxy.
    pub services: BTreeSet<IpAddr>,
}

impl Default for NodeState {
    fn default() -> Self {
        Self {
            mtu: 1500,
            pods: BTreeSet::new(),
            services: BTreeSet::new(),
        }
    }
}

impl NodeState {
    /// Addresses that are reached through a pair.
    pub(super) fn behind(&self, pair: &Pair) -> BTreeSet<IpAddr> {
        let mut addresses = self.pods.clone();
        if !self.services.is_empty() {
            addresses.extend([IpAddr::V4(NODE_CLIENT_V4), IpAddr::V6(NODE_CLIENT_V6)]);
        }
        if *pair == HOST_PAIR {
            addresses.extend(&self.services);
        }
        addresses
    }
}

/// One setting under `/proc/sys/net`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Setting {
    /// `ipv4` or `ipv6`.
    pub(super) family: &'static str,
    /// File name in `conf/<interface>`.
    pub(super) name: &'static str,
    /// Wanted content.
    pub(super) value: &'static str,
}

const fn ipv4(name: &'static str, value: &'static str) -> Setting {
    Setting {
        family: "ipv4",
        name,
        value,
    }
}

const fn ipv6(name: &'static str, value: &'static str) -> Setting {
    Setting {
        family: "ipv6",
        name,
        value,
    }
}

/// Outer ends of the host pairs, in the order in which they are written: `forwarding` resets some of the later ones.
const OUTER_SETTINGS: &[Setting] = &[
    // Reverse lookups of what pods send match `iif lo` and so lead to `sluice_host`, whatever the packet came by; strict mode
    // would drop everything that comes by `sluice_fwd`. The larger of `all` and the interface's value counts.
    ipv4("rp_filter", "2"),
    ipv4("forwarding", "1"),
    // The worker never forwards pods' packets with a source that is the node's own.
    ipv4("accept_local", "0"),
    // Pods must not change the node's routes (with forwarding on, `all` cannot switch this on again).
    ipv4("accept_redirects", "0"),
    ipv4("send_redirects", "0"),
    ipv6("disable_ipv6", "0"),
    ipv6("forwarding", "1"),
    ipv6("accept_ra", "0"),
    ipv6("accept_redirects", "0"),
    // 1 is `none`: no link-local address, hence no neighbour or router discovery on the pair.
    ipv6("addr_gen_mode", "1"),
];

/// Inner ends and the keeper: nothing may enter the node's stack here, not even before XDP is attached.
const SILENT_SETTINGS: &[Setting] = &[
    ipv4("forwarding", "0"),
    ipv4("accept_local", "0"),
    ipv4("accept_redirects", "0"),
    ipv6("addr_gen_mode", "1"),
    ipv6("disable_ipv6", "1"),
];

/// An end of a pair with everything that is fixed about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    /// Interface name.
    pub(super) name: &'static str,
    /// MAC address.
    pub(super) mac: MacAddr,
    /// Sysctls, in the order in which they are written.
    pub(super) settings: &'static [Setting],
}

impl Pair {
    /// Both ends, the outer one first.
    pub(super) const fn ends(&self) -> [End; 2] {
        let outer = if self.table.is_some() {
            OUTER_SETTINGS
        } else {
            SILENT_SETTINGS
        };
        [
            End {
                name: self.outer,
                mac: self.outer_mac,
                settings: outer,
            },
            End {
                name: self.inner,
                mac: self.inner_mac,
                settings: SILENT_SETTINGS,
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_and_macs_of_ends_are_unique_and_valid() {
        let ends: Vec<End> = PAIRS.iter().flat_map(Pair::ends).collect();
        assert_eq!(ends.iter().map(|e| e.name).collect::<HashSet<_>>().len(), 6);
        assert_eq!(ends.iter().map(|e| e.mac).collect::<HashSet<_>>().len(), 6);
        for end in ends {
            // IFNAMSIZ is 16 with the terminating zero (uapi/linux/if.h).
            assert!(end.name.len() < 16, "{}", end.name);
            assert!(
                !end.mac.is_group() && end.mac.0[0] & 2 != 0,
                "{} is not a local unicast address",
                end.mac
            );
        }
    }
}
