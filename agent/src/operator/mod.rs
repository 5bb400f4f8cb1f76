//! The operator of a cluster: the only part of sluice that writes to the API server.
//!
//! It says of each policy whether it is valid, and takes a taint off nodes whose agent is ready. Nothing that is enforced depends on it.
//! Of several replicas the one that holds the lease writes; the others follow the API server, too, and are ready to take over.

mod condition;
mod event;
#[cfg(test)]
mod fake_server;
mod lease;
mod metrics;
mod policy;
mod taint;
mod writer;

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use control::kubernetes::Watch;
use control::object::Kind;
use control::{ApiServer, KubernetesConfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time;

use self::lease::{Candidate, LeaseConfig};
use self::metrics::Metrics;
use self::writer::{Writer, WriterConfig};
use crate::cli::OperatorArgs;
use crate::log;
use crate::metrics::MetricsServer;

/// Name of the Lease.
const LEASE_NAME: &str = "sluice-operator";

/// How long giving the lease back may take.
const RELEASE: Duration = Duration::from_secs(3);

/// Kinds that are watched in the whole cluster.
const KINDS: [Kind; 5] = [
    Kind::CiliumNetworkPolicy,
    Kind::CiliumClusterwideNetworkPolicy,
    Kind::NetworkPolicy,
    Kind::ClusterNetworkPolicy,
    Kind::Node,
];

/// Runs the operator until it is told to end.
///
/// # Errors
/// It cannot start.
pub async fn run(args: OperatorArgs) -> anyhow::Result<ExitCode> {
    log::init();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let server = ApiServer::new(&KubernetesConfig {
        kubeconfig: args.kubeconfig,
    })
    .await?;
    let listener = MetricsServer::bind(args.metrics_address).await?;
    let identity = identity(args.pod_name)?;
    let (term, led) = watch::channel(None);
    let metrics = Metrics::new(led.clone());
    let serving = tokio::spawn(listener.serve(metrics.clone()));
    let agents = Watch {
        namespace: Some(args.namespace.clone()),
        labels: Some(args.agent_pod_labels),
        ..Watch::all(Kind::Pod)
    };
    let watches: Vec<Watch> = KINDS.into_iter().map(Watch::all).chain([agents]).collect();
    let kinds = watches.iter().map(|watch| watch.kind).collect();
    let config = WriterConfig {
        identity: identity.clone(),
        cluster: control::ControlConfig::default().cluster_name,
    };
    let mut writer = Writer::new(server.client(), config, kinds, led, metrics);
    let lease = LeaseConfig {
        namespace: args.namespace,
        name: LEASE_NAME.to_owned(),
        identity,
    };
    let mut candidate = Candidate::new(server.client(), lease);
    tracing::info!(server = server.url(), "the operator is running");
    let outcome = tokio::select! {
        biased;
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        () = candidate.run(&term) => Ok(()),
        () = writer.run(server.observe(watches)) => bail!("nothing is watched any more"),
    };
    // First the writes end, then the lease.
    serving.abort();
    if term.send_replace(None).is_some() {
        match time::timeout(RELEASE, candidate.release()).await {
            Ok(Ok(())) => tracing::info!("the lease is given back"),
            Ok(Err(error)) => tracing::warn!(%error, "cannot give the lease back"),
            Err(_) => tracing::warn!("cannot give the lease back: the API server does not answer"),
        }
    }
    outcome.map(|()| ExitCode::SUCCESS)
}

/// A name that no other replica has, whatever pods are called.
fn identity(pod_name: Option<String>) -> anyhow::Result<String> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    let name = match pod_name {
        Some(name) => name,
        None => read("/proc/sys/kernel/hostname")?,
    };
    let number = read("/proc/sys/kernel/random/uuid")?;
    Ok(format!("{}_{}", name.trim(), number.trim()))
}
