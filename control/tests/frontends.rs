//! Services as manifests describe them: where a node serves them, and to whom each frontend leads.

use std::net::IpAddr;

use policy::{
    EndpointKey, Frontend, Protocol, Service, ServiceLookup, Slot, SlotGeneration, Snapshot, Unserved,
};
use sluice_control::compile::{Compiler, compile};
use sluice_control::manifest::{self, Document};
use sluice_control::object::{Kind, ObjectKey};
use sluice_control::{Index, IndexConfig, LocalEndpoint};

const NODE: &str = "
apiVersion: v1
kind: Node
metadata: {name: node-1, labels: {topology.kubernetes.io/zone: a}}
status: {addresses: [{type: InternalIP, address: 172.18.0.2}, {type: InternalIP, address: 'fd00:18::2'}]}
";

/// The node `node-1` and what it serves.
struct World {
    index: Index,
    compiler: Compiler,
    snapshot: Snapshot,
}

impl World {
    fn new(yaml: &[&str]) -> Self {
        let config = IndexConfig {
            node_name: "node-1".into(),
            cluster_name: "default".into(),
            ..IndexConfig::default()
        };
        let mut world = Self {
            index: Index::new(config),
            compiler: Compiler::default(),
            snapshot: Snapshot::default(),
        };
        world.apply(NODE);
        yaml.iter().for_each(|yaml| world.apply(yaml));
        world
    }

    fn apply(&mut self, yaml: &str) {
        for document in manifest::parse(yaml, "default") {
            match document {
                Document::Object { object, .. } => self.index.apply(*object),
                Document::Invalid { key, faults } => panic!("{key:?}: {faults:#?}"),
            }
        }
        self.compile();
    }

    /// Follows the changes; a compilation from scratch must come to the same.
    fn compile(&mut self) {
        let next = self.compiler.compile(&mut self.index, &self.snapshot);
        assert_eq!(next.services, compile(&self.index, &self.snapshot).services);
        self.snapshot = next;
    }

    /// Gives the pod of this name an interface.
    fn attach(&mut self, slot: u16, namespace: &str, name: &str) {
        let (pod, indexed) = self
            .index
            .pods()
            .iter()
            .find(|(pod, _)| pod.namespace == namespace && pod.name == name)
            .expect("a known pod");
        let endpoint = LocalEndpoint {
            key: key(slot),
            pod: pod.clone(),
            uid: None,
            addresses: indexed.pod.addresses.clone(),
            audit: false,
        };
        self.index.apply_endpoint(endpoint);
        self.compile();
    }

    fn find(&self, addr: &str, port: u16, protocol: Protocol) -> Option<&Service> {
        let addr: IpAddr = addr.parse().expect("address");
        match self.snapshot.services.lookup(addr, port, protocol) {
            ServiceLookup::Service(service) => Some(service),
            ServiceLookup::NoSuchPort | ServiceLookup::NotService => None,
        }
    }

    fn service(&self, addr: &str, port: u16) -> &Service {
        self.find(addr, port, Protocol::TCP).expect("a frontend")
    }

    /// Backends of a TCP frontend, `None` where there is no such frontend.
    fn backends(&self, addr: &str, port: u16) -> Option<Vec<String>> {
        let service = self.find(addr, port, Protocol::TCP)?;
        Some(
            service
                .backends
                .iter()
                .map(|b| format!("{}:{}", b.addr, b.port))
                .collect(),
        )
    }
}

fn key(slot: u16) -> EndpointKey {
    EndpointKey {
        slot: Slot(slot),
        generation: SlotGeneration(1),
    }
}

/// Service `shop/web` at 10.96.0.7:80 with more fields of `spec`.
fn web(more: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec:
  clusterIPs: [10.96.0.7]
  ports: [{{name: http, port: 80, targetPort: http}}]
{more}"
    )
}

/// An EndpointSlice of it for port `http` = `port`; endpoints as YAML flow mappings.
fn slice(name: &str, port: u16, endpoints: &[&str]) -> String {
    let endpoints: String = endpoints
        .iter()
        .map(|endpoint| format!("- {endpoint}\n"))
        .collect();
    format!(
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: http, port: {port}, protocol: TCP}}]
endpoints:
{endpoints}"
    )
}

fn some(backends: &[&str]) -> Option<Vec<String>> {
    Some(backends.iter().map(|&backend| backend.to_owned()).collect())
}

#[test]
fn slices_may_have_different_numbers_for_one_named_target_port() {
    let slices = [
        slice("web-1", 5000, &["{addresses: [10.1.0.3]}"]),
        slice("web-2", 8080, &["{addresses: [10.1.0.4]}"]),
    ];
    let world = World::new(&[&web(""), &slices[0], &slices[1]]);
    assert_eq!(
        world.backends("10.96.0.7", 80),
        some(&["10.1.0.3:5000", "10.1.0.4:8080"])
    );
}

#[test]
fn terminating_endpoints_that_serve_stand_in_for_ready_ones() {
    let gone = "{addresses: [10.1.0.3], conditions: {ready: false, serving: true, terminating: true}}";
    let dead = "{addresses: [10.1.0.4], conditions: {ready: false, serving: false, terminating: true}}";
    let mut world = World::new(&[&web(""), &slice("web-1", 80, &[gone, dead])]);
    assert_eq!(world.backends("10.96.0.7", 80), some(&["10.1.0.3:80"]));
    world.apply(&slice("web-1", 80, &[gone, dead, "{addresses: [10.1.0.5]}"]));
    assert_eq!(world.backends("10.96.0.7", 80), some(&["10.1.0.5:80"]));
    let draining: Vec<_> = world
        .service("10.96.0.7", 80)
        .draining
        .iter()
        .map(|b| b.addr)
        .collect();
    assert_eq!(draining, ["10.1.0.3".parse::<IpAddr>().expect("address")]);
}

#[test]
fn of_two_endpoints_at_one_address_the_one_that_lives_counts() {
    let gone = "{addresses: [10.1.0.3], conditions: {ready: false, serving: true, terminating: true}}";
    for (first, second) in [
        (gone, "{addresses: [10.1.0.3]}"),
        ("{addresses: [10.1.0.3]}", gone),
    ] {
        let world = World::new(&[
            &web(""),
            &slice("web-1", 80, &[first]),
            &slice("web-2", 80, &[second]),
        ]);
        let service = world.service("10.96.0.7", 80);
        assert_eq!((service.backends.len(), service.draining.len()), (1, 0));
    }
}

const HERE: &str = "{addresses: [10.1.0.3], nodeName: node-1}";
const THERE: &str = "{addresses: [10.2.0.3], nodeName: node-2}";

#[test]
fn internal_traffic_policy_local_admits_backends_of_this_node_only() {
    let local = web("  internalTrafficPolicy: Local");
    let mut world = World::new(&[&local, &slice("web-1", 80, &[HERE, THERE])]);
    assert_eq!(world.backends("10.96.0.7", 80), some(&["10.1.0.3:80"]));
    world.apply(&slice("web-1", 80, &[THERE]));
    let service = world.service("10.96.0.7", 80);
    assert_eq!((service.backends.len(), service.unserved), (0, Unserved::Drop));
    world.apply(&slice("web-1", 80, &[]));
    assert_eq!(world.service("10.96.0.7", 80).unserved, Unserved::Reject);
}

#[test]
fn hints_lead_to_the_nodes_zone_and_follow_its_label() {
    let a = "{addresses: [10.1.0.3], hints: {forZones: [{name: a}]}}";
    let b = "{addresses: [10.2.0.3], hints: {forZones: [{name: b}]}}";
    let mut world = World::new(&[&web(""), &slice("web-1", 80, &[a, b])]);
    assert_eq!(world.backends("10.96.0.7", 80), some(&["10.1.0.3:80"]));
    world.apply(&NODE.replace("zone: a", "zone: b"));
    assert_eq!(world.backends("10.96.0.7", 80), some(&["10.2.0.3:80"]));
    world.apply(&NODE.replace("zone: a", "zone: c"));
    assert_eq!(
        world.backends("10.96.0.7", 80),
        some(&["10.1.0.3:80", "10.2.0.3:80"])
    );
}

#[test]
fn hints_for_the_node_come_first() {
    let here = "{addresses: [10.1.0.3], hints: {forNodes: [{name: node-1}], forZones: [{name: a}]}}";
    let near = "{addresses: [10.1.0.4], hints: {forNodes: [{name: node-2}], forZones: [{name: a}]}}";
    let world = World::new(&[&web(""), &slice("web-1", 80, &[here, near])]);
    assert_eq!(world.backends("10.96.0.7", 80), some(&["10.1.0.3:80"]));
}

#[test]
fn session_affinity_has_its_timeout_or_three_hours() {
    let own = "  sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 7}}";
    for (more, timeout) in [
        ("", None),
        ("  sessionAffinity: ClientIP", Some(10_800)),
        (own, Some(7)),
    ] {
        let world = World::new(&[&web(more)]);
        let affinity = world.service("10.96.0.7", 80).affinity;
        assert_eq!(affinity.map(|affinity| affinity.timeout_s), timeout, "{more}");
    }
}

#[test]
fn session_affinity_that_is_none_is_refused() {
    for (more, field) in [
        ("  sessionAffinity: Cookie", "spec.sessionAffinity"),
        (
            "  sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}",
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
        ),
    ] {
        let documents = manifest::parse(&web(more), "default");
        let [Document::Invalid { faults, .. }] = documents.as_slice() else {
            panic!("{documents:?}")
        };
        assert_eq!(faults[0].field, field);
    }
}

#[test]
fn external_addresses_and_node_ports_lead_to_all_backends_whatever_the_traffic_policy() {
    let more = "  externalTrafficPolicy: Local
  internalTrafficPolicy: Local
  externalIPs: [203.0.113.9, 'fd00:113::9']
  loadBalancerSourceRanges: [' 10.1.0.0/16 ', 'fd00::/64']
status:
  loadBalancer: {ingress: [{ip: 203.0.113.7}, {ip: 203.0.113.8, ipMode: Proxy}, {hostname: lb.example}]}";
    let service = web(more).replace("targetPort: http", "targetPort: http, nodePort: 30008");
    let world = World::new(&[&service, &slice("web-1", 80, &[HERE, THERE])]);
    let everyone = some(&["10.1.0.3:80", "10.2.0.3:80"]);
    for (addr, port, frontend) in [
        ("203.0.113.9", 80, Frontend::ExternalIp),
        ("203.0.113.7", 80, Frontend::LoadBalancer),
        ("172.18.0.2", 30_008, Frontend::NodePort),
    ] {
        assert_eq!(world.backends(addr, port), everyone, "{addr}:{port}");
        assert_eq!(world.service(addr, port).frontend, frontend, "{addr}:{port}");
    }
    assert_eq!(world.backends("10.96.0.7", 80), some(&["10.1.0.3:80"]));
    assert_eq!(world.backends("203.0.113.8", 80), None, "a proxy's address");
    assert_eq!(
        world.backends("fd00:113::9", 80),
        None,
        "no ClusterIP of its family"
    );
    assert_eq!(
        world.backends("fd00:18::2", 30_008),
        None,
        "no ClusterIP of its family"
    );
    assert_eq!(world.backends("172.18.0.2", 22), None);
    let sources: Vec<_> = world
        .service("203.0.113.7", 80)
        .sources
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(sources, ["10.1.0.0/16"], "of the family");
    assert!(
        world.service("172.18.0.2", 30_008).sources.is_empty(),
        "of the balancer only"
    );
}

#[test]
fn source_range_of_all_addresses_restricts_nobody() {
    let more = "  loadBalancerSourceRanges: [10.1.0.0/16, 0.0.0.0/0]
status: {loadBalancer: {ingress: [{ip: 203.0.113.7, ipMode: VIP}]}}";
    let world = World::new(&[&web(more)]);
    assert!(world.service("203.0.113.7", 80).sources.is_empty());
}

#[test]
fn services_of_other_proxies_headless_and_external_names_have_no_frontend() {
    let other = web("").replace(
        "namespace: shop}",
        "namespace: shop, labels: {service.kubernetes.io/service-proxy-name: mesh}}",
    );
    let headless = web("  externalIPs: [203.0.113.9]").replace("clusterIPs: [10.96.0.7]", "clusterIP: None");
    let name = web("  type: ExternalName\n  externalName: example.org\n  externalIPs: [203.0.113.9]");
    for service in [other, headless, name] {
        let world = World::new(&[&service, &slice("web-1", 80, &[HERE])]);
        assert_eq!(world.snapshot.services.iter().count(), 0, "{service}");
    }
}

#[test]
fn headless_slices_have_no_backend() {
    let headless = slice("web-1", 80, &[HERE]).replace(
        "kubernetes.io/service-name: web",
        "kubernetes.io/service-name: web, service.kubernetes.io/headless: ''",
    );
    let world = World::new(&[&web(""), &headless]);
    assert_eq!(world.backends("10.96.0.7", 80), some(&[]));
}

const PUBLISHED: &str = "
apiVersion: v1
kind: Pod
metadata: {name: proxy, namespace: shop}
spec:
  containers:
  - name: c
    ports:
    - {containerPort: 8080, hostPort: 80}
    - {containerPort: 8443, hostPort: 443, hostIP: 172.18.0.2}
    - {containerPort: 8081, hostPort: 81, hostIP: 0.0.0.0}
    - {containerPort: 8082, hostPort: 82, hostIP: 127.0.0.1}
    - {containerPort: 53, hostPort: 53, protocol: UDP}
    - {containerPort: 9090}
status: {podIPs: [{ip: 10.1.0.9}, {ip: 'fd00:1::9'}]}
";

#[test]
fn host_ports_of_this_nodes_pods_lead_to_their_containers() {
    let mut world = World::new(&[PUBLISHED]);
    assert_eq!(world.backends("172.18.0.2", 80), None, "not a pod of this node");
    world.attach(8, "shop", "proxy");
    assert_eq!(world.backends("172.18.0.2", 80), some(&["10.1.0.9:8080"]));
    assert_eq!(world.backends("fd00:18::2", 80), some(&["fd00:1::9:8080"]));
    assert_eq!(world.backends("172.18.0.2", 443), some(&["10.1.0.9:8443"]));
    assert_eq!(world.backends("fd00:18::2", 443), None);
    assert_eq!(world.backends("172.18.0.2", 81), some(&["10.1.0.9:8081"]));
    assert_eq!(world.backends("fd00:18::2", 81), None);
    assert_eq!(world.backends("127.0.0.1", 82), None);
    assert!(world.find("172.18.0.2", 53, Protocol::UDP).is_some());
    assert_eq!(world.backends("172.18.0.2", 53), None);
    world.index.delete_endpoint(key(8));
    world.compile();
    assert_eq!(world.backends("172.18.0.2", 80), None);
}

/// The field is the pod's author's: others' addresses in it must not lead to the pod.
#[test]
fn host_ports_at_addresses_that_are_not_the_nodes_lead_nowhere() {
    for addr in ["10.1.0.4", "10.96.0.7", "203.0.113.9", "fd00:1::4"] {
        let mut world = World::new(&[&PUBLISHED.replace("172.18.0.2", &format!("'{addr}'"))]);
        world.attach(8, "shop", "proxy");
        assert_eq!(world.backends(addr, 443), None, "{addr}");
        assert_eq!(world.backends("172.18.0.2", 443), None, "{addr}");
    }
}

#[test]
fn host_ports_go_with_the_pod_whose_slot_another_takes() {
    let other = PUBLISHED
        .replace("name: proxy", "name: plain")
        .replace("hostPort", "notPublished")
        .replace("10.1.0.9", "10.1.0.8");
    let mut world = World::new(&[PUBLISHED, &other.replace(", notPublished: ", ", name: p")]);
    world.attach(8, "shop", "proxy");
    world.attach(8, "shop", "plain");
    assert_eq!(world.backends("172.18.0.2", 80), None);
}

#[test]
fn pods_of_the_hosts_network_have_no_host_port_to_translate() {
    let host = PUBLISHED.replace("spec:", "spec:\n  hostNetwork: true");
    let world = World::new(&[&host]);
    assert!(
        world
            .index
            .pods()
            .values()
            .all(|pod| pod.pod.host_ports.is_empty())
    );
    assert_eq!(world.snapshot.services.iter().count(), 0);
}

#[test]
fn a_node_port_comes_before_a_host_port_of_that_number() {
    let service = web("").replace("targetPort: http", "targetPort: http, nodePort: 80");
    let mut world = World::new(&[&service, &slice("web-1", 80, &[HERE]), PUBLISHED]);
    world.attach(8, "shop", "proxy");
    assert_eq!(world.service("172.18.0.2", 80).frontend, Frontend::NodePort);
    world.index.delete(&ObjectKey {
        kind: Kind::Service,
        namespace: "shop".into(),
        name: "web".into(),
    });
    world.compile();
    assert_eq!(world.service("172.18.0.2", 80).frontend, Frontend::HostPort);
}

const OTHER_NODES: &str = "
apiVersion: v1
kind: Node
metadata: {name: node-2}
status: {addresses: [{type: InternalIP, address: 172.18.0.3}, {type: ExternalIP, address: 203.0.113.3}, {type: InternalIP, address: 'fd00:18::3'}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-3}
status: {addresses: [{type: InternalIP, address: 172.18.0.4}, {type: InternalIP, address: 172.18.0.2}]}
";

fn node_port(more: &str) -> String {
    web(more).replace("targetPort: http", "targetPort: http, nodePort: 30008")
}

#[test]
fn node_ports_are_at_the_addresses_of_every_node() {
    let mut world = World::new(&[OTHER_NODES, &node_port(""), &slice("web-1", 80, &[HERE, THERE])]);
    let everyone = some(&["10.1.0.3:80", "10.2.0.3:80"]);
    for addr in ["172.18.0.2", "172.18.0.3", "203.0.113.3", "172.18.0.4"] {
        assert_eq!(world.backends(addr, 30_008), everyone, "{addr}");
        assert_eq!(world.service(addr, 30_008).frontend, Frontend::NodePort, "{addr}");
        assert_eq!(world.service(addr, 30_008).name, "shop/web", "{addr}");
        assert_eq!(world.backends(addr, 80), None, "{addr}");
        assert!(world.find(addr, 30_008, Protocol::UDP).is_none(), "{addr}");
    }
    assert_eq!(
        world.backends("fd00:18::3", 30_008),
        None,
        "no ClusterIP of its family"
    );
    assert_eq!(world.backends("172.18.0.9", 30_008), None, "no node");
    world.apply(&slice("web-1", 80, &[]));
    let service = world.service("172.18.0.3", 30_008);
    assert_eq!((service.backends.len(), service.unserved), (0, Unserved::Reject));
    world.index.delete(&ObjectKey {
        kind: Kind::Node,
        namespace: String::new(),
        name: "node-2".into(),
    });
    world.compile();
    assert_eq!(world.backends("172.18.0.3", 30_008), None);
    assert_eq!(world.backends("172.18.0.2", 30_008), some(&[]));
}

#[test]
fn node_port_of_another_node_leads_to_its_own_backends_under_external_traffic_policy_local() {
    let more = "  externalTrafficPolicy: Local";
    let mut world = World::new(&[
        OTHER_NODES,
        &node_port(more),
        &slice(
            "web-1",
            80,
            &[HERE, THERE, "{addresses: [10.2.0.4], nodeName: node-2}"],
        ),
    ]);
    let own = some(&["10.2.0.3:80", "10.2.0.4:80"]);
    for addr in ["172.18.0.3", "203.0.113.3"] {
        assert_eq!(world.backends(addr, 30_008), own, "{addr}");
    }
    assert_eq!(
        world.backends("172.18.0.2", 30_008),
        some(&["10.1.0.3:80", "10.2.0.3:80", "10.2.0.4:80"]),
        "the own node's, whatever other nodes claim"
    );
    let nobody = |world: &World, addr| {
        let service = world.service(addr, 30_008);
        (service.backends.len(), service.unserved)
    };
    assert_eq!(nobody(&world, "172.18.0.4"), (0, Unserved::Drop));
    let gone = "{addresses: [10.2.0.3], nodeName: node-2, conditions: {ready: false, serving: true, terminating: true}}";
    world.apply(&slice("web-1", 80, &[HERE, gone]));
    assert_eq!(world.backends("172.18.0.3", 30_008), some(&["10.2.0.3:80"]));
    world.apply(&slice("web-1", 80, &[HERE]));
    assert_eq!(nobody(&world, "172.18.0.3"), (0, Unserved::Drop));
    world.apply(&slice("web-1", 80, &[]));
    assert_eq!(nobody(&world, "172.18.0.3"), (0, Unserved::Reject));
}

/// What many nodes and NodePorts cost.
#[test]
fn node_ports_of_many_nodes_are_no_frontend_each() {
    let nodes: String = (0..200)
        .map(|n| {
            format!(
                "---\napiVersion: v1\nkind: Node\nmetadata: {{name: other-{n}}}\n\
                 status: {{addresses: [{{type: InternalIP, address: 172.19.0.{n}}}]}}\n"
            )
        })
        .collect();
    let mut world = World::new(&[&nodes]);
    for n in 0..20 {
        for policy in ["Cluster", "Local"] {
            let service = node_port(&format!("  externalTrafficPolicy: {policy}"))
                .replace("name: web,", &format!("name: web-{n}-{policy},").to_lowercase())
                .replace("30008", &(30_000 + n + 1000 * policy.len()).to_string());
            world.apply(&service);
        }
    }
    let table = &world.snapshot.services;
    assert_eq!((table.nodes().count(), table.node_ports().count()), (200, 40));
    // The ClusterIP that they share and this node's NodePorts.
    assert_eq!(table.iter().count(), 1 + 40);
}
