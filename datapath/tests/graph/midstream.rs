//! Connections that are older than the worker.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use policy::{DropReason, EndpointKey, Identity, Peers};
use sluice_datapath::adoption::AdoptionLimits;
use sluice_datapath::conntrack::{Entry, TcpState};
use sluice_datapath::flow::{FlowKey, Peer};
use sluice_datapath::graph::GraphConfig;
use sluice_datapath::interface::{InterfaceConfig, InterfaceKind};
use sluice_datapath::wire::tcp::TcpFlags;

use crate::bed::*;
use crate::services::serve_by_another_node;

const RST: TcpFlags = TcpFlags::RST;

pub fn adopted(pod: Pod) -> InterfaceConfig {
    let mut config = pod.config();
    if let InterfaceKind::Endpoint(endpoint) = &mut config.kind {
        endpoint.adopted = true;
    }
    config
}

/// `pods` were there before the worker; B lets only A in, on port 5000, with these rules, and nobody may connect to A.
pub fn bed_of(pods: &[Pod], allow: Allow, adoption: AdoptionLimits) -> Bed {
    let mut bed = Bed::with(GraphConfig {
        flows: 4096,
        flows_per_endpoint: 1024,
        translations: 256,
        l7_flows: 64,
        adoption,
        ..GraphConfig::default()
    });
    bed.set(
        A,
        Rules {
            ingress: Some(vec![]),
            egress: None,
        },
    );
    bed.set(
        B,
        Rules {
            ingress: Some(vec![(peer(A), 5000, allow)]),
            egress: None,
        },
    );
    for pod in pods {
        bed.detach(pod.key());
        bed.attach(adopted(*pod));
    }
    bed
}

fn bed() -> Bed {
    bed_of(&[A, B, C], Allow::Plain, AdoptionLimits::default())
}

fn entry(bed: &Bed, from: (IpAddr, u16), to: (IpAddr, u16)) -> Option<Entry> {
    let conntrack = bed.worker.graph().conntrack();
    let key = FlowKey {
        source: Peer::new(from.0, from.1),
        destination: Peer::new(to.0, to.1),
        protocol: policy::Protocol::TCP,
    };
    let (id, _) = conntrack.lookup(&key, conntrack.hash(&key))?;
    conntrack.get(id).copied()
}

/// A segment of `conn` by its client makes no flow, and the client is told.
fn is_reset(bed: &mut Bed, conn: &Conn) {
    let before = bed.dropped(DropReason::Midstream);
    bed.send(conn.client.key, &conn.by_client(DATA, b"x"));
    assert!(bed.got_one(conn.client.key).tcp().flags.has(RST));
    assert!(bed.got_nothing());
    assert_eq!(bed.dropped(DropReason::Midstream), before + 1);
    assert_eq!(bed.worker.graph().conntrack().len(), 0);
}

#[test]
fn connection_of_adopted_pods_goes_on_whichever_side_speaks_first() {
    for new in [Conn::new, Conn::new6] {
        for server_first in [false, true] {
            let mut bed = bed();
            let mut conn = new(A, B, 5000);
            for by_server in [server_first, !server_first, server_first] {
                if by_server {
                    conn.server_sends(&mut bed, DATA, b"answer");
                    assert_eq!(bed.got_one(A.key()).payload(), b"answer");
                } else {
                    conn.client_sends(&mut bed, DATA, b"question");
                    assert_eq!(bed.got_one(B.key()).payload(), b"question");
                }
            }
            let entry = entry(&bed, (conn.client.addr, 40_000), (conn.server.addr, 5000)).unwrap();
            assert_eq!((entry.source, entry.destination), (A.key(), B.key()));
            assert_eq!(entry.tcp, TcpState::Established);
            assert_eq!(bed.counters().adopted_flows.get(), 1);
            bed.assert_no_frame_lost();
        }
    }
}

#[test]
fn adopted_connection_is_established_when_its_client_is_heard_and_closes_as_others() {
    let mut bed = bed();
    let mut conn = Conn::new(A, B, 5000);
    conn.server_sends(&mut bed, DATA, b"x");
    let state = |bed: &Bed| entry(bed, (A.v4(), 40_000), (B.v4(), 5000)).unwrap().tcp;
    assert_eq!(state(&bed), TcpState::SynReceived);
    conn.client_sends(&mut bed, TcpFlags::ACK, &[]);
    assert_eq!(state(&bed), TcpState::Established);
    conn.client_sends(&mut bed, TcpFlags::FIN.with(TcpFlags::ACK), &[]);
    conn.server_sends(&mut bed, TcpFlags::FIN.with(TcpFlags::ACK), &[]);
    assert_eq!(state(&bed), TcpState::Finished);
}

#[test]
fn adopted_connection_is_cut_by_a_policy_of_its_own_orientation() {
    let mut bed = bed();
    let mut conn = Conn::new(A, B, 5000);
    conn.server_sends(&mut bed, DATA, b"x");
    bed.got_one(A.key());
    bed.set(
        B,
        Rules {
            ingress: Some(vec![]),
            egress: None,
        },
    );
    conn.server_sends(&mut bed, DATA, b"y");
    assert!(bed.got_nothing());
    assert_eq!(bed.dropped(DropReason::PolicyDenied), 1);
}

#[test]
fn who_is_denied_a_server_is_not_taken_for_one_that_the_server_connected_to() {
    let mut bed = bed();
    // B may connect to anyone, and C takes anyone: as the answer of C's port 40000 this would be allowed.
    is_reset(&mut bed, &Conn::new(C, B, 5000));
    is_reset(&mut bed, &Conn::new6(C, B, 5000));
    // Nor where the ports speak for neither.
    let mut conn = Conn::new(C, B, 5000);
    conn.client.port = 443;
    is_reset(&mut bed, &conn);
    let mut conn = Conn::new(C, B, 50_000);
    is_reset(&mut bed, &conn);
    conn.client.port = 65_535;
    is_reset(&mut bed, &conn);
}

#[test]
fn syn_is_judged_as_what_it_is_whatever_a_segment_before_it_was_taken_for() {
    let mut bed = bed();
    // From the port of a server to one of a client: an answer to B, as far as anybody can tell.
    let mut conn = Conn::new(C, B, 40_000);
    conn.client.port = 5432;
    conn.client_sends(&mut bed, DATA, b"x");
    bed.got_one(B.key());
    bed.send(C.key(), &conn.by_client(TcpFlags::SYN, &[]));
    assert!(bed.got_nothing());
    assert_eq!(bed.dropped(DropReason::InvalidTcp), 1);
    // B's kernel knows no such connection, and says so with the number that was acknowledged (RFC 9293, 3.10.7.1).
    bed.send(B.key(), &conn.by_server(RST, &[]));
    assert!(bed.got_one(C.key()).tcp().flags.has(RST));
    // The reset has ended what was made of the segment, so the SYN is one of a new connection.
    bed.send(C.key(), &conn.by_client(TcpFlags::SYN, &[]));
    assert!(bed.got_nothing());
    assert_eq!(
        (
            bed.dropped(DropReason::PolicyDenied),
            bed.dropped(DropReason::InvalidTcp)
        ),
        (1, 1)
    );
}

#[test]
fn connection_on_an_l7_port_is_reset_at_both_ends_whichever_side_speaks_first() {
    for server_first in [false, true] {
        let mut bed = bed_of(&[A, B, C], get("/"), AdoptionLimits::default());
        // Even where the other orientation would be allowed.
        bed.set(A, Rules::default());
        let mut conn = Conn::new(A, B, 5000);
        if server_first {
            conn.server_sends(&mut bed, DATA, b"x");
        } else {
            conn.client_sends(&mut bed, DATA, b"GET /secret HTTP/1.1\r\n");
        }
        for pod in [A, B] {
            let seen = bed.got_one(pod.key());
            assert!(seen.tcp().flags.has(RST) && seen.payload().is_empty());
        }
        assert_eq!(bed.dropped(DropReason::Midstream), 1);
        assert_eq!(bed.worker.graph().conntrack().len(), 0);
        bed.assert_no_frame_lost();
    }
}

#[test]
fn remote_client_of_an_l7_port_is_reset_and_forges_no_reset_of_the_server() {
    let mut bed = bed_of(&[A, B], get("/"), AdoptionLimits::default());
    let remote: IpAddr = "10.244.9.9".parse().unwrap();
    bed.known.push((remote, A.identity()));
    bed.ipcache_generation += 1;
    bed.publish();
    let conn = Conn::between(FORWARD, remote, B.key(), B.v4(), 5000);
    is_reset(&mut bed, &conn);
}

#[test]
fn connection_of_a_pod_that_was_added_is_reset_even_with_an_adopted_one() {
    for pods in [&[][..], &[A], &[B]] {
        let mut bed = bed_of(pods, Allow::Plain, AdoptionLimits::default());
        is_reset(&mut bed, &Conn::new(A, B, 5000));
    }
}

/// A node that masquerades takes any port for a client of its own: the server may speak first after the restart.
#[test]
fn server_goes_on_with_a_client_whose_port_is_a_node_port_by_chance() {
    let mut bed = Bed::new();
    bed.detach(B.key());
    bed.attach(adopted(B));
    serve_by_another_node(&mut bed, C);
    let mut conn = Conn::between(FORWARD, OUTSIDE.parse().unwrap(), B.key(), B.v4(), 5000);
    conn.client.port = 30_008;
    bed.send(B.key(), &conn.by_server(DATA, b"answer"));
    assert_eq!(bed.got_one(FORWARD).tcp().destination_port, 30_008);
    assert!(bed.got_nothing());
    // Whoever was not there before the worker has no such connections.
    conn.server.key = A.key();
    conn.server.addr = A.v4();
    bed.send(A.key(), &conn.by_server(DATA, b"answer"));
    assert!(bed.got_one(A.key()).tcp().flags.has(RST));
    assert!(bed.got_nothing());
}

#[test]
fn window_closes_and_what_went_on_goes_on() {
    let window = Duration::from_millis(200);
    let limits = AdoptionLimits {
        window_ns: window.as_nanos().try_into().unwrap(),
        ..AdoptionLimits::default()
    };
    let before = Instant::now();
    let mut bed = bed_of(&[A, B], Allow::Plain, limits);
    let mut conn = Conn::new(A, B, 5000);
    conn.client_sends(&mut bed, DATA, b"x");
    if before.elapsed() < window {
        bed.got_one(B.key());
    }
    let opened = Instant::now();
    while opened.elapsed() <= window {
        bed.turn();
    }
    conn.client_sends(&mut bed, DATA, b"y");
    assert_eq!(bed.got_one(B.key()).payload(), b"y");
    let mut other = Conn::new(A, B, 5000);
    other.client.port += 1;
    bed.send(A.key(), &other.by_client(DATA, b"x"));
    assert!(bed.got_one(A.key()).tcp().flags.has(RST));
    assert!(bed.got_nothing());
}

#[test]
fn window_opens_with_the_policy_and_not_before() {
    let window = Duration::from_millis(200);
    let limits = AdoptionLimits {
        window_ns: window.as_nanos().try_into().unwrap(),
        ..AdoptionLimits::default()
    };
    let mut bed = bed_of(&[], Allow::Plain, limits);
    let rules = std::mem::take(&mut bed.rules);
    bed.publish();
    for pod in [A, B] {
        bed.detach(pod.key());
        bed.attach(adopted(pod));
    }
    let attached = Instant::now();
    while attached.elapsed() <= window {
        bed.turn();
    }
    // Neither passed nor reset: it is sent again.
    let mut conn = Conn::new(A, B, 5000);
    bed.send(A.key(), &conn.by_client(DATA, b"x"));
    assert!(bed.got_nothing());
    assert_eq!(bed.dropped(DropReason::EndpointNotReady), 1);
    bed.rules = rules;
    let published = Instant::now();
    bed.publish();
    conn.client_sends(&mut bed, DATA, b"x");
    if published.elapsed() < window {
        bed.got_one(B.key());
    }
}

#[test]
fn only_segments_of_established_connections_go_on() {
    let mut bed = bed();
    for flags in [SYN_ACK, RST, RST.with(TcpFlags::ACK), TcpFlags::PSH] {
        bed.send(A.key(), &Conn::new(A, B, 5000).by_client(flags, &[]));
        assert!(bed.got(B.key()).is_empty(), "{flags:?}");
    }
    assert_eq!(bed.worker.graph().conntrack().len(), 0);
}

#[test]
fn connection_through_a_service_whose_backend_nobody_knows_is_reset() {
    let mut bed = bed();
    bed.serve(&[B]);
    let vip: IpAddr = VIP.parse().unwrap();
    is_reset(&mut bed, &Conn::between(A.key(), A.v4(), B.key(), vip, 80));
}

#[test]
fn connections_with_the_outside_and_the_node_go_on_as_far_as_policy_allows() {
    let outside: IpAddr = OUTSIDE.parse().unwrap();
    let node: IpAddr = NODE.parse().unwrap();
    // A's connection to the outside, whose answer comes first.
    let mut bed = bed();
    let mut conn = Conn::between(A.key(), A.v4(), FORWARD, outside, 443);
    conn.server_sends(&mut bed, DATA, b"x");
    bed.got_one(A.key());
    conn.client_sends(&mut bed, DATA, b"x");
    bed.got_one(FORWARD);
    // The outside's to B is not allowed.
    bed.send(
        FORWARD,
        &Conn::between(FORWARD, outside, B.key(), B.v4(), 5000).by_client(DATA, b"x"),
    );
    assert!(bed.got(B.key()).is_empty());
    // What comes forwarded with the node's address is anybody, and no answer of the node.
    let mut masked = Conn::between(FORWARD, node, B.key(), B.v4(), 40_000);
    masked.client.port = 443;
    bed.send(FORWARD, &masked.by_client(DATA, b"x"));
    assert!(bed.got(B.key()).is_empty());
    // The node's own.
    let mut probe = Conn::between(HOST, node, B.key(), B.v4(), 8080);
    bed.set(
        B,
        Rules {
            ingress: Some(vec![(
                Peers::Identities([Identity::HOST].into()),
                8080,
                Allow::Plain,
            )]),
            egress: None,
        },
    );
    probe.client_sends(&mut bed, DATA, b"x");
    bed.got_one(B.key());
}

#[test]
fn an_endpoint_has_a_limit_of_such_connections() {
    let limits = AdoptionLimits {
        flows_per_endpoint: 2,
        ..AdoptionLimits::default()
    };
    let mut bed = bed_of(&[A, B], Allow::Plain, limits);
    let mut conn = Conn::new(A, B, 5000);
    for port in 0..3 {
        conn.client.port = 40_000 + port;
        bed.send(A.key(), &conn.by_client(DATA, b"x"));
    }
    assert_eq!(bed.got(B.key()).len(), 2);
    assert!(bed.got_one(A.key()).tcp().flags.has(RST));
}

#[test]
fn audited_denial_of_an_adopted_connection_passes_and_is_reported() {
    let mut bed = bed();
    bed.audits = vec![A, B, C];
    bed.publish();
    let mut conn = Conn::new(C, B, 443);
    conn.client_sends(&mut bed, DATA, b"x");
    bed.got_one(B.key());
    conn.server_sends(&mut bed, DATA, b"x");
    bed.got_one(C.key());
}

#[test]
fn endpoint_that_is_replaced_has_no_window() {
    let mut bed = bed();
    bed.detach(B.key());
    let key = EndpointKey {
        generation: policy::SlotGeneration(2),
        ..B.key()
    };
    bed.attach(InterfaceConfig { key, ..B.config() });
    bed.send(A.key(), &Conn::new(A, B, 5000).by_client(DATA, b"x"));
    assert!(bed.got(key).is_empty());
    assert!(bed.got_one(A.key()).tcp().flags.has(RST));
}

#[test]
fn connection_to_a_pod_that_is_adopted_later_finds_its_way() {
    let mut bed = bed_of(&[A], Allow::Plain, AdoptionLimits::default());
    bed.detach(B.key());
    let mut conn = Conn::new(A, B, 5000);
    conn.client_sends(&mut bed, DATA, b"lost");
    assert_eq!(bed.got(FORWARD).len(), 1, "B is nobody here yet");
    bed.attach(adopted(B));
    conn.server_sends(&mut bed, DATA, b"x");
    assert_eq!(bed.got_one(A.key()).payload(), b"x");
    conn.client_sends(&mut bed, DATA, b"y");
    assert_eq!(bed.got_one(B.key()).payload(), b"y");
}
