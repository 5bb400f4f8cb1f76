//! A node with two pods, its policy, and a worker over rings in memory.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use datapath::graph::GraphConfig;
use datapath::interface::{EndpointConfig, InterfaceConfig, InterfaceKind, MacAddr};
use datapath::worker::{Command, Worker, WorkerConfig, WorkerHandle};
use datapath::xsk::IoId;
use datapath::xsk::memory::{MemoryIo, Wire, heap_frames};
use policy::{
    Action, EndpointKey, EndpointPolicy, Entry, HeaderMatch, HttpRule, HttpRuleSet, HttpSets, Identity,
    IpCache, IpCacheGeneration, Peers, PodName, PolicyGeneration, PolicyTable, Protocol, Revision, RuleId,
    Slot, SlotGeneration, Snapshot, Tier,
};

use crate::stream::FIRST_SERVER_PORT;

/// Frames of a node: those of some twenty quiet endpoints.
pub const FRAMES: u32 = 2048;

/// The gateway's MAC.
pub const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0xff, 1]);

/// A pod, by slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pod(pub u16);

/// The pod that begins every flow.
pub const CLIENT: Pod = Pod(8);

/// The pod under policy.
pub const SERVER: Pod = Pod(9);

impl Pod {
    /// Its interface.
    #[must_use]
    pub const fn key(self) -> EndpointKey {
        EndpointKey {
            slot: Slot(self.0),
            generation: SlotGeneration(1),
        }
    }

    /// Its IPv4 address.
    #[must_use]
    pub const fn v4(self) -> IpAddr {
        let [high, low] = self.0.to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(10, 244, high, low))
    }

    /// Its IPv6 address.
    #[must_use]
    pub const fn v6(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, self.0))
    }

    /// Its MAC.
    #[must_use]
    pub const fn mac(self) -> MacAddr {
        let [high, low] = self.0.to_be_bytes();
        MacAddr([2, 0, 0, 0, high, low])
    }

    /// Its identity.
    #[must_use]
    pub const fn identity(self) -> Identity {
        Identity(1000 + self.0 as u32)
    }

    /// Its interface as a worker gets it.
    #[must_use]
    pub fn config(self) -> InterfaceConfig {
        let (IpAddr::V4(v4), IpAddr::V6(v6)) = (self.v4(), self.v6()) else {
            unreachable!("v4 and v6 are what they say")
        };
        let endpoint = EndpointConfig {
            pod_mac: self.mac(),
            gateway_mac: GATEWAY,
            ipv4: Some(v4),
            ipv6: Some(v6),
            adopted: false,
        };
        InterfaceConfig {
            key: self.key(),
            kind: InterfaceKind::Endpoint(endpoint),
            mtu: 1500,
            local_mac: GATEWAY,
            peer_mac: self.mac(),
        }
    }
}

/// Entries of `count` policies of four peers each on one of 64 ports, as controllers generate them: allow, every eighth deny.
/// None of them names the two pods.
#[must_use]
pub fn policies(count: usize) -> Vec<Entry> {
    (0_u32..)
        .take(count)
        .map(|n| {
            let peers = (0..4)
                .map(|peer| Identity(100_000 + 4 * n + peer))
                .collect::<Vec<_>>();
            let port = 6000 + u16::try_from(n % 64).expect("below 64");
            Entry {
                tier: Tier::Normal,
                peers: Peers::Identities(peers.into()),
                protocol: Protocol::TCP,
                ports: port..=port,
                action: if n % 8 == 7 { Action::Deny } else { Action::Allow },
                rule: RuleId(n),
            }
        })
        .collect()
}

/// `count` rules as an API gateway has them: plain paths, or patterns with a number and a tail.
#[must_use]
pub fn http_rules(count: usize, is_regex: bool) -> Vec<HttpRule> {
    (0..count)
        .map(|n| HttpRule {
            method: Some("GET".into()),
            path: Some(if is_regex {
                format!("/api/v[0-9]+/item-{n}/.*")
            } else {
                format!("/api/v1/item-{n}/plot")
            }),
            ..HttpRule::default()
        })
        .collect()
}

/// `count` rules of method, path, host and headers; [`request`](crate::connection::request) has what each of them demands.
#[must_use]
pub fn http_head_rules(count: usize) -> Vec<HttpRule> {
    http_rules(count, false)
        .into_iter()
        .map(|rule| HttpRule {
            host: Some("flask-app-service(:[0-9]+)?".into()),
            headers: ["User-Agent: curl/8.5.0", "X-Pad"]
                .map(HeaderMatch::parse)
                .to_vec(),
            ..rule
        })
        .collect()
}

/// The request target that the last of `count` rules allows.
#[must_use]
pub fn http_path(count: usize) -> String {
    format!("/api/v1/item-{}/plot", count - 1)
}

/// A snapshot in which the server pod lets the client in, among `count` other policies: on every port, or where there are `http`
/// rules only by them, on the first server port.
#[must_use]
pub fn snapshot(count: usize, http: &[HttpRule]) -> Snapshot {
    let mut sets = HttpSets::default();
    let mut entries = policies(count);
    let (action, protocol, ports) = if http.is_empty() {
        (Action::Allow, Protocol::ANY, 0..=u16::MAX)
    } else {
        let set = HttpRuleSet::new(http.to_vec()).expect("the bench's rules compile");
        (
            Action::AllowHttp(sets.insert(Arc::new(set))),
            Protocol::TCP,
            FIRST_SERVER_PORT..=FIRST_SERVER_PORT,
        )
    };
    let peers = Peers::Identities(Arc::from([CLIENT.identity()]));
    entries.push(Entry {
        tier: Tier::Normal,
        peers,
        protocol,
        ports,
        action,
        rule: RuleId(u32::MAX),
    });
    let ingress = PolicyTable::build(true, &entries, &mut sets).expect("the bench's rules unite");
    let policy = |pod: Pod, name: &str, ingress, http| EndpointPolicy {
        key: pod.key(),
        pod: PodName {
            namespace: "bench".into(),
            name: name.into(),
        },
        identity: pod.identity(),
        identity6: pod.identity(),
        generation: PolicyGeneration(1),
        ingress: Arc::new(ingress),
        egress: Arc::new(PolicyTable::unenforced()),
        http,
        audit: false,
    };
    let mut endpoints = vec![None; 16];
    endpoints[CLIENT.key().slot.index()] = Some(Arc::new(policy(
        CLIENT,
        "client",
        PolicyTable::unenforced(),
        vec![],
    )));
    endpoints[SERVER.key().slot.index()] =
        Some(Arc::new(policy(SERVER, "server", ingress, sets.into_sets())));
    let addresses = [CLIENT, SERVER]
        .into_iter()
        .flat_map(|pod| [pod.v4(), pod.v6()].map(|a| (a.into(), pod.identity())));
    Snapshot {
        revision: Revision(1),
        ipcache: Arc::new(IpCache::new(IpCacheGeneration(1), addresses, Vec::new())),
        endpoints: Arc::new(endpoints),
        ..Snapshot::default()
    }
}

/// Places for `flows` flows: twice as many, because conntrack refuses a flow whose few buckets are full, which happens to some in a
/// million as a table nears its capacity.
#[must_use]
pub fn room(flows: usize) -> u32 {
    u32::try_from(2 * flows).expect("a table's size is a u32")
}

/// Table sizes for `flows` flows, all begun by one endpoint.
#[must_use]
pub fn graph_config(flows: usize) -> GraphConfig {
    GraphConfig {
        flows: room(flows),
        flows_per_endpoint: room(flows),
        ..GraphConfig::default()
    }
}

/// A worker that serves the two pods over rings in memory, on the caller's thread.
#[derive(Debug)]
pub struct Node {
    worker: Worker,
    handle: WorkerHandle,
    client: Wire,
    server: Wire,
}

impl Node {
    /// A node with room for `flows` flows.
    #[must_use]
    pub fn new(flows: usize, snapshot: Snapshot) -> Self {
        let config = WorkerConfig {
            graph: graph_config(flows),
            spin: Duration::MAX,
        };
        let (mut worker, handle) = Worker::new(&config, heap_frames(FRAMES)).expect("an epoll instance");
        handle
            .publish(Arc::new(snapshot))
            .expect("the worker's waker works");
        let mut attach = |pod: Pod| {
            let (io, wire) = MemoryIo::new(IoId(pod.0.into()), 256);
            let (done, answered) = crossbeam::channel::bounded(1);
            let command = Command::Attach {
                config: pod.config(),
                io: Box::new(io),
                done,
            };
            handle.send(command).expect("room for a command");
            worker.turn().expect("a spinning worker does not poll");
            answered.try_recv().expect("attached within the turn");
            wire
        };
        let (client, server) = (attach(CLIENT), attach(SERVER));
        Self {
            worker,
            handle,
            client,
            server,
        }
    }

    fn wire(&self, pod: Pod) -> &Wire {
        if pod == CLIENT { &self.client } else { &self.server }
    }

    /// Puts a frame on the pod's rx ring.
    pub fn inject(&self, pod: Pod, frame: &[u8]) {
        self.wire(pod).send(frame);
    }

    /// One turn of the worker: receive, graph, transmit, expiry.
    pub fn turn(&mut self) {
        assert!(
            self.worker.turn().expect("a spinning worker does not poll"),
            "nobody stops the worker"
        );
    }

    /// Forgets what a pod got, and all events; allocates nothing. Returns how many packets it got.
    pub fn drain(&self, pod: Pod) -> usize {
        while self.handle.events.pop().is_some() {}
        self.wire(pod).drain(|_| ())
    }

    /// What the worker shares.
    #[must_use]
    pub fn handle(&self) -> &WorkerHandle {
        &self.handle
    }
}
