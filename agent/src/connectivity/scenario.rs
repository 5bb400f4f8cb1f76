//! What is tried: checks, and the policies under which they are to hold.
//!
//! Each file of `manifests/scenarios` begins with a document that is a [`Scenario`]; the others are its policies.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::probe::Outcome;

/// What stands for the address outside the cluster, in policies.
pub const EXTERNAL: &str = "@EXTERNAL@";

macro_rules! scenarios {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("manifests/scenarios/", $name, ".yaml")))),*]
    };
}

/// Names and texts, in the order in which they are tried.
const FILES: [(&str, &str); 34] = scenarios![
    "no-policies",
    "service-session-affinity",
    "service-internal-traffic-policy",
    "service-external-ips",
    "service-load-balancer",
    "host-port",
    "networkpolicy-default-deny",
    "networkpolicy-pods",
    "networkpolicy-namespaces",
    "networkpolicy-egress",
    "networkpolicy-ip-block",
    "cilium-l3",
    "cilium-l4",
    "cilium-ports",
    "cilium-ingress-deny",
    "cilium-no-default-deny",
    "cilium-egress",
    "cilium-egress-deny",
    "cilium-http",
    "cilium-http-egress",
    "cilium-icmp",
    "cilium-namespace",
    "cilium-entities-ingress",
    "cilium-entities-egress",
    "cilium-entity-cluster",
    "cilium-entity-world",
    "cilium-from-outside",
    "cilium-cidr",
    "cilium-cidr-group",
    "cilium-services",
    "cilium-dns",
    "cilium-clusterwide",
    "cluster-network-policy",
    "connection-cut",
];

/// A file that is no scenario.
#[derive(Debug, thiserror::Error)]
#[error("scenario {name}: {message}")]
pub struct ScenarioError {
    /// Its name.
    pub name: &'static str,
    /// What is wrong.
    pub message: String,
}

/// One thing that is tried.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name, which is its file's.
    #[serde(skip)]
    pub name: String,
    /// What it shows.
    pub description: String,
    /// What holds while its policies are there.
    pub checks: Vec<Check>,
    /// A connection that is there before the policies, and has to break off.
    #[serde(default)]
    pub held: Option<Held>,
    /// A pod that the kubelet's probes reach nevertheless.
    #[serde(default)]
    pub kubelet_probes: Option<String>,
    /// The policies, with placeholders.
    #[serde(skip)]
    pub policies: String,
}

/// Probes from each of several pods to each of several addresses.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Pods of the test, or `here`: the command itself.
    pub from: Vec<String>,
    /// URLs with a pod or another of [`Targets::hosts`](super::deployment::Targets) for a host. `external` may be the API server,
    /// which counts as the cluster's as well as the world's, `outside` may not.
    pub to: Vec<String>,
    /// Ask so many times, each by a connection of its own.
    #[serde(default)]
    pub times: Option<u32>,
    /// HTTP method.
    #[serde(default)]
    pub method: Option<String>,
    /// HTTP headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// What should come of them.
    pub expect: Expectation,
}

/// A connection that is held.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// The pod that holds it.
    pub from: String,
    /// Whom it asks.
    pub to: String,
}

/// What should come of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "serde_json::Value")]
pub enum Expectation {
    /// Any answer.
    Answered,
    /// An answer by the test's server, which saw the address of the pod that asked.
    OwnAddress,
    /// Answers by one and the same of the test's servers, of however many times.
    OneServer,
    /// Answers by the test's server in this pod and no other: `{server: POD}`.
    Server(String),
    /// Silence: the packets are dropped.
    Denied,
    /// An HTTP response with this status.
    Status(u16),
}

impl TryFrom<serde_json::Value> for Expectation {
    type Error = String;

    fn try_from(value: serde_json::Value) -> Result<Self, String> {
        match value.as_str() {
            Some("answered") => return Ok(Self::Answered),
            Some("own-address") => return Ok(Self::OwnAddress),
            Some("one-server") => return Ok(Self::OneServer),
            Some("denied") => return Ok(Self::Denied),
            _ => {}
        }
        if let Some(server) = value.get("server").and_then(serde_json::Value::as_str) {
            return Ok(Self::Server(server.into()));
        }
        let status = value.as_u64().and_then(|status| u16::try_from(status).ok());
        status.map(Self::Status).ok_or_else(|| {
            format!("{value} is not answered, own-address, one-server, a server, denied or a status")
        })
    }
}

impl std::fmt::Display for Expectation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Answered => f.write_str("answered"),
            Self::OwnAddress => f.write_str("answered, asked from its own address"),
            Self::OneServer => f.write_str("answered, always by the same server"),
            Self::Server(server) => write!(f, "answered, always by {server}"),
            Self::Denied => f.write_str("silence"),
            Self::Status(status) => write!(f, "status {status}"),
        }
    }
}

impl Expectation {
    /// Whether `outcome` is as expected, of a pod with these addresses.
    #[must_use]
    pub fn holds(&self, outcome: &Outcome, addresses: &[String]) -> bool {
        match (self, outcome) {
            (Self::Answered, Outcome::Answered { status, .. }) => status.is_none_or(|status| status == 200),
            (Self::OwnAddress, Outcome::Answered { echo: Some(echo), .. }) => addresses.contains(&echo.from),
            (Self::OneServer, Outcome::Spread { servers }) => servers.len() == 1,
            (Self::Server(server), Outcome::Spread { servers }) => servers.iter().eq([server]),
            (Self::Denied, Outcome::TimedOut) => true,
            (Self::Status(expected), Outcome::Answered { status, .. }) => *status == Some(*expected),
            _ => false,
        }
    }

    /// What should come of it when the policies are gone.
    #[must_use]
    pub fn without_policies(&self) -> Self {
        match self {
            Self::OwnAddress | Self::OneServer | Self::Server(_) => self.clone(),
            Self::Answered | Self::Denied | Self::Status(_) => Self::Answered,
        }
    }
}

/// Every scenario.
///
/// # Errors
/// [`ScenarioError`]
pub fn all() -> Result<Vec<Scenario>, ScenarioError> {
    FILES.iter().map(|(name, text)| read(name, text)).collect()
}

fn read(name: &'static str, text: &str) -> Result<Scenario, ScenarioError> {
    let (head, policies) = text.split_once("\n---\n").unwrap_or((text, ""));
    let mut scenario: Scenario = serde_saphyr::from_str(head).map_err(|error| ScenarioError {
        name,
        message: error.to_string(),
    })?;
    scenario.name = name.into();
    scenario.policies = policies.into();
    Ok(scenario)
}

#[cfg(test)]
mod tests {
    use control::object::{self, Decoded};

    use super::super::deployment::HERE;
    use super::super::pods::PODS;
    use super::super::probe::ProbeSpec;
    use super::*;
    use crate::cluster::documents;

    const NAMES: [&str; 13] = [
        "service",
        "sticky",
        "internal",
        "internal-near",
        "nodeport",
        "local-http",
        "local-admin",
        "hostport",
        "external-ip",
        "load-balancer",
        "headless",
        "external",
        "outside",
    ];

    #[test]
    fn every_scenario_can_be_read_and_names_pods_of_the_test() {
        let here = std::iter::once(HERE);
        let pods: Vec<_> = PODS.iter().map(|pod| pod.name).chain(here).collect();
        for scenario in all().unwrap() {
            assert!(!scenario.checks.is_empty(), "{}", scenario.name);
            for check in &scenario.checks {
                // Only many answers say who gave them, and only HTTP asks many times.
                let needs_times = matches!(check.expect, Expectation::OneServer | Expectation::Server(_));
                assert_eq!(needs_times, check.times.is_some(), "{}", scenario.name);
                let is_http = |to: &String| to.starts_with("http:");
                assert!(!needs_times || check.to.iter().all(is_http), "{}", scenario.name);
                for from in &check.from {
                    assert!(pods.contains(&from.as_str()), "{}: {from}", scenario.name);
                }
                for to in &check.to {
                    let port = if to.starts_with("icmp:") { "" } else { ":1" };
                    let host = to.split("://").nth(1).unwrap().split([':', '/']).next().unwrap();
                    assert!(
                        pods.contains(&host) || NAMES.contains(&host),
                        "{}: {to}",
                        scenario.name
                    );
                    let scheme = to.split("://").next().unwrap();
                    assert!(format!("{scheme}://a{port}").parse::<ProbeSpec>().is_ok(), "{to}");
                }
            }
        }
    }

    #[test]
    fn every_policy_of_a_scenario_is_one_that_an_agent_takes() {
        for scenario in all().unwrap() {
            let text = scenario.policies.replace(EXTERNAL, "192.0.2.1");
            for policy in documents(&text).unwrap() {
                let value = serde_json::to_value(&policy).unwrap();
                let decoded = object::decode(&value, "default");
                assert!(
                    matches!(decoded, Decoded::Object(_)),
                    "{}: {decoded:?}",
                    scenario.name
                );
            }
        }
    }

    #[test]
    fn every_scenario_with_policies_fails_where_nobody_enforces_them() {
        for scenario in all()
            .unwrap()
            .into_iter()
            .filter(|scenario| !scenario.policies.is_empty())
        {
            let is_restricted = |check: &Check| check.expect != check.expect.without_policies();
            let mut restricted = scenario.checks.iter();
            assert!(
                restricted.any(|check| is_restricted(check) && check.expect != Expectation::Status(200)),
                "{}",
                scenario.name
            );
        }
    }

    #[test]
    fn one_server_is_any_but_only_one_and_a_server_is_no_other() {
        let spread = |servers: &[&str]| Outcome::Spread {
            servers: servers.iter().map(ToString::to_string).collect(),
        };
        let echo: Expectation = serde_json::from_str(r#"{"server": "echo"}"#).unwrap();
        assert!(echo.holds(&spread(&["echo"]), &[]));
        assert!(!echo.holds(&spread(&["echo-far"]), &[]) && !echo.holds(&spread(&["echo", "echo-far"]), &[]));
        assert!(Expectation::OneServer.holds(&spread(&["echo-far"]), &[]));
        assert!(!Expectation::OneServer.holds(&spread(&["echo", "echo-far"]), &[]));
        for nobody in [spread(&[]), Outcome::TimedOut] {
            assert!(!Expectation::OneServer.holds(&nobody, &[]) && !echo.holds(&nobody, &[]));
        }
    }

    #[test]
    fn silence_is_nothing_else() {
        let answered = Outcome::Answered {
            status: Some(403),
            echo: None,
        };
        assert!(Expectation::Denied.holds(&Outcome::TimedOut, &[]));
        for other in [
            answered.clone(),
            Outcome::Refused,
            Outcome::Reset,
            Outcome::Unreachable,
        ] {
            assert!(!Expectation::Denied.holds(&other, &[]), "{other:?}");
        }
        assert!(Expectation::Status(403).holds(&answered, &[]));
        assert!(!Expectation::Answered.holds(&answered, &[]));
    }
}
