//! Connections through Services that are older than the worker: the one before it has said which backends they had.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use policy::{Backend, DropReason, EndpointKey, Protocol, Service, ServiceKey, SlotGeneration};
use sluice_datapath::adoption::AdoptionLimits;
use sluice_datapath::conntrack::TcpState;
use sluice_datapath::graph::GraphConfig;
use sluice_datapath::interface::InterfaceConfig;
use sluice_datapath::translation::TranslatedFlow;
use sluice_datapath::wire::tcp::TcpFlags;

use crate::bed::*;
use crate::midstream::{adopted, bed_of};

const VIP6: &str = "fd00:96::80";
const RST: TcpFlags = TcpFlags::RST;

fn vip() -> IpAddr {
    VIP.parse().unwrap()
}

fn web(backends: &[IpAddr]) -> Service {
    let vip = if backends.iter().all(IpAddr::is_ipv4) {
        VIP
    } else {
        VIP6
    };
    let key = ServiceKey {
        addr: vip.parse().unwrap(),
        port: 80,
        protocol: Protocol::TCP,
    };
    let backends = backends.iter().map(|addr| Backend {
        addr: *addr,
        port: 5000,
    });
    Service::cluster_ip("bed/web", key, backends.collect())
}

fn serve(bed: &mut Bed, service: Service) {
    bed.services = vec![service];
    bed.publish();
}

/// A connection through a Service.
#[derive(Debug, Clone, Copy)]
struct Through {
    /// As its client sees it.
    front: Conn,
    /// As its backend sees it.
    back: Conn,
}

impl Through {
    /// Opens a connection to the Service, all of which must get through.
    fn open(bed: &mut Bed, mut front: Conn) -> Self {
        front.client_sends(bed, TcpFlags::SYN, &[]);
        let places = [A.key(), B.key(), C.key(), HOST, FORWARD];
        let (server, frame) = places
            .into_iter()
            .find_map(|key| Some((key, bed.got(key).pop()?)))
            .expect("somebody gets the SYN");
        let seen = Seen::new(frame);
        let mut back = front;
        (back.client.addr, back.client.port) = (seen.ip.source, seen.tcp().source_port);
        back.server.key = server;
        (back.server.addr, back.server.port) = (seen.ip.destination, seen.tcp().destination_port);
        back.server_sends(bed, SYN_ACK, &[]);
        front.server.seq = back.server.seq;
        assert_eq!(bed.got_one(front.client.key).tcp().flags, SYN_ACK);
        let mut through = Self { front, back };
        through.client_says(bed, b"hello");
        through.server_says(bed, b"welcome");
        through
    }

    fn client_says(&mut self, bed: &mut Bed, text: &[u8]) {
        self.front.client_sends(bed, DATA, text);
        self.back.client.seq = self.front.client.seq;
        let seen = bed.got_one(self.back.server.key);
        assert_eq!(seen.payload(), text);
        let ends = [self.back.client, self.back.server].map(|end| (end.addr, end.port));
        let tcp = seen.tcp();
        assert_eq!(
            [
                (seen.ip.source, tcp.source_port),
                (seen.ip.destination, tcp.destination_port)
            ],
            ends
        );
    }

    fn server_says(&mut self, bed: &mut Bed, text: &[u8]) {
        self.back.server_sends(bed, DATA, text);
        self.front.server.seq = self.back.server.seq;
        let seen = bed.got_one(self.front.client.key);
        assert_eq!(seen.payload(), text);
        let ends = [self.front.server, self.front.client].map(|end| (end.addr, end.port));
        let tcp = seen.tcp();
        assert_eq!(
            [
                (seen.ip.source, tcp.source_port),
                (seen.ip.destination, tcp.destination_port)
            ],
            ends
        );
    }

    /// A segment of the client is answered with a reset in the Service's name, and nobody gets anything.
    fn is_reset(&self, bed: &mut Bed) {
        let before = bed.dropped(DropReason::Midstream);
        bed.send(self.front.client.key, &self.front.by_client(DATA, b"x"));
        let seen = bed.got_one(self.front.client.key);
        assert!(seen.tcp().flags.has(RST));
        assert_eq!(seen.ip.source, self.front.server.addr);
        assert!(bed.got_nothing());
        assert_eq!(bed.dropped(DropReason::Midstream), before + 1);
        assert_eq!(bed.worker.graph().conntrack().len(), 0);
    }
}

fn to_service(client: Pod) -> Conn {
    Conn::between(client.key(), client.v4(), B.key(), vip(), 80)
}

/// A connection of A to the Service, whose backend is B, and what its worker says of it at the end.
fn handed_over() -> (Through, Vec<TranslatedFlow>) {
    let mut bed = Bed::guarded(Allow::Plain);
    serve(&mut bed, web(&[B.v4()]));
    let through = Through::open(&mut bed, to_service(A));
    let flows = bed.translated_flows();
    assert_eq!(flows.len(), 1);
    (through, flows)
}

/// The worker that comes next: all pods are adopted, B lets only A in.
fn next(flows: &[TranslatedFlow]) -> Bed {
    let mut bed = bed_of(&[A, B, C], Allow::Plain, AdoptionLimits::default());
    serve(&mut bed, web(&[B.v4()]));
    bed.inherit(flows);
    bed
}

/// B lets A in where `rules` say so.
fn rules(allow: Option<Allow>) -> Rules {
    Rules {
        ingress: Some(allow.map(|allow| (peer(A), 5000, allow)).into_iter().collect()),
        egress: None,
    }
}

#[test]
fn connection_through_a_service_goes_on_whichever_side_speaks_first() {
    for (client, server, vip) in [(A.v4(), B.v4(), VIP), (A.v6(), B.v6(), VIP6)] {
        for server_first in [false, true] {
            let mut bed = Bed::guarded(Allow::Plain);
            serve(&mut bed, web(&[server]));
            let front = Conn::between(A.key(), client, B.key(), vip.parse().unwrap(), 80);
            let mut through = Through::open(&mut bed, front);
            let flows = bed.translated_flows();

            let mut bed = next(&flows);
            serve(&mut bed, web(&[server]));
            for by_server in [server_first, !server_first, server_first, !server_first] {
                if by_server {
                    through.server_says(&mut bed, b"answer");
                } else {
                    through.client_says(&mut bed, b"question");
                }
            }
            assert_eq!(bed.counters().adopted_flows.get(), 1);
            let graph = bed.worker.graph();
            assert_eq!((graph.conntrack().len(), graph.translations().len()), (1, 1));
            assert!(graph.translations().inherited().is_empty());
            assert_eq!(
                bed.translated_flows(),
                flows,
                "the process after it is told the same"
            );
            bed.assert_no_frame_lost();
        }
    }
}

#[test]
fn new_connection_still_gets_a_backend_of_its_own() {
    let (mut through, flows) = handed_over();
    let mut bed = next(&flows);
    let mut front = to_service(A);
    front.client.port += 1;
    Through::open(&mut bed, front).client_says(&mut bed, b"x");
    through.client_says(&mut bed, b"y");
}

#[test]
fn pod_that_reaches_itself_through_its_service_goes_on_doing_so() {
    for server_first in [false, true] {
        let mut bed = Bed::new();
        serve(&mut bed, web(&[A.v4()]));
        let mut through = Through::open(&mut bed, to_service(A));
        assert_eq!(through.back.server.key, A.key());
        let flows = bed.translated_flows();
        let mut bed = next(&flows);
        serve(&mut bed, web(&[A.v4()]));
        if server_first {
            through.server_says(&mut bed, b"x");
        }
        through.client_says(&mut bed, b"y");
        through.server_says(&mut bed, b"z");
    }
}

#[test]
fn connections_to_backends_beyond_the_node_and_of_the_nodes_own_processes_go_on() {
    let node: IpAddr = NODE.parse().unwrap();
    let outside: IpAddr = OUTSIDE.parse().unwrap();
    let config = || GraphConfig {
        flows: 4096,
        flows_per_endpoint: 1024,
        translations: 256,
        l7_flows: 64,
        translate_host: true,
        ..GraphConfig::default()
    };
    for (client, addr, backend) in [
        (A.key(), A.v4(), outside),
        (A.key(), A.v4(), node),
        (HOST, node, B.v4()),
        (HOST, node, outside),
    ] {
        for server_first in [false, true] {
            let mut bed = Bed::with(config());
            serve(&mut bed, web(&[backend]));
            let mut through = Through::open(&mut bed, Conn::between(client, addr, B.key(), vip(), 80));
            let flows = bed.translated_flows();
            let mut bed = Bed::with(config());
            for pod in [A, B] {
                bed.detach(pod.key());
                bed.attach(adopted(pod));
            }
            serve(&mut bed, web(&[backend]));
            bed.inherit(&flows);
            if server_first {
                through.server_says(&mut bed, b"x");
            }
            through.client_says(&mut bed, b"y");
            through.server_says(&mut bed, b"z");
        }
    }
}

#[test]
fn connection_of_the_nodes_process_ends_where_the_kernel_serves_it() {
    let mut bed = Bed::with(GraphConfig {
        flows: 4096,
        translate_host: true,
        ..GraphConfig::default()
    });
    serve(&mut bed, web(&[B.v4()]));
    let front = Conn::between(HOST, NODE.parse().unwrap(), B.key(), vip(), 80);
    let mut through = Through::open(&mut bed, front);
    let flows = bed.translated_flows();
    let mut bed = next(&flows);
    bed.set(B, Rules::default());
    through.back.server_sends(&mut bed, DATA, b"x");
    assert!(bed.got(HOST).is_empty());
}

#[test]
fn backend_that_is_gone_gets_nothing_and_one_that_drains_goes_on() {
    let (through, flows) = handed_over();
    for backends in [&[C.v4()][..], &[]] {
        let mut bed = next(&flows);
        serve(&mut bed, web(backends));
        through.is_reset(&mut bed);
    }
    for server_first in [false, true] {
        let (mut through, flows) = handed_over();
        let mut bed = next(&flows);
        let draining = web(&[B.v4()]).backends;
        serve(
            &mut bed,
            Service {
                draining,
                ..web(&[C.v4()])
            },
        );
        if server_first {
            through.server_says(&mut bed, b"x");
        }
        through.client_says(&mut bed, b"y");
    }
}

#[test]
fn answer_of_a_backend_that_is_gone_reaches_its_client_in_no_services_name() {
    let (mut through, flows) = handed_over();
    let mut bed = next(&flows);
    serve(&mut bed, web(&[C.v4()]));
    through.back.server_sends(&mut bed, DATA, b"x");
    for frame in bed.got(A.key()) {
        assert_eq!(Seen::new(frame).ip.source, B.v4());
    }
    assert_eq!(bed.worker.graph().translations().len(), 0);
}

#[test]
fn time_counts_from_when_the_policies_of_all_are_known_but_not_for_ever() {
    let window = Duration::from_millis(200);
    let limits = AdoptionLimits {
        window_ns: window.as_nanos().try_into().unwrap(),
        ..AdoptionLimits::default()
    };
    for is_known in [true, false] {
        let (mut through, flows) = handed_over();
        let mut bed = bed_of(&[], Allow::Plain, limits);
        serve(&mut bed, web(&[B.v4()]));
        for pod in [A, B] {
            bed.detach(pod.key());
        }
        bed.inherit(&flows);
        // Other pods are known, and none is served yet.
        let inherited = Instant::now();
        while inherited.elapsed() <= window {
            bed.turn();
        }
        let rules = std::mem::take(&mut bed.rules);
        bed.publish();
        for pod in [A, B] {
            bed.attach(adopted(pod));
        }
        bed.adoption_ends();
        let left = |bed: &Bed| bed.worker.graph().translations().inherited().len();
        if !is_known {
            while left(&bed) > 0 {
                assert!(inherited.elapsed() < window * 100, "it is kept for ever");
                bed.turn();
            }
            continue;
        }
        while inherited.elapsed() <= window * 2 {
            bed.turn();
        }
        // Unless the machine has slept.
        if inherited.elapsed() < window * 8 {
            assert_eq!(left(&bed), 1, "nobody knows yet whether it may go on");
        }
        bed.rules = rules;
        let published = Instant::now();
        bed.publish();
        if published.elapsed() < window {
            through.client_says(&mut bed, b"x");
        }
    }
}

#[test]
fn connection_is_reset_when_its_time_is_up() {
    let window = Duration::from_millis(200);
    let limits = AdoptionLimits {
        window_ns: window.as_nanos().try_into().unwrap(),
        ..AdoptionLimits::default()
    };
    let (through, flows) = handed_over();
    let mut bed = bed_of(&[], Allow::Plain, limits);
    serve(&mut bed, web(&[B.v4()]));
    bed.inherit(&flows);
    assert_eq!(bed.worker.graph().translations().inherited().len(), 1);
    bed.adoption_ends();
    // From here on their time counts.
    bed.turn();
    let inherited = Instant::now();
    while inherited.elapsed() <= window {
        bed.turn();
    }
    assert!(bed.worker.graph().translations().inherited().is_empty());
    // Windows that are open do not help.
    for pod in [A, B] {
        bed.detach(pod.key());
        bed.attach(adopted(pod));
    }
    through.is_reset(&mut bed);
}

#[test]
fn connection_of_a_pod_that_was_added_is_reset() {
    let (through, flows) = handed_over();
    for pods in [&[][..], &[A], &[B]] {
        let mut bed = bed_of(pods, Allow::Plain, AdoptionLimits::default());
        serve(&mut bed, web(&[B.v4()]));
        bed.inherit(&flows);
        through.is_reset(&mut bed);
    }
}

#[test]
fn nobody_else_can_go_on_with_a_connection() {
    let (through, flows) = handed_over();
    // From the same port, to the same Service.
    let mut bed = next(&flows);
    bed.set(B, Rules::default());
    let mut other = through;
    (other.front.client.key, other.front.client.addr) = (C.key(), C.v4());
    other.is_reset(&mut bed);
    // From another port.
    let mut other = through;
    other.front.client.port += 1;
    other.is_reset(&mut bed);
    // To the same address at another port, which is no Service's.
    let mut other = through;
    other.front.server.port += 1;
    bed.send(A.key(), &other.front.by_client(DATA, b"x"));
    assert!(bed.got_one(A.key()).tcp().flags.has(RST));
    assert!(bed.got_nothing());
    // Another pod answers in the backend's place: what A gets is not the Service's.
    let mut other = through;
    (other.back.server.key, other.back.server.addr) = (C.key(), C.v4());
    other.back.server_sends(&mut bed, DATA, b"x");
    for frame in bed.got(A.key()) {
        assert_eq!(Seen::new(frame).ip.source, C.v4());
    }
    // And the backend from another port.
    let mut other = through;
    other.back.server.port += 1;
    other.back.server_sends(&mut bed, DATA, b"x");
    for frame in bed.got(A.key()) {
        assert_eq!(Seen::new(frame).ip.source, B.v4());
    }
    assert_eq!(bed.worker.graph().translations().len(), 0);
    assert_eq!(bed.worker.graph().translations().inherited().len(), 1);
}

#[test]
fn successor_of_either_pod_inherits_nothing() {
    for pod in [A, B] {
        let (through, flows) = handed_over();
        let mut bed = next(&flows);
        bed.detach(pod.key());
        let key = EndpointKey {
            generation: SlotGeneration(2),
            ..pod.key()
        };
        bed.attach(InterfaceConfig { key, ..adopted(pod) });
        assert!(bed.worker.graph().translations().inherited().is_empty());
        let mut front = through.front;
        if pod == A {
            front.client.key = key;
        }
        bed.send(front.client.key, &front.by_client(DATA, b"x"));
        assert!(bed.got_one(front.client.key).tcp().flags.has(RST));
        assert!(bed.got_nothing());
        assert_eq!(bed.worker.graph().translations().len(), 0);
    }
}

#[test]
fn records_of_a_client_that_is_not_who_they_say_are_worth_nothing() {
    let (through, flows) = handed_over();
    let mut forged = flows[0];
    forged.client.set_ip(C.v4());
    let mut bed = next(&[forged]);
    bed.set(B, Rules::default());
    through.is_reset(&mut bed);
    let mut back = through.back;
    back.client.addr = C.v4();
    back.server_sends(&mut bed, DATA, b"x");
    assert!(bed.got(A.key()).is_empty());
    assert_eq!(bed.worker.graph().translations().len(), 0);
}

#[test]
fn connection_that_policy_denies_now_is_reset_whichever_side_speaks_first() {
    let (mut through, flows) = handed_over();
    let mut bed = next(&flows);
    bed.set(B, rules(None));
    through.is_reset(&mut bed);
    // B may connect to anyone, and A takes anyone: as a connection of B's this would be allowed.
    bed.set(A, Rules::default());
    through.back.server_sends(&mut bed, DATA, b"x");
    assert!(bed.got_one(B.key()).tcp().flags.has(RST));
    assert!(bed.got_nothing());
    assert_eq!(bed.worker.graph().conntrack().len(), 0);
    bed.assert_no_frame_lost();
}

#[test]
fn policy_that_comes_later_cuts_a_connection_that_went_on() {
    let (mut through, flows) = handed_over();
    let mut bed = next(&flows);
    through.client_says(&mut bed, b"x");
    bed.set(B, rules(None));
    through.front.client_sends(&mut bed, DATA, b"y");
    assert!(bed.got_nothing());
    assert_eq!(bed.dropped(DropReason::PolicyDenied), 1);
}

#[test]
fn connection_on_an_l7_port_is_reset_at_both_ends_in_the_names_they_know() {
    for server_first in [false, true] {
        let (mut through, flows) = handed_over();
        let mut bed = next(&flows);
        bed.set(B, rules(Some(get("/"))));
        if server_first {
            through.back.server_sends(&mut bed, DATA, b"x");
        } else {
            through
                .front
                .client_sends(&mut bed, DATA, b"GET /secret HTTP/1.1\r\n");
        }
        for (pod, from, to) in [
            (A, through.front.server, through.front.client),
            (B, through.back.client, through.back.server),
        ] {
            let seen = bed.got_one(pod.key());
            let tcp = seen.tcp();
            assert!(tcp.flags.has(RST) && seen.payload().is_empty());
            assert_eq!((seen.ip.source, tcp.source_port), (from.addr, from.port));
            assert_eq!((seen.ip.destination, tcp.destination_port), (to.addr, to.port));
        }
        assert_eq!(bed.dropped(DropReason::Midstream), 1);
        assert_eq!(bed.worker.graph().conntrack().len(), 0);
        bed.assert_no_frame_lost();
    }
}

#[test]
fn client_outside_the_source_ranges_of_today_is_reset() {
    let (through, flows) = handed_over();
    let mut bed = next(&flows);
    serve(
        &mut bed,
        Service {
            sources: vec![C.v4().into()],
            ..web(&[B.v4()])
        },
    );
    through.is_reset(&mut bed);
}

#[test]
fn segment_waits_for_the_interface_of_the_other_side() {
    for server_first in [false, true] {
        let (mut through, flows) = handed_over();
        let (here, later) = if server_first { (B, A) } else { (A, B) };
        let mut bed = bed_of(&[here], Allow::Plain, AdoptionLimits::default());
        serve(&mut bed, web(&[B.v4()]));
        bed.detach(later.key());
        bed.inherit(&flows);
        let segment = if server_first {
            through.back.by_server(DATA, b"x")
        } else {
            through.front.by_client(DATA, b"x")
        };
        bed.send(here.key(), &segment);
        assert!(bed.got_nothing());
        assert_eq!(bed.dropped(DropReason::EndpointNotReady), 1);
        bed.attach(adopted(later));
        if server_first {
            through.server_says(&mut bed, b"x");
        }
        through.client_says(&mut bed, b"x");
    }
}

#[test]
fn only_segments_of_established_connections_go_on() {
    let (through, flows) = handed_over();
    let mut bed = next(&flows);
    for flags in [SYN_ACK, RST, RST.with(TcpFlags::ACK), TcpFlags::PSH] {
        bed.send(A.key(), &through.front.by_client(flags, &[]));
        bed.send(B.key(), &through.back.by_server(flags, &[]));
        for key in [A.key(), B.key()] {
            let own = |frame| Seen::new(frame).tcp().flags.has(RST) && !flags.has(RST);
            assert!(bed.got(key).into_iter().all(own), "{flags:?}");
        }
    }
    assert_eq!(bed.worker.graph().conntrack().len(), 0);
}

#[test]
fn syn_from_the_same_port_begins_a_connection_that_is_judged_as_one() {
    let (mut through, flows) = handed_over();
    let mut bed = next(&flows);
    bed.set(B, rules(None));
    bed.send(A.key(), &through.front.by_client(TcpFlags::SYN, &[]));
    assert!(bed.got_nothing());
    assert_eq!(bed.dropped(DropReason::PolicyDenied), 1);
    assert_eq!(
        bed.worker.graph().translations().inherited().len(),
        1,
        "a SYN that is refused makes nothing forgotten"
    );
    bed.set(B, rules(Some(Allow::Plain)));
    through = Through::open(&mut bed, to_service(A));
    through.client_says(&mut bed, b"x");
    assert!(bed.worker.graph().translations().inherited().is_empty());
}

#[test]
fn another_connection_does_not_take_the_place_of_one_that_is_silent_yet() {
    let (mut through, flows) = handed_over();
    let mut bed = next(&flows);
    let mut other = web(&[B.v4()]);
    other.key.port = 81;
    bed.services.push(other);
    bed.publish();
    let mut front = to_service(A);
    front.server.port = 81;
    let mut second = Through::open(&mut bed, front);
    assert_ne!(second.back.client.port, through.back.client.port);
    through.server_says(&mut bed, b"x");
    through.client_says(&mut bed, b"x");
    second.client_says(&mut bed, b"y");
    // With the port that it has instead it is handed over, too.
    let flows = bed.translated_flows();
    let mut bed = next(&flows);
    let mut other = web(&[B.v4()]);
    other.key.port = 81;
    bed.services.push(other);
    bed.publish();
    second.client_says(&mut bed, b"x");
    second.server_says(&mut bed, b"x");
}

#[test]
fn connections_that_are_over_and_those_that_policy_cut_are_not_handed_over() {
    let mut bed = Bed::guarded(Allow::Plain);
    serve(&mut bed, web(&[B.v4()]));
    let mut over = Through::open(&mut bed, to_service(A));
    over.front.client_sends(&mut bed, RST.with(TcpFlags::ACK), &[]);
    bed.got(B.key());
    assert!(bed.translated_flows().is_empty());
    let mut front = to_service(A);
    front.client.port += 1;
    // Half open.
    front.client_sends(&mut bed, TcpFlags::SYN, &[]);
    bed.got(B.key());
    assert!(bed.translated_flows().is_empty());
    front.client.port += 1;
    let mut cut = Through::open(&mut bed, front);
    assert_eq!(bed.translated_flows().len(), 1);
    bed.set(B, rules(None));
    cut.front.client_sends(&mut bed, DATA, b"x");
    assert!(bed.translated_flows().is_empty());
}

#[test]
fn connection_that_was_silent_for_a_whole_process_is_handed_on() {
    let (mut through, flows) = handed_over();
    let flows_of_next = next(&flows).translated_flows();
    assert_eq!(flows_of_next, flows);
    let mut bed = next(&flows_of_next);
    through.client_says(&mut bed, b"x");
}

#[test]
fn closing_connection_comes_to_its_end() {
    let (mut through, flows) = handed_over();
    let mut bed = next(&flows);
    let fin = TcpFlags::FIN.with(TcpFlags::ACK);
    through.front.client_sends(&mut bed, fin, &[]);
    through.back.client.seq = through.front.client.seq;
    bed.got_one(B.key());
    through.back.server_sends(&mut bed, fin, &[]);
    bed.got_one(A.key());
    let conntrack = bed.worker.graph().conntrack();
    let key = sluice_datapath::flow::FlowKey {
        source: sluice_datapath::flow::Peer::new(A.v4(), 40_000),
        destination: sluice_datapath::flow::Peer::new(B.v4(), 5000),
        protocol: Protocol::TCP,
    };
    let (id, _) = conntrack.lookup(&key, conntrack.hash(&key)).unwrap();
    assert_eq!(conntrack.get(id).unwrap().tcp, TcpState::Finished);
}

#[test]
fn inherited_connections_take_no_more_than_a_pods_share_of_any_table() {
    let mut bed = Bed::guarded(Allow::Plain);
    serve(&mut bed, web(&[B.v4()]));
    let mut all = Vec::new();
    for port in 0..6 {
        let mut front = to_service(A);
        front.client.port += port;
        all.push(Through::open(&mut bed, front));
    }
    let flows = bed.translated_flows();
    for (translations, quota, reason) in [
        (5, 1024, DropReason::NoNatMapping),
        (256, 4, DropReason::FlowQuota),
    ] {
        let mut bed = Bed::with(GraphConfig {
            flows: 4096,
            flows_per_endpoint: quota,
            translations,
            l7_flows: 64,
            ..GraphConfig::default()
        });
        for pod in [A, B] {
            bed.detach(pod.key());
            bed.attach(adopted(pod));
        }
        serve(&mut bed, web(&[B.v4()]));
        bed.inherit(&flows);
        for through in &all {
            bed.send(A.key(), &through.front.by_client(DATA, b"x"));
        }
        assert_eq!((bed.got(B.key()).len(), bed.dropped(reason)), (4, 2));
        assert_eq!(bed.worker.graph().translations().len(), 4);
    }
    let limits = AdoptionLimits {
        flows_per_endpoint: 4,
        ..AdoptionLimits::default()
    };
    let mut bed = bed_of(&[A, B], Allow::Plain, limits);
    serve(&mut bed, web(&[B.v4()]));
    bed.inherit(&flows);
    for through in &all {
        bed.send(A.key(), &through.front.by_client(DATA, b"x"));
    }
    assert_eq!((bed.got(B.key()).len(), bed.got(A.key()).len()), (4, 2));
}
