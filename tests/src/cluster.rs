//! A Kubernetes cluster with sluice on it, which is there before the test and stays: `kubectl` and what it cannot do.
//!
//! `SLUICE_CLUSTER_DRIVER` says which: `cluster` (`scripts/cluster.sh`, by the name in `SLUICE_CLUSTER`) or `kind` (by the name in
//! `KIND_CLUSTER`). Nothing else of the tests depends on it.

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::lab::source_root;

/// How the cluster is driven.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Driver {
    /// `scripts/cluster.sh`: nodes are namespaces of this machine.
    Namespaces,
    /// kind, by the cluster's name: nodes are containers.
    Kind(String),
}

/// A cluster that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    driver: Driver,
}

/// What `SLUICE_CLUSTER_DRIVER` says; `None` if it says nothing.
///
/// # Errors
/// It names no driver.
pub fn asked_for() -> Result<Option<Cluster>> {
    let driver = match env::var("SLUICE_CLUSTER_DRIVER").as_deref() {
        Err(_) => return Ok(None),
        Ok("cluster") => Driver::Namespaces,
        Ok("kind") => Driver::Kind(env::var("KIND_CLUSTER").unwrap_or_else(|_| "kind".into())),
        Ok(other) => bail!("SLUICE_CLUSTER_DRIVER: `cluster` or `kind`, not `{other}`"),
    };
    Ok(Some(Cluster { driver }))
}

/// A command with its arguments.
fn command(words: &[&str]) -> Command {
    let mut command = Command::new(words.first().copied().unwrap_or_default());
    command.args(words.get(1..).unwrap_or_default());
    command
}

/// What a command printed, if it has succeeded.
///
/// # Errors
/// It has not; with what it wrote to standard error.
pub fn success(what: &str, output: &Output) -> Result<String> {
    ensure!(
        output.status.success(),
        "{what}: {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Cluster {
    fn script() -> String {
        source_root().join("scripts/cluster.sh").display().to_string()
    }

    /// A command of the driver, `ours` for `scripts/cluster.sh`, with what it shall work on.
    fn words(&self, ours: &[&str], kind: &[&str], rest: &[&str]) -> Vec<String> {
        let (script, first) = match &self.driver {
            Driver::Namespaces => (Some(Self::script()), ours),
            Driver::Kind(_) => (None, kind),
        };
        let rest = first.iter().chain(rest).map(|word| (*word).to_owned());
        script.into_iter().chain(rest).collect()
    }

    fn run(words: &[String], input: Option<&str>) -> Result<Output> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut child = command(&words)
            .stdin(if input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", words.join(" ")))?;
        if let (Some(input), Some(mut pipe)) = (input, child.stdin.take()) {
            pipe.write_all(input.as_bytes())?;
        }
        Ok(child.wait_with_output()?)
    }

    fn kubectl_words(&self, arguments: &[&str]) -> Vec<String> {
        let context = match &self.driver {
            Driver::Namespaces => String::new(),
            Driver::Kind(name) => format!("kind-{name}"),
        };
        self.words(&["kubectl"], &["kubectl", "--context", &context], arguments)
    }

    /// `kubectl` for its outcome, whatever its status.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<Output> {
        Self::run(&self.kubectl_words(arguments), None)
    }

    /// What `kubectl` prints.
    ///
    /// # Errors
    /// It fails.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.try_kubectl(arguments)?;
        success(&format!("kubectl {}", arguments.join(" ")), &output)
    }

    /// `kubectl` with something on its standard input.
    ///
    /// # Errors
    /// It fails.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        let output = Self::run(&self.kubectl_words(arguments), Some(input))?;
        success(&format!("kubectl {}", arguments.join(" ")), &output)
    }

    /// Starts `kubectl` and lets it run; ended with the value of the child.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn_kubectl(&self, arguments: &[&str], output: Stdio) -> Result<Child> {
        let words = self.kubectl_words(arguments);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        command(&words)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(Stdio::inherit())
            .spawn()
            .with_context(|| format!("cannot run {}", words.join(" ")))
    }

    /// `kubectl apply` of objects as YAML.
    ///
    /// # Errors
    /// The API server refuses one.
    pub fn apply(&self, objects: &str) -> Result<()> {
        self.kubectl_with(&["apply", "-f", "-"], objects).map(drop)
    }

    /// Runs a command on a node, in all its namespaces, for its outcome. Needs no API server.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn on_node(&self, node: &str, arguments: &[&str]) -> Result<Output> {
        let words = self.words(&["node-exec", node, "--"], &["docker", "exec", node], arguments);
        Self::run(&words, None)
    }

    /// Runs a command on a machine that is no node and no pod, and has a way to the nodes, for its outcome.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn outside(&self, arguments: &[&str]) -> Result<Output> {
        let words = match self.driver {
            Driver::Namespaces => self.words(&["outside-exec", "--"], &[], arguments),
            Driver::Kind(_) => arguments.iter().map(|word| (*word).to_owned()).collect(),
        };
        Self::run(&words, None)
    }

    /// Puts an image's archive on every node.
    ///
    /// # Errors
    /// A node does not take it.
    pub fn load_image(&self, archive: &Path) -> Result<()> {
        let archive = archive.display().to_string();
        let words = match &self.driver {
            Driver::Namespaces => self.words(&["load"], &[], &[&archive]),
            Driver::Kind(name) => self.words(
                &[],
                &["kind", "load", "image-archive", "--name", name],
                &[&archive],
            ),
        };
        success(&words.join(" "), &Self::run(&words, None)?).map(drop)
    }

    /// Ends the API server. Returns when it has.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop_api_server(&self) -> Result<()> {
        let words = match &self.driver {
            Driver::Namespaces => self.words(&["stop", "kube-apiserver", "KILL"], &[], &[]),
            Driver::Kind(name) => Self::static_pod(
                name,
                "mv /etc/kubernetes/manifests/kube-apiserver.yaml /etc/kubernetes/ && \
                 while crictl ps --name kube-apiserver -q | grep -q .; do sleep 0.1; done",
            ),
        };
        success(&words.join(" "), &Self::run(&words, None)?).map(drop)
    }

    /// Starts it again; it may take a while to answer.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_api_server(&self) -> Result<()> {
        let words = match &self.driver {
            Driver::Namespaces => self.words(&["start", "kube-apiserver"], &[], &[]),
            Driver::Kind(name) => Self::static_pod(
                name,
                "mv /etc/kubernetes/kube-apiserver.yaml /etc/kubernetes/manifests/",
            ),
        };
        success(&words.join(" "), &Self::run(&words, None)?).map(drop)
    }

    fn static_pod(name: &str, script: &str) -> Vec<String> {
        let node = format!("{name}-control-plane");
        ["docker", "exec", &node, "sh", "-c", script]
            .map(str::to_owned)
            .into()
    }

    /// Ends a node with all that runs on it, as pulling its plug would.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop_node(&self, node: &str) -> Result<()> {
        let words = self.words(&["node", "stop", node], &["docker", "kill", node], &[]);
        success(&words.join(" "), &Self::run(&words, None)?).map(drop)
    }

    /// Starts a node that has ended.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_node(&self, node: &str) -> Result<()> {
        let words = self.words(&["node", "start", node], &["docker", "start", node], &[]);
        success(&words.join(" "), &Self::run(&words, None)?).map(drop)
    }

    /// Whether nodes can leave and join: those of kind are made with their cluster.
    #[must_use]
    pub fn has_new_nodes(&self) -> bool {
        self.driver == Driver::Namespaces
    }

    /// Ends a node for good, with its Node object.
    ///
    /// # Errors
    /// It does not end, or [`Self::has_new_nodes`] says no.
    pub fn remove_node(&self, node: &str) -> Result<()> {
        self.change_nodes("leave", node)
    }

    /// A new node joins under the name of one that was removed; returns when it is ready.
    ///
    /// # Errors
    /// It does not become ready, or [`Self::has_new_nodes`] says no.
    pub fn add_node(&self, node: &str) -> Result<()> {
        self.change_nodes("join", node)
    }

    fn change_nodes(&self, verb: &str, node: &str) -> Result<()> {
        ensure!(self.has_new_nodes(), "this driver cannot do `node {verb}`");
        let words = self.words(&["node", verb, node], &[], &[]);
        success(&words.join(" "), &Self::run(&words, None)?).map(drop)
    }

    /// `sluice` with the administrator's kubeconfig, for its outcome.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn sluice(&self, arguments: &[&str]) -> Result<Output> {
        let target =
            env::var_os("CARGO_TARGET_DIR").map_or_else(|| source_root().join("target"), PathBuf::from);
        let built = env::var_os("SLUICE_BIN").map_or_else(|| target.join("release/sluice"), PathBuf::from);
        // Commands of the driver may run it in another folder.
        let program = source_root().join(built).display().to_string();
        let (place, options) = match &self.driver {
            Driver::Namespaces => {
                let output = Self::run(&self.words(&["kubeconfig"], &[], &[]), None)?;
                let file = success("kubeconfig", &output)?;
                let place = vec![Self::script(), "control-exec".to_owned(), "--".to_owned()];
                (place, ["--kubeconfig".to_owned(), file.trim().to_owned()])
            }
            Driver::Kind(name) => (Vec::new(), ["--context".to_owned(), format!("kind-{name}")]),
        };
        let arguments = arguments.iter().map(|word| (*word).to_owned());
        let words: Vec<String> = place
            .into_iter()
            .chain([program])
            .chain(arguments)
            .chain(options)
            .collect();
        Self::run(&words, None)
    }

    /// The API server's audit log: a JSON object per line.
    ///
    /// # Errors
    /// The cluster keeps none.
    pub fn audit_log(&self) -> Result<String> {
        let words = match &self.driver {
            Driver::Namespaces => self.words(&["logs", "audit"], &[], &[]),
            Driver::Kind(name) => Self::static_pod(name, "cat /var/log/kubernetes/audit.log"),
        };
        success(&words.join(" "), &Self::run(&words, None)?)
    }

    /// The archive of the image of `kind-config/article-local`, built if need be.
    ///
    /// # Errors
    /// It cannot be built.
    pub fn article_image() -> Result<String> {
        let words = [Self::script(), "article-image".into()];
        let printed = success(&words.join(" "), &Self::run(&words, None)?)?;
        Ok(printed.trim().to_owned())
    }
}
