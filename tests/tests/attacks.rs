//! What must not get through. Each case proves two things: the victim received nothing but a datagram sent behind the attack, and
//! exactly the packets sent were counted as dropped, for the right reason and no other.
//!
//! All attackers are in the namespaces of the lab.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use policy::DropReason;
use sluice_e2e::fence::{self, fence};
use sluice_e2e::http::{self, Response, Server};
use sluice_e2e::lab::{NODE, OUTSIDE};
use sluice_e2e::packets::{self, Mac, Seen, Segment};
use sluice_e2e::pod::{link_local, mac};
use sluice_e2e::suite::{self, Bed};
use sluice_e2e::tap::{Injector, Tap};
use sluice_e2e::{Drops, Lab, Netns, Pod, cases, wait};

/// TCP for friends.
const TCP_PORT: u16 = 5000;
/// UDP for friends.
const UDP_PORT: u16 = 5001;
/// `GET /` for friends.
const HTTP_PORT: u16 = 8080;
/// `GET /` for everybody.
const OPEN_HTTP_PORT: u16 = 8082;

const TCP_NODE_PORT: u16 = 30050;
const HTTP_NODE_PORT: u16 = 30080;
const OPEN_HTTP_NODE_PORT: u16 = 30082;

const POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: server, namespace: app}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
    - fromEndpoints: [{matchLabels: {role: friend}}]
      toPorts:
        - ports: [{port: "5000", protocol: TCP}, {port: "5001", protocol: UDP}]
        - ports: [{port: "8080", protocol: TCP}]
          rules: {http: [{method: GET, path: /}]}
    - toPorts:
        - ports: [{port: "7", protocol: UDP}]
        - ports: [{port: "8082", protocol: TCP}]
          rules: {http: [{method: GET, path: /}]}
"#;

struct Attacks {
    lab: Lab,
    server: Pod,
    friend: Pod,
    stranger: Pod,
    open: Server,
    guarded: Server,
}

impl Bed for Attacks {
    fn prepare() -> Result<Self> {
        let mut lab = Lab::up("attacks")?;
        lab.run(&["agent", "start"])?;
        let server = lab.add_pod("app/server", "app=server")?;
        let friend = lab.add_pod("app/friend", "role=friend")?;
        let stranger = lab.add_pod("app/stranger", "role=stranger")?;
        for (name, vip, port, node_port) in [
            ("tcp", 50, TCP_PORT, TCP_NODE_PORT),
            ("http", 80, HTTP_PORT, HTTP_NODE_PORT),
            ("open-http", 82, OPEN_HTTP_PORT, OPEN_HTTP_NODE_PORT),
        ] {
            let (name, vip4, vip6) = (format!("app/{name}"), format!("10.96.2.{vip}"), format!("fd00:10:96::2:{vip}"));
            let (port, node_port) = (format!("80:{port}"), node_port.to_string());
            lab.run(&[
                "service", "add", &name, "--vip", &vip4, "--vip6", &vip6, "--port", &port, "--node-port", &node_port,
                "--selector", "app=server",
            ])?;
        }
        lab.enforce(&[("server", POLICY)])?;
        let guarded = Server::start(&server.netns, HTTP_PORT)?;
        let open = Server::start(&server.netns, OPEN_HTTP_PORT)?;
        Ok(Self { lab, server, friend, stranger, open, guarded })
    }

    fn lab(&self) -> &Lab {
        &self.lab
    }
}

fn main() -> ExitCode {
    suite::run::<Attacks>(cases![
        friend_gets_what_the_policy_allows,
        nodeport_from_outside_does_not_get_past_an_l3_policy,
        nodeport_from_a_denied_pod_does_not_get_past_an_l3_policy,
        nodeport_does_not_get_past_an_l7_policy,
        spoofed_source_mac_is_dropped,
        spoofed_source_addresses_are_dropped,
        endpoint_address_from_outside_is_dropped,
        forged_arp_is_dropped_and_poisons_nobody,
        forged_neighbour_discovery_is_dropped_and_poisons_nobody,
        rogue_router_advertisement_and_redirect_are_dropped,
        link_local_addresses_of_a_pod_are_no_way_past_its_policy,
        icmp_error_forged_by_a_third_pod_is_dropped,
        added_host_route_does_not_get_past_the_policy,
        what_the_kernel_sends_to_the_veth_is_dropped_by_the_guard,
        midstream_segment_on_an_l7_port_is_dropped_and_reset,
        source_ports_of_servers_open_nothing,
        ip_options_are_dropped,
        tiny_fragments_are_dropped,
        overlapping_fragments_are_dropped,
        fragmented_syn_does_not_get_past_the_policy,
        bad_checksums_are_dropped,
        truncated_packets_are_dropped,
        extension_header_chains_are_dropped,
        multicast_and_broadcast_are_dropped,
        segments_that_rewrite_judged_bytes_are_dropped,
        what_is_not_http_does_not_reach_an_http_server,
        flood_of_denied_packets_costs_an_allowed_flow_nothing,
        flood_of_allowed_packets_costs_another_pods_flow_nothing,
    ])
}

/// How many of each packet: a count that goes wrong by one shows.
const EACH: u16 = 5;

impl Attacks {
    fn policy_of_friends(&self, address: SocketAddr) -> Result<()> {
        ensure!(http::get(&self.friend.netns, address, "/")? == Response::served("/"));
        Ok(())
    }

    /// Sends frames from the stranger and demands that exactly they are dropped, for `reason`, and that the server sees none of them.
    fn stranger_fails(&self, reason: DropReason, frames: &[Vec<u8>]) -> Result<()> {
        self.fails(reason, &self.stranger.injector()?, &self.stranger.netns, &self.server, frames)
    }

    /// The same for any attacker and victim.
    fn fails(
        &self,
        reason: DropReason,
        attacker: &Injector,
        place: &Netns,
        victim: &Pod,
        frames: &[Vec<u8>],
    ) -> Result<()> {
        let tap = victim.tap()?;
        self.lab.agent().expect_drops(reason, || attacker.send_all(frames))?;
        self.nothing_arrived(place, victim, &tap)?;
        self.lab.agent().expect_balanced_frames()
    }

    fn nothing_arrived(&self, place: &Netns, victim: &Pod, tap: &Tap) -> Result<()> {
        // Only the server's policy knows fences; other victims are under no policy.
        for address in victim.addresses() {
            let seen = fence(place, address, tap)?;
            ensure!(seen.is_empty(), "{} received {seen:?}", victim.name);
        }
        Ok(())
    }

    /// One frame per source port, in both families, from the stranger to the server.
    fn from_stranger(&self, make: impl Fn(SocketAddr, SocketAddr) -> Vec<u8>, port: u16) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        for n in 0..EACH {
            for (from, to) in self.stranger.at(20_000 + n).into_iter().zip(self.server.at(port)) {
                frames.push(self.stranger.framed(&make(from, to)));
            }
        }
        frames
    }
}

/// A datagram that every policy here allows: what is dropped is dropped for another reason.
fn allowed(from: SocketAddr, to: IpAddr) -> Vec<u8> {
    packets::udp(from, (to, fence::PORT).into(), b"attack")
}

fn friend_gets_what_the_policy_allows(bed: &mut Attacks) -> Result<()> {
    for address in bed.server.at(HTTP_PORT) {
        bed.policy_of_friends(address)?;
    }
    for address in bed.server.at(OPEN_HTTP_PORT) {
        ensure!(http::get(&bed.stranger.netns, address, "/")? == Response::served("/"));
        ensure!(http::get(&bed.stranger.netns, address, "/secret")? == Response::denied());
    }
    ensure!(bed.guarded.take_requests() == ["/"; 2]);
    ensure!(bed.open.take_requests() == ["/"; 2]);
    Ok(())
}

fn outside_frames(bed: &Attacks, make: impl Fn(SocketAddr, IpAddr) -> Vec<u8>) -> Result<Vec<Vec<u8>>> {
    let from = mac(bed.lab.run(&["outside-exec", "--", "cat", "/sys/class/net/eth0/address"]).as_deref().unwrap_or_default().trim());
    let from = match from {
        Ok(mac) => mac,
        // sysfs shows the mount's namespace; ask netlink.
        Err(_) => link_mac(&bed.lab.run(&["outside-exec", "--", "ip", "-o", "link", "show", "eth0"])?)?,
    };
    let to = link_mac(&bed.lab.on_node(&["ip", "-o", "link", "show", "uplink0"])?)?;
    let mut frames = Vec::new();
    for n in 0..EACH {
        for (source, node) in OUTSIDE.into_iter().zip(NODE) {
            frames.push(packets::frame(to, from, &make((source, 21_000 + n).into(), node)));
        }
    }
    Ok(frames)
}

/// The MAC in a line of `ip -o link`.
fn link_mac(line: &str) -> Result<Mac> {
    mac(line.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).context("no MAC")?)
}

fn nodeport_from_outside_does_not_get_past_an_l3_policy(bed: &mut Attacks) -> Result<()> {
    let outside = bed.lab.outside();
    let injector = Injector::open(&outside, "eth0")?;
    for port in [TCP_NODE_PORT, HTTP_NODE_PORT] {
        let frames = outside_frames(bed, |from, node| packets::syn(from, (node, port).into()))?;
        bed.fails(DropReason::PolicyDenied, &injector, &outside, &bed.server, &frames)?;
    }
    Ok(())
}

fn nodeport_from_a_denied_pod_does_not_get_past_an_l3_policy(bed: &mut Attacks) -> Result<()> {
    for port in [TCP_NODE_PORT, HTTP_NODE_PORT] {
        let mut frames = Vec::new();
        for n in 0..EACH {
            for (from, node) in bed.stranger.at(22_000 + n).into_iter().zip(NODE) {
                frames.push(bed.stranger.framed(&packets::syn(from, (node, port).into())));
            }
        }
        bed.stranger_fails(DropReason::PolicyDenied, &frames)?;
    }
    Ok(())
}

fn nodeport_does_not_get_past_an_l7_policy(bed: &mut Attacks) -> Result<()> {
    for (place, node) in [bed.lab.outside(), bed.stranger.netns.clone()].iter().flat_map(|place| NODE.map(|node| (place, node))) {
        let address = SocketAddr::new(node, OPEN_HTTP_NODE_PORT);
        drop(bed.open.take_requests());
        ensure!(http::get(place, address, "/")? == Response::served("/"), "{address}");
        ensure!(http::get(place, address, "/secret")? == Response::denied(), "{address}");
        ensure!(bed.open.take_requests() == ["/"]);
    }
    Ok(())
}

fn spoofed_source_mac_is_dropped(bed: &mut Attacks) -> Result<()> {
    let mut frames = Vec::new();
    for source in [bed.friend.mac, bed.stranger.gateway_mac, [0; 6]] {
        for from in bed.stranger.at(23_000) {
            let to = bed.server.address_like(from.ip());
            frames.push(packets::frame(bed.stranger.gateway_mac, source, &allowed(from, to)));
        }
    }
    bed.stranger_fails(DropReason::InvalidSourceIp, &frames)
}

fn spoofed_source_addresses_are_dropped(bed: &mut Attacks) -> Result<()> {
    let mut sources = vec![
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        Ipv4Addr::UNSPECIFIED.into(),
        Ipv4Addr::new(10, 244, 0, 1).into(),
        Ipv4Addr::new(10, 244, 7, 7).into(),
        Ipv6Addr::LOCALHOST.into(),
        Ipv6Addr::UNSPECIFIED.into(),
        link_local(bed.stranger.mac).into(),
        link_local(bed.friend.mac).into(),
    ];
    sources.extend(bed.friend.addresses());
    sources.extend(bed.server.addresses());
    sources.extend(NODE);
    sources.extend(OUTSIDE);
    let frames: Vec<Vec<u8>> = sources
        .into_iter()
        .flat_map(|source| {
            let to = bed.server.address_like(source);
            [allowed((source, 24_000).into(), to), packets::syn((source, 24_000).into(), (to, TCP_PORT).into())]
        })
        .map(|packet| bed.stranger.framed(&packet))
        .collect();
    bed.stranger_fails(DropReason::InvalidSourceIp, &frames)
}

/// IPv6 only: the kernel's reverse path filter already stops the IPv4 ones.
fn endpoint_address_from_outside_is_dropped(bed: &mut Attacks) -> Result<()> {
    let outside = bed.lab.outside();
    let injector = Injector::open(&outside, "eth0")?;
    let (friend, server) = (bed.friend.ip6, bed.server.ip6);
    let frames = outside_frames(bed, |from, _| allowed((friend, from.port()).into(), server.into()))?;
    bed.fails(DropReason::SpoofedEndpoint, &injector, &outside, &bed.server, &frames)
}

fn forged_arp_is_dropped_and_poisons_nobody(bed: &mut Attacks) -> Result<()> {
    let (stranger, friend, server) = (&bed.stranger, &bed.friend, &bed.server);
    let gateway = Ipv4Addr::new(10, 244, 0, 1);
    let claims = [
        // "I am the friend", "I am the gateway", and "my address is at the friend's MAC".
        (stranger.mac, friend.ip4),
        (stranger.mac, gateway),
        (friend.mac, stranger.ip4),
    ];
    let mut frames = Vec::new();
    for (sender, (operation, destination)) in
        claims.iter().flat_map(|sender| [(1, packets::BROADCAST), (2, server.mac), (2, stranger.gateway_mac)].map(|way| (sender, way)))
    {
        let packet = packets::arp(operation, *sender, (server.mac, server.ip4));
        frames.push(packets::frame_of(destination, stranger.mac, packets::ETHERTYPE_ARP, &packet));
    }
    let tap = server.tap()?;
    bed.lab.agent().expect_drops(DropReason::ForgedNeighbour, || stranger.injector()?.send_all(&frames))?;
    let arrived = tap.frames()?.iter().filter(|frame| frame[12..14] == packets::ETHERTYPE_ARP.to_be_bytes()).count();
    ensure!(arrived == 0, "{arrived} ARP packets arrived");
    bed.nothing_arrived(&stranger.netns, server, &tap)
}

fn forged_neighbour_discovery_is_dropped_and_poisons_nobody(bed: &mut Attacks) -> Result<()> {
    let (stranger, friend) = (&bed.stranger, &bed.friend);
    let option = |kind: u8, mac: Mac| [&[kind, 1][..], &mac].concat();
    let target = |address: Ipv6Addr, flags: u8| [&[flags, 0, 0, 0][..], &address.octets()].concat();
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let gateway: Ipv6Addr = "fd00:10:244::1".parse()?;
    // Solicitations that would bind the stranger's address to another's MAC.
    let solicitation = [target(gateway, 0), option(1, friend.mac)].concat();
    let solicited = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
    let forged: Vec<Vec<u8>> = [stranger.ip6, link_local(stranger.mac)]
        .into_iter()
        .map(|source| {
            let packet = packets::discovery(source, solicited, 135, &solicitation);
            packets::frame([0x33, 0x33, 0xff, 0, 0, 1], stranger.mac, &packet)
        })
        .collect();
    bed.stranger_fails(DropReason::ForgedNeighbour, &forged)?;
    // Advertisements in another's name.
    let claim = |address| [target(address, 0x60), option(2, stranger.mac)].concat();
    let spoofed = packets::discovery(friend.ip6, all_nodes, 136, &claim(friend.ip6));
    bed.stranger_fails(DropReason::InvalidSourceIp, &[packets::frame([0x33, 0x33, 0, 0, 0, 1], stranger.mac, &spoofed)])?;
    // Advertisements in its own name about another's address end at the worker: nobody hears them.
    let taps = [bed.server.tap()?, friend.tap()?];
    let mut unheard = Vec::new();
    for (address, destination) in [(friend.ip6, all_nodes), (gateway, bed.server.ip6), (bed.server.ip6, friend.ip6)] {
        unheard.push(stranger.framed(&packets::discovery(stranger.ip6, destination, 136, &claim(address))));
    }
    stranger.injector()?.send_all(&unheard)?;
    for (victim, tap) in [&bed.server, friend].into_iter().zip(&taps) {
        let mut frames = Vec::new();
        // Also discovery, which fences leave out: none may bear the stranger's address.
        wait::until("the fence arrives", wait::LONG, || {
            if frames.is_empty() {
                stranger.netns.enter(|| -> Result<()> {
                    UdpSocket::bind("[::]:0")?.send_to(b"behind the advertisements", (victim.ip6, fence::PORT))?;
                    Ok(())
                })?;
            }
            frames.extend(tap.packets()?);
            Ok(frames.iter().any(|packet| packet.payload.ends_with(b"behind the advertisements")).then_some(()))
        })?;
        let heard = frames.iter().filter(|packet| packet.protocol == packets::ICMPV6 && packet.source == stranger.ip6).count();
        ensure!(heard == 0, "{} heard {heard} advertisements", victim.name);
    }
    Ok(())
}

fn rogue_router_advertisement_and_redirect_are_dropped(bed: &mut Attacks) -> Result<()> {
    let stranger = &bed.stranger;
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    // A router for half an hour, with a default route and a prefix.
    let prefix = [&[3, 4, 64, 0xc0, 0, 0, 14, 16, 0, 0, 14, 16, 0, 0, 0, 0][..], &Ipv6Addr::new(0xfd00, 0xbad, 0, 0, 0, 0, 0, 0).octets()].concat();
    let advertisement = [&[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0][..], &prefix].concat();
    let redirect = [&[0; 4][..], &stranger.ip6.octets(), &bed.friend.ip6.octets()].concat();
    let mut frames = Vec::new();
    for source in [stranger.ip6, link_local(stranger.mac)] {
        for (kind, body) in [(134, &advertisement), (137, &redirect)] {
            for (destination, to) in [(all_nodes, [0x33, 0x33, 0, 0, 0, 1]), (bed.server.ip6, stranger.gateway_mac)] {
                frames.push(packets::frame(to, stranger.mac, &packets::discovery(source, destination, kind, body)));
            }
        }
    }
    bed.stranger_fails(DropReason::ForbiddenIcmpv6, &frames)
}

fn link_local_addresses_of_a_pod_are_no_way_past_its_policy(bed: &mut Attacks) -> Result<()> {
    let stranger = &bed.stranger;
    let mut frames = Vec::new();
    // The pod's own, the one of its veth on the node, and of the attacker's.
    for target in [bed.server.mac, bed.server.gateway_mac, stranger.gateway_mac] {
        for n in 0..EACH {
            let from = SocketAddr::new(stranger.ip6.into(), 25_000 + n);
            frames.push(stranger.framed(&allowed(from, link_local(target).into())));
            frames.push(stranger.framed(&packets::syn(from, (link_local(target), TCP_PORT).into())));
        }
    }
    bed.stranger_fails(DropReason::Unroutable, &frames)
}

fn icmp_error_forged_by_a_third_pod_is_dropped(bed: &mut Attacks) -> Result<()> {
    let (friend, stranger) = (&bed.friend, &bed.stranger);
    for to in bed.server.at(UDP_PORT) {
        // A live flow of others.
        let tap = bed.server.tap()?;
        let from = friend.netns.enter(|| -> Result<SocketAddr> {
            let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
            let socket = UdpSocket::bind(any)?;
            socket.connect(to)?;
            socket.send(b"a flow")?;
            Ok(socket.local_addr()?)
        })?;
        wait::until("the flow's datagram arrives", wait::LONG, || {
            Ok(tap.packets()?.iter().any(|packet| packet.payload.ends_with(b"a flow")).then_some(()))
        })?;
        let quoted = packets::udp(from, to, b"a flow");
        let me = stranger.address_like(to.ip());
        let errors = if to.is_ipv4() { vec![(3, 3), (3, 4), (11, 0)] } else { vec![(1, 4), (2, 0), (3, 0)] };
        let mut to_friend = Vec::new();
        let mut to_server = Vec::new();
        for (kind, code) in errors {
            let body = [&[0, 0, 0x02, 0x40][..], &quoted].concat();
            to_friend.push(stranger.framed(&packets::icmp(me, from.ip(), kind, code, &body)));
            to_server.push(stranger.framed(&packets::icmp(me, to.ip(), kind, code, &body)));
        }
        for (victim, frames) in [(friend, to_friend), (&bed.server, to_server)] {
            bed.fails(DropReason::UnrelatedIcmp, &stranger.injector()?, &stranger.netns, victim, &frames)?;
        }
    }
    Ok(())
}

fn prefix(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

fn added_host_route_does_not_get_past_the_policy(bed: &mut Attacks) -> Result<()> {
    let (lab, server, outside) = (&bed.lab, &bed.server, bed.lab.outside());
    for address in server.addresses() {
        lab.on_node(&["ip", "route", "replace", &prefix(address), "dev", &server.veth, "metric", "1"])?;
    }
    let frames = outside_frames(bed, |from, _| {
        packets::syn(from, (server.address_like(from.ip()), TCP_PORT).into())
    })?;
    let outcome = bed.fails(DropReason::PolicyDenied, &Injector::open(&outside, "eth0")?, &outside, server, &frames);
    for address in server.addresses() {
        lab.on_node(&["ip", "route", "del", &prefix(address), "dev", &server.veth, "metric", "1"])?;
    }
    outcome
}

/// Somebody puts a rule before sluice's own, and the node's processes send straight to the veth.
fn what_the_kernel_sends_to_the_veth_is_dropped_by_the_guard(bed: &mut Attacks) -> Result<()> {
    let (lab, server) = (&bed.lab, &bed.server);
    let tap = server.tap()?;
    let lladdr = server.mac.map(|byte| format!("{byte:02x}")).join(":");
    let host_side = link_local(server.mac);
    let targets = [server.addresses().to_vec(), vec![host_side.into()]].concat();
    for address in &targets {
        lab.on_node(&["ip", "neigh", "replace", &address.to_string(), "lladdr", &lladdr, "dev", &server.veth, "nud", "permanent"])?;
    }
    for (family, address) in ["-4", "-6"].into_iter().zip(server.addresses()) {
        lab.on_node(&["ip", family, "route", "add", &prefix(address), "dev", &server.veth, "table", "99"])?;
        lab.on_node(&["ip", family, "rule", "add", "pref", "10", "lookup", "99"])?;
    }
    let outcome = (|| -> Result<()> {
        let before = lab.agent().status()?.guarded;
        let mut sent = 0;
        for (place, count) in [(lab.outside(), 1), (lab.node(), 2)] {
            for address in server.addresses() {
                let any: SocketAddr = if address.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
                place.enter(|| -> Result<()> {
                    let socket = UdpSocket::bind(any)?;
                    for _ in 0..EACH * count {
                        socket.send_to(b"past sluice", (address, fence::PORT))?;
                    }
                    Ok(())
                })?;
                sent += u64::from(EACH * count);
            }
        }
        let index: u32 = lab
            .on_node(&["ip", "-o", "link", "show", &server.veth])?
            .split(':')
            .next()
            .context("no index")?
            .parse()?;
        lab.node().enter(|| -> Result<()> {
            let socket = UdpSocket::bind("[::]:0")?;
            for _ in 0..EACH {
                socket.send_to(b"past sluice", std::net::SocketAddrV6::new(host_side, fence::PORT, 0, index))?;
            }
            Ok(())
        })?;
        let injector = Injector::open(&lab.node(), &server.veth)?;
        for _ in 0..EACH {
            injector.send(&packets::frame(server.mac, server.gateway_mac, &allowed((NODE[0], 1).into(), server.ip4.into())))?;
        }
        sent += u64::from(2 * EACH);
        wait::until_equal("the guard has dropped everything", &sent, || Ok(lab.agent().status()?.guarded - before))
    })();
    for (family, address) in ["-4", "-6"].into_iter().zip(server.addresses()) {
        lab.on_node(&["ip", family, "rule", "del", "pref", "10"])?;
        lab.on_node(&["ip", family, "route", "del", &prefix(address), "dev", &server.veth, "table", "99"])?;
    }
    for address in &targets {
        lab.on_node(&["ip", "neigh", "del", &address.to_string(), "dev", &server.veth])?;
    }
    outcome?;
    bed.nothing_arrived(&lab.outside(), server, &tap)
}

fn midstream_segment_on_an_l7_port_is_dropped_and_reset(bed: &mut Attacks) -> Result<()> {
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
            frames.push(friend.framed(&packets::tcp(from, to, &Segment { seq: 5, ack: 6, flags, data })));
        }
    }
    let back = friend.tap()?;
    bed.fails(DropReason::Midstream, &friend.injector()?, &friend.netns, &bed.server, &frames)?;
    let resets = back.packets()?.iter().filter(|packet| packet.tcp_flags() & packets::RST != 0).count();
    ensure!(resets == frames.len(), "{} segments, {resets} resets", frames.len());
    ensure!(bed.guarded.take_requests().is_empty());
    Ok(())
}

fn source_ports_of_servers_open_nothing(bed: &mut Attacks) -> Result<()> {
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

fn ip_options_are_dropped(bed: &mut Attacks) -> Result<()> {
    let gateway = [10, 244, 0, 1];
    let route = |kind| [&[kind, 7, 4][..], &gateway, &[0]].concat();
    // Loose and strict source route, record route, timestamp, router alert, and padding only.
    let options = [
        route(0x83),
        route(0x89),
        route(7),
        vec![0x44, 8, 5, 0, 0, 0, 0, 0],
        vec![0x94, 4, 0, 0],
        vec![1, 1, 1, 0],
    ];
    let mut frames = Vec::new();
    for options in options {
        for packet in [
            allowed(bed.stranger.at4(27_000), bed.server.ip4.into()),
            packets::syn(bed.stranger.at4(27_000), bed.server.at4(TCP_PORT)),
        ] {
            frames.push(bed.stranger.framed(&packets::with_options(&packet, &options)));
        }
    }
    bed.stranger_fails(DropReason::IpOptions, &frames)
}

/// IP header length of a packet of this file.
fn header_len(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 4 { 20 } else { 40 }
}

fn tiny_fragments_are_dropped(bed: &mut Attacks) -> Result<()> {
    let mut frames = Vec::new();
    for (id, (from, to)) in (100..).step_by(10).zip(bed.stranger.at(28_000).into_iter().zip(bed.server.at(OPEN_HTTP_PORT))) {
        let syn = packets::syn(from, to);
        let segment = &syn[header_len(&syn)..];
        // Flags in the second fragment; a second fragment that would overwrite them; a first one without any header.
        frames.push(packets::fragment(&syn, id, 0, true, &segment[..8]));
        frames.push(packets::fragment(&syn, id + 1, 8, false, &segment[8..]));
        frames.push(packets::fragment(&syn, id + 2, 0, true, &segment[..16]));
    }
    let frames: Vec<Vec<u8>> = frames.iter().map(|packet| bed.stranger.framed(packet)).collect();
    bed.stranger_fails(DropReason::TinyFragment, &frames)
}

fn overlapping_fragments_are_dropped(bed: &mut Attacks) -> Result<()> {
    let (stranger, server) = (&bed.stranger, &bed.server);
    let (mut firsts, mut overlaps) = (Vec::new(), Vec::new());
    for (id, from) in (200..).step_by(10).zip(stranger.at(29_000)) {
        let whole = packets::udp(from, (server.address_like(from.ip()), fence::PORT).into(), &[b'.'; 2000]);
        let payload = &whole[header_len(&whole)..];
        firsts.push(stranger.framed(&packets::fragment(&whole, id, 0, true, &payload[..800])));
        // Over the header, within the first, across its end; after the first overlap nothing of the datagram may pass.
        for (offset, more) in [(0, true), (400, true), (792, true), (800, false)] {
            overlaps.push(stranger.framed(&packets::fragment(&whole, id, offset, more, &[b'!'; 800])));
        }
    }
    let tap = server.tap()?;
    stranger.injector()?.send_all(&firsts)?;
    let mut seen = Vec::new();
    wait::until("the first fragments arrive", wait::LONG, || {
        seen.extend(tap.packets()?);
        let arrived = seen.iter().filter(|packet| packet.payload.ends_with(b"....")).count();
        Ok((arrived == firsts.len()).then_some(()))
    })?;
    bed.stranger_fails(DropReason::FragmentOverlap, &overlaps)
}

/// Whatever the order: no fragment of what the policy denies arrives.
fn fragmented_syn_does_not_get_past_the_policy(bed: &mut Attacks) -> Result<()> {
    let stranger = &bed.stranger;
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let mut frames = Vec::new();
        for (id, (from, to)) in (300..).step_by(10).zip(stranger.at(30_000).into_iter().zip(bed.server.at(TCP_PORT))) {
            let syn = packets::tcp(from, to, &Segment { seq: 1, ack: 0, flags: packets::SYN, data: &[b'x'; 100] });
            let payload = &syn[header_len(&syn)..];
            let parts = [(0, true, 0..40), (40, true, 40..80), (80, false, 80..payload.len())];
            for n in order {
                let (offset, more, range) = parts[n].clone();
                frames.push(stranger.framed(&packets::fragment(&syn, id + order[0] as u16, offset, more, &payload[range])));
            }
        }
        let tap = bed.server.tap()?;
        let before = bed.lab.agent().drops()?;
        let sent = stranger.injector()?.send_all(&frames)?;
        // The first fragment is denied; the others are, too, or have no first one any more.
        let mut grown = Drops::default();
        wait::until("all fragments are dropped", wait::LONG, || {
            grown = bed.lab.agent().drops()?.since(&before);
            Ok((grown.total() >= sent).then_some(()))
        })?;
        let known = grown.get(DropReason::PolicyDenied) + grown.get(DropReason::FirstFragmentMissing);
        ensure!(known == sent && grown.total() == sent, "sent {sent}, dropped {grown:?}");
        bed.nothing_arrived(&stranger.netns, &bed.server, &tap)?;
    }
    Ok(())
}

fn bad_checksums_are_dropped(bed: &mut Attacks) -> Result<()> {
    let broken = |at: fn(&[u8]) -> usize, make: fn(SocketAddr, SocketAddr) -> Vec<u8>| {
        move |from, to| {
            let mut packet = make(from, to);
            let at = at(&packet);
            packet[at] ^= 0x55;
            packet
        }
    };
    let datagram = |from: SocketAddr, to: SocketAddr| allowed(from, to.ip());
    let mut frames = bed.from_stranger(broken(|packet| header_len(packet) + 6, datagram), fence::PORT);
    frames.extend(bed.from_stranger(broken(|packet| header_len(packet) + 16, packets::syn), OPEN_HTTP_PORT));
    let header = bed.from_stranger(broken(|_| 10, datagram), fence::PORT);
    frames.extend(header.into_iter().filter(|frame| frame[12..14] == packets::ETHERTYPE_IPV4.to_be_bytes()));
    bed.stranger_fails(DropReason::BadChecksum, &frames)
}

fn truncated_packets_are_dropped(bed: &mut Attacks) -> Result<()> {
    let (stranger, server) = (&bed.stranger, &bed.server);
    let mut frames = Vec::new();
    for from in stranger.at(31_000) {
        let to = server.address_like(from.ip());
        for packet in [allowed(from, to), packets::syn(from, (to, OPEN_HTTP_PORT).into())] {
            let whole = stranger.framed(&packet);
            frames.extend((packets::ETHERNET_LEN..whole.len()).map(|len| whole[..len].to_vec()));
        }
    }
    let tap = server.tap()?;
    let before = bed.lab.agent().drops()?;
    let sent = stranger.injector()?.send_all(&frames)?;
    let mut grown = Drops::default();
    wait::until("all are dropped", wait::LONG, || {
        grown = bed.lab.agent().drops()?.since(&before);
        Ok((grown.total() >= sent).then_some(()))
    })
    .with_context(|| format!("sent {sent}, dropped {grown:?}"))?;
    let known = grown.get(DropReason::TruncatedHeader) + grown.get(DropReason::InvalidPacket);
    ensure!(known == sent && grown.total() == sent, "sent {sent}, dropped {grown:?}");
    bed.nothing_arrived(&stranger.netns, server, &tap)
}

fn extension_header_chains_are_dropped(bed: &mut Attacks) -> Result<()> {
    let padding = vec![0, 0, 1, 4, 0, 0, 0, 0];
    let chains: Vec<Vec<(u8, Vec<u8>)>> = vec![
        vec![(60, padding.clone()); 20],
        // Type 0 routing header with a segment left, by way of the friend (RFC 5095).
        vec![(43, [&[0, 2, 0, 1, 0, 0, 0, 0][..], &bed.friend.ip6.octets()].concat())],
        // A home address option: the source is another than the header says.
        vec![(60, [&[0, 2, 1, 2, 0, 0, 0xc9, 16][..], &bed.friend.ip6.octets()].concat())],
        // Hop-by-hop options anywhere but first.
        vec![(60, padding.clone()), (0, padding.clone())],
        // One header as long as can be.
        vec![(60, [vec![0, 127, 1, 250], vec![0; 1020]].concat())],
    ];
    let (from, to) = (bed.stranger.at6(32_000), bed.server.ip6.into());
    let frames: Vec<Vec<u8>> = chains
        .iter()
        .flat_map(|chain| [allowed(from, to), packets::syn(from, (to, OPEN_HTTP_PORT).into())].map(|packet| packets::with_extensions(&packet, chain)))
        .map(|packet| bed.stranger.framed(&packet))
        .collect();
    bed.stranger_fails(DropReason::InvalidExtensionHeader, &frames)
}

/// Counted by the flow log: pods' kernels send multicast of their own.
fn multicast_and_broadcast_are_dropped(bed: &mut Attacks) -> Result<()> {
    let stranger = &bed.stranger;
    let groups: [IpAddr; 4] = ["239.7.7.7".parse()?, "255.255.255.255".parse()?, "ff02::7777".parse()?, "ff0e::7777".parse()?];
    let mut frames = Vec::new();
    for group in groups {
        let from = if group.is_ipv4() { stranger.at4(33_000) } else { stranger.at6(33_000) };
        frames.push(packets::frame(packets::BROADCAST, stranger.mac, &allowed(from, group)));
        frames.push(stranger.framed(&allowed(from, group)));
    }
    let server = bed.server.at4(fence::PORT);
    // To everybody on the link, but for one address.
    frames.push(packets::frame(packets::BROADCAST, stranger.mac, &packets::udp(stranger.at4(33_001), server, b"attack")));
    let tap = bed.server.tap()?;
    let before = bed.lab.agent().drops()?;
    stranger.injector()?.send_all(&frames)?;
    wait::until_equal("all are in the flow log as multicast", &frames.len(), || {
        let is_ours = |flow: &&sluice_e2e::agent::Flow| {
            let reason = flow.drop_reason.as_ref().is_some_and(|reason| reason.code == DropReason::Multicast as u8);
            let to = flow.destination.addr;
            reason && (groups.contains(&to) || to == server.ip())
        };
        Ok(bed.lab.agent().flows(1000)?.iter().filter(is_ours).count())
    })?;
    ensure!(bed.lab.agent().drops()?.since(&before) == Drops::default());
    bed.nothing_arrived(&stranger.netns, &bed.server, &tap)
}

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
        let from = SocketAddr::new(pod.address_like(to.ip()), port);
        let tap = pod.tap()?;
        let mut client = Self { pod, injector: pod.injector()?, from, to, seq: 1001, ack: 0 };
        client.injector.send(&pod.framed(&packets::syn(from, to)))?;
        let answer: Seen = wait::until("the server accepts", wait::LONG, || {
            let wanted = packets::SYN | packets::ACK;
            Ok(tap.packets()?.into_iter().find(|packet| packet.tcp_flags() == wanted && packet.ports == (to.port(), port)))
        })?;
        client.ack = u32::from_be_bytes(answer.payload[4..8].try_into()?).wrapping_add(1);
        client.send_at(client.seq, packets::ACK, b"")?;
        Ok(client)
    }

    fn frame(&self, seq: u32, flags: u8, data: &[u8]) -> Vec<u8> {
        self.pod.framed(&packets::tcp(self.from, self.to, &Segment { seq, ack: self.ack, flags, data }))
    }

    fn send_at(&self, seq: u32, flags: u8, data: &[u8]) -> Result<()> {
        Ok(self.injector.send(&self.frame(seq, flags, data))?)
    }
}

fn segments_that_rewrite_judged_bytes_are_dropped(bed: &mut Attacks) -> Result<()> {
    let friend = &bed.friend;
    // The pod's kernel knows nothing of the connection and would reset it.
    let table = "table inet raw-client { chain output { type filter hook output priority 0; tcp flags & rst == rst drop; }; }";
    let netns = friend.netns_name.clone();
    bed.lab.on_node(&["ip", "netns", "exec", &netns, "nft", table])?;
    for (port, to) in (34_000..).zip(bed.server.at(HTTP_PORT)) {
        drop((bed.guarded.take_bytes(), bed.guarded.take_requests()));
        let client = RawClient::connect(friend, port, to)?;
        let (seq, push) = (client.seq, packets::ACK | packets::PSH);
        let head = b"GET / HTTP/1.1\r\nHost: ";
        client.send_at(seq, push, head)?;
        wait::until_equal("the first part arrives", &head.len(), || {
            let bytes = bed.guarded.take_bytes();
            Ok(bytes.len())
        })?;
        // Overlaps what was judged, with other bytes.
        bed.lab.agent().expect_drops(DropReason::L7Mismatch, || {
            for at in [0, 4] {
                client.send_at(seq + at, push, b"GET /secret HTTP/1.1\r\nHost: lab\r\n\r\n")?;
            }
            Ok(2)
        })?;
        // Ahead of what was judged.
        bed.lab.agent().expect_drops(DropReason::L7OutOfOrder, || {
            client.send_at(seq + u32::try_from(head.len())? + 10, push, b"GET /secret HTTP/1.1\r\n\r\n")?;
            Ok(1)
        })?;
        // The true rest still completes the request: nothing of the above was taken in.
        client.send_at(seq + u32::try_from(head.len())?, push, b"lab\r\n\r\n")?;
        wait::until_equal("the request is served", &vec!["/".to_owned()], || Ok(bed.guarded.take_requests()))?;
        ensure!(bed.guarded.take_bytes() == b"lab\r\n\r\n");
        client.send_at(seq + u32::try_from(head.len())? + 7, packets::RST | packets::ACK, b"")?;
    }
    bed.lab.on_node(&["ip", "netns", "exec", &netns, "nft", "delete table inet raw-client"])?;
    Ok(())
}

fn what_is_not_http_does_not_reach_an_http_server(bed: &mut Attacks) -> Result<()> {
    let smuggled = "GET /secret HTTP/1.1\r\nHost: lab\r\n\r\n";
    for (bytes, reason) in [
        ("SSH-2.0-OpenSSH_9.2\r\n".to_owned(), DropReason::NotHttp),
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0".to_owned(), DropReason::NotHttp),
        (
            format!("GET / HTTP/1.1\r\nHost: lab\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}", smuggled.len() + 5),
            DropReason::HttpMalformed,
        ),
        (format!("GET / HTTP/1.1\r\nHost: lab\r\nContent-Length: 0\r\nContent-Length: 9\r\n\r\n{smuggled}"), DropReason::HttpMalformed),
        (format!("GET / HTTP/1.1\r\nHost: lab\r\nTransfer-Encoding : chunked\r\n\r\n{smuggled}"), DropReason::HttpMalformed),
    ] {
        for address in bed.server.at(HTTP_PORT) {
            drop((bed.guarded.take_bytes(), bed.guarded.take_requests()));
            let before = bed.lab.agent().drops()?;
            let client = http::Client::connect(&bed.friend.netns, address)?;
            std::io::Write::write_all(&mut client.stream(), bytes.as_bytes())?;
            let answer = client.rest()?;
            ensure!(!String::from_utf8_lossy(&answer).contains("200 OK"), "{bytes:?} was answered");
            let grown = bed.lab.agent().drops()?.since(&before);
            ensure!(grown.get(reason) == 1, "{bytes:?}: dropped {grown:?}, wanted {reason:?}");
            let received = bed.guarded.take_bytes();
            ensure!(received.is_empty(), "{bytes:?}: the server received {:?}", String::from_utf8_lossy(&received));
        }
    }
    Ok(())
}

/// Requests and responses that a measured flow exchanges while the flood goes on.
const EXCHANGES: u32 = 2000;

/// Floods with `packet` from the stranger while the friend and the server exchange datagrams, one at a time: each must come through.
fn flood(bed: &Attacks, packet: &[u8]) -> Result<u64> {
    let injector = bed.stranger.injector()?;
    let frame = bed.stranger.framed(packet);
    let stop = AtomicBool::new(false);
    let echo = bed.server.netns.enter(|| UdpSocket::bind(("::".parse::<Ipv6Addr>().unwrap_or(Ipv6Addr::UNSPECIFIED), UDP_PORT)))?;
    let client = bed.friend.netns.enter(|| UdpSocket::bind("0.0.0.0:0"))?;
    for socket in [&echo, &client] {
        socket.set_read_timeout(Some(wait::LONG))?;
    }
    client.connect(bed.server.at4(UDP_PORT))?;
    thread::scope(|scope| {
        let flooded = scope.spawn(|| -> Result<u64> {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                match injector.send(&frame) {
                    Ok(()) => sent += 1,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(sent)
        });
        let exchange = || -> Result<()> {
            let mut buffer = [0; 64];
            for number in 0..EXCHANGES {
                client.send(&number.to_le_bytes())?;
                let (len, from) = echo.recv_from(&mut buffer).with_context(|| format!("request {number} was lost"))?;
                ensure!(buffer[..len] == number.to_le_bytes(), "request {number} is another");
                echo.send_to(&buffer[..len], from)?;
                let len = client.recv(&mut buffer).with_context(|| format!("response {number} was lost"))?;
                ensure!(buffer[..len] == number.to_le_bytes(), "response {number} is another");
            }
            Ok(())
        };
        let outcome = exchange();
        stop.store(true, Ordering::Relaxed);
        let sent = flooded.join().unwrap_or_else(|_panicked| Err(anyhow::anyhow!("the flood panicked")))?;
        outcome?;
        ensure!(sent > u64::from(EXCHANGES), "only {sent} packets of flood");
        Ok(sent)
    })
}

fn flood_of_denied_packets_costs_an_allowed_flow_nothing(bed: &mut Attacks) -> Result<()> {
    let tap = bed.server.tap()?;
    let before = bed.lab.agent().drops()?;
    let sent = flood(bed, &packets::udp(bed.stranger.at4(35_000), bed.server.at4(UDP_PORT), &[b'x'; 64]))?;
    let grown = bed.lab.agent().drops()?.since(&before);
    println!("    flood of {sent} packets, dropped {grown:?}");
    ensure!(grown.get(DropReason::PolicyDenied) > 0 && grown.total() == grown.get(DropReason::PolicyDenied), "{grown:?}");
    let from = IpAddr::from(bed.stranger.ip4);
    let arrived = tap.packets()?.iter().filter(|packet| packet.source == from).count();
    ensure!(arrived == 0, "{arrived} packets of the flood arrived");
    bed.lab.agent().expect_balanced_frames()
}

fn flood_of_allowed_packets_costs_another_pods_flow_nothing(bed: &mut Attacks) -> Result<()> {
    let sink = bed.lab.add_pod("app/sink", "role=sink")?;
    let sent = flood(bed, &packets::udp(bed.stranger.at4(36_000), sink.at4(9), &[b'x'; 64]));
    bed.lab.run(&["pod", "del", "app/sink"])?;
    println!("    flood of {} packets", sent?);
    thread::yield_now();
    bed.lab.agent().expect_balanced_frames()?;
    // The flow log survives it, too.
    wait::until("the flow log answers", Duration::from_secs(30), || Ok(bed.lab.agent().flows(1)?.pop()))?;
    Ok(())
}
