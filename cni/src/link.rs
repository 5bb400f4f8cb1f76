//! Interfaces as the kernel shows them (rtnetlink), in this network namespace or in another.
//!
//! Which veth is a pod's is asked of the kernel and not of the plugins before: a result may leave the host's end out, or name it
//! beside a bridge's.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::thread;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// `RTM_GETLINK`, `RTM_NEWLINK`, `RTM_GETNSID`, `RTM_NEWNSID` (uapi/linux/rtnetlink.h).
const GET_LINK: u16 = 18;
const NEW_LINK: u16 = 16;
const GET_NSID: u16 = 90;
const NEW_NSID: u16 = 88;

/// `NLM_F_REQUEST`, `NLMSG_ERROR` (uapi/linux/netlink.h).
const REQUEST: u16 = 1;
const ERROR: u16 = 2;

/// `IFLA_*` (uapi/linux/if_link.h).
const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const PEER: u16 = 5;
const INFO: u16 = 18;
const PEER_NSID: u16 = 37;
const INFO_KIND: u16 = 1;

/// `NETNSA_*` (uapi/linux/net_namespace.h).
const NSID: u16 = 1;
const NS_FD: u16 = 3;

/// Header of a netlink message, bytes.
const HEADER: usize = 16;

/// `struct ifinfomsg` and `struct rtgenmsg` with padding, bytes.
const LINK_HEADER: usize = 16;
const NSID_HEADER: usize = 4;

/// Room for one link without statistics of virtual functions, bytes.
const REPLY_BYTES: usize = 64 * 1024;

/// How an interface is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// By name.
    Name(String),
    /// By index.
    Index(u32),
}

/// An interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address, as text.
    pub mac: String,
    /// `veth`, `ipvlan`, ...; empty for hardware.
    pub kind: String,
    /// Index of the other end of a veth, or of the interface below others.
    pub peer: Option<u32>,
    /// Number of the other end's network namespace, seen from this one; `None` if it is this one.
    pub peer_nsid: Option<i32>,
}

/// The interface in the calling thread's network namespace.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] or `ENODEV` if there is none; whatever else the kernel says.
pub fn find(selector: &Selector) -> io::Result<Link> {
    let mut body = vec![0; LINK_HEADER];
    match selector {
        Selector::Name(name) => {
            let mut text = name.clone().into_bytes();
            text.push(0);
            push(&mut body, NAME, &text);
        }
        Selector::Index(index) => body[4..8].copy_from_slice(&index.to_ne_bytes()),
    }
    let reply = exchange(GET_LINK, NEW_LINK, &body)?;
    let damaged = || io::Error::from(io::ErrorKind::InvalidData);
    let index = reply
        .get(4..8)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(damaged)?;
    let mut link = Link {
        index: u32::from_ne_bytes(index),
        ..Link::default()
    };
    for (kind, value) in attributes(reply.get(LINK_HEADER..).ok_or_else(damaged)?) {
        match kind {
            NAME => link.name = text(value),
            ADDRESS => {
                let octets: Vec<_> = value.iter().map(|octet| format!("{octet:02x}")).collect();
                link.mac = octets.join(":");
            }
            PEER => link.peer = number(value),
            PEER_NSID => link.peer_nsid = number(value).map(u32::cast_signed),
            INFO => {
                let kind = attributes(value).find(|(kind, _)| *kind == INFO_KIND);
                link.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
            }
            _ => {}
        }
    }
    Ok(link)
}

/// The interface in the network namespace `netns`.
///
/// # Errors
/// As [`find`]; the namespace cannot be entered.
pub fn find_in(netns: &File, selector: Selector) -> io::Result<Link> {
    let netns = netns.try_clone()?;
    // Namespaces are a thread's: one that ends takes nothing back with it.
    let looked_up = thread::Builder::new().spawn(move || {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
        find(&selector)
    })?;
    looked_up
        .join()
        .unwrap_or_else(|_panic| Err(io::Error::other("the look-up panicked")))
}

/// The number of the network namespace `netns`, seen from the calling thread's; `None` if it has none here.
///
/// # Errors
/// Whatever the kernel says.
pub fn nsid(netns: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let mut body = vec![0; NSID_HEADER];
    push(&mut body, NS_FD, &netns.as_raw_fd().to_ne_bytes());
    let reply = exchange(GET_NSID, NEW_NSID, &body)?;
    let nsid = attributes(reply.get(NSID_HEADER..).unwrap_or_default())
        .find(|(kind, _)| *kind == NSID)
        .and_then(|(_, value)| number(value))
        .map(u32::cast_signed);
    Ok(nsid.filter(|nsid| *nsid >= 0))
}

/// Sends one request, and returns what follows the header of its one reply.
fn exchange(request: u16, reply: u16, body: &[u8]) -> io::Result<Vec<u8>> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    // `NETLINK_ROUTE` is protocol 0.
    let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(length.to_ne_bytes());
    message.extend(request.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.extend([0; 8]); // sequence and port: one request, one reply
    message.extend(body);
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    let mut buffer = vec![0; REPLY_BYTES];
    let (received, _) = rustix::net::recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
    buffer.truncate(received);
    let header: [u8; 8] = buffer
        .get(..8)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(invalid)?;
    let [a, b, c, d, e, f, ..] = header;
    let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).map_err(io::Error::other)?;
    let payload = buffer.get(HEADER..length).ok_or_else(invalid)?;
    match u16::from_ne_bytes([e, f]) {
        ERROR => {
            let errno = number(payload.get(..4).ok_or_else(invalid)?).ok_or_else(invalid)?;
            Err(io::Error::from_raw_os_error(
                errno.cast_signed().checked_neg().unwrap_or(0),
            ))
        }
        kind if kind == reply => Ok(payload.to_vec()),
        _ => Err(invalid()),
    }
}

/// Appends an attribute, padded to four bytes; only short ones are written here.
fn push(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The attributes in `bytes`, up to the first that does not fit.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
    const FLAGS: u16 = 0xc000;
    std::iter::from_fn(move || {
        let (&[a, b, c, d], _) = bytes.split_first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & !FLAGS, value))
    })
}

fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.try_into().ok()?))
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_found_by_name_and_by_index() {
        let lo = find(&Selector::Name("lo".into())).unwrap();
        assert_eq!((lo.name.as_str(), lo.mac.as_str()), ("lo", "00:00:00:00:00:00"));
        assert_eq!(find(&Selector::Index(lo.index)).unwrap(), lo);
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let error = find(&Selector::Name("sluice-none".into())).unwrap_err();
        assert_eq!(
            error.raw_os_error(),
            Some(rustix::io::Errno::NODEV.raw_os_error())
        );
        // Longer than names may be: the kernel refuses the attribute.
        assert!(find(&Selector::Name("x".repeat(4000))).is_err());
    }

    #[test]
    fn cut_off_attributes_end_the_list() {
        let mut body = Vec::new();
        push(&mut body, NAME, b"eth0\0");
        push(&mut body, PEER, &7_u32.to_ne_bytes());
        assert_eq!(body.len(), 12 + 8);
        assert_eq!(attributes(&body).count(), 2);
        assert_eq!(attributes(&body[..15]).count(), 1);
        for bytes in [&[][..], &[0; 4], &[3, 0, 0, 0], &[200, 0, 3, 0, 1]] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        }
    }
}
