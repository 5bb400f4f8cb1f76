//! Interfaces that go away: told of by the kernel, or found to be gone when it may have told of more than was heard.

use tokio::task::block_in_place;

use super::Supervisor;
use crate::endpoint_registry::Endpoint;

impl Supervisor {
    /// The kernel has told that an interface is gone.
    pub(super) async fn link_removed(&mut self, index: u32, name: &str) {
        let endpoint = self.registry.endpoints().find(|endpoint| {
            // One that is served is known by its index: its name may have changed since.
            match self.dataplane.attached(endpoint.key) {
                Some(attached) => attached.device.index == index,
                None => endpoint.spec.interface == name,
            }
        });
        match endpoint.cloned() {
            Some(endpoint) if self.has_vanished(&endpoint).await => self.detach_vanished(&endpoint).await,
            _ => self.reconcile().await,
        }
        self.release_vanished().await;
    }

    /// Looks for endpoints whose interface is gone without having been told, and for what is pinned of such interfaces.
    pub(super) async fn sweep(&mut self) {
        let known: Vec<Endpoint> = self.registry.endpoints().cloned().collect();
        for endpoint in known {
            if self.has_vanished(&endpoint).await {
                self.detach_vanished(&endpoint).await;
            }
        }
        self.release_vanished().await;
    }

    /// Whether the very interface that is served is gone; of an endpoint that is not, whether there is none of that name. Another one
    /// of the same name is another one's, and one that was renamed is not gone: to be let go would open it.
    async fn has_vanished(&self, endpoint: &Endpoint) -> bool {
        match self.dataplane.attached(endpoint.key) {
            Some(attached) => self.devices.is_gone_at(attached.device.index).await,
            None => self.devices.is_gone(&endpoint.spec.interface).await,
        }
    }

    async fn detach_vanished(&mut self, endpoint: &Endpoint) {
        let interface = &endpoint.spec.interface;
        tracing::info!(pod = %endpoint.spec.pod, interface, "interface is gone");
        self.detach(endpoint).await;
        self.release(interface);
    }

    /// Removes what is pinned of interfaces that are gone.
    async fn release_vanished(&mut self) {
        let pinned = match block_in_place(|| self.dataplane.pinned()) {
            Ok(pinned) => pinned,
            Err(error) => {
                tracing::error!(%error, "cannot look for pins of interfaces that are gone");
                return;
            }
        };
        for interface in pinned {
            if self.registry.by_interface(&interface).is_none() && self.devices.is_gone(&interface).await {
                self.release(&interface);
            }
        }
    }
}
