//! Section 1.4: entities, and what the local node may do (section 2.5).

use super::cluster::{check, from_db, on_db, to_db};

/// Who is allowed by an entity, of everyone that can be somebody's peer.
fn allowed(entity: &str, expected: &[&str]) {
    let peers = [
        ("shop/web", "pod"),
        ("10.1.99.9", "unmanaged"),
        ("host", "host"),
        ("172.18.0.2", "host"),
        ("172.18.0.4", "remote-node"),
        ("192.0.2.4", "remote-node"),
        ("172.18.0.3", "api node"),
        ("198.51.100.7", "api outside"),
        ("203.0.113.9", "world"),
        ("2001:db8::9", "world"),
        ("world", "world"),
    ];
    let word = |name| if expected.contains(&name) { "allow" } else { "deny" };
    let egress: Vec<String> = peers
        .iter()
        .map(|(peer, name)| format!("shop/db {peer} 443 {}", word(name)))
        .collect();
    check(
        &[from_db(&format!("{{toEntities: [{entity}]}}"))],
        &egress.join("\n"),
    );
    let ingress: Vec<String> = peers
        .iter()
        // The local node is always let in.
        .filter(|(_, name)| *name != "host")
        .map(|(peer, name)| format!("{peer} shop/db 443 {}", word(name)))
        .collect();
    check(
        &[to_db(&format!("{{fromEntities: [{entity}]}}"))],
        &ingress.join("\n"),
    );
}

#[test]
fn world_is_everything_outside_the_cluster_api_servers_there_included() {
    allowed("world", &["world", "api outside"]);
}

/// The last is known only where its address is a node's; an API server outside has the entity's label as well.
#[test]
fn cluster_and_cluster_mesh_are_pods_nodes_and_what_is_not_managed() {
    let members = [
        "pod",
        "unmanaged",
        "host",
        "remote-node",
        "api node",
        "api outside",
    ];
    allowed("cluster", &members);
    allowed("cluster-mesh", &members);
}

#[test]
fn host_is_the_local_node_and_remote_node_every_other_one() {
    allowed("host", &["host"]);
    allowed("remote-node", &["remote-node", "api node"]);
}

#[test]
fn kube_apiserver_is_wherever_the_kubernetes_service_leads_to() {
    allowed("kube-apiserver", &["api node", "api outside"]);
}

#[test]
fn the_local_node_has_the_label_of_an_api_server_that_it_runs() {
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: local, namespace: default, labels: \
                 {kubernetes.io/service-name: kubernetes}}\naddressType: IPv4\nendpoints: [{addresses: [172.18.0.2]}]\n";
    let policy = from_db("{toEntities: [kube-apiserver]}");
    check(&[policy.as_str()], "shop/db host 6443 deny");
    check(&[policy.as_str(), slice], "shop/db host 6443 allow");
}

#[test]
fn unmanaged_is_a_pods_address_that_no_pod_is_known_at() {
    allowed("unmanaged", &["unmanaged"]);
}

/// Nothing that sluice carries has these identities.
#[test]
fn health_ingress_init_and_none_are_none_of_the_known_peers() {
    for entity in ["health", "ingress", "init", "none"] {
        allowed(entity, &[]);
    }
}

#[test]
fn pods_of_the_hosts_network_are_their_node() {
    check(
        &[to_db(
            "{fromEndpoints: [{matchLabels: {app: web, io.kubernetes.pod.namespace: pay}}]}",
        )],
        "pay/web   shop/db 1 allow
         pay/agent shop/db 1 deny",
    );
    check(
        &[to_db("{fromEntities: [remote-node]}")],
        "pay/agent shop/db 1 allow",
    );
}

#[test]
fn the_local_node_reaches_its_pods_unless_a_deny_covers_it() {
    check(
        &[to_db("{}")],
        "host       shop/db 1 allow
         172.18.0.4 shop/db 1 deny",
    );
    for entity in ["host", "all", "cluster"] {
        check(
            &[on_db(&format!("ingressDeny: [{{fromEntities: [{entity}]}}]"))],
            "host shop/db 1 deny-rule",
        );
    }
    check(
        &[on_db("ingressDeny: [{fromEntities: [world]}]")],
        "host shop/db 1 allow",
    );
}

#[test]
fn pods_reach_nodes_and_the_api_server_by_rules_only() {
    check(
        &[from_db("{toEndpoints: [{}]}")],
        "shop/db host       443  deny
         shop/db 172.18.0.4 443  deny
         shop/db 172.18.0.3 6443 deny",
    );
}
