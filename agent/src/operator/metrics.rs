//! What the operator counts, for Prometheus.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use control::object::ObjectKey;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::time::Instant;

use super::lease::Term;
use super::policy::PolicyRecord;
use crate::heartbeat::Heartbeat;
use crate::metrics::MetricsSource;

/// Longest time between two turns of the writer: one request, and some.
const TURN: Duration = Duration::from_secs(60);

type Labels = Vec<(&'static str, String)>;

/// Counters and gauges; clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    term: watch::Receiver<Term>,
    /// Of the writer.
    heartbeat: Heartbeat,
    leader: Gauge,
    policies: Family<Labels, Gauge>,
    rejected: Family<Labels, Gauge>,
    status_writes: Family<Labels, Counter>,
    events: Counter,
    taints: Counter,
    errors: Family<Labels, Counter>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// What an error kept from being done.
#[derive(Debug, Clone, Copy)]
pub enum Action {
    /// Following the API server.
    Watch,
    /// Writing a condition.
    Status,
    /// Writing an Event.
    Event,
    /// Taking a taint off.
    Taint,
}

impl Action {
    const fn name(self) -> &'static str {
        match self {
            Self::Watch => "watch",
            Self::Status => "status",
            Self::Event => "event",
            Self::Taint => "taint",
        }
    }
}

impl Metrics {
    /// Everything is 0; whether this replica leads is taken from `term` at each scrape.
    #[must_use]
    pub fn new(term: watch::Receiver<Term>) -> Self {
        let mut registry = Registry::with_prefix("sluice_operator");
        let leader = Gauge::default();
        let policies = Family::<Labels, Gauge>::default();
        let rejected = Family::<Labels, Gauge>::default();
        let status_writes = Family::<Labels, Counter>::default();
        let events = Counter::default();
        let taints = Counter::default();
        let errors = Family::<Labels, Counter>::default();
        registry.register("leader", "Whether this replica holds the lease", leader.clone());
        registry.register("policies", "Policies, by kind and validity", policies.clone());
        let help = "1 for each policy that is rejected";
        registry.register("rejected_policy", help, rejected.clone());
        registry.register(
            "status_writes",
            "Conditions written, by kind",
            status_writes.clone(),
        );
        registry.register(
            "rejection_events",
            "Events written about rejected policies",
            events.clone(),
        );
        registry.register("taints_removed", "Taints taken off nodes", taints.clone());
        registry.register(
            "errors",
            "Requests that failed, by what they were for",
            errors.clone(),
        );
        Self(Arc::new(Inner {
            registry,
            term,
            heartbeat: Heartbeat::default(),
            leader,
            policies,
            rejected,
            status_writes,
            events,
            taints,
            errors,
        }))
    }

    /// The writer has come round.
    pub(super) fn turned(&self) {
        self.0.heartbeat.beat();
    }

    /// A policy is there.
    pub(super) fn add(&self, key: &ObjectKey, record: &PolicyRecord) {
        self.policies(key, record).inc();
        if !record.verdict.is_valid {
            self.0.rejected.get_or_create(&object(key)).set(1);
        }
    }

    /// A policy of [`Metrics::add`] is not there any more.
    pub(super) fn remove(&self, key: &ObjectKey, record: &PolicyRecord) {
        self.policies(key, record).dec();
        self.0.rejected.remove(&object(key));
    }

    fn policies(&self, key: &ObjectKey, record: &PolicyRecord) -> Gauge {
        let labels = vec![
            ("kind", key.kind.name().to_owned()),
            ("valid", record.verdict.is_valid.to_string()),
        ];
        self.0.policies.get_or_create_owned(&labels)
    }

    pub(super) fn wrote_status(&self, key: &ObjectKey) {
        let labels = vec![("kind", key.kind.name().to_owned())];
        self.0.status_writes.get_or_create(&labels).inc();
    }

    pub(super) fn wrote_event(&self) {
        self.0.events.inc();
    }

    pub(super) fn removed_taint(&self) {
        self.0.taints.inc();
    }

    pub(super) fn failed(&self, action: Action) {
        let labels = vec![("action", action.name().to_owned())];
        self.0.errors.get_or_create(&labels).inc();
    }

    /// OpenMetrics text format.
    #[must_use]
    pub fn render(&self) -> String {
        let leads = self.0.term.borrow().is_some_and(|until| Instant::now() < until);
        self.0.leader.set(i64::from(leads));
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _infallible = encode(&mut text, &self.0.registry);
        text
    }
}

impl MetricsSource for Metrics {
    type Error = Infallible;

    async fn scrape(&self) -> Result<String, Infallible> {
        Ok(self.render())
    }

    fn is_alive(&self) -> bool {
        self.0.heartbeat.age() <= TURN
    }
}

fn object(key: &ObjectKey) -> Labels {
    vec![
        ("kind", key.kind.name().to_owned()),
        ("namespace", key.namespace.clone()),
        ("name", key.name.clone()),
    ]
}
