//! A lab of `scripts/lab.sh`: brought up by the test, gone when the test is over, however it ends.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};

use crate::agent::Agent;
use crate::netns::Netns;
use crate::pod::Pod;

/// The node's addresses.
pub const NODE4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// See [`NODE4`].
pub const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 1);

/// The node's addresses, both.
pub const NODE: [IpAddr; 2] = [IpAddr::V4(NODE4), IpAddr::V6(NODE6)];

/// Addresses of the client that is no pod and not the node.
pub const OUTSIDE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 2)),
];

/// A lab that is up.
#[derive(Debug)]
pub struct Lab {
    name: String,
    script: PathBuf,
    binary: PathBuf,
    /// Policies in the manifests folder: file name and content.
    policies: BTreeMap<String, String>,
    /// Two runs of one topic on a machine take turns.
    _turn: File,
}

/// Root of the source tree.
#[must_use]
pub fn source_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

impl Lab {
    /// Brings up the lab of a topic, without the agent; what an earlier run left is removed first.
    ///
    /// # Errors
    /// There is no agent binary, or the machine refuses.
    pub fn up(topic: &str) -> Result<Self> {
        let name = format!("e2e-{topic}");
        let turn = File::create(format!("/run/{name}.turn")).context("cannot write to /run")?;
        turn.lock()?;
        let binary = match env::var_os("SLUICE_BIN") {
            Some(path) => PathBuf::from(path),
            None => {
                let target = env::var_os("CARGO_TARGET_DIR")
                    .map_or_else(|| source_root().join("target"), PathBuf::from);
                target.join("release/sluice")
            }
        };
        ensure!(
            binary.is_file(),
            "no {}: run `cargo build --release -p sluice` first, or set SLUICE_BIN",
            binary.display()
        );
        let script = source_root().join("scripts/lab.sh");
        let lab = Self {
            name,
            script,
            binary,
            policies: BTreeMap::new(),
            _turn: turn,
        };
        lab.run(&["down"])?;
        lab.run(&["up"])?;
        fs::create_dir(lab.files())?;
        Ok(lab)
    }

    fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Output> {
        Command::new(&self.script)
            .env("SLUICE_LAB", &self.name)
            .env("SLUICE_BIN", &self.binary)
            .args(arguments)
            .output()
            .with_context(|| format!("cannot run {}", self.script.display()))
    }

    /// Runs `lab.sh`; returns what it prints.
    ///
    /// # Errors
    /// It ends with another status than 0.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String> {
        let output = self.command(arguments)?;
        if !output.status.success() {
            let words: Vec<_> = arguments
                .iter()
                .map(|word| word.as_ref().to_string_lossy())
                .collect();
            bail!(
                "lab.sh {}: {}: {}",
                words.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a command in a pod, or on `node` or `outside`, for its outcome: whatever its status.
    ///
    /// # Errors
    /// `lab.sh` cannot be run.
    pub fn exec(&self, place: &str, command: &[&str]) -> Result<Output> {
        let mut arguments = match place {
            "node" | "outside" => vec![format!("{place}-exec"), "--".into()],
            pod => vec!["exec".into(), pod.into(), "--".into()],
        };
        arguments.extend(command.iter().map(|word| (*word).to_owned()));
        self.command(&arguments)
    }

    /// Runs a command on the node; returns what it prints.
    ///
    /// # Errors
    /// It fails.
    pub fn on_node(&self, command: &[&str]) -> Result<String> {
        let mut arguments = vec!["node-exec", "--"];
        arguments.extend(command);
        self.run(&arguments)
    }

    /// Directory of the lab.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        Path::new("/run").join(&self.name)
    }

    /// Directory for a test's own files; gone with the lab.
    #[must_use]
    pub fn files(&self) -> PathBuf {
        self.dir().join("e2e")
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> Netns {
        Netns::named(&format!("{}-node", self.name))
    }

    /// The outside client.
    #[must_use]
    pub fn outside(&self) -> Netns {
        Netns::named(&format!("{}-out", self.name))
    }

    /// The agent, running or not.
    #[must_use]
    pub fn agent(&self) -> Agent {
        Agent {
            binary: self.binary.clone(),
            run_dir: self.dir().join("run"),
        }
    }

    /// The last lines of the agent's log.
    #[must_use]
    pub fn agent_log(&self) -> String {
        let log = fs::read_to_string(self.dir().join("agent.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Adds a pod `namespace/name` with labels `K=V,...`; with a running agent it is under policy when this returns.
    ///
    /// # Errors
    /// `lab.sh` refuses.
    pub fn add_pod(&self, name: &str, labels: &str) -> Result<Pod> {
        self.add_pod_with(name, labels, &[])
    }

    /// The same with further arguments of `pod add`.
    ///
    /// # Errors
    /// `lab.sh` refuses.
    pub fn add_pod_with(&self, name: &str, labels: &str, arguments: &[&str]) -> Result<Pod> {
        let mut words = vec!["pod", "add", name, "--labels", labels];
        words.extend(arguments);
        self.run(&words)?;
        Pod::parse(&self.run(&["pod", "show", name])?)
    }

    /// Starts a command in a pod, until the pod goes.
    ///
    /// # Errors
    /// `lab.sh` refuses.
    pub fn spawn(&self, pod: &str, command: &[&str]) -> Result<()> {
        let mut words = vec!["spawn", pod, "--"];
        words.extend(command);
        self.run(&words).map(drop)
    }

    /// Makes these policies, name and YAML, the only ones; all workers enforce them when this returns.
    ///
    /// # Errors
    /// The agent refuses one.
    pub fn enforce(&mut self, policies: &[(&str, &str)]) -> Result<()> {
        let wanted: BTreeMap<String, String> = policies
            .iter()
            .map(|(name, yaml)| (format!("{name}.yaml"), (*yaml).to_owned()))
            .collect();
        let gone: Vec<&String> = self
            .policies
            .keys()
            .filter(|name| !wanted.contains_key(*name))
            .collect();
        if !gone.is_empty() {
            let words: Vec<&str> = ["unapply"]
                .into_iter()
                .chain(gone.iter().map(|name| name.as_str()))
                .collect();
            self.run(&words)?;
        }
        let mut changed = Vec::new();
        for (name, yaml) in wanted
            .iter()
            .filter(|(name, yaml)| self.policies.get(*name) != Some(*yaml))
        {
            let path = self.files().join(name);
            fs::write(&path, yaml)?;
            changed.push(path);
        }
        if !changed.is_empty() {
            let mut words = vec![OsStr::new("apply")];
            words.extend(changed.iter().map(|path| path.as_os_str()));
            self.run(&words)?;
        }
        self.policies = wanted;
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.run(&["down"]) {
            eprintln!("cannot remove the lab: {error:#}");
        }
    }
}
