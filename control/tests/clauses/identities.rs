//! Section 4: which labels make an identity, and whose an address is.

use super::cluster::{check, knp, on_db, to_db};

#[test]
fn labels_that_are_left_out_of_identities_never_match() {
    check(
        &[to_db("{fromEndpoints: [{matchLabels: {pod-template-hash: h1}}]}")],
        "shop/web shop/db 1 deny",
    );
    check(
        &[to_db(
            "{fromEndpoints: [{matchLabels: {app.kubernetes.io/name: web}}]}",
        )],
        "shop/web shop/db 1 allow
         shop/api shop/db 1 deny",
    );
    // NetworkPolicy selects by any label, and a CiliumNetworkPolicy beside it still does not see it.
    let both = [
        knp("ingress: [{from: [{podSelector: {matchLabels: {pod-template-hash: h1}}}]}]"),
        to_db(
            "{fromEndpoints: [{matchLabels: {pod-template-hash: h1}}], toPorts: [{ports: [{port: \"1\"}]}]}",
        ),
    ];
    check(&both[..1], "shop/web shop/db 1 allow\nshop/api shop/db 1 deny");
    check(&both[1..], "shop/web shop/db 1 deny");
    let denied = on_db(
        "enableDefaultDeny: {ingress: false}, ingressDeny: [{fromEndpoints: [{matchLabels: {pod-template-hash: h1}}]}]",
    );
    check(&[&both[0], &denied], "shop/web shop/db 1 allow");
}

#[test]
fn a_pod_cannot_make_itself_one_of_another_namespace_or_account() {
    let thief = "apiVersion: v1\nkind: Pod\nmetadata: {name: thief, namespace: pay, labels: {app: web, io.kubernetes.pod.namespace: shop, \
                 io.cilium.k8s.policy.serviceaccount: robot, io.cilium.k8s.namespace.labels.team: web}}\nspec: {containers: []}\n\
                 status: {podIPs: [{ip: 10.1.0.66}]}\n";
    for selector in [
        "{matchLabels: {app: web}}",
        "{matchLabels: {io.kubernetes.pod.namespace: shop}}",
        "{matchLabels: {io.cilium.k8s.policy.serviceaccount: robot}}",
        "{matchLabels: {io.cilium.k8s.namespace.labels.team: web}}",
    ] {
        check(
            &[thief, &to_db(&format!("{{fromEndpoints: [{selector}]}}"))],
            "shop/web  shop/db 1 allow
             pay/thief shop/db 1 deny",
        );
    }
}

#[test]
fn both_families_of_a_pod_are_one_peer() {
    check(
        &[to_db("{fromEndpoints: [{matchLabels: {app: web}}]}")],
        "10.1.0.3 shop/db 1 allow
         fd00::3  shop/db 1 allow
         fd00::3  fd00::2 1 allow
         fd00::99 shop/db 1 deny",
    );
}

#[test]
fn a_pods_labels_are_followed() {
    let relabelled = "apiVersion: v1\nkind: Pod\nmetadata: {name: api, namespace: shop, labels: {app: web}}\nspec: {containers: []}\n\
                      status: {podIPs: [{ip: 10.1.0.4}]}\n";
    let policy = to_db("{fromEndpoints: [{matchLabels: {app: web}}]}");
    check(&[policy.as_str()], "shop/api shop/db 1 deny");
    check(&[policy.as_str(), relabelled], "shop/api shop/db 1 allow");
}
