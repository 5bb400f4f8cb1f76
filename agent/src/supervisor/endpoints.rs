//! The life of endpoints: taken up again, added, attached, detached, forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use control::LocalEndpoint;
use policy::{PodName, Slot};
use tokio::task::block_in_place;

use super::Supervisor;
use super::tuner::Tuned;
use crate::api::status::EndpointStatus;
use crate::api::{ApiError, ErrorCode};
use crate::endpoint_registry::{Attachment, AuditMode, Endpoint, EndpointSpec, RegistryError};
use crate::node::napi;
use crate::node::tuning::TuningStep;

/// Time of one tick for what may take long and can wait for the next.
const TICK_BUDGET: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Takes the endpoints of the last run up again; those whose interface is gone, or whose namespace is excluded now, are forgotten.
    ///
    /// # Errors
    /// Who is at which interface is not known.
    pub(super) async fn adopt(&mut self) -> anyhow::Result<()> {
        self.follow_renames()
            .await
            .context("cannot follow interfaces that were renamed")?;
        let known: Vec<Endpoint> = self.registry.endpoints().cloned().collect();
        for endpoint in known {
            let pod = &endpoint.spec.pod;
            if self.excluded.contains(&pod.namespace) {
                tracing::info!(%pod, "namespace is excluded: endpoint forgotten");
                self.forget(&endpoint).await;
                self.release(&endpoint.spec.interface);
            } else if self.devices.is_gone(&endpoint.spec.interface).await {
                tracing::info!(%pod, "interface is gone: endpoint forgotten");
                self.forget(&endpoint).await;
            } else {
                self.take_up(&endpoint).await;
            }
        }
        self.release_vanished();
        self.reconcile().await;
        if self.napi_cpu.is_none() {
            let known = self.registry.endpoints();
            let interfaces: Vec<String> = known.map(|endpoint| endpoint.spec.interface.clone()).collect();
            // The former agent's threads: no hurry, and nothing depends on it.
            tokio::spawn(async move {
                for interface in interfaces {
                    if let Err(error) = napi::place(&interface, None).await {
                        tracing::warn!(interface, %error, "is still received in threads, if it was");
                    }
                }
            });
        }
        Ok(())
    }

    /// Serves an endpoint of the former agent. As long as that fails, its pod is cut off.
    async fn take_up(&mut self, endpoint: &Endpoint) {
        if let Err(error) = self.attach(endpoint, true).await {
            let warnings = vec![format!("{error:#}")];
            if self.warnings.get(&endpoint.key.slot) != Some(&warnings) {
                tracing::error!(pod = %endpoint.spec.pod, error = format!("{error:#}"), "pod stays cut off");
            }
            self.warnings.insert(endpoint.key.slot, warnings);
            self.cut_off.push_back(endpoint.key);
        }
    }

    /// Tries again to serve the endpoints that could not be: what was in the way may be gone.
    pub(super) async fn retry_cut_off(&mut self) {
        let since = Instant::now();
        for _ in 0..self.cut_off.len() {
            if since.elapsed() > TICK_BUDGET {
                return;
            }
            let Some(key) = self.cut_off.pop_front() else {
                return;
            };
            let endpoint = self.registry.endpoints().find(|endpoint| endpoint.key == key);
            // One that was deleted meanwhile is nobody's, and one that was added again is served.
            let is_served = self.dataplane.attached(key).is_some();
            if let Some(endpoint) = endpoint.filter(|_| !is_served).cloned() {
                self.take_up(&endpoint).await;
            }
        }
    }

    /// Places the kernel threads that receive what pods send, where they are to be and are not: of pods that were there before the
    /// agent, and of interfaces that were down meanwhile.
    pub(super) async fn place_napi(&mut self) {
        let Some(cpu) = self.napi_cpu else {
            return;
        };
        let since = Instant::now();
        let served: BTreeMap<String, Slot> = self
            .registry
            .endpoints()
            .filter(|endpoint| self.dataplane.attached(endpoint.key).is_some())
            .map(|endpoint| (endpoint.spec.interface.clone(), endpoint.key.slot))
            .collect();
        for interface in napi::misplaced(served.keys().cloned().collect(), cpu).await {
            if since.elapsed() > TICK_BUDGET {
                return;
            }
            let Some(slot) = served.get(&interface) else {
                continue;
            };
            let outcome = napi::place(&interface, Some(cpu)).await;
            let warnings = self.warnings.entry(*slot).or_default();
            let step = TuningStep::HostThreadedNapi.to_string();
            warnings.retain(|warning| !warning.starts_with(&step));
            if let Err(error) = outcome {
                warnings.push(format!("{step}: {error}"));
            }
        }
    }

    /// `adopted`: its pod was there before the agent.
    pub(super) async fn add(
        &mut self,
        spec: EndpointSpec,
        adopted: bool,
    ) -> Result<EndpointStatus, ApiError> {
        if self.excluded.contains(&spec.pod.namespace) {
            let message = format!(
                "pod: namespace {} is excluded (--exclude-namespace)",
                spec.pod.namespace
            );
            return Err(ApiError::new(ErrorCode::Excluded, &message));
        }
        let Some(device) = self.devices.find(&spec.interface).await else {
            return Err(ApiError::new(
                ErrorCode::InvalidArgument,
                &format!("interface: `{}` does not exist", spec.interface),
            ));
        };
        let known = self.registry.get(&spec.pod).filter(|known| known.spec == spec);
        if let Some(known) = known.cloned()
            && let Some(attached) = self.dataplane.attached(known.key)
            && attached.device.index != device.index
        {
            // The name is another interface's by now, and that it was removed is still to be told.
            self.detach(&known).await;
            self.release_vanished();
        }
        let is_known = self
            .registry
            .get(&spec.pod)
            .is_some_and(|endpoint| endpoint.spec == spec);
        let endpoint = self.registry.add(spec).map_err(|error| refused(&error))?;
        let is_served = self.dataplane.attached(endpoint.key).is_some();
        if !(is_known && is_served)
            && let Err(error) = self.attach(&endpoint, adopted).await
        {
            if is_known {
                // It is under policy, and cut off until it can be served: who asks for it again must not set it free.
                if !self.cut_off.contains(&endpoint.key) {
                    self.cut_off.push_back(endpoint.key);
                }
            } else {
                self.detach(&endpoint).await;
                if endpoint.spec.attachment.is_none() {
                    self.release(&endpoint.spec.interface);
                }
            }
            return Err(ApiError::new(ErrorCode::Failed, &format!("{error:#}")));
        }
        Ok(self.endpoint_status(&endpoint))
    }

    pub(super) fn configure(&mut self, pod: &PodName, audit: AuditMode) -> Result<EndpointStatus, ApiError> {
        let endpoint = self
            .registry
            .set_audit(pod, audit)
            .map_err(|error| refused(&error))?;
        tracing::info!(%pod, ?audit, "audit mode");
        self.introduce(&endpoint);
        Ok(self.endpoint_status(&endpoint))
    }

    /// Tells control of an endpoint, and the worker what came of it.
    fn introduce(&mut self, endpoint: &Endpoint) {
        let spec = &endpoint.spec;
        self.control.endpoint_add(LocalEndpoint {
            key: endpoint.key,
            pod: spec.pod.clone(),
            uid: spec.uid.clone(),
            addresses: spec.addresses().collect(),
            audit: endpoint.audit.audits(self.audit),
        });
        let snapshot = Arc::clone(&self.control.snapshots().borrow());
        self.publish(snapshot);
    }

    /// `attachment`: only if the endpoint is this one's.
    pub(super) async fn delete(
        &mut self,
        pod: &PodName,
        attachment: Option<&Attachment>,
    ) -> Result<EndpointStatus, ApiError> {
        let not_found = |what: &str| ApiError::new(ErrorCode::NotFound, &format!("pod: {pod} {what}"));
        let Some(endpoint) = self.registry.get(pod).cloned() else {
            return Err(not_found("is no endpoint"));
        };
        if attachment.is_some() && attachment != endpoint.spec.attachment.as_ref() {
            return Err(not_found("is the endpoint of another attachment"));
        }
        let last = self.endpoint_status(&endpoint);
        self.detach(&endpoint).await;
        // The runtime removes the interface next; until it has, nothing must pass it.
        if attachment.is_none() {
            self.release(&endpoint.spec.interface);
        }
        Ok(last)
    }

    /// Guard, XDP with an empty slot, routes, socket, slot.
    async fn attach(&mut self, endpoint: &Endpoint, adopted: bool) -> anyhow::Result<()> {
        let spec = &endpoint.spec;
        let device = self
            .devices
            .find(&spec.interface)
            .await
            .with_context(|| format!("interface {} is gone", spec.interface))?;
        let mode = block_in_place(|| self.dataplane.close(endpoint, &device))?;
        self.reconcile().await;
        self.introduce(endpoint);
        block_in_place(|| self.dataplane.open(endpoint, &device, mode, adopted))?;
        let mut warnings = Vec::new();
        if adopted {
            // A former agent's settings have survived, and other pods wait to be served.
            self.tuner.tune_later(endpoint);
        } else {
            warnings = self.tuner.tune(endpoint).await;
            if self.napi_cpu.is_some()
                && let Err(error) = napi::place(&spec.interface, self.napi_cpu).await
            {
                warnings.push(format!("{}: {error}", TuningStep::HostThreadedNapi));
            }
        }
        self.warnings.insert(endpoint.key.slot, warnings);
        Ok(())
    }

    /// Pods were tuned that had not waited for it.
    pub(super) fn tuned(&mut self, tuned: Tuned) {
        if self.dataplane.attached(tuned.key).is_some() {
            let warnings = self.warnings.entry(tuned.key.slot).or_default();
            warnings.extend(tuned.warnings);
        }
    }

    /// Everything back, in the opposite order, but for the programs: the interface stays closed until it is released. What fails is
    /// reported and the rest goes on.
    pub(super) async fn detach(&mut self, endpoint: &Endpoint) {
        let interface = &endpoint.spec.interface;
        if let Err(error) = block_in_place(|| self.dataplane.stop(endpoint.key)) {
            tracing::error!(%interface, %error, "cannot stop serving");
        }
        self.forget(endpoint).await;
        self.reconcile().await;
    }

    /// Removes an endpoint from all books, routes last.
    async fn forget(&mut self, endpoint: &Endpoint) {
        self.control.endpoint_delete(endpoint.key);
        let snapshot = Arc::clone(&self.control.snapshots().borrow());
        self.publish(snapshot);
        match self.registry.remove(&endpoint.spec.pod) {
            Ok(_) | Err(RegistryError::Unknown { .. }) => {}
            Err(error) => tracing::error!(pod = %endpoint.spec.pod, %error, "cannot forget the endpoint"),
        }
        self.reconcile().await;
        self.warnings.remove(&endpoint.key.slot);
    }

    /// Lets an interface go that is no endpoint any more: from then on the kernel serves it.
    pub(super) fn release(&mut self, interface: &str) {
        if let Err(error) = block_in_place(|| self.dataplane.release(interface)) {
            tracing::error!(%interface, %error, "cannot remove programs");
        }
    }
}

fn refused(error: &RegistryError) -> ApiError {
    let code = match error {
        RegistryError::Full { .. } => ErrorCode::Exhausted,
        RegistryError::AddressInUse { .. }
        | RegistryError::InterfaceInUse { .. }
        | RegistryError::PodInUse { .. } => ErrorCode::Conflict,
        RegistryError::Io { .. } => ErrorCode::Failed,
        RegistryError::Unknown { .. } => ErrorCode::NotFound,
        _ => ErrorCode::InvalidArgument,
    };
    ApiError::new(code, error)
}
