use std::net::IpAddr;

use super::*;
use crate::{
    Action, Affinity, Backend, Entry, Frontend, HttpSets, Peers, RuleId, ServiceKey, SlotGeneration, Tier,
    Unserved,
};

fn sample() -> Snapshot {
    let mut http = HttpSets::default();
    let rule = HttpRule {
        method: Some("GET".into()),
        path: Some("/".into()),
        ..HttpRule::default()
    };
    let set = http.insert(Arc::new(HttpRuleSet::new(vec![rule]).expect("plain rule")));
    let entries = [
        Entry {
            tier: Tier::Normal,
            peers: Peers::Identities([Identity(256), Identity(300)].into()),
            protocol: Protocol::TCP,
            ports: 5000..=5000,
            action: Action::AllowHttp(set),
            rule: RuleId(0),
        },
        Entry {
            tier: Tier::Normal,
            peers: Peers::Any,
            protocol: Protocol::ANY,
            ports: 0..=u16::MAX,
            action: Action::Deny,
            rule: RuleId(1),
        },
    ];
    let policy = EndpointPolicy {
        key: EndpointKey {
            slot: Slot(9),
            generation: SlotGeneration(3),
        },
        pod: PodName {
            namespace: "dummy".into(),
            name: "flask-0".into(),
        },
        identity: Identity(257),
        identity6: Identity(258),
        generation: PolicyGeneration(12),
        ingress: Arc::new(PolicyTable::build(true, &entries[..1], &mut http).expect("no union")),
        egress: Arc::new(PolicyTable::build(true, &entries, &mut http).expect("no union")),
        http: http.into_sets(),
        audit: true,
    };
    let addr: IpAddr = "10.96.0.7".parse().expect("address");
    let service = ServiceKey {
        addr,
        port: 80,
        protocol: Protocol::TCP,
    };
    let balancer = Service {
        frontend: Frontend::LoadBalancer,
        draining: vec![Backend { addr, port: 5001 }],
        unserved: Unserved::Drop,
        affinity: Some(Affinity {
            service,
            timeout_s: 10_800,
        }),
        sources: vec!["10.1.0.0/16".parse().expect("net")],
        ..Service::cluster_ip(
            "dummy/flask-app-service",
            service,
            vec![Backend { addr, port: 5000 }],
        )
    };
    let node_port = Service {
        frontend: Frontend::NodePort,
        ..Service::cluster_ip("dummy/flask-app-service", service.at_any_node(), Vec::new())
    };
    let nodes = ["172.18.0.3".parse().expect("address")];
    let table = ServiceTable::new([balancer]).with_node_ports(nodes, [node_port]);
    Snapshot {
        local: Arc::default(),
        revision: Revision(12),
        ipcache: Arc::new(IpCache::new(
            IpCacheGeneration(4),
            [
                ("10.1.0.5/32".parse().expect("net"), Identity(257)),
                ("10.0.0.0/8".parse().expect("net"), Identity::FIRST_LOCAL),
            ],
            vec!["10.1.0.0/24".parse().expect("net")],
        )),
        services: Arc::new(table),
        endpoints: Arc::new([vec![None; 9], vec![Some(Arc::new(policy))]].concat()),
        rules: Arc::new(vec![
            RuleInfo {
                name: "cnp dummy/l7-rule ingress[0]".into(),
                log: None,
            },
            RuleInfo {
                name: "cnp dummy/x egressDeny[0]".into(),
                log: Some("guard".into()),
            },
        ]),
        identities: Arc::new(BTreeMap::from_iter([(
            Identity(257),
            vec!["k8s:app=flask-app".into()].into(),
        )])),
    }
}

#[test]
fn a_loaded_snapshot_equals_the_written_one() {
    let written = sample();
    let loaded = from_json(&to_json(&written).expect("json")).expect("loads");
    assert_eq!(
        PersistedSnapshot::from(&written),
        PersistedSnapshot::from(&loaded)
    );
    let key = EndpointKey {
        slot: Slot(9),
        generation: SlotGeneration(3),
    };
    let (a, b) = (
        written.endpoint(key).expect("endpoint"),
        loaded.endpoint(key).expect("endpoint"),
    );
    assert!(a.same_content(b));
    assert!(a.ingress == b.ingress && a.egress == b.egress);
    assert!(written.ipcache.same_content(&loaded.ipcache));
    assert_eq!(written.services, loaded.services);
}

#[test]
fn document_from_before_node_ports_of_other_nodes_loads_without_them() {
    let written: serde_json::Value =
        serde_json::from_slice(&to_json(&sample()).expect("json")).expect("json");
    let mut without = written.clone();
    let fields = without.as_object_mut().expect("an object");
    assert!(fields.remove("nodes").is_some() && fields.remove("node_ports").is_some());
    let old = from_json(without.to_string().as_bytes()).expect("loads");
    assert_eq!(
        (old.services.nodes().count(), old.services.node_ports().count()),
        (0, 0)
    );
    assert_eq!(old.services.iter().count(), 1);
}

#[test]
fn endpoint_of_a_document_from_before_audit_mode_enforces() {
    let json = String::from_utf8(to_json(&sample()).expect("json")).expect("utf-8");
    let without = json.replacen(",\"audit\":true", "", 1);
    assert_ne!(json, without);
    let (old, new) = (
        from_json(without.as_bytes()).expect("loads"),
        from_json(json.as_bytes()).expect("loads"),
    );
    let policy = |snapshot: &Snapshot| snapshot.endpoints.last().cloned().flatten().expect("endpoint");
    assert!(!policy(&old).audit && policy(&new).audit);
    assert!(!policy(&old).same_content(&policy(&new)));
}

fn altered(from: &str, to: &str) -> PersistError {
    let json = String::from_utf8(to_json(&sample()).expect("json")).expect("utf-8");
    assert!(json.contains(from), "{from} not in {json}");
    from_json(json.replacen(from, to, 1).as_bytes()).expect_err("altered document")
}

#[test]
fn another_version_is_refused_by_number() {
    assert!(matches!(
        altered(&format!("\"version\":{PERSIST_VERSION}"), "\"version\":99"),
        PersistError::Version { found: 99 }
    ));
}

#[test]
fn another_version_is_named_even_when_its_fields_differ() {
    assert!(matches!(
        from_json(b"{\"version\":98,\"tables\":7}"),
        Err(PersistError::Version { found: 98 })
    ));
}

#[test]
fn every_truncation_is_refused() {
    let json = to_json(&sample()).expect("json");
    for len in 0..json.len() {
        assert!(
            from_json(&json[..len]).is_err(),
            "{len} of {} bytes load",
            json.len()
        );
    }
}

#[test]
fn a_rule_set_that_does_not_exist_is_refused() {
    let error = altered("{\"AllowHttp\":[0,0]}", "{\"AllowHttp\":[5,0]}");
    assert!(
        matches!(
            error,
            PersistError::Dangling {
                what: "rule set",
                index: 5,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_rule_that_does_not_exist_is_refused() {
    let error = altered("{\"Deny\":1}", "{\"Deny\":2}");
    assert!(
        matches!(
            error,
            PersistError::Dangling {
                direction: "egress",
                what: "rule",
                index: 2,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn broken_port_intervals_are_refused() {
    for (from, to) in [
        ("[4999,0]", "[5000,0]"),
        ("[65535,0]", "[65534,0]"),
        ("[5000,1]", "[5000,9]"),
    ] {
        let error = altered(from, to);
        assert!(
            matches!(error, PersistError::Table { .. }),
            "{from} -> {to}: {error}"
        );
    }
}

#[test]
fn the_slot_that_means_none_is_refused() {
    let error = altered("\"slot\":9", "\"slot\":65535");
    assert!(matches!(error, PersistError::Slot { .. }), "{error}");
}
