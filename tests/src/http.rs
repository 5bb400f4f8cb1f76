//! An HTTP/1.1 server that remembers what it was asked, and a client; as much of either as the tests need.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::Netns;
use crate::wait;

/// Between two looks of the server's thread at its flag.
const TICK: Duration = Duration::from_millis(5);

/// What came by a server's connections.
#[derive(Debug, Default)]
struct Seen {
    connections: Mutex<Vec<(SocketAddr, Received)>>,
    stop: AtomicBool,
}

/// What a server received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Received {
    /// Paths of the requests that it answered.
    pub requests: Vec<String>,
    /// Every byte, before anyone interpreted it.
    pub bytes: Vec<u8>,
    is_over: bool,
}

impl Seen {
    /// The record of the connection from `peer`; a later one from there goes on with it.
    fn record<T>(&self, peer: SocketAddr, work: impl FnOnce(&mut Received) -> T) -> T {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let at = connections
            .iter()
            .position(|(known, _)| *known == peer)
            .unwrap_or_else(|| {
                connections.push((peer, Received::default()));
                connections.len() - 1
            });
        work(&mut connections[at].1)
    }
}

/// A server inside a namespace; it ends when dropped.
#[derive(Debug)]
pub struct Server {
    seen: Arc<Seen>,
}

impl Server {
    /// Begins to answer on a port, for both families: `200` and "served PATH" to everything.
    ///
    /// # Errors
    /// The port is in use.
    pub fn start(netns: &Netns, port: u16) -> Result<Self> {
        let listener = netns.enter(|| TcpListener::bind((IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)))?;
        listener.set_nonblocking(true)?;
        let seen = Arc::new(Seen::default());
        let server = Self {
            seen: Arc::clone(&seen),
        };
        thread::spawn(move || {
            while !seen.stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, peer)) => {
                        let seen = Arc::clone(&seen);
                        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                        thread::spawn(move || serve(stream, peer, &seen));
                    }
                    Err(_) => thread::sleep(TICK),
                }
            }
        });
        Ok(server)
    }

    /// All that came by the connection from `peer`, once the server has seen its end; the record starts anew.
    ///
    /// # Errors
    /// The connection does not begin or end.
    pub fn ended(&self, peer: SocketAddr) -> Result<Received> {
        wait::until(&format!("the connection from {peer} is over"), wait::LONG, || {
            let is_over = self.seen.record(peer, |received| received.is_over);
            Ok(is_over.then(|| self.seen.record(peer, std::mem::take)))
        })
    }

    /// The bytes that have come by the connection from `peer` so far.
    #[must_use]
    pub fn bytes_from(&self, peer: SocketAddr) -> Vec<u8> {
        self.seen.record(peer, |received| received.bytes.clone())
    }

    /// Paths of all requests so far, once the server has seen the end of every connection; the records start anew.
    ///
    /// # Errors
    /// A connection goes on.
    pub fn ended_requests(&self) -> Result<Vec<String>> {
        wait::until("all connections are over", wait::LONG, || {
            let connections = self
                .seen
                .connections
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            Ok(connections
                .iter()
                .all(|(_, received)| received.is_over)
                .then_some(()))
        })?;
        Ok(self.take_requests())
    }

    /// Paths of all requests so far; the records start anew.
    #[must_use]
    pub fn take_requests(&self) -> Vec<String> {
        let mut connections = self
            .seen
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let records = std::mem::take(&mut *connections);
        records
            .into_iter()
            .flat_map(|(_, received)| received.requests)
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.seen.stop.store(true, Ordering::Relaxed);
    }
}

/// Copies what it reads to the server's record before anyone interprets it.
struct Recorder<'a>(&'a TcpStream, SocketAddr, &'a Seen);

impl Read for Recorder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.0.read(buffer)?;
        self.2
            .record(self.1, |received| received.bytes.extend(&buffer[..len]));
        Ok(len)
    }
}

fn serve(stream: TcpStream, peer: SocketAddr, seen: &Seen) {
    // A connection that breaks is the client's business.
    let _broken = serve_connection(&stream, peer, seen);
    seen.record(peer, |received| received.is_over = true);
}

fn serve_connection(stream: &TcpStream, peer: SocketAddr, seen: &Seen) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(wait::LONG))?;
    let mut reader = BufReader::new(Recorder(stream, peer, seen));
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).context("no path")?.to_owned();
        let body = read_headers(&mut reader)?;
        io::copy(&mut (&mut reader).take(body), &mut io::sink())?;
        seen.record(peer, |received| received.requests.push(path.clone()));
        let body = format!("served {path}\n");
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        // In one piece: several writes would wait for each other's acknowledgments.
        (&*stream).write_all(response.as_bytes())?;
    }
}

/// Reads to the end of a head; returns the length of the body that follows.
fn read_headers(reader: &mut impl BufRead) -> Result<u64> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::Error::from(ErrorKind::UnexpectedEof).into());
        }
        if line == "\r\n" {
            return Ok(length);
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse()?;
        }
    }
}

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: String,
}

impl Response {
    /// What a request gets that no rule allows.
    #[must_use]
    pub fn denied() -> Self {
        Self {
            status: 403,
            body: "Access denied\r\n".into(),
        }
    }

    /// What [`Server`] answers.
    #[must_use]
    pub fn served(path: &str) -> Self {
        Self {
            status: 200,
            body: format!("served {path}\n"),
        }
    }
}

/// A connection to a server.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    /// Connects from a namespace.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn connect(netns: &Netns, address: SocketAddr) -> Result<Self> {
        let stream = netns
            .enter(|| TcpStream::connect_timeout(&address, wait::LONG))
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_read_timeout(Some(wait::LONG))?;
        stream.set_write_timeout(Some(wait::LONG))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            reader: BufReader::new(stream),
        })
    }

    /// The socket.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// The client's own end, by which a server knows it.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.stream().local_addr()?)
    }

    /// Sends a request without a body.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn send(&mut self, path: &str) -> Result<()> {
        Ok(self.stream().write_all(request(path).as_bytes())?)
    }

    /// Reads one response.
    ///
    /// # Errors
    /// The connection is broken, or this is no HTTP.
    pub fn response(&mut self) -> Result<Response> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        let status = line
            .split(' ')
            .nth(1)
            .with_context(|| format!("no status in {line:?}"))?
            .parse()?;
        let length = read_headers(&mut self.reader)?;
        let mut body = vec![0; usize::try_from(length)?];
        self.reader.read_exact(&mut body)?;
        Ok(Response {
            status,
            body: String::from_utf8(body)?,
        })
    }

    /// Asks and reads the response.
    ///
    /// # Errors
    /// See [`Client::response`].
    pub fn get(&mut self, path: &str) -> Result<Response> {
        self.send(path)?;
        self.response()
    }

    /// Everything up to the end of the connection, in whichever way it ends.
    ///
    /// # Errors
    /// It does not end.
    pub fn rest(mut self) -> Result<Vec<u8>> {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(rest),
            outcome => outcome.map(|_| rest).context("the connection does not end"),
        }
    }
}

/// A request without a body.
#[must_use]
pub fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: lab\r\n\r\n")
}

/// Asks once over a connection of its own.
///
/// # Errors
/// See [`Client::response`].
pub fn get(netns: &Netns, address: SocketAddr, path: &str) -> Result<Response> {
    Client::connect(netns, address)?.get(path)
}
