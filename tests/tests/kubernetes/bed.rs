//! The cluster that the cases share: pods, what connects to what, and the agents.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use sluice_e2e::cluster::{self, Cluster};
use sluice_e2e::suite::Bed;
use sluice_e2e::wait;

/// Of `scripts/cluster.sh article-image`: sh, curl, nc, ip and python3.
pub const IMAGE: &str = "docker.io/sluice/article:1";

/// Port of [`Installed::web`] pods.
pub const WEB: u16 = 8080;

/// A cluster on whose every node sluice is ready.
pub struct Installed {
    pub cluster: Cluster,
    /// Nodes that pods run on.
    pub nodes: Vec<String>,
    /// Namespaces that the cases made; deleted with the bed.
    namespaces: BTreeSet<String>,
}

impl Bed for Installed {
    fn prepare() -> Result<Self> {
        let cluster = cluster::asked_for()?.context("SLUICE_CLUSTER_DRIVER is not set")?;
        let nodes = cluster
            .kubectl(&[
                "-n",
                "kube-system",
                "get",
                "pods",
                "-l",
                "app.kubernetes.io/name=sluice",
                "-o",
                "jsonpath={.items[*].spec.nodeName}",
            ])
            .context("no cluster; start one with scripts/cluster.sh up")?;
        let mut nodes: Vec<String> = nodes.split_whitespace().map(str::to_owned).collect();
        nodes.sort();
        ensure!(
            nodes.len() >= 2,
            "sluice runs on {} nodes, the cases need 2: scripts/cluster.sh install",
            nodes.len()
        );
        let bed = Self {
            cluster,
            nodes,
            namespaces: BTreeSet::new(),
        };
        bed.wait_for_agents()?;
        Ok(bed)
    }

    fn missing() -> Option<String> {
        match cluster::asked_for() {
            Ok(None) => Some("no cluster: SLUICE_CLUSTER_DRIVER is not set".into()),
            Ok(Some(_)) => None,
            // `prepare` says why.
            Err(_) => None,
        }
    }

    fn log(&self) -> String {
        let arguments = [
            "-n",
            "kube-system",
            "logs",
            "-l",
            "app.kubernetes.io/name=sluice",
            "--tail",
            "15",
            "--prefix",
        ];
        self.cluster
            .kubectl(&arguments)
            .unwrap_or_else(|error| error.to_string())
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            let _ = self.cluster.try_kubectl(&[
                "delete",
                "namespace",
                namespace,
                "--ignore-not-found",
                "--wait=false",
            ]);
        }
    }
}

/// A pod to be.
#[derive(Clone)]
pub struct PodSpec<'a> {
    pub name: &'a str,
    /// `key: value, key: value`.
    pub labels: &'a str,
    pub node: &'a str,
    /// Shell commands.
    pub script: String,
    /// Further lines of the container.
    pub container: &'a str,
    /// Further lines of the pod's spec.
    pub spec: &'a str,
}

impl<'a> PodSpec<'a> {
    /// One that does nothing.
    pub fn idle(name: &'a str, labels: &'a str, node: &'a str) -> Self {
        Self {
            name,
            labels,
            node,
            script: "exec sleep infinity".into(),
            container: "",
            spec: "",
        }
    }

    /// One that serves HTTP in both families at [`WEB`].
    pub fn web(name: &'a str, labels: &'a str, node: &'a str) -> Self {
        Self {
            script: format!("exec python3 -u -m http.server {WEB} --bind ::"),
            container: "readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}",
            ..Self::idle(name, labels, node)
        }
    }

    fn yaml(&self, namespace: &str) -> String {
        let script = Value::from(self.script.as_str());
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {}, namespace: {namespace}, labels: {{{}}}}}\nspec:\n  \
             nodeName: {}\n  automountServiceAccountToken: false\n  terminationGracePeriodSeconds: 1\n  {}\n  \
             containers:\n  - name: main\n    image: {IMAGE}\n    imagePullPolicy: IfNotPresent\n    \
             command: [sh, -c, {script}]\n    {}\n---\n",
            self.name,
            self.labels,
            self.node,
            self.spec.replace('\n', "\n  "),
            self.container.replace('\n', "\n    "),
        )
    }
}

/// Seconds since the epoch: all nodes are on one machine, and so have one clock.
pub fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// A number from the environment, for longer runs than CI's.
pub fn size(variable: &str, default: u64) -> Result<u64> {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{variable}: not a number: {text}")),
        Err(_) => Ok(default),
    }
}

/// The value below which `percent` of the samples are.
pub fn percentile(samples: &mut [f64], percent: usize) -> f64 {
    samples.sort_by(f64::total_cmp);
    let rank = (samples.len() * percent).div_ceil(100).max(1);
    samples.get(rank - 1).copied().unwrap_or(f64::NAN)
}

impl Installed {
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl(arguments)
    }

    /// An object as JSON.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "-o", "json"], arguments].concat())?;
        serde_json::from_str(&text).context("kubectl get -o json")
    }

    /// Whether there is no kube-proxy, and the agents serve ClusterIPs to the nodes' own processes.
    pub fn replaces_kube_proxy(&self) -> Result<bool> {
        let daemonset = self.get(&["-n", "kube-system", "daemonset", "sluice"])?;
        Ok(daemonset["spec"]
            .to_string()
            .contains("\"--kube-proxy-replacement\""))
    }

    pub fn wait_for_agents(&self) -> Result<()> {
        self.kubectl(&[
            "-n",
            "kube-system",
            "rollout",
            "status",
            "daemonset/sluice",
            "--timeout",
            "120s",
        ])
        .map(drop)
    }

    /// An empty namespace; what an earlier run left of it goes first.
    pub fn namespace(&mut self, name: &str) -> Result<()> {
        self.delete_namespace(name)?;
        self.namespaces.insert(name.to_owned());
        self.kubectl(&["create", "namespace", name])?;
        // Pods are refused until it is there. After an outage the controller that makes it comes back late.
        wait::until("the namespace has its service account", 4 * wait::LONG, || {
            let found = self
                .cluster
                .try_kubectl(&["-n", name, "get", "serviceaccount", "default"])?;
            Ok(found.status.success().then_some(()))
        })
    }

    /// Lets go of a namespace; it takes a while to vanish.
    pub fn leave_namespace(&self, name: &str) -> Result<()> {
        self.kubectl(&["delete", "namespace", name, "--wait=false"])
            .map(drop)
    }

    /// To be deleted with the bed.
    pub fn remember_namespace(&mut self, name: &str) {
        self.namespaces.insert(name.to_owned());
    }

    /// Removes what other cases left, and waits until it is gone.
    pub fn delete_namespaces(&self) -> Result<()> {
        let names = self.kubectl(&["get", "namespaces", "-o", "name"])?;
        for name in names.lines().filter_map(|name| name.strip_prefix("namespace/")) {
            if name.starts_with("e2e-") {
                self.delete_namespace(name)?;
            }
        }
        Ok(())
    }

    fn delete_namespace(&self, name: &str) -> Result<()> {
        self.kubectl(&[
            "delete",
            "namespace",
            name,
            "--ignore-not-found",
            "--timeout",
            "120s",
        ])
        .map(drop)
    }

    /// Creates pods and waits until they are ready.
    pub fn pods(&self, namespace: &str, pods: &[PodSpec<'_>]) -> Result<()> {
        self.create(namespace, pods)?;
        let names = pods.iter().map(|pod| format!("pod/{}", pod.name));
        let names: Vec<String> = names.collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let arguments = [
            "-n",
            namespace,
            "wait",
            "--for",
            "condition=Ready",
            "--timeout",
            "90s",
        ];
        let ready = self.kubectl(&[&arguments[..], &names].concat());
        ready.map(drop).with_context(|| {
            let arguments = ["-n", namespace, "get", "events", "--sort-by", ".lastTimestamp"];
            self.kubectl(&arguments).unwrap_or_else(|error| error.to_string())
        })
    }

    /// Creates pods.
    pub fn create(&self, namespace: &str, pods: &[PodSpec<'_>]) -> Result<()> {
        let objects: String = pods.iter().map(|pod| pod.yaml(namespace)).collect();
        self.cluster.apply(&objects)
    }

    /// A pod's addresses, IPv4 first.
    pub fn addresses(&self, namespace: &str, pod: &str) -> Result<Vec<IpAddr>> {
        let arguments = [
            "-n",
            namespace,
            "get",
            "pod",
            pod,
            "-o",
            "jsonpath={.status.podIPs[*].ip}",
        ];
        let text = self.kubectl(&arguments)?;
        let addresses = text
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        Ok(addresses)
    }

    pub fn address(&self, namespace: &str, pod: &str) -> Result<IpAddr> {
        let addresses = self.addresses(namespace, pod)?;
        addresses
            .first()
            .copied()
            .with_context(|| format!("pod {namespace}/{pod} has no address"))
    }

    /// A node's addresses, IPv4 first.
    pub fn node_addresses(&self, node: &str) -> Result<Vec<IpAddr>> {
        let path = "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}";
        let text = self.kubectl(&["get", "node", node, "-o", path])?;
        Ok(text
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?)
    }

    /// Runs a command where `from` says, `namespace/pod` or `outside`, whatever its status.
    pub fn run_at(&self, from: &str, command: &[&str]) -> Result<std::process::Output> {
        match from.split_once('/') {
            None if from == "outside" => self.cluster.outside(command),
            None => bail!("neither a pod nor `outside`: {from}"),
            Some((namespace, pod)) => self
                .cluster
                .try_kubectl(&[&["-n", namespace, "exec", pod, "--"], command].concat()),
        }
    }

    /// Outcome of `nc -v -z -w 2`: `open`, `timeout`, `refused`, or what nc says.
    pub fn connect(&self, from: &str, to: &str, port: u16) -> Result<String> {
        let output = self.run_at(from, &["nc", "-v", "-z", "-w", "2", to, &port.to_string()])?;
        Ok(nc_outcome(&String::from_utf8_lossy(&output.stderr)))
    }

    /// Connects until the outcome is `expected`; the policy that makes it so has just been applied.
    pub fn until_connect(&self, from: &str, to: IpAddr, port: u16, expected: &str) -> Result<()> {
        wait::until_equal(
            &format!("{from} to {to} port {port}"),
            &expected.to_owned(),
            || self.connect(from, &to.to_string(), port),
        )
    }

    /// Connects once; the outcome has to be `expected`.
    pub fn expect_connect(&self, from: &str, to: IpAddr, port: u16, expected: &str) -> Result<()> {
        let seen = self.connect(from, &to.to_string(), port)?;
        ensure!(
            seen == expected,
            "{from} to {to} port {port}: expected {expected}, seen {seen}"
        );
        Ok(())
    }

    /// Name of the agent's pod on a node.
    pub fn agent(&self, node: &str) -> Result<String> {
        let field = format!("spec.nodeName={node}");
        let arguments = [
            "-n",
            "kube-system",
            "get",
            "pods",
            "-l",
            "app.kubernetes.io/name=sluice",
            "--field-selector",
            &field,
            "-o",
            "jsonpath={.items[0].metadata.name}",
        ];
        self.kubectl(&arguments)
    }

    /// `sluice status -o json` of a node's agent.
    pub fn status(&self, node: &str) -> Result<Value> {
        let agent = self.agent(node)?;
        let text = self.kubectl(&[
            "-n",
            "kube-system",
            "exec",
            &agent,
            "--",
            "sluice",
            "status",
            "-o",
            "json",
        ])?;
        serde_json::from_str(&text).context("sluice status -o json")
    }

    /// Runs a command on a node that has to succeed.
    pub fn node_shell(&self, node: &str, script: &str) -> Result<String> {
        let output = self.cluster.on_node(node, &["sh", "-c", script])?;
        cluster::success(&format!("{node}: {script}"), &output)
    }

    /// Path of the network namespace on `node` that has an address: runs commands in pods without the API server.
    pub fn namespace_of(&self, node: &str, address: IpAddr) -> Result<String> {
        let script = format!(
            "for file in /run/netns/*; do nsenter --net=$file ip -o addr 2>/dev/null | grep -qF ' {address}/' && echo $file; \
             done; true"
        );
        let found = self.node_shell(node, &script)?;
        let path = found.lines().next();
        path.map(str::to_owned)
            .with_context(|| format!("{node}: no network namespace has {address}"))
    }

    /// `open`, `timeout` after `seconds`, or curl's status, of a connection from a network namespace on a node.
    pub fn connect_within(
        &self,
        node: &str,
        netns: &str,
        to: IpAddr,
        port: u16,
        seconds: f32,
    ) -> Result<String> {
        let netns = format!("--net={netns}");
        let url = format!("http://{}/", std::net::SocketAddr::new(to, port));
        let seconds = seconds.to_string();
        let command = [
            "nsenter",
            &netns,
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "--connect-timeout",
            &seconds,
            &url,
        ];
        let output = self.cluster.on_node(node, &command)?;
        Ok(match output.status.code() {
            Some(0) => "open".into(),
            Some(28) => "timeout".into(),
            code => format!("curl exit {code:?}"),
        })
    }
}

fn nc_outcome(said: &str) -> String {
    match () {
        () if said.contains("succeeded") => "open".into(),
        () if said.contains("timed out") => "timeout".into(),
        () if said.contains("refused") => "refused".into(),
        () => said.trim().to_owned(),
    }
}

/// A NetworkPolicy that lets nothing in or out of all pods.
pub fn default_deny(namespace: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: default-deny, namespace: {namespace}}}\n\
         spec: {{podSelector: {{}}, policyTypes: [Ingress, Egress]}}\n---\n"
    )
}

/// A NetworkPolicy by which only pods with label `app: FROM`, of the same namespace, reach those with `app: TO`.
pub fn allow_only(namespace: &str, name: &str, from: &str, to: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  podSelector: {{matchLabels: {{app: {to}}}}}\n  policyTypes: [Ingress]\n  \
         ingress: [{{from: [{{podSelector: {{matchLabels: {{app: {from}}}}}}}]}}]\n---\n"
    )
}
