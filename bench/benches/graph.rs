//! The whole path of a packet of an established flow, a batch of 32 from one pod to another.
//!
//! - `graph/*`: `Graph::run`: parse, source guard, checksum, flow lookup, TCP state, policy stamp, L7, forward (TTL, addresses). The
//!   packet is copied into its frame before the clock starts, as the kernel would, and taken out after it has stopped.
//! - `turn/*`: `Worker::turn` over rings in memory: the same and the loop round it, with the clock, rings, refill, expiry sweep, and
//!   two copies of each packet under a lock, which real rings have not.
//! - `rings/*`: those rings alone.
//!
//! Payloads of UDP and TCP are four bytes with a checksum that is verified; what more payload costs is `wire/verify-*`. Flows take
//! turns in shuffled order, so that at 1 000 000 flows nearly every entry comes from memory. L7 packets are requests of 140 bytes (or
//! their responses) on 1024 connections, judged by 100 rules.

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use datapath::wire::tcp::TcpFlags;
use datapath::xsk::memory::{MemoryIo, Wire, heap_frames};
use datapath::xsk::{Frames, IoId, Packet, PacketIo};
use sluice_bench::case::{Batch, bench_batches};
use sluice_bench::connection::{Connection, FRAME_BYTES, HANDSHAKE, RESPONSE, peer, request};
use sluice_bench::node::{CLIENT, FRAMES, Node, Pod, SERVER, http_path, http_rules, snapshot};
use sluice_bench::pipeline::{BATCH, Pipeline};
use sluice_bench::stream::{self, Stream, shuffled};

const DATA: TcpFlags = TcpFlags::PSH.with(TcpFlags::ACK);

/// Sizes, rounded up to whole batches.
const SIZES: [(&str, usize); 3] = [("1k", 1024), ("100k", 100_000), ("1m", 1_000_000)];

/// Packets of established flows through the graph.
struct Established {
    pipeline: Pipeline,
    stream: Stream,
    sender: Pod,
}

impl Established {
    fn udp(flows: usize, policies: usize) -> Self {
        let mut pipeline = Pipeline::new(flows, snapshot(policies, &[]));
        pipeline.establish_udp(flows);
        let stream = Stream::new(&shuffled(flows), |n| {
            stream::udp(CLIENT, SERVER, stream::ports(n), b"ping")
        });
        Self {
            pipeline,
            stream,
            sender: CLIENT,
        }
    }

    fn tcp(flows: usize, sender: Pod) -> Self {
        let mut pipeline = Pipeline::new(flows, snapshot(10, &[]));
        pipeline.establish_tcp(flows);
        let stream = Stream::new(&shuffled(flows), |n| {
            let (client, server) = stream::ports(n);
            let ports = if sender == CLIENT {
                (client, server)
            } else {
                (server, client)
            };
            stream::tcp(sender, peer(sender), ports, DATA, b"data", false)
        });
        Self {
            pipeline,
            stream,
            sender,
        }
    }
}

impl Batch for Established {
    fn prepare(&mut self) {
        for _ in 0..BATCH {
            self.pipeline.inject(self.stream.next_frame());
        }
    }

    fn run(&mut self) {
        self.pipeline.run(self.sender);
    }

    fn clear(&mut self) {
        self.pipeline.clear(peer(self.sender), BATCH);
    }
}

/// HTTP connections through the graph; the side that is not timed takes its turn in between.
struct KeepAlive {
    pipeline: Pipeline,
    connections: Vec<Connection>,
    next: usize,
    request: Vec<u8>,
    timed: Pod,
}

impl KeepAlive {
    fn new(timed: Pod) -> Self {
        let connections = (0..1024).map(Connection::new).collect();
        let pipeline = Pipeline::new(4096, snapshot(10, &http_rules(100, false)));
        let mut new = Self {
            pipeline,
            connections,
            next: 0,
            request: request(&http_path(100)),
            timed,
        };
        for (sender, flags) in HANDSHAKE {
            for _ in 0..new.connections.len() / BATCH {
                new.send(sender, flags, false);
                new.pipeline.run(sender);
                new.pipeline.clear(peer(sender), BATCH);
                new.advance();
            }
        }
        new
    }

    /// Puts the next segments of a batch of connections on the ring.
    fn send(&mut self, sender: Pod, flags: TcpFlags, has_payload: bool) {
        let payload: &[u8] = match has_payload {
            false => &[],
            true if sender == CLIENT => &self.request,
            true => RESPONSE,
        };
        let mut frame = [0; FRAME_BYTES];
        for connection in &mut self.connections[self.next..self.next + BATCH] {
            let len = connection.write(sender, flags, payload, &mut frame);
            self.pipeline.inject(&frame[..len]);
        }
    }

    fn advance(&mut self) {
        self.next = (self.next + BATCH) % self.connections.len();
    }

    fn pass(&mut self, sender: Pod) {
        self.send(sender, DATA, true);
        self.pipeline.run(sender);
        self.pipeline.clear(peer(sender), BATCH);
    }
}

impl Batch for KeepAlive {
    fn prepare(&mut self) {
        if self.timed == SERVER {
            self.pass(CLIENT);
        }
        self.send(self.timed, DATA, true);
    }

    fn run(&mut self) {
        self.pipeline.run(self.timed);
    }

    fn clear(&mut self) {
        self.pipeline.clear(peer(self.timed), BATCH);
        if self.timed == CLIENT {
            self.pass(SERVER);
        }
        self.advance();
    }
}

/// UDP through the whole worker.
struct Turn {
    node: Node,
    stream: Stream,
}

impl Turn {
    fn udp(flows: usize) -> Self {
        let mut node = Node::new(flows, snapshot(10, &[]));
        for sender in [CLIENT, SERVER] {
            for first in (0..flows).step_by(BATCH) {
                let count = BATCH.min(flows - first);
                for n in first..first + count {
                    let (client, server) = stream::ports(n);
                    let ports = if sender == CLIENT {
                        (client, server)
                    } else {
                        (server, client)
                    };
                    node.inject(sender, &stream::udp(sender, peer(sender), ports, b"ping"));
                }
                node.turn();
                assert_eq!(node.drain(peer(sender)), count, "a packet was dropped");
            }
        }
        let stream = Stream::new(&shuffled(flows), |n| {
            stream::udp(CLIENT, SERVER, stream::ports(n), b"ping")
        });
        Self { node, stream }
    }
}

impl Batch for Turn {
    fn prepare(&mut self) {
        for _ in 0..BATCH {
            self.node.inject(CLIENT, self.stream.next_frame());
        }
    }

    fn run(&mut self) {
        self.node.turn();
    }

    fn clear(&mut self) {
        assert_eq!(self.node.drain(SERVER), BATCH, "a packet was dropped");
    }
}

/// Receive, refill, transmit and flush, without anything between.
struct Rings {
    frames: Frames,
    io: MemoryIo,
    wire: Wire,
    frame: Vec<u8>,
    rx: Vec<Packet>,
}

impl Rings {
    fn new() -> Self {
        let mut frames = heap_frames(FRAMES);
        let (mut io, wire) = MemoryIo::new(IoId(1), 256);
        io.refill(&mut frames, 64);
        let frame = stream::udp(CLIENT, SERVER, stream::ports(0), b"ping");
        Self {
            frames,
            io,
            wire,
            frame,
            rx: Vec::with_capacity(BATCH),
        }
    }
}

impl Batch for Rings {
    fn prepare(&mut self) {
        for _ in 0..BATCH {
            self.wire.send(&self.frame);
        }
    }

    fn run(&mut self) {
        self.io.receive(&mut self.frames, &mut self.rx, BATCH);
        self.io.refill(&mut self.frames, 64);
        for packet in self.rx.drain(..) {
            self.io
                .transmit(&mut self.frames, packet)
                .expect("the ring is empty");
        }
        self.io.flush(&mut self.frames).expect("memory does not fail");
    }

    fn clear(&mut self) {
        assert_eq!(self.wire.drain(|_| ()), BATCH);
    }
}

fn bench<B: Batch>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    stage: &str,
    case: &str,
    setup: impl FnOnce() -> B,
) {
    bench_batches(group, stage, case, BATCH as u64, setup);
}

fn graph(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("graph");
    for (size, flows) in SIZES {
        bench(&mut group, "graph", &format!("udp-{size}"), || {
            Established::udp(flows, 10)
        });
        bench(&mut group, "graph", &format!("tcp-{size}"), || {
            Established::tcp(flows, CLIENT)
        });
    }
    bench(&mut group, "graph", "tcp-reply-1m", || {
        Established::tcp(1_000_000, SERVER)
    });
    bench(&mut group, "graph", "udp-1k-10000-policies", || {
        Established::udp(1024, 10_000)
    });
    bench(&mut group, "graph", "http-request", || KeepAlive::new(CLIENT));
    bench(&mut group, "graph", "http-response", || KeepAlive::new(SERVER));
    group.finish();

    let mut group = criterion.benchmark_group("turn");
    for (size, flows) in [SIZES[0], SIZES[2]] {
        bench(&mut group, "turn", &format!("udp-{size}"), || Turn::udp(flows));
    }
    group.finish();

    let mut group = criterion.benchmark_group("rings");
    bench(&mut group, "rings", "memory", Rings::new);
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2));
    targets = graph
}
criterion_main!(benches);
