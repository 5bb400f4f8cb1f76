//! `sluice policy explain`: what would become of a flow, and which rule decides.
//!
//! Asks the very tables that the workers ask, so that it cannot tell anything else than what is enforced.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use policy::{
    Decision, Direction, DropReason, EndpointPolicy, HttpRequest, Identity, PodName, Protocol, ServiceLookup,
    Snapshot,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::flow_record::{FlowDropReason, FlowPeer, FlowVerdict};
use crate::names::Names;

/// One side of the flow in question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A pod.
    Pod(PodName),
    /// An address: of a pod, a Service or anything.
    Addr(IpAddr),
    /// The node itself.
    Host,
    /// Anything outside of the cluster.
    World,
}

/// `text` is no [`Subject`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is none of: namespace/pod, an IP address, `host`, `world`")]
pub struct SubjectError {
    /// What was given.
    pub text: String,
}

impl FromStr for Subject {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "host" => Ok(Self::Host),
            "world" => Ok(Self::World),
            _ => text
                .parse()
                .map(Self::Addr)
                .or_else(|_not_an_address| text.parse().map(Self::Pod))
                .map_err(|_not_a_pod| SubjectError { text: text.into() }),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(pod) => pod.fmt(f),
            Self::Addr(addr) => addr.fmt(f),
            Self::Host => f.write_str("host"),
            Self::World => f.write_str("world"),
        }
    }
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// The flow in question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplanationRequest {
    /// Who would open it.
    pub from: Subject,
    /// To whom.
    pub to: Subject,
    /// Destination port; the type for ICMP.
    pub port: u16,
    /// IP protocol number.
    pub protocol: Protocol,
    /// HTTP method, to judge a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// HTTP request target, to judge a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// What one endpoint's policy says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Whose policy.
    pub pod: PodName,
    /// In which direction of that pod.
    pub direction: Direction,
    /// What it says.
    pub verdict: FlowVerdict,
    /// Why it denies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop_reason: Option<FlowDropReason>,
    /// The rule that decides; absent when the direction is not enforced, and for default deny.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What the HTTP rules say of the request, or that they would be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
}

/// What would become of the flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Who would open it.
    pub source: FlowPeer,
    /// To whom, after service translation.
    pub destination: FlowPeer,
    /// The Service that it was sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The outcome.
    pub verdict: FlowVerdict,
    /// The policies asked, in order; none when neither side is a local pod.
    pub steps: Vec<Step>,
}

/// The flow cannot be explained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExplanationError {
    /// Nobody of that name.
    #[error("{field}: pod {pod} is not known on this node")]
    UnknownPod {
        /// `from` or `to`.
        field: &'static str,
        /// The name.
        pod: PodName,
    },
    /// The Service has no port like that.
    #[error("to: {addr} is a Service's address, but has no port {port}/{}", protocol.name())]
    NoSuchPort {
        /// The address.
        addr: IpAddr,
        /// The port.
        port: u16,
        /// The protocol.
        protocol: Protocol,
    },
    /// The Service has nobody behind it.
    #[error("to: service {service} has no ready backend")]
    NoBackend {
        /// `namespace/name`.
        service: String,
    },
}

/// A side with what is known of it.
struct Side<'a> {
    peer: FlowPeer,
    policy: Option<&'a Arc<EndpointPolicy>>,
}

impl Side<'_> {
    fn identity(&self) -> Identity {
        Identity(self.peer.identity)
    }
}

/// Answers `request` from one snapshot. A Service as destination gives one explanation per backend.
///
/// # Errors
/// [`ExplanationError`] names what is not known.
pub fn explain(
    request: &ExplanationRequest,
    snapshot: &Snapshot,
    names: &Names,
) -> Result<Vec<Explanation>, ExplanationError> {
    let source = side("from", &request.from, 0, snapshot, names)?;
    if let Subject::Addr(addr) = request.to {
        match snapshot.services.lookup(addr, request.port, request.protocol) {
            ServiceLookup::NotService => {}
            ServiceLookup::NoSuchPort => {
                return Err(ExplanationError::NoSuchPort {
                    addr,
                    port: request.port,
                    protocol: request.protocol,
                });
            }
            ServiceLookup::Service(service) if service.backends.is_empty() => {
                return Err(ExplanationError::NoBackend {
                    service: service.name.clone(),
                });
            }
            ServiceLookup::Service(service) => {
                return service
                    .backends
                    .iter()
                    .map(|backend| {
                        let to = Subject::Addr(backend.addr);
                        let destination = side("to", &to, backend.port, snapshot, names)?;
                        let service = Some(service.name.clone());
                        Ok(judge(request, snapshot, &source, destination, service))
                    })
                    .collect();
            }
        }
    }
    let destination = side("to", &request.to, request.port, snapshot, names)?;
    Ok(vec![judge(request, snapshot, &source, destination, None)])
}

fn side<'a>(
    field: &'static str,
    subject: &Subject,
    port: u16,
    snapshot: &'a Snapshot,
    names: &Names,
) -> Result<Side<'a>, ExplanationError> {
    let local = |pod: &PodName| {
        snapshot
            .endpoints
            .iter()
            .flatten()
            .find(|policy| policy.pod == *pod)
    };
    let unspecified = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
    let (pod, addr, reserved) = match subject {
        Subject::Host => (None, unspecified, Some(Identity::HOST)),
        Subject::World => (None, unspecified, Some(Identity::WORLD)),
        Subject::Addr(addr) => (names.pod(*addr).cloned(), *addr, None),
        Subject::Pod(pod) => {
            let addr = names.address(pod);
            if addr.is_none() && local(pod).is_none() {
                return Err(ExplanationError::UnknownPod {
                    field,
                    pod: pod.clone(),
                });
            }
            (Some(pod.clone()), addr.unwrap_or(unspecified), None)
        }
    };
    let policy = pod.as_ref().and_then(local);
    let identity = reserved
        .or_else(|| policy.map(|policy| policy.identity))
        .unwrap_or_else(|| snapshot.ipcache.lookup(addr));
    let peer = FlowPeer {
        pod,
        identity: identity.0,
        labels: names.labels(identity),
        addr,
        port,
    };
    Ok(Side { peer, policy })
}

fn judge(
    request: &ExplanationRequest,
    snapshot: &Snapshot,
    source: &Side<'_>,
    destination: Side<'_>,
    service: Option<String>,
) -> Explanation {
    let step = |policy: &EndpointPolicy, direction, peer| {
        step(request, snapshot, policy, direction, peer, destination.peer.port)
    };
    let steps: Vec<Step> = [
        source
            .policy
            .map(|policy| step(policy, Direction::Egress, destination.identity())),
        destination
            .policy
            .map(|policy| step(policy, Direction::Ingress, source.identity())),
    ]
    .into_iter()
    .flatten()
    .collect();
    let says = |verdict| steps.iter().any(|step| step.verdict == verdict);
    let verdict = if says(FlowVerdict::Dropped) {
        FlowVerdict::Dropped
    } else if says(FlowVerdict::Audit) {
        FlowVerdict::Audit
    } else {
        FlowVerdict::Forwarded
    };
    Explanation {
        source: source.peer.clone(),
        destination: destination.peer,
        service,
        verdict,
        steps,
    }
}

fn step(
    request: &ExplanationRequest,
    snapshot: &Snapshot,
    policy: &EndpointPolicy,
    direction: Direction,
    peer: Identity,
    port: u16,
) -> Step {
    let decision = policy.decide(direction, peer, request.protocol, port);
    let mut reason = decision.drop_reason();
    let mut http = None;
    if let Decision::AllowHttp(index, _) = decision {
        let rules = policy.http(index);
        http = Some(match (&request.method, &request.path, rules) {
            (None, None, _) => "every request must match an HTTP rule".to_owned(),
            (method, path, Some(rules)) => {
                let method = method.as_deref().unwrap_or("GET");
                let path = path.as_deref().unwrap_or("/");
                match rules.decide(&HttpRequest::new(method, path)) {
                    Some(matched) => format!("http[{matched}] allows {method} {path}"),
                    None => {
                        reason = Some(DropReason::HttpDenied);
                        format!("no HTTP rule allows {method} {path}")
                    }
                }
            }
            // A table that names a rule set which is not there: the worker denies as well.
            (_, _, None) => {
                reason = Some(DropReason::HttpDenied);
                "the HTTP rules are missing".to_owned()
            }
        });
    }
    Step {
        pod: policy.pod.clone(),
        direction,
        verdict: match reason {
            Some(_) if policy.audit => FlowVerdict::Audit,
            Some(_) => FlowVerdict::Dropped,
            None => FlowVerdict::Forwarded,
        },
        drop_reason: reason.map(Into::into),
        rule: decision.rule().and_then(|id| snapshot.rule(id)).map(Into::into),
        http,
    }
}

#[cfg(test)]
mod tests {
    use policy::{
        Backend, EndpointKey, PolicyGeneration, Service, ServiceKey, ServiceTable, Slot, SlotGeneration,
    };

    use super::*;

    fn snapshot() -> Snapshot {
        let endpoint = |slot: u16, pod: &str, identity: u32| {
            Some(Arc::new(EndpointPolicy {
                key: EndpointKey {
                    slot: Slot(slot),
                    generation: SlotGeneration(1),
                },
                pod: pod.parse().unwrap(),
                identity: Identity(identity),
                identity6: Identity(identity),
                generation: PolicyGeneration(1),
                ingress: Default::default(),
                egress: Default::default(),
                http: Vec::new(),
                audit: false,
            }))
        };
        let key = ServiceKey {
            addr: "10.96.0.7".parse().unwrap(),
            port: 80,
            protocol: Protocol::TCP,
        };
        let backend = |addr: &str| Backend {
            addr: addr.parse().unwrap(),
            port: 5000,
        };
        let service = Service {
            name: "db/flask".into(),
            key,
            backends: vec![backend("10.1.0.5"), backend("10.1.0.99")],
        };
        let empty = Service {
            name: "db/empty".into(),
            key: ServiceKey { port: 81, ..key },
            backends: Vec::new(),
        };
        Snapshot {
            endpoints: Arc::new(vec![endpoint(8, "db/flask", 300), endpoint(9, "db/debug", 301)]),
            services: Arc::new(ServiceTable::new([service, empty])),
            ..Snapshot::default()
        }
    }

    fn names() -> Names {
        Names {
            pods: [("10.1.0.5".parse().unwrap(), "db/flask".parse().unwrap())].into(),
            ..Names::default()
        }
    }

    fn ask(from: &str, to: &str, port: u16) -> Result<Vec<Explanation>, ExplanationError> {
        let request = ExplanationRequest {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            port,
            protocol: Protocol::TCP,
            method: None,
            path: None,
        };
        explain(&request, &snapshot(), &names())
    }

    #[test]
    fn both_local_pods_are_asked_in_order() {
        let explanation = &ask("db/debug", "db/flask", 5000).unwrap()[0];
        let asked: Vec<_> = explanation
            .steps
            .iter()
            .map(|s| (s.pod.to_string(), s.direction))
            .collect();
        assert_eq!(
            asked,
            [
                ("db/debug".into(), Direction::Egress),
                ("db/flask".into(), Direction::Ingress)
            ]
        );
        assert_eq!(
            (explanation.source.identity, explanation.destination.identity),
            (301, 300)
        );
    }

    #[test]
    fn service_is_explained_for_every_backend_at_its_own_port() {
        let explanations = ask("db/debug", "10.96.0.7", 80).unwrap();
        assert_eq!(explanations.len(), 2);
        assert!(
            explanations
                .iter()
                .all(|e| e.service.as_deref() == Some("db/flask"))
        );
        assert!(explanations.iter().all(|e| e.destination.port == 5000));
        // The second backend is no local pod: only the client's policy is asked here.
        assert_eq!(
            explanations.iter().map(|e| e.steps.len()).collect::<Vec<_>>(),
            [2, 1]
        );
    }

    #[test]
    fn unknown_names_are_refused_with_their_field() {
        let error = |result: Result<Vec<Explanation>, ExplanationError>| result.unwrap_err().to_string();
        assert_eq!(
            error(ask("db/x", "db/flask", 1)),
            "from: pod db/x is not known on this node"
        );
        assert_eq!(
            error(ask("world", "db/x", 1)),
            "to: pod db/x is not known on this node"
        );
        assert_eq!(
            error(ask("world", "10.96.0.7", 99)),
            "to: 10.96.0.7 is a Service's address, but has no port 99/TCP"
        );
        assert_eq!(
            error(ask("world", "10.96.0.7", 81)),
            "to: service db/empty has no ready backend"
        );
    }

    #[test]
    fn subjects_read_back_as_they_are_written() {
        for text in ["db/a", "10.0.0.1", "fd00::1", "host", "world"] {
            assert_eq!(text.parse::<Subject>().unwrap().to_string(), text);
        }
        for text in ["", "db", "db/", "/a", "10.0.0"] {
            assert!(text.parse::<Subject>().is_err(), "{text}");
        }
    }
}
