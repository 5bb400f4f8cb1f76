use policy::{Backend, EndpointKey, Protocol, Service, ServiceKey, SlotGeneration};

use super::*;
use crate::conntrack::{Entry, TcpState};
use crate::flow::FlowHasher;

const CLIENT: Slot = Slot(8);

fn peer(text: &str, port: u16) -> Peer {
    Peer::new(text.parse().unwrap(), port)
}

fn services(backends: &[&str]) -> ServiceTable {
    ServiceTable::new([service(backends)])
}

fn service(backends: &[&str]) -> Service {
    let key = ServiceKey {
        addr: "10.96.0.80".parse().unwrap(),
        port: 80,
        protocol: Protocol::TCP,
    };
    let backends = backends.iter().map(|b| Backend {
        addr: b.parse().unwrap(),
        port: 5000,
    });
    Service::cluster_ip("default/flask-app-service", key, backends.collect())
}

fn sent(source: &str, port: u16, to_port: u16) -> FlowKey {
    FlowKey {
        source: peer(source, port),
        destination: peer("10.96.0.80", to_port),
        protocol: Protocol::TCP,
    }
}

struct Fixture {
    conntrack: Conntrack,
    interfaces: InterfaceTable,
    translations: Translations,
}

impl Fixture {
    fn new() -> Self {
        Self {
            conntrack: Conntrack::new(64, 64, FlowHasher::random()),
            interfaces: InterfaceTable::default(),
            translations: Translations::new(8, 2, 42),
        }
    }

    fn track(&mut self, key: FlowKey, translation: Option<Translation>, tcp: TcpState) {
        let here = EndpointKey {
            slot: CLIENT,
            generation: SlotGeneration(1),
        };
        let mut entry = Entry::new(key, here, here);
        (entry.translation, entry.tcp) = (translation, tcp);
        self.conntrack.insert(entry, 0).unwrap();
    }
}

#[test]
fn other_destinations_are_left_alone() {
    let f = Fixture::new();
    let mut key = sent("10.244.0.7", 4000, 80);
    key.destination = peer("10.244.0.9", 80);
    assert_eq!(
        f.translations.translate(
            &services(&["10.244.0.5"]),
            &f.conntrack,
            &f.interfaces,
            CLIENT,
            &key,
            true
        ),
        Ok(None)
    );
}

#[test]
fn frontend_becomes_a_backend_and_stays_with_it() {
    let mut f = Fixture::new();
    let services = services(&["10.244.0.4", "10.244.0.5", "10.244.0.6"]);
    let key = sent("10.244.0.7", 4000, 80);
    let first = f
        .translations
        .translate(&services, &f.conntrack, &f.interfaces, CLIENT, &key, true)
        .unwrap()
        .unwrap();
    f.translations.keep(CLIENT, &first);
    assert_eq!((first.key.source, first.key.destination.port), (key.source, 5000));
    assert_eq!(first.translation.frontend, key.destination);
    f.track(first.key, Some(first.translation), TcpState::Established);
    for _ in 0..20 {
        f.translations.begin_batch(0);
        let again = f
            .translations
            .translate(&services, &f.conntrack, &f.interfaces, CLIENT, &key, false);
        assert_eq!(again, Ok(Some(first)));
    }
}

#[test]
fn every_backend_gets_flows() {
    let mut f = Fixture::new();
    f.translations = Translations::new(1000, 2, 7);
    let services = services(&["10.244.0.4", "10.244.0.5", "10.244.0.6"]);
    let mut counts = [0; 3];
    for port in 0..900 {
        let key = sent("10.244.0.7", 1000 + port, 80);
        let to = f
            .translations
            .translate(&services, &f.conntrack, &f.interfaces, CLIENT, &key, true)
            .unwrap()
            .unwrap();
        let IpAddr::V4(addr) = to.key.destination.addr() else {
            panic!("not IPv4")
        };
        counts[usize::from(addr.octets()[3]) - 4] += 1;
    }
    assert!(counts.iter().all(|n| (200..400).contains(n)), "{counts:?}");
}

#[test]
fn unknown_port_and_no_backend_have_their_own_reasons() {
    let mut f = Fixture::new();
    let to = |f: &mut Fixture, services: &ServiceTable, port| {
        f.translations.translate(
            services,
            &f.conntrack,
            &f.interfaces,
            CLIENT,
            &sent("10.244.0.7", 4000, port),
            true,
        )
    };
    assert_eq!(
        to(&mut f, &services(&["10.244.0.5"]), 81),
        Err(DropReason::IsClusterIp)
    );
    assert_eq!(to(&mut f, &services(&[]), 80), Err(DropReason::NoBackend));
}

#[test]
fn pod_that_reaches_itself_appears_under_the_hairpin_address() {
    let f = Fixture::new();
    let key = sent("10.244.0.5", 4000, 80);
    let to = f
        .translations
        .translate(
            &services(&["10.244.0.5"]),
            &f.conntrack,
            &f.interfaces,
            CLIENT,
            &key,
            true,
        )
        .unwrap()
        .unwrap();
    assert!(to.hairpin);
    assert_eq!(to.key.source, Peer::new(HAIRPIN_V4.into(), 4000));
    assert_eq!(to.translation.client, key.source);
}

#[test]
fn client_port_changes_when_the_backend_could_not_tell_two_flows_apart() {
    let mut f = Fixture::new();
    let direct = FlowKey {
        source: peer("10.244.0.7", 4000),
        destination: peer("10.244.0.5", 5000),
        protocol: Protocol::TCP,
    };
    f.track(direct, None, TcpState::Established);
    let key = sent("10.244.0.7", 4000, 80);
    let to = f
        .translations
        .translate(
            &services(&["10.244.0.5"]),
            &f.conntrack,
            &f.interfaces,
            CLIENT,
            &key,
            true,
        )
        .unwrap()
        .unwrap();
    assert_ne!(to.key, direct);
    assert!(to.key.source.port >= FIRST_REMAPPED_PORT);
    assert_eq!(to.translation.client, key.source);
}

#[test]
fn packets_of_one_batch_that_begin_a_flow_choose_the_same_backend() {
    let f = Fixture::new();
    let services = services(&["10.244.0.4", "10.244.0.5", "10.244.0.6"]);
    let key = sent("10.244.0.7", 4000, 80);
    let choose = || {
        f.translations
            .translate(&services, &f.conntrack, &f.interfaces, CLIENT, &key, true)
    };
    assert_eq!(choose(), choose());
}

#[test]
fn one_sender_leaves_translations_to_others_and_forgetting_makes_room() {
    let mut f = Fixture::new();
    f.translations = Translations::new(64, 2, 42);
    let services = services(&["10.244.0.5"]);
    let mut last = None;
    let mut port = 4000;
    while f.translations.has_room(CLIENT) {
        let key = sent("10.244.0.7", port, 80);
        last = f
            .translations
            .translate(&services, &f.conntrack, &f.interfaces, CLIENT, &key, true)
            .unwrap();
        f.translations.keep(CLIENT, &last.unwrap());
        port += 1;
    }
    assert_eq!(f.translations.len(), 48, "a quarter is for others");
    assert!(f.translations.has_room(Slot(9)));
    let last = last.unwrap();
    f.translations.forget(CLIENT, &last.key, &last.translation);
    assert!(f.translations.has_room(CLIENT));
}

#[test]
fn segment_without_connection_is_not_translated() {
    let f = Fixture::new();
    let key = sent("10.244.0.7", 4000, 80);
    let to = f.translations.translate(
        &services(&["10.244.0.5"]),
        &f.conntrack,
        &f.interfaces,
        CLIENT,
        &key,
        false,
    );
    assert_eq!(to, Err(DropReason::Midstream));
}

#[test]
fn datagram_is_an_answer_for_a_while_only_after_the_last_question() {
    let mut f = Fixture::new();
    let mut service = service(&["10.244.0.5"]);
    service.key.protocol = Protocol::UDP;
    let services = ServiceTable::new([service]);
    let mut answer = sent("10.244.0.7", 53, 80);
    answer.protocol = Protocol::UDP;
    let here = EndpointKey {
        slot: CLIENT,
        generation: SlotGeneration(1),
    };
    let question = Entry::new(answer.reversed(), here, here);
    let id = f.conntrack.insert(question, 100).unwrap();
    // Answers keep the entry, but are no questions.
    let is_untranslated = |f: &mut Fixture, now_s| {
        f.translations.begin_batch(now_s);
        let (conntrack, interfaces) = (&f.conntrack, &f.interfaces);
        let translated = f
            .translations
            .translate(&services, conntrack, interfaces, CLIENT, &answer, true);
        translated.unwrap().is_none()
    };
    for (now_s, is_answer) in [(100, true), (112, true), (124, true), (125, false), (126, false)] {
        assert_eq!(is_untranslated(&mut f, now_s), is_answer, "{now_s}");
        let entry = f.conntrack.get_mut(id).unwrap();
        entry.passed(FlowDirection::Reply, now_s);
    }
    let entry = f.conntrack.get_mut(id).unwrap();
    entry.passed(FlowDirection::Original, 400);
    assert!(is_untranslated(&mut f, 424));
    assert!(!is_untranslated(&mut f, 425));
}
