//! Connections through Services, from the former agent and to the next one.

use std::path::Path;

use policy::EndpointKey;
use tokio::task::block_in_place;

use super::Supervisor;
use crate::handover;

impl Supervisor {
    /// Gives the worker what the former agent has left; to be called before any interface is served.
    pub(super) fn inherit(&mut self, run_dir: &Path) {
        let inherited = block_in_place(|| -> anyhow::Result<usize> {
            let mut flows = handover::take(&run_dir.join(handover::FILE_NAME))?;
            let registry = &self.registry;
            let is_known = |key: EndpointKey| !key.slot.is_endpoint() || registry.by_key(key).is_some();
            flows.retain(|flow| is_known(flow.sender) && is_known(flow.receiver));
            self.dataplane.inherit(&flows)?;
            Ok(flows.len())
        });
        match inherited {
            Ok(connections) => tracing::info!(connections, "connections through Services may go on"),
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "connections through Services are reset"
                );
                self.start_warnings.push(format!(
                    "connections through Services from before the start were reset: {error:#}"
                ));
            }
        }
    }

    /// Leaves what the next agent has to know, at an orderly end.
    pub(super) fn hand_over(&self, run_dir: &Path) {
        let left = block_in_place(|| -> anyhow::Result<usize> {
            let flows = self.dataplane.translated_flows()?;
            let connections = flows.len();
            handover::leave(&run_dir.join(handover::FILE_NAME), flows)?;
            Ok(connections)
        });
        match left {
            Ok(connections) => tracing::info!(connections, "connections through Services handed over"),
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "connections through Services will be reset"
            ),
        }
    }
}
