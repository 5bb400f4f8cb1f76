//! The address map: whose each address is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use policy::{Identity, IpCache, IpCacheGeneration, PodName, Revision};

use crate::index::{Index, IndexedPod, LocalEndpoint};

/// Addresses and their identities; of several claims to one address the last pushed wins.
pub(super) fn ipcache(index: &Index, revision: Revision) -> IpCache {
    let mut addresses: BTreeMap<IpAddr, Identity> = BTreeMap::new();
    let attach = |addresses: &mut BTreeMap<IpAddr, Identity>, endpoint: &LocalEndpoint| {
        let pod = index.pod_of(endpoint);
        let identity = |addr: &IpAddr| pod.map_or(Identity::INIT, |indexed| indexed.identity_at(*addr));
        addresses.extend(endpoint.addresses.iter().map(|addr| (*addr, identity(addr))));
    };
    // Whose object is gone may have lost its address, too: whoever else has it now, has it.
    let (former, attached): (Vec<_>, Vec<_>) = index
        .endpoints()
        .values()
        .partition(|endpoint| index.is_former(endpoint));
    for endpoint in former {
        attach(&mut addresses, endpoint);
    }
    // Where two pods claim one address: not the one that is being deleted, then the newer one.
    let mut pods: Vec<(&PodName, &IndexedPod)> = index.pods().iter().collect();
    pods.sort_by_key(|(name, indexed)| (!indexed.pod.deleting, indexed.pod.created, *name));
    for (_, indexed) in pods {
        addresses.extend(
            indexed
                .pod
                .addresses
                .iter()
                .map(|addr| (*addr, indexed.identity_at(*addr))),
        );
    }
    addresses.extend(index.remote_nodes());
    addresses.extend(
        index
            .host_addresses()
            .into_iter()
            .map(|addr| (addr, Identity::HOST)),
    );
    // A local attachment is proven by the interface: it outranks what objects say.
    for endpoint in attached {
        attach(&mut addresses, endpoint);
    }
    // A pod CIDR's address that no pod or node is known at is `unmanaged`: no prefix covers it, not even one of its full length,
    // which would come before the pod CIDRs.
    let pod_cidrs = index.pod_cidrs();
    let is_pods = |prefix: &IpNet| {
        prefix.prefix_len() == prefix.max_prefix_len() && pod_cidrs.iter().any(|cidr| cidr.contains(prefix))
    };
    let prefixes = index
        .prefixes()
        .iter()
        .filter(|prefix| !is_pods(prefix))
        .filter_map(|prefix| Some((*prefix, index.identities().prefix(*prefix)?)));
    // Prefixes first, so that a full-length prefix in a rule never takes a known address's identity.
    let entries = prefixes.chain(
        addresses
            .into_iter()
            .map(|(addr, identity)| (IpNet::from(addr), identity)),
    );
    IpCache::new(
        IpCacheGeneration(revision.0),
        entries,
        pod_cidrs.iter().copied().collect(),
    )
}
