//! Mixed traffic for as long as one likes: every byte and every datagram is accounted for.
//!
//! Long and short TCP connections, straight and through a Service, HTTP through an L7 rule with some denied requests, and UDP at a
//! steady rate, in both families, while policies come and go. TCP must be byte-exact and never break; a datagram arrives unchanged
//! or is found in a counter of its path.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::http::{Client, Response, Server};
use crate::lab::Lab;
use crate::loss::Losses;
use crate::netns::Netns;
use crate::pod::Pod;
use crate::wait;

const ECHO_PORT: u16 = 5000;
const HTTP_PORT: u16 = 8080;
const UDP_PORT: u16 = 5001;
const VIP: &str = "10.96.1.80:80";
const VIP6: &str = "[fd00:10:96::1:80]:80";

/// Bytes of a long connection, each way.
const STREAM_BYTES: u64 = 8 << 20;

/// Datagrams that are sent at once.
const UDP_BATCH: usize = 16;

/// Between two batches: the rate is steady, not the highest.
const UDP_PAUSE: Duration = Duration::from_millis(4);

/// What the policy is meant for; the second is added and taken away all the time.
const POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: server, namespace: mix}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
    - fromEndpoints: [{matchLabels: {app: client}}]
      toPorts:
        - ports: [{port: "5000", protocol: TCP}, {port: "5001", protocol: UDP}]
        - ports: [{port: "8080", protocol: TCP}]
          rules: {http: [{method: GET, path: "/allowed/.*"}]}
"#;
const PASSING_POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: passing, namespace: mix}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
    - fromEndpoints: [{matchLabels: {app: nobody}}]
      toPorts: [{ports: [{port: "9", protocol: TCP}]}]
"#;

/// What went through.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Bytes echoed and compared.
    pub tcp_bytes: u64,
    /// Connections made.
    pub tcp_connections: u64,
    /// Requests answered as allowed.
    pub http_allowed: u64,
    /// Requests answered as denied.
    pub http_denied: u64,
    /// Requests denied by a reset: the gate had lost sight of the response before it, because a segment of it was lost.
    pub http_reset: u64,
    /// Datagrams sent.
    pub udp_sent: u64,
    /// Datagrams received, each once and unchanged.
    pub udp_received: u64,
    /// Where the others were counted.
    pub udp_losses: Losses,
    /// Policy changes meanwhile.
    pub policy_changes: u64,
}

/// Counts of all clients.
#[derive(Debug, Default)]
struct Tally {
    stop: AtomicBool,
    tcp_bytes: AtomicU64,
    tcp_connections: AtomicU64,
    http_allowed: AtomicU64,
    http_denied: AtomicU64,
    http_reset: AtomicU64,
    udp_sent: AtomicU64,
    udp_received: AtomicU64,
}

impl Tally {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

/// A xorshift generator (Marsaglia, 2003): what a byte of a stream must be is known at both ends without keeping it.
#[derive(Debug, Clone)]
struct Pattern(u64);

impl Pattern {
    const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap_or(0)
    }
}

/// Runs the traffic over a lab that has an agent and nothing else.
///
/// # Errors
/// A byte was wrong, a connection broke, or a datagram is missing without a trace.
pub fn run(lab: &mut Lab, duration: Duration) -> Result<Report> {
    let client = lab.add_pod("mix/client", "app=client,of=tcp")?;
    let server = lab.add_pod("mix/server", "app=server,of=tcp")?;
    let udp_client = lab.add_pod("mix/udp-client", "app=client,of=udp")?;
    let udp_server = lab.add_pod("mix/udp-server", "app=server,of=udp")?;
    let (vip, vip6) = ("10.96.1.80", "fd00:10:96::1:80");
    lab.run(&[
        "service",
        "add",
        "mix/echo",
        "--vip",
        vip,
        "--vip6",
        vip6,
        "--port",
        "80:5000",
        "--selector",
        "app=server,of=tcp",
    ])?;
    lab.enforce(&[("server", POLICY)])?;

    let tally = Arc::new(Tally::default());
    let http = Server::start(&server.netns, HTTP_PORT)?;
    // Ends after the clients.
    let echo_stop = Arc::new(AtomicBool::new(false));
    let echo = echo_server(&server.netns, &echo_stop)?;
    let before = Losses::count(&lab.agent(), &lab.node(), &[&udp_client, &udp_server])?;
    let receiver = udp_receiver(&udp_server.netns, &tally)?;

    let mut threads = Vec::new();
    let (vip, vip6): (SocketAddr, SocketAddr) = (VIP.parse()?, VIP6.parse()?);
    for (seed, address) in (1..).zip([server.at4(ECHO_PORT), server.at6(ECHO_PORT), vip]) {
        threads.push(spawn(&client, &tally, move |netns, tally| {
            streams(netns, tally, address, seed)
        }));
    }
    for (seed, address) in (11..).zip([server.at4(ECHO_PORT), vip, vip6]) {
        threads.push(spawn(&client, &tally, move |netns, tally| {
            short_connections(netns, tally, address, seed)
        }));
    }
    for address in server.at(HTTP_PORT) {
        threads.push(spawn(&client, &tally, move |netns, tally| {
            requests(netns, tally, address)
        }));
    }
    let targets = udp_server.at(UDP_PORT);
    threads.push(spawn(&udp_client, &tally, move |netns, tally| {
        datagrams(netns, tally, targets)
    }));

    let mut report = Report::default();
    let outcome = until_over(lab, duration, &threads, &mut report.policy_changes);
    tally.stop.store(true, Ordering::Relaxed);
    let ended: Vec<Result<()>> = threads.into_iter().map(join).collect();
    outcome?;
    ended.into_iter().collect::<Result<()>>()?;

    report.udp_sent = tally.udp_sent.load(Ordering::Relaxed);
    let accounted = wait::until("every datagram was received or counted", wait::LONG, || {
        report.udp_received = tally.udp_received.load(Ordering::Relaxed);
        report.udp_losses =
            Losses::count(&lab.agent(), &lab.node(), &[&udp_client, &udp_server])?.since(&before);
        Ok((report.udp_received + report.udp_losses.total() >= report.udp_sent).then_some(()))
    });
    accounted.with_context(|| format!("{report:?}"))?;
    receiver.stop.store(true, Ordering::Relaxed);
    join(receiver.thread)?;
    echo_stop.store(true, Ordering::Relaxed);
    join(echo)?;
    report.tcp_bytes = tally.tcp_bytes.load(Ordering::Relaxed);
    report.tcp_connections = tally.tcp_connections.load(Ordering::Relaxed);
    report.http_allowed = tally.http_allowed.load(Ordering::Relaxed);
    report.http_denied = tally.http_denied.load(Ordering::Relaxed);
    report.http_reset = tally.http_reset.load(Ordering::Relaxed);
    let requests = http.take_requests();
    ensure!(
        requests.iter().all(|path| path.starts_with("/allowed/")),
        "a denied request reached the server"
    );
    lab.agent().expect_balanced_frames()?;
    Ok(report)
}

/// Changes policies until time is up or a client has ended too early.
fn until_over(
    lab: &mut Lab,
    duration: Duration,
    threads: &[JoinHandle<Result<()>>],
    changes: &mut u64,
) -> Result<()> {
    let deadline = Instant::now() + duration;
    while Instant::now() < deadline {
        if threads.iter().any(JoinHandle::is_finished) {
            return Ok(());
        }
        lab.enforce(&[("server", POLICY), ("passing", PASSING_POLICY)])?;
        lab.enforce(&[("server", POLICY)])?;
        *changes += 2;
    }
    Ok(())
}

fn spawn(
    pod: &Pod,
    tally: &Arc<Tally>,
    work: impl FnOnce(&Netns, &Tally) -> Result<()> + Send + 'static,
) -> JoinHandle<Result<()>> {
    let (netns, tally) = (pod.netns.clone(), Arc::clone(tally));
    thread::spawn(move || work(&netns, &tally))
}

fn join(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread
        .join()
        .unwrap_or_else(|_panicked| Err(anyhow!("a thread panicked")))
}

fn connect(netns: &Netns, tally: &Tally, address: SocketAddr) -> Result<TcpStream> {
    let stream = netns
        .enter(|| TcpStream::connect_timeout(&address, wait::LONG))
        .with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(wait::LONG))?;
    stream.set_write_timeout(Some(wait::LONG))?;
    tally.tcp_connections.fetch_add(1, Ordering::Relaxed);
    Ok(stream)
}

/// Sends back what comes, connection by connection, each on a thread of its own.
fn echo_server(netns: &Netns, stop: &Arc<AtomicBool>) -> Result<JoinHandle<Result<()>>> {
    let listener = netns.enter(|| TcpListener::bind((IpAddr::V6(Ipv6Addr::UNSPECIFIED), ECHO_PORT)))?;
    listener.set_nonblocking(true)?;
    let stop = Arc::clone(stop);
    Ok(thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((mut stream, _)) => drop(thread::spawn(move || -> Result<()> {
                    stream.set_nonblocking(false)?;
                    let mut buffer = vec![0; 1 << 16];
                    loop {
                        match stream.read(&mut buffer)? {
                            0 => return Ok(()),
                            len => stream.write_all(&buffer[..len])?,
                        }
                    }
                })),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(Duration::from_millis(2))
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }))
}

/// Sends `len` bytes of a pattern and compares what comes back, while it is still being sent.
fn echo(stream: &TcpStream, seed: u64, len: u64, tally: &Tally) -> Result<()> {
    let writer = stream.try_clone()?;
    thread::scope(|scope| -> Result<()> {
        let sent = scope.spawn(move || -> Result<()> {
            let (mut pattern, mut sizes) = (Pattern::new(seed), Pattern::new(!seed));
            let mut buffer = vec![0; 1 << 16];
            let mut left = len;
            while left > 0 {
                // Multiples of the pattern's word, so that both ends fill alike.
                let size = ((1 + sizes.below(1 << 13)) * 8).min(usize::try_from(left)?);
                pattern.fill(&mut buffer[..size]);
                (&writer).write_all(&buffer[..size])?;
                left -= size as u64;
            }
            Ok(())
        });
        let mut pattern = Pattern::new(seed);
        let (mut got, mut wanted) = (vec![0; 1 << 13], vec![0; 1 << 13]);
        let mut left = len;
        while left > 0 {
            let size = usize::try_from(left.min(1 << 13))?;
            (&*stream)
                .read_exact(&mut got[..size])
                .with_context(|| format!("{left} bytes are missing"))?;
            pattern.fill(&mut wanted[..size]);
            ensure!(
                got[..size] == wanted[..size],
                "bytes differ, {left} before the end"
            );
            tally.tcp_bytes.fetch_add(size as u64, Ordering::Relaxed);
            left -= size as u64;
        }
        sent.join()
            .unwrap_or_else(|_panicked| Err(anyhow!("the writer panicked")))
    })
}

fn streams(netns: &Netns, tally: &Tally, address: SocketAddr, mut seed: u64) -> Result<()> {
    while tally.goes_on() {
        let stream = connect(netns, tally, address)?;
        echo(&stream, seed, STREAM_BYTES, tally).with_context(|| format!("stream to {address}"))?;
        seed += 1000;
    }
    Ok(())
}

fn short_connections(netns: &Netns, tally: &Tally, address: SocketAddr, mut seed: u64) -> Result<()> {
    let mut sizes = Pattern::new(seed);
    while tally.goes_on() {
        let stream = connect(netns, tally, address)?;
        let len = 8 * (1 + sizes.below(500)) as u64;
        echo(&stream, seed, len, tally).with_context(|| format!("short connection to {address}"))?;
        seed += 1000;
    }
    Ok(())
}

fn requests(netns: &Netns, tally: &Tally, address: SocketAddr) -> Result<()> {
    while tally.goes_on() {
        let mut client = Client::connect(netns, address)?;
        tally.tcp_connections.fetch_add(1, Ordering::Relaxed);
        for number in 0..100 {
            let path = format!("/allowed/{number}");
            let response = client.get(&path).with_context(|| format!("{address}{path}"))?;
            ensure!(response == Response::served(&path), "{path}: {response:?}");
            tally.http_allowed.fetch_add(1, Ordering::Relaxed);
        }
        match client.get("/denied") {
            Ok(response) => {
                ensure!(response == Response::denied(), "/denied: {response:?}");
                tally.http_denied.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if is_reset(&error) => {
                tally.http_reset.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => return Err(error.context("/denied")),
        }
    }
    Ok(())
}

fn is_reset(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

/// Sends numbered datagrams to both addresses in turn.
fn datagrams(netns: &Netns, tally: &Tally, targets: [SocketAddr; 2]) -> Result<()> {
    let [v4, v6] = netns.enter(|| [UdpSocket::bind("0.0.0.0:0"), UdpSocket::bind("[::]:0")]);
    let sockets = [v4?, v6?];
    let (mut number, mut sizes) = (0_u64, Pattern::new(99));
    let mut buffer = vec![0; 1400];
    while tally.goes_on() {
        for _ in 0..UDP_BATCH {
            let len = 16 + sizes.below(1300);
            write_datagram(&mut buffer[..len], number);
            let way = usize::from(number % 2 == 1);
            match sockets[way].send_to(&buffer[..len], targets[way]) {
                Ok(_) => {
                    tally.udp_sent.fetch_add(1, Ordering::Relaxed);
                    number += 1;
                }
                // The queue of the interface: not sent at all.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {}
                Err(error) => return Err(error.into()),
            }
        }
        thread::sleep(UDP_PAUSE);
    }
    Ok(())
}

fn write_datagram(bytes: &mut [u8], number: u64) {
    let (head, body) = bytes.split_at_mut(8);
    head.copy_from_slice(&number.to_le_bytes());
    Pattern::new(number).fill(body);
}

#[derive(Debug)]
struct UdpReceiver {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

/// Receives datagrams, checks each and counts it once.
fn udp_receiver(netns: &Netns, tally: &Arc<Tally>) -> Result<UdpReceiver> {
    let socket = netns.enter(|| UdpSocket::bind((IpAddr::V6(Ipv6Addr::UNSPECIFIED), UDP_PORT)))?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let stop = Arc::new(AtomicBool::new(false));
    let (tally, stopped) = (Arc::clone(tally), Arc::clone(&stop));
    let thread = thread::spawn(move || {
        let (mut buffer, mut wanted) = (vec![0; 2048], vec![0; 2048]);
        let mut seen: Vec<bool> = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            let len = match socket.recv(&mut buffer) {
                Ok(len) => len,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                Err(error) => return Err(error.into()),
            };
            let number = u64::from_le_bytes(*buffer.first_chunk().context("no number")?);
            ensure!(len >= 16, "datagram of {len} bytes");
            write_datagram(&mut wanted[..len], number);
            ensure!(buffer[..len] == wanted[..len], "datagram {number} was changed");
            let at = usize::try_from(number)?;
            if seen.len() <= at {
                seen.resize(at + 1, false);
            }
            ensure!(
                !std::mem::replace(&mut seen[at], true),
                "datagram {number} came twice"
            );
            tally.udp_received.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    });
    Ok(UdpReceiver { stop, thread })
}
