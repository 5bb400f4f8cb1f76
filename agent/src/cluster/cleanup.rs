//! `sluice cleanup` on every node, by a DaemonSet that lives as long as it takes.
//!
//! The cleanup is an init container, which the kubelet repeats until it succeeds and then never again; the other container only waits.

use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use kube::Api;
use kube::api::{DeleteParams, LogParams, PostParams};
use serde_json::json;
use tokio::time::Instant;

use super::{CONTAINER, Cluster, ClusterError, ManifestError, NAME, asking, documents, status};

/// Name of the DaemonSet.
pub const CLEANUP: &str = "sluice-cleanup";

/// Options of the agent that `sluice cleanup` has, too.
const SHARED_OPTIONS: [&str; 4] = ["--run-dir", "--bpffs", "--cni-conf-dir", "--cni-bin-dir"];

/// Lines of a failed cleanup's log that are shown.
const LOG_LINES: i64 = 3;

/// How long the cleanup's own pods may take to go.
const REMOVAL: Duration = Duration::from_secs(30);

/// Between two looks.
const POLL: Duration = Duration::from_millis(500);

/// No cleanup can be made.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// The API server refused.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The manifest of this program.
    #[error("the DaemonSet of this program: {0}")]
    Manifest(#[from] ManifestError),
    /// A DaemonSet without a container.
    #[error("the DaemonSet {NAME} has no container `{CONTAINER}`")]
    NoContainer,
    /// Nobody tells the image.
    #[error("the agents are gone, and with them the image: give --image")]
    NoImage,
    /// An object of this program's making.
    #[error("the DaemonSet {CLEANUP}: {0}")]
    Object(#[from] serde_json::Error),
    /// The former pods stay.
    #[error("pods of DaemonSet {name} are not gone after {} s: {}", limit.as_secs(), pods.join(", "))]
    NotGone {
        /// The DaemonSet.
        name: String,
        /// `pod on node`.
        pods: Vec<String>,
        /// How long was waited.
        limit: Duration,
    },
}

/// What came of the cleanup of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCleanup {
    /// The node.
    pub node: String,
    /// Why it is not clean, if it is not.
    pub problem: Option<String>,
}

/// The DaemonSet as it is in `deploy/kubernetes`, for where there is none any more.
///
/// # Errors
/// [`CleanupError::Manifest`]: never, which a test shows.
pub fn default_daemon_set() -> Result<DaemonSet, CleanupError> {
    let objects = documents(include_str!("../../../deploy/kubernetes/sluice.yaml"))?;
    let is_daemon_set = |kind: &str| kind == "DaemonSet";
    for object in objects {
        if object
            .types
            .as_ref()
            .is_some_and(|types| is_daemon_set(&types.kind))
        {
            return Ok(serde_json::from_value(serde_json::to_value(object)?)?);
        }
    }
    Err(CleanupError::NoContainer)
}

/// The cleanup of what `agents` runs.
///
/// # Errors
/// [`CleanupError`]
pub fn daemon_set(agents: &DaemonSet, image: Option<&str>) -> Result<DaemonSet, CleanupError> {
    let spec = agents.spec.template.spec.clone().unwrap_or_default();
    let mut containers = spec.containers.iter();
    let agent = containers
        .find(|container| container.name == CONTAINER)
        .ok_or(CleanupError::NoContainer)?;
    let image = image
        .map(str::to_owned)
        .or_else(|| agent.image.clone())
        .ok_or(CleanupError::NoImage)?;
    let container = |name: &str, arguments: &[&str]| Container {
        name: name.into(),
        image: Some(image.clone()),
        image_pull_policy: agent.image_pull_policy.clone(),
        command: Some(vec!["/usr/bin/sluice".into()]),
        args: Some(arguments.iter().map(|argument| (*argument).to_owned()).collect()),
        ..Container::default()
    };
    let shared = shared_options(agent.args.as_deref().unwrap_or_default());
    let mut cleanup = container("cleanup", &["cleanup"]);
    cleanup.args.get_or_insert_default().extend(shared);
    cleanup.security_context.clone_from(&agent.security_context);
    cleanup.volume_mounts.clone_from(&agent.volume_mounts);
    let spec = PodSpec {
        init_containers: Some(vec![cleanup]),
        containers: vec![container("wait", &["connectivity", "serve"])],
        // The agents' account is removed with them, and the cleanup asks the API server nothing.
        service_account_name: None,
        service_account: None,
        automount_service_account_token: Some(false),
        termination_grace_period_seconds: Some(2),
        ..spec
    };
    let labels = json!({"app.kubernetes.io/name": CLEANUP});
    Ok(serde_json::from_value(json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": CLEANUP, "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }))?)
}

/// Of an agent's arguments, those that the cleanup must have as well.
fn shared_options(arguments: &[String]) -> Vec<String> {
    let mut shared = Vec::new();
    let mut arguments = arguments.iter().peekable();
    while let Some(argument) = arguments.next() {
        if SHARED_OPTIONS.contains(&argument.as_str()) {
            shared.push(argument.clone());
            shared.extend(arguments.next().cloned());
        } else if argument
            .split_once('=')
            .is_some_and(|(name, _)| SHARED_OPTIONS.contains(&name))
        {
            shared.push(argument.clone());
        }
    }
    shared
}

impl Cluster {
    /// Deletes a DaemonSet of sluice's namespace, and waits until its pods are gone.
    ///
    /// # Errors
    /// [`CleanupError`]
    pub async fn delete_daemon_set(&self, set: &DaemonSet, limit: Duration) -> Result<(), CleanupError> {
        let name = set.metadata.name.clone().unwrap_or_default();
        let api: Api<DaemonSet> = Api::namespaced(self.client(), self.namespace());
        match api.delete(&name, &DeleteParams::background()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            outcome => drop(outcome.map_err(asking(format!("deletion of DaemonSet {name}")))?),
        }
        let deadline = Instant::now() + limit;
        loop {
            let pods = self.pods_of(set).await?;
            if pods.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let pod_name = |pod: Pod| pod.metadata.name.unwrap_or_default();
                let left = pods
                    .into_iter()
                    .map(|(node, pod)| format!("{} on {node}", pod_name(pod)));
                return Err(CleanupError::NotGone {
                    name,
                    pods: left.collect(),
                    limit,
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Runs the cleanup on every node, waits for each, and removes its DaemonSet again.
    ///
    /// # Errors
    /// [`CleanupError`]; a node that could not be cleaned is none.
    pub async fn clean_nodes(
        &self,
        cleanup: &DaemonSet,
        limit: Duration,
    ) -> Result<Vec<NodeCleanup>, CleanupError> {
        let api: Api<DaemonSet> = Api::namespaced(self.client(), self.namespace());
        // Of a run that was interrupted.
        if let Some(former) = api.get_opt(CLEANUP).await.map_err(asking(CLEANUP))? {
            self.delete_daemon_set(&former, limit).await?;
        }
        let created = api
            .create(&PostParams::default(), cleanup)
            .await
            .map_err(asking(CLEANUP))?;
        let outcome = self.await_cleanup(&api, &created, limit).await;
        let removed = self.delete_daemon_set(&created, limit.min(REMOVAL)).await;
        let nodes = outcome?;
        match removed {
            // Where the kubelet does not answer, its pod cannot go; the node is reported.
            Err(CleanupError::NotGone { .. }) if nodes.iter().any(|node| node.problem.is_some()) => {}
            removed => removed?,
        }
        Ok(nodes)
    }

    async fn await_cleanup(
        &self,
        api: &Api<DaemonSet>,
        created: &DaemonSet,
        limit: Duration,
    ) -> Result<Vec<NodeCleanup>, CleanupError> {
        let deadline = Instant::now() + limit;
        loop {
            let current = api
                .get(CLEANUP)
                .await
                .map_err(asking(CLEANUP))?
                .status
                .unwrap_or_default();
            let pods = self.pods_of(created).await?;
            let desired = usize::try_from(current.desired_number_scheduled).unwrap_or(0);
            let is_observed = current.observed_generation.is_some();
            let is_complete = is_observed && pods.len() >= desired && pods.values().all(is_clean);
            if !is_complete && Instant::now() < deadline {
                tokio::time::sleep(POLL).await;
                continue;
            }
            let missing = desired.saturating_sub(pods.len());
            let mut nodes = Vec::new();
            for (node, pod) in pods {
                let problem = if is_clean(&pod) {
                    None
                } else {
                    Some(self.explain(&pod).await)
                };
                nodes.push(NodeCleanup { node, problem });
            }
            nodes.extend((0..missing).map(|_| NodeCleanup {
                node: "(unknown)".into(),
                problem: Some("no pod was made for it".into()),
            }));
            return Ok(nodes);
        }
    }

    /// Why a cleanup has not succeeded: its pod's state, and the last of its log.
    async fn explain(&self, pod: &Pod) -> String {
        let mut problem = status::problem(pod).unwrap_or_else(|| "not finished".into());
        let api: Api<Pod> = Api::namespaced(self.client(), self.namespace());
        let parameters = LogParams {
            container: Some("cleanup".into()),
            tail_lines: Some(LOG_LINES),
            ..LogParams::default()
        };
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        if let Ok(log) = api.logs(name, &parameters).await
            && !log.trim().is_empty()
        {
            problem.push_str(&format!(": {}", log.trim()));
        }
        problem
    }
}

fn is_clean(pod: &Pod) -> bool {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.init_container_statuses.as_ref());
    let state = statuses.and_then(|statuses| statuses.first()?.state.as_ref());
    let ended = state.and_then(|state| state.terminated.as_ref());
    ended.is_some_and(|ended| ended.exit_code == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleanup_runs_with_the_agents_image_mounts_tolerations_and_folders() {
        let agents = default_daemon_set().unwrap();
        let cleanup = daemon_set(&agents, None).unwrap();
        let before = agents.spec.template.spec.unwrap();
        let after = cleanup.spec.template.spec.unwrap();
        let container = &after.init_containers.as_ref().unwrap()[0];
        let agent = &before.containers[0];
        assert_eq!(container.image, agent.image);
        assert_eq!(container.volume_mounts, agent.volume_mounts);
        assert_eq!(container.security_context, agent.security_context);
        assert_eq!(after.volumes, before.volumes);
        assert_eq!(after.tolerations, before.tolerations);
        assert_eq!(after.host_network, Some(true));
        assert_eq!(
            container.args.as_deref().unwrap(),
            [
                "cleanup",
                "--cni-conf-dir=/etc/cni/net.d",
                "--cni-bin-dir=/opt/cni/bin"
            ]
        );
        assert!(container.readiness_probe.is_none() && after.service_account_name.is_none());
    }

    #[test]
    fn options_are_found_in_both_forms() {
        let arguments = ["agent", "--run-dir", "/run/s", "--workers=1", "--bpffs=/b"].map(str::to_owned);
        assert_eq!(shared_options(&arguments), ["--run-dir", "/run/s", "--bpffs=/b"]);
    }
}
