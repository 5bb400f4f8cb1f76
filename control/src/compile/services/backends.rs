//! Which endpoints of a Service's port are its backends on this node: kube-proxy's rules (kubernetes, `pkg/proxy/topology.go`,
//! `CategorizeEndpoints`).

use std::collections::BTreeMap;

use policy::Backend;

use crate::object::SliceEndpoint;

/// Where backends are chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// Name of the local node; empty for any node, as policy tools ask.
    pub(super) node: &'a str,
    /// Its zone; empty where it has none.
    pub(super) zone: &'a str,
}

impl Place<'_> {
    fn has(self, endpoint: &SliceEndpoint) -> bool {
        self.node.is_empty() || endpoint.node.as_deref() == Some(self.node)
    }
}

/// Which hints are followed (kubernetes, `topologyModeFromHints`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Topology {
    Anywhere,
    SameZone,
    SameNode,
}

impl Topology {
    /// Hints are followed only if every ready endpoint has some and at least one of them is for this place.
    fn of<'a>(endpoints: impl Iterator<Item = &'a SliceEndpoint> + Clone, place: Place<'_>) -> Self {
        let followed = |hints: fn(&SliceEndpoint) -> &[String], own: &str| {
            let mut ready = endpoints.clone().filter(|endpoint| endpoint.ready);
            ready.clone().all(|endpoint| !hints(endpoint).is_empty())
                && ready.any(|endpoint| hints(endpoint).iter().any(|hint| hint == own))
        };
        if followed(|endpoint| &endpoint.nodes, place.node) {
            Self::SameNode
        } else if followed(|endpoint| &endpoint.zones, place.zone) {
            Self::SameZone
        } else {
            Self::Anywhere
        }
    }

    fn admits(self, endpoint: &SliceEndpoint, place: Place<'_>) -> bool {
        match self {
            Self::Anywhere => true,
            Self::SameZone => endpoint.zones.iter().any(|zone| zone == place.zone),
            Self::SameNode => endpoint.nodes.iter().any(|node| node == place.node),
        }
    }
}

/// Endpoints of one port of a Service, in one family, by what they are good for; each list by rising address and port.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Backends {
    /// For traffic policy `Cluster`.
    pub(super) cluster: Vec<Backend>,
    /// For traffic policy `Local`.
    pub(super) local: Vec<Backend>,
    /// Whether there is one on any node.
    pub(super) anywhere: bool,
    /// All that serve, whether they may get new flows or not.
    pub(super) serving: Vec<Backend>,
}

impl Backends {
    /// Sorts `endpoints` by use. An endpoint that terminates and still serves stands in where none is ready, for each policy by itself.
    pub(super) fn of(endpoints: &BTreeMap<Backend, &SliceEndpoint>, place: Place<'_>) -> Self {
        let pick = |use_: &dyn Fn(&SliceEndpoint) -> bool| -> Vec<Backend> {
            let picked = endpoints.iter().filter(|(_, endpoint)| use_(endpoint));
            picked.map(|(backend, _)| *backend).collect()
        };
        let either = |here: &dyn Fn(&SliceEndpoint) -> bool, last: &dyn Fn(&SliceEndpoint) -> bool| {
            let ready = pick(&|endpoint| endpoint.ready && here(endpoint));
            if ready.is_empty() {
                pick(&|endpoint| endpoint.serving && endpoint.terminating && last(endpoint))
            } else {
                ready
            }
        };
        let topology = Topology::of(endpoints.values().copied(), place);
        let cluster = either(&|endpoint| topology.admits(endpoint, place), &|_| true);
        Self {
            local: either(&|endpoint| place.has(endpoint), &|endpoint| place.has(endpoint)),
            // Hints are followed only where they leave a ready one.
            anywhere: !cluster.is_empty(),
            cluster,
            serving: pick(&|endpoint| endpoint.serving),
        }
    }
}

#[cfg(test)]
mod tests;
