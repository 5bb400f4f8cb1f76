//! Cilium on the same node: its programs on pods' interfaces and sluice's would each decide about packets that the other took.
//!
//! Its sign is the interface that its agent makes before anything else, whatever its routing mode, datapath or place in a chain. The
//! programs work on when that agent is gone, until the interface is removed, too. Its socket is in a folder that sluice does
//! not see, and its CNI configuration neither proves that it runs nor has to be there.

use super::{Devices, NodeError};

/// The host's end of Cilium's veth pair (`defaults.HostDevice`).
pub const HOST_DEVICE: &str = "cilium_host";

/// Why an agent does not start on a node of Cilium's.
#[derive(Debug, thiserror::Error)]
pub enum CiliumError {
    /// It is there.
    #[error(
        "Cilium is on this node (interface {HOST_DEVICE}): two agents cannot enforce policy for the same pods; remove Cilium and what \
         it left on the node (`cilium-dbg post-uninstall-cleanup`, or a reboot), or keep sluice off this node by nodeSelector"
    )]
    Present,
    /// The kernel does not tell.
    #[error("cannot tell whether Cilium is on this node: {0}")]
    Unknown(#[from] NodeError),
}

/// Refuses a node that has Cilium.
///
/// # Errors
/// [`CiliumError`]
pub async fn refuse(devices: &Devices) -> Result<(), CiliumError> {
    match devices.exists(HOST_DEVICE).await? {
        true => Err(CiliumError::Present),
        false => Ok(()),
    }
}
