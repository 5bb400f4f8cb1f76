//! What the agent tells of the node itself.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::ControlHandle;

impl ControlHandle {
    /// Takes what addresses the node's interfaces have now: who is there is the node, whatever its Node object lists.
    pub fn node_addresses(&self, addresses: BTreeSet<IpAddr>) {
        let mut state = self.shared.state();
        if state.index.set_interface_addresses(addresses) {
            self.shared.publish(&mut state);
        }
    }
}
