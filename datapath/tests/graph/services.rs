//! Service translation: which backend a flow gets, keeps and leaves, and what its sender is told where there is none.

use std::net::IpAddr;

use policy::{Affinity, Backend, DropReason, Frontend, Identity, Protocol, Service, ServiceKey, Unserved};
use sluice_datapath::graph::GraphConfig;
use sluice_datapath::wire::packet::{IcmpBody, L4};
use sluice_datapath::wire::quoted::QuotedPacket;
use sluice_datapath::wire::tcp::TcpFlags;

use crate::bed::*;

const VIP6: &str = "fd00:96::80";

fn at(addr: &str, port: u16, protocol: Protocol) -> ServiceKey {
    ServiceKey {
        addr: addr.parse().unwrap(),
        port,
        protocol,
    }
}

fn web(backends: &[Pod]) -> Service {
    service("bed/web", at(VIP, 80, Protocol::TCP), backends)
}

fn dns(backends: &[Pod]) -> Service {
    service("bed/dns", at(VIP, 53, Protocol::UDP), backends)
}

fn backend(pod: Pod) -> Backend {
    Backend {
        addr: pod.v4(),
        port: 5000,
    }
}

fn publish(bed: &mut Bed, services: &[Service]) {
    bed.services = services.to_vec();
    bed.publish();
}

fn vip() -> IpAddr {
    VIP.parse().unwrap()
}

/// A connection of `client` to an address, from a port.
fn to(client: Pod, addr: &str, port: u16, from: u16) -> Conn {
    let mut conn = Conn::between(client.key(), client.v4(), B.key(), addr.parse().unwrap(), port);
    conn.client.port = from;
    conn
}

fn query(bed: &mut Bed, from: u16) {
    bed.send(A.key(), &udp(A.v4(), from, vip(), 53, b"query"));
}

/// What an ICMP error quotes, and its type and code.
fn quoted(seen: &Seen) -> (QuotedPacket, [u8; 2]) {
    let L4::Icmp {
        body: IcmpBody::Error(quoted),
        ..
    } = seen.ip.l4
    else {
        panic!("{:?}", seen.ip)
    };
    let at = seen.ip.l4_offset();
    (quoted, [seen.frame[at], seen.frame[at + 1]])
}

/// How many packets B and C got.
fn got(bed: &Bed) -> (usize, usize) {
    (bed.got(B.key()).len(), bed.got(C.key()).len())
}

#[test]
fn connection_to_a_service_without_backend_is_reset_in_the_services_name() {
    let mut bed = Bed::new();
    publish(&mut bed, &[web(&[])]);
    to(A, VIP, 80, 40_000).client_sends(&mut bed, TcpFlags::SYN, &[]);
    let seen = bed.got_one(A.key());
    assert_eq!((seen.ip.source, seen.tcp().source_port), (vip(), 80));
    assert_eq!(
        (seen.ip.destination, seen.tcp().destination_port),
        (A.v4(), 40_000)
    );
    assert!(seen.tcp().flags.has(TcpFlags::RST) && seen.tcp().flags.has(TcpFlags::ACK));
    assert_eq!(bed.dropped(DropReason::NoBackend), 1);
    bed.assert_no_frame_lost();
}

#[test]
fn datagram_to_a_service_without_backend_is_answered_with_port_unreachable() {
    let mut bed = Bed::new();
    publish(
        &mut bed,
        &[dns(&[]), service("bed/dns6", at(VIP6, 53, Protocol::UDP), &[])],
    );
    query(&mut bed, 1000);
    let seen = bed.got_one(A.key());
    let (about, kind) = quoted(&seen);
    assert_eq!((seen.ip.source, kind), (vip(), [3, 3]));
    assert_eq!((about.source, about.destination), (A.v4(), vip()));
    bed.send(A.key(), &udp(A.v6(), 1000, VIP6.parse().unwrap(), 53, b"query"));
    let (about, kind) = quoted(&bed.got_one(A.key()));
    assert_eq!(
        (about.destination, kind),
        (VIP6.parse::<IpAddr>().unwrap(), [1, 4])
    );
    assert_eq!(bed.dropped(DropReason::NoBackend), 2);
    bed.assert_no_frame_lost();
}

#[test]
fn errors_about_services_without_backend_are_limited() {
    let mut bed = Bed::new();
    publish(&mut bed, &[dns(&[])]);
    let mut answers = 0;
    for from in 0..500 {
        query(&mut bed, 1000 + from);
        answers += bed.got(A.key()).len();
    }
    assert!((50..400).contains(&answers), "{answers} answers to 500 datagrams");
}

#[test]
fn ports_that_a_cluster_ip_does_not_have_are_rejected_and_so_is_a_ping() {
    let mut bed = Bed::new();
    publish(&mut bed, &[web(&[B])]);
    to(A, VIP, 81, 40_000).client_sends(&mut bed, TcpFlags::SYN, &[]);
    assert!(bed.got_one(A.key()).tcp().flags.has(TcpFlags::RST));
    bed.send(A.key(), &udp(A.v4(), 1000, vip(), 80, b"x"));
    assert_eq!(quoted(&bed.got_one(A.key())).1, [3, 3]);
    bed.send(A.key(), &ping(A.v4(), vip(), false));
    assert_eq!(quoted(&bed.got_one(A.key())).1, [3, 3]);
    assert_eq!(bed.dropped(DropReason::IsClusterIp), 3);
}

#[test]
fn service_with_backends_on_other_nodes_only_is_silent_under_traffic_policy_local() {
    let mut bed = Bed::new();
    let service = Service {
        draining: vec![backend(B)],
        unserved: Unserved::Drop,
        ..web(&[])
    };
    publish(&mut bed, &[service]);
    to(A, VIP, 80, 40_000).client_sends(&mut bed, TcpFlags::SYN, &[]);
    assert_eq!(bed.dropped(DropReason::NoLocalBackend), 1);
    assert!(bed.got_nothing());
}

#[test]
fn segment_of_an_unknown_connection_to_a_service_is_reset() {
    let mut bed = Bed::new();
    publish(&mut bed, &[web(&[B])]);
    to(A, VIP, 80, 40_000).client_sends(&mut bed, DATA, b"more");
    let seen = bed.got_one(A.key());
    assert!(seen.tcp().flags.has(TcpFlags::RST));
    assert_eq!((seen.ip.source, bed.dropped(DropReason::Midstream)), (vip(), 1));
}

fn with_affinity(service: Service) -> Service {
    Service {
        affinity: Some(Affinity {
            service: at(VIP, 80, Protocol::TCP),
            timeout_s: 10_800,
        }),
        ..service
    }
}

/// Connections of A from `count` ports, in one batch; how many of them B and C got.
fn connect(bed: &mut Bed, addr: &str, first: u16, count: u16) -> (usize, usize) {
    for from in first..first + count {
        let packet = to(A, addr, 80, from).by_client(TcpFlags::SYN, &[]);
        bed.wire(A.key()).send(&frame(A.mac(), GATEWAY, &packet));
    }
    bed.turn();
    got(bed)
}

#[test]
fn connections_of_one_client_go_to_one_backend_under_session_affinity() {
    let mut bed = Bed::new();
    let vip_and_balancer = [
        with_affinity(web(&[B, C])),
        Service {
            frontend: Frontend::LoadBalancer,
            ..with_affinity(service("bed/web", at("203.0.113.80", 80, Protocol::TCP), &[B, C]))
        },
    ];
    publish(&mut bed, &vip_and_balancer);
    let first = connect(&mut bed, VIP, 40_000, 20);
    assert!(matches!(first, (20, 0) | (0, 20)), "(B, C) got {first:?}");
    for batch in 1..5 {
        assert_eq!(connect(&mut bed, VIP, 40_000 + 100 * batch, 20), first);
    }
    let by_balancer = connect(&mut bed, "203.0.113.80", 41_000, 20);
    assert_eq!(by_balancer, first, "all frontends of a Service share it");
    assert_eq!(bed.worker.graph().translations().affinities(), 1);
}

#[test]
fn connections_of_one_client_are_spread_without_session_affinity() {
    let mut bed = Bed::new();
    publish(&mut bed, &[web(&[B, C])]);
    let (b, c) = connect(&mut bed, VIP, 40_000, 30);
    assert!(b > 2 && c > 2 && b + c == 30, "({b}, {c})");
}

#[test]
fn session_affinity_ends_with_its_backend_and_takes_up_the_next_one() {
    let mut bed = Bed::new();
    publish(&mut bed, &[with_affinity(web(&[B]))]);
    assert_eq!(connect(&mut bed, VIP, 40_000, 4), (4, 0));
    let draining = Service {
        draining: vec![backend(B)],
        ..with_affinity(web(&[C]))
    };
    publish(&mut bed, &[draining]);
    assert_eq!(connect(&mut bed, VIP, 40_100, 4), (0, 4));
    publish(&mut bed, &[with_affinity(web(&[B, C]))]);
    assert_eq!(connect(&mut bed, VIP, 40_200, 20), (0, 20));
}

#[test]
fn affinity_of_a_pod_goes_with_it_and_a_full_table_is_counted() {
    let mut bed = Bed::with(GraphConfig {
        flows: 4096,
        flows_per_endpoint: 1024,
        translations: 256,
        affinities: 1,
        l7_flows: 64,
        translate_host: false,
        ..GraphConfig::default()
    });
    publish(&mut bed, &[with_affinity(web(&[B]))]);
    assert_eq!(connect(&mut bed, VIP, 40_000, 3), (3, 0));
    assert_eq!(bed.counters().affinities_lost.get(), 0);
    to(C, VIP, 80, 40_000).client_sends(&mut bed, TcpFlags::SYN, &[]);
    assert_eq!(got(&bed), (1, 0), "served without affinity");
    assert_eq!(bed.counters().affinities_lost.get(), 1);
    bed.detach(A.key());
    assert_eq!(bed.worker.graph().translations().affinities(), 0);
}

#[test]
fn datagrams_stay_with_a_backend_that_still_serves_and_leave_one_that_does_not() {
    let mut bed = Bed::new();
    publish(&mut bed, &[dns(&[B])]);
    query(&mut bed, 1000);
    assert_eq!(got(&bed), (1, 0));
    let draining = Service {
        draining: vec![backend(B)],
        ..dns(&[C])
    };
    publish(&mut bed, &[draining]);
    query(&mut bed, 1000);
    query(&mut bed, 1001);
    assert_eq!(got(&bed), (1, 1), "the known flow to B, the new one to C");
    publish(&mut bed, &[dns(&[C])]);
    query(&mut bed, 1000);
    assert_eq!(got(&bed), (0, 1));
}

#[test]
fn datagrams_stay_where_they_are_while_nobody_serves_and_when_the_service_goes() {
    let mut bed = Bed::new();
    publish(&mut bed, &[dns(&[B]), web(&[B])]);
    query(&mut bed, 1000);
    publish(&mut bed, &[dns(&[]), web(&[B])]);
    query(&mut bed, 1000);
    publish(&mut bed, &[web(&[B])]);
    query(&mut bed, 1000);
    publish(&mut bed, &[]);
    query(&mut bed, 1000);
    assert_eq!(got(&bed), (4, 0));
    bed.detach(B.key());
    publish(&mut bed, &[dns(&[C]), web(&[B])]);
    query(&mut bed, 1000);
    assert_eq!(bed.got(C.key()).len(), 1, "its backend went for good");
}

#[test]
fn established_connection_stays_with_a_backend_that_is_offered_no_more() {
    let mut bed = Bed::new();
    publish(&mut bed, &[web(&[B])]);
    let mut conn = to(A, VIP, 80, 40_000);
    conn.client_sends(&mut bed, TcpFlags::SYN, &[]);
    let mut back = conn;
    (back.server.addr, back.server.port) = (B.v4(), 5000);
    back.server_sends(&mut bed, SYN_ACK, &[]);
    conn.server.seq = back.server.seq;
    publish(&mut bed, &[web(&[C])]);
    conn.client_sends(&mut bed, TcpFlags::ACK, &[]);
    conn.client_sends(&mut bed, DATA, b"more");
    assert_eq!(got(&bed), (3, 0), "SYN, ACK and data");
}

#[test]
fn node_port_balancer_and_host_port_lead_to_backends_and_the_nodes_other_ports_to_the_node() {
    let mut bed = Bed::new();
    let reached = |frontend, addr, port| Service {
        frontend,
        ..service("bed/web", at(addr, port, Protocol::TCP), &[B])
    };
    let services = [
        reached(Frontend::NodePort, NODE, 30_008),
        reached(Frontend::HostPort, NODE, 8080),
        reached(Frontend::LoadBalancer, "203.0.113.80", 80),
        reached(Frontend::ExternalIp, "203.0.113.81", 80),
    ];
    publish(&mut bed, &services);
    for (addr, port) in services.map(|service| (service.key.addr.to_string(), service.key.port)) {
        to(A, &addr, port, 40_000).client_sends(&mut bed, TcpFlags::SYN, &[]);
        let seen = bed.got_one(B.key());
        assert_eq!(
            (seen.ip.source, seen.ip.destination, seen.tcp().destination_port),
            (A.v4(), B.v4(), 5000),
            "{addr}:{port}"
        );
    }
    to(A, NODE, 22, 40_000).client_sends(&mut bed, TcpFlags::SYN, &[]);
    assert_eq!(bed.got_one(HOST).tcp().destination_port, 22);
    to(A, "203.0.113.80", 443, 40_000).client_sends(&mut bed, TcpFlags::SYN, &[]);
    assert_eq!(bed.got_one(FORWARD).tcp().destination_port, 443);
}

/// OUTSIDE is another node, which has NodePorts 30008/TCP and 30053/UDP.
pub fn serve_by_another_node(bed: &mut Bed, backend: Pod) {
    let reached = |port, protocol| Service {
        frontend: Frontend::NodePort,
        ..service("bed/web", at("0.0.0.0", port, protocol), &[backend])
    };
    bed.nodes = vec![OUTSIDE.parse().unwrap()];
    bed.node_ports = vec![reached(30_008, Protocol::TCP), reached(30_053, Protocol::UDP)];
    bed.publish();
}

#[test]
fn pod_that_asks_another_nodes_node_port_is_judged_as_itself_by_the_backend() {
    let mut bed = Bed::guarded(Allow::Plain);
    bed.known = vec![(OUTSIDE.parse().unwrap(), Identity::REMOTE_NODE)];
    serve_by_another_node(&mut bed, B);
    let mut conn = to(A, OUTSIDE, 30_008, 40_000);
    conn.client_sends(&mut bed, TcpFlags::SYN, &[]);
    let seen = bed.got_one(B.key());
    assert_eq!(
        (seen.ip.source, seen.ip.destination, seen.tcp().destination_port),
        (A.v4(), B.v4(), 5000)
    );
    let mut back = conn;
    (back.server.addr, back.server.port) = (B.v4(), 5000);
    back.server_sends(&mut bed, SYN_ACK, &[]);
    let seen = bed.got_one(A.key());
    assert_eq!(
        (seen.ip.source.to_string().as_str(), seen.tcp().source_port),
        (OUTSIDE, 30_008)
    );
    to(C, OUTSIDE, 30_008, 40_000).client_sends(&mut bed, TcpFlags::SYN, &[]);
    assert_eq!(bed.dropped(DropReason::PolicyDenied), 1, "C is not let in");
    assert!(bed.got_nothing());
    to(A, OUTSIDE, 22, 40_000).client_sends(&mut bed, TcpFlags::SYN, &[]);
    assert_eq!(bed.got_one(FORWARD).tcp().destination_port, 22);
    bed.assert_no_frame_lost();
}

/// A node that masquerades takes any port for a client of its own.
#[test]
fn answers_to_a_client_whose_port_is_a_node_port_by_chance_are_not_translated() {
    let mut bed = Bed::new();
    serve_by_another_node(&mut bed, C);
    let outside: IpAddr = OUTSIDE.parse().unwrap();
    let mut conn = Conn::between(FORWARD, outside, B.key(), B.v4(), 5000);
    conn.client.port = 30_008;
    conn.open(&mut bed);
    conn.server_sends(&mut bed, DATA, b"answer");
    assert_eq!(bed.got_one(FORWARD).tcp().destination_port, 30_008);
    bed.send(FORWARD, &udp(outside, 30_053, B.v4(), 53, b"query"));
    bed.got_one(B.key());
    bed.send(B.key(), &udp(B.v4(), 53, outside, 30_053, b"answer"));
    assert_eq!(bed.got_one(FORWARD).ip.destination, outside);
    assert!(bed.got_nothing());
    // Its own questions are.
    bed.send(B.key(), &udp(B.v4(), 1000, outside, 30_053, b"query"));
    assert_eq!(bed.got_one(C.key()).ip.source, B.v4());
}

#[test]
fn answer_goes_to_who_asks_whatever_its_port_has_asked_of_the_service_before() {
    let mut bed = Bed::new();
    serve_by_another_node(&mut bed, C);
    let outside: IpAddr = OUTSIDE.parse().unwrap();
    let answer = udp(B.v4(), 53, outside, 30_053, b"answer");
    bed.send(B.key(), &answer);
    assert_eq!(bed.got_one(C.key()).ip.source, B.v4(), "nobody has asked");
    bed.send(FORWARD, &udp(outside, 30_053, B.v4(), 53, b"query"));
    bed.got_one(B.key());
    bed.send(B.key(), &answer);
    assert_eq!(bed.got_one(FORWARD).ip.destination, outside);
    assert!(bed.got_nothing());
}

#[test]
fn connection_that_is_older_than_its_node_port_goes_on_as_it_is() {
    let mut bed = Bed::new();
    let mut conn = to(A, OUTSIDE, 30_008, 40_000);
    conn.server.key = FORWARD;
    conn.open(&mut bed);
    serve_by_another_node(&mut bed, B);
    conn.client_sends(&mut bed, DATA, b"more");
    assert_eq!(bed.got_one(FORWARD).payload(), b"more");
    to(A, OUTSIDE, 30_008, 40_001).client_sends(&mut bed, TcpFlags::SYN, &[]);
    assert_eq!(bed.got_one(B.key()).tcp().destination_port, 5000);
    assert!(bed.got_nothing());
}

#[test]
fn service_behind_the_node_itself_is_reached_and_answers_in_its_own_name() {
    let mut bed = Bed::new();
    let kubernetes = Service::cluster_ip(
        "default/kubernetes",
        at(VIP, 443, Protocol::TCP),
        vec![Backend {
            addr: NODE.parse().unwrap(),
            port: 6443,
        }],
    );
    publish(&mut bed, &[kubernetes]);
    let mut conn = to(A, VIP, 443, 40_000);
    conn.client_sends(&mut bed, TcpFlags::SYN, &[]);
    let seen = bed.got_one(HOST);
    assert_eq!(
        (
            seen.ip.destination.to_string().as_str(),
            seen.tcp().destination_port
        ),
        (NODE, 6443)
    );
    let mut back = conn;
    back.server = End {
        key: HOST,
        addr: NODE.parse().unwrap(),
        port: 6443,
        ..conn.server
    };
    back.server_sends(&mut bed, SYN_ACK, &[]);
    let seen = bed.got_one(A.key());
    assert_eq!((seen.ip.source, seen.tcp().source_port), (vip(), 443));
}

#[test]
fn clients_outside_the_source_ranges_of_a_balancer_are_dropped() {
    let mut bed = Bed::new();
    let balancer = Service {
        frontend: Frontend::LoadBalancer,
        sources: vec![A.v4().into()],
        ..service("bed/web", at("203.0.113.80", 80, Protocol::TCP), &[B])
    };
    publish(&mut bed, &[balancer]);
    to(A, "203.0.113.80", 80, 40_000).client_sends(&mut bed, TcpFlags::SYN, &[]);
    to(C, "203.0.113.80", 80, 40_000).client_sends(&mut bed, TcpFlags::SYN, &[]);
    assert_eq!(bed.got_one(B.key()).ip.source, A.v4());
    assert_eq!(bed.dropped(DropReason::NotInSourceRange), 1);
    assert!(bed.got_nothing());
}

/// A bed in which the node's own processes are served, too.
fn without_kube_proxy() -> Bed {
    Bed::with(GraphConfig {
        flows: 4096,
        flows_per_endpoint: 1024,
        translations: 256,
        affinities: 8,
        l7_flows: 64,
        translate_host: true,
        ..GraphConfig::default()
    })
}

/// A connection of a process of the node to the Service, and the same as a backend at `server` sees it.
fn from_node(bed: &mut Bed, server: policy::EndpointKey) -> (Seen, Conn) {
    let mut conn = Conn::between(HOST, NODE.parse().unwrap(), HOST, vip(), 80);
    conn.client_sends(bed, TcpFlags::SYN, &[]);
    let seen = bed.got_one(server);
    let mut behind = conn;
    behind.client.addr = seen.ip.source;
    behind.client.port = seen.tcp().source_port;
    behind.server = End {
        key: server,
        addr: seen.ip.destination,
        port: seen.tcp().destination_port,
        ..conn.server
    };
    (seen, behind)
}

/// The Service answers the node's process.
fn assert_answered(bed: &mut Bed, mut behind: Conn) {
    behind.server_sends(bed, SYN_ACK, &[]);
    let seen = bed.got_one(HOST);
    assert_eq!((seen.ip.source, seen.tcp().source_port), (vip(), 80));
    assert_eq!(
        (
            seen.ip.destination.to_string().as_str(),
            seen.tcp().destination_port
        ),
        (NODE, 40_000)
    );
    bed.assert_no_frame_lost();
}

fn behind(addr: &str, port: u16) -> Service {
    let backend = Backend {
        addr: addr.parse().unwrap(),
        port,
    };
    Service::cluster_ip("bed/web", at(VIP, 80, Protocol::TCP), vec![backend])
}

#[test]
fn process_of_the_node_reaches_a_local_pod_through_a_service_as_the_node() {
    let mut bed = without_kube_proxy();
    publish(&mut bed, &[web(&[B])]);
    let (seen, behind) = from_node(&mut bed, B.key());
    assert_eq!(
        (seen.ip.source.to_string().as_str(), seen.ip.destination),
        (NODE, B.v4())
    );
    assert_answered(&mut bed, behind);
}

#[test]
fn process_of_the_node_reaches_another_node_and_its_own_node_through_a_service() {
    for (addr, port, out) in [(OUTSIDE, 5000, FORWARD), (NODE, 6443, HOST)] {
        let mut bed = without_kube_proxy();
        publish(&mut bed, &[behind(addr, port)]);
        let (seen, behind) = from_node(&mut bed, out);
        assert_eq!(
            seen.ip.source.to_string(),
            "169.254.42.2",
            "the node's stack takes no address of its own"
        );
        assert_eq!(
            (
                seen.ip.destination.to_string().as_str(),
                seen.tcp().destination_port
            ),
            (addr, port)
        );
        assert_answered(&mut bed, behind);
    }
}

#[test]
fn process_of_the_node_is_told_of_a_service_without_backend() {
    let mut bed = without_kube_proxy();
    publish(&mut bed, &[web(&[])]);
    let mut conn = Conn::between(HOST, NODE.parse().unwrap(), HOST, vip(), 80);
    conn.client_sends(&mut bed, TcpFlags::SYN, &[]);
    let seen = bed.got_one(HOST);
    assert_eq!(
        (seen.ip.source, seen.tcp().flags.has(TcpFlags::RST)),
        (vip(), true)
    );
}

#[test]
fn services_are_not_served_to_the_nodes_processes_beside_kube_proxy() {
    let mut bed = Bed::new();
    publish(&mut bed, &[web(&[B])]);
    let mut conn = Conn::between(HOST, NODE.parse().unwrap(), HOST, vip(), 80);
    conn.client_sends(&mut bed, TcpFlags::SYN, &[]);
    assert_eq!(bed.dropped(DropReason::Unroutable), 1);
    assert!(bed.got_nothing());
}

#[test]
fn what_comes_from_outside_is_not_translated_without_kube_proxy_either() {
    let mut bed = without_kube_proxy();
    publish(&mut bed, &[web(&[B])]);
    let mut conn = Conn::between(FORWARD, OUTSIDE.parse().unwrap(), HOST, vip(), 80);
    conn.client_sends(&mut bed, TcpFlags::SYN, &[]);
    assert_eq!(bed.dropped(DropReason::Unroutable), 1);
    assert!(bed.got_nothing());
}

/// After a restart of the agent: the node's processes would wait for their own timeouts.
#[test]
fn segment_of_an_unknown_connection_of_the_node_to_a_service_is_reset() {
    let mut bed = without_kube_proxy();
    publish(&mut bed, &[web(&[B])]);
    Conn::between(HOST, NODE.parse().unwrap(), HOST, vip(), 80).client_sends(&mut bed, DATA, b"more");
    let seen = bed.got_one(HOST);
    assert!(seen.tcp().flags.has(TcpFlags::RST));
    assert_eq!((seen.ip.source, bed.dropped(DropReason::Midstream)), (vip(), 1));
}
