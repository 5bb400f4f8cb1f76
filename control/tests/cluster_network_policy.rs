//! What a ClusterNetworkPolicy is read as, and what refuses it.

mod document;

use document::{KCNP, faults, peers, policy, ports, selector};
use policy::Tier;
use sluice_control::rule::{PolicyKind, RuleAction};

const PODS: &str = "k8s:io.cilium.k8s.policy.cluster=main k8s:io.kubernetes.pod.namespace";

fn spec(rules: &str) -> String {
    format!("spec: {{tier: Admin, priority: 10, subject: {{namespaces: {{}}}}, {rules}}}")
}

fn egress(peer: &str) -> Vec<String> {
    let policy = policy(
        KCNP,
        &spec(&format!("egress: [{{action: Accept, to: [{peer}]}}]")),
    );
    peers(&policy.specs[0].egress.rules[0])
}

fn protocols(list: &str) -> Vec<String> {
    let rule = format!("egress: [{{action: Deny, to: [{{namespaces: {{}}}}], protocols: [{list}]}}]");
    ports(&policy(KCNP, &spec(&rule)).specs[0].egress.rules[0])
}

/// Faults of a rule, at paths below it.
fn refused(rule: &str) -> Vec<String> {
    let strip = |fault: String| {
        fault
            .strip_prefix("spec.egress[0].")
            .map(str::to_owned)
            .unwrap_or(fault)
    };
    faults(KCNP, &spec(&format!("egress: [{rule}]")))
        .into_iter()
        .map(strip)
        .collect()
}

#[test]
fn it_has_a_tier_a_priority_and_no_default_deny() {
    let policy = policy(
        KCNP,
        &spec("ingress: [{action: Accept, from: [{namespaces: {}}]}]"),
    );
    assert_eq!(
        (policy.key.kind, policy.key.namespace.as_str()),
        (PolicyKind::Cluster, "")
    );
    let spec = &policy.specs[0];
    assert_eq!((spec.tier, spec.priority), (Tier::Admin, 10));
    assert!(!spec.ingress.default_deny && !spec.egress.default_deny);
    let text = "spec: {tier: Baseline, priority: 1000, subject: {namespaces: {}}}";
    let baseline = document::policy(KCNP, text);
    assert_eq!(
        (baseline.specs[0].tier, baseline.specs[0].priority),
        (Tier::Baseline, 1000)
    );
}

#[test]
fn rules_keep_their_order_action_and_name() {
    let from = "from: [{namespaces: {}}]";
    let rules = format!(
        "ingress: [{{action: Pass, {from}}}, {{action: Deny, name: no-db, {from}}}, {{action: Accept, {from}}}]"
    );
    let policy = policy(KCNP, &spec(&rules));
    let found: Vec<_> = policy.specs[0]
        .ingress
        .rules
        .iter()
        .map(|rule| (rule.name.as_str(), rule.action))
        .collect();
    assert_eq!(
        found,
        [
            ("kcnp x ingress[0]", RuleAction::Pass),
            ("kcnp x ingress[1] no-db", RuleAction::Deny),
            ("kcnp x ingress[2]", RuleAction::Allow),
        ]
    );
}

#[test]
fn the_subject_is_pods_of_any_cluster_label_but_never_others() {
    let subject = |subject: &str| {
        let policy = policy(
            KCNP,
            &format!("spec: {{tier: Admin, priority: 0, subject: {subject}}}"),
        );
        selector(&policy.specs[0].subject)
    };
    assert_eq!(subject("{namespaces: {}}"), "k8s:io.kubernetes.pod.namespace");
    assert_eq!(
        subject("{namespaces: {matchLabels: {team: a}}}"),
        "k8s:io.cilium.k8s.namespace.labels.team=a k8s:io.kubernetes.pod.namespace"
    );
    assert_eq!(
        subject(
            "{pods: {namespaceSelector: {matchLabels: {team: a}}, podSelector: {matchLabels: {app: b}}}}"
        ),
        "k8s:app=b k8s:io.cilium.k8s.namespace.labels.team=a k8s:io.kubernetes.pod.namespace"
    );
    assert_eq!(
        subject("{pods: {podSelector: {}}}"),
        "k8s:io.kubernetes.pod.namespace"
    );
}

#[test]
fn peers_are_pods_nodes_networks_or_names() {
    assert_eq!(egress("{namespaces: {}}"), [PODS]);
    assert_eq!(
        egress("{namespaces: {matchExpressions: [{key: team, operator: NotIn, values: [a]}]}}"),
        [format!("k8s:io.cilium.k8s.namespace.labels.team!=a {PODS}")]
    );
    assert_eq!(
        egress("{pods: {namespaceSelector: {matchLabels: {team: a}}, podSelector: {matchLabels: {app: b}}}}"),
        [format!(
            "k8s:app=b k8s:io.cilium.k8s.namespace.labels.team=a {PODS}"
        )]
    );
    assert_eq!(
        egress("{nodes: {matchLabels: {pool: a}}}"),
        ["all nodes node:pool=a"]
    );
    assert_eq!(egress("{nodes: {}}"), ["all nodes "]);
    assert_eq!(
        egress("{networks: [10.0.0.0/8, \"::/0\"]}"),
        ["block 10.0.0.0/8", "block ::/0"]
    );
    assert_eq!(
        egress("{networks: [0.0.0.0/0]}, {namespaces: {}}"),
        ["block 0.0.0.0/0", PODS]
    );
}

/// Upstream's star is one or more labels, Cilium's exactly one.
#[test]
fn a_star_before_a_domain_name_is_any_depth() {
    assert_eq!(
        egress("{domainNames: [kubernetes.io, \"*.Kubernetes.io.\"]}"),
        ["name kubernetes.io.", "name **.kubernetes.io."]
    );
}

#[test]
fn protocols_are_ports_of_one_protocol_or_a_name_of_any() {
    for (entry, expected) in [
        ("{tcp: {destinationPort: {number: 80}}}", vec!["TCP 80"]),
        (
            "{udp: {destinationPort: {range: {start: 1, end: 65535}}}}",
            vec!["UDP 1-65535"],
        ),
        ("{sctp: {destinationPort: {number: 80}}}", vec!["SCTP 80"]),
        (
            "{destinationNamedPort: Web}",
            vec!["TCP web", "UDP web", "SCTP web"],
        ),
        (
            "{tcp: {destinationPort: {number: 80}}}, {udp: {destinationPort: {number: 53}}}",
            vec!["TCP 80", "UDP 53"],
        ),
    ] {
        assert_eq!(protocols(entry), expected, "{entry}");
    }
    let all = policy(
        KCNP,
        &spec("egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}]}]"),
    );
    assert_eq!(ports(&all.specs[0].egress.rules[0]), ["every"]);
}

#[test]
fn a_spec_is_checked() {
    let subject = "subject: {namespaces: {}}";
    for (spec, fault) in [
        ("", "spec: required, but missing".to_owned()),
        (
            &format!("spec: {{priority: 1, {subject}}}"),
            "spec.tier: required, but missing".to_owned(),
        ),
        (
            &format!("spec: {{tier: Admin, {subject}}}"),
            "spec.priority: required, but missing".to_owned(),
        ),
        (
            "spec: {tier: Admin, priority: 1}",
            "spec.subject: required, but missing".to_owned(),
        ),
        (
            &format!("spec: {{tier: Normal, priority: 1, {subject}}}"),
            "spec.tier: `Normal` is not one of Admin, Baseline".to_owned(),
        ),
        (
            &format!("spec: {{tier: Admin, priority: 1001, {subject}}}"),
            "spec.priority: 1001 is not from 0 to 1000".to_owned(),
        ),
        (
            &format!("spec: {{tier: Admin, priority: -1, {subject}}}"),
            "spec.priority: -1 is not from 0 to 1000".to_owned(),
        ),
        (
            "spec: {tier: Admin, priority: 1, subject: {}}",
            "spec.subject: must have exactly one field".to_owned(),
        ),
        (
            "spec: {tier: Admin, priority: 1, subject: {namespaces: {}, pods: {podSelector: {}}}}",
            "spec.subject: must have exactly one field".to_owned(),
        ),
        (
            "spec: {tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {}}}}",
            "spec.subject.pods.podSelector: required, but missing".to_owned(),
        ),
        (
            &format!("spec: {{tier: Admin, priority: 1, {subject}, egres: []}}"),
            "spec.egres: unknown field".to_owned(),
        ),
        (
            &format!(
                "spec: {{tier: Admin, priority: 1, {subject}, ingress: [{}]}}",
                vec!["{action: Deny, from: [{namespaces: {}}]}"; 26].join(", ")
            ),
            "spec.ingress: has 26 entries, at most 25 are allowed".to_owned(),
        ),
    ] {
        assert_eq!(faults(KCNP, spec), [fault], "{spec}");
    }
}

#[test]
fn rules_and_peers_are_checked() {
    let to = "to: [{namespaces: {}}]";
    for (rule, fault) in [
        (format!("{{{to}}}"), "action: required, but missing"),
        (
            format!("{{action: Allow, {to}}}"),
            "action: `Allow` is not one of Accept, Deny, Pass",
        ),
        ("{action: Deny}".to_owned(), "to: required, but missing"),
        (
            "{action: Deny, to: []}".to_owned(),
            "to: has 0 entries, at least 1 are needed",
        ),
        (
            "{action: Deny, to: [{}]}".to_owned(),
            "to[0]: must have exactly one field",
        ),
        (
            "{action: Deny, to: [{namespaces: {}, networks: [10.0.0.0/8]}]}".to_owned(),
            "to[0]: must have exactly one field",
        ),
        (
            "{action: Deny, to: [{networks: []}]}".to_owned(),
            "to[0].networks: has 0 entries, at least 1 are needed",
        ),
        (
            "{action: Deny, to: [{networks: [10.0.0.1]}]}".to_owned(),
            "to[0].networks[0]: `10.0.0.1` is not an address with prefix length",
        ),
        (
            "{action: Deny, to: [{domainNames: [a.io]}]}".to_owned(),
            "to[0].domainNames: is only for rules with action Accept",
        ),
        (
            "{action: Pass, to: [{domainNames: [a.io]}]}".to_owned(),
            "to[0].domainNames: is only for rules with action Accept",
        ),
        (
            "{action: Deny, to: [{namespaces: {matchExpressions: [{key: a, operator: In}]}}]}".to_owned(),
            "to[0].namespaces.matchExpressions[0]: values must not be empty with operator In or NotIn",
        ),
        (
            format!("{{action: Deny, name: {}, {to}}}", "a".repeat(101)),
            "name: has 101 characters, at most 100 are allowed",
        ),
    ] {
        assert_eq!(refused(&rule), [fault], "{rule}");
    }
    for name in ["*", "*.", "io", "a.*.io", "*a.io", "-a.io", "a..io", "a b.io"] {
        assert_eq!(
            refused(&format!(
                "{{action: Accept, to: [{{domainNames: [\"{name}\"]}}]}}"
            )),
            [format!(
                "to[0].domainNames[0]: `{name}` is not a domain name, or one after `*.`"
            )],
        );
    }
}

/// What stands in an Accept rule could be ignored, but a Deny or Pass rule without one of its peers would let traffic through.
#[test]
fn a_peer_of_an_unknown_type_refuses_the_object() {
    for action in ["Accept", "Deny", "Pass"] {
        assert_eq!(
            refused(&format!(
                "{{action: {action}, to: [{{namespaces: {{}}}}, {{services: {{}}}}]}}"
            )),
            ["to[1].services: unknown field"],
            "{action}"
        );
    }
    assert_eq!(
        faults(
            KCNP,
            &spec("ingress: [{action: Deny, from: [{networks: [10.0.0.0/8]}]}]")
        ),
        ["spec.ingress[0].from[0].networks: unknown field"]
    );
}

#[test]
fn protocols_are_checked() {
    let protocol = |entry: &str| {
        let strip = |fault: String| {
            fault
                .strip_prefix("protocols[0]")
                .map(str::to_owned)
                .unwrap_or(fault)
        };
        let faults = refused(&format!(
            "{{action: Deny, to: [{{namespaces: {{}}}}], protocols: [{entry}]}}"
        ));
        faults.into_iter().map(strip).collect::<Vec<_>>()
    };
    for (entry, fault) in [
        ("{}", ": must have exactly one field"),
        ("{tcp: {}}", ".tcp: must have exactly one field"),
        (
            "{tcp: {destinationPort: {}}}",
            ".tcp.destinationPort: must have exactly one field",
        ),
        (
            "{tcp: {destinationPort: {number: 0}}}",
            ".tcp.destinationPort.number: 0 is not from 1 to 65535",
        ),
        (
            "{tcp: {destinationPort: {range: {start: 9, end: 9}}}}",
            ".tcp.destinationPort.range.end: `9` is not greater than `start`",
        ),
        (
            "{tcp: {destinationPort: {range: {start: 9}}}}",
            ".tcp.destinationPort.range.end: required, but missing",
        ),
        (
            "{destinationNamedPort: \"\"}",
            ".destinationNamedPort: must not be empty",
        ),
        ("{icmp: {}}", ".icmp: unknown field"),
    ] {
        assert_eq!(protocol(entry), [fault], "{entry}");
    }
    assert_eq!(
        refused("{action: Deny, to: [{namespaces: {}}], protocols: []}"),
        ["protocols: has 0 entries, at least 1 are needed"]
    );
    for peer in ["networks: [10.0.0.0/8]", "nodes: {}"] {
        assert_eq!(
            refused(&format!(
                "{{action: Deny, to: [{{{peer}}}], protocols: [{{destinationNamedPort: web}}]}}"
            )),
            ["protocols[0].destinationNamedPort: cannot be combined with nodes, networks or domainNames"]
        );
    }
}
