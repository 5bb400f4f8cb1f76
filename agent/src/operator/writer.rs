//! What the operator has seen of the cluster, and the writes that it still owes.
//!
//! Every replica follows the API server; only the one whose term runs writes. Invariants: nothing is written that is there already; no
//! request is begun or awaited after the end of the term; what fails is tried again, later each time, until it succeeds or its
//! object has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use control::kubernetes::{Observations, Observed, WatchId, resource};
use control::object::{Kind, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::events::v1::Event;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{self, Instant};

use super::lease::Term;
use super::metrics::{Action, Metrics};
use super::policy::PolicyRecord;
use super::{condition, event, taint};

/// Field manager of everything that is written.
const MANAGER: &str = "sluice";

/// Longest time that a request may take.
const REQUEST: Duration = Duration::from_secs(10);

/// Until a failed write is tried again; twice that after each further failure.
const LEAST_DELAY: Duration = Duration::from_secs(1);
/// At most.
const MOST_DELAY: Duration = Duration::from_secs(60);

/// How often Events about policies that are still rejected are written again; the API server forgets them after an hour.
const ANNOUNCE: Duration = Duration::from_secs(30 * 60);

/// How often it is logged that a kind cannot be followed; every try is counted.
const WARN: Duration = Duration::from_secs(60);

/// Longest time between two turns without anything to do.
const IDLE: Duration = Duration::from_secs(5);

/// Something to write.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Task {
    /// A policy's condition or Event.
    Policy(ObjectKey),
    /// A node's taints.
    Node(String),
}

impl Task {
    const fn action(&self) -> Action {
        match self {
            Self::Policy(key) if has_condition(key.kind) => Action::Status,
            Self::Policy(_) => Action::Event,
            Self::Node(_) => Action::Taint,
        }
    }
}

/// When a task is due.
#[derive(Debug, Clone, Copy)]
struct Due {
    at: Instant,
    /// Until the next try if this one fails.
    delay: Duration,
}

/// A write that did not come about.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("the API server does not answer")]
    Timeout,
    #[error("this replica leads no more")]
    NotLeading,
    #[error(transparent)]
    Request(#[from] kube::Error),
}

impl WriteError {
    /// Whether the object is not what the write was decided on; what it is now is on its way. The API server answers 422 to a JSON
    /// patch whose test fails.
    const fn is_outdated(&self) -> bool {
        match self {
            Self::Request(kube::Error::Api(status)) => matches!(status.code, 404 | 409 | 422),
            _ => false,
        }
    }
}

/// How the cluster is looked at.
#[derive(Debug, Clone)]
pub struct WriterConfig {
    /// `reportingInstance` of Events.
    pub identity: String,
    /// Name of the cluster that policies are scoped to.
    pub cluster: String,
}

/// The state of one replica.
pub struct Writer {
    client: Client,
    config: WriterConfig,
    /// Kinds that are watched, by [`WatchId`].
    kinds: Vec<Kind>,
    term: watch::Receiver<Term>,
    metrics: Metrics,
    /// What a list that is not complete yet has brought.
    listings: BTreeMap<Kind, BTreeSet<ObjectKey>>,
    policies: BTreeMap<ObjectKey, PolicyRecord>,
    /// Taints of nodes that wait for their agent.
    nodes: BTreeMap<String, Vec<Value>>,
    /// Nodes of agents that are ready.
    agents: BTreeMap<ObjectKey, String>,
    owed: BTreeMap<Task, Due>,
    /// When a watch's failure was logged last.
    warned: BTreeMap<Kind, Instant>,
}

const fn has_condition(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::CiliumNetworkPolicy | Kind::CiliumClusterwideNetworkPolicy
    )
}

impl Writer {
    /// Nothing is seen or owed. `kinds` are those of the watches, by [`WatchId`]; pods are the agents'.
    #[must_use]
    pub fn new(
        client: Client,
        config: WriterConfig,
        kinds: Vec<Kind>,
        term: watch::Receiver<Term>,
        metrics: Metrics,
    ) -> Self {
        Self {
            client,
            config,
            kinds,
            term,
            metrics,
            listings: BTreeMap::new(),
            policies: BTreeMap::new(),
            nodes: BTreeMap::new(),
            agents: BTreeMap::new(),
            owed: BTreeMap::new(),
            warned: BTreeMap::new(),
        }
    }

    /// Takes note of what is observed, and writes while the term runs; until the watches end.
    pub async fn run(&mut self, mut observations: Observations) {
        let mut announce = time::interval_at(Instant::now() + ANNOUNCE, ANNOUNCE);
        loop {
            self.metrics.turned();
            let due = self.due();
            tokio::select! {
                biased;
                // What is seen first is taken note of first: of many changes of one object only the last is written about.
                observed = observations.next() => match observed {
                    Some((id, observed)) => self.observe(id, observed),
                    None => return,
                },
                _ = announce.tick() => self.announce_again(),
                // Whether and until when this replica leads; the sender is there as long as the operator.
                _ = self.term.changed() => {}
                () = time::sleep_until(due) => self.write_next().await,
            }
        }
    }

    /// When something is to be done next.
    fn due(&self) -> Instant {
        let idle = Instant::now() + IDLE;
        let owed = self.owed.values().map(|due| due.at).min();
        match owed {
            Some(at) if self.leads_until().is_some() => at.min(idle),
            _ => idle,
        }
    }

    fn leads_until(&self) -> Term {
        self.term.borrow().filter(|until| Instant::now() < *until)
    }

    /// Takes note of an observation.
    pub fn observe(&mut self, id: WatchId, observed: Observed) {
        let Some(kind) = self.kinds.get(id.0).copied() else {
            return;
        };
        match observed {
            Observed::ListBegins => {
                self.listings.insert(kind, BTreeSet::new());
            }
            Observed::Listed(object) => {
                let key = self.apply(kind, &object);
                self.listings.entry(kind).or_default().insert(key);
            }
            Observed::ListEnds => {
                let listing = self.listings.remove(&kind).unwrap_or_default();
                self.keep_only(kind, &listing);
            }
            Observed::Absent => {
                self.listings.remove(&kind);
                self.keep_only(kind, &BTreeSet::new());
            }
            Observed::Applied(object) => {
                self.apply(kind, &object);
            }
            Observed::Deleted(key) => self.delete(&key),
            Observed::Failed(error) => {
                self.metrics.failed(Action::Watch);
                let now = Instant::now();
                let is_news = self.warned.get(&kind).is_none_or(|last| now - *last > WARN);
                if is_news {
                    self.warned.insert(kind, now);
                    tracing::warn!(%error, kind = kind.name(), "cannot follow the API server");
                }
            }
        }
    }

    fn apply(&mut self, kind: Kind, object: &Value) -> ObjectKey {
        let key = key(kind, object);
        match kind {
            Kind::Node => {
                match taint::tainted(object) {
                    Some(taints) => self.nodes.insert(key.name.clone(), taints),
                    None => self.nodes.remove(&key.name),
                };
                self.consider(Task::Node(key.name.clone()));
            }
            Kind::Pod => match taint::ready_on(object) {
                Some(node) => {
                    self.agents.insert(key.clone(), node.clone());
                    self.consider(Task::Node(node));
                }
                None => self.delete(&key),
            },
            _ => self.apply_policy(&key, object),
        }
        key
    }

    fn apply_policy(&mut self, key: &ObjectKey, object: &Value) {
        let mut record = PolicyRecord::new(object, &self.config.cluster);
        let former = self.policies.remove(key);
        if let Some(former) = &former {
            self.metrics.remove(key, former);
            record.announced = former.announced && record.says_the_same(former);
        }
        if former.is_none_or(|former| !record.says_the_same(&former)) && !record.verdict.is_valid {
            tracing::warn!(object = %key, message = record.verdict.message, "policy is rejected");
        }
        self.metrics.add(key, &record);
        self.policies.insert(key.clone(), record);
        self.consider(Task::Policy(key.clone()));
    }

    fn delete(&mut self, key: &ObjectKey) {
        match key.kind {
            Kind::Node => {
                self.nodes.remove(&key.name);
                self.consider(Task::Node(key.name.clone()));
            }
            Kind::Pod => {
                if let Some(node) = self.agents.remove(key) {
                    self.consider(Task::Node(node));
                }
            }
            _ => {
                if let Some(record) = self.policies.remove(key) {
                    self.metrics.remove(key, &record);
                }
                self.consider(Task::Policy(key.clone()));
            }
        }
    }

    fn keep_only(&mut self, kind: Kind, listed: &BTreeSet<ObjectKey>) {
        let nodes = self.nodes.keys().map(|name| ObjectKey {
            kind: Kind::Node,
            namespace: String::new(),
            name: name.clone(),
        });
        let known = self.policies.keys().chain(self.agents.keys()).cloned();
        let gone: Vec<ObjectKey> = known
            .chain(nodes)
            .filter(|key| key.kind == kind && !listed.contains(key))
            .collect();
        for key in gone {
            self.delete(&key);
        }
    }

    /// Owes a write if there is anything to write.
    fn consider(&mut self, task: Task) {
        let is_needed = match &task {
            Task::Policy(key) => self.policies.get(key).is_some_and(|record| {
                if has_condition(key.kind) {
                    condition::apply(record, &resource(key.kind), Timestamp::now()).is_some()
                } else {
                    !record.verdict.is_valid && !record.announced
                }
            }),
            Task::Node(name) => {
                self.nodes.contains_key(name) && self.agents.values().any(|node| node == name)
            }
        };
        if is_needed {
            let due = Due {
                at: Instant::now(),
                delay: LEAST_DELAY,
            };
            self.owed.insert(task, due);
        } else {
            self.owed.remove(&task);
        }
    }

    fn announce_again(&mut self) {
        let rejected: Vec<ObjectKey> = self
            .policies
            .iter_mut()
            .filter(|(key, _)| !has_condition(key.kind))
            .map(|(key, record)| {
                record.announced = false;
                key.clone()
            })
            .collect();
        for key in rejected {
            self.consider(Task::Policy(key));
        }
    }

    /// Makes the write that is due, if any is and this replica leads.
    pub async fn write_next(&mut self) {
        let now = Instant::now();
        let mut due = self.owed.iter().filter(|(_, due)| due.at <= now);
        let Some((task, due)) = due.next().map(|(task, due)| (task.clone(), *due)) else {
            return;
        };
        let action = task.action();
        let Err(error) = self.write(&task).await else {
            self.owed.remove(&task);
            return;
        };
        if matches!(error, WriteError::NotLeading) {
            return;
        }
        if error.is_outdated() {
            tracing::debug!(%error, ?task, "outdated");
        } else {
            self.metrics.failed(action);
            tracing::warn!(
                error = format!("{:#}", anyhow::Error::from(error)),
                ?task,
                "cannot write"
            );
        }
        let due = Due {
            at: Instant::now() + due.delay,
            delay: (due.delay * 2).min(MOST_DELAY),
        };
        self.owed.insert(task, due);
    }

    async fn write(&mut self, task: &Task) -> Result<(), WriteError> {
        match task {
            Task::Policy(key) if has_condition(key.kind) => self.write_condition(key).await,
            Task::Policy(key) => self.write_event(key).await,
            Task::Node(name) => self.remove_taint(name).await,
        }
    }

    async fn write_condition(&mut self, key: &ObjectKey) -> Result<(), WriteError> {
        let resource = resource(key.kind);
        let Some(record) = self.policies.get(key) else {
            return Ok(());
        };
        let Some(body) = condition::apply(record, &resource, Timestamp::now()) else {
            return Ok(());
        };
        let api: Api<DynamicObject> = match key.namespace.as_str() {
            "" => Api::all_with(self.client.clone(), &resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &resource),
        };
        // Forced: a condition of type Valid is the operator's, whoever wrote it before.
        let params = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(&body);
        let request = api.patch_status(&key.name, &params, &patch);
        let written = self.within_term(request).await?;
        self.metrics.wrote_status(key);
        if let Some(record) = self.policies.get_mut(key) {
            record.resource_version = written.metadata.resource_version.unwrap_or_default();
            record.condition = condition::present(&written.data);
        }
        Ok(())
    }

    async fn write_event(&mut self, key: &ObjectKey) -> Result<(), WriteError> {
        let Some(record) = self.policies.get(key).filter(|record| !record.verdict.is_valid) else {
            return Ok(());
        };
        let event = event::rejection(
            record,
            &resource(key.kind),
            &self.config.identity,
            Timestamp::now(),
        );
        let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        match self.within_term(api.create(&params, &event)).await {
            Ok(_) => self.metrics.wrote_event(),
            // Another leader has told of it, or this one an hour ago.
            Err(WriteError::Request(kube::Error::Api(status))) if status.is_already_exists() => {}
            Err(error) => return Err(error),
        }
        if let Some(record) = self.policies.get_mut(key) {
            record.announced = true;
        }
        Ok(())
    }

    async fn remove_taint(&mut self, name: &str) -> Result<(), WriteError> {
        let Some(taints) = self.nodes.get(name) else {
            return Ok(());
        };
        let patch = serde_json::from_value(taint::removal(taints)).map_err(kube::Error::SerdeError)?;
        let api: Api<Node> = Api::all(self.client.clone());
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::<()>::Json(patch);
        self.within_term(api.patch(name, &params, &patch)).await?;
        tracing::info!(node = name, "the agent is ready: taint removed");
        self.metrics.removed_taint();
        self.nodes.remove(name);
        Ok(())
    }

    /// The answer to a request, unless the term ends before.
    async fn within_term<T>(
        &self,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, WriteError> {
        let Some(until) = self.leads_until() else {
            return Err(WriteError::NotLeading);
        };
        let mut term = self.term.clone();
        tokio::select! {
            biased;
            _ = term.wait_for(Option::is_none) => Err(WriteError::NotLeading),
            answer = time::timeout_at(until.min(Instant::now() + REQUEST), request) => match answer {
                Ok(answer) => Ok(answer?),
                Err(_) => Err(WriteError::Timeout),
            },
        }
    }
}

fn key(kind: Kind, object: &Value) -> ObjectKey {
    let text = |key: &str| {
        let value = object.get("metadata").and_then(|metadata| metadata.get(key));
        value.and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    ObjectKey {
        kind,
        namespace: text("namespace"),
        name: text("name"),
    }
}

#[cfg(test)]
mod tests;
