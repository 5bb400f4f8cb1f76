//! What cannot share a node with sluice, known by an interface that it makes before anything else.
//!
//! - Cilium: its programs on pods' interfaces and sluice's would each decide about packets that the other took. `cilium_host` is there
//!   whatever its routing mode, datapath or place in a chain. The programs work on when that agent is gone, until the interface is
//!   removed, too. Its socket is in a folder that sluice does not see, and its CNI configuration neither proves that it runs nor has
//!   to be there.
//! - kube-proxy in mode `ipvs`: the kernel's IPVS sends on what came from outside as if the node had sent it (`ip_route_output_key` in
//!   `net/netfilter/ipvs/ip_vs_xmit.c`), so that a NodePort's client would pass for the node, which policy always lets in.

use super::{Devices, NodeError};

/// The host's end of Cilium's veth pair (`defaults.HostDevice`).
pub const CILIUM_HOST: &str = "cilium_host";

/// The interface that kube-proxy gives Services' addresses to (`defaultDummyDevice` in `pkg/proxy/ipvs`).
pub const KUBE_IPVS: &str = "kube-ipvs0";

/// Why an agent does not start on a node.
#[derive(Debug, thiserror::Error)]
pub enum ConflictError {
    /// Cilium is there.
    #[error(
        "Cilium is on this node (interface {CILIUM_HOST}): two agents cannot enforce policy for the same pods; remove Cilium and what \
         it left on the node (`cilium-dbg post-uninstall-cleanup`, or a reboot), or keep sluice off this node by nodeSelector"
    )]
    Cilium,
    /// kube-proxy works with IPVS.
    #[error(
        "kube-proxy is in mode ipvs on this node (interface {KUBE_IPVS}): clients of NodePorts would pass for the node itself; set mode \
         nftables and remove what is left (`kube-proxy --cleanup`, or a reboot)"
    )]
    Ipvs,
    /// The kernel does not tell.
    #[error("cannot tell whether Cilium or IPVS is on this node: {0}")]
    Unknown(#[from] NodeError),
}

/// Refuses a node that has any of them.
///
/// # Errors
/// [`ConflictError`]
pub async fn refuse(devices: &Devices) -> Result<(), ConflictError> {
    if devices.exists(CILIUM_HOST).await? {
        return Err(ConflictError::Cilium);
    }
    if devices.exists(KUBE_IPVS).await? {
        return Err(ConflictError::Ipvs);
    }
    Ok(())
}
