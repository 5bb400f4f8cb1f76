//! The test's server: HTTP that answers every request with what it saw, and UDP that echoes.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::USER_AGENT;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

/// Largest datagram that is echoed, bytes.
const MOST_DATAGRAM: usize = 2048;

/// What the server answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// The server's host name, which is its pod's name.
    pub server: String,
    /// The address that the request came from.
    pub from: String,
    /// The request's path.
    pub path: String,
    /// Requests by the kubelet so far: it names itself in `User-Agent`.
    pub kubelet_probes: u64,
    /// Requests for `/held` so far.
    pub held_requests: u64,
}

/// Requests that the test asks about.
#[derive(Debug, Default)]
struct Counts {
    kubelet: AtomicU64,
    held: AtomicU64,
}

/// Serves until it is ended; without any port it only waits.
///
/// # Errors
/// A port that cannot be bound.
pub async fn run(http: &[u16], udp: &[u16]) -> io::Result<()> {
    let server = hostname();
    let counts = Arc::new(Counts::default());
    let mut tasks = JoinSet::new();
    for port in http {
        let listener = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, *port)).await {
            Ok(listener) => listener,
            // A node without IPv6.
            Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).await?,
        };
        tasks.spawn(accept(listener, server.clone(), Arc::clone(&counts)));
    }
    for port in udp {
        let socket = match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, *port)).await {
            Ok(socket) => socket,
            Err(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, *port)).await?,
        };
        tasks.spawn(echo(socket));
    }
    // None of the tasks ends.
    tasks.spawn(std::future::pending());
    while tasks.join_next().await.is_some() {}
    Ok(())
}

fn hostname() -> String {
    // The kubelet sets it to the pod's name, or to the node's in the host's network.
    std::env::var("HOSTNAME").unwrap_or_default()
}

async fn accept(listener: TcpListener, server: String, counts: Arc<Counts>) {
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (server, counts) = (server.clone(), Arc::clone(&counts));
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let response = answer(&request, from, &server, &counts);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            // A client that goes away is the test's business, not the server's.
            connection.await.ok();
        });
    }
}

fn answer(
    request: &Request<Incoming>,
    from: SocketAddr,
    server: &str,
    counts: &Counts,
) -> Response<Full<Bytes>> {
    let agent = request.headers().get(USER_AGENT);
    let is_kubelet = agent.is_some_and(|agent| agent.as_bytes().starts_with(b"kube-probe/"));
    let is_held = request.uri().path() == "/held";
    let held = counts.held.fetch_add(u64::from(is_held), Ordering::Relaxed);
    let probes = counts.kubelet.fetch_add(u64::from(is_kubelet), Ordering::Relaxed);
    let echo = Echo {
        server: server.into(),
        from: from.ip().to_canonical().to_string(),
        path: request.uri().path().into(),
        kubelet_probes: probes,
        held_requests: held,
    };
    let body = serde_json::to_vec(&echo).unwrap_or_default();
    Response::new(Full::new(body.into()))
}

async fn echo(socket: UdpSocket) {
    let mut datagram = [0; MOST_DATAGRAM];
    loop {
        // Errors are those of earlier answers (ICMP); the next datagram may do better.
        if let Ok((length, from)) = socket.recv_from(&mut datagram).await
            && let Some(text) = datagram.get(..length)
        {
            socket.send_to(text, from).await.ok();
        }
    }
}
