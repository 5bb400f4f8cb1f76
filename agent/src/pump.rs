//! What flows from the worker to people: flow events and captured packets.
//!
//! The worker's queues are bounded and it never waits: what is not taken in time is lost and counted there.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use datapath::capture::CapturedPacket as WorkerPacket;
use datapath::worker::WorkerHandle;
use policy::{PodName, Slot, Snapshot, Verdict};

use crate::api::AgentState;
use crate::capture::{CapturedPacket, MAX_SNAPLEN};
use crate::flow_log::FlowContext;
use crate::flow_record::{FlowDropReason, FlowVerdict};
use crate::names::Names;

/// How often the queues are emptied.
const PERIOD: Duration = Duration::from_millis(20);

/// Events taken at a time, so that other tasks get their turn.
const TURN: usize = 4096;

/// Moves events and packets for as long as it is polled.
pub async fn run(state: AgentState, worker: WorkerHandle) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        while worker.retired.pop().is_some() {}
        let (snapshot, names) = (state.snapshot.load_full(), state.names.load_full());
        let context = FlowContext {
            snapshot: Arc::clone(&snapshot),
            names: Arc::clone(&names),
        };
        for _ in 0..TURN {
            let Some(event) = worker.events.pop() else { break };
            state.flows.push_event(event, &context);
        }
        worker.capture.set_snaplen(if state.captures.is_active() {
            MAX_SNAPLEN
        } else {
            0
        });
        for _ in 0..TURN {
            let Some(packet) = worker.capture.pop() else { break };
            state.captures.push(captured(packet, &snapshot, &names));
        }
    }
}

fn captured(packet: WorkerPacket, snapshot: &Snapshot, names: &Names) -> CapturedPacket {
    let (verdict, drop_reason) = match packet.verdict {
        Verdict::Forwarded => (FlowVerdict::Forwarded, None),
        Verdict::Dropped(reason) => (FlowVerdict::Dropped, Some(FlowDropReason::from(reason))),
    };
    let sender = snapshot.endpoint(packet.sender).map(|policy| policy.pod.clone());
    let interface = match packet.sender.slot {
        Slot::HOST => "host".to_owned(),
        Slot::FORWARD => "forward".to_owned(),
        slot => sender
            .as_ref()
            .map_or_else(|| format!("slot{}", slot.0), ToString::to_string),
    };
    let addresses = datapath::wire::packet::claimed_addresses(&packet.bytes);
    let receiver = addresses.and_then(|(_, destination, _)| names.pod(destination).cloned());
    CapturedPacket {
        time_ns: packet.time_ns,
        interface,
        pods: sender.into_iter().chain(receiver).collect(),
        verdict,
        drop_reason,
        original_len: packet.len,
        data: packet.bytes,
    }
}

/// Names of everything in a snapshot, and of the pods that control knows.
#[must_use]
pub fn names(snapshot: &Snapshot, pods: HashMap<IpAddr, PodName>) -> Names {
    let labels = snapshot
        .identities
        .iter()
        .map(|(identity, labels)| (*identity, Arc::clone(labels)));
    Names {
        pods,
        labels: labels.collect(),
    }
}
