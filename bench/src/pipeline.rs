//! The packet graph by itself: packets are put into frames and taken out of them by hand, so that only the stages are measured.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use datapath::capture::Capture;
use datapath::counters::Counters;
use datapath::event::FlowEvent;
use datapath::graph::{Clock, Graph};
use datapath::wire::tcp::TcpFlags;
use datapath::xsk::Packet;
use datapath::xsk::memory::heap_frames;
use policy::{DropReason, EndpointKey, Snapshot};

use crate::node::{CLIENT, FRAMES, Pod, SERVER, graph_config};
use crate::stream;

/// Packets in a batch: what a worker takes from one interface at once.
pub const BATCH: usize = 32;

/// A graph that serves the two pods.
#[derive(Debug)]
pub struct Pipeline {
    graph: Graph,
    counters: Arc<Counters>,
    events: Arc<ArrayQueue<FlowEvent>>,
    rx: Vec<Packet>,
    outbox: Vec<(EndpointKey, Packet)>,
}

impl Pipeline {
    /// A graph with room for `flows` flows.
    #[must_use]
    pub fn new(flows: usize, snapshot: Snapshot) -> Self {
        let events = Arc::new(ArrayQueue::new(16_384));
        let counters = Arc::new(Counters::default());
        let mut graph = Graph::new(
            &graph_config(flows),
            heap_frames(FRAMES),
            Arc::new(snapshot),
            Arc::clone(&counters),
            Arc::clone(&events),
            Arc::new(Capture::default()),
        );
        graph.attach(CLIENT.config());
        graph.attach(SERVER.config());
        // Time stands still: no flow expires.
        graph.begin(Clock::default());
        Self {
            graph,
            counters,
            events,
            rx: Vec::with_capacity(BATCH),
            outbox: Vec::with_capacity(4 * BATCH),
        }
    }

    /// Puts a frame into the next batch.
    pub fn inject(&mut self, frame: &[u8]) {
        let frames = self.graph.frames_mut();
        let mut packet = frames
            .allocate(frame.len())
            .expect("a batch is smaller than the pool");
        frames.linear_mut(&mut packet).copy_from_slice(frame);
        self.rx.push(packet);
    }

    /// Runs the batch through the graph.
    pub fn run(&mut self, sender: Pod) {
        self.graph.run(sender.key(), &mut self.rx, &mut self.outbox);
    }

    /// Takes what came out away, which must be `expected` packets for `receiver`, and all events.
    pub fn clear(&mut self, receiver: Pod, expected: usize) {
        assert_eq!(
            self.outbox.len(),
            expected,
            "dropped for {:?}",
            self.drop_reasons()
        );
        for (key, packet) in self.outbox.drain(..) {
            assert_eq!(key, receiver.key(), "a packet went astray");
            self.graph.frames_mut().release(packet);
        }
        while self.events.pop().is_some() {}
    }

    fn drop_reasons(&self) -> Vec<DropReason> {
        let seen = |reason: &&DropReason| self.counters.dropped_in_all(**reason) > 0;
        DropReason::ALL.iter().filter(seen).copied().collect()
    }

    /// Sends one packet of every flow from `sender` to `receiver`.
    fn send_all(&mut self, flows: usize, sender: Pod, receiver: Pod, frame: impl Fn(usize) -> Vec<u8>) {
        for first in (0..flows).step_by(BATCH) {
            let count = BATCH.min(flows - first);
            for n in first..first + count {
                self.inject(&frame(n));
            }
            self.run(sender);
            self.clear(receiver, count);
        }
    }

    /// Begins `flows` UDP flows, with an answer each.
    pub fn establish_udp(&mut self, flows: usize) {
        self.send_all(flows, CLIENT, SERVER, |n| {
            stream::udp(CLIENT, SERVER, stream::ports(n), b"ping")
        });
        self.send_all(flows, SERVER, CLIENT, |n| {
            let (client, server) = stream::ports(n);
            stream::udp(SERVER, CLIENT, (server, client), b"pong")
        });
    }

    /// Opens `flows` TCP connections.
    pub fn establish_tcp(&mut self, flows: usize) {
        let from_client = |flags| move |n| stream::tcp(CLIENT, SERVER, stream::ports(n), flags, &[], false);
        self.send_all(flows, CLIENT, SERVER, from_client(TcpFlags::SYN));
        self.send_all(flows, SERVER, CLIENT, |n| {
            let (client, server) = stream::ports(n);
            stream::tcp(
                SERVER,
                CLIENT,
                (server, client),
                TcpFlags::SYN.with(TcpFlags::ACK),
                &[],
                false,
            )
        });
        self.send_all(flows, CLIENT, SERVER, from_client(TcpFlags::ACK));
    }
}
