//! A TCP connection whose sequence numbers go on, for HTTP.

use datapath::wire::tcp::{Segment, TcpFlags, Timestamps};

use crate::node::{CLIENT, Pod, SERVER};
use crate::stream;

/// Bytes that a frame of a connection may have.
pub const FRAME_BYTES: usize = 512;

/// The shortest answer with a body.
pub const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

/// A `GET` of `path` as curl sends it, padded to 140 bytes.
#[must_use]
pub fn request(path: &str) -> Vec<u8> {
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: flask-app-service\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\nX-Pad: "
    );
    let pad = 140_usize.checked_sub(head.len() + 4).expect("a short path");
    format!("{head}{:x<pad$}\r\n\r\n", "").into_bytes()
}

/// One connection of the client pod to the server pod.
#[derive(Debug, Clone, Copy)]
pub struct Connection {
    ports: (u16, u16),
    client_next: u32,
    server_next: u32,
}

impl Connection {
    /// Connection number `n`, not opened yet. Its sequence numbers wrap early on.
    #[must_use]
    pub fn new(n: usize) -> Self {
        Self {
            ports: stream::ports(n),
            client_next: u32::MAX - 1000,
            server_next: 7000,
        }
    }

    /// Writes the next segment of `sender` to `frame` and returns its length; allocates nothing.
    pub fn write(&mut self, sender: Pod, flags: TcpFlags, payload: &[u8], frame: &mut [u8]) -> usize {
        let (client, server) = self.ports;
        let is_client = sender == CLIENT;
        let (receiver, source_port, destination_port) = if is_client {
            (SERVER, client, server)
        } else {
            (CLIENT, server, client)
        };
        let (seq, ack) = if is_client {
            (self.client_next, self.server_next)
        } else {
            (self.server_next, self.client_next)
        };
        let segment = Segment {
            source: sender.v4(),
            destination: receiver.v4(),
            source_port,
            destination_port,
            seq,
            ack: if flags.has(TcpFlags::ACK) { ack } else { 0 },
            flags,
            window: 1000,
            timestamps: Some(Timestamps { value: 1, echo: 1 }),
            payload,
        };
        let len = u32::try_from(payload.len()).expect("a small segment");
        let next = seq
            .wrapping_add(len)
            .wrapping_add(u32::from(flags.has(TcpFlags::SYN)));
        *(if is_client {
            &mut self.client_next
        } else {
            &mut self.server_next
        }) = next;
        stream::write_tcp(sender, &segment, frame)
    }
}

/// Who sends what to open a connection.
pub const HANDSHAKE: [(Pod, TcpFlags); 3] = [
    (CLIENT, TcpFlags::SYN),
    (SERVER, TcpFlags::SYN.with(TcpFlags::ACK)),
    (CLIENT, TcpFlags::ACK),
];

/// The other pod.
#[must_use]
pub fn peer(pod: Pod) -> Pod {
    if pod == CLIENT { SERVER } else { CLIENT }
}
