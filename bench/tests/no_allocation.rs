//! A worker in its steady state allocates nothing: established flows, both ways, through the real loop over rings in memory.
//!
//! The count is that of `Worker::turn` on this thread; packets are injected and taken out between turns.

use std::sync::Arc;

use datapath::wire::tcp::TcpFlags;
use policy::{Affinity, Backend, Protocol, Service, ServiceKey, ServiceTable, Snapshot};
use sluice_bench::alloc;
use sluice_bench::connection::{Connection, FRAME_BYTES, HANDSHAKE, RESPONSE, peer, request};
use sluice_bench::node::{CLIENT, Node, Pod, SERVER, http_head_rules, http_path, http_rules, snapshot};
use sluice_bench::stream;

const FLOWS: usize = 64;
const BATCH: usize = 32;

/// Packets that may allocate: the far sides of the rings grow their buffers.
const WARM_UP: usize = 4000;

/// Packets that may not.
const COUNTED: usize = 10_000;

const DATA: TcpFlags = TcpFlags::PSH.with(TcpFlags::ACK);

/// Sends one batch, which must come out whole; returns what the turn allocated.
fn exchange(node: &mut Node, sender: Pod, frames: impl Iterator<Item = Vec<u8>>) -> u64 {
    let sent = frames.map(|frame| node.inject(sender, &frame)).count();
    let allocations = alloc::count(|| node.turn());
    assert_eq!(node.drain(peer(sender)), sent, "a packet was dropped");
    allocations
}

/// Sends batches to and fro until enough packets were counted; `frame` makes the packet of a flow from a pod.
fn assert_allocates_nothing(node: &mut Node, mut frame: impl FnMut(Pod, usize) -> Vec<u8>) {
    let (mut packets, mut allocations, mut first) = (0, 0, 0);
    while packets < WARM_UP + COUNTED {
        for sender in [CLIENT, SERVER] {
            let flows = (first..first + BATCH).map(|n| frame(sender, n % FLOWS));
            let counted = exchange(node, sender, flows);
            allocations += if packets < WARM_UP { 0 } else { counted };
            packets += BATCH;
        }
        first += BATCH;
    }
    assert_eq!(allocations, 0, "in {} packets", packets - WARM_UP);
    assert_eq!(node.handle().counters.dropped_total(), 0);
    assert_eq!(node.handle().counters.events_lost.get(), 0);
}

#[test]
fn established_udp_flows_allocate_nothing() {
    let mut node = Node::new(1024, snapshot(10, &[]));
    assert_allocates_nothing(&mut node, |sender, n| {
        let (client, server) = stream::ports(n);
        let ports = if sender == CLIENT {
            (client, server)
        } else {
            (server, client)
        };
        stream::udp(sender, peer(sender), ports, b"datagram")
    });
}

/// The address of the Service in [`with_service`]; no pod has it.
const FRONTEND: Pod = Pod(300);

/// The same snapshot with a Service with session affinity in front of the server.
fn with_service() -> Snapshot {
    let key = ServiceKey {
        addr: FRONTEND.v4(),
        port: stream::FIRST_SERVER_PORT,
        protocol: Protocol::UDP,
    };
    let backend = Backend {
        addr: SERVER.v4(),
        port: stream::FIRST_SERVER_PORT,
    };
    let service = Service {
        affinity: Some(Affinity {
            service: key,
            timeout_s: 10_800,
        }),
        ..Service::cluster_ip("bench/service", key, vec![backend])
    };
    Snapshot {
        services: Arc::new(ServiceTable::new([service])),
        ..snapshot(10, &[])
    }
}

#[test]
fn established_udp_flows_through_a_service_allocate_nothing() {
    let mut node = Node::new(1024, with_service());
    assert_allocates_nothing(&mut node, |sender, n| {
        let (client, server) = stream::ports(n);
        match sender {
            CLIENT => stream::udp(CLIENT, FRONTEND, (client, server), b"datagram"),
            _ => stream::udp(SERVER, CLIENT, (server, client), b"datagram"),
        }
    });
    assert_eq!(node.handle().counters.translations.get(), FLOWS as u64);
    assert_eq!(node.handle().counters.affinities.get(), 1);
}

#[test]
fn new_flows_through_a_service_with_session_affinity_allocate_nothing() {
    let mut node = Node::new(WARM_UP + COUNTED, with_service());
    let mut allocations = 0;
    for first in (0..WARM_UP + COUNTED).step_by(BATCH) {
        let frames =
            (first..first + BATCH).map(|n| stream::udp(CLIENT, FRONTEND, stream::ports(n), b"datagram"));
        let counted = exchange(&mut node, CLIENT, frames);
        allocations += if first < WARM_UP { 0 } else { counted };
    }
    assert_eq!(allocations, 0, "in {COUNTED} flows");
    assert_eq!(node.handle().counters.affinities_lost.get(), 0);
}

/// Connections through the handshake.
fn open(node: &mut Node) -> Vec<Connection> {
    let mut connections: Vec<Connection> = (0..FLOWS).map(Connection::new).collect();
    for (sender, flags) in HANDSHAKE {
        for batch in connections.chunks_mut(BATCH) {
            exchange(
                node,
                sender,
                batch
                    .iter_mut()
                    .map(|connection| segment(connection, sender, flags, &[])),
            );
        }
    }
    connections
}

fn segment(connection: &mut Connection, sender: Pod, flags: TcpFlags, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; FRAME_BYTES];
    let len = connection.write(sender, flags, payload, &mut frame);
    frame.truncate(len);
    frame
}

#[test]
fn established_tcp_flows_allocate_nothing() {
    let mut node = Node::new(1024, snapshot(10, &[]));
    let mut connections = open(&mut node);
    assert_allocates_nothing(&mut node, |sender, n| {
        segment(&mut connections[n], sender, DATA, b"data")
    });
}

#[test]
fn keep_alive_requests_and_responses_allocate_nothing() {
    for rules in [
        http_rules(100, false),
        http_rules(100, true),
        http_head_rules(100),
    ] {
        let mut node = Node::new(1024, snapshot(10, &rules));
        let mut connections = open(&mut node);
        let request = request(&http_path(100));
        assert_allocates_nothing(&mut node, |sender, n| {
            let payload = if sender == CLIENT { &request } else { RESPONSE };
            segment(&mut connections[n], sender, DATA, payload)
        });
        assert!(
            node.handle().counters.http_forwarded.get() >= COUNTED as u64 / 2,
            "the gate judged the requests"
        );
    }
}

/// Heads that come in two segments, cut inside a header value that the rules demand.
#[test]
fn heads_in_pieces_under_host_and_header_rules_allocate_nothing() {
    let mut node = Node::new(1024, snapshot(10, &http_head_rules(100)));
    let mut connections = open(&mut node);
    let request = request(&http_path(100));
    let cut = request.len() - 20;
    let mut sent = vec![0_usize; FLOWS];
    assert_allocates_nothing(&mut node, |sender, n| {
        let is_second = sent[n] % 2 == 1;
        let payload: &[u8] = match (sender == CLIENT, is_second) {
            (true, false) => &request[..cut],
            (true, true) => &request[cut..],
            // Nothing to answer yet.
            (false, false) => &[],
            (false, true) => RESPONSE,
        };
        sent[n] += usize::from(sender == SERVER);
        segment(&mut connections[n], sender, DATA, payload)
    });
    assert!(node.handle().counters.http_forwarded.get() >= COUNTED as u64 / 4);
}

/// The zeros above mean something: what does allocate in the worker is counted.
#[test]
fn copies_for_a_capture_are_counted() {
    let mut node = Node::new(1024, snapshot(10, &[]));
    node.handle().capture.set_snaplen(64);
    let frames = (0..BATCH).map(|n| stream::udp(CLIENT, SERVER, stream::ports(n), b"datagram"));
    assert!(exchange(&mut node, CLIENT, frames) >= BATCH as u64);
}
