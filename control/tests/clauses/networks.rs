//! Sections 1.3 and 2.8: peers by prefix, CIDR group, Service, node and name.

use super::cluster::{ccnp, check, from_db, group, on_db, to_db};

#[test]
fn a_prefix_is_its_part_of_the_outside_and_never_pods_or_nodes() {
    check(
        &[from_db("{toCIDR: [0.0.0.0/1, 128.0.0.0/1]}")],
        "shop/db 203.0.113.9  1 allow
         shop/db 198.51.100.7 1 allow
         shop/db shop/web     1 deny
         shop/db host         1 deny
         shop/db 172.18.0.2   1 deny
         shop/db 172.18.0.4   1 deny
         shop/db 172.18.0.3   1 deny
         shop/db 10.1.99.9    1 deny
         shop/db 2001:db8::9  1 deny",
    );
    // Not even by their very addresses.
    check(
        &[from_db("{toCIDR: [10.1.0.3/32, 172.18.0.4/32, 10.1.99.9/32]}")],
        "shop/db shop/web   1 deny
         shop/db 172.18.0.4 1 deny
         shop/db 10.1.99.9  1 deny",
    );
}

#[test]
fn a_denied_prefix_does_not_deny_pods_or_nodes() {
    check(
        &[on_db(
            "egress: [{toEntities: [all]}], egressDeny: [{toCIDR: [0.0.0.0/0]}]",
        )],
        "shop/db shop/web    1 allow
         shop/db 172.18.0.4  1 allow
         shop/db 203.0.113.9 1 deny-rule
         shop/db 2001:db8::9 1 allow",
    );
}

/// Allows of everybody cover an address of the pod CIDRs at which no pod is known; whether it is outside, nobody can say.
#[test]
fn who_is_not_known_at_an_address_of_the_pod_cidrs_is_denied_what_any_part_of_them_is() {
    let groups = [
        group("pods", "192.0.2.0/24, 10.1.128.0/17"),
        group("others", "192.0.2.0/24"),
    ];
    for (denied, unknown) in [
        ("{toCIDR: [0.0.0.0/0]}", "deny-rule"),
        ("{toCIDR: [10.0.0.0/8]}", "deny-rule"),
        ("{toCIDR: [10.1.0.0/16]}", "deny-rule"),
        ("{toCIDR: [10.1.7.7/32]}", "deny-rule"),
        ("{toCIDR: [\"::/0\"]}", "deny-rule"),
        ("{toCIDR: [10.2.0.0/16]}", "allow"),
        (
            "{toCIDRSet: [{cidr: 0.0.0.0/0, except: [10.1.0.0/17]}]}",
            "deny-rule",
        ),
        ("{toCIDRSet: [{cidr: 0.0.0.0/0, except: [10.0.0.0/8]}]}", "allow"),
        (
            "{toCIDRSet: [{cidr: 10.1.7.0/24, except: [10.1.7.0/25, 10.1.7.128/25]}]}",
            "deny-rule",
        ),
        ("{toCIDRSet: [{cidrGroupRef: pods}]}", "deny-rule"),
        (
            "{toCIDRSet: [{cidrGroupSelector: {matchLabels: {tier: partners}}}]}",
            "deny-rule",
        ),
        (
            "{toCIDRSet: [{cidrGroupRef: pods, except: [10.1.0.0/16]}]}",
            "allow",
        ),
        ("{toCIDRSet: [{cidrGroupRef: others}]}", "allow"),
        ("{toEntities: [world]}", "deny-rule"),
        (
            "{toEndpoints: [{matchLabels: {\"reserved:world\": \"\"}}]}",
            "deny-rule",
        ),
        ("{toEntities: [remote-node]}", "allow"),
        ("{toEndpoints: [{}]}", "allow"),
    ] {
        for allowed in ["all", "cluster", "unmanaged"] {
            let egress = on_db(&format!(
                "egress: [{{toEntities: [{allowed}]}}], egressDeny: [{denied}]"
            ));
            let ingress = egress
                .replace("egress", "ingress")
                .replace("{to", "{from")
                .replace("on-db", "to-db");
            let [pods, others] = &groups;
            check(
                &[egress.as_str(), &ingress, pods, others],
                &format!("shop/db 10.1.99.9 1 {unknown}\n10.1.99.9 shop/db 1 {unknown}"),
            );
            check(
                &[pods.as_str(), others, &ingress, &egress],
                &format!("shop/db fd00::99 1 {unknown}\nfd00::99 shop/db 1 {unknown}"),
            );
        }
    }
}

#[test]
fn who_is_not_known_is_denied_prefixes_that_become_parts_of_a_pod_cidr() {
    let policy = on_db("egress: [{toEntities: [all]}], egressDeny: [{toCIDR: [10.9.0.0/24]}]");
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: node-3, labels: {zone: b}}\nspec: {podCIDRs: [10.9.0.0/16]}\n";
    check(&[policy.as_str()], "shop/db 10.1.99.9 1 allow");
    check(&[policy.as_str(), node], "shop/db 10.9.99.9 1 deny-rule");
}

#[test]
fn every_prefix_that_covers_an_address_counts() {
    check(
        &[on_db(
            "egress: [{toCIDR: [192.0.0.0/8], toPorts: [{ports: [{port: \"1\"}]}]}, {toCIDR: [192.0.2.0/24], toPorts: \
             [{ports: [{port: \"2\"}]}]}, {toEntities: [world], toPorts: [{ports: [{port: \"3\"}]}]}]",
        )],
        "shop/db 192.0.2.1   1 allow
         shop/db 192.0.2.1   2 allow
         shop/db 192.0.2.1   3 allow
         shop/db 192.0.2.1   4 deny
         shop/db 192.1.1.1   1 allow
         shop/db 192.1.1.1   2 deny
         shop/db 203.0.113.9 1 deny
         shop/db 203.0.113.9 3 allow",
    );
}

#[test]
fn an_exception_is_of_its_own_item_only() {
    let set = "{toCIDRSet: [{cidr: 192.0.2.0/24, except: [192.0.2.0/25, 192.0.2.200/32]}]}";
    check(
        &[from_db(set)],
        "shop/db 192.0.2.1   1 deny
         shop/db 192.0.2.200 1 deny
         shop/db 192.0.2.201 1 allow",
    );
    check(
        &[on_db(&format!("egress: [{set}, {{toCIDR: [192.0.2.1/32]}}]"))],
        "shop/db 192.0.2.1   1 allow
         shop/db 192.0.2.2   1 deny
         shop/db 192.0.2.200 1 deny",
    );
}

#[test]
fn a_group_of_prefixes_is_named_or_selected_and_one_that_is_not_there_is_nobody() {
    let groups = [
        group("partners", "192.0.2.0/24"),
        group("more", "203.0.113.0/24, 10.1.0.0/16"),
    ];
    let verdicts = |set: &str, flows: &str| {
        let policy = from_db(&format!("{{toCIDRSet: [{set}]}}"));
        let [first, second] = groups.clone();
        // The groups come before the policy and after it.
        check(&[first.clone(), second.clone(), policy.clone()], flows);
        check(&[policy, first, second], flows);
    };
    verdicts(
        "{cidrGroupRef: partners}",
        "shop/db 192.0.2.1   1 allow
         shop/db 203.0.113.1 1 deny",
    );
    verdicts(
        "{cidrGroupSelector: {matchLabels: {tier: partners}}}",
        "shop/db 192.0.2.1   1 allow
         shop/db 203.0.113.1 1 allow
         shop/db shop/web    1 deny",
    );
    verdicts(
        "{cidrGroupRef: partners, except: [192.0.2.0/25]}",
        "shop/db 192.0.2.1   1 deny
         shop/db 192.0.2.129 1 allow",
    );
    verdicts("{cidrGroupRef: missing}", "shop/db 192.0.2.1 1 deny");
    verdicts(
        "{cidrGroupSelector: {matchLabels: {tier: none}}}",
        "shop/db 192.0.2.1 1 deny",
    );
}

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: front, namespace: shop, labels: {kind: in}}
spec: {clusterIP: 10.96.0.7, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: partner, namespace: shop, labels: {kind: out}}
spec: {clusterIP: 10.96.0.8, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: front-1, namespace: shop, labels: {kubernetes.io/service-name: front}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.1.0.3]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: partner-1, namespace: shop, labels: {kubernetes.io/service-name: partner}}
addressType: IPv4
ports: [{port: 8443}]
endpoints: [{addresses: [192.0.2.1]}, {addresses: [10.1.0.4]}]
";

/// By the Service's selector where it has one, by its outside addresses where it has none.
#[test]
fn a_service_is_its_pods_or_the_addresses_outside_that_are_written_for_it() {
    for (service, web, partner) in [
        (
            "{k8sService: {serviceName: front, namespace: shop}}",
            "allow",
            "deny",
        ),
        ("{k8sService: {serviceName: front}}", "allow", "deny"),
        (
            "{k8sService: {serviceName: front, namespace: pay}}",
            "deny",
            "deny",
        ),
        (
            "{k8sService: {serviceName: partner, namespace: shop}}",
            "deny",
            "allow",
        ),
        (
            "{k8sServiceSelector: {selector: {matchLabels: {kind: in}}, namespace: shop}}",
            "allow",
            "deny",
        ),
        (
            "{k8sServiceSelector: {selector: {matchLabels: {kind: out}}}}",
            "deny",
            "allow",
        ),
        ("{k8sServiceSelector: {selector: {}}}", "allow", "allow"),
    ] {
        let policy = from_db(&format!("{{toServices: [{service}]}}"));
        let flows = format!(
            "shop/db shop/web    8080 {web}
             shop/db 192.0.2.1   8443 {partner}
             shop/db shop/api    8443 deny
             shop/db pay/web     8080 deny
             shop/db 203.0.113.9 8443 deny"
        );
        check(&[SERVICES, &policy], &flows);
        check(&[&policy, SERVICES], &flows);
    }
}

#[test]
fn ports_beside_a_service_are_its_backends_and_not_its_own() {
    let policy = |port: u16| {
        from_db(&format!(
            "{{toServices: [{{k8sService: {{serviceName: front, namespace: shop}}}}], toPorts: [{{ports: [{{port: \"{port}\"}}]}}]}}"
        ))
    };
    check(
        &[SERVICES, &policy(8080)],
        "shop/db 10.96.0.7 80   allow
         shop/db shop/web  8080 allow
         shop/db shop/web  80   deny",
    );
    check(&[SERVICES, &policy(80)], "shop/db 10.96.0.7 80 deny");
}

#[test]
fn a_rule_that_names_a_cluster_ip_never_matches() {
    check(
        &[SERVICES, &from_db("{toCIDR: [10.96.0.7/32]}")],
        "shop/db 10.96.0.7 80 deny",
    );
}

#[test]
fn services_are_followed_when_their_selector_changes() {
    let changed = "apiVersion: v1\nkind: Service\nmetadata: {name: front, namespace: shop, labels: {kind: in}}\n\
                   spec: {clusterIP: 10.96.0.7, selector: {app: api}, ports: [{port: 80, targetPort: 8080}]}\n";
    let policy = from_db("{toServices: [{k8sService: {serviceName: front, namespace: shop}}]}");
    check(
        &[SERVICES, &policy, changed],
        "shop/db shop/api 1 allow
         shop/db shop/web 1 deny",
    );
}

#[test]
fn services_can_be_denied() {
    check(
        &[
            SERVICES,
            &on_db(
                "egress: [{toEntities: [all]}], egressDeny: [{toServices: [{k8sService: {serviceName: front}}]}]",
            ),
        ],
        "shop/db shop/web 8080 deny-rule
         shop/db shop/api 8080 allow",
    );
}

#[test]
fn nodes_are_other_nodes_by_their_labels() {
    for (selector, verdicts) in [
        ("{}", ["allow", "allow"]),
        ("{matchLabels: {zone: a}}", ["allow", "deny"]),
        ("{matchLabels: {\"node:zone\": b}}", ["deny", "allow"]),
        (
            "{matchExpressions: [{key: role, operator: Exists}]}",
            ["allow", "deny"],
        ),
        ("{matchLabels: {\"k8s:zone\": a}}", ["deny", "deny"]),
    ] {
        let [second, third] = verdicts;
        check(
            &[from_db(&format!("{{toNodes: [{selector}]}}"))],
            &format!(
                "shop/db 172.18.0.3 1 {second}
                 shop/db 172.18.0.4 1 {third}
                 shop/db 192.0.2.4  1 {third}
                 shop/db host       1 deny
                 shop/db shop/web   1 deny
                 shop/db world      1 deny"
            ),
        );
        check(
            &[to_db(&format!("{{fromNodes: [{selector}]}}"))],
            &format!(
                "172.18.0.3 shop/db 1 {second}
                 172.18.0.4 shop/db 1 {third}"
            ),
        );
    }
}

/// Until names are learnt from DNS, nobody is behind them.
#[test]
fn names_are_nobody_and_their_rule_asks_for_default_deny() {
    check(
        &[from_db(
            "{toFQDNs: [{matchName: example.com}, {matchPattern: \"*\"}], toPorts: [{ports: [{port: \"443\", protocol: TCP}], \
             rules: {http: [{}]}}]}",
        )],
        "shop/db world       443 deny
         shop/db shop/web    443 deny
         shop/db 203.0.113.9 443 deny",
    );
}

#[test]
fn prefixes_and_groups_of_a_clusterwide_policy_are_the_outside_too() {
    let policy = ccnp(
        "{}",
        "egress: [{toCIDR: [0.0.0.0/0]}, {toEntities: [cluster]}], egressDeny: [{toCIDR: [169.254.169.254/32]}]",
    );
    check(
        &[policy],
        "shop/db 169.254.169.254 80  deny-rule
         pay/web 203.0.113.9     443 allow
         pay/web shop/db         443 allow",
    );
}
