//! Wire formats: checked views, in-place edits and builders, one file per header.
//!
//! Owns every rule of the form "these bytes are not a packet". Invariants:
//! - No function panics or reads out of bounds on any input; slices are never indexed by a value from a packet.
//! - Nothing allocates. Builders write into the caller's buffer and say how much they wrote.
//! - A view covers the *linear* first frame of a packet, in which all headers lie; payload lengths come from the
//!   headers, were checked against the length of the whole chain, and may exceed the linear part.
//! - A malformed packet is a [`policy::DropReason`], never repaired.
//!
//! [`packet::Headers::parse`] is the entry point of the receive path; the other modules serve it and the stages that
//! edit or build packets.
#![deny(clippy::indexing_slicing)]

pub mod arp;
pub mod checksum;
pub mod error_message;
pub mod ethernet;
pub mod icmp;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod nd;
pub mod packet;
pub mod quoted;
pub mod rewrite;
pub mod tcp;
pub mod udp;

#[cfg(test)]
mod differential;
#[cfg(test)]
mod sample;

/// IPv4's version nibble and IPv6's, as the first byte of a packet tells them apart.
#[inline]
pub(crate) fn version(packet: &[u8]) -> Option<u8> {
    packet.first().map(|byte| byte >> 4)
}

/// `N` bytes of `bytes` at `offset`.
#[inline]
pub(crate) fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<&[u8; N]> {
    bytes.get(offset..)?.first_chunk()
}

/// `N` bytes of `bytes` at `offset`, to be changed.
#[inline]
pub(crate) fn array_at_mut<const N: usize>(bytes: &mut [u8], offset: usize) -> Option<&mut [u8; N]> {
    bytes.get_mut(offset..)?.first_chunk_mut()
}
