//! The address map: whose each address is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use policy::{Identity, IpCache, IpCacheGeneration, PodName, Revision};

use crate::index::{Index, IndexedPod};

/// Addresses and their identities; of several claims to one address the last pushed wins.
pub(super) fn ipcache(index: &Index, revision: Revision) -> IpCache {
    let mut addresses: BTreeMap<IpAddr, Identity> = BTreeMap::new();
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
            .local_node_addresses()
            .into_iter()
            .map(|addr| (addr, Identity::HOST)),
    );
    // A local attachment is proven by the interface: it outranks what objects say.
    for endpoint in index.endpoints().values() {
        let pod = index.pod_of(endpoint);
        let identity = |addr: &IpAddr| pod.map_or(Identity::INIT, |indexed| indexed.identity_at(*addr));
        addresses.extend(endpoint.addresses.iter().map(|addr| (*addr, identity(addr))));
    }
    let prefixes = index
        .prefixes()
        .iter()
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
        index.pod_cidrs().into_iter().collect(),
    )
}
