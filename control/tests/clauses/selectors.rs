//! Section 1.8: label selectors, sources of labels and what is added to peers' selectors.

use super::cluster::{ccnp, check, to_db};

/// Verdicts for shop/web, shop/api, pay/web, the world, another node and an address of an unknown pod.
fn peers(selector: &str, verdicts: [&str; 6]) {
    check(
        &[to_db(&format!("{{fromEndpoints: [{selector}]}}"))],
        &flows(verdicts),
    );
}

fn flows(verdicts: [&str; 6]) -> String {
    let from = [
        "shop/web",
        "shop/api",
        "pay/web",
        "world",
        "172.18.0.4",
        "10.1.99.9",
    ];
    let flow = |(from, verdict)| format!("{from} shop/db 1 {verdict}\n");
    from.into_iter().zip(verdicts).map(flow).collect()
}

const SHOP: [&str; 6] = ["allow", "allow", "deny", "deny", "deny", "deny"];
const SHOP_WEB: [&str; 6] = ["allow", "deny", "deny", "deny", "deny", "deny"];
const SHOP_API: [&str; 6] = ["deny", "allow", "deny", "deny", "deny", "deny"];
const PAY: [&str; 6] = ["deny", "deny", "allow", "deny", "deny", "deny"];
const PODS: [&str; 6] = ["allow", "allow", "allow", "deny", "deny", "deny"];
const NOBODY: [&str; 6] = ["deny"; 6];

#[test]
fn every_requirement_of_a_selector_must_hold() {
    for (selector, expected) in [
        ("{matchLabels: {app: web, tier: front}}", SHOP_WEB),
        ("{matchLabels: {app: web, tier: back}}", NOBODY),
        (
            "{matchLabels: {app: web}, matchExpressions: [{key: tier, operator: DoesNotExist}]}",
            NOBODY,
        ),
        (
            "{matchExpressions: [{key: app, operator: In, values: [web, api]}]}",
            SHOP,
        ),
        ("{matchExpressions: [{key: tier, operator: Exists}]}", SHOP_WEB),
    ] {
        peers(selector, expected);
    }
}

#[test]
fn not_in_and_does_not_exist_match_whoever_lacks_the_key() {
    for (selector, expected) in [
        (
            "{matchExpressions: [{key: tier, operator: NotIn, values: [front]}]}",
            SHOP_API,
        ),
        (
            "{matchExpressions: [{key: tier, operator: DoesNotExist}]}",
            SHOP_API,
        ),
        ("{matchExpressions: [{key: none, operator: DoesNotExist}]}", SHOP),
    ] {
        peers(selector, expected);
    }
}

#[test]
fn a_key_matches_labels_of_its_source_and_without_one_of_any() {
    for (selector, expected) in [
        ("{matchLabels: {app: web}}", SHOP_WEB),
        ("{matchLabels: {\"any:app\": web}}", SHOP_WEB),
        ("{matchLabels: {\"k8s:app\": web}}", SHOP_WEB),
        ("{matchLabels: {\"container:app\": web}}", NOBODY),
    ] {
        peers(selector, expected);
    }
}

#[test]
fn a_selector_of_reserved_labels_gets_nothing_added() {
    for (selector, expected) in [
        (
            "{matchLabels: {\"reserved:world\": \"\"}}",
            ["deny", "deny", "deny", "allow", "deny", "deny"],
        ),
        (
            "{matchExpressions: [{key: \"reserved:remote-node\", operator: Exists}]}",
            ["deny", "deny", "deny", "deny", "allow", "deny"],
        ),
        (
            "{matchExpressions: [{key: \"reserved:remote-node\", operator: DoesNotExist}]}",
            ["allow", "allow", "allow", "allow", "deny", "allow"],
        ),
    ] {
        peers(selector, expected);
    }
}

#[test]
fn other_namespaces_are_reached_by_naming_them_or_their_labels() {
    for (selector, expected) in [
        ("{matchLabels: {app: web}}", SHOP_WEB),
        ("{matchLabels: {io.kubernetes.pod.namespace: pay}}", PAY),
        (
            "{matchLabels: {\"k8s:io.kubernetes.pod.namespace\": pay, app: web}}",
            PAY,
        ),
        (
            "{matchExpressions: [{key: io.kubernetes.pod.namespace, operator: Exists}]}",
            PODS,
        ),
        (
            "{matchExpressions: [{key: io.kubernetes.pod.namespace, operator: NotIn, values: [shop]}]}",
            PAY,
        ),
        (
            "{matchLabels: {\"k8s:io.cilium.k8s.namespace.labels.team\": money}}",
            PAY,
        ),
        ("{matchLabels: {io.cilium.k8s.namespace.labels.team: web}}", SHOP),
        (
            "{matchLabels: {io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name: pay}}",
            PAY,
        ),
    ] {
        peers(selector, expected);
    }
}

#[test]
fn only_pods_of_the_local_cluster_are_meant_unless_another_is_named() {
    for (cluster, expected) in [("default", SHOP), ("other", NOBODY)] {
        peers(
            &format!("{{matchLabels: {{io.cilium.k8s.policy.cluster: {cluster}}}}}"),
            expected,
        );
    }
}

#[test]
fn a_service_account_is_a_label() {
    peers(
        "{matchLabels: {io.cilium.k8s.policy.serviceaccount: robot}}",
        SHOP_WEB,
    );
    peers(
        "{matchLabels: {io.cilium.k8s.policy.serviceaccount: default}}",
        SHOP_API,
    );
}

#[test]
fn a_clusterwide_policy_adds_no_namespace_but_means_pods() {
    for (selector, expected) in [
        ("{}", PODS),
        (
            "{matchLabels: {app: web}}",
            ["allow", "deny", "allow", "deny", "deny", "deny"],
        ),
        ("{matchLabels: {\"k8s:io.kubernetes.pod.namespace\": pay}}", PAY),
        (
            "{matchLabels: {\"k8s:io.cilium.k8s.namespace.labels.team\": money}}",
            PAY,
        ),
        (
            "{matchLabels: {\"reserved:world\": \"\"}}",
            ["deny", "deny", "deny", "allow", "deny", "deny"],
        ),
    ] {
        let policy = ccnp(
            "{matchLabels: {app: db}}",
            &format!("ingress: [{{fromEndpoints: [{selector}]}}]"),
        );
        check(&[policy], &flows(expected));
    }
}
