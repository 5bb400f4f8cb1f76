//! The test's namespaces, pods and Services: made, waited for, and removed.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use control::kubernetes::resources;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::json;
use tokio::time::Instant;

use super::pods::{self, ECHO_HOST_PORT, NAMESPACES, PODS};
use super::probe::{self, Outcome};
use crate::cli::ConnectivityTestArgs;
use crate::cluster::{Cluster, documents, policies, status};

/// Where the command itself runs, in checks.
pub const HERE: &str = "here";

/// Who applies.
pub const FIELD_MANAGER: &str = "sluice-connectivity";

/// Marks policies of the cluster as the test's.
pub const LABEL: (&str, &str) = ("app.kubernetes.io/managed-by", "sluice-connectivity");

/// Services by their ClusterIPs, and what these are called in checks.
const CLUSTER_IPS: [(&str, &str); 4] = [
    ("echo", "service"),
    ("echo-sticky", "sticky"),
    ("echo-internal", "internal"),
    ("client2-internal", "internal-near"),
];

/// A load balancer's addresses: for documentation (RFC 5737, RFC 3849).
const LOAD_BALANCER: [&str; 2] = ["192.0.2.74", "2001:db8:73::74"];

/// Services, their ports, and what these are called in checks.
const NODE_PORTS: [(&str, &str, &str); 3] = [
    ("echo-node", "http", "nodeport"),
    ("echo-local", "http", "local-http"),
    ("echo-local", "admin", "local-admin"),
];

/// Between two looks.
const POLL: Duration = Duration::from_millis(500);

/// How long node ports may take to be reached.
const REACHED: Duration = Duration::from_secs(5);

/// How long namespaces may take to go.
const REMOVAL: Duration = Duration::from_secs(120);

/// A pod that runs.
#[derive(Debug, Clone)]
pub struct TestPod {
    /// Its namespace.
    pub namespace: String,
    /// Its addresses, one of each family.
    pub addresses: Vec<String>,
    /// Its node.
    pub node: String,
}

/// What can be probed.
#[derive(Debug, Clone, Default)]
pub struct Targets {
    /// Pods, by name.
    pub pods: BTreeMap<String, TestPod>,
    /// What other hosts of checks stand for: `host` or `host:port`.
    pub hosts: BTreeMap<String, Vec<String>>,
    /// The address outside.
    pub external: Option<SocketAddrV4>,
}

/// The test's objects in a cluster.
#[derive(Debug)]
pub struct Deployment {
    /// The cluster.
    pub cluster: Cluster,
    image: Option<String>,
    external: Option<SocketAddrV4>,
    timeout: Duration,
}

impl Deployment {
    /// Nothing is made yet.
    #[must_use]
    pub fn new(cluster: Cluster, args: &ConnectivityTestArgs, timeout: Duration) -> Self {
        Self {
            cluster,
            image: args.image.clone(),
            external: args.external,
            timeout,
        }
    }

    fn client(&self) -> Client {
        self.cluster.client()
    }

    /// Makes everything and waits until it runs.
    ///
    /// # Errors
    /// What cannot be made, or does not run in time.
    pub async fn create(&self) -> anyhow::Result<Targets> {
        let image = self.image().await?;
        let nodes = self.nodes().await?;
        self.remove().await?;
        for object in documents(include_str!("manifests/deployment.yaml"))? {
            self.apply(object).await?;
        }
        for object in documents(include_str!("manifests/external_ips.yaml"))? {
            match self.apply(object).await {
                Err(error) if is_forbidden(&error) => {
                    eprintln!("sluice: externalIPs are not tried: {error:#}");
                }
                outcome => outcome?,
            }
        }
        self.balance().await?;
        for plan in PODS {
            let Some(node) = nodes.get(usize::from(plan.is_far)) else {
                continue;
            };
            let name = node.metadata.name.clone().unwrap_or_default();
            self.apply(serde_json::from_value(pods::manifest(&plan, &image, &name))?)
                .await?;
        }
        eprintln!(
            "sluice: waiting for the test's pods on {}",
            names(&nodes).join(" and ")
        );
        let mut pods = self.wait(nodes.len() > 1).await?;
        let external = match self.external {
            Some(external) => Some(external),
            None => self.api_server().await?,
        };
        let hosts = self.hosts(nodes.first(), external).await?;
        if is_reached(hosts.get("local-http")).await {
            let here = TestPod {
                namespace: String::new(),
                addresses: Vec::new(),
                node: String::new(),
            };
            pods.insert(HERE.into(), here);
        }
        Ok(Targets {
            pods,
            hosts,
            external,
        })
    }

    /// Does what a load balancer's controller would.
    async fn balance(&self) -> anyhow::Result<()> {
        let services: Api<Service> = Api::namespaced(self.client(), NAMESPACES[0]);
        let ingress = LOAD_BALANCER.map(|ip| json!({"ip": ip}));
        let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
        services
            .patch_status("echo-balanced", &PatchParams::default(), &Patch::Merge(status))
            .await
            .context("status of Service echo-balanced")?;
        Ok(())
    }

    /// The image that was asked for, or the agents'.
    async fn image(&self) -> anyhow::Result<String> {
        if let Some(image) = &self.image {
            return Ok(image.clone());
        }
        let Some(daemon_set) = self.cluster.daemon_set().await? else {
            bail!(
                "no DaemonSet {}/{}: sluice is not installed, or in another --namespace; to test the cluster without it give --image",
                self.cluster.namespace(),
                crate::cluster::NAME
            );
        };
        let containers = daemon_set.spec.template.spec;
        let image =
            containers.and_then(|spec| spec.containers.into_iter().find_map(|container| container.image));
        image.context("the DaemonSet names no image; give --image")
    }

    /// One or two nodes that take pods.
    async fn nodes(&self) -> anyhow::Result<Vec<Node>> {
        let mut nodes = self.cluster.nodes().await?;
        nodes.retain(takes_pods);
        nodes.truncate(2);
        ensure!(!nodes.is_empty(), "no node is ready and takes pods");
        Ok(nodes)
    }

    /// Waits until every pod is ready.
    async fn wait(&self, is_far_there: bool) -> anyhow::Result<BTreeMap<String, TestPod>> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let mut ready = BTreeMap::new();
            let mut missing = Vec::new();
            for plan in PODS.iter().filter(|plan| is_far_there || !plan.is_far) {
                let api: Api<Pod> = Api::namespaced(self.client(), plan.namespace);
                let pod = api.get(plan.name).await?;
                let addresses = pod_addresses(&pod);
                match status::problem(&pod) {
                    None if !addresses.is_empty() => {
                        let node = pod.spec.and_then(|spec| spec.node_name).unwrap_or_default();
                        let pod = TestPod {
                            namespace: plan.namespace.into(),
                            addresses,
                            node,
                        };
                        ready.insert(plan.name.to_owned(), pod);
                    }
                    problem => missing.push(format!(
                        "pod {}/{}: {}",
                        plan.namespace,
                        plan.name,
                        problem.unwrap_or_else(|| "no address".into())
                    )),
                }
            }
            if missing.is_empty() {
                return Ok(ready);
            }
            if Instant::now() >= deadline {
                bail!(
                    "not ready after {} s:\n  {}",
                    self.timeout.as_secs(),
                    missing.join("\n  ")
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// What hosts of checks stand for that are no pods.
    async fn hosts(
        &self,
        node: Option<&Node>,
        external: Option<SocketAddrV4>,
    ) -> anyhow::Result<BTreeMap<String, Vec<String>>> {
        let services: Api<Service> = Api::namespaced(self.client(), NAMESPACES[0]);
        let mut hosts = BTreeMap::new();
        for (service, host) in CLUSTER_IPS {
            let spec = services.get(service).await?.spec.unwrap_or_default();
            let addresses = spec.cluster_ips.unwrap_or_default();
            hosts.insert(host.to_owned(), with_port(&addresses, 80));
        }
        let balanced = services.get("echo-balanced").await?;
        let addresses = of_families(&balanced, &LOAD_BALANCER.map(str::to_owned));
        hosts.insert("load-balancer".to_owned(), with_port(&addresses, 80));
        if let Some(service) = services.get_opt("echo-external").await? {
            let spec = service.spec.clone().unwrap_or_default();
            let addresses = of_families(&service, &spec.external_ips.unwrap_or_default());
            hosts.insert("external-ip".to_owned(), with_port(&addresses, 80));
        }
        let addresses = node.map(node_addresses).unwrap_or_default();
        hosts.insert("hostport".to_owned(), with_port(&addresses, ECHO_HOST_PORT));
        for (service, port, host) in NODE_PORTS {
            let ports = services.get(service).await?.spec.unwrap_or_default().ports;
            let mut ports = ports.into_iter().flatten();
            let found = ports.find(|found| found.name.as_deref() == Some(port));
            if let Some(port) = found.and_then(|port| u16::try_from(port.node_port?).ok()) {
                hosts.insert(host.to_owned(), with_port(&addresses, port));
            }
        }
        // Relative, so that the cluster's domain need not be known.
        hosts.insert(
            "headless".to_owned(),
            vec![format!("echo-headless.{}.svc", NAMESPACES[0])],
        );
        hosts.insert(
            "outside".to_owned(),
            self.external.iter().map(ToString::to_string).collect(),
        );
        hosts.insert(
            "external".to_owned(),
            external.iter().map(ToString::to_string).collect(),
        );
        Ok(hosts)
    }

    /// The API server, if it is outside the cluster.
    async fn api_server(&self) -> anyhow::Result<Option<SocketAddrV4>> {
        let of_nodes: Vec<_> = self
            .cluster
            .nodes()
            .await?
            .iter()
            .flat_map(node_addresses)
            .collect();
        let slices: Api<EndpointSlice> = Api::namespaced(self.client(), "default");
        let of_service = ListParams::default().labels("kubernetes.io/service-name=kubernetes");
        for slice in slices.list(&of_service).await?.items {
            let port = slice.ports.iter().flatten().find_map(|port| port.port);
            let mut addresses = slice
                .endpoints
                .iter()
                .flatten()
                .flat_map(|endpoint| &endpoint.addresses);
            let outside = addresses.find(|address| !of_nodes.contains(address));
            if let (Some(address), Some(port)) = (outside, port) {
                return Ok(format!("{address}:{port}").parse().ok());
            }
        }
        Ok(None)
    }

    /// Applies an object.
    ///
    /// # Errors
    /// What the API server says against it.
    pub async fn apply(&self, mut object: DynamicObject) -> anyhow::Result<()> {
        let api = self.api(&object)?;
        let name = object.metadata.name.clone().context("metadata.name")?;
        let labels = object.metadata.labels.get_or_insert_default();
        labels.insert(LABEL.0.into(), LABEL.1.into());
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let kind = object
            .types
            .as_ref()
            .map_or_else(String::new, |types| types.kind.clone());
        api.patch(&name, &parameters, &Patch::Apply(&object))
            .await
            .with_context(|| format!("{kind} {name}"))?;
        Ok(())
    }

    /// Deletes an object; one that is not there is no error.
    ///
    /// # Errors
    /// What the API server says against it.
    pub async fn delete(&self, object: &DynamicObject) -> anyhow::Result<()> {
        let name = object.metadata.name.as_deref().context("metadata.name")?;
        match self.api(object)?.delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            outcome => outcome.map(drop).with_context(|| format!("cannot delete {name}")),
        }
    }

    fn api(&self, object: &DynamicObject) -> anyhow::Result<Api<DynamicObject>> {
        let types = object.types.as_ref().context("apiVersion and kind")?;
        let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(types)?);
        Ok(match &object.metadata.namespace {
            Some(namespace) => Api::namespaced_with(self.client(), namespace, &resource),
            None => Api::all_with(self.client(), &resource),
        })
    }

    /// Removes everything, and waits until it is gone.
    ///
    /// # Errors
    /// What cannot be removed.
    pub async fn remove(&self) -> anyhow::Result<()> {
        let marked = ListParams::default().labels(&format!("{}={}", LABEL.0, LABEL.1));
        for resource in policies::KINDS.into_iter().flat_map(resources) {
            let api: Api<DynamicObject> = Api::all_with(self.client(), &resource);
            let objects = match api.list(&marked).await {
                Err(kube::Error::Api(status)) if status.code == 404 => continue,
                objects => objects?.items,
            };
            for mut object in objects {
                object.types.get_or_insert_with(|| kube::core::TypeMeta {
                    api_version: resource.api_version.clone(),
                    kind: resource.kind.clone(),
                });
                self.delete(&object).await?;
            }
        }
        let namespaces: Api<Namespace> = Api::all(self.client());
        let deadline = Instant::now() + REMOVAL;
        loop {
            let mut left = Vec::new();
            for name in NAMESPACES {
                let Some(namespace) = namespaces.get_opt(name).await? else {
                    continue;
                };
                let labels = namespace.metadata.labels.unwrap_or_default();
                ensure!(
                    labels.get(LABEL.0).is_some_and(|value| value == LABEL.1),
                    "namespace {name} is there and not of this test (no label {}={})",
                    LABEL.0,
                    LABEL.1
                );
                if namespace.metadata.deletion_timestamp.is_none() {
                    namespaces.delete(name, &DeleteParams::default()).await?;
                }
                left.push(name);
            }
            if left.is_empty() {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "namespaces {} are not gone after {} s",
                left.join(", "),
                REMOVAL.as_secs()
            );
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Whether servers behind node ports answer the command itself; kube-proxy may take a while to know of them.
async fn is_reached(hosts: Option<&Vec<String>>) -> bool {
    let Some(host) = hosts.and_then(|hosts| hosts.first()) else {
        return false;
    };
    let Ok(spec) = format!("http://{host}/").parse() else {
        return false;
    };
    let deadline = Instant::now() + REACHED;
    loop {
        if matches!(probe::run(&spec, POLL).await, Outcome::Answered { .. }) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
}

fn is_forbidden(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if status.code == 403)
}

/// Those of the families that the Service has.
fn of_families(service: &Service, addresses: &[String]) -> Vec<String> {
    let families = service.spec.clone().and_then(|spec| spec.ip_families);
    let families = families.unwrap_or_default();
    let is_served = |address: &&String| {
        let family = match address.parse() {
            Ok(IpAddr::V4(_)) => "IPv4",
            Ok(IpAddr::V6(_)) => "IPv6",
            Err(_) => return false,
        };
        families.iter().any(|served| served == family)
    };
    addresses.iter().filter(is_served).cloned().collect()
}

fn with_port(addresses: &[String], port: u16) -> Vec<String> {
    let host = |address: &String| format!("{}:{port}", bracketed(address));
    addresses.iter().map(host).collect()
}

fn names(nodes: &[Node]) -> Vec<String> {
    nodes
        .iter()
        .filter_map(|node| node.metadata.name.clone())
        .collect()
}

fn takes_pods(node: &Node) -> bool {
    let spec = node.spec.clone().unwrap_or_default();
    let conditions = node.status.clone().and_then(|status| status.conditions);
    let mut conditions = conditions.into_iter().flatten();
    let mut taints = spec.taints.into_iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
        && spec.unschedulable != Some(true)
        && taints.all(|taint| taint.effect == "PreferNoSchedule")
}

fn node_addresses(node: &Node) -> Vec<String> {
    let addresses = node.status.clone().and_then(|status| status.addresses);
    let internal = addresses
        .into_iter()
        .flatten()
        .filter(|address| address.type_ == "InternalIP");
    internal.map(|address| address.address).collect()
}

fn pod_addresses(pod: &Pod) -> Vec<String> {
    let status = pod.status.clone().unwrap_or_default();
    let addresses = status.pod_ips.into_iter().flatten();
    addresses.map(|address| address.ip).collect()
}

/// An address as it stands before a port.
#[must_use]
pub fn bracketed(address: &str) -> String {
    if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    }
}
