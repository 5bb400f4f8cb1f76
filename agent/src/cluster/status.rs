//! State of the whole cluster: what is installed, what each node's agent says, and what is missing.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;
use futures_util::stream;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use super::policies::Policies;
use super::{Cluster, ClusterError};
use crate::api::Status;

/// Agents that are asked at the same time.
const CONCURRENT: usize = 16;

/// How many of something are there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// That should be.
    pub desired: i32,
    /// That are ready.
    pub ready: i32,
    /// That run what is configured now.
    pub updated: i32,
}

impl Rollout {
    const fn is_complete(self) -> bool {
        self.ready >= self.desired && self.updated >= self.desired
    }
}

/// The agent of a node.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct NodeAgent {
    /// The node.
    pub node: String,
    /// Its pod, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// What it says of itself, if it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Box<Status>>,
    /// What is not ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<String>,
}

/// State of a cluster.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Whether every agent enforces what the API server has.
    pub is_ready: bool,
    /// The agents; none if sluice is not installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<Rollout>,
    /// The operator; none if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<Rollout>,
    /// Versions of agents, and how many have each.
    pub versions: BTreeMap<String, usize>,
    /// Policies as the API server has them.
    pub policies: Policies,
    /// Nodes, by name. Those that the DaemonSet does not select are not among them.
    pub nodes: Vec<NodeAgent>,
    /// Nodes without a pod of the DaemonSet.
    pub nodes_without_agent: Vec<String>,
    /// What is missing, with the node's name where it is one's.
    pub missing: Vec<String>,
}

impl ClusterStatus {
    /// Asks the API server, and every agent.
    ///
    /// # Errors
    /// [`ClusterError`]: the API server does not tell. An agent that does not answer is in [`ClusterStatus::missing`].
    pub async fn read(cluster: &Cluster) -> Result<Self, ClusterError> {
        let client = cluster.client();
        let (daemon_set, operator, nodes, policies) = tokio::try_join!(
            cluster.daemon_set(),
            cluster.operator(),
            cluster.nodes(),
            Policies::read(&client)
        )?;
        let mut status = Self {
            policies,
            ..Self::default()
        };
        if let Some(operator) = operator.and_then(|operator| operator.status) {
            let rollout = Rollout {
                desired: operator.replicas.unwrap_or_default(),
                ready: operator.ready_replicas.unwrap_or_default(),
                updated: operator.updated_replicas.unwrap_or_default(),
            };
            if !rollout.is_complete() {
                status.missing.push(format!(
                    "operator: {} of {} ready",
                    rollout.ready, rollout.desired
                ));
            }
            status.operator = Some(rollout);
        }
        let Some(daemon_set) = daemon_set else {
            let namespace = cluster.namespace();
            status.missing.push(format!(
                "no DaemonSet {namespace}/{}: sluice is not installed, or in another --namespace",
                super::NAME
            ));
            return Ok(status);
        };
        let pods = cluster.pods_of(&daemon_set).await?;
        status.add_rollout(&daemon_set);
        let names = nodes.into_iter().filter_map(|node| node.metadata.name);
        status.nodes_without_agent = names.filter(|name| !pods.contains_key(name)).collect();
        let agents = stream::iter(pods).map(|(node, pod)| ask(cluster, node, pod));
        status.nodes = agents.buffer_unordered(CONCURRENT).collect().await;
        status.nodes.sort_by(|a, b| a.node.cmp(&b.node));
        status.judge();
        Ok(status)
    }

    fn add_rollout(&mut self, daemon_set: &k8s_openapi::api::apps::v1::DaemonSet) {
        let observed = daemon_set.status.clone().unwrap_or_default();
        let rollout = Rollout {
            desired: observed.desired_number_scheduled,
            ready: observed.number_ready,
            updated: observed.updated_number_scheduled.unwrap_or_default(),
        };
        self.agents = Some(rollout);
        if observed.observed_generation < daemon_set.metadata.generation {
            self.missing
                .push("the DaemonSet's last change has not been taken up".into());
        }
        if rollout.updated < rollout.desired {
            self.missing.push(format!(
                "rollout: {} of {} agents are up to date",
                rollout.updated, rollout.desired
            ));
        }
        if rollout.desired == 0 {
            self.missing.push("the DaemonSet selects no node".into());
        }
    }

    /// What is missing on the nodes, from what their agents say.
    fn judge(&mut self) {
        let desired = self.agents.map_or(0, |agents| agents.desired);
        let present = i32::try_from(self.nodes.len()).unwrap_or(i32::MAX);
        if present < desired {
            let without = self.nodes_without_agent.join(", ");
            self.missing.push(format!(
                "{} of {desired} agents have no pod; nodes without one: {without}",
                desired - present
            ));
        }
        for agent in &mut self.nodes {
            let Some(status) = &agent.status else { continue };
            *self.versions.entry(status.version.clone()).or_default() += 1;
            agent.waits_for.extend(status.waits_for.iter().cloned());
            if !status.source.is_synced {
                agent.waits_for.push("the API server's objects".into());
            }
            agent
                .waits_for
                .extend(unsynced(&self.policies, &status.source.objects));
        }
        for agent in &self.nodes {
            let unique: BTreeSet<_> = agent.waits_for.iter().collect();
            let reasons = unique.into_iter();
            self.missing
                .extend(reasons.map(|reason| format!("node {}: waits for {reason}", agent.node)));
        }
        self.is_ready = self.missing.is_empty();
    }
}

/// Kinds of which an agent does not hold what the API server has. What became invalid stays in force as it was, so that an agent may
/// hold more than are valid.
fn unsynced<'a>(
    policies: &'a Policies,
    held: &'a BTreeMap<String, u64>,
) -> impl Iterator<Item = String> + 'a {
    policies.kinds.iter().filter_map(|(kind, count)| {
        // An agent of before this was told says nothing of it.
        let held = *held.get(kind)?;
        (held < count.valid || held > count.total)
            .then(|| format!("{kind}: {held} held, {} valid in the cluster", count.valid))
    })
}

async fn ask(cluster: &Cluster, node: String, pod: Pod) -> NodeAgent {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let mut agent = NodeAgent {
        node,
        pod: Some(name.clone()),
        ..NodeAgent::default()
    };
    if let Some(problem) = problem(&pod) {
        agent.waits_for.push(format!("pod {name}: {problem}"));
    }
    if !is_running(&pod) {
        return agent;
    }
    match cluster.agent_exec(&name, &["status", "-o", "json"]).await {
        Ok(text) => match serde_json::from_slice(&text) {
            Ok(status) => agent.status = Some(status),
            Err(error) => agent
                .waits_for
                .push(format!("an answer that can be understood ({error})")),
        },
        Err(error) => agent.waits_for.push(format!("an answer ({error})")),
    }
    agent
}

fn is_running(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Running")
}

/// Why a pod is not ready; `None` if it is.
#[must_use]
pub fn problem(pod: &Pod) -> Option<String> {
    let status = pod.status.clone().unwrap_or_default();
    if pod.metadata.deletion_timestamp.is_some() {
        return Some("is being deleted".into());
    }
    let conditions = status.conditions.unwrap_or_default();
    let is_ready = |kind: &str| conditions.iter().any(|c| c.type_ == kind && c.status == "True");
    if is_ready("Ready") {
        return None;
    }
    let init = status.init_container_statuses.unwrap_or_default();
    let containers = status.container_statuses.unwrap_or_default();
    let waiting = init.iter().chain(&containers).find_map(|container| {
        let state = container.state.as_ref()?;
        let (reason, message) = match (&state.waiting, &state.terminated) {
            (Some(waiting), _) => (waiting.reason.clone(), waiting.message.clone()),
            (None, Some(ended)) if ended.exit_code != 0 => (
                Some(format!("exit status {}", ended.exit_code)),
                ended.message.clone(),
            ),
            _ => return None,
        };
        let parts: Vec<_> = [reason, message].into_iter().flatten().collect();
        Some(format!("container {}: {}", container.name, parts.join(": ")))
    });
    let unschedulable = conditions
        .iter()
        .find(|c| c.type_ == "PodScheduled" && c.status != "True");
    Some(match (unschedulable, waiting) {
        (Some(condition), _) => format!("not scheduled: {}", condition.message.clone().unwrap_or_default()),
        (None, Some(waiting)) => waiting,
        (None, None) => format!("not ready, phase {}", status.phase.unwrap_or_default()),
    })
}

#[cfg(test)]
mod tests {
    use super::super::policies::PolicyCount;
    use super::*;

    fn node(name: &str, objects: &[(&str, u64)]) -> NodeAgent {
        let mut status = Status {
            version: "1".into(),
            is_ready: true,
            ..Status::default()
        };
        status.source.is_synced = true;
        status.source.objects = objects.iter().map(|(kind, n)| ((*kind).to_owned(), *n)).collect();
        NodeAgent {
            node: name.into(),
            status: Some(Box::new(status)),
            ..NodeAgent::default()
        }
    }

    fn cluster(nodes: Vec<NodeAgent>, total: u64, valid: u64) -> ClusterStatus {
        let desired = i32::try_from(nodes.len()).unwrap();
        let mut status = ClusterStatus {
            agents: Some(Rollout {
                desired,
                ready: desired,
                updated: desired,
            }),
            nodes,
            ..ClusterStatus::default()
        };
        let kind = "CiliumNetworkPolicy".to_owned();
        status.policies.kinds.insert(kind, PolicyCount { total, valid });
        status.judge();
        status
    }

    #[test]
    fn an_agent_that_lacks_a_policy_is_named() {
        let held = |n| [("CiliumNetworkPolicy", n)];
        let status = cluster(vec![node("a", &held(2)), node("b", &held(1))], 2, 2);
        assert!(!status.is_ready);
        assert_eq!(
            status.missing,
            ["node b: waits for CiliumNetworkPolicy: 1 held, 2 valid in the cluster"]
        );
        assert_eq!(status.versions["1"], 2);
    }

    #[test]
    fn a_node_with_a_pod_under_no_policy_is_not_ready() {
        let mut open = node("a", &[]);
        let waits_for = "pod app/web: an endpoint, it is under no policy";
        open.status.as_mut().unwrap().waits_for = vec![waits_for.into()];
        let status = cluster(vec![open, node("b", &[])], 0, 0);
        assert!(!status.is_ready);
        assert_eq!(status.missing, [format!("node a: waits for {waits_for}")]);
    }

    #[test]
    fn a_refused_policy_may_be_held_as_it_was_or_not_at_all() {
        for held in [1, 2] {
            assert!(cluster(vec![node("a", &[("CiliumNetworkPolicy", held)])], 2, 1).is_ready);
        }
        assert!(!cluster(vec![node("a", &[("CiliumNetworkPolicy", 3)])], 2, 1).is_ready);
    }

    #[test]
    fn a_pod_that_is_missing_is_counted() {
        let mut status = cluster(vec![node("a", &[])], 0, 0);
        assert!(status.is_ready);
        status.agents = Some(Rollout {
            desired: 2,
            ready: 1,
            updated: 2,
        });
        status.nodes_without_agent = vec!["b".into()];
        status.judge();
        assert_eq!(
            status.missing,
            ["1 of 2 agents have no pod; nodes without one: b"]
        );
    }
}
