//! Raw access to a pod's interface: frames in as an attacker would send them, and everything that arrives.

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvfrom, sendto, setsockopt,
    socket, sockopt,
};

use crate::netns::Netns;
use crate::packets::Seen;

/// Bytes of frames that may wait to be looked at.
const ROOM: usize = 64 << 20;

/// `PACKET_OUTGOING` (linux/if_packet.h): a frame that the interface itself sends.
const OUTGOING: u8 = 4;

/// Sends frames as they are from an interface.
#[derive(Debug)]
pub struct Injector {
    socket: OwnedFd,
    interface: LinkAddr,
}

impl Injector {
    /// Opens the interface in the namespace.
    ///
    /// # Errors
    /// There is no such interface, or no privilege.
    pub fn open(netns: &Netns, interface: &str) -> Result<Self> {
        netns.enter(|| {
            // No protocol: it receives nothing.
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
            let address = getifaddrs()?
                .filter(|known| known.interface_name == interface)
                .find_map(|known| known.address?.as_link_addr().copied())
                .with_context(|| format!("no interface {interface}"))?;
            Ok(Self {
                socket,
                interface: address,
            })
        })
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// The kernel did not take it; `WouldBlock` if its queue is full.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        match sendto(self.socket.as_raw_fd(), frame, &self.interface, MsgFlags::empty()) {
            Ok(_) => Ok(()),
            Err(Errno::ENOBUFS) => Err(ErrorKind::WouldBlock.into()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Sends frames, in order, and returns how many.
    ///
    /// # Errors
    /// The kernel did not take one.
    pub fn send_all(&self, frames: &[Vec<u8>]) -> Result<u64> {
        for frame in frames {
            self.send(frame)
                .with_context(|| format!("frame of {} bytes", frame.len()))?;
        }
        Ok(frames.len() as u64)
    }
}

/// Everything that arrives at a namespace's interfaces, before its IP stack has a say.
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
}

impl Tap {
    /// Begins to listen.
    ///
    /// # Errors
    /// No privilege.
    pub fn open(netns: &Netns) -> Result<Self> {
        netns.enter(|| {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
            setsockopt(&socket, sockopt::RcvBufForce, &ROOM)?;
            Ok(Self { socket })
        })
    }

    /// The frames that have arrived since the last call, without those that were sent from here.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn frames(&self) -> Result<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; 1 << 17];
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((len, from)) => {
                    if from.is_some_and(|from| from.pkttype() != OUTGOING) {
                        frames.push(buffer[..len].to_vec());
                    }
                }
                Err(Errno::EAGAIN) => return Ok(frames),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The IP packets among [`Tap::frames`].
    ///
    /// # Errors
    /// The socket is broken.
    pub fn packets(&self) -> Result<Vec<Seen>> {
        Ok(self
            .frames()?
            .iter()
            .filter_map(|frame| Seen::parse(frame))
            .collect())
    }
}
