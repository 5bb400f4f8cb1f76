//! What the peers of a CiliumNetworkPolicy are read as, and what Cilium adds to their selectors.

mod document;

use document::{CNP, peers, policy, ports, rule, selector};
use sluice_control::rule::RuleAction;

const OWN: &str = "k8s:io.cilium.k8s.policy.cluster=main k8s:io.kubernetes.pod.namespace=db";

/// Peers of `egress: [item]`.
fn egress(item: &str) -> Vec<String> {
    peers(&rule(CNP, "egress", item))
}

const NOBODY: [&str; 0] = [];

#[test]
fn a_peer_selector_is_limited_to_the_namespace_and_the_cluster() {
    for (labels, expected) in [
        ("{}", OWN.to_owned()),
        ("{matchLabels: {app: a}}", format!("any:app=a {OWN}")),
        ("{matchLabels: {\"any:app\": a}}", format!("any:app=a {OWN}")),
        (
            "{matchLabels: {\"k8s:app\": a}}",
            "k8s:app=a k8s:io.cilium.k8s.policy.cluster=main k8s:io.kubernetes.pod.namespace=db".to_owned(),
        ),
        (
            "{matchExpressions: [{key: app, operator: NotIn, values: [a, b]}, {key: tier, operator: DoesNotExist}]}",
            format!("any:app!=a|b !any:tier {OWN}"),
        ),
    ] {
        assert_eq!(
            egress(&format!("{{toEndpoints: [{labels}]}}")),
            [expected],
            "{labels}"
        );
    }
}

#[test]
fn a_selector_that_names_a_namespace_or_a_cluster_is_taken_as_it_is() {
    let cluster = "k8s:io.cilium.k8s.policy.cluster=main";
    for (labels, expected) in [
        (
            "{matchLabels: {\"k8s:io.kubernetes.pod.namespace\": web}}",
            format!("{cluster} k8s:io.kubernetes.pod.namespace=web"),
        ),
        (
            "{matchLabels: {io.kubernetes.pod.namespace: web}}",
            format!("any:io.kubernetes.pod.namespace=web {cluster}"),
        ),
        (
            "{matchExpressions: [{key: \"k8s:io.kubernetes.pod.namespace\", operator: Exists}]}",
            format!("{cluster} k8s:io.kubernetes.pod.namespace"),
        ),
        (
            "{matchLabels: {\"k8s:io.cilium.k8s.namespace.labels.team\": a}}",
            format!("k8s:io.cilium.k8s.namespace.labels.team=a {cluster}"),
        ),
        (
            "{matchLabels: {io.cilium.k8s.policy.cluster: other}}",
            "any:io.cilium.k8s.policy.cluster=other k8s:io.kubernetes.pod.namespace=db".to_owned(),
        ),
    ] {
        assert_eq!(
            egress(&format!("{{toEndpoints: [{labels}]}}")),
            [expected],
            "{labels}"
        );
    }
}

#[test]
fn a_selector_of_reserved_labels_is_not_limited() {
    assert_eq!(
        egress("{toEndpoints: [{matchLabels: {\"reserved:host\": \"\"}}]}"),
        ["reserved:host="]
    );
    assert_eq!(
        egress("{toEndpoints: [{matchExpressions: [{key: \"reserved:remote-node\", operator: Exists}]}]}"),
        ["reserved:remote-node"]
    );
}

#[test]
fn the_subject_is_always_in_the_namespace_of_the_policy() {
    let subject = |labels: &str| {
        let policy = policy(
            CNP,
            &format!("spec: {{endpointSelector: {labels}, ingress: [{{}}]}}"),
        );
        selector(&policy.specs[0].subject)
    };
    assert_eq!(subject("{}"), "k8s:io.kubernetes.pod.namespace=db");
    assert_eq!(
        subject("{matchLabels: {app: a, \"k8s:io.kubernetes.pod.namespace\": web}}"),
        "any:app=a k8s:io.kubernetes.pod.namespace=db"
    );
    assert_eq!(
        subject("{matchExpressions: [{key: io.kubernetes.pod.namespace, operator: Exists}]}"),
        "k8s:io.kubernetes.pod.namespace=db"
    );
    assert_eq!(
        subject("{matchLabels: {\"reserved:host\": \"\"}}"),
        "k8s:io.kubernetes.pod.namespace=db reserved:host="
    );
}

#[test]
fn entities_stand_for_what_cilium_says() {
    let entity = |name: &str| egress(&format!("{{toEntities: [{name}]}}"));
    assert_eq!(entity("all"), ["anyone"]);
    assert_eq!(entity("none"), NOBODY);
    for name in [
        "world",
        "host",
        "remote-node",
        "kube-apiserver",
        "ingress",
        "init",
        "health",
        "unmanaged",
    ] {
        assert_eq!(entity(name), [format!("reserved:{name}")]);
    }
    let reserved = [
        "reserved:host",
        "reserved:remote-node",
        "reserved:init",
        "reserved:ingress",
        "reserved:health",
        "reserved:unmanaged",
        "reserved:kube-apiserver",
    ];
    for (name, pods) in [
        ("cluster", "k8s:io.cilium.k8s.policy.cluster=main"),
        ("cluster-mesh", "k8s:io.cilium.k8s.policy.cluster"),
    ] {
        let found = entity(name);
        assert_eq!(found[..7], reserved, "{name}");
        assert_eq!(found[7..], [pods], "{name}");
    }
    assert_eq!(
        egress("{toEntities: [world, host]}"),
        ["reserved:world", "reserved:host"]
    );
    assert_eq!(egress("{toEntities: [world, all]}"), ["anyone"]);
}

#[test]
fn prefixes_stand_for_addresses_outside_the_cluster() {
    assert_eq!(
        egress("{toCIDR: [10.1.2.3/8, \"2001:db8::1/32\", 0.0.0.0/0]}"),
        ["cidr 10.0.0.0/8", "cidr 2001:db8::/32", "cidr 0.0.0.0/0"]
    );
    assert_eq!(
        egress("{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.96.0.0/12, 10.0.0.0/8]}, {cidr: 192.0.2.1/32}]}"),
        ["cidr 10.0.0.0/8 -10.96.0.0/12 -10.0.0.0/8", "cidr 192.0.2.1/32"]
    );
}

#[test]
fn groups_of_prefixes_are_named_or_selected() {
    assert_eq!(
        egress("{toCIDRSet: [{cidrGroupRef: partners.eu, except: [10.0.0.0/24]}]}"),
        ["group partners.eu -10.0.0.0/24"]
    );
    assert_eq!(
        egress("{toCIDRSet: [{cidrGroupSelector: {matchLabels: {tier: a}}}]}"),
        ["groups cidrgroup:tier=a"]
    );
    assert_eq!(egress("{toCIDRSet: [{cidrGroupSelector: {}}]}"), ["groups "]);
}

#[test]
fn services_are_named_or_selected() {
    for (service, expected) in [
        ("{k8sService: {serviceName: a, namespace: web}}", "service web/a"),
        ("{k8sService: {serviceName: a}}", "service */a"),
        ("{k8sService: {serviceName: a, namespace: \"\"}}", "service */a"),
        (
            "{k8sServiceSelector: {selector: {matchLabels: {app: a}}, namespace: web}}",
            "services web/k8s:app=a",
        ),
        (
            "{k8sServiceSelector: {selector: {matchLabels: {\"k8s:app\": a}}}}",
            "services */k8s:app=a",
        ),
    ] {
        assert_eq!(
            egress(&format!("{{toServices: [{service}]}}")),
            [expected],
            "{service}"
        );
    }
    assert_eq!(
        egress("{toServices: [{k8sService: {serviceName: a}, k8sServiceSelector: {selector: {}}}]}"),
        ["service */a", "services */"]
    );
}

#[test]
fn nodes_are_selected_by_their_labels_and_never_the_local_one() {
    assert_eq!(
        egress("{toNodes: [{matchLabels: {node-role.kubernetes.io/control-plane: \"\"}}]}"),
        ["other nodes node:node-role.kubernetes.io/control-plane="]
    );
    assert_eq!(
        peers(&rule(CNP, "ingress", "{fromNodes: [{}]}")),
        ["other nodes "]
    );
}

#[test]
fn names_are_read_in_lower_case_with_their_last_dot() {
    assert_eq!(
        egress(
            "{toFQDNs: [{matchName: API.example.com}, {matchPattern: \"**.Example.com.\"}, {matchPattern: \"*\"}]}"
        ),
        ["name api.example.com.", "name **.example.com.", "name *."]
    );
}

/// Reference: an empty list selects nobody. For toFQDNs and toServices, Cilium's engine takes it for everybody.
#[test]
fn an_empty_list_of_peers_is_nobody_whatever_its_kind() {
    for list in [
        "toEndpoints",
        "toEntities",
        "toCIDR",
        "toCIDRSet",
        "toNodes",
        "toServices",
        "toFQDNs",
    ] {
        let item = format!("{{{list}: [], toPorts: [{{ports: [{{port: \"80\", protocol: TCP}}]}}]}}");
        let rule = rule(CNP, "egress", &item);
        assert_eq!(peers(&rule), NOBODY, "{list}");
        assert_eq!(ports(&rule), ["TCP 80"], "{list}");
        assert_eq!(egress(&format!("{{{list}: []}}")), NOBODY, "{list}");
    }
}

#[test]
fn an_item_without_peers_is_anyone_on_its_ports_and_nobody_without() {
    assert_eq!(egress("{toPorts: [{ports: [{port: \"80\"}]}]}"), ["anyone"]);
    assert_eq!(egress("{icmps: [{fields: [{type: 8}]}]}"), ["anyone"]);
    assert_eq!(egress("{toPorts: [{}]}"), ["anyone"]);
    for item in ["{}", "{toPorts: []}", "{icmps: []}", "{toRequires: []}"] {
        assert_eq!(egress(item), NOBODY, "{item}");
    }
}

#[test]
fn a_direction_with_any_item_is_denied_by_default_unless_the_spec_says_no() {
    for (lists, ingress, egress) in [
        ("ingress: [{}]", true, false),
        ("ingressDeny: [{}]", true, false),
        ("egress: [{}], ingress: []", false, true),
        ("egressDeny: [{}]", false, true),
        ("egress: [{}], enableDefaultDeny: {egress: false}", false, false),
        ("egress: [{}], enableDefaultDeny: {ingress: true}", true, true),
        ("egress: [{}], enableDefaultDeny: {}", false, true),
    ] {
        let policy = policy(CNP, &format!("spec: {{endpointSelector: {{}}, {lists}}}"));
        let spec = &policy.specs[0];
        assert_eq!(
            (spec.ingress.default_deny, spec.egress.default_deny),
            (ingress, egress),
            "{lists}"
        );
    }
}

#[test]
fn allow_and_deny_lists_are_rules_of_their_direction() {
    let spec = "{endpointSelector: {}, ingress: [{}, {fromEntities: [all]}], ingressDeny: [{fromEntities: [world]}], \
                egressDeny: [{toEntities: [all]}]}";
    let policy = policy(CNP, &format!("spec: {spec}\nspecs: [{spec}]"));
    assert_eq!(policy.specs.len(), 2, "both apply");
    for (spec, place) in policy.specs.iter().zip(["", "specs[0]."]) {
        let ingress = spec
            .ingress
            .rules
            .iter()
            .map(|rule| (rule.name.clone(), rule.action));
        assert_eq!(
            ingress.collect::<Vec<_>>(),
            [
                (format!("cnp db/x {place}ingress[0]"), RuleAction::Allow),
                (format!("cnp db/x {place}ingress[1]"), RuleAction::Allow),
                (format!("cnp db/x {place}ingressDeny[0]"), RuleAction::Deny),
            ]
        );
        assert_eq!(
            spec.egress.rules[0].name,
            format!("cnp db/x {place}egressDeny[0]")
        );
        assert_eq!(spec.egress.rules[0].action, RuleAction::Deny);
    }
}

#[test]
fn labels_and_description_change_nothing_and_the_log_value_is_every_rules() {
    let text = "spec: {endpointSelector: {}, ingress: [{}], egressDeny: [{}], description: text, \
                labels: [{key: a, value: b, source: c}, {key: d}], log: {value: team-a}}";
    let logged = policy(CNP, text);
    let rules = logged.specs[0]
        .ingress
        .rules
        .iter()
        .chain(&logged.specs[0].egress.rules);
    assert!(rules.clone().count() == 2 && rules.clone().all(|rule| rule.log.as_deref() == Some("team-a")));
    let silent = policy(
        CNP,
        "spec: {endpointSelector: {}, ingress: [{}], log: {value: \"\"}}",
    );
    assert_eq!(silent.specs[0].ingress.rules[0].log, None);
}
