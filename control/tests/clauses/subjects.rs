//! Sections 1.2 and 1.8: whom a policy is about.

use super::cluster::{ccnp, check, cnp};

#[test]
fn an_empty_subject_is_the_namespace_in_a_cnp_and_every_pod_in_a_ccnp() {
    check(
        &[cnp("all", "{}", "ingress: [{}]")],
        "world    shop/db  1 deny
         world    shop/web 1 deny
         world    pay/web  1 allow
         world    host     1 allow",
    );
    check(
        &[ccnp("{}", "ingress: [{}]")],
        "world    shop/db   1 deny
         world    shop/web  1 deny
         world    pay/web   1 deny
         world    host      1 allow
         world    pay/agent 1 allow",
    );
}

#[test]
fn a_cnp_is_about_its_own_namespace_whatever_its_selector_says() {
    for subject in [
        "{matchLabels: {app: web, io.kubernetes.pod.namespace: pay}}",
        "{matchLabels: {app: web, \"k8s:io.kubernetes.pod.namespace\": pay}}",
        "{matchLabels: {app: web}, matchExpressions: [{key: io.kubernetes.pod.namespace, operator: Exists}]}",
    ] {
        check(
            &[cnp("p", subject, "ingress: [{}]")],
            "world pay/web  1 allow
             world shop/web 1 deny",
        );
    }
}

#[test]
fn a_cnp_never_selects_reserved_identities() {
    check(
        &[cnp(
            "p",
            "{matchLabels: {\"reserved:host\": \"\"}}",
            "egress: [{}], ingress: [{}]",
        )],
        "host     shop/db 1 allow
         shop/db  host    1 allow
         shop/web shop/db 1 allow",
    );
}

#[test]
fn a_ccnp_selects_by_namespace_service_account_and_namespace_labels() {
    for (subject, verdicts) in [
        (
            "{matchLabels: {io.kubernetes.pod.namespace: pay}}",
            ["allow", "allow", "deny"],
        ),
        (
            "{matchLabels: {io.cilium.k8s.policy.serviceaccount: robot}}",
            ["allow", "deny", "allow"],
        ),
        (
            "{matchLabels: {io.cilium.k8s.namespace.labels.team: web}}",
            ["deny", "deny", "allow"],
        ),
        (
            "{matchExpressions: [{key: app, operator: NotIn, values: [web]}]}",
            ["deny", "allow", "allow"],
        ),
    ] {
        let [db, web, pay] = verdicts;
        check(
            &[ccnp(subject, "ingress: [{}]")],
            &format!("world shop/db 1 {db}\nworld shop/web 1 {web}\nworld pay/web 1 {pay}"),
        );
    }
}

/// No pod of the host's network is a subject, whatever its labels.
#[test]
fn pods_of_the_hosts_network_are_no_subjects() {
    check(
        &[ccnp("{matchLabels: {app: web}}", "egress: [{}]")],
        "pay/agent world 1 allow\npay/web world 1 deny",
    );
}
