//! A worker with pods and host pairs over rings in memory.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use policy::{
    Action, Backend, EndpointKey, EndpointPolicy, Entry, HttpRule, HttpRuleSet, HttpSets, Identity, IpCache,
    IpCacheGeneration, Peers, PodName, PolicyGeneration, PolicyTable, Protocol, Revision, RuleId, Service,
    ServiceKey, ServiceTable, Slot, SlotGeneration, Snapshot, Tier,
};
use sluice_datapath::counters::Counters;
use sluice_datapath::event::FlowEvent;
use sluice_datapath::graph::GraphConfig;
use sluice_datapath::interface::{EndpointConfig, InterfaceConfig, InterfaceKind, MacAddr};
use sluice_datapath::translation::{Inherited, TranslatedFlow};
use sluice_datapath::wire::checksum::Sum;
use sluice_datapath::wire::ethernet::{EtherType, Ethernet, HEADER_LEN};
use sluice_datapath::wire::packet::{Headers, IpHeaders, L4, TcpHeader};
use sluice_datapath::wire::tcp::{Segment, TcpFlags, Timestamps};
use sluice_datapath::wire::{ipv4, ipv6};
use sluice_datapath::worker::{Command, Worker, WorkerAudit, WorkerConfig, WorkerHandle};
use sluice_datapath::xsk::IoId;
use sluice_datapath::xsk::memory::{MemoryIo, Wire, heap_frames};

pub const FRAMES: u32 = 1024;
pub const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0xff, 1]);
pub const NODE: &str = "198.51.100.1";
pub const NODE6: &str = "2001:db8:51::1";
pub const OUTSIDE: &str = "198.51.100.2";
pub const OUTSIDE6: &str = "2001:db8:51::2";
pub const VIP: &str = "10.96.0.80";

/// A pod of the bed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pod(pub u16);

pub const A: Pod = Pod(8);
pub const B: Pod = Pod(9);
pub const C: Pod = Pod(10);

impl Pod {
    pub const fn key(self) -> EndpointKey {
        EndpointKey {
            slot: Slot(self.0),
            generation: SlotGeneration(1),
        }
    }
    pub fn v4(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 244, (self.0 >> 8) as u8, (self.0 & 255) as u8))
    }
    pub fn v6(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, self.0))
    }
    pub const fn mac(self) -> MacAddr {
        MacAddr([2, 0, 0, 0, (self.0 >> 8) as u8, (self.0 & 255) as u8])
    }
    pub const fn identity(self) -> Identity {
        Identity(1000 + self.0 as u32)
    }
    pub fn config(self) -> InterfaceConfig {
        let (IpAddr::V4(v4), IpAddr::V6(v6)) = (self.v4(), self.v6()) else {
            unreachable!()
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

pub const HOST: EndpointKey = EndpointKey {
    slot: Slot::HOST,
    generation: SlotGeneration(0),
};
pub const FORWARD: EndpointKey = EndpointKey {
    slot: Slot::FORWARD,
    generation: SlotGeneration(0),
};

/// What an endpoint's policy says; unlisted directions are not enforced.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    pub ingress: Option<Vec<(Peers, u16, Allow)>>,
    pub egress: Option<Vec<(Peers, u16, Allow)>>,
}

#[derive(Debug, Clone)]
pub enum Allow {
    Plain,
    Http(Vec<HttpRule>),
    Deny,
}

pub fn peer(pod: Pod) -> Peers {
    Peers::Identities(Arc::from([pod.identity()]))
}

pub fn get(path: &str) -> Allow {
    Allow::Http(vec![HttpRule {
        method: Some("GET".into()),
        path: Some(path.into()),
        ..HttpRule::default()
    }])
}

fn table(rules: Option<&Vec<(Peers, u16, Allow)>>, http: &mut HttpSets, first: u32) -> PolicyTable {
    let Some(rules) = rules else {
        return PolicyTable::unenforced();
    };
    let entries: Vec<Entry> = rules
        .iter()
        .zip(first..)
        .map(|((peers, port, allow), rule)| Entry {
            tier: Tier::Normal,
            peers: peers.clone(),
            protocol: if *port == 0 { Protocol::ANY } else { Protocol::TCP },
            ports: if *port == 0 { 0..=u16::MAX } else { *port..=*port },
            action: match allow {
                Allow::Plain => Action::Allow,
                Allow::Deny => Action::Deny,
                Allow::Http(rules) => {
                    Action::AllowHttp(http.insert(Arc::new(HttpRuleSet::new(rules.clone()).unwrap())))
                }
            },
            rule: RuleId(rule),
        })
        .collect();
    PolicyTable::build(true, &entries, http).unwrap()
}

/// A ClusterIP that leads to port 5000 of pods.
pub fn service(name: &str, key: ServiceKey, backends: &[Pod]) -> Service {
    let backends = backends.iter().map(|pod| Backend {
        addr: pod.v4(),
        port: 5000,
    });
    Service::cluster_ip(name, key, backends.collect())
}

/// A worker and everything round it.
pub struct Bed {
    pub worker: Worker,
    pub handle: WorkerHandle,
    wires: Vec<(EndpointKey, Wire)>,
    pub rules: Vec<(Pod, Rules)>,
    pub services: Vec<Service>,
    /// NodePorts, and the other nodes that have them.
    pub node_ports: Vec<Service>,
    pub nodes: Vec<IpAddr>,
    /// Pods of other nodes that this node knows.
    pub known: Vec<(IpAddr, Identity)>,
    /// Prefixes that rules mention.
    pub prefixes: Vec<(IpNet, Identity)>,
    /// Addresses that policy knows as endpoints', attached or not.
    pub local: Vec<IpAddr>,
    /// Pods in audit mode.
    pub audits: Vec<Pod>,
    revision: u64,
    pub ipcache_generation: u64,
    next_io: u32,
}

impl Bed {
    /// Pods A, B and C without any policy.
    pub fn new() -> Self {
        Self::with(GraphConfig {
            flows: 4096,
            flows_per_endpoint: 1024,
            translations: 256,
            affinities: 8,
            l7_flows: 64,
            ..GraphConfig::default()
        })
    }

    pub fn with(graph: GraphConfig) -> Self {
        let config = WorkerConfig {
            graph,
            spin: Duration::MAX,
        };
        let (worker, handle) = Worker::new(&config, heap_frames(FRAMES)).unwrap();
        let mut bed = Self {
            worker,
            handle,
            wires: Vec::new(),
            rules: vec![
                (A, Rules::default()),
                (B, Rules::default()),
                (C, Rules::default()),
            ],
            services: Vec::new(),
            node_ports: Vec::new(),
            nodes: Vec::new(),
            known: Vec::new(),
            prefixes: Vec::new(),
            local: Vec::new(),
            audits: Vec::new(),
            revision: 0,
            ipcache_generation: 1,
            next_io: 1,
        };
        let pair = |key, kind| InterfaceConfig {
            key,
            kind,
            mtu: 1500,
            local_mac: MacAddr([2, 0, 0, 0, 1, 2]),
            peer_mac: MacAddr([2, 0, 0, 0, 1, 1]),
        };
        bed.attach(pair(HOST, InterfaceKind::Host));
        bed.attach(pair(FORWARD, InterfaceKind::Forward));
        for pod in [A, B, C] {
            bed.attach(pod.config());
        }
        bed.publish();
        bed
    }

    /// A bed in which B lets only A in, on port 5000, with these rules.
    pub fn guarded(allow: Allow) -> Self {
        let mut bed = Self::new();
        bed.set(
            B,
            Rules {
                ingress: Some(vec![(peer(A), 5000, allow)]),
                egress: None,
            },
        );
        bed
    }

    pub fn attach(&mut self, config: InterfaceConfig) -> IoId {
        let id = IoId(self.next_io);
        self.next_io += 1;
        let (io, wire) = MemoryIo::new(id, 256);
        let (done, answered) = crossbeam::channel::bounded(1);
        self.handle
            .send(Command::Attach {
                config,
                io: Box::new(io),
                done,
            })
            .unwrap();
        self.turn();
        answered.try_recv().unwrap();
        self.wires.retain(|(key, _)| key.slot != config.key.slot);
        self.wires.push((config.key, wire));
        id
    }

    pub fn detach(&mut self, key: EndpointKey) {
        let (done, answered) = crossbeam::channel::bounded(1);
        self.handle.send(Command::Detach { key, done }).unwrap();
        self.turn();
        let io = answered.try_recv().unwrap().expect("interface was served");
        let id = io.id();
        drop(io);
        let (done, answered) = crossbeam::channel::bounded(1);
        self.handle.send(Command::Reclaim { id, done }).unwrap();
        self.turn();
        answered.try_recv().unwrap();
    }

    pub fn audit(&mut self) -> WorkerAudit {
        let (done, answered) = crossbeam::channel::bounded(1);
        self.handle.send(Command::Audit { done }).unwrap();
        self.turn();
        answered.try_recv().unwrap()
    }

    /// What this worker tells the one that comes next.
    pub fn translated_flows(&mut self) -> Vec<TranslatedFlow> {
        let (done, answered) = crossbeam::channel::bounded(1);
        self.handle.send(Command::TranslatedFlows { done }).unwrap();
        self.turn();
        answered.try_recv().unwrap()
    }

    /// Tells this worker what the one before it said.
    pub fn inherit(&mut self, flows: &[TranslatedFlow]) {
        self.handle.send(Command::Inherit(Inherited::new(flows))).unwrap();
        self.turn();
    }

    pub fn adoption_ends(&mut self) {
        self.handle.send(Command::AdoptionEnds).unwrap();
        self.turn();
    }

    /// Every frame has an owner, and the worker holds none but those it means to.
    pub fn assert_no_frame_lost(&mut self) {
        let audit = self.audit();
        assert!(audit.frames.is_balanced(audit.held), "{audit:?}");
        assert!(
            audit.interfaces.iter().all(|(_, io)| io.invalid_descriptors == 0),
            "{audit:?}"
        );
    }

    pub fn set(&mut self, pod: Pod, rules: Rules) {
        match self.rules.iter_mut().find(|(p, _)| *p == pod) {
            Some((_, place)) => *place = rules,
            None => self.rules.push((pod, rules)),
        }
        self.publish();
    }

    /// Publishes a snapshot of `rules` and `services`; a pod's generation changes with its rules only.
    pub fn publish(&mut self) {
        self.revision += 1;
        let before = self.handle.snapshot.load_full();
        let mut endpoints = vec![None; 64];
        for (pod, rules) in &self.rules {
            let mut http = HttpSets::default();
            let ingress = table(rules.ingress.as_ref(), &mut http, 100);
            let egress = table(rules.egress.as_ref(), &mut http, 200);
            let mut policy = EndpointPolicy {
                key: pod.key(),
                pod: PodName {
                    namespace: "bed".into(),
                    name: format!("pod-{}", pod.0),
                },
                identity: pod.identity(),
                identity6: pod.identity(),
                generation: PolicyGeneration(self.revision),
                ingress: Arc::new(ingress),
                egress: Arc::new(egress),
                http: http.into_sets(),
                audit: self.audits.contains(pod),
            };
            if let Some(old) = before.endpoint(pod.key())
                && old.same_content(&policy)
            {
                policy.generation = old.generation;
            }
            endpoints[usize::from(pod.0)] = Some(Arc::new(policy));
        }
        let entries = self
            .rules
            .iter()
            .flat_map(|(pod, _)| [pod.v4(), pod.v6()].map(|addr| (addr.into(), pod.identity())));
        let host = (NODE.parse::<IpAddr>().unwrap().into(), Identity::HOST);
        let known = self
            .known
            .iter()
            .map(|(addr, identity)| ((*addr).into(), *identity));
        let ipcache = IpCache::new(
            IpCacheGeneration(self.ipcache_generation),
            entries
                .chain([host])
                .chain(known)
                .chain(self.prefixes.iter().copied()),
            vec![
                "10.244.0.0/16".parse().unwrap(),
                "fd00:10:244::/48".parse().unwrap(),
            ],
        );
        let snapshot = Snapshot {
            revision: Revision(self.revision),
            ipcache: Arc::new(ipcache),
            services: Arc::new(
                ServiceTable::new(self.services.clone())
                    .with_node_ports(self.nodes.clone(), self.node_ports.clone()),
            ),
            endpoints: Arc::new(endpoints),
            local: Arc::new(self.local.iter().copied().collect()),
            ..Snapshot::default()
        };
        self.handle.publish(Arc::new(snapshot)).unwrap();
        self.turn();
    }

    pub fn serve(&mut self, backends: &[Pod]) {
        let key = ServiceKey {
            addr: VIP.parse().unwrap(),
            port: 80,
            protocol: Protocol::TCP,
        };
        self.services = vec![service("bed/service", key, backends)];
        self.publish();
    }

    pub fn turn(&mut self) {
        assert!(self.worker.turn().unwrap());
    }

    pub fn wire(&self, key: EndpointKey) -> &Wire {
        &self.wires.iter().find(|(k, _)| *k == key).expect("attached").1
    }

    /// Sends a frame from an interface.
    pub fn inject(&mut self, from: EndpointKey, frame: &[u8]) {
        self.wire(from).send(frame);
        self.turn();
    }

    /// Sends an IP packet from an interface, in a frame as its stack makes it.
    pub fn send(&mut self, from: EndpointKey, packet: &[u8]) {
        self.queue(from, packet);
        self.turn();
    }

    /// Puts such a frame on the interface's ring, where the worker's next turn finds it.
    pub fn queue(&self, from: EndpointKey, packet: &[u8]) {
        let source = Pod(from.slot.0);
        let (source, destination) = match from.slot {
            Slot::HOST | Slot::FORWARD => (MacAddr([2, 0, 0, 0, 1, 1]), MacAddr([2, 0, 0, 0, 1, 2])),
            _ => (source.mac(), GATEWAY),
        };
        self.wire(from).send(&frame(source, destination, packet));
    }

    /// What an interface got, oldest first.
    pub fn got(&self, key: EndpointKey) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.wire(key).receive()).collect()
    }

    /// The only packet that an interface got.
    pub fn got_one(&self, key: EndpointKey) -> Seen {
        let mut packets = self.got(key);
        assert_eq!(
            packets.len(),
            1,
            "slot {} got {} packets",
            key.slot.0,
            packets.len()
        );
        Seen::new(packets.remove(0))
    }

    pub fn got_nothing(&self) -> bool {
        self.wires.iter().all(|(_, wire)| wire.receive().is_none())
    }

    pub fn counters(&self) -> &Counters {
        &self.handle.counters
    }

    pub fn dropped(&self, reason: policy::DropReason) -> u64 {
        self.handle.counters.dropped_in_all(reason)
    }

    pub fn events(&self) -> Vec<FlowEvent> {
        std::iter::from_fn(|| self.handle.events.pop()).collect()
    }
}

pub fn frame(source: MacAddr, destination: MacAddr, packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 4 {
        EtherType::IPV4
    } else {
        EtherType::IPV6
    };
    let mut frame = vec![0; HEADER_LEN];
    Ethernet {
        destination,
        source,
        ethertype,
    }
    .write(&mut frame)
    .unwrap();
    frame.extend_from_slice(packet);
    frame
}

/// A received frame; whatever it is, its checksums are right.
#[derive(Debug)]
pub struct Seen {
    pub frame: Vec<u8>,
    pub ip: IpHeaders,
}

impl Seen {
    pub fn new(frame: Vec<u8>) -> Self {
        let Ok(Headers::Ip(ip)) = Headers::parse(&frame, frame.len()) else {
            panic!("not an IP packet: {frame:02x?}")
        };
        if ip.fragment.is_none() {
            use sluice_datapath::wire::checksum::L4Checksum;
            let checksum = ip.l4_checksum([frame.as_slice()]);
            assert!(
                matches!(checksum, Some(L4Checksum::Valid | L4Checksum::Absent)),
                "checksum {checksum:?} of {ip:?}"
            );
        }
        Self { frame, ip }
    }
    pub fn tcp(&self) -> TcpHeader {
        match self.ip.l4 {
            L4::Tcp(tcp) => tcp,
            other => panic!("not TCP: {other:?}"),
        }
    }
    pub fn payload(&self) -> &[u8] {
        &self.frame[self.ip.payload_offset()..self.ip.frame_len()]
    }
    pub fn packet(&self) -> &[u8] {
        &self.frame[HEADER_LEN..]
    }
}

/// One end of a TCP connection.
#[derive(Debug, Clone, Copy)]
pub struct End {
    pub key: EndpointKey,
    pub addr: IpAddr,
    pub port: u16,
    pub seq: u32,
}

/// A TCP connection; sequence numbers follow what was sent.
#[derive(Debug, Clone, Copy)]
pub struct Conn {
    pub client: End,
    pub server: End,
    pub timestamps: bool,
}

impl Conn {
    pub fn new(client: Pod, server: Pod, port: u16) -> Self {
        Self::between(client.key(), client.v4(), server.key(), server.v4(), port)
    }

    pub fn new6(client: Pod, server: Pod, port: u16) -> Self {
        Self::between(client.key(), client.v6(), server.key(), server.v6(), port)
    }

    pub fn between(client: EndpointKey, from: IpAddr, server: EndpointKey, to: IpAddr, port: u16) -> Self {
        Self {
            client: End {
                key: client,
                addr: from,
                port: 40_000,
                seq: 0xffff_ff00,
            },
            server: End {
                key: server,
                addr: to,
                port,
                seq: 7_000,
            },
            timestamps: true,
        }
    }

    fn packet(&self, from: &End, to: &End, flags: TcpFlags, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 100 + payload.len()];
        let segment = Segment {
            source: from.addr,
            destination: to.addr,
            source_port: from.port,
            destination_port: to.port,
            seq: from.seq,
            ack: if flags.has(TcpFlags::ACK) { to.seq } else { 0 },
            flags,
            window: 1000,
            timestamps: self.timestamps.then_some(Timestamps { value: 1, echo: 1 }),
            payload,
        };
        let len = segment.write(&mut packet).unwrap();
        packet.truncate(len);
        packet
    }

    pub fn by_client(&self, flags: TcpFlags, payload: &[u8]) -> Vec<u8> {
        self.packet(&self.client, &self.server, flags, payload)
    }

    pub fn by_server(&self, flags: TcpFlags, payload: &[u8]) -> Vec<u8> {
        self.packet(&self.server, &self.client, flags, payload)
    }

    /// Sends the client's segment and moves its sequence number on.
    pub fn client_sends(&mut self, bed: &mut Bed, flags: TcpFlags, payload: &[u8]) {
        let packet = self.by_client(flags, payload);
        self.client.seq = advance(self.client.seq, flags, payload);
        bed.send(self.client.key, &packet);
    }

    pub fn server_sends(&mut self, bed: &mut Bed, flags: TcpFlags, payload: &[u8]) {
        let packet = self.by_server(flags, payload);
        self.server.seq = advance(self.server.seq, flags, payload);
        bed.send(self.server.key, &packet);
    }

    /// The handshake, every segment of which must get through unharmed.
    pub fn open(&mut self, bed: &mut Bed) {
        self.client_sends(bed, TcpFlags::SYN, &[]);
        assert_eq!(bed.got_one(self.server.key).tcp().flags, TcpFlags::SYN);
        self.server_sends(bed, SYN_ACK, &[]);
        assert_eq!(bed.got_one(self.client.key).tcp().flags, SYN_ACK);
        self.client_sends(bed, TcpFlags::ACK, &[]);
        assert_eq!(bed.got_one(self.server.key).tcp().flags, TcpFlags::ACK);
    }
}

pub const SYN_ACK: TcpFlags = TcpFlags::SYN.with(TcpFlags::ACK);
pub const DATA: TcpFlags = TcpFlags::PSH.with(TcpFlags::ACK);

fn advance(seq: u32, flags: TcpFlags, payload: &[u8]) -> u32 {
    let control = u32::from(flags.has(TcpFlags::SYN)) + u32::from(flags.has(TcpFlags::FIN));
    seq.wrapping_add(u32::try_from(payload.len()).unwrap())
        .wrapping_add(control)
}

fn ip_packet(source: IpAddr, destination: IpAddr, protocol: Protocol, l4: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut packet = vec![0; ipv4::HEADER_LEN + l4.len()];
            let len = packet.len();
            ipv4::write_header(&mut packet, from, to, protocol, 64, len).unwrap();
            packet[ipv4::HEADER_LEN..].copy_from_slice(l4);
            packet
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut packet = vec![0; ipv6::HEADER_LEN + l4.len()];
            let len = packet.len();
            ipv6::write_header(&mut packet, from, to, protocol, 64, len).unwrap();
            packet[ipv6::HEADER_LEN..].copy_from_slice(l4);
            packet
        }
        _ => panic!("families differ"),
    }
}

/// A packet of `l4`, whose checksum at `at` is zero so far.
pub fn with_checksum(
    source: IpAddr,
    destination: IpAddr,
    protocol: Protocol,
    at: usize,
    mut l4: Vec<u8>,
) -> Vec<u8> {
    let pseudo = match protocol {
        Protocol::ICMP => Sum::ZERO,
        _ => Sum::pseudo(source, destination, protocol, u32::try_from(l4.len()).unwrap()).unwrap(),
    };
    let sum = pseudo.append(&l4).checksum();
    l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    ip_packet(source, destination, protocol, &l4)
}

pub fn udp(source: IpAddr, from: u16, destination: IpAddr, to: u16, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).unwrap();
    let mut l4 = [from.to_be_bytes(), to.to_be_bytes(), len.to_be_bytes(), [0, 0]].concat();
    l4.extend_from_slice(payload);
    with_checksum(source, destination, Protocol::UDP, 6, l4)
}

pub fn icmp(source: IpAddr, destination: IpAddr, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut l4 = vec![kind, code, 0, 0];
    l4.extend_from_slice(rest);
    let protocol = if source.is_ipv4() {
        Protocol::ICMP
    } else {
        Protocol::ICMPV6
    };
    with_checksum(source, destination, protocol, 2, l4)
}

pub fn ping(source: IpAddr, destination: IpAddr, reply: bool) -> Vec<u8> {
    let kind = match (source, reply) {
        (IpAddr::V4(_), false) => 8,
        (IpAddr::V4(_), true) => 0,
        (IpAddr::V6(_), false) => 128,
        (IpAddr::V6(_), true) => 129,
    };
    icmp(source, destination, kind, 0, &[0, 7, 0, 1, 1, 2, 3, 4])
}

/// Makes the transport checksum of an IP packet partial, as a pod's stack leaves it.
pub fn make_partial(packet: &mut [u8]) {
    let framed = frame(GATEWAY, GATEWAY, packet);
    let Ok(Headers::Ip(ip)) = Headers::parse(&framed, framed.len()) else {
        panic!("not IP")
    };
    let at = ip.l4_checksum_offset().unwrap() - HEADER_LEN;
    packet[at..at + 2].copy_from_slice(&ip.pseudo().unwrap().fold().to_be_bytes());
}
