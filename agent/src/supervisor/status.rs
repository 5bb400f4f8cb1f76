//! What the supervisor tells of the node and its endpoints.

use datapath::counters::Stage;
use datapath::graph::GraphConfig;
use policy::{Direction, DropReason, Identity};
use tokio::task::block_in_place;

use super::Supervisor;
use crate::api::status::{
    AuditCount, CompiledSize, DropCount, EndpointStatus, FrameCount, SourceStatus, StageCount, Status,
    WorkerStatus, XdpMode,
};
use crate::endpoint_registry::Endpoint;

impl Supervisor {
    pub(super) fn endpoints(&self) -> Vec<EndpointStatus> {
        self.registry
            .endpoints()
            .map(|endpoint| self.endpoint_status(endpoint))
            .collect()
    }

    pub(super) fn endpoint_status(&self, endpoint: &Endpoint) -> EndpointStatus {
        let worker = self.dataplane.worker();
        let snapshot = worker.snapshot.load();
        let policy = snapshot.endpoint(endpoint.key);
        let attached = self.dataplane.attached(endpoint.key);
        let waits_for = match (attached, policy) {
            (None, _) => Some("its interface"),
            (_, None) => Some("its policy"),
            (_, Some(policy)) if endpoint.spec.uid.is_some() && policy.identity == Identity::INIT => {
                Some("its Pod or Namespace object")
            }
            (Some(_), Some(_)) if worker.counters.revision.get() < snapshot.revision.0 => Some("the worker"),
            (Some(_), Some(_)) => None,
        };
        let counters = worker.counters.slot(endpoint.key.slot);
        let received = counters.map_or(0, |counters| counters.rx_packets.get());
        let dropped = counters.map_or(0, |counters| counters.dropped.get());
        EndpointStatus {
            endpoint: endpoint.clone(),
            is_ready: waits_for.is_none(),
            waits_for: waits_for.map(Into::into),
            audits: policy.is_some_and(|policy| policy.audit),
            identity: policy.map(|policy| policy.identity.0),
            mode: attached.map(|attached| xdp_mode(attached.mode)),
            forwarded: received.saturating_sub(dropped),
            dropped,
            warnings: self.warnings.get(&endpoint.key.slot).cloned().unwrap_or_default(),
        }
    }

    pub(super) fn status(&self) -> Status {
        let worker = self.dataplane.worker();
        let counters = &worker.counters;
        let source = self.control.status();
        let endpoints = self.endpoints();
        let revision = worker.snapshot.load().revision.0;
        let mut waits_for: Vec<String> = Vec::new();
        if revision == 0 {
            waits_for.push(format!("policies from {}", self.source));
        }
        waits_for.extend(endpoints.iter().filter_map(|endpoint| {
            let reason = endpoint.waits_for.as_ref()?;
            Some(format!("endpoint {}: {reason}", endpoint.endpoint.spec.pod))
        }));
        let unenforced = self.unenforced.pods();
        waits_for.extend(
            unenforced
                .iter()
                .map(|pod| format!("pod {pod}: an endpoint, it is under no policy")),
        );
        let adoption_problems = self.runtime.adoption_problems();
        waits_for.extend(
            adoption_problems
                .iter()
                .map(|problem| format!("adoption: {problem}")),
        );
        let drops = DropReason::ALL.iter().flat_map(|reason| {
            [None, Some(Direction::Ingress), Some(Direction::Egress)].map(|direction| DropCount {
                code: *reason as u8,
                reason: reason.label().into(),
                direction,
                packets: counters.dropped(*reason, direction),
            })
        });
        let stages = Stage::ALL.iter().map(|stage| StageCount {
            stage: stage.label().into(),
            packets: counters.stage(*stage).get(),
        });
        let mut warnings = self.node_warnings.clone();
        warnings.extend(self.runtime.problem());
        warnings.extend(self.start_warnings.iter().cloned());
        let (mut frames, mut received, mut transmitted) = (FrameCount::default(), 0, 0);
        let (mut receive_dropped, mut transmit_dropped) = (0, 0);
        match block_in_place(|| self.dataplane.audit()) {
            Ok(audit) => {
                frames = FrameCount {
                    total: audit.frames.total as u64,
                    free: audit.frames.free as u64,
                    in_rings: (audit.frames.posted + audit.frames.transmitting) as u64,
                    held: audit.held as u64,
                };
                for (key, io) in &audit.interfaces {
                    received += io.rx_packets;
                    transmitted += io.tx_packets;
                    receive_dropped += io.rx_dropped;
                    transmit_dropped += io.tx_dropped;
                    if io.invalid_descriptors > 0 {
                        warnings.push(format!(
                            "slot {}: {} invalid descriptors",
                            key.slot.0, io.invalid_descriptors
                        ));
                    }
                }
            }
            Err(error) => warnings.push(error.to_string()),
        }
        if self.audit {
            warnings.push("policy is audited and not enforced (--policy-audit-mode)".into());
        }
        if let Some(since) = source.stale_since {
            warnings.push(format!(
                "{} cannot be read since {since}: the last good state is enforced",
                self.source
            ));
        }
        let problems = source.errors.iter().map(problem);
        let count = |count| u64::try_from(count).unwrap_or(u64::MAX);
        let compiled = CompiledSize {
            subjects: count(source.compiled.subjects),
            rules: count(source.compiled.rules),
            decisions: count(source.compiled.decisions),
        };
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            node_name: self.node_name.clone(),
            is_ready: waits_for.is_empty(),
            waits_for,
            // Pods that are left open do not count here. An agent that is not ready does not close them; but it stops a rolling update,
            // also the one that would help, and keeps the taint, and so the node, from pods that would be under policy.
            takes_pods: revision > 0 && self.runtime.problem().is_none(),
            revision,
            source: SourceStatus {
                location: self.source.clone(),
                is_synced: source.synced,
                problems: source
                    .source_errors
                    .iter()
                    .cloned()
                    .chain(problems)
                    .chain(source.failures)
                    .collect(),
                objects: source
                    .objects
                    .iter()
                    .map(|(kind, objects)| ((*kind).to_owned(), count(*objects)))
                    .collect(),
                compiled,
            },
            workers: vec![WorkerStatus {
                id: 0,
                revision: counters.revision.get(),
                received,
                transmitted,
                flows: counters.flows.get(),
                flow_capacity: GraphConfig::default().flows.into(),
                receive_dropped,
                transmit_dropped,
                lost_events: counters.events_lost.get(),
                held_packets: counters.held.get(),
                adopted_flows: counters.adopted_flows.get(),
                lost_affinities: counters.affinities_lost.get(),
            }],
            endpoints,
            unenforced_pods: unenforced.iter().cloned().collect(),
            adoption_problems: adoption_problems.to_vec(),
            excluded_namespaces: self.excluded.iter().cloned().collect(),
            forwarded: counters.forwarded_packets.get(),
            audited: AuditCount {
                ingress: counters.audited(Direction::Ingress).get(),
                egress: counters.audited(Direction::Egress).get(),
            },
            drops: drops.filter(|drop| drop.packets > 0).collect(),
            stages: stages.collect(),
            frames,
            repairs: self.repairs,
            guarded: self.dataplane.guarded_packets(),
            warnings,
        }
    }
}

fn xdp_mode(mode: datapath::loader::XdpMode) -> XdpMode {
    match mode {
        datapath::loader::XdpMode::Native => XdpMode::Native,
        datapath::loader::XdpMode::Generic => XdpMode::Generic,
    }
}

/// A refused object as people read it: `file:line: object: field: message`.
fn problem(error: &control::ObjectError) -> String {
    let mut place = error.file.display().to_string();
    if let Some(line) = error.line {
        place.push_str(&format!(":{line}"));
    }
    let object = error.object.as_deref().unwrap_or_default();
    let parts = [place.as_str(), object, &error.field, &error.message];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(": ")
}
