//! What passes arrives unchanged and whole, and what the L7 gate refuses never reaches the server.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use sluice_e2e::http::{self, Client, Received, Response, Server};
use sluice_e2e::loss::Losses;
use sluice_e2e::suite::{self, Bed};
use sluice_e2e::{Lab, Pod, cases, wait};

const VIP4: &str = "10.96.0.90";
const VIP6: &str = "fd00:10:96::90";

/// Port of the server that computes digests, and of the one that remembers requests.
const FILES_PORT: u16 = 8080;
const RECORDS_PORT: u16 = 8081;
const UDP_PORT: u16 = 5001;
/// Ports of a server that accepts Multipath TCP: one with rules for requests, one without.
const MULTIPATH_PORTS: [u16; 2] = [8082, 8083];

const DOWNLOAD_BYTES: usize = 100_000_000;
const UPLOAD_BYTES: usize = 65_536;

/// Everything but `/denied`, on all ports that speak HTTP.
const POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: server, namespace: app}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
    - fromEndpoints: [{matchLabels: {app: client}}]
      toPorts:
        - ports: [{port: "8080", protocol: TCP}, {port: "8081", protocol: TCP}, {port: "8082", protocol: TCP}]
          rules: {http: [{method: GET, path: "/(big|allowed)?"}, {method: POST, path: "/digest"}]}
        - ports: [{port: "5001", protocol: UDP}, {port: "8083", protocol: TCP}]
"#;

/// `GET /big` sends a file, `POST /digest` answers with the SHA-256 of what it was sent.
const SERVER: &str = r#"
import hashlib, http.server, shutil, socket, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        with open(sys.argv[1], "rb") as file:
            self.send_response(200)
            self.send_header("Content-Length", str(file.seek(0, 2)))
            self.end_headers()
            file.seek(0)
            shutil.copyfileobj(file, self.wfile, 1 << 16)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        digest = hashlib.sha256(body).hexdigest().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(digest)))
        self.end_headers()
        self.wfile.write(digest)

class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6

Server(("::", int(sys.argv[2])), Handler).serve_forever()
"#;

/// Says whether a connection is of Multipath TCP (IPPROTO_MPTCP is 262, TCP_IS_MPTCP 43).
const MULTIPATH_SERVER: &str = r#"
import socket, sys, threading

def serve(port):
    listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 262)
    listener.bind(("::", port))
    listener.listen()
    while True:
        connection, _ = listener.accept()
        connection.recv(4096)
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n%d"
        connection.sendall(answer % connection.getsockopt(6, 43))
        connection.close()

for port in sys.argv[1:]:
    threading.Thread(target=serve, args=(int(port),)).start()
"#;

/// Offers Multipath TCP, and prints what the server says of the connection.
const MULTIPATH_CLIENT: &str = r#"
import socket, sys

family, _, _, _, address = socket.getaddrinfo(sys.argv[1], int(sys.argv[2]), type=socket.SOCK_STREAM)[0]
connection = socket.socket(family, socket.SOCK_STREAM, 262)
connection.settimeout(20)
connection.connect(address)
connection.sendall(b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n")
answer = b""
while part := connection.recv(4096):
    answer += part
print(answer[-1:].decode(), end="")
"#;

struct Integrity {
    lab: Lab,
    client: Pod,
    server: Pod,
    records: Server,
}

impl Bed for Integrity {
    fn prepare() -> Result<Self> {
        let mut lab = Lab::up("integrity")?;
        lab.run(&["agent", "start"])?;
        let client = lab.add_pod("app/client", "app=client")?;
        let server = lab.add_pod("app/server", "app=server")?;
        lab.run(&[
            "service",
            "add",
            "app/files",
            "--vip",
            VIP4,
            "--vip6",
            VIP6,
            "--port",
            "80:8080",
            "--selector",
            "app=server",
        ])?;
        lab.enforce(&[("server", POLICY)])?;
        let mut random = File::open("/dev/urandom")?;
        for (name, bytes) in [("big", DOWNLOAD_BYTES), ("upload", UPLOAD_BYTES)] {
            let mut content = vec![0; bytes];
            random.read_exact(&mut content)?;
            fs::write(lab.files().join(name), content)?;
        }
        let big = lab.files().join("big").display().to_string();
        lab.spawn(
            "app/server",
            &["/usr/bin/python3", "-c", SERVER, &big, &FILES_PORT.to_string()],
        )?;
        let records = Server::start(&server.netns, RECORDS_PORT)?;
        wait::until("the file server listens", wait::LONG, || {
            let port = FILES_PORT.to_string();
            Ok(lab
                .exec("app/server", &["nc", "-z", "127.0.0.1", &port])?
                .status
                .success()
                .then_some(()))
        })?;
        Ok(Self {
            lab,
            client,
            server,
            records,
        })
    }

    fn log(&self) -> String {
        self.lab.agent_log()
    }
}

fn main() -> ExitCode {
    suite::run::<Integrity>(cases![
        download_of_100_mb_through_an_l7_rule_is_intact,
        upload_of_64_kb_through_an_l7_rule_is_intact,
        request_in_segments_of_one_byte_is_answered,
        denied_request_in_segments_of_one_byte_never_reaches_the_server,
        second_of_two_pipelined_requests_is_denied,
        every_request_of_a_connection_is_judged,
        client_that_offers_multipath_tcp_is_served_by_plain_tcp_where_requests_are_judged,
        every_datagram_of_a_burst_is_received_or_counted,
    ])
}

impl Integrity {
    fn file_urls(&self) -> [String; 4] {
        let [pod4, pod6] = self.server.at(FILES_PORT);
        [
            pod4.to_string(),
            pod6.to_string(),
            format!("{VIP4}:80"),
            format!("[{VIP6}]:80"),
        ]
    }

    fn curl(&self, arguments: &[&str]) -> Result<String> {
        let command = [&["curl", "-sS", "--fail", "--max-time", "300"], arguments].concat();
        let output = self.lab.exec("app/client", &command)?;
        ensure!(
            output.status.success(),
            "curl: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn digest(&self, file: &str) -> Result<String> {
        let path = self.lab.files().join(file).display().to_string();
        let line = self.lab.on_node(&["sha256sum", &path])?;
        Ok(line.split(' ').next().context("no digest")?.to_owned())
    }

    /// Closes a connection; what the server has received by it.
    fn ended(&self, client: Client) -> Result<Received> {
        let peer = client.address()?;
        drop(client);
        self.records.ended(peer)
    }

    fn connect(&self, address: SocketAddr) -> Result<Client> {
        Client::connect(&self.client.netns, address)
    }
}

fn download_of_100_mb_through_an_l7_rule_is_intact(bed: &mut Integrity) -> Result<()> {
    let wanted = bed.digest("big")?;
    let received = bed.lab.files().join("received").display().to_string();
    for url in bed.file_urls() {
        bed.curl(&["-o", &received, &format!("http://{url}/big")])
            .with_context(|| url.clone())?;
        ensure!(bed.digest("received")? == wanted, "{url}: the file was changed");
        fs::remove_file(&received)?;
    }
    bed.lab.agent().expect_balanced_frames()
}

fn upload_of_64_kb_through_an_l7_rule_is_intact(bed: &mut Integrity) -> Result<()> {
    let wanted = bed.digest("upload")?;
    let data = format!("@{}", bed.lab.files().join("upload").display());
    for url in bed.file_urls() {
        // Without `Expect: 100-continue`: the body follows its head at once.
        let url = format!("http://{url}/digest");
        let seen = bed.curl(&["-H", "Expect:", "--data-binary", &data, &url])?;
        ensure!(seen == wanted, "{url}: the server has {seen}, sent was {wanted}");
    }
    Ok(())
}

fn send_by_bytes(client: &Client, text: &str) -> std::io::Result<()> {
    let mut stream = client.stream();
    for byte in text.bytes() {
        stream.write_all(&[byte])?;
    }
    Ok(())
}

fn request_in_segments_of_one_byte_is_answered(bed: &mut Integrity) -> Result<()> {
    for address in bed.server.at(RECORDS_PORT) {
        let mut client = bed.connect(address)?;
        for _ in 0..3 {
            send_by_bytes(&client, &http::request("/allowed"))?;
            ensure!(client.response()? == Response::served("/allowed"));
        }
        let received = bed.ended(client)?;
        ensure!(received.requests == ["/allowed"; 3]);
        ensure!(
            received.bytes == http::request("/allowed").repeat(3).as_bytes(),
            "bytes differ"
        );
    }
    Ok(())
}

fn denied_request_in_segments_of_one_byte_never_reaches_the_server(bed: &mut Integrity) -> Result<()> {
    for address in bed.server.at(RECORDS_PORT) {
        let mut client = bed.connect(address)?;
        // The connection may be closed before the last byte is written.
        let _closed = send_by_bytes(&client, &http::request("/denied"));
        ensure!(client.response()? == Response::denied());
        let peer = client.address()?;
        ensure!(client.rest()?.is_empty(), "something follows the denial");
        ensure!(bed.records.ended(peer)?.requests.is_empty());
    }
    Ok(())
}

fn second_of_two_pipelined_requests_is_denied(bed: &mut Integrity) -> Result<()> {
    for address in bed.server.at(RECORDS_PORT) {
        let client = bed.connect(address)?;
        let peer = client.address()?;
        let both = http::request("/allowed") + &http::request("/denied");
        client.stream().write_all(both.as_bytes())?;
        // The response to the first may come whole, in part or be cut off by the reset; of the second nothing may come but 403.
        let rest = String::from_utf8(client.rest()?)?;
        let served = "HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\nserved /allowed\n";
        ensure!(!rest.contains("served /denied"), "{rest:?}");
        let is_known = served.starts_with(&rest)
            || rest
                .strip_prefix(served)
                .is_some_and(|second| second.starts_with("HTTP/1.1 403 "))
            || rest.starts_with("HTTP/1.1 403 ");
        ensure!(is_known, "{rest:?}");
        let received = bed.records.ended(peer)?;
        let text = String::from_utf8_lossy(&received.bytes);
        ensure!(!text.contains("denied"), "the server has got {text:?}");
        ensure!(!received.requests.contains(&"/denied".to_owned()));
    }
    Ok(())
}

fn every_request_of_a_connection_is_judged(bed: &mut Integrity) -> Result<()> {
    for address in bed.server.at(RECORDS_PORT) {
        let mut client = bed.connect(address)?;
        let peer = client.address()?;
        for _ in 0..10 {
            ensure!(client.get("/allowed")? == Response::served("/allowed"));
        }
        ensure!(client.get("/denied")? == Response::denied());
        ensure!(
            client.rest()?.is_empty(),
            "the connection goes on after the denial"
        );
        let received = bed.records.ended(peer)?;
        ensure!(received.requests == ["/allowed"; 10]);
        let bytes = received.bytes;
        let wanted = http::request("/allowed").repeat(10);
        ensure!(
            bytes == wanted.as_bytes(),
            "the server received {:?}",
            String::from_utf8_lossy(&bytes)
        );
    }
    Ok(())
}

fn client_that_offers_multipath_tcp_is_served_by_plain_tcp_where_requests_are_judged(
    bed: &mut Integrity,
) -> Result<()> {
    let python = "/usr/bin/python3";
    let [judged, plain] = MULTIPATH_PORTS.map(|port| port.to_string());
    bed.lab
        .spawn("app/server", &[python, "-c", MULTIPATH_SERVER, &judged, &plain])?;
    wait::until("the server listens", wait::LONG, || {
        let listens = |port| bed.lab.exec("app/server", &["nc", "-z", "127.0.0.1", port]);
        let both = listens(&judged)?.status.success() && listens(&plain)?.status.success();
        Ok(both.then_some(()))
    })?;
    for address in bed.server.addresses() {
        let address = address.to_string();
        for (port, is_multipath) in [(&judged, "0"), (&plain, "1")] {
            let client = [python, "-c", MULTIPATH_CLIENT, &address, port];
            let output = bed.lab.exec("app/client", &client)?;
            let seen = String::from_utf8_lossy(&output.stdout);
            ensure!(seen == is_multipath, "{address} port {port}: {output:?}");
        }
    }
    Ok(())
}

/// As fast as one thread can, so that queues overflow.
const BURST: u64 = 50_000;

fn every_datagram_of_a_burst_is_received_or_counted(bed: &mut Integrity) -> Result<()> {
    let Integrity {
        lab, client, server, ..
    } = bed;
    let (agent, node) = (lab.agent(), lab.node());
    for address in server.at(UDP_PORT) {
        let before = Losses::count(&agent, &node, &[client, server])?;
        let socket = server
            .netns
            .enter(|| UdpSocket::bind((IpAddr::V6(Ipv6Addr::UNSPECIFIED), UDP_PORT)))?;
        setsockopt(&socket, sockopt::RcvBufForce, &(1 << 20))?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| -> Result<()> {
            let receiver = scope.spawn(|| {
                let mut received = 0_u64;
                let mut buffer = [0; 2048];
                loop {
                    match socket.recv(&mut buffer) {
                        Ok(_) => received += 1,
                        Err(_) if done.load(Ordering::Relaxed) => return received,
                        Err(_) => {}
                    }
                }
            });
            let sent = client.netns.enter(|| burst(address));
            let losses = sent.as_ref().map(|_| ()).map_err(|error| format!("{error:#}"));
            let mut last = Losses::default();
            let settled = wait::until("counters rest", wait::LONG, || {
                let now = Losses::count(&agent, &node, &[client, server])?;
                let rests = now == last;
                last = now;
                Ok(rests.then_some(()))
            });
            // Receiving ends once nothing has come for a while and the counters rest.
            done.store(true, Ordering::Relaxed);
            let received = receiver.join().unwrap_or(0);
            losses.map_err(anyhow::Error::msg)?;
            settled?;
            let sent = sent?;
            let losses = Losses::count(&agent, &node, &[client, server])?.since(&before);
            println!("    {address}: sent {sent}, received {received}, counted {losses:?}");
            ensure!(received > 0, "nothing arrived");
            ensure!(
                sent == received + losses.total(),
                "sent {sent}, received {received}, counted {losses:?}"
            );
            Ok(())
        })?;
    }
    lab.agent().expect_balanced_frames()
}

/// Sends datagrams to an address; those that the kernel did not take do not count.
fn burst(address: SocketAddr) -> Result<u64> {
    let any: SocketAddr = if address.is_ipv4() {
        "0.0.0.0:0".parse()?
    } else {
        "[::]:0".parse()?
    };
    let socket = UdpSocket::bind(any)?;
    let mut sent = 0;
    for number in 0..BURST {
        let mut data = [0; 512];
        data[..8].copy_from_slice(&number.to_le_bytes());
        match socket.send_to(&data, address) {
            Ok(_) => sent += 1,
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(sent)
}
