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
        self.release_vanished();
    }

    /// Looks for endpoints whose interface is gone without having been told, and for what is pinned of such interfaces.
    pub(super) async fn sweep(&mut self) {
        if let Err(error) = self.follow_renames().await {
            tracing::error!(
                error = format!("{error:#}"),
                "cannot follow interfaces that were renamed"
            );
            return;
        }
        let known: Vec<Endpoint> = self.registry.endpoints().cloned().collect();
        for endpoint in known {
            if self.has_vanished(&endpoint).await {
                self.detach_vanished(&endpoint).await;
            }
        }
        self.release_vanished();
    }

    /// Whether the very interface that is served is gone; of an endpoint that is not, whether there is none of that name. Another one
    /// of the same name is another one's.
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
        self.release_vanished();
    }

    /// Removes what is pinned of interfaces that are gone, and of no other: one that was renamed would be open.
    pub(super) fn release_vanished(&mut self) {
        match block_in_place(|| self.dataplane.release_vanished()) {
            Ok(names) if names.is_empty() => {}
            Ok(names) => tracing::debug!(?names, "what was pinned of interfaces that are gone is removed"),
            Err(error) => tracing::error!(%error, "cannot remove pins of interfaces that are gone"),
        }
    }

    /// An interface with another name is still its pod's. The registry learns of it before the pins: were they the first, an agent that
    /// ends in between would leave an endpoint on an interface that nobody knows.
    ///
    /// # Errors
    /// Who is at which interface is not known: no endpoint must be taken for one whose interface is gone.
    pub(super) async fn follow_renames(&mut self) -> anyhow::Result<()> {
        let lost = block_in_place(|| -> anyhow::Result<Vec<Endpoint>> {
            let renamed = self.dataplane.renamed()?;
            if renamed.is_empty() {
                return Ok(Vec::new());
            }
            tracing::info!(?renamed, "interfaces were renamed");
            let lost = self.registry.follow_renames(&renamed)?;
            self.dataplane.follow_renames()?;
            Ok(lost)
        })?;
        for endpoint in lost {
            self.detach_vanished(&endpoint).await;
        }
        Ok(())
    }
}
