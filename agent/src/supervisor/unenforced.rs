//! Pods that run on this node and are no endpoint: whatever policy says, nothing is enforced on them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use policy::PodName;

use super::Supervisor;

/// How long a pod may be without endpoint before it counts: longer than kubelet, which sends status every 10 s at the latest
/// (`syncPeriod` in `pkg/kubelet/status/status_manager.go`), takes to tell of a pod's end after the plugin has detached it. A pod that
/// comes up needs none of it: the plugin has added it before anybody is told its address.
const GRACE: Duration = Duration::from_secs(15);

/// Pods without endpoint, from one comparison with the API server's objects to the next.
#[derive(Debug, Default)]
pub(super) struct Unenforced {
    /// From when each counts.
    due: BTreeMap<PodName, Instant>,
    /// Those that count.
    pods: BTreeSet<PodName>,
    has_adopted: bool,
    has_compared: bool,
}

impl Unenforced {
    /// The pods that were there before the agent have been looked for: whoever is no endpoint now was left out.
    pub(super) fn has_adopted(&mut self) {
        self.has_adopted = true;
    }

    /// Those that count, by name.
    pub(super) fn pods(&self) -> &BTreeSet<PodName> {
        &self.pods
    }

    /// Takes note of the pods that are no endpoint at `now`; `None` where nobody tells which pods there are. Those of the first
    /// comparison count at once: who waits for a new agent to be ready must not be told so with a pod left open.
    fn compare(&mut self, now: Instant, found: Option<BTreeSet<PodName>>) {
        let Some(found) = found.filter(|_| self.has_adopted) else {
            return;
        };
        let due = if self.has_compared { now + GRACE } else { now };
        self.has_compared = true;
        self.due.retain(|pod, _| found.contains(pod));
        for pod in found {
            self.due.entry(pod).or_insert(due);
        }
        let counting = self.due.iter().filter(|(_, due)| **due <= now);
        let pods: BTreeSet<PodName> = counting.map(|(pod, _)| pod.clone()).collect();
        for pod in pods.difference(&self.pods) {
            tracing::warn!(%pod, "runs without endpoint: no policy is enforced on it");
        }
        for pod in self.pods.difference(&pods) {
            tracing::info!(%pod, "is under policy now, or gone");
        }
        self.pods = pods;
    }
}

impl Supervisor {
    /// Compares the API server's pods of this node with the endpoints.
    pub(super) fn look_for_unenforced(&mut self) {
        let mut found = self.control.pods_without_endpoint();
        if let Some(pods) = &mut found {
            pods.retain(|pod| !self.excluded.contains(&pod.namespace));
        }
        self.unenforced.compare(Instant::now(), found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods(names: &[&str]) -> Option<BTreeSet<PodName>> {
        Some(names.iter().map(|name| name.parse().unwrap()).collect())
    }

    fn names(unenforced: &Unenforced) -> Vec<String> {
        unenforced.pods().iter().map(ToString::to_string).collect()
    }

    /// After a first comparison that found nothing.
    fn settled(now: Instant) -> Unenforced {
        let mut unenforced = Unenforced::default();
        unenforced.has_adopted();
        unenforced.compare(now, pods(&[]));
        unenforced
    }

    #[test]
    fn a_pod_that_was_left_out_at_the_start_counts_at_once() {
        let now = Instant::now();
        let mut unenforced = Unenforced::default();
        unenforced.compare(now, pods(&["app/a"]));
        assert_eq!(names(&unenforced), [""; 0], "nobody has looked for it yet");
        unenforced.has_adopted();
        unenforced.compare(now, None);
        unenforced.compare(now, pods(&["app/a"]));
        assert_eq!(names(&unenforced), ["app/a"]);
    }

    #[test]
    fn a_pod_that_loses_its_endpoint_counts_after_the_grace_and_until_it_is_one() {
        let start = Instant::now();
        let mut unenforced = settled(start);
        unenforced.compare(start, pods(&["app/a"]));
        assert_eq!(names(&unenforced), [""; 0]);
        unenforced.compare(start + GRACE, pods(&["app/a", "app/b"]));
        assert_eq!(names(&unenforced), ["app/a"]);
        unenforced.compare(start + GRACE, pods(&["app/b"]));
        assert_eq!(names(&unenforced), [""; 0]);
    }

    #[test]
    fn a_pod_that_comes_and_goes_never_counts() {
        let start = Instant::now();
        let mut unenforced = settled(start);
        for round in 0..10 {
            let now = start + round * GRACE;
            unenforced.compare(now, pods(&["app/a"]));
            assert_eq!(names(&unenforced), [""; 0], "round {round}");
            unenforced.compare(now, pods(&[]));
        }
    }
}
