//! Access to a whole cluster, for the commands that an administrator gives: what is installed, which pods are agents, and
//! commands within pods.
//!
//! Everything here is asked when it is needed, nothing is watched. The agent itself does not use it.

pub mod cleanup;
mod exec;
mod manifest;
pub mod objects;
pub mod policies;
pub mod removal;
pub mod status;

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client, Config};

pub use self::exec::{Exec, ExecError};
pub use self::manifest::{ManifestError, documents};
use crate::cli::AccessArgs;

/// Name of the DaemonSet, and of what belongs to it.
pub const NAME: &str = "sluice";

/// Name of the operator's Deployment.
pub const OPERATOR: &str = "sluice-operator";

/// Name of the agent's container.
const CONTAINER: &str = "agent";

/// Pods and the like on one page of a list, as kubectl asks.
const PAGE: u32 = 500;

/// The cluster cannot be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The kubeconfig cannot be read, or has no such context.
    #[error("kubeconfig {}: {source}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: KubeconfigError,
    },
    /// The kubeconfigs of KUBECONFIG or ~/.kube/config.
    #[error("kubeconfig: {0}")]
    DefaultKubeconfig(#[source] KubeconfigError),
    /// Neither kubeconfig nor service account.
    #[error("no way to the API server: give --kubeconfig, or set KUBECONFIG ({0})")]
    Infer(#[source] InferConfigError),
    /// A request failed.
    #[error("{what}: {}", reason(error))]
    Request {
        /// What was asked for.
        what: String,
        /// Why not.
        error: Box<kube::Error>,
    },
}

/// Why a request failed, in one line: the API server's own words, or the error with all its causes.
#[must_use]
pub fn reason(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return status.message.clone();
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Names what was asked for in the error of a request.
pub fn asking(what: impl Into<String>) -> impl FnOnce(kube::Error) -> ClusterError {
    move |error| ClusterError::Request {
        what: what.into(),
        error: Box::new(error),
    }
}

/// A cluster, and where in it sluice is.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
    url: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Cluster");
        debug.field("url", &self.url).finish_non_exhaustive()
    }
}

impl Cluster {
    /// A client for it; nothing is asked yet.
    ///
    /// # Errors
    /// [`ClusterError`]
    pub async fn connect(access: &AccessArgs) -> Result<Self, ClusterError> {
        let options = KubeConfigOptions {
            context: access.context.clone(),
            ..KubeConfigOptions::default()
        };
        let config = match &access.kubeconfig {
            Some(path) => {
                let unusable = |source| ClusterError::Kubeconfig {
                    path: path.clone(),
                    source,
                };
                let file = Kubeconfig::read_from(path).map_err(unusable)?;
                Config::from_custom_kubeconfig(file, &options)
                    .await
                    .map_err(unusable)?
            }
            None if access.context.is_some() => Config::from_kubeconfig(&options)
                .await
                .map_err(ClusterError::DefaultKubeconfig)?,
            None => Config::infer().await.map_err(ClusterError::Infer)?,
        };
        let url = config.cluster_url.to_string();
        let client = Client::try_from(config).map_err(asking("client for the API server"))?;
        Ok(Self {
            client,
            namespace: access.namespace.clone(),
            url,
        })
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The API server's address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The namespace that sluice is installed in.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The agents' DaemonSet, if there is one.
    ///
    /// # Errors
    /// [`ClusterError::Request`]
    pub async fn daemon_set(&self) -> Result<Option<DaemonSet>, ClusterError> {
        let api: Api<DaemonSet> = Api::namespaced(self.client(), &self.namespace);
        let what = format!("DaemonSet {}/{NAME}", self.namespace);
        api.get_opt(NAME).await.map_err(asking(what))
    }

    /// The operator's Deployment, if there is one.
    ///
    /// # Errors
    /// [`ClusterError::Request`]
    pub async fn operator(&self) -> Result<Option<Deployment>, ClusterError> {
        let api: Api<Deployment> = Api::namespaced(self.client(), &self.namespace);
        let what = format!("Deployment {}/{OPERATOR}", self.namespace);
        api.get_opt(OPERATOR).await.map_err(asking(what))
    }

    /// All nodes.
    ///
    /// # Errors
    /// [`ClusterError::Request`]
    pub async fn nodes(&self) -> Result<Vec<Node>, ClusterError> {
        let api: Api<Node> = Api::all(self.client());
        let nodes = api.list(&ListParams::default()).await;
        Ok(nodes.map_err(asking("nodes"))?.items)
    }

    /// The pods of a DaemonSet, by node; of several on one node, the one that is not being deleted.
    ///
    /// # Errors
    /// [`ClusterError::Request`]
    pub async fn pods_of(&self, daemon_set: &DaemonSet) -> Result<BTreeMap<String, Pod>, ClusterError> {
        let api: Api<Pod> = Api::namespaced(self.client(), &self.namespace);
        let selector = daemon_set.spec.selector.match_labels.iter().flatten();
        let labels: Vec<_> = selector.map(|(key, value)| format!("{key}={value}")).collect();
        let uid = daemon_set.metadata.uid.as_deref();
        let mut by_node = BTreeMap::new();
        let mut parameters = ListParams::default().labels(&labels.join(",")).limit(PAGE);
        loop {
            let page = api.list(&parameters).await.map_err(asking("agents' pods"))?;
            for pod in page.items {
                let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
                let is_owned = owners.iter().any(|owner| Some(owner.uid.as_str()) == uid);
                let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else {
                    continue;
                };
                let is_going = pod.metadata.deletion_timestamp.is_some();
                if is_owned && !(is_going && by_node.contains_key(&node)) {
                    by_node.insert(node, pod);
                }
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters = parameters.continue_token(&token),
                None => return Ok(by_node),
            }
        }
    }

    /// Runs `sluice` with `arguments` in an agent's pod; its standard output.
    ///
    /// # Errors
    /// [`ExecError`]
    pub async fn agent_exec(&self, pod: &str, arguments: &[&str]) -> Result<Vec<u8>, ExecError> {
        let command = [&[NAME], arguments].concat();
        Exec::new(&self.namespace, pod, CONTAINER)
            .run(self.client(), &command)
            .await
    }
}
