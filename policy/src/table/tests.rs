use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::HttpRule;

/// What the reference says of a flow, read off the entries one by one: tiers in order; deny > plain allow > HTTP in the normal one.
#[derive(Debug, PartialEq, Eq)]
enum Naive {
    Deny(RuleId),
    Allow(Option<RuleId>),
    Http(BTreeSet<String>, RuleId),
    DefaultDeny,
}

fn paths(sets: &[Arc<HttpRuleSet>], index: HttpIndex) -> BTreeSet<String> {
    let rules = sets[index.0 as usize].rules();
    rules.iter().filter_map(|rule| rule.path.clone()).collect()
}

/// What the first covering entry of a tier says, unless it passes.
fn ordered(covering: &[&Entry], sets: &[Arc<HttpRuleSet>], tier: Tier) -> Option<Naive> {
    let entry = covering.iter().find(|entry| entry.tier == tier)?;
    match entry.action {
        Action::Allow => Some(Naive::Allow(Some(entry.rule))),
        Action::AllowHttp(index) => Some(Naive::Http(paths(sets, index), entry.rule)),
        Action::Deny => Some(Naive::Deny(entry.rule)),
        Action::Pass => None,
    }
}

fn naive(
    default_deny: bool,
    entries: &[Entry],
    sets: &[Arc<HttpRuleSet>],
    peer: Identity,
    protocol: Protocol,
    port: u16,
) -> Naive {
    let covers = |entry: &&Entry| {
        let named = match &entry.peers {
            Peers::Any => true,
            Peers::Identities(list) => list.contains(&peer),
        };
        let on_port = *entry.ports.start() <= port && port <= *entry.ports.end();
        named && on_port && (entry.protocol.0 == 0 || entry.protocol.0 == protocol.0)
    };
    let covering: Vec<&Entry> = entries.iter().filter(covers).collect();
    if let Some(decided) = ordered(&covering, sets, Tier::Admin) {
        return decided;
    }
    let normal = || covering.iter().filter(|entry| entry.tier == Tier::Normal);
    if let Some(deny) = normal().find(|entry| entry.action == Action::Deny) {
        return Naive::Deny(deny.rule);
    }
    if let Some(allow) = normal().find(|entry| entry.action == Action::Allow) {
        return Naive::Allow(Some(allow.rule));
    }
    let mut http: Option<(BTreeSet<String>, RuleId)> = None;
    for entry in normal() {
        if let Action::AllowHttp(index) = entry.action {
            let (united, _) = http.get_or_insert_with(|| (BTreeSet::new(), entry.rule));
            united.extend(paths(sets, index));
        }
    }
    match (http, default_deny) {
        (Some((united, rule)), true) => Naive::Http(united, rule),
        (None, true) => Naive::DefaultDeny,
        (Some((_, rule)), false) => Naive::Allow(Some(rule)),
        (None, false) => ordered(&covering, sets, Tier::Baseline).unwrap_or(Naive::Allow(None)),
    }
}

fn seen(decision: Decision, sets: &[Arc<HttpRuleSet>]) -> Naive {
    match decision {
        Decision::Deny(rule) => Naive::Deny(rule),
        Decision::Allow(rule) => Naive::Allow(rule),
        Decision::AllowHttp(index, rule) => Naive::Http(paths(sets, index), rule),
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
        1 => Just(Action::Pass),
    ];
    let tier = prop_oneof![
        1 => Just(Tier::Admin),
        3 => Just(Tier::Normal),
        1 => Just(Tier::Baseline),
    ];
    (tier, peers, protocol, ports, action, 0u32..100).prop_map(
        |(tier, peers, protocol, ports, action, rule)| Entry {
            tier,
            peers,
            protocol,
            ports,
            action,
            rule: RuleId(rule),
        },
    )
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
    fn table_decides_as_the_entries_read_one_by_one(
        default_deny in any::<bool>(),
        entries in proptest::collection::vec(entry(), 0..14),
    ) {
        let mut http = http_sets();
        let table = PolicyTable::build(default_deny, &entries, &mut http).expect("unions compile");
        let sets = http.into_sets();
        for protocol in [Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol::ICMPV6, Protocol::SCTP] {
            for port in (0..20).chain(65_525..=65_535) {
                for peer in (1..10).map(Identity) {
                    let decision = table.decide(peer, protocol, port);
                    prop_assert_eq!(
                        seen(decision, &sets),
                        naive(default_deny, &entries, &sets, peer, protocol, port),
                        "{:?} {:?} {}", peer, protocol, port
                    );
                }
                let unknown = table.decide(Identity::UNKNOWN, protocol, port);
                prop_assert!(
                    unknown.drop_reason().is_some() || !table.is_enforced(),
                    "unknown is never allowed by a rule"
                );
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
fn a_table_beyond_its_bound_is_not_made() {
    let peers: Arc<[Identity]> = (1..=1024).map(Identity).collect();
    let entries = |count: u16| -> Vec<Entry> {
        let entry = |n: u16| Entry {
            tier: Tier::Normal,
            peers: Peers::Identities(Arc::clone(&peers)),
            protocol: Protocol::TCP,
            ports: n..=n,
            action: Action::Allow,
            // Another rule on each port, so that no two ports share their decisions.
            rule: RuleId(n.into()),
        };
        (1..=count).map(entry).collect()
    };
    let build = |count| PolicyTable::build(true, &entries(count), &mut HttpSets::default());
    assert!(build(255).is_ok());
    assert!(matches!(build(256), Err(BuildError::TooLarge)));
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
