//! What is read, and how.

use control::kubernetes::resource;
use control::object::Kind;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DynamicObject, ListParams, LogParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::{Value, json};

use super::{MOST_PART, redaction};
use crate::cluster::{Cluster, ClusterError, Exec, ExecError, NAME, OPERATOR, objects, reason};

/// Port of the agents' metrics.
const METRICS_PORT: u16 = 9964;

/// Commands in an agent's pod, and the files of their output. Not every image has every tool.
const COMMANDS: [(&str, &[&str]); 12] = [
    ("status.json", &["sluice", "status", "-o", "json"]),
    ("endpoints.json", &["sluice", "endpoint", "list", "-o", "json"]),
    ("ip-rule.txt", &["ip", "rule"]),
    ("ip6-rule.txt", &["ip", "-6", "rule"]),
    ("ip-route.txt", &["ip", "route", "show", "table", "all"]),
    ("ip6-route.txt", &["ip", "-6", "route", "show", "table", "all"]),
    ("ip-link.txt", &["ip", "-details", "-statistics", "link"]),
    ("tc-qdisc.txt", &["tc", "-s", "qdisc"]),
    ("nft.txt", &["nft", "list", "ruleset"]),
    ("ethtool-host.txt", &["ethtool", "-k", "sluice_host"]),
    ("ethtool-fwd.txt", &["ethtool", "-k", "sluice_fwd"]),
    ("preflight.txt", &["sluice", "preflight"]),
];

/// Kinds that agents do not follow: group, version, name, and whether only sluice's namespace is read. Secrets are not among them.
const LISTS: [(&str, &str, &str, bool); 5] = [
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition", false),
    ("apps", "v1", "DaemonSet", true),
    ("apps", "v1", "Deployment", true),
    ("", "v1", "Event", true),
    ("coordination.k8s.io", "v1", "Lease", true),
];

/// What to read.
#[derive(Debug, Clone)]
enum Source {
    Kind(Kind),
    List {
        resource: ApiResource,
        namespace: Option<String>,
    },
    Log {
        pod: String,
        container: String,
        is_previous: bool,
    },
    Command {
        pod: String,
        container: String,
        command: Vec<String>,
    },
    Metrics {
        pod: String,
    },
    Version,
}

/// One file of a sysdump.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its path in the archive.
    pub path: String,
    source: Source,
}

/// Everything to read of `cluster`, and what cannot even be planned.
pub(super) async fn plan(cluster: &Cluster, flows: u32) -> (Vec<Part>, Vec<String>) {
    let mut failures = Vec::new();
    let mut parts = vec![Part {
        path: "version.json".into(),
        source: Source::Version,
    }];
    parts.extend(Kind::ALL.into_iter().map(|kind| Part {
        path: format!("objects/{}.json", resource(kind).plural),
        source: Source::Kind(kind),
    }));
    parts.extend(LISTS.iter().map(|(group, version, kind, is_own)| {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Part {
            path: format!("objects/{}.json", resource.plural),
            source: Source::List {
                resource,
                namespace: is_own.then(|| cluster.namespace().to_owned()),
            },
        }
    }));
    match own_pods(cluster).await {
        Ok(pods) => {
            if pods.is_empty() {
                failures.push(format!("no pod of sluice in {}", cluster.namespace()));
            }
            parts.extend(pods.iter().flat_map(|pod| of_pod(pod, flows)));
        }
        Err(error) => failures.push(error),
    }
    (parts, failures)
}

/// Pods of the agents and the operator.
async fn own_pods(cluster: &Cluster) -> Result<Vec<Pod>, String> {
    let api: Api<Pod> = Api::namespaced(cluster.client(), cluster.namespace());
    let selector = format!("app.kubernetes.io/name in ({NAME},{OPERATOR})");
    let pods = api.list(&ListParams::default().labels(&selector)).await;
    Ok(pods
        .map_err(|error| format!("pods of sluice: {}", reason(&error)))?
        .items)
}

fn of_pod(pod: &Pod, flows: u32) -> Vec<Part> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    let node = spec.node_name.unwrap_or_else(|| "unscheduled".into());
    let mut parts = Vec::new();
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    for container in containers {
        for is_previous in [false, true] {
            let restarted = || {
                let status = pod.status.as_ref();
                let mut statuses = status
                    .and_then(|status| status.container_statuses.as_ref())
                    .into_iter()
                    .flatten();
                statuses.any(|status| status.name == container.name && status.restart_count > 0)
            };
            if is_previous && !restarted() {
                continue;
            }
            let previous = if is_previous { "-previous" } else { "" };
            parts.push(Part {
                path: format!("logs/{node}/{name}-{}{previous}.log", container.name),
                source: Source::Log {
                    pod: name.clone(),
                    container: container.name.clone(),
                    is_previous,
                },
            });
        }
    }
    let Some(agent) = spec.containers.iter().find(|container| container.name == "agent") else {
        return parts;
    };
    let flows = flows.to_string();
    let flows: [(&str, &[&str]); 1] = [("flows.json", &["sluice", "flows", "-o", "json", "--last", &flows])];
    for (file, command) in COMMANDS.iter().chain(&flows) {
        parts.push(Part {
            path: format!("nodes/{node}/{file}"),
            source: Source::Command {
                pod: name.clone(),
                container: agent.name.clone(),
                command: command.iter().map(|word| (*word).to_owned()).collect(),
            },
        });
    }
    parts.push(Part {
        path: format!("nodes/{node}/metrics.txt"),
        source: Source::Metrics { pod: name },
    });
    parts
}

impl Part {
    /// Reads and redacts it.
    ///
    /// # Errors
    /// Why it cannot be read, in one line.
    pub async fn read(&self, cluster: &Cluster) -> Result<Vec<u8>, String> {
        let client = cluster.client();
        match &self.source {
            Source::Version => {
                let version = client.apiserver_version().await.map_err(|error| reason(&error))?;
                let own =
                    json!({"sluice": env!("CARGO_PKG_VERSION"), "kubernetes": version, "url": cluster.url()});
                Ok(pretty(&own))
            }
            Source::Kind(kind) => whole(objects::list_kind(&client, *kind).await),
            Source::List { resource, namespace } => list(&client, resource, namespace.as_deref()).await,
            Source::Log {
                pod,
                container,
                is_previous,
            } => {
                let api: Api<Pod> = Api::namespaced(client, cluster.namespace());
                let parameters = LogParams {
                    container: Some(container.clone()),
                    previous: *is_previous,
                    limit_bytes: i64::try_from(MOST_PART).ok(),
                    timestamps: true,
                    ..LogParams::default()
                };
                let log = api.logs(pod, &parameters).await.map_err(|error| reason(&error))?;
                Ok(redaction::text(&log).into_bytes())
            }
            Source::Command {
                pod,
                container,
                command,
            } => {
                let words: Vec<_> = command.iter().map(String::as_str).collect();
                let exec = Exec::new(cluster.namespace(), pod, container);
                let output = match exec.run(client, &words).await {
                    // What a command wrote before it failed tells, too.
                    Err(ExecError::Failed { stdout, .. }) if !stdout.is_empty() => stdout,
                    output => output.map_err(|error| error.to_string())?,
                };
                Ok(redaction::text(&String::from_utf8_lossy(&output)).into_bytes())
            }
            Source::Metrics { pod } => metrics(client, cluster.namespace(), pod).await,
        }
    }
}

fn pretty(value: &Value) -> Vec<u8> {
    // A value is always JSON.
    serde_json::to_vec_pretty(value).unwrap_or_default()
}

async fn list(client: &Client, resource: &ApiResource, namespace: Option<&str>) -> Result<Vec<u8>, String> {
    let Some(namespace) = namespace else {
        return whole(objects::list(client, resource).await);
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, resource);
    let items = api.list(&ListParams::default()).await;
    redacted(items.map_err(|error| reason(&error))?.items)
}

fn whole(objects: Result<Option<Vec<DynamicObject>>, ClusterError>) -> Result<Vec<u8>, String> {
    let objects = objects.map_err(|error| error.to_string())?;
    redacted(objects.ok_or("the cluster has no such kind")?)
}

fn redacted(items: Vec<DynamicObject>) -> Result<Vec<u8>, String> {
    let mut items = serde_json::to_value(items).map_err(|error| error.to_string())?;
    redaction::object(&mut items);
    Ok(pretty(
        &json!({"apiVersion": "v1", "kind": "List", "items": items}),
    ))
}

/// The metrics of an agent, which listens on its node's loopback: through the kubelet.
async fn metrics(client: Client, namespace: &str, pod: &str) -> Result<Vec<u8>, String> {
    let api: Api<Pod> = Api::namespaced(client, namespace);
    let mut forwarder = api
        .portforward(pod, &[METRICS_PORT])
        .await
        .map_err(|error| reason(&error))?;
    let stream = forwarder.take_stream(METRICS_PORT).ok_or("no stream")?;
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let request = Request::get("/metrics")
        .header(HOST, "localhost")
        .body(Empty::<Bytes>::new());
    let request = request.map_err(|error| error.to_string())?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| error.to_string())?;
    let body = Limited::new(response.into_body(), MOST_PART).collect().await;
    connection.abort();
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    Ok(redaction::text(&String::from_utf8_lossy(&body)).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_never_asked_for() {
        assert!(
            LISTS
                .iter()
                .all(|(_, _, kind, _)| *kind != "Secret" && *kind != "ConfigMap")
        );
    }

    #[test]
    fn former_logs_are_read_of_containers_that_were_restarted() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "sluice-x"},
            "spec": {"nodeName": "n", "containers": [{"name": "agent"}]},
            "status": {"containerStatuses": [
                {"name": "agent", "restartCount": 1, "image": "", "imageID": "", "ready": true},
            ]},
        }))
        .unwrap();
        let paths: Vec<_> = of_pod(&pod, 5).into_iter().map(|part| part.path).collect();
        assert!(
            paths.contains(&"logs/n/sluice-x-agent-previous.log".to_owned()),
            "{paths:?}"
        );
        assert!(paths.contains(&"nodes/n/metrics.txt".to_owned()), "{paths:?}");
    }
}
