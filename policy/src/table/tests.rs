use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::HttpRule;

/// What the reference says of a flow, read off the entries one by one: deny > plain allow > HTTP > default deny.
#[derive(Debug, PartialEq, Eq)]
enum Naive {
    Deny(RuleId),
    Allow(RuleId),
    Http(BTreeSet<String>, RuleId),
    DefaultDeny,
}

fn naive(
    entries: &[Entry],
    sets: &[Arc<HttpRuleSet>],
    peer: Identity,
    protocol: Protocol,
    port: u16,
) -> Naive {
    let mut allow = None;
    let mut http: Option<(BTreeSet<String>, RuleId)> = None;
    for entry in entries {
        let named = match &entry.peers {
            Peers::Any => true,
            Peers::Identities(list) => list.contains(&peer),
        };
        let on_port = *entry.ports.start() <= port && port <= *entry.ports.end();
        let of_protocol = entry.protocol.0 == 0 || entry.protocol.0 == protocol.0;
        if !(named && on_port && of_protocol) {
            continue;
        }
        match entry.action {
            Action::Deny => return Naive::Deny(entry.rule),
            Action::Allow => allow = allow.or(Some(entry.rule)),
            Action::AllowHttp(index) => {
                let (paths, _) = http.get_or_insert_with(|| (BTreeSet::new(), entry.rule));
                paths.extend(
                    sets[index.0 as usize]
                        .rules()
                        .iter()
                        .filter_map(|rule| rule.path.clone()),
                );
            }
        }
    }
    match (allow, http) {
        (Some(rule), _) => Naive::Allow(rule),
        (None, Some((paths, rule))) => Naive::Http(paths, rule),
        (None, None) => Naive::DefaultDeny,
    }
}

fn seen(decision: Decision, sets: &[Arc<HttpRuleSet>]) -> Naive {
    match decision {
        Decision::Deny(rule) => Naive::Deny(rule),
        Decision::Allow(rule) => Naive::Allow(rule.expect("an enforced table names the rule")),
        Decision::AllowHttp(index, rule) => {
            let rules = sets[index.0 as usize].rules();
            Naive::Http(rules.iter().filter_map(|rule| rule.path.clone()).collect(), rule)
        }
        Decision::DefaultDeny => Naive::DefaultDeny,
    }
}

fn entry() -> impl Strategy<Value = Entry> {
    let peers = prop_oneof![
        1 => Just(Peers::Any),
        4 => proptest::collection::vec(1u32..8, 0..4)
            .prop_map(|list| Peers::Identities(list.into_iter().map(Identity).collect())),
    ];
    let ports = prop_oneof![
        2 => (0u16..12).prop_map(|p| p..=p),
        2 => (0u16..12, 0u16..6).prop_map(|(p, n)| p..=p + n),
        1 => Just(0..=u16::MAX),
        1 => (65_530u16..=65_535).prop_map(|p| p..=u16::MAX),
    ];
    let protocol = prop_oneof![
        3 => Just(Protocol::TCP),
        2 => Just(Protocol::UDP),
        1 => Just(Protocol::ICMP),
        2 => Just(Protocol::ANY),
    ];
    let action = prop_oneof![
        3 => Just(Action::Allow),
        4 => (0u32..4).prop_map(|i| Action::AllowHttp(HttpIndex(i))),
        1 => Just(Action::Deny),
    ];
    (peers, protocol, ports, action, 0u32..100).prop_map(|(peers, protocol, ports, action, rule)| Entry {
        peers,
        protocol,
        ports,
        action,
        rule: RuleId(rule),
    })
}

fn http_sets() -> HttpSets {
    let mut sets = HttpSets::default();
    for path in ["/a", "/b", "/c", "/d"] {
        let rule = HttpRule {
            method: None,
            path: Some(path.into()),
            ..HttpRule::default()
        };
        sets.insert(Arc::new(HttpRuleSet::new(vec![rule]).expect("plain path")));
    }
    sets
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn table_decides_as_the_entries_read_one_by_one(entries in proptest::collection::vec(entry(), 0..14)) {
        let mut http = http_sets();
        let table = PolicyTable::build(true, &entries, &mut http).expect("unions compile");
        let sets = http.into_sets();
        for protocol in [Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol::ICMPV6, Protocol::SCTP] {
            for port in (0..20).chain(65_525..=65_535) {
                for peer in (1..10).map(Identity) {
                    let decision = table.decide(peer, protocol, port);
                    prop_assert_eq!(
                        seen(decision, &sets),
                        naive(&entries, &sets, peer, protocol, port),
                        "{:?} {:?} {}", peer, protocol, port
                    );
                }
                let unknown = table.decide(Identity::UNKNOWN, protocol, port);
                prop_assert!(unknown.drop_reason().is_some(), "unknown is never allowed");
            }
        }
    }

    #[test]
    fn equal_entries_build_equal_tables(entries in proptest::collection::vec(entry(), 0..14)) {
        let (mut a, mut b) = (http_sets(), http_sets());
        prop_assert_eq!(
            PolicyTable::build(true, &entries, &mut a).expect("unions compile"),
            PolicyTable::build(true, &entries, &mut b).expect("unions compile")
        );
        let rules = |sets: HttpSets| sets.into_sets().iter().map(|s| s.rules().to_vec()).collect::<Vec<_>>();
        prop_assert_eq!(rules(a), rules(b));
    }
}

#[test]
fn unenforced_table_allows_even_unknown_peers() {
    let table = PolicyTable::unenforced();
    assert_eq!(
        table.decide(Identity::UNKNOWN, Protocol::TCP, 1),
        Decision::Allow(None)
    );
}

#[test]
fn deny_all_denies_every_protocol() {
    for protocol in (0..=255).map(Protocol) {
        assert_eq!(
            PolicyTable::deny_all().decide(Identity::WORLD, protocol, 0),
            Decision::DefaultDeny
        );
    }
}
