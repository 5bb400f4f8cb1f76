//! Proof that something did not arrive: a datagram sent behind it on the same way did.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;

use crate::netns::Netns;
use crate::packets::{ICMPV6, Seen, UDP};
use crate::tap::Tap;
use crate::wait;

/// Port of the fence; every policy of a test that uses fences allows it from everywhere (UDP).
pub const PORT: u16 = 7;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Sends one datagram from the namespace to `victim` and waits until `tap`, which listens there, has it. Returns the IP packets that
/// arrived before it, neighbour discovery apart.
///
/// # Errors
/// The datagram does not arrive.
pub fn fence(from: &Netns, victim: IpAddr, tap: &Tap) -> Result<Vec<Seen>> {
    let marker = format!(
        "fence {} {}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    from.enter(|| -> Result<()> {
        let any: SocketAddr = if victim.is_ipv4() {
            "0.0.0.0:0".parse()?
        } else {
            "[::]:0".parse()?
        };
        UdpSocket::bind(any)?.send_to(marker.as_bytes(), (victim, PORT))?;
        Ok(())
    })?;
    let mut before = Vec::new();
    wait::until(&format!("{marker} arrives at {victim}"), wait::LONG, || {
        for packet in tap.packets()? {
            if packet.protocol == UDP && packet.payload.ends_with(marker.as_bytes()) {
                return Ok(Some(()));
            }
            before.push(packet);
        }
        Ok(None)
    })?;
    before.retain(|packet| !is_discovery(packet));
    Ok(before)
}

fn is_discovery(packet: &Seen) -> bool {
    packet.protocol == ICMPV6
        && packet
            .payload
            .first()
            .is_some_and(|kind| (133..=137).contains(kind))
}
