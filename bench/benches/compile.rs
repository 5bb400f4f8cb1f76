//! Compilation: 10 000 CNPs over 10 000 identities from scratch, and what one change costs at that size, up to the snapshot that is
//! published. Peak memory of each is printed, as is what the compiler holds.

use control::compile::Compiler;
use control::object::{self, Decoded, Object};
use control::{Index, IndexConfig, LocalEndpoint};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use policy::{EndpointKey, Slot, SlotGeneration, Snapshot};
use serde_json::{Value, json};

const NAMESPACES: usize = 100;
const PODS: usize = 10_000;
const POLICIES: usize = 10_000;

/// Pods of a well filled node (kubelet's default of `maxPods`).
const LOCAL: usize = 110;

fn decoded(value: &Value) -> Object {
    match object::decode(value, "default") {
        Decoded::Object(object) => *object,
        other => panic!("{value}: {other:?}"),
    }
}

fn namespace(pod: usize) -> String {
    format!("team-{}", pod % NAMESPACES)
}

/// A pod with labels of its own.
fn pod(number: usize) -> Object {
    let tier = if (number / NAMESPACES).is_multiple_of(2) {
        "front"
    } else {
        "back"
    };
    decoded(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{number}"), "namespace": namespace(number),
            "labels": {"app": format!("app-{number}"), "tier": tier}},
        "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": format!("10.{}.{}.{}", 64 + (number >> 16), number >> 8 & 255, number & 255)},
    }))
}

/// What teams write: two clients by label and a port, a whole tier, DNS of the cluster, an outside range.
fn cnp(number: usize, port: u16) -> Object {
    let near = |step: usize| format!("app-{}", (number + step * NAMESPACES) % PODS);
    decoded(&json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"name": format!("policy-{number}"), "namespace": namespace(number)},
        "spec": {
            "endpointSelector": {"matchLabels": {"app": format!("app-{number}")}},
            "ingress": [
                {"fromEndpoints": [{"matchLabels": {"app": near(1)}}, {"matchLabels": {"app": near(2)}}],
                 "toPorts": [{"ports": [{"port": port.to_string(), "protocol": "TCP"}]}]},
                {"fromEndpoints": [{"matchLabels": {"tier": "front"}}],
                 "toPorts": [{"ports": [{"port": "9090", "protocol": "TCP"}]}]},
            ],
            "egress": [
                {"toEndpoints": [{"matchLabels": {"io.kubernetes.pod.namespace": "team-0", "tier": "back"}}],
                 "toPorts": [{"ports": [{"port": "53", "protocol": "ANY"}]}]},
                {"toCIDR": [format!("198.51.{}.0/24", number % 64)]},
            ],
        },
    }))
}

/// A rule of the cluster's administrators for every pod.
fn ccnp(port: u16) -> Object {
    decoded(&json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy", "metadata": {"name": "everybody"},
        "spec": {
            "endpointSelector": {},
            "ingress": [{"fromEntities": ["remote-node"],
                "toPorts": [{"ports": [{"port": port.to_string(), "protocol": "TCP"}]}]}],
        },
    }))
}

/// The cluster; the first `local` pods are this node's.
fn cluster(local: usize) -> Index {
    let mut index = Index::new(IndexConfig {
        node_name: "bench".into(),
        pod_cidrs: vec!["10.64.0.0/10".parse().expect("a CIDR")],
        cluster_name: "default".into(),
        ..IndexConfig::default()
    });
    for number in 0..PODS {
        let object = pod(number);
        let name = object.key.pod();
        index.apply(object);
        if number < local {
            let addresses = index.pods().get(&name).map(|pod| pod.pod.addresses.clone());
            index.apply_endpoint(LocalEndpoint {
                key: EndpointKey {
                    slot: Slot(Slot::FIRST_ENDPOINT.0 + u16::try_from(number).expect("few pods")),
                    generation: SlotGeneration(1),
                },
                pod: name,
                uid: None,
                addresses: addresses.unwrap_or_default(),
                audit: false,
            });
        }
    }
    for number in 0..POLICIES {
        index.apply(cnp(number, 8080));
    }
    index
}

/// Prints the memory that `work` takes at most beyond what was there, and keeps.
fn report_memory<T>(case: &str, work: impl FnOnce() -> T) -> T {
    let mut outcome = None;
    let info = allocation_counter::measure(|| outcome = Some(work()));
    let mib = |bytes: i64| bytes / (1 << 20);
    eprintln!(
        "compile/{case}: {} MiB at most, {} MiB kept, {} allocations",
        info.bytes_max >> 20,
        mib(info.bytes_current),
        info.count_total
    );
    outcome.expect("measured once")
}

/// A compiled cluster to change.
struct World {
    index: Index,
    compiler: Compiler,
    snapshot: Snapshot,
}

impl World {
    fn new(case: &str, local: usize) -> Self {
        let mut index = report_memory(&format!("{case}: index"), || cluster(local));
        let mut compiler = Compiler::default();
        let snapshot = report_memory(case, || compiler.compile(&mut index, &Snapshot::default()));
        eprintln!("compile/{case}: {:?}", compiler.size());
        Self {
            index,
            compiler,
            snapshot,
        }
    }

    fn publish(&mut self) {
        let next = self.compiler.compile(&mut self.index, &self.snapshot);
        assert_ne!(
            next.revision, self.snapshot.revision,
            "the change changes something"
        );
        self.snapshot = next;
    }
}

fn compile(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compile");
    group.sample_size(10);
    for (case, local) in [("scratch-node", LOCAL), ("scratch-every-pod", PODS)] {
        let mut world = World::new(case, local);
        group.bench_function(case, |bencher| {
            bencher.iter_batched(
                Compiler::default,
                |mut compiler| {
                    let snapshot = compiler.compile(&mut world.index, &Snapshot::default());
                    (compiler, snapshot)
                },
                BatchSize::PerIteration,
            );
        });
    }
    let mut world = World::new("changes", LOCAL);
    let mut port = 0;
    group.bench_function("one-policy-of-a-local-pod", |bencher| {
        bencher.iter(|| {
            port = port % 1000 + 1;
            world.index.apply(cnp(7, 10_000 + port));
            world.publish();
        });
    });
    group.bench_function("one-policy-of-every-local-pod", |bencher| {
        bencher.iter(|| {
            port = port % 1000 + 1;
            world.index.apply(ccnp(10_000 + port));
            world.publish();
        });
    });
    let mut next = 0;
    group.bench_function("one-pod", |bencher| {
        bencher.iter(|| {
            next += 1;
            world.index.apply(pod(PODS + next % 1000));
            world.index.delete(&pod(PODS + (next + 999) % 1000).key);
            let next = world.compiler.compile(&mut world.index, &world.snapshot);
            world.snapshot = next;
        });
    });
    group.finish();
}

criterion_group!(benches, compile);
criterion_main!(benches);
