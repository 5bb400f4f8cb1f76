//! A CiliumClusterwideNetworkPolicy is a CiliumNetworkPolicy without a namespace.

mod document;

use document::{CCNP, peers, policy, rule, selector};
use sluice_control::rule::PolicyKind;

const PODS: &str = "k8s:io.cilium.k8s.policy.cluster=main k8s:io.kubernetes.pod.namespace";

#[test]
fn it_has_a_name_and_no_namespace() {
    let policy = policy(CCNP, "spec: {endpointSelector: {}, ingress: [{}]}");
    assert_eq!(policy.key.kind, PolicyKind::CiliumClusterwide);
    assert_eq!(policy.key.namespace, "");
    assert_eq!(policy.specs[0].ingress.rules[0].name, "ccnp x ingress[0]");
}

#[test]
fn nothing_is_added_to_the_subject() {
    let subject = |labels: &str| {
        let policy = policy(
            CCNP,
            &format!("spec: {{endpointSelector: {labels}, ingress: [{{}}]}}"),
        );
        selector(&policy.specs[0].subject)
    };
    assert_eq!(subject("{}"), "");
    assert_eq!(subject("{matchLabels: {app: a}}"), "any:app=a");
    assert_eq!(
        subject("{matchLabels: {\"k8s:io.kubernetes.pod.namespace\": web}}"),
        "k8s:io.kubernetes.pod.namespace=web"
    );
}

#[test]
fn peers_are_pods_of_every_namespace_of_the_cluster() {
    let endpoints = |labels: &str| peers(&rule(CCNP, "ingress", &format!("{{fromEndpoints: [{labels}]}}")));
    assert_eq!(endpoints("{}"), [PODS]);
    assert_eq!(
        endpoints("{matchLabels: {app: a}}"),
        [format!("any:app=a {PODS}")]
    );
    assert_eq!(
        endpoints("{matchLabels: {\"k8s:io.kubernetes.pod.namespace\": web}}"),
        [format!("{PODS}=web")]
    );
    assert_eq!(
        endpoints("{matchLabels: {\"k8s:io.cilium.k8s.namespace.labels.team\": a}}"),
        [format!("k8s:io.cilium.k8s.namespace.labels.team=a {PODS}")]
    );
    assert_eq!(
        endpoints("{matchLabels: {\"reserved:host\": \"\"}}"),
        ["reserved:host="]
    );
}

#[test]
fn peers_of_endpoints_without_labels_are_not_limited_to_pods() {
    let text =
        "spec: {endpointSelector: {matchLabels: {\"reserved:init\": \"\"}}, egress: [{toEndpoints: [{}]}]}";
    let policy = policy(CCNP, text);
    assert_eq!(
        peers(&policy.specs[0].egress.rules[0]),
        ["k8s:io.cilium.k8s.policy.cluster=main"]
    );
}
