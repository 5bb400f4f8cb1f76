//! Address to identity: exact entries first, then the longest prefix, then pod CIDRs (`unmanaged`), then `world`.

use std::net::IpAddr;

use hashbrown::HashMap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::Identity;

/// Changes when any address changes its identity; conntrack entries re-check their peer's identity when it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct IpCacheGeneration(pub u64);

/// Immutable address map.
#[derive(Debug, Clone, Default)]
pub struct IpCache {
    generation: IpCacheGeneration,
    exact: HashMap<IpAddr, Identity>,
    /// By falling prefix length, one map per length in use: a lookup is one probe per length.
    prefixes: Vec<(u8, HashMap<IpNet, Identity>)>,
    pod_cidrs: Vec<IpNet>,
}

impl IpCache {
    /// Builds the map. `entries` with a full-length prefix become exact entries; later entries win.
    #[must_use]
    pub fn new(
        generation: IpCacheGeneration,
        entries: impl IntoIterator<Item = (IpNet, Identity)>,
        pod_cidrs: Vec<IpNet>,
    ) -> Self {
        let mut cache = Self { generation, pod_cidrs, ..Self::default() };
        for (net, identity) in entries {
            let net = net.trunc();
            if net.prefix_len() == net.max_prefix_len() {
                cache.exact.insert(net.addr(), identity);
                continue;
            }
            match cache.prefixes.iter_mut().find(|(len, _)| *len == net.prefix_len()) {
                Some((_, map)) => drop(map.insert(net, identity)),
                None => cache.prefixes.push((net.prefix_len(), HashMap::from_iter([(net, identity)]))),
            }
        }
        cache.prefixes.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
        cache
    }

    /// The map's generation.
    #[must_use]
    pub fn generation(&self) -> IpCacheGeneration {
        self.generation
    }

    /// Identity of `addr`. An address inside a pod CIDR that nothing else covers is [`Identity::UNMANAGED`], never `world`.
    #[must_use]
    pub fn lookup(&self, addr: IpAddr) -> Identity {
        if let Some(identity) = self.exact.get(&addr) {
            return *identity;
        }
        // Pod CIDRs come before prefixes: a CIDR rule never selects a pod (reference, section 1.3).
        if self.pod_cidrs.iter().any(|net| net.contains(&addr)) {
            return Identity::UNMANAGED;
        }
        for (len, map) in &self.prefixes {
            if let Ok(net) = IpNet::new(addr, *len)
                && let Some(identity) = map.get(&net.trunc())
            {
                return *identity;
            }
        }
        Identity::WORLD
    }
}
