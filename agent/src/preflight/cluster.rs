//! Checks of a cluster, by its API server.

use control::api::definition;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::ListParams;

use super::{Check, LEAST_KERNEL, is_new_enough};
use crate::cluster::policies::Policies;
use crate::cluster::removal::foreign_owner;
use crate::cluster::{Cluster, ClusterError, asking};

/// Nodes that agents can follow each other's pods on: each watches all pods of the cluster.
const MOST_NODES: usize = 500;

/// Least minor version of Kubernetes 1: `discovery.k8s.io/v1` and what else is asked for.
const LEAST_MINOR: u32 = 29;

/// Labels of DaemonSets that enforce policies, and whose they are.
const OTHERS: [(&str, &str); 4] = [
    ("k8s-app=cilium", "Cilium"),
    ("k8s-app=calico-node", "Calico"),
    ("app=antrea", "Antrea"),
    ("k8s-app=kube-router", "kube-router"),
];

/// Every check.
///
/// # Errors
/// [`ClusterError`]: the API server cannot be asked.
pub async fn checks(cluster: &Cluster) -> Result<Vec<Check>, ClusterError> {
    let mut checks = vec![version(cluster).await?];
    let nodes = cluster.nodes().await?;
    checks.extend(of_nodes(&nodes));
    checks.extend(crds(cluster).await?);
    checks.push(kube_proxy(cluster).await?);
    checks.push(others(cluster).await?);
    checks.extend(policies(&Policies::read(&cluster.client()).await?));
    Ok(checks)
}

async fn version(cluster: &Cluster) -> Result<Check, ClusterError> {
    const NAME: &str = "kubernetes";
    let version = cluster
        .client()
        .apiserver_version()
        .await
        .map_err(asking("version"))?;
    let minor = version
        .minor
        .trim_end_matches(|c: char| !c.is_ascii_digit())
        .parse::<u32>()
        .unwrap_or(0);
    let found = format!("{} at {}", version.git_version, cluster.url());
    Ok(if minor < LEAST_MINOR {
        let remedy = format!("sluice was run on Kubernetes 1.36, and expects 1.{LEAST_MINOR} or newer");
        Check::warning(NAME, found, remedy)
    } else {
        Check::ok(NAME, found)
    })
}

/// Their number, kernels, operating systems and ranges.
fn of_nodes(nodes: &[Node]) -> Vec<Check> {
    let name = |node: &Node| node.metadata.name.clone().unwrap_or_default();
    let named = |wrong: &dyn Fn(&Node) -> Option<String>| -> Vec<String> {
        let wrong = |node| wrong(node).map(|reason| format!("{} ({reason})", name(node)));
        nodes.iter().filter_map(wrong).collect()
    };
    let info = |node: &Node| node.status.as_ref().and_then(|status| status.node_info.clone());
    let mut checks = vec![if nodes.len() > MOST_NODES {
        let remedy = format!("every agent watches all pods; that was made for at most {MOST_NODES} nodes");
        Check::error("nodes", nodes.len().to_string(), remedy)
    } else {
        Check::ok("nodes", nodes.len().to_string())
    }];
    let old = named(&|node| {
        let release = info(node)?.kernel_version;
        (is_new_enough(&release) == Some(false)).then_some(release)
    });
    let (major, minor) = LEAST_KERNEL;
    checks.push(if old.is_empty() {
        Check::ok("kernels", format!("{major}.{minor} or newer on every node"))
    } else {
        let remedy = format!("sluice needs {major}.{minor} or newer; keep the agent off these nodes, whose pods then have no policy");
        Check::error("kernels", old.join(", "), remedy)
    });
    let foreign = named(&|node| {
        let system = info(node)?.operating_system;
        (system != "linux").then_some(system)
    });
    if !foreign.is_empty() {
        let remedy = "their pods have no policy: sluice is for Linux";
        checks.push(Check::warning("operating-systems", foreign.join(", "), remedy));
    }
    let without = named(&|node| {
        let range = node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_ref());
        range.is_none().then(|| "no podCIDR".to_owned())
    });
    if !without.is_empty() {
        let remedy = "an address that is no known pod's counts as `world` unless it is in a pod range: give agents --pod-cidr";
        checks.push(Check::warning("pod-ranges", without.join(", "), remedy));
    }
    checks
}

async fn crds(cluster: &Cluster) -> Result<Vec<Check>, ClusterError> {
    const NAME: &str = "crds";
    let api: Api<CustomResourceDefinition> = Api::all(cluster.client());
    let mut checks = Vec::new();
    for definition in definition::ALL {
        let name = definition.name();
        let Some(crd) = api.get_opt(&name).await.map_err(asking(name.as_str()))? else {
            let remedy = "policies of this kind cannot be made until it is there: kubectl apply --server-side -f deploy/crds";
            checks.push(Check::warning(NAME, format!("{name}: not installed"), remedy));
            continue;
        };
        let owner = foreign_owner(&crd).unwrap_or_else(|| "sluice".into());
        let versions: Vec<_> = crd
            .spec
            .versions
            .iter()
            .filter(|version| version.served)
            .map(|version| version.name.as_str())
            .collect();
        let found = format!("{name}: of {owner}, serves {}", versions.join(", "));
        let is_read = definition
            .versions
            .iter()
            .any(|version| versions.contains(version));
        checks.push(if is_read {
            Check::ok(NAME, found)
        } else {
            let remedy = format!(
                "agents ask for {}: install a definition that serves it",
                definition.versions.join(" or ")
            );
            Check::warning(NAME, found, remedy)
        });
    }
    Ok(checks)
}

async fn kube_proxy(cluster: &Cluster) -> Result<Check, ClusterError> {
    const NAME: &str = "kube-proxy";
    let api: Api<ConfigMap> = Api::namespaced(cluster.client(), "kube-system");
    let config = api
        .get_opt("kube-proxy")
        .await
        .map_err(asking("ConfigMap kube-system/kube-proxy"))?;
    let text = config.and_then(|config| config.data?.remove("config.conf"));
    let Some(text) = text else {
        return Ok(Check::ok(
            NAME,
            "no ConfigMap kube-system/kube-proxy: it is configured otherwise, or not used",
        ));
    };
    Ok(match mode(&text).as_str() {
        "ipvs" => {
            let remedy = "clients of NodePorts would pass for the node itself, and agents do not start: set mode nftables or iptables";
            Check::error(NAME, "mode ipvs", remedy)
        }
        "" => Check::ok(NAME, "mode iptables (the default)"),
        mode => Check::ok(NAME, format!("mode {mode}")),
    })
}

/// `mode` of a KubeProxyConfiguration; empty for the default.
fn mode(text: &str) -> String {
    let value: serde_json::Value = serde_saphyr::from_str(text).unwrap_or_default();
    value["mode"].as_str().unwrap_or_default().to_owned()
}

/// Whether something else enforces policies.
async fn others(cluster: &Cluster) -> Result<Check, ClusterError> {
    const NAME: &str = "other-agents";
    let api: Api<DaemonSet> = Api::all(cluster.client());
    let mut found = Vec::new();
    for (label, whose) in OTHERS {
        let sets = api
            .list(&ListParams::default().labels(label))
            .await
            .map_err(asking("DaemonSets"))?;
        let running = sets.items.into_iter().filter(|set| {
            let scheduled = set.status.as_ref().map(|status| status.desired_number_scheduled);
            scheduled.is_none_or(|scheduled| scheduled > 0)
        });
        found.extend(running.map(|set| {
            let metadata = set.metadata;
            let (namespace, name) = (
                metadata.namespace.unwrap_or_default(),
                metadata.name.unwrap_or_default(),
            );
            format!("{whose} (DaemonSet {namespace}/{name})")
        }));
    }
    Ok(if found.is_empty() {
        Check::ok(NAME, "none that enforces policies")
    } else {
        let remedy =
            "two agents would fight for pods' interfaces: remove the other, or keep sluice off its nodes";
        Check::error(NAME, found.join(", "), remedy)
    })
}

fn policies(policies: &Policies) -> Vec<Check> {
    const NAME: &str = "policies";
    let sum = policies.sum();
    if policies.refused.is_empty() {
        return vec![Check::ok(NAME, format!("{} valid", sum.valid))];
    }
    let remedy =
        "sluice refuses the object as a whole, and enforces nothing of it: change or remove the field";
    let error = |refused: &String| Check::error(NAME, refused.clone(), remedy);
    policies.refused.iter().map(error).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn node(name: &str, kernel: &str) -> Node {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": name},
            "spec": {"podCIDR": "10.244.0.0/24"},
            "status": {"nodeInfo": {
                "kernelVersion": kernel, "operatingSystem": "linux", "architecture": "amd64", "bootID": "",
                "containerRuntimeVersion": "", "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "",
                "osImage": "", "systemUUID": "",
            }},
        }))
        .unwrap()
    }

    #[test]
    fn an_old_kernel_is_an_error_that_names_the_node() {
        let checks = of_nodes(&[node("a", "6.18.1"), node("b", "5.15.0-7")]);
        let kernels = checks.iter().find(|check| check.name == "kernels").unwrap();
        assert_eq!(
            (kernels.level, kernels.found.as_str()),
            (Level::Error, "b (5.15.0-7)")
        );
        assert!(
            of_nodes(&[node("a", "6.18.1")])
                .iter()
                .all(|check| check.level == Level::Ok)
        );
    }

    #[test]
    fn too_many_nodes_are_an_error() {
        let nodes: Vec<_> = (0..=MOST_NODES).map(|n| node(&n.to_string(), "6.18.1")).collect();
        assert_eq!(of_nodes(&nodes)[0].level, Level::Error);
    }

    #[test]
    fn kube_proxys_mode_is_read_from_its_configuration() {
        assert_eq!(mode("kind: KubeProxyConfiguration\nmode: ipvs\n"), "ipvs");
        assert_eq!(mode("mode: \"\"\n"), "");
        assert_eq!(mode("{"), "");
    }

    #[test]
    fn each_refused_policy_is_an_error_of_its_own() {
        let refused = Policies {
            refused: vec![
                "CiliumNetworkPolicy a/b: spec.x: unknown field".into(),
                "NetworkPolicy a/c: spec".into(),
            ],
            ..Policies::default()
        };
        let checks = policies(&refused);
        assert_eq!(checks.len(), 2);
        assert!(
            checks
                .iter()
                .all(|check| check.level == Level::Error && check.remedy.is_some())
        );
    }
}
