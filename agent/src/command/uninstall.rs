//! `sluice uninstall`

use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::apps::v1::DaemonSet;

use super::print_line;
use crate::cli::UninstallArgs;
use crate::cluster::cleanup::{self, CleanupError};
use crate::cluster::removal::CrdRemoval;
use crate::cluster::{Cluster, NAME};

pub(super) async fn run(args: &UninstallArgs) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::connect(&args.access).await?;
    let limit = Duration::from_secs(args.timeout);
    let agents = cluster.daemon_set().await?;
    let image = args.image.as_deref();
    let cleanup = match &agents {
        Some(agents) if is_of_helm(agents) || args.nodes_only => bail!("{}", refusal(agents, &cluster)),
        Some(agents) => cleanup::daemon_set(agents, image)?,
        None if image.is_none() => return Err(CleanupError::NoImage.into()),
        None => cleanup::daemon_set(&cleanup::default_daemon_set()?, image)?,
    };
    let nodes = cluster.nodes().await?.len();
    confirm(
        args,
        &format!(
            "Remove sluice from {}, namespace {}, and clean its nodes ({nodes})?",
            cluster.url(),
            cluster.namespace()
        ),
    )?;
    if let Some(agents) = &agents {
        match cluster.delete_daemon_set(agents, limit).await {
            // A node that does not answer must not keep the others' pods cut off.
            Err(error @ CleanupError::NotGone { .. }) => eprintln!("sluice: {error}"),
            deleted => deleted?,
        }
        print_line(&format!("DaemonSet {NAME}: deleted"))?;
    }
    let mut is_complete = true;
    for node in cluster.clean_nodes(&cleanup, limit).await? {
        is_complete &= node.problem.is_none();
        let state = node
            .problem
            .map_or_else(|| "cleaned".into(), |problem| format!("NOT CLEANED: {problem}"));
        print_line(&format!("node {}: {state}", node.node))?;
    }
    if !args.nodes_only {
        for object in cluster.delete_companions().await? {
            print_line(&format!("{object}: deleted"))?;
        }
    }
    if args.crds {
        for crd in cluster.delete_crds().await? {
            match crd {
                CrdRemoval::Deleted(name) => {
                    print_line(&format!("CustomResourceDefinition {name}: deleted"))?
                }
                CrdRemoval::Left(name, reason) => {
                    print_line(&format!("CustomResourceDefinition {name}: left, {reason}"))?
                }
            };
        }
    }
    if !is_complete {
        let image = image_of(&cleanup);
        eprintln!(
            "sluice: on nodes that were not cleaned pods stay cut off; when they answer:\n  sluice uninstall --nodes-only --namespace {} --image {image}",
            cluster.namespace()
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// The image of a DaemonSet's pods.
fn image_of(pods: &DaemonSet) -> String {
    let spec = pods.spec.template.spec.as_ref();
    spec.and_then(|spec| spec.containers.first()?.image.clone())
        .unwrap_or_else(|| "IMAGE".into())
}

fn is_of_helm(agents: &DaemonSet) -> bool {
    let labels = agents.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get("app.kubernetes.io/managed-by"))
        .is_some_and(|tool| tool == "Helm")
}

/// What to do first.
fn refusal(agents: &DaemonSet, cluster: &Cluster) -> String {
    let image = image_of(agents);
    let annotations = agents.metadata.annotations.as_ref();
    let release = annotations
        .and_then(|all| all.get("meta.helm.sh/release-name"))
        .map_or(NAME, String::as_str);
    let namespace = cluster.namespace();
    let first = if is_of_helm(agents) {
        format!("helm uninstall --namespace {namespace} {release}")
    } else {
        format!("kubectl delete --namespace {namespace} daemonset {NAME}")
    };
    format!(
        "the agents are there; run first:\n  {first}\nthen:\n  sluice uninstall --nodes-only --namespace {namespace} --image {image}"
    )
}

fn confirm(args: &UninstallArgs, question: &str) -> anyhow::Result<()> {
    if args.yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        bail!("nobody to ask: give --yes");
    }
    eprint!("{question} [y/N] ");
    io::stderr().flush().context("cannot ask")?;
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .context("cannot read the answer")?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("nothing was removed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helm_has_installed_is_recognised() {
        let mut agents = cleanup::default_daemon_set().unwrap();
        assert!(!is_of_helm(&agents));
        let labels = agents.metadata.labels.get_or_insert_default();
        labels.insert("app.kubernetes.io/managed-by".into(), "Helm".into());
        assert!(is_of_helm(&agents));
    }
}
