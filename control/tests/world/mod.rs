//! A node whose index is told of objects and endpoints one by one.
#![allow(dead_code, reason = "each test program uses a part")]

use std::net::IpAddr;

use policy::{EndpointKey, EndpointPolicy, Identity, PolicyTable, Protocol, Slot, SlotGeneration, Snapshot};
use sluice_control::compile::{self, Compiler};
use sluice_control::manifest::{self, Document};
use sluice_control::object::{Kind, ObjectKey};
use sluice_control::{Index, IndexConfig, LocalEndpoint};

pub fn pod(name: &str, uid: &str, addr: &str) -> String {
    let (namespace, name) = name.split_once('/').expect("namespace/name");
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, uid: {uid}}}\n\
         spec: {{containers: [{{name: c, ports: [{{name: web, containerPort: 8080}}]}}]}}\n\
         status: {{podIPs: [{{ip: {addr}}}]}}\n"
    )
}

/// Everything that is known, and what is enforced of it.
pub struct World {
    pub index: Index,
    compiler: Compiler,
    pub snapshot: Snapshot,
}

impl World {
    pub fn new(awaits_namespaces: bool) -> Self {
        Self {
            index: Index::new(IndexConfig {
                node_name: "node-1".into(),
                cluster_name: "default".into(),
                pod_cidrs: vec!["10.1.0.0/16".parse().expect("prefix")],
                awaits_namespaces,
                ..IndexConfig::default()
            }),
            compiler: Compiler::default(),
            snapshot: Snapshot::default(),
        }
    }

    pub fn apply(&mut self, yaml: &str) {
        for document in manifest::parse(yaml, "default") {
            match document {
                Document::Object { object, .. } => self.index.apply(*object),
                Document::Invalid { key, faults } => panic!("{key:?}: {faults:#?}"),
            }
        }
        self.compile();
    }

    pub fn delete(&mut self, kind: Kind, namespace: &str, name: &str) {
        self.index.delete(&ObjectKey {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        });
        self.compile();
    }

    pub fn attach(&mut self, slot: u16, pod: &str, uid: &str, addr: &str) {
        self.attach_as(key(slot), pod, Some(uid), addr);
    }

    pub fn attach_as(&mut self, key: EndpointKey, pod: &str, uid: Option<&str>, addr: &str) {
        self.index.apply_endpoint(LocalEndpoint {
            key,
            pod: pod.parse().expect("namespace/name"),
            uid: uid.map(Into::into),
            addresses: vec![addr.parse().expect("address")],
            audit: false,
        });
        self.compile();
    }

    pub fn detach(&mut self, slot: u16) {
        self.remove(key(slot));
    }

    pub fn remove(&mut self, key: EndpointKey) {
        self.index.delete_endpoint(key);
        self.compile();
    }

    /// Follows the changes; a compilation from scratch must come to the same.
    fn compile(&mut self) {
        let next = self.compiler.compile(&mut self.index, &self.snapshot);
        let scratch = compile::compile(&self.index, &self.snapshot);
        assert!(next.ipcache.same_content(&scratch.ipcache));
        let identities = |snapshot: &Snapshot| -> Vec<Option<Identity>> {
            let endpoints = snapshot.endpoints.iter();
            endpoints.map(|policy| Some(policy.as_ref()?.identity)).collect()
        };
        assert_eq!(identities(&next), identities(&scratch));
        for (followed, scratch) in next.endpoints.iter().zip(scratch.endpoints.iter()) {
            let (Some(followed), Some(scratch)) = (followed, scratch) else {
                continue;
            };
            let peers = next.identities.keys().copied();
            for peer in peers.chain([
                Identity::HOST,
                Identity::WORLD,
                Identity::UNMANAGED,
                Identity::INIT,
            ]) {
                for port in [80, 8080] {
                    for (a, b) in [
                        (&followed.ingress, &scratch.ingress),
                        (&followed.egress, &scratch.egress),
                    ] {
                        let reason =
                            |table: &PolicyTable| table.decide(peer, Protocol::TCP, port).drop_reason();
                        assert_eq!(reason(a), reason(b), "{} {peer:?} {port}", followed.pod);
                    }
                }
            }
        }
        self.snapshot = next;
    }

    pub fn at(&self, addr: &str) -> Identity {
        self.snapshot
            .ipcache
            .lookup(addr.parse::<IpAddr>().expect("address"))
    }

    pub fn policy(&self, slot: u16) -> &EndpointPolicy {
        self.snapshot.endpoint(key(slot)).expect("an endpoint")
    }

    pub fn is_let_in(&self, slot: u16, from: &str) -> bool {
        let decision = self.policy(slot).ingress.decide(self.at(from), Protocol::TCP, 80);
        decision.drop_reason().is_none()
    }
}

pub const fn key(slot: u16) -> EndpointKey {
    EndpointKey {
        slot: Slot(slot),
        generation: SlotGeneration(1),
    }
}
