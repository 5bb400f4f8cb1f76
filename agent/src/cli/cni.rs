//! Where the container runtime has its plugins and what it knows of pods.

use std::path::PathBuf;

use clap::Args;

use crate::cni::adoption::CACHE_DIR;

/// Options of `sluice agent` for CNI.
#[derive(Debug, Clone, Default, Args)]
pub struct CniArgs {
    /// The runtime's folder of CNI configurations (usually /etc/cni/net.d): the agent writes 00-sluice.conflist there, which is the
    /// node's own list with sluice-cni after it
    #[arg(long, value_name = "DIR")]
    pub cni_conf_dir: Option<PathBuf>,
    /// The runtime's folder of CNI plugins (usually /opt/cni/bin): the agent installs sluice-cni there
    #[arg(long, value_name = "DIR")]
    pub cni_bin_dir: Option<PathBuf>,
    /// The plugin to install [default: sluice-cni beside this program]
    #[arg(long, value_name = "FILE", requires = "cni_bin_dir")]
    pub cni_plugin: Option<PathBuf>,
    /// Where the runtime keeps results of CNI: pods found there come under policy when the agent starts
    /// [default with --cni-conf-dir: /var/lib/cni/results]
    #[arg(long, value_name = "DIR")]
    pub cni_cache_dir: Option<PathBuf>,
}

impl CniArgs {
    /// Where to look for pods that are there already; `None`: nowhere.
    #[must_use]
    pub fn cache_dir(&self) -> Option<PathBuf> {
        let default = || self.cni_conf_dir.as_ref().map(|_| CACHE_DIR.into());
        self.cni_cache_dir.clone().or_else(default)
    }
}
