//! Settings of pods' interfaces: at once for a pod that comes up, one after the other in the background for those that were there.

use tokio::sync::mpsc;

use policy::EndpointKey;

use super::POD_INTERFACE;
use crate::cli::PodTuning;
use crate::endpoint_registry::Endpoint;
use crate::node::tuning;

/// An endpoint of the background whose turn it was.
#[derive(Debug)]
pub(super) struct Tuned {
    pub(super) key: EndpointKey,
    /// What could not be set.
    pub(super) warnings: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Tuner {
    tuning: PodTuning,
    queue: mpsc::UnboundedSender<Endpoint>,
    tuned: mpsc::UnboundedReceiver<Tuned>,
}

impl Tuner {
    /// Its background ends with it.
    pub(super) fn new(tuning: PodTuning) -> Self {
        let (queue, mut waiting) = mpsc::unbounded_channel::<Endpoint>();
        let (sender, tuned) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(endpoint) = waiting.recv().await {
                let (key, warnings) = (endpoint.key, tune(tuning, &endpoint).await);
                if sender.send(Tuned { key, warnings }).is_err() {
                    return;
                }
            }
        });
        Self { tuning, queue, tuned }
    }

    /// Returns what could not be set.
    pub(super) async fn tune(&self, endpoint: &Endpoint) -> Vec<String> {
        tune(self.tuning, endpoint).await
    }

    pub(super) fn tune_later(&self, endpoint: &Endpoint) {
        if self.queue.send(endpoint.clone()).is_err() {
            tracing::error!(pod = %endpoint.spec.pod, "nobody tunes pods any more");
        }
    }

    /// The next one of the background.
    pub(super) async fn next(&mut self) -> Option<Tuned> {
        self.tuned.recv().await
    }
}

async fn tune(tuning: PodTuning, endpoint: &Endpoint) -> Vec<String> {
    let spec = &endpoint.spec;
    let is_threaded = match tuning {
        PodTuning::Off => return Vec::new(),
        PodTuning::Latency => false,
        PodTuning::Throughput => true,
    };
    let outcome = tuning::tune(&spec.interface, spec.netns.as_deref(), POD_INTERFACE, is_threaded).await;
    let failed = outcome
        .into_iter()
        .filter_map(|(step, outcome)| Some((step, outcome.err()?)));
    failed.map(|(step, error)| format!("{step}: {error}")).collect()
}
