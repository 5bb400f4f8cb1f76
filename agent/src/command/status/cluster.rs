//! `sluice status --cluster`

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::Instant;

use crate::cli::{Output, StatusArgs};
use crate::cluster::Cluster;
use crate::cluster::status::{ClusterStatus, NodeAgent};
use crate::command::{print_json, print_line, table};

/// How long `--wait` waits, seconds.
const TIMEOUT: u64 = 300;

/// How often `--wait` asks.
const POLL: Duration = Duration::from_secs(1);

pub(super) async fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::connect(&args.access).await?;
    let deadline = Instant::now() + Duration::from_secs(args.timeout.unwrap_or(TIMEOUT));
    let mut told = Vec::new();
    let status = loop {
        let answer = ClusterStatus::read(&cluster).await;
        let is_final = !args.wait || answer.as_ref().is_ok_and(|status| status.is_ready);
        if is_final || Instant::now() >= deadline {
            break answer?;
        }
        let missing = match answer {
            Ok(status) => status.missing,
            Err(error) => vec![error.to_string()],
        };
        if missing != told {
            for line in &missing {
                eprintln!("sluice: waiting: {line}");
            }
            told = missing;
        }
        tokio::time::sleep(POLL).await;
    };
    match args.output {
        Output::Json => print_json(&status)?,
        Output::Text => print_line(text(&status, &cluster).trim_end())?,
    };
    Ok(if status.is_ready {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn text(status: &ClusterStatus, cluster: &Cluster) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _infallible = write(&mut out, status, cluster.namespace(), cluster.url());
    out
}

fn write(out: &mut String, status: &ClusterStatus, namespace: &str, url: &str) -> std::fmt::Result {
    let ready = if status.is_ready { "ready" } else { "NOT READY" };
    writeln!(out, "sluice in {namespace} of {url}: {ready}")?;
    for missing in &status.missing {
        writeln!(out, "  missing: {missing}")?;
    }
    match status.agents {
        None => writeln!(out, "Agents:    none")?,
        Some(agents) => writeln!(
            out,
            "Agents:    {} desired, {} ready, {} up to date",
            agents.desired, agents.ready, agents.updated
        )?,
    }
    match status.operator {
        None => writeln!(out, "Operator:  none")?,
        Some(operator) => writeln!(out, "Operator:  {} of {} ready", operator.ready, operator.desired)?,
    }
    let versions: Vec<_> = status
        .versions
        .iter()
        .map(|(version, agents)| format!("{version} ({agents})"))
        .collect();
    writeln!(out, "Versions:  {}", versions.join(", "))?;
    let sum = status.policies.sum();
    writeln!(
        out,
        "Policies:  {} valid, {} invalid",
        sum.valid,
        sum.total - sum.valid
    )?;
    for refused in &status.policies.refused {
        writeln!(out, "  invalid: {refused}")?;
    }
    if !status.nodes_without_agent.is_empty() {
        let nodes = status.nodes_without_agent.join(", ");
        writeln!(out, "Nodes without an agent: {nodes}")?;
    }
    let rows: Vec<_> = status.nodes.iter().map(row).collect();
    if !rows.is_empty() {
        let header = [
            "NODE",
            "POD",
            "VERSION",
            "REVISION",
            "ENDPOINTS",
            "FORWARDED",
            "DROPPED",
            "STATE",
        ];
        writeln!(out, "{}", table(&header, &rows))?;
    }
    for agent in &status.nodes {
        let Some(of_agent) = &agent.status else { continue };
        // Every agent refuses what is refused.
        let refused = &status.policies.refused;
        let own = |problem: &&String| !refused.iter().any(|refused| refused.contains(problem.as_str()));
        let problems = of_agent.source.problems.iter().filter(own);
        for warning in of_agent.warnings.iter().chain(problems) {
            writeln!(out, "{}: warning: {warning}", agent.node)?;
        }
    }
    Ok(())
}

fn row(agent: &NodeAgent) -> Vec<String> {
    let dash = || "-".to_owned();
    let mut row = vec![agent.node.clone(), agent.pod.clone().unwrap_or_else(dash)];
    match &agent.status {
        None => row.extend([dash(), dash(), dash(), dash(), dash()]),
        Some(status) => {
            let ready = status
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.is_ready)
                .count();
            let dropped: u64 = status.drops.iter().map(|drop| drop.packets).sum();
            row.extend([
                status.version.clone(),
                status.revision.to_string(),
                format!("{ready}/{}", status.endpoints.len()),
                status.forwarded.to_string(),
                dropped.to_string(),
            ]);
        }
    }
    let state = if agent.waits_for.is_empty() {
        "ready"
    } else {
        "NOT READY"
    };
    row.push(state.into());
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_does_not_answer_is_shown_with_what_is_missing() {
        let status = ClusterStatus {
            missing: vec!["node a: waits for an answer".into()],
            nodes: vec![NodeAgent {
                node: "a".into(),
                waits_for: vec!["an answer".into()],
                ..NodeAgent::default()
            }],
            ..ClusterStatus::default()
        };
        let mut out = String::new();
        write(&mut out, &status, "kube-system", "https://api/").unwrap();
        assert!(
            out.starts_with(
                "sluice in kube-system of https://api/: NOT READY\n  missing: node a: waits for an answer\n"
            ),
            "{out}"
        );
        assert!(
            out.contains("\na     -    -        -         -          -          -        NOT READY"),
            "{out}"
        );
    }
}
