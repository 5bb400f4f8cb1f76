//! The container runtime: its plugin, and the pods that it knows and the agent does not.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{JoinHandle, block_in_place};

use super::{POD_INTERFACE, Supervisor};
use crate::api::SOCKET_NAME;
use crate::cli::CniArgs;
use crate::cni::{Installation, adoption};

/// How long after the start pods are looked for. A pod that began to come up before the runtime's configuration named sluice
/// appears when it is done, for which runtimes allow minutes.
const ADOPTION_TIME: Duration = Duration::from_secs(300);

/// What the supervisor knows of the runtime.
#[derive(Debug, Default)]
pub(super) struct Runtime {
    /// Where it keeps what it knows of pods, and until when that is looked at.
    cache: Option<(PathBuf, Instant)>,
    /// Pods of the cache that could not be taken.
    adoption_problems: Vec<String>,
    /// What is wrong with the installed plugin, where one is.
    problem: Option<watch::Receiver<Option<String>>>,
}

impl Runtime {
    pub(super) fn new(args: &CniArgs) -> Self {
        let until = Instant::now() + ADOPTION_TIME;
        Self {
            cache: args.cache_dir().map(|dir| (dir, until)),
            ..Self::default()
        }
    }

    /// Keeps plugin and configuration installed, as far as the agent was told to.
    pub(super) fn install(
        &mut self,
        run_dir: &Path,
        args: &CniArgs,
    ) -> anyhow::Result<Option<JoinHandle<()>>> {
        if args.cni_conf_dir.is_none() && args.cni_bin_dir.is_none() {
            return Ok(None);
        }
        let (sender, problem) = watch::channel(Some("CNI: the plugin is not installed yet".to_owned()));
        self.problem = Some(problem);
        let plugin = args.cni_plugin.clone();
        let installation = Installation {
            conf_dir: args.cni_conf_dir.clone(),
            bin_dir: args.cni_bin_dir.clone(),
            plugin: plugin.unwrap_or_else(Installation::own_plugin),
            socket: std::path::absolute(run_dir.join(SOCKET_NAME))?,
        };
        Ok(Some(tokio::spawn(installation.follow(sender))))
    }

    /// What is wrong with the installed plugin, or its place in the runtime's configuration.
    pub(super) fn problem(&self) -> Option<String> {
        self.problem.as_ref().and_then(|problem| problem.borrow().clone())
    }

    /// Pods of the cache that could not be taken, or files of it that tell of none, with the reason.
    pub(super) fn adoption_problems(&self) -> &[String] {
        &self.adoption_problems
    }
}

impl Supervisor {
    /// Puts the pods in the runtime's cache under policy that are not, and whose interface is there; not those of excluded namespaces.
    pub(super) async fn adopt_cached(&mut self) {
        let is_bypassed = self.runtime.problem().is_some();
        let Some((dir, until)) = &mut self.runtime.cache else {
            return;
        };
        if is_bypassed {
            // Pods come up without the plugin, and go on to for as long as at the start.
            *until = Instant::now() + ADOPTION_TIME;
        }
        // What could not be taken is tried again, and as long as a pod is left open it is looked for.
        let is_complete = self.runtime.adoption_problems.is_empty() && self.unenforced.pods().is_empty();
        if Instant::now() > *until && is_complete {
            return;
        }
        let cached = block_in_place(|| {
            adoption::scan(
                dir,
                POD_INTERFACE,
                |attachment| {
                    let mut endpoints = self.registry.endpoints();
                    endpoints.any(|endpoint| endpoint.spec.attachment.as_ref() == Some(attachment))
                },
                |namespace| self.excluded.contains(namespace),
            )
        });
        let mut problems = cached.problems;
        for spec in cached.pods {
            // Added by hand.
            if self.registry.by_interface(&spec.interface).is_some() {
                continue;
            }
            let (pod, interface) = (spec.pod.clone(), spec.interface.clone());
            match self.add(spec, true).await {
                Ok(_) => tracing::info!(%pod, interface, "pod was there already: it is under policy now"),
                Err(error) => problems.push(format!("{pod} stays without policy: {error}")),
            }
        }
        let former = &self.runtime.adoption_problems;
        for problem in problems.iter().filter(|problem| !former.contains(problem)) {
            tracing::warn!("{problem}");
        }
        self.runtime.adoption_problems = problems;
    }
}
