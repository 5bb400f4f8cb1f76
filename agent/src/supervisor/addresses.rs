//! The node's own addresses, told to control as the kernel has them.

use super::Supervisor;

impl Supervisor {
    /// Looks what addresses the node's interfaces have. What was known of them stays if the kernel does not tell.
    pub(super) async fn follow_addresses(&self) {
        match self.devices.node_addresses().await {
            Ok(addresses) => self.control.node_addresses(addresses),
            Err(error) => tracing::warn!(%error, "the node's addresses are not known as they are now"),
        }
    }
}
