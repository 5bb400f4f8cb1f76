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
        let mut cache = Self {
            generation,
            pod_cidrs,
            ..Self::default()
        };
        for (net, identity) in entries {
            let net = net.trunc();
            if net.prefix_len() == net.max_prefix_len() {
                cache.exact.insert(net.addr(), identity);
                continue;
            }
            match cache
                .prefixes
                .iter_mut()
                .find(|(len, _)| *len == net.prefix_len())
            {
                Some((_, map)) => drop(map.insert(net, identity)),
                None => cache
                    .prefixes
                    .push((net.prefix_len(), HashMap::from_iter([(net, identity)]))),
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

    /// Whether both map every address alike, whatever their generations.
    #[must_use]
    pub fn same_content(&self, other: &Self) -> bool {
        self.exact == other.exact && self.prefixes == other.prefixes && self.pod_cidrs == other.pod_cidrs
    }

    /// All entries, exact ones as full-length prefixes, in no order.
    pub fn entries(&self) -> impl Iterator<Item = (IpNet, Identity)> {
        let exact = self
            .exact
            .iter()
            .map(|(addr, identity)| (IpNet::from(*addr), *identity));
        exact.chain(
            self.prefixes
                .iter()
                .flat_map(|(_, map)| map.iter().map(|(net, identity)| (*net, *identity))),
        )
    }

    /// The pod CIDRs.
    #[must_use]
    pub fn pod_cidrs(&self) -> &[IpNet] {
        &self.pod_cidrs
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

    /// Identity of whoever is outside the cluster at an address of `addr`'s family that nobody knows: that of the widest prefix where
    /// rules name it, because their tables list it in place of [`Identity::WORLD`].
    #[must_use]
    pub fn outside(&self, addr: IpAddr) -> Identity {
        let widest = self.prefixes.iter().find(|(len, _)| *len == 0);
        let everywhere = IpNet::new(addr, 0).map(|net| net.trunc());
        widest
            .zip(everywhere.ok())
            .and_then(|((_, map), net)| map.get(&net))
            .copied()
            .unwrap_or(Identity::WORLD)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn bits(addr: IpAddr) -> (bool, u128) {
        match addr {
            IpAddr::V4(addr) => (false, u128::from(u32::from(addr)) << 96),
            IpAddr::V6(addr) => (true, u128::from(addr)),
        }
    }

    fn covers(net: &IpNet, addr: IpAddr) -> bool {
        let ((net_family, net_bits), (family, bits)) = (bits(net.addr()), bits(addr));
        let shift = 128 - u32::from(net.prefix_len());
        net_family == family && net_bits.checked_shr(shift) == bits.checked_shr(shift)
    }

    fn naive(entries: &[(IpNet, Identity)], pod_cidrs: &[IpNet], addr: IpAddr) -> Identity {
        let exact = entries
            .iter()
            .rfind(|(net, _)| net.prefix_len() == net.max_prefix_len() && net.addr() == addr);
        if let Some((_, identity)) = exact {
            return *identity;
        }
        if pod_cidrs.iter().any(|net| covers(net, addr)) {
            return Identity::UNMANAGED;
        }
        let mut best: Option<&(IpNet, Identity)> = None;
        for entry in entries {
            if covers(&entry.0, addr) && best.is_none_or(|b| entry.0.prefix_len() >= b.0.prefix_len()) {
                best = Some(entry);
            }
        }
        best.map_or(Identity::WORLD, |(_, identity)| *identity)
    }

    fn addr() -> impl Strategy<Value = IpAddr> {
        // Few distinct bits, so that prefixes cover addresses and each other.
        let v4 = (0u8..3, 0u8..3, 0u8..2, 0u8..8)
            .prop_map(|(a, b, c, d)| Ipv4Addr::new(a, b << 6, c << 7, d << 5).into());
        let v6 = (0u16..3, 0u16..3, 0u16..8)
            .prop_map(|(a, b, c)| Ipv6Addr::new(a << 14, 0, 0, b << 13, 0, 0, 0, c).into());
        prop_oneof![v4, v6]
    }

    fn net() -> impl Strategy<Value = IpNet> {
        (addr(), 0u8..=128).prop_map(|(addr, len)| {
            let max = if addr.is_ipv4() { 32 } else { 128 };
            IpNet::new(addr, if len > 96 { max } else { len % (max + 1) }).expect("length in range")
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn lookup_is_the_longest_prefix_and_pods_are_never_world(
            entries in proptest::collection::vec((net(), (256u32..400).prop_map(Identity)), 0..24),
            pod_cidrs in proptest::collection::vec(net().prop_map(|n| n.trunc()), 0..3),
            addrs in proptest::collection::vec(addr(), 64),
        ) {
            let cache = IpCache::new(IpCacheGeneration(1), entries.clone(), pod_cidrs.clone());
            let listed = entries.iter().map(|(net, _)| net.addr());
            for addr in addrs.into_iter().chain(listed) {
                prop_assert_eq!(cache.lookup(addr), naive(&entries, &pod_cidrs, addr), "{}", addr);
            }
            let again = IpCache::new(IpCacheGeneration(2), cache.entries(), pod_cidrs);
            prop_assert!(again.same_content(&cache));
        }
    }
    #[test]
    fn outside_is_the_widest_prefix_of_the_family_or_the_world() {
        let net = |text: &str| text.parse::<IpNet>().expect("prefix");
        let addresses: [IpAddr; 2] = [[10, 0, 0, 1].into(), Ipv6Addr::LOCALHOST.into()];
        for (entries, expected) in [
            (vec![], [Identity::WORLD; 2]),
            (
                vec![
                    (net("10.0.0.0/8"), Identity(300)),
                    (net("10.0.0.1/32"), Identity::HOST),
                ],
                [Identity::WORLD; 2],
            ),
            (
                vec![(net("0.0.0.0/0"), Identity(301))],
                [Identity(301), Identity::WORLD],
            ),
            (
                vec![(net("::/0"), Identity(302))],
                [Identity::WORLD, Identity(302)],
            ),
            (
                vec![
                    (net("::/0"), Identity(302)),
                    (net("10.0.0.0/8"), Identity(300)),
                    (net("0.0.0.0/0"), Identity(301)),
                ],
                [Identity(301), Identity(302)],
            ),
        ] {
            let cache = IpCache::new(IpCacheGeneration(1), entries.clone(), vec![net("10.0.0.0/16")]);
            assert_eq!(addresses.map(|addr| cache.outside(addr)), expected, "{entries:?}");
        }
    }
}
