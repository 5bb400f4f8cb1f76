//! Fills a cluster with pods that nothing runs: objects only, bound to Nodes that nobody is. For measurements of what many pods and
//! policies cost an agent; `scripts/cluster.sh scale` uses it.
//!
//! `cluster-population create|churn|remove PODS POLICIES`, with KUBECONFIG.

use std::env;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Pods per namespace, and per node.
const PER_NAMESPACE: usize = 200;
const PER_NODE: usize = 100;

/// Requests at a time.
const CONCURRENCY: usize = 48;

/// Replicas of one Deployment have the same labels, and so the same identity.
const REPLICAS: usize = 5;

fn namespace(i: usize) -> String {
    format!("scale-{}", i / PER_NAMESPACE)
}

fn node(i: usize) -> String {
    format!("scale-node-{}", i / PER_NODE)
}

/// In 10.245.0.0/16, of which each node has a /24.
fn address(i: usize) -> String {
    format!("10.245.{}.{}", i / PER_NODE, i % PER_NODE + 2)
}

fn pod(i: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("pod-{i}"), "namespace": namespace(i),
            "labels": {"app": format!("app-{}", i / REPLICAS), "tier": if i.is_multiple_of(2) { "web" } else { "db" }},
        },
        "spec": {
            "nodeName": node(i),
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "main", "image": "none", "ports": [{"name": "http", "containerPort": 8080}]}],
        },
    })
}

fn policy(i: usize, pods: usize) -> Value {
    let i = i * pods.max(1) / 1000;
    json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"name": format!("policy-{i}"), "namespace": namespace(i)},
        "spec": {
            "endpointSelector": {"matchLabels": {"app": format!("app-{}", i / REPLICAS)}},
            "ingress": [{
                "fromEndpoints": [{"matchLabels": {"tier": "web"}}],
                "toPorts": [{"ports": [{"port": "8080", "protocol": "TCP"}], "rules": {"http": [{"method": "GET", "path": "/api/.*"}]}}],
            }],
        },
    })
}

/// Objects of one kind.
#[derive(Clone)]
struct Objects {
    client: Client,
    resource: ApiResource,
}

impl Objects {
    fn new(client: &Client, group: &str, version: &str, kind: &str, plural: &str) -> Self {
        let gvk = GroupVersionKind::gvk(group, version, kind);
        Self {
            client: client.clone(),
            resource: ApiResource::from_gvk_with_plural(&gvk, plural),
        }
    }

    fn api(&self, object: &Value) -> Api<DynamicObject> {
        match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &self.resource),
            None => Api::all_with(self.client.clone(), &self.resource),
        }
    }

    /// Creates it, unless it is there, and gives it a status.
    async fn create(&self, object: Value, status: Option<Value>) -> Result<()> {
        let api = self.api(&object);
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        match api
            .create(&PostParams::default(), &serde_json::from_value(object)?)
            .await
        {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error).with_context(|| format!("{} {name}", self.resource.kind)),
        }
        if let Some(status) = status {
            let patch = Patch::Merge(json!({"status": status}));
            api.patch_status(&name, &PatchParams::default(), &patch).await?;
        }
        Ok(())
    }

    async fn delete(&self, object: Value) -> Result<()> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        match self
            .api(&object)
            .delete(&name, &DeleteParams::default().grace_period(0))
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            outcome => outcome
                .map(drop)
                .with_context(|| format!("{} {name}", self.resource.kind)),
        }
    }
}

/// Carries out all, some at a time; the first error ends it.
async fn all<F>(work: impl Iterator<Item = F>) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONCURRENCY));
    let mut running = JoinSet::new();
    for item in work {
        let place = Arc::clone(&places).acquire_owned().await?;
        running.spawn(async move {
            let outcome = item.await;
            drop(place);
            outcome
        });
    }
    while let Some(outcome) = running.join_next().await {
        outcome??;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [command, pods, policies] = arguments.as_slice() else {
        bail!("cluster-population create|churn|remove PODS POLICIES");
    };
    let (count, policies): (usize, usize) = (pods.parse()?, policies.parse()?);
    let client = Client::try_default().await?;
    let pods = Objects::new(&client, "", "v1", "Pod", "pods");
    let nodes = Objects::new(&client, "", "v1", "Node", "nodes");
    let namespaces = Objects::new(&client, "", "v1", "Namespace", "namespaces");
    let rules = Objects::new(
        &client,
        "cilium.io",
        "v2",
        "CiliumNetworkPolicy",
        "ciliumnetworkpolicies",
    );
    let named =
        |kind: &str, name: String| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
    let running = |i: usize| {
        let address = address(i);
        Some(json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}))
    };
    let create_pods = |range: std::ops::Range<usize>| {
        let pods = pods.clone();
        range.map(move |i| {
            let pods = pods.clone();
            async move { pods.create(pod(i), running(i)).await }
        })
    };
    let delete_pods = |range: std::ops::Range<usize>| {
        let pods = pods.clone();
        range.map(move |i| {
            let pods = pods.clone();
            async move { pods.delete(pod(i)).await }
        })
    };
    match command.as_str() {
        "create" => {
            all((0..count).step_by(PER_NODE).map(|i| {
                let nodes = nodes.clone();
                let mut object = named("Node", node(i));
                object["spec"] = json!({"podCIDR": format!("10.245.{}.0/24", i / PER_NODE),
                    "taints": [{"key": "scale", "effect": "NoSchedule"}]});
                async move { nodes.create(object, None).await }
            }))
            .await?;
            all((0..count).step_by(PER_NAMESPACE).map(|i| {
                let namespaces = namespaces.clone();
                let object = named("Namespace", namespace(i));
                async move { namespaces.create(object, None).await }
            }))
            .await?;
            all((0..policies).map(|i| {
                let rules = rules.clone();
                async move { rules.create(policy(i, count), None).await }
            }))
            .await?;
            all(create_pods(0..count)).await
        }
        "churn" => {
            all(delete_pods(0..count)).await?;
            all(create_pods(0..count)).await
        }
        "remove" => {
            all(delete_pods(0..count)).await?;
            all((0..count).step_by(PER_NAMESPACE).map(|i| {
                let namespaces = namespaces.clone();
                let object = named("Namespace", namespace(i));
                async move { namespaces.delete(object).await }
            }))
            .await?;
            all((0..count).step_by(PER_NODE).map(|i| {
                let nodes = nodes.clone();
                let object = named("Node", node(i));
                async move { nodes.delete(object).await }
            }))
            .await
        }
        other => bail!("create, churn or remove, not `{other}`"),
    }
}
