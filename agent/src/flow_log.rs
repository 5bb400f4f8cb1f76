//! The last flow records, and everybody who follows new ones.
//!
//! Bounded on both sides: the log keeps [`KEPT_RECORDS`], and a follower that reads too slowly loses the oldest records and is
//! told how many. Nothing ever waits for a reader. Events are given names only when somebody reads them: a busy node has tens of
//! thousands a second, and the CPU is the workers'.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use datapath::event::FlowEvent;
use policy::{PodName, Snapshot};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::flow_record::{FlowRecord, FlowVerdict};
use crate::names::Names;

/// Records that the log keeps.
pub const KEPT_RECORDS: usize = 4096;

/// Records that a follower may be behind before it loses some.
const FOLLOWER_RECORDS: usize = 1024;

/// Which records a reader wants; absent fields match everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowFilter {
    /// Only this verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<FlowVerdict>,
    /// Only flows with this pod on either side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
}

impl FlowFilter {
    /// Whether `record` is wanted.
    #[must_use]
    pub fn matches(&self, record: &FlowRecord) -> bool {
        self.verdict.is_none_or(|verdict| verdict == record.verdict)
            && self.pod.as_ref().is_none_or(|pod| record.concerns(pod))
    }
}

/// What is to be known to give an event's numbers names.
#[derive(Debug, Clone)]
pub struct FlowContext {
    /// Snapshot at the time of the event.
    pub snapshot: Arc<Snapshot>,
    /// Names at the time of the event.
    pub names: Arc<Names>,
}

#[derive(Debug, Clone)]
enum Kept {
    Event(Box<FlowEvent>, FlowContext),
    Record(Arc<FlowRecord>),
}

impl Kept {
    fn record(&self) -> Arc<FlowRecord> {
        match self {
            Self::Event(event, context) => {
                Arc::new(FlowRecord::new(event, &context.snapshot, &context.names))
            }
            Self::Record(record) => Arc::clone(record),
        }
    }
}

/// The flow log; clones share it.
#[derive(Debug, Clone)]
pub struct FlowLog {
    kept: Arc<Mutex<VecDeque<Kept>>>,
    followers: broadcast::Sender<Arc<FlowRecord>>,
}

impl Default for FlowLog {
    fn default() -> Self {
        Self {
            kept: Arc::new(Mutex::new(VecDeque::with_capacity(KEPT_RECORDS))),
            followers: broadcast::Sender::new(FOLLOWER_RECORDS),
        }
    }
}

impl FlowLog {
    /// Adds a record and hands it to the followers.
    pub fn push(&self, record: FlowRecord) {
        let record = Arc::new(record);
        self.keep(Kept::Record(Arc::clone(&record)), |_kept| record);
    }

    /// Adds an event; it becomes a record at once only for followers.
    pub fn push_event(&self, event: FlowEvent, context: &FlowContext) {
        self.keep(Kept::Event(Box::new(event), context.clone()), Kept::record);
    }

    fn keep(&self, entry: Kept, record: impl FnOnce(&Kept) -> Arc<FlowRecord>) {
        // Both under one lock, so that `follow` neither misses nor repeats a record.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if self.followers.receiver_count() > 0 {
            // An error only says that nobody follows any more.
            self.followers.send(record(&entry)).ok();
        }
        if kept.len() == KEPT_RECORDS {
            kept.pop_front();
        }
        kept.push_back(entry);
    }

    /// The last `count` records that match, oldest first.
    #[must_use]
    pub fn last(&self, count: usize, filter: &FlowFilter) -> Vec<Arc<FlowRecord>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        last_of(&kept, count, filter)
    }

    /// The last `count` records that match, and all that follow them.
    #[must_use]
    pub fn follow(
        &self,
        count: usize,
        filter: &FlowFilter,
    ) -> (Vec<Arc<FlowRecord>>, broadcast::Receiver<Arc<FlowRecord>>) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        (last_of(&kept, count, filter), self.followers.subscribe())
    }
}

fn last_of(kept: &VecDeque<Kept>, count: usize, filter: &FlowFilter) -> Vec<Arc<FlowRecord>> {
    let records = kept.iter().rev().map(Kept::record);
    let mut records: Vec<_> = records
        .filter(|record| filter.matches(record))
        .take(count)
        .collect();
    records.reverse();
    records
}

#[cfg(test)]
pub(crate) mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::flow_record::FlowPeer;

    /// A record that can be told by its revision; every third one is dropped.
    pub(crate) fn record(revision: u64) -> FlowRecord {
        let peer = |pod: &str| FlowPeer {
            pod: Some(pod.parse().unwrap()),
            identity: 300,
            labels: Vec::new(),
            addr: "10.1.0.5".parse().unwrap(),
            port: 80,
        };
        FlowRecord {
            time: Timestamp::UNIX_EPOCH,
            verdict: if revision.is_multiple_of(3) {
                FlowVerdict::Dropped
            } else {
                FlowVerdict::Forwarded
            },
            drop_reason: None,
            direction: None,
            protocol: "TCP".into(),
            source: peer("db/a"),
            destination: peer(if revision.is_multiple_of(2) {
                "db/even"
            } else {
                "db/odd"
            }),
            service: None,
            is_reply: false,
            rules: Vec::new(),
            policy_log: Vec::new(),
            http: None,
            revision,
        }
    }

    fn revisions(records: &[Arc<FlowRecord>]) -> Vec<u64> {
        records.iter().map(|record| record.revision).collect()
    }

    #[test]
    fn log_keeps_the_newest_records_only() {
        let log = FlowLog::default();
        let total = KEPT_RECORDS as u64 + 10;
        (0..total).for_each(|i| log.push(record(i)));
        let all = log.last(usize::MAX, &FlowFilter::default());
        assert_eq!(all.len(), KEPT_RECORDS);
        assert_eq!((all[0].revision, all[KEPT_RECORDS - 1].revision), (10, total - 1));
        assert_eq!(
            revisions(&log.last(2, &FlowFilter::default())),
            [total - 2, total - 1]
        );
    }

    #[test]
    fn filter_selects_by_verdict_and_pod() {
        let log = FlowLog::default();
        (0..12).for_each(|i| log.push(record(i)));
        let dropped = FlowFilter {
            verdict: Some(FlowVerdict::Dropped),
            pod: None,
        };
        assert_eq!(revisions(&log.last(10, &dropped)), [0, 3, 6, 9]);
        let dropped_even = FlowFilter {
            pod: Some("db/even".parse().unwrap()),
            ..dropped
        };
        assert_eq!(revisions(&log.last(10, &dropped_even)), [0, 6]);
    }

    #[test]
    fn follower_gets_every_record_once_after_the_last_ones() {
        let log = FlowLog::default();
        (0..3).for_each(|i| log.push(record(i)));
        let (last, mut next) = log.follow(2, &FlowFilter::default());
        log.push(record(3));
        assert_eq!(revisions(&last), [1, 2]);
        assert_eq!(next.try_recv().unwrap().revision, 3);
        assert!(next.try_recv().is_err());
    }

    #[test]
    fn slow_follower_learns_how_many_records_it_lost() {
        let log = FlowLog::default();
        let (_, mut next) = log.follow(0, &FlowFilter::default());
        (0..FOLLOWER_RECORDS as u64 + 5).for_each(|i| log.push(record(i)));
        let Err(broadcast::error::TryRecvError::Lagged(lost)) = next.try_recv() else {
            panic!("nothing lost")
        };
        assert_eq!(next.try_recv().unwrap().revision, lost);
    }
}
