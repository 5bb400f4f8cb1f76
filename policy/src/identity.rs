//! Identity: a label set as a number, with Cilium's reserved values.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A label set as a `u32`. Reserved values are Cilium's (`pkg/identity/numericidentity.go`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity(pub u32);

impl Identity {
    /// Not known; never allowed by any rule, and the wildcard in compiled tables.
    pub const UNKNOWN: Self = Self(0);
    /// The local node, proven by the path a packet took ([`crate::Slot::HOST`]), never by an address.
    pub const HOST: Self = Self(1);
    /// Everything outside the cluster.
    pub const WORLD: Self = Self(2);
    /// An address inside a pod CIDR that has no identity yet; never matches `world` or a CIDR.
    pub const UNMANAGED: Self = Self(3);
    /// Cilium's health endpoints.
    pub const HEALTH: Self = Self(4);
    /// An endpoint whose labels are not known yet; default deny both ways.
    pub const INIT: Self = Self(5);
    /// Any other node of the cluster.
    pub const REMOTE_NODE: Self = Self(6);
    /// The API server's nodes.
    pub const KUBE_APISERVER: Self = Self(7);
    /// Cilium's ingress.
    pub const INGRESS: Self = Self(8);
    /// First identity allocated for a label set.
    pub const FIRST_ALLOCATED: Self = Self(256);
    /// First node-local identity, allocated for CIDRs.
    pub const FIRST_LOCAL: Self = Self(0x0100_0000);

    /// Name of a reserved identity.
    #[must_use]
    pub const fn reserved_name(self) -> Option<&'static str> {
        Some(match self.0 {
            0 => "unknown",
            1 => "host",
            2 => "world",
            3 => "unmanaged",
            4 => "health",
            5 => "init",
            6 => "remote-node",
            7 => "kube-apiserver",
            8 => "ingress",
            _ => return None,
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reserved_name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}
