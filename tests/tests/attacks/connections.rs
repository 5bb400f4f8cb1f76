//! TCP connections that are not what they seem.

use crate::*;

pub fn midstream_segment_on_an_l7_port_is_dropped_and_reset(bed: &mut Attacks) -> Result<()> {
    let friend = &bed.friend;
    let data = http::request("/secret");
    let mut frames = Vec::new();
    for (from, to) in friend.at(26_000).into_iter().zip(bed.server.at(HTTP_PORT)) {
        for (flags, data) in [
            (packets::ACK | packets::PSH, data.as_bytes()),
            (packets::ACK, b""),
            (packets::ACK | packets::FIN, b""),
            (packets::SYN | packets::ACK, b""),
        ] {
            frames.push(friend.framed(&packets::tcp(
                from,
                to,
                &Segment {
                    seq: 5,
                    ack: 6,
                    flags,
                    data,
                },
            )));
        }
    }
    let back = friend.tap()?;
    bed.fails(
        DropReason::Midstream,
        &friend.injector()?,
        &friend.netns,
        &bed.server,
        &frames,
    )?;
    let resets = back
        .packets()?
        .iter()
        .filter(|packet| packet.tcp_flags() & packets::RST != 0)
        .count();
    ensure!(
        resets == frames.len(),
        "{} segments, {resets} resets",
        frames.len()
    );
    ensure!(bed.guarded.ended_requests()?.is_empty());
    Ok(())
}

pub fn source_ports_of_servers_open_nothing(bed: &mut Attacks) -> Result<()> {
    let mut frames = Vec::new();
    for source in [TCP_PORT, HTTP_PORT, UDP_PORT, 7, 53, 80, 443] {
        for (from, to) in bed.stranger.at(source).into_iter().zip(bed.server.at(TCP_PORT)) {
            frames.push(bed.stranger.framed(&packets::syn(from, to)));
            let to = SocketAddr::new(to.ip(), UDP_PORT);
            frames.push(bed.stranger.framed(&packets::udp(from, to, b"attack")));
        }
    }
    bed.stranger_fails(DropReason::PolicyDenied, &frames)
}

/// In the server: segments with PSH get lost.
const LOSE_PUSHED: &str = "table inet lose-pushed { chain input { type filter hook input priority 0; tcp flags & psh == psh tcp dport 8080 drop; }; }";

/// In a client: its kernel knows nothing of the connection and would reset it.
const LOSE_RESETS: &str = "table inet raw-client { chain output { type filter hook output priority 0; tcp flags & rst == rst drop; }; }";

/// A TCP client by hand, at a port where its kernel does not answer for it.
struct RawClient<'a> {
    pod: &'a Pod,
    injector: Injector,
    from: SocketAddr,
    to: SocketAddr,
    seq: u32,
    ack: u32,
}

impl<'a> RawClient<'a> {
    fn connect(pod: &'a Pod, port: u16, to: SocketAddr) -> Result<Self> {
        let client = Self::begin(pod, port, to)?;
        client.send_at(client.seq, packets::ACK, b"")?;
        Ok(client)
    }

    /// SYN and its answer.
    fn begin(pod: &'a Pod, port: u16, to: SocketAddr) -> Result<Self> {
        let from = SocketAddr::new(pod.address_like(to.ip()), port);
        let tap = pod.tap()?;
        let mut client = Self {
            pod,
            injector: pod.injector()?,
            from,
            to,
            seq: 1001,
            ack: 0,
        };
        client.injector.send(&pod.framed(&packets::syn(from, to)))?;
        let answer: Seen = wait::until("the server accepts", wait::LONG, || {
            let wanted = packets::SYN | packets::ACK;
            Ok(tap
                .packets()?
                .into_iter()
                .find(|packet| packet.tcp_flags() == wanted && packet.ports == (to.port(), port)))
        })?;
        client.ack = u32::from_be_bytes(answer.payload[4..8].try_into()?).wrapping_add(1);
        Ok(client)
    }

    fn frame(&self, seq: u32, flags: u8, data: &[u8]) -> Vec<u8> {
        self.pod.framed(&packets::tcp(
            self.from,
            self.to,
            &Segment {
                seq,
                ack: self.ack,
                flags,
                data,
            },
        ))
    }

    fn send_at(&self, seq: u32, flags: u8, data: &[u8]) -> Result<()> {
        Ok(self.injector.send(&self.frame(seq, flags, data))?)
    }
}

pub fn segments_that_rewrite_judged_bytes_are_dropped(bed: &mut Attacks) -> Result<()> {
    let friend = &bed.friend;
    let (netns, server) = (friend.netns_name.clone(), bed.server.netns_name.clone());
    bed.lab
        .on_node(&["ip", "netns", "exec", &netns, "nft", LOSE_RESETS])?;
    for (port, to) in (34_000..).zip(bed.server.at(HTTP_PORT)) {
        let client = RawClient::connect(friend, port, to)?;
        let (seq, push) = (client.seq, packets::ACK | packets::PSH);
        let head = b"GET / HTTP/1.1\r\nHost: ";
        let end = seq + u32::try_from(head.len())?;
        client.send_at(seq, push, head)?;
        wait::until("the first part arrives", wait::LONG, || {
            Ok((bed.guarded.bytes_from(client.from) == head).then_some(()))
        })?;
        // Other bytes in the place of acknowledged ones: the server must not take them.
        client.send_at(seq, push, b"GET /secret HTTP/1.1\r\n")?;
        // Ahead of what was judged.
        bed.lab.agent().expect_drops(DropReason::L7OutOfOrder, || {
            client.send_at(end + 10, push, b"GET /secret HTTP/1.1\r\n\r\n")?;
            Ok(1)
        })?;
        // The true rest completes the request: nothing of the above was taken in.
        client.send_at(end, push, b"lab\r\n\r\n")?;
        let whole = b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n";
        wait::until("the request is complete", wait::LONG, || {
            Ok((bed.guarded.bytes_from(client.from).len() >= whole.len()).then_some(()))
        })?;
        client.send_at(end + 7, packets::RST | packets::ACK, b"")?;
        let received = bed.guarded.ended(client.from)?;
        ensure!(
            received.bytes == whole && received.requests == ["/"],
            "{received:?}"
        );

        // Other bytes in the place of such as the server has not got: it would take them. Its filter loses the first version.
        let client = RawClient::connect(friend, port + 100, to)?;
        let seq = client.seq;
        bed.lab
            .on_node(&["ip", "netns", "exec", &server, "nft", LOSE_PUSHED])?;
        let lost = bed.server.tap()?;
        client.send_at(seq, push, head)?;
        wait::until("the first version was forwarded", wait::LONG, || {
            Ok(lost
                .packets()?
                .iter()
                .any(|packet| packet.payload.ends_with(head))
                .then_some(()))
        })?;
        let agent = bed.lab.agent();
        let before = agent.drops()?;
        client.send_at(seq, packets::ACK, b"GET /secret HTTP/1.1\r\nHost: lab\r\n\r\n")?;
        // The server, which is reset behind bytes that it lacks, asks where the connection stands (RFC 5961, 3.2) and is told.
        let resets = packets::RST;
        wait::until("the server was reset where it stands", wait::LONG, || {
            let standing = seq.to_be_bytes();
            let is_final =
                |packet: &Seen| packet.tcp_flags() & resets != 0 && packet.payload[4..8] == standing;
            Ok(lost.packets()?.iter().any(is_final).then_some(()))
        })?;
        let grown = agent.drops()?.since(&before);
        ensure!(
            grown.get(DropReason::L7Mismatch) == 1
                && grown.get(DropReason::L7Closed) == 1
                && grown.total() == 2,
            "dropped {grown:?}"
        );
        bed.lab.on_node(&[
            "ip",
            "netns",
            "exec",
            &server,
            "nft",
            "delete table inet lose-pushed",
        ])?;
        // The connection is over.
        bed.lab.agent().expect_drops(DropReason::L7Closed, || {
            client.send_at(seq, push, head)?;
            Ok(1)
        })?;
        bed.nothing_arrived(&friend.netns, &bed.server, &bed.server.tap()?)?;
        let received = bed.guarded.ended(client.from)?;
        ensure!(received.bytes.is_empty(), "{received:?}");
    }
    bed.lab.on_node(&[
        "ip",
        "netns",
        "exec",
        &netns,
        "nft",
        "delete table inet raw-client",
    ])?;
    Ok(())
}

pub fn moved_answer_to_a_syn_cookie_begins_no_connection(bed: &mut Attacks) -> Result<()> {
    let friend = &bed.friend;
    let inside = |pod: &Pod, command: &[&str]| {
        let mut whole = vec!["ip", "netns", "exec", &pod.netns_name];
        whole.extend(command);
        bed.lab.on_node(&whole).map(drop)
    };
    // Always, as in a flood: all that the listener knows of a connection is what the client repeats of its cookie.
    inside(&bed.server, &["sysctl", "-q", "-w", "net.ipv4.tcp_syncookies=2"])?;
    inside(friend, &["nft", LOSE_RESETS])?;
    let secret = http::request("/secret").into_bytes();
    let cover = format!(
        "POST / HTTP/1.1\r\nHost: lab\r\nContent-Length: {}\r\n\r\n",
        secret.len()
    );
    for (port, to) in (35_000..).zip(bed.server.at(HTTP_PORT)) {
        let client = RawClient::begin(friend, port, to)?;
        let push = packets::ACK | packets::PSH;
        let moved = |distance: u32, flags, data: &[u8]| {
            let mut moved = RawClient {
                injector: friend.injector()?,
                ..client
            };
            (moved.seq, moved.ack) = (
                client.seq.wrapping_add(distance),
                client.ack.wrapping_add(distance),
            );
            anyhow::Ok(moved.frame(moved.seq, flags, data))
        };
        let hidden = u32::try_from(cover.len())?;
        let frames = [
            // As bytes that were judged long ago.
            moved(50_000_u32.wrapping_neg(), push, &secret)?,
            // As the body of a request that the server would not get.
            moved(hidden, packets::ACK, b"")?,
            moved(hidden, push, &secret)?,
        ];
        bed.fails(
            DropReason::InvalidTcp,
            &client.injector,
            &friend.netns,
            &bed.server,
            &frames,
        )?;
        // Where it is, it does.
        let request = http::request("/").into_bytes();
        client.send_at(client.seq, push, &request)?;
        wait::until("the request arrives", wait::LONG, || {
            Ok((bed.guarded.bytes_from(client.from) == request).then_some(()))
        })?;
        let end = client.seq + u32::try_from(request.len())?;
        client.send_at(end, packets::RST | packets::ACK, b"")?;
        let received = bed.guarded.ended(client.from)?;
        ensure!(received.requests == ["/"], "{received:?}");
    }
    inside(friend, &["nft", "delete table inet raw-client"])?;
    inside(&bed.server, &["sysctl", "-q", "-w", "net.ipv4.tcp_syncookies=1"])
}

pub fn what_is_not_http_does_not_reach_an_http_server(bed: &mut Attacks) -> Result<()> {
    let smuggled = "GET /secret HTTP/1.1\r\nHost: lab\r\n\r\n";
    for (bytes, reason) in [
        ("SSH-2.0-OpenSSH_9.2\r\n".to_owned(), DropReason::NotHttp),
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0".to_owned(), DropReason::NotHttp),
        (
            format!(
                "GET / HTTP/1.1\r\nHost: lab\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}",
                smuggled.len() + 5
            ),
            DropReason::HttpMalformed,
        ),
        (
            format!(
                "GET / HTTP/1.1\r\nHost: lab\r\nContent-Length: 0\r\nContent-Length: 9\r\n\r\n{smuggled}"
            ),
            DropReason::HttpMalformed,
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: lab\r\nTransfer-Encoding : chunked\r\n\r\n{smuggled}"),
            DropReason::HttpMalformed,
        ),
    ] {
        for address in bed.server.at(HTTP_PORT) {
            let before = bed.lab.agent().drops()?;
            let client = http::Client::connect(&bed.friend.netns, address)?;
            std::io::Write::write_all(&mut client.stream(), bytes.as_bytes())?;
            let peer = client.address()?;
            let answer = client.rest()?;
            ensure!(
                !String::from_utf8_lossy(&answer).contains("200 OK"),
                "{bytes:?} was answered"
            );
            let grown = bed.lab.agent().drops()?.since(&before);
            ensure!(
                grown.get(reason) == 1,
                "{bytes:?}: dropped {grown:?}, wanted {reason:?}"
            );
            let received = bed.guarded.ended(peer)?;
            ensure!(received.bytes.is_empty(), "{bytes:?}: {received:?}");
        }
    }
    Ok(())
}
