//! One verdict as people and programs read it: a [`FlowEvent`] with its numbers given names.
//!
//! Names come from the snapshot and [`Names`] at the time of the event; nothing here is looked up later. Text that a pod chose
//! (method, path) is escaped before it reaches a terminal.

use std::fmt::{self, Write};
use std::net::IpAddr;

use datapath::event::{FlowEvent, FlowEventKind};
use jiff::Timestamp;
use policy::{Decision, Direction, DropReason, Identity, PodName, Protocol, RuleId, Snapshot};
use serde::{Deserialize, Serialize};

use crate::names::Names;

/// What became of a packet or request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FlowVerdict {
    /// Sent on.
    Forwarded,
    /// Not sent on.
    Dropped,
    /// Sent on although policy denies it, because the endpoint that denies it is in audit mode.
    Audit,
}

/// Why something was dropped, with Hubble's number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowDropReason {
    /// Number ([`DropReason`]).
    pub code: u8,
    /// Its text.
    pub text: String,
}

impl From<DropReason> for FlowDropReason {
    fn from(reason: DropReason) -> Self {
        Self {
            code: reason as u8,
            text: reason.label().into(),
        }
    }
}

/// One side of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowPeer {
    /// The pod, when the address is a pod's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
    /// Identity.
    pub identity: u32,
    /// Labels of the identity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Address.
    pub addr: IpAddr,
    /// Port; 0 where the protocol has none. The destination's is the type for ICMP.
    pub port: u16,
}

/// A rule that had a say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRule {
    /// The endpoint's direction that the rule is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// The rule, as `kind namespace/name direction[index]`.
    pub name: String,
}

/// The HTTP part of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum FlowHttp {
    /// A request was judged.
    Request {
        /// Method.
        method: String,
        /// Request target, possibly cut.
        path: String,
    },
    /// A response went by.
    Response {
        /// Status code.
        status: u16,
    },
}

/// A Service that was translated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowService {
    /// `namespace/name`, when the Service is still known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The address the client asked for.
    pub addr: IpAddr,
    /// The port the client asked for.
    pub port: u16,
}

/// One event of the flow log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// When (RFC 3339).
    pub time: Timestamp,
    /// What became of it.
    pub verdict: FlowVerdict,
    /// Why it was dropped, or would have been.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop_reason: Option<FlowDropReason>,
    /// The endpoint's direction whose policy denies it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// Transport protocol, as users write it.
    pub protocol: String,
    /// Where it came from.
    pub source: FlowPeer,
    /// Where it went, after service translation.
    pub destination: FlowPeer,
    /// The Service it was sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<FlowService>,
    /// Whether the packet was a reply.
    pub is_reply: bool,
    /// Rules that decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<FlowRule>,
    /// What the policies of these rules have to say of it (`spec.log.value`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policy_log: Vec<String>,
    /// HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<FlowHttp>,
    /// Revision of the snapshot that decided.
    pub revision: u64,
}

impl FlowRecord {
    /// Names everything in `event`.
    #[must_use]
    pub fn new(event: &FlowEvent, snapshot: &Snapshot, names: &Names) -> Self {
        let rule = |direction: Option<Direction>, id: Option<RuleId>| Some((direction, id?));
        let (reason, direction, rules, http) = match event.kind {
            FlowEventKind::Allowed { egress, ingress } => (
                None,
                None,
                [
                    rule(Some(Direction::Egress), egress),
                    rule(Some(Direction::Ingress), ingress),
                ],
                None,
            ),
            FlowEventKind::Dropped {
                reason,
                direction,
                rule: id,
            } => (Some(reason), direction, [rule(direction, id), None], None),
            FlowEventKind::Audited {
                reason,
                direction,
                rule: id,
            } => {
                let direction = Some(direction);
                (Some(reason), direction, [rule(direction, id), None], None)
            }
            FlowEventKind::HttpRequest {
                denied,
                direction,
                method,
                path,
                audited: _,
            } => {
                let http = FlowHttp::Request {
                    method: method.to_text(),
                    path: path.to_text(),
                };
                let limits = |of| rule(Some(of), http_rule(event, of, snapshot));
                // What denies a request is named alone; one that is forwarded has passed the rules of both directions.
                let rules = match direction {
                    Some(direction) => [limits(direction), None],
                    None if denied.is_none() => [limits(Direction::Egress), limits(Direction::Ingress)],
                    None => [None, None],
                };
                (denied, direction, rules, Some(http))
            }
            FlowEventKind::HttpResponse { status } => {
                (None, None, [None, None], Some(FlowHttp::Response { status }))
            }
        };
        let rules = rules.into_iter().flatten();
        let mut policy_log: Vec<String> = Vec::new();
        for text in rules.clone().filter_map(|(_, id)| snapshot.rule_log(id)) {
            if !policy_log.iter().any(|known| known == text) {
                policy_log.push(text.into());
            }
        }
        let rules = rules.filter_map(|(direction, id)| {
            let name = snapshot.rule(id)?.into();
            Some(FlowRule { direction, name })
        });
        let pod_of = |key, addr| {
            let local = Option::and_then(key, |key| snapshot.endpoint(key)).map(|policy| &policy.pod);
            local.or_else(|| names.pod(addr)).cloned()
        };
        let peer = |pod, identity: Identity, addr, port| FlowPeer {
            pod,
            identity: identity.0,
            labels: names.labels(identity),
            addr,
            port,
        };
        Self {
            // Beyond year 9999 only when the clock is nonsense.
            time: Timestamp::from_nanosecond(event.time_ns.into()).unwrap_or(Timestamp::MAX),
            verdict: match event.kind {
                FlowEventKind::Audited { .. } | FlowEventKind::HttpRequest { audited: true, .. } => {
                    FlowVerdict::Audit
                }
                _ if reason.is_some() => FlowVerdict::Dropped,
                _ => FlowVerdict::Forwarded,
            },
            drop_reason: reason.map(FlowDropReason::from),
            direction,
            protocol: event.protocol.name().into_owned(),
            source: peer(
                pod_of(Some(event.source), event.source_addr),
                event.source_identity,
                event.source_addr,
                event.source_port,
            ),
            destination: peer(
                pod_of(event.destination, event.destination_addr),
                event.destination_identity,
                event.destination_addr,
                event.destination_port,
            ),
            service: event.service.map(|(addr, port)| FlowService {
                name: service_name(snapshot, addr, port, event.protocol),
                addr,
                port,
            }),
            is_reply: event.is_reply,
            rules: rules.collect(),
            policy_log,
            http,
            revision: event.revision.0,
        }
    }

    /// Whether the pod is on either side.
    #[must_use]
    pub fn concerns(&self, pod: &PodName) -> bool {
        [&self.source, &self.destination]
            .into_iter()
            .any(|peer| peer.pod.as_ref() == Some(pod))
    }

    /// One line in the manner of `hubble observe`, with ANSI colours if `colour`.
    #[must_use]
    pub fn line(&self, colour: bool) -> String {
        let mut line = String::with_capacity(160);
        // Writing to a String cannot fail.
        let _infallible = self.write_line(&mut line, colour);
        line
    }

    fn write_line(&self, out: &mut String, colour: bool) -> fmt::Result {
        let paint = |code: &'static str| if colour { code } else { "" };
        let (dim, red, green, yellow, plain) = (
            paint("\x1b[2m"),
            paint("\x1b[31m"),
            paint("\x1b[32m"),
            paint("\x1b[33m"),
            paint("\x1b[0m"),
        );
        write!(out, "{dim}{:.3}{plain}: ", self.time)?;
        write_peer(out, &self.source)?;
        out.push_str(" -> ");
        write_peer(out, &self.destination)?;
        if let Some(service) = &self.service {
            match &service.name {
                Some(name) => write!(out, " via {name}:{}", service.port)?,
                None => write!(out, " via {}", AddrPort(service.addr, service.port))?,
            }
        }
        write!(out, " {}", self.protocol)?;
        if self.is_reply {
            out.push_str(" reply");
        }
        match &self.http {
            Some(FlowHttp::Request { method, path }) => {
                write!(out, " http-request \"{} {}\"", Escaped(method), Escaped(path))?;
            }
            Some(FlowHttp::Response { status }) => write!(out, " http-response {status}")?,
            None => {}
        }
        match self.verdict {
            FlowVerdict::Forwarded => write!(out, " {green}FORWARDED{plain}")?,
            FlowVerdict::Dropped => write!(out, " {red}DROPPED{plain}")?,
            FlowVerdict::Audit => write!(out, " {yellow}AUDIT{plain}")?,
        }
        if let Some(reason) = &self.drop_reason {
            write!(out, " {} ({})", reason.text, reason.code)?;
        }
        match self.direction {
            Some(Direction::Ingress) => out.push_str(" at ingress"),
            Some(Direction::Egress) => out.push_str(" at egress"),
            None => {}
        }
        for (i, rule) in self.rules.iter().enumerate() {
            let separator = if i == 0 { " by " } else { ", " };
            write!(out, "{separator}{}", rule.name)?;
        }
        for text in &self.policy_log {
            write!(out, " \"{}\"", Escaped(text))?;
        }
        Ok(())
    }
}

/// The rule by which the requests of the event's flow are judged in a direction. Events carry no rule of HTTP: it is what the
/// tables say of the flow.
fn http_rule(event: &FlowEvent, direction: Direction, snapshot: &Snapshot) -> Option<RuleId> {
    let (own, peer) = match direction {
        Direction::Egress => (event.source, event.destination_identity),
        Direction::Ingress => (event.destination?, event.source_identity),
    };
    let policy = snapshot.endpoint(own)?;
    match policy.decide(direction, peer, event.protocol, event.destination_port) {
        Decision::AllowHttp(_, rule) => Some(rule),
        _ => None,
    }
}

/// The Service's name. A UDP frontend is found although the event's protocol may be that of an ICMP error.
fn service_name(snapshot: &Snapshot, addr: IpAddr, port: u16, protocol: Protocol) -> Option<String> {
    match snapshot.services.lookup(addr, port, protocol) {
        policy::ServiceLookup::Service(service) => Some(service.name.clone()),
        _ => None,
    }
}

fn write_peer(out: &mut String, peer: &FlowPeer) -> fmt::Result {
    match &peer.pod {
        Some(pod) => write!(out, "{pod}")?,
        None if peer.port == 0 || peer.addr.is_ipv4() => write!(out, "{}", peer.addr)?,
        None => write!(out, "[{}]", peer.addr)?,
    }
    if peer.port != 0 {
        write!(out, ":{}", peer.port)?;
    }
    match Identity(peer.identity).reserved_name() {
        Some(name) => write!(out, " ({name})"),
        None => write!(out, " (ID:{})", peer.identity),
    }
}

/// `address:port` with brackets round IPv6.
struct AddrPort(IpAddr, u16);

impl fmt::Display for AddrPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::net::SocketAddr::new(self.0, self.1).fmt(f)
    }
}

/// Text that others chose: control characters must not reach a terminal, nor quotes end the quotation.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_debug().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datapath::event::InlineText;
    use policy::{EndpointKey, Revision, Service, ServiceKey, ServiceTable, Slot, SlotGeneration};

    use super::*;

    fn key(slot: u16) -> EndpointKey {
        EndpointKey {
            slot: Slot(slot),
            generation: SlotGeneration(1),
        }
    }

    fn event(kind: FlowEventKind) -> FlowEvent {
        FlowEvent {
            time_ns: 1_763_911_275_123_456_789,
            revision: Revision(7),
            source: key(8),
            destination: Some(key(9)),
            source_identity: Identity(300),
            destination_identity: Identity(301),
            source_addr: "10.1.0.5".parse().unwrap(),
            destination_addr: "10.1.0.6".parse().unwrap(),
            source_port: 40_000,
            destination_port: 5000,
            service: Some(("10.96.0.7".parse().unwrap(), 80)),
            protocol: Protocol::TCP,
            is_reply: false,
            kind,
        }
    }

    fn names() -> Names {
        let pod = |addr: &str, pod: &str| (addr.parse().unwrap(), pod.parse().unwrap());
        Names {
            pods: [pod("10.1.0.5", "dummy/debug"), pod("10.1.0.6", "db/flask")].into(),
            labels: [(Identity(300), Arc::from(["app=debug".to_owned()]))].into(),
        }
    }

    fn snapshot() -> Snapshot {
        let key = ServiceKey {
            addr: "10.96.0.7".parse().unwrap(),
            port: 80,
            protocol: Protocol::TCP,
        };
        let service = Service::cluster_ip("db/flask-app-service", key, Vec::new());
        Snapshot {
            services: Arc::new(ServiceTable::new([service])),
            rules: Arc::new(vec![policy::RuleInfo {
                name: "cnp db/l7-rule ingress[0]".into(),
                log: Some("for the auditors\n".into()),
            }]),
            ..Snapshot::default()
        }
    }

    #[test]
    fn drop_names_pods_service_reason_and_direction() {
        let kind = FlowEventKind::Dropped {
            reason: DropReason::PolicyDenied,
            direction: Some(Direction::Ingress),
            rule: None,
        };
        let record = FlowRecord::new(&event(kind), &snapshot(), &names());
        assert_eq!(
            record.line(false),
            "2025-11-23T15:21:15.123Z: dummy/debug:40000 (ID:300) -> db/flask:5000 (ID:301) \
             via db/flask-app-service:80 TCP DROPPED Policy denied (133) at ingress"
        );
        assert!(record.line(true).contains("\x1b[31mDROPPED\x1b[0m"));
        assert_eq!(record.source.labels, ["app=debug"]);
        assert!(record.concerns(&"db/flask".parse().unwrap()));
        assert!(!record.concerns(&"db/other".parse().unwrap()));
    }

    #[test]
    fn allowed_flow_names_its_rule() {
        let kind = FlowEventKind::Allowed {
            egress: None,
            ingress: Some(RuleId(0)),
        };
        let record = FlowRecord::new(&event(kind), &snapshot(), &names());
        assert_eq!(record.verdict, FlowVerdict::Forwarded);
        assert_eq!(
            record.rules,
            [FlowRule {
                direction: Some(Direction::Ingress),
                name: "cnp db/l7-rule ingress[0]".into()
            }]
        );
        assert!(
            record
                .line(false)
                .ends_with("TCP FORWARDED by cnp db/l7-rule ingress[0] \"for the auditors\\n\"")
        );
        assert_eq!(record.policy_log, ["for the auditors\n"]);
    }

    #[test]
    fn control_characters_of_a_request_do_not_reach_the_terminal() {
        let kind = FlowEventKind::HttpRequest {
            denied: Some(DropReason::HttpDenied),
            direction: Some(Direction::Ingress),
            audited: false,
            method: InlineText::new(b"GET"),
            path: InlineText::new(b"/\x1b]0;x\x07\n\xff\""),
        };
        let record = FlowRecord::new(&event(kind), &snapshot(), &names());
        let line = record.line(false);
        assert!(line.chars().all(|c| !c.is_control()), "{line:?}");
        assert!(line.contains("http-request \"GET /"), "{line}");
        assert!(line.contains("HTTP request denied (240)"), "{line}");
    }

    #[test]
    fn audited_flow_says_what_would_have_denied_it() {
        let kind = FlowEventKind::Audited {
            reason: DropReason::PolicyDenyRule,
            direction: Direction::Ingress,
            rule: Some(RuleId(0)),
        };
        let record = FlowRecord::new(&event(kind), &snapshot(), &names());
        assert_eq!(record.verdict, FlowVerdict::Audit);
        let line = record.line(false);
        assert!(
            line.ends_with(
                "TCP AUDIT Policy denied by denylist (181) at ingress by cnp db/l7-rule ingress[0] \
                 \"for the auditors\\n\""
            ),
            "{line}"
        );
        assert!(record.line(true).contains("\x1b[33mAUDIT\x1b[0m"));
        let json = serde_json::to_string(&record).unwrap();
        assert!(json.contains(r#""verdict":"audit""#), "{json}");
        assert_eq!(serde_json::from_str::<FlowRecord>(&json).unwrap(), record);
    }

    #[test]
    fn audited_request_is_no_drop() {
        let kind = FlowEventKind::HttpRequest {
            denied: Some(DropReason::HttpDenied),
            direction: Some(Direction::Egress),
            audited: true,
            method: InlineText::new(b"GET"),
            path: InlineText::new(b"/metrics"),
        };
        let record = FlowRecord::new(&event(kind), &snapshot(), &names());
        assert_eq!(record.verdict, FlowVerdict::Audit);
        assert!(
            record
                .line(false)
                .ends_with("http-request \"GET /metrics\" AUDIT HTTP request denied (240) at egress")
        );
    }

    #[test]
    fn judged_request_names_the_rule_that_limits_the_flow() {
        let mut http = policy::HttpSets::default();
        let set = policy::HttpRuleSet::new(vec![policy::HttpRule::default()]).unwrap();
        let set = http.insert(Arc::new(set));
        let entry = policy::Entry {
            tier: policy::Tier::Normal,
            peers: policy::Peers::Identities([Identity(300)].into()),
            protocol: Protocol::TCP,
            ports: 5000..=5000,
            action: policy::Action::AllowHttp(set),
            rule: RuleId(0),
        };
        let endpoint = policy::EndpointPolicy {
            key: key(9),
            pod: "db/flask".parse().unwrap(),
            identity: Identity(301),
            identity6: Identity(301),
            generation: policy::PolicyGeneration(1),
            ingress: Arc::new(policy::PolicyTable::build(true, &[entry], &mut http).unwrap()),
            egress: Arc::default(),
            http: http.into_sets(),
            audit: false,
        };
        let mut endpoints = vec![None; 10];
        endpoints[9] = Some(Arc::new(endpoint));
        let snapshot = Snapshot {
            endpoints: Arc::new(endpoints),
            ..snapshot()
        };
        for (denied, direction) in [
            (Some(DropReason::HttpDenied), Some(Direction::Ingress)),
            (None, None),
        ] {
            let kind = FlowEventKind::HttpRequest {
                denied,
                direction,
                audited: false,
                method: InlineText::new(b"GET"),
                path: InlineText::new(b"/"),
            };
            let record = FlowRecord::new(&event(kind), &snapshot, &names());
            let names: Vec<&str> = record.rules.iter().map(|rule| &*rule.name).collect();
            assert_eq!(names, ["cnp db/l7-rule ingress[0]"], "{denied:?}");
            assert_eq!(record.policy_log, ["for the auditors\n"]);
        }
    }

    #[test]
    fn json_has_rfc3339_time_and_survives_a_round_trip() {
        for kind in [
            FlowEventKind::HttpResponse { status: 403 },
            FlowEventKind::Dropped {
                reason: DropReason::InvalidSourceIp,
                direction: None,
                rule: None,
            },
        ] {
            let record = FlowRecord::new(&event(kind), &snapshot(), &names());
            let json = serde_json::to_string(&record).unwrap();
            assert!(
                json.contains(r#""time":"2025-11-23T15:21:15.123456789Z""#),
                "{json}"
            );
            assert_eq!(serde_json::from_str::<FlowRecord>(&json).unwrap(), record);
        }
    }
}
