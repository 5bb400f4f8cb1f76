//! Which replica writes: the one that holds a Lease (`coordination.k8s.io/v1`).
//!
//! Times are client-go's, and so is the rule: a lease counts as abandoned when it was *seen* unchanged for its duration, by the
//! candidate's own clock, so that clocks of nodes need not agree. Invariants: a term ends by the holder's own clock before the lease
//! could be taken; each write names the `resourceVersion` that it was decided on, so of two candidates one is refused.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use tokio::sync::watch;
use tokio::time::{self, Instant};

/// How long after its last renewal a lease may be taken by another.
const LEASE: Duration = Duration::from_secs(15);
/// How long after its last renewal its holder still writes.
const TERM: Duration = Duration::from_secs(10);
/// Between two tries, of holder and candidates.
const RETRY: Duration = Duration::from_secs(2);
/// How long one try may take; a term has room for more than one.
const TRY: Duration = Duration::from_secs(4);

/// Until when this replica may write; `None` if another one leads.
pub type Term = Option<Instant>;

/// What is contended for.
#[derive(Debug, Clone)]
pub struct LeaseConfig {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `spec.holderIdentity` while this replica leads; no two replicas may have the same.
    pub identity: String,
}

/// A replica that wants to lead.
#[derive(Debug)]
pub struct Candidate {
    api: Api<Lease>,
    config: LeaseConfig,
    /// `resourceVersion` of the lease as it was seen last, and since when it is the same.
    seen: Option<(String, Instant)>,
}

impl Candidate {
    /// Nothing is asked yet.
    #[must_use]
    pub fn new(client: Client, config: LeaseConfig) -> Self {
        Self {
            api: Api::namespaced(client, &config.namespace),
            config,
            seen: None,
        }
    }

    /// Contends for good, and tells `term` of every beginning, renewal and end.
    pub async fn run(&mut self, term: &watch::Sender<Term>) {
        loop {
            let began = Instant::now();
            let outcome = time::timeout(TRY, self.acquire()).await;
            match outcome {
                Ok(Ok(true)) => {
                    if term.send_replace(Some(began + TERM)).is_none() {
                        tracing::info!(identity = self.config.identity, "leading");
                    }
                }
                Ok(Ok(false)) => self.end(term, "another replica has the lease"),
                Ok(Err(error)) => {
                    let error = format!("{:#}", anyhow::Error::from(error));
                    tracing::warn!(error, lease = self.config.name, "cannot ask for the lease");
                }
                Err(_) => tracing::warn!(
                    lease = self.config.name,
                    "the API server does not answer for the lease"
                ),
            }
            let next = Instant::now() + RETRY;
            let until = *term.borrow();
            time::sleep_until(until.map_or(next, |until| until.min(next))).await;
            if until.is_some_and(|until| until <= Instant::now()) {
                self.end(term, "the lease could not be renewed in time");
            }
        }
    }

    fn end(&self, term: &watch::Sender<Term>, reason: &str) {
        if term.send_replace(None).is_some() {
            tracing::warn!(identity = self.config.identity, reason, "not leading any more");
        }
    }

    /// Gives the lease back, so that another replica need not wait for its end.
    ///
    /// # Errors
    /// The API server's; the lease then ends by itself.
    pub async fn release(&self) -> Result<(), kube::Error> {
        let Some(mut lease) = self.api.get_opt(&self.config.name).await? else {
            return Ok(());
        };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(self.config.identity.as_str()) {
            return Ok(());
        }
        *spec = LeaseSpec {
            holder_identity: None,
            lease_duration_seconds: Some(1),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..spec.clone()
        };
        self.replace(&lease).await.map(drop)
    }

    /// Takes or renews the lease; `false` if another one has it.
    async fn acquire(&mut self) -> Result<bool, kube::Error> {
        let Some(mut lease) = self.api.get_opt(&self.config.name).await? else {
            return self.create().await;
        };
        let version = lease.resource_version().unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == version => *since,
            _ => Instant::now(),
        };
        self.seen = Some((version, since));
        let spec = lease.spec.get_or_insert_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let is_own = holder == self.config.identity;
        let duration = spec.lease_duration_seconds.map_or(LEASE, seconds);
        if !is_own && !holder.is_empty() && since.elapsed() < duration {
            return Ok(false);
        }
        let now = MicroTime(Timestamp::now());
        if !is_own {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        self.own(spec, now);
        self.replace(&lease).await
    }

    async fn create(&self) -> Result<bool, kube::Error> {
        let now = MicroTime(Timestamp::now());
        let mut spec = LeaseSpec {
            acquire_time: Some(now.clone()),
            lease_transitions: Some(0),
            ..LeaseSpec::default()
        };
        self.own(&mut spec, now);
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.config.name.clone()),
                namespace: Some(self.config.namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(spec),
        };
        unless_conflict(self.api.create(&PostParams::default(), &lease).await)
    }

    fn own(&self, spec: &mut LeaseSpec, now: MicroTime) {
        spec.holder_identity = Some(self.config.identity.clone());
        spec.lease_duration_seconds = i32::try_from(LEASE.as_secs()).ok();
        spec.renew_time = Some(now);
    }

    async fn replace(&self, lease: &Lease) -> Result<bool, kube::Error> {
        let params = PostParams::default();
        unless_conflict(self.api.replace(&self.config.name, &params, lease).await)
    }
}

/// A lease with a duration below zero is nobody's.
fn seconds(seconds: i32) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// `false` if another one was faster.
fn unless_conflict(outcome: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match outcome {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
