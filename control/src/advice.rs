//! What is valid but most likely not meant: policies that select nobody, names that nothing has.
//!
//! Meant for a whole cluster's manifests in one folder; what a folder does not hold, it cannot tell of.

use policy::Protocol;

use crate::index::Index;
use crate::labels::{LabelSource, Labels};
use crate::object::{Kind, ObjectKey};
use crate::rule::{
    GroupRef, Peer, PeerSet, Policy, PolicyKey, PolicyKind, PortRef, PortSet, ServiceMatch, ServiceRef, Spec,
};

/// One finding about a policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Advice {
    /// The policy.
    pub object: ObjectKey,
    /// The rule, as `ingress[0]`, or empty if it is about the whole policy.
    pub rule: String,
    /// What is odd.
    pub message: String,
}

/// Looks at every policy. Selectors and port names are only looked at if there are pods.
#[must_use]
pub fn advise(index: &Index) -> Vec<Advice> {
    let mut found: Vec<Advice> = index
        .policies()
        .values()
        .flat_map(|policy| advise_policy(index, policy))
        .collect();
    found.sort();
    found.dedup();
    found
}

fn advise_policy(index: &Index, policy: &Policy) -> Vec<Advice> {
    let object = object_key(&policy.key);
    let mut found = Vec::new();
    let has_pods = !index.pods().is_empty();
    for spec in &policy.specs {
        let mut note = |rule: &str, message: String| {
            let prefix = policy.key.to_string();
            let rule = rule.strip_prefix(&prefix).unwrap_or(rule).trim().to_owned();
            found.push(Advice {
                object: object.clone(),
                rule,
                message,
            });
        };
        if has_pods && !selects_a_pod(index, spec) {
            note("", "selects no pod".to_owned());
        }
        for rule in spec.ingress.rules.iter().chain(&spec.egress.rules) {
            if let PortSet::Of(ports) = &rule.ports {
                for port in ports {
                    if let PortRef::Named(name) = &port.ports
                        && has_pods
                        && !has_port(index, name, port.protocol)
                    {
                        note(
                            &rule.name,
                            format!("no pod has a port named `{name}` ({})", port.protocol.name()),
                        );
                    }
                }
            }
            let PeerSet::Of(peers) = &rule.peers else {
                continue;
            };
            for peer in peers {
                match peer {
                    Peer::CidrGroup { groups, .. } if !has_group(index, groups) => {
                        note(&rule.name, describe_group(groups));
                    }
                    Peer::Services(service) if !has_service(index, service) => {
                        note(&rule.name, describe_service(service));
                    }
                    _ => {}
                }
            }
        }
    }
    found
}

fn selects_a_pod(index: &Index, spec: &Spec) -> bool {
    index
        .pods()
        .values()
        .any(|indexed| !indexed.pod.host_network && spec.subject.matches(&indexed.labels))
}

fn has_port(index: &Index, name: &str, protocol: Protocol) -> bool {
    let mut ports = index.pods().values().flat_map(|indexed| &indexed.pod.ports);
    ports.any(|port| port.name == name && port.protocol == protocol)
}

fn labels_of<'a>(source: LabelSource, written: impl IntoIterator<Item = (&'a String, &'a String)>) -> Labels {
    let mut labels = Labels::default();
    for (key, value) in written {
        labels.insert(source, key.clone(), value.clone());
    }
    labels
}

fn has_group(index: &Index, groups: &GroupRef) -> bool {
    match groups {
        GroupRef::Name(name) => index.cidr_groups().contains_key(name),
        GroupRef::Labels(selector) => index
            .cidr_groups()
            .values()
            .any(|group| selector.matches(&labels_of(LabelSource::CidrGroup, &group.labels))),
    }
}

fn describe_group(groups: &GroupRef) -> String {
    match groups {
        GroupRef::Name(name) => format!("there is no CiliumCIDRGroup {name}"),
        GroupRef::Labels(_) => "its cidrGroupSelector selects no CiliumCIDRGroup".to_owned(),
    }
}

fn has_service(index: &Index, wanted: &ServiceRef) -> bool {
    index.services().iter().any(|(name, service)| {
        let same_namespace = wanted
            .namespace
            .as_ref()
            .is_none_or(|namespace| *namespace == name.namespace);
        let same = match &wanted.which {
            ServiceMatch::Name(wanted) => *wanted == name.name,
            ServiceMatch::Labels(selector) => selector.matches(&labels_of(LabelSource::K8s, &service.labels)),
        };
        same_namespace && same
    })
}

fn describe_service(wanted: &ServiceRef) -> String {
    let namespace = wanted
        .namespace
        .as_ref()
        .map(|namespace| format!("{namespace}/"))
        .unwrap_or_default();
    match &wanted.which {
        ServiceMatch::Name(name) => format!("there is no Service {namespace}{name}"),
        ServiceMatch::Labels(_) => "its k8sServiceSelector selects no Service".to_owned(),
    }
}

fn object_key(key: &PolicyKey) -> ObjectKey {
    ObjectKey {
        kind: match key.kind {
            PolicyKind::Cilium => Kind::CiliumNetworkPolicy,
            PolicyKind::CiliumClusterwide => Kind::CiliumClusterwideNetworkPolicy,
            PolicyKind::Kubernetes => Kind::NetworkPolicy,
            PolicyKind::Cluster => Kind::ClusterNetworkPolicy,
        },
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::IndexConfig;
    use crate::manifest::{self, Document};

    const POLICY: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {namespace: db, name: p}\nspec:\n  \
        endpointSelector: {matchLabels: {app: a}}\n  ingress: [{toPorts: [{ports: [{port: http, protocol: TCP}]}]}]\n";

    fn index(yaml: &str) -> Index {
        let mut index = Index::new(IndexConfig::default());
        for document in manifest::parse(yaml, "default") {
            match document {
                Document::Object { object, .. } => index.apply(*object),
                Document::Invalid { faults, .. } => panic!("{faults:?}"),
            }
        }
        index
    }

    fn pod(app: &str, port: &str) -> String {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: db, name: a, labels: {{app: {app}}}}}\n\
             spec: {{containers: [{{name: c, ports: [{{name: {port}, containerPort: 80}}]}}]}}\n"
        )
    }

    fn messages(index: &Index) -> Vec<(String, String)> {
        advise(index).into_iter().map(|a| (a.rule, a.message)).collect()
    }

    #[test]
    fn selectors_and_port_names_that_nobody_has_are_told_once_there_are_pods() {
        assert_eq!(messages(&index(POLICY)), []);
        assert_eq!(messages(&index(&format!("{POLICY}{}", pod("a", "http")))), []);
        let odd = messages(&index(&format!("{POLICY}{}", pod("b", "web"))));
        let text = |rule: &str, message: &str| (rule.to_owned(), message.to_owned());
        assert_eq!(
            odd,
            [
                text("", "selects no pod"),
                text("ingress[0]", "no pod has a port named `http` (TCP)")
            ]
        );
    }

    #[test]
    fn groups_and_services_that_are_not_there_are_told() {
        let mut policy = index(POLICY).policies().values().next().expect("one").clone();
        let peers = vec![
            Peer::CidrGroup {
                groups: GroupRef::Name("office".into()),
                except: Vec::new(),
            },
            Peer::Services(ServiceRef {
                namespace: Some("db".into()),
                which: ServiceMatch::Name("sql".into()),
            }),
        ];
        for spec in &mut policy.specs {
            for rule in &mut spec.ingress.rules {
                rule.peers = PeerSet::Of(peers.clone());
            }
        }
        let messages: Vec<_> = advise_policy(&Index::default(), &policy)
            .into_iter()
            .map(|a| a.message)
            .collect();
        assert_eq!(
            messages,
            ["there is no CiliumCIDRGroup office", "there is no Service db/sql"]
        );
    }
}
