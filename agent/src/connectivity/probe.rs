//! The test's client: one probe, and what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HOST;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio::time::{Instant, timeout};

use super::serve::Echo;

/// What datagrams say.
const PAYLOAD: &[u8] = b"sluice connectivity";

/// Between two datagrams that ask for the same, and two requests on a connection that is held.
const INTERVAL: Duration = Duration::from_millis(200);

/// Most of a body that is read, bytes.
const MOST_BODY: usize = 64 * 1024;

/// Type of an echo request: RFC 792, and RFC 4443 section 4.1.
const ECHO_REQUEST: [u8; 2] = [8, 128];
/// Type of an echo reply.
const ECHO_REPLY: [u8; 2] = [0, 129];

/// What to probe.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeSpec {
    /// `http`, `tcp`, `udp` or `icmp`, then host and port.
    pub url: String,
    /// HTTP method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// HTTP headers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Keep the HTTP connection for so long, milliseconds, and ask again and again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_ms: Option<u64>,
    /// Ask by HTTP so many times, each by a connection of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
}

impl FromStr for ProbeSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let spec = if text.starts_with('{') {
            serde_json::from_str(text).map_err(|error| error.to_string())?
        } else {
            Self {
                url: text.into(),
                ..Self::default()
            }
        };
        let uri: Uri = spec
            .url
            .parse()
            .map_err(|error| format!("{}: {error}", spec.url))?;
        match (uri.scheme_str(), uri.host(), uri.port_u16()) {
            (Some("http" | "tcp" | "udp"), Some(_), Some(_)) | (Some("icmp"), Some(_), None) => Ok(spec),
            _ => Err(format!(
                "{}: expected http, tcp or udp with host and port, or icmp with a host",
                spec.url
            )),
        }
    }
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// It was answered.
    Answered {
        /// HTTP status.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
        /// What the test's server saw, if it was the one that answered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        echo: Option<Echo>,
    },
    /// All of several connections were answered with status 200.
    Spread {
        /// The test's servers that did.
        servers: BTreeSet<String>,
    },
    /// A connection that was to be held was answered for the whole time.
    Held {
        /// Requests that were answered.
        rounds: u32,
    },
    /// A connection that was to be held broke off.
    Cut {
        /// Requests that were answered.
        rounds: u32,
    },
    /// Nothing came back.
    TimedOut,
    /// RST, or ICMP port unreachable.
    Refused,
    /// RST after the connection was there.
    Reset,
    /// ICMP unreachable, or no route.
    Unreachable,
    /// The name has no address.
    Unresolved {
        /// Why not.
        message: String,
    },
    /// Something else.
    Failed {
        /// What.
        message: String,
    },
}

/// Probes, and waits at most `limit` for each answer.
pub async fn run(spec: &ProbeSpec, limit: Duration) -> Outcome {
    let Ok(uri) = spec.url.parse::<Uri>() else {
        return failed("not a URL");
    };
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let resolved = timeout(limit, lookup_host((host, uri.port_u16().unwrap_or(0)))).await;
    let address = match resolved.map(|found| found.map(|mut addresses| addresses.next())) {
        Ok(Ok(Some(address))) => address,
        Ok(Ok(None)) => return unresolved("no address"),
        Ok(Err(error)) => return unresolved(&error.to_string()),
        Err(_) => return unresolved("no answer from the name server"),
    };
    if uri.scheme_str() == Some("http")
        && let Some(hold) = spec.hold_ms
    {
        return held(spec, &uri, address, Duration::from_millis(hold), limit).await;
    }
    if uri.scheme_str() == Some("http")
        && let Some(times) = spec.times
    {
        return spread(spec, &uri, address, times, limit).await;
    }
    let probe = async {
        match uri.scheme_str() {
            Some("udp") => udp(address).await.map(|()| answered()),
            Some("icmp") => icmp(address.ip(), limit).await.map(|()| answered()),
            Some("http") => http(spec, &uri, address).await,
            _ => TcpStream::connect(address).await.map(|_| answered()),
        }
    };
    match timeout(limit, probe).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => of_error(&error),
        Err(_) => Outcome::TimedOut,
    }
}

const fn answered() -> Outcome {
    Outcome::Answered {
        status: None,
        echo: None,
    }
}

fn failed(message: &str) -> Outcome {
    Outcome::Failed {
        message: message.into(),
    }
}

fn unresolved(message: &str) -> Outcome {
    Outcome::Unresolved {
        message: message.into(),
    }
}

fn of_error(error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Outcome::TimedOut,
        io::ErrorKind::ConnectionRefused => Outcome::Refused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
            Outcome::Reset
        }
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Outcome::Unreachable,
        _ => failed(&error.to_string()),
    }
}

async fn connect(address: SocketAddr) -> io::Result<SendRequest<Empty<Bytes>>> {
    let stream = TcpStream::connect(address).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io_error)?;
    tokio::spawn(connection);
    Ok(sender)
}

/// What the connection failed of; hyper keeps it as a source.
fn io_error(error: hyper::Error) -> io::Error {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(cause) = source {
        if let Some(cause) = cause.downcast_ref::<io::Error>() {
            return io::Error::new(cause.kind(), error.to_string());
        }
        source = cause.source();
    }
    let is_end = error.is_incomplete_message() || error.is_canceled() || error.is_closed();
    let kind = if is_end {
        io::ErrorKind::ConnectionReset
    } else {
        io::ErrorKind::Other
    };
    io::Error::new(kind, error)
}

async fn ask(sender: &mut SendRequest<Empty<Bytes>>, spec: &ProbeSpec, uri: &Uri) -> io::Result<Outcome> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let mut request = Request::builder()
        .method(spec.method.as_deref().unwrap_or("GET"))
        .uri(path)
        .header(HOST, host);
    for (name, value) in &spec.headers {
        request = request.header(name, value);
    }
    let request = request
        .body(Empty::new())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let response = sender.send_request(request).await.map_err(io_error)?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MOST_BODY).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    Ok(Outcome::Answered {
        status: Some(status),
        echo: serde_json::from_slice(&body).ok(),
    })
}

async fn http(spec: &ProbeSpec, uri: &Uri, address: SocketAddr) -> io::Result<Outcome> {
    ask(&mut connect(address).await?, spec, uri).await
}

/// Asks on one connection until `hold` is over or it is not answered within `limit`.
async fn held(spec: &ProbeSpec, uri: &Uri, address: SocketAddr, hold: Duration, limit: Duration) -> Outcome {
    let mut sender = match timeout(limit, connect(address)).await {
        Ok(Ok(sender)) => sender,
        Ok(Err(error)) => return of_error(&error),
        Err(_) => return Outcome::TimedOut,
    };
    let end = Instant::now() + hold;
    let mut rounds = 0;
    while Instant::now() < end {
        match timeout(limit, ask(&mut sender, spec, uri)).await {
            Ok(Ok(_)) => rounds += 1,
            Ok(Err(_)) | Err(_) => return Outcome::Cut { rounds },
        }
        tokio::time::sleep(INTERVAL).await;
    }
    Outcome::Held { rounds }
}

/// Asks by `times` connections, one after the other; the first that gets no answer of the test's ends it.
async fn spread(spec: &ProbeSpec, uri: &Uri, address: SocketAddr, times: u32, limit: Duration) -> Outcome {
    let mut servers = BTreeSet::new();
    for _ in 0..times {
        match timeout(limit, http(spec, uri, address)).await {
            Ok(Ok(Outcome::Answered {
                status: Some(200),
                echo: Some(echo),
            })) => servers.insert(echo.server),
            Ok(Ok(other)) => return other,
            Ok(Err(error)) => return of_error(&error),
            Err(_) => return Outcome::TimedOut,
        };
    }
    Outcome::Spread { servers }
}

async fn udp(address: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).await?;
    socket.connect(address).await?;
    let mut datagram = [0; 64];
    loop {
        socket.send(PAYLOAD).await?;
        if let Ok(received) = timeout(INTERVAL, socket.recv(&mut datagram)).await
            && datagram.get(..received?) == Some(PAYLOAD)
        {
            return Ok(());
        }
    }
}

/// One echo request and its reply. The kernel gives a raw socket every ICMP packet, so that the identifier tells.
async fn icmp(address: IpAddr, limit: Duration) -> io::Result<()> {
    tokio::task::spawn_blocking(move || echo(address, limit))
        .await
        .map_err(io::Error::other)?
}

fn echo(address: IpAddr, limit: Duration) -> io::Result<()> {
    use std::io::Read;

    use socket2::{Domain, Protocol, Socket, Type};

    let family = usize::from(address.is_ipv6());
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.connect(&SocketAddr::new(address, 0).into())?;
    let end = std::time::Instant::now() + limit;
    let identifier = std::process::id().to_be_bytes();
    let mut request = vec![ECHO_REQUEST[family], 0, 0, 0, identifier[2], identifier[3], 0, 1];
    request.extend_from_slice(PAYLOAD);
    // ICMPv6's is the kernel's business.
    let checksum = checksum(&request).to_be_bytes();
    request[2..4].copy_from_slice(&checksum);
    socket.send(&request)?;
    let mut packet = [0; 1500];
    loop {
        let left = end.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let length = (&socket).read(&mut packet)?;
        let packet = packet.get(..length).unwrap_or_default();
        // IPv4 raw sockets deliver the IP header, too.
        let header = match packet.first() {
            Some(first) if family == 0 => usize::from(first & 0xf) * 4,
            _ => 0,
        };
        let reply = packet.get(header..).unwrap_or_default();
        if reply.first() == Some(&ECHO_REPLY[family]) && reply.get(4..6) == request.get(4..6) {
            return Ok(());
        }
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_a_url_or_an_object() {
        assert_eq!(
            "tcp://10.0.0.1:80".parse::<ProbeSpec>().unwrap().url,
            "tcp://10.0.0.1:80"
        );
        assert!("http://[fd00::1]:80/a?b".parse::<ProbeSpec>().is_ok());
        let spec: ProbeSpec = r#"{"url":"http://a:1/","method":"PUT","headers":{"X-A":"b"}}"#
            .parse()
            .unwrap();
        assert_eq!(
            (spec.method.as_deref(), spec.headers["X-A"].as_str()),
            (Some("PUT"), "b")
        );
        for wrong in [
            "10.0.0.1:80",
            "http://a/",
            "icmp://a:1",
            "ftp://a:1",
            "{",
            r#"{"url":"tcp://a:1","hold":1}"#,
        ] {
            assert!(wrong.parse::<ProbeSpec>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn checksum_of_a_message_with_its_checksum_is_zero() {
        let mut message = vec![8, 0, 0, 0, 1, 2, 0, 1, 7];
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
        assert_eq!(checksum(&message), 0);
    }

    #[tokio::test]
    async fn answers_refusals_and_cuts_are_told_apart() {
        // A port that nothing has: bound and closed again.
        let free = || {
            std::net::UdpSocket::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port()
        };
        let (http, udp, closed) = (free(), free(), free());
        let server = tokio::spawn(async move { super::super::serve::run(&[http], &[udp]).await });
        let limit = Duration::from_millis(1000);
        let probe = |url: String| async move { run(&url.parse().unwrap(), limit).await };
        let deadline = Instant::now() + Duration::from_secs(10);
        let answer = loop {
            let answer = probe(format!("http://127.0.0.1:{http}/a")).await;
            if answer != Outcome::Refused || Instant::now() > deadline {
                break answer;
            }
            tokio::task::yield_now().await;
        };
        let Outcome::Answered {
            status: Some(200),
            echo: Some(echo),
        } = answer
        else {
            panic!("{answer:?}");
        };
        assert_eq!((echo.path.as_str(), echo.from.as_str()), ("/a", "127.0.0.1"));
        assert_eq!(probe(format!("udp://127.0.0.1:{udp}")).await, answered());
        assert_eq!(probe(format!("tcp://127.0.0.1:{http}")).await, answered());
        assert_eq!(probe(format!("tcp://127.0.0.1:{closed}")).await, Outcome::Refused);
        assert_eq!(probe(format!("udp://127.0.0.1:{closed}")).await, Outcome::Refused);
        let held = format!(r#"{{"url":"http://127.0.0.1:{http}/","hold_ms":300}}"#);
        assert!(matches!(probe(held).await, Outcome::Held { rounds: 1.. }));
        server.abort();
    }
}
