//! The API server is away. Nothing here needs it meanwhile: connections are tried from the pods' namespaces on their nodes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sluice_e2e::suite::Case;
use sluice_e2e::{cases, wait};

use crate::bed::{Installed, PodSpec, WEB, allow_only, now, size};

pub const CASES: &[Case<Installed>] =
    cases![api_server_away_policies_hold_and_changes_are_enforced_within_five_seconds_of_its_return];

const NAMESPACE: &str = "e2e-outage";

/// Seconds that a look at what may be denied takes; the last of them, at each node, is not counted.
const LOOK: f32 = 0.3;

/// Restarts the API server if a case has failed while it was away.
struct Away<'a> {
    bed: &'a Installed,
    is_away: bool,
}

impl Away<'_> {
    fn end(&mut self) -> Result<()> {
        self.is_away = false;
        self.bed.cluster.start_api_server()
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        if self.is_away {
            let _ = self.bed.cluster.start_api_server();
        }
    }
}

fn api_server_away_policies_hold_and_changes_are_enforced_within_five_seconds_of_its_return(
    bed: &mut Installed,
) -> Result<()> {
    let seconds = size("SLUICE_OUTAGE_SECONDS", 15)?;
    bed.namespace(NAMESPACE)?;
    let nodes = bed.nodes.clone();
    bed.cluster
        .apply(&allow_only(NAMESPACE, "friends", "friend", "web"))?;
    let names: Vec<String> = nodes.iter().map(|node| format!("web-{node}")).collect();
    let mut pods: Vec<PodSpec<'_>> = names
        .iter()
        .zip(&nodes)
        .map(|(name, node)| PodSpec::web(name, "app: web", node))
        .collect();
    for (name, labels) in [
        ("friend", "app: friend"),
        ("stranger", "app: stranger"),
        ("late", "app: late"),
        ("leaving", "app: leaving"),
    ] {
        pods.push(PodSpec::idle(name, labels, &nodes[0]));
    }
    bed.pods(NAMESPACE, &pods)?;
    let mut webs = Vec::new();
    for name in &names {
        webs.push(bed.address(NAMESPACE, name)?);
    }
    let netns = |pod: &str| -> Result<String> { bed.namespace_of(&nodes[0], bed.address(NAMESPACE, pod)?) };
    let (friend, stranger, late) = (netns("friend")?, netns("stranger")?, netns("late")?);
    for web in &webs {
        bed.until_connect(&format!("{NAMESPACE}/stranger"), *web, WEB, "timeout")?;
        bed.expect_connect(&format!("{NAMESPACE}/friend"), *web, WEB, "open")?;
    }

    // A policy and the end of a pod, on their way while it ends.
    let also_late = allow_only(NAMESPACE, "late", "late", "web");
    bed.cluster.apply(&also_late)?;
    bed.kubectl(&[
        "-n",
        NAMESPACE,
        "delete",
        "pod",
        "leaving",
        "--wait=false",
        "--grace-period",
        "30",
    ])?;
    let mut away = Away { bed, is_away: true };
    bed.cluster.stop_api_server()?;
    let started = Instant::now();
    let mut looks = 0;
    while started.elapsed() < Duration::from_secs(seconds) {
        for web in &webs {
            let seen = bed.connect_within(&nodes[0], &friend, *web, WEB, 1.0)?;
            ensure!(seen == "open", "API server away: friend to {web}: {seen}");
            let seen = bed.connect_within(&nodes[0], &stranger, *web, WEB, 1.0)?;
            ensure!(seen == "timeout", "API server away: stranger to {web}: {seen}");
        }
        looks += 1;
    }
    let is_away = bed.cluster.try_kubectl(&["get", "--raw", "/readyz"])?;
    ensure!(!is_away.status.success(), "the API server was not away");

    away.end()?;
    wait::until("the API server is ready", Duration::from_secs(90), || {
        let ready = bed.cluster.try_kubectl(&["get", "--raw", "/readyz"])?;
        Ok(ready.status.success().then_some(()))
    })?;
    let back = now();
    // Changes of its first moments: `stranger` is let in, `friend` no longer.
    bed.cluster
        .apply(&allow_only(NAMESPACE, "friends", "stranger", "web"))?;
    for web in &webs {
        wait::until_equal("the last policy before lets late in", &"open".to_owned(), || {
            bed.connect_within(&nodes[0], &late, *web, WEB, LOOK)
        })?;
        wait::until_equal("the new policy lets stranger in", &"open".to_owned(), || {
            bed.connect_within(&nodes[0], &stranger, *web, WEB, LOOK)
        })?;
        wait::until("the new policy keeps friend out", wait::LONG, || {
            let seen = bed.connect_within(&nodes[0], &friend, *web, WEB, LOOK)?;
            Ok((seen == "timeout").then_some(()))
        })?;
    }
    let took = now() - back - f64::from(LOOK) * webs.len() as f64;
    println!(
        "    API server away for {seconds} s, {looks} looks from both pods; after its return enforced within {took:.1} s"
    );
    ensure!(took < 5.0, "{took:.1} s");
    wait::until(
        "the pod deleted meanwhile is gone",
        Duration::from_secs(60),
        || {
            let pod = bed
                .cluster
                .try_kubectl(&["-n", NAMESPACE, "get", "pod", "leaving"])?;
            Ok((!pod.status.success()).then_some(()))
        },
    )?;
    bed.wait_for_agents()?;
    let status = bed.status(&nodes[0])?;
    let endpoints = status["endpoints"].as_array().context("no endpoints")?;
    ensure!(
        endpoints
            .iter()
            .all(|endpoint| endpoint["pod"] != format!("{NAMESPACE}/leaving").as_str()),
        "the deleted pod is still an endpoint"
    );
    bed.leave_namespace(NAMESPACE)
}
