//! `sluice status`

mod cluster;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use tokio::time::Instant;

use super::{print_json, print_line, table};
use crate::api::{Client, ClientError, Reply, Request, SOCKET_NAME, Status};
use crate::cli::{DEFAULT_RUN_DIR, Output, StatusArgs};

/// How long `--wait` waits for the agent, seconds.
const TIMEOUT: u64 = 30;

/// How often `--wait` asks.
const POLL: Duration = Duration::from_millis(100);

pub(super) async fn run(run_dir: &Path, args: &StatusArgs) -> anyhow::Result<ExitCode> {
    if wants_cluster(run_dir, args) {
        return cluster::run(args).await;
    }
    let timeout = args.timeout.unwrap_or(TIMEOUT);
    let deadline = Instant::now() + Duration::from_secs(timeout);
    let status = loop {
        let answer = ask(run_dir, args.sync).await;
        let is_final = match &answer {
            Ok(status) => !args.wait || status.is_ready,
            Err(_) => !args.wait,
        };
        if is_final || Instant::now() >= deadline {
            break answer?;
        }
        tokio::time::sleep(POLL).await;
    };
    match args.output {
        Output::Text => print_line(&text(&status))?,
        Output::Json => print_json(&status)?,
    };
    if args.takes_pods && !status.takes_pods {
        bail!("pods that come now do not come under policy");
    }
    if args.wait && !status.is_ready {
        bail!("not ready after {timeout} s: {}", status.waits_for.join("; "));
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the cluster is meant, and not an agent of this machine.
fn wants_cluster(run_dir: &Path, args: &StatusArgs) -> bool {
    if args.takes_pods {
        return false;
    }
    let is_asked_for = args.cluster || args.access.is_given();
    // A run directory that was named is an agent's.
    let is_nowhere = run_dir == Path::new(DEFAULT_RUN_DIR) && !run_dir.join(SOCKET_NAME).exists();
    is_asked_for || (is_nowhere && !args.sync && has_kubeconfig())
}

fn has_kubeconfig() -> bool {
    let is_file = |path: PathBuf| path.is_file();
    std::env::var_os("KUBECONFIG").is_some_and(|paths| !paths.is_empty())
        || std::env::var_os("HOME").is_some_and(|home| is_file(Path::new(&home).join(".kube/config")))
}

async fn ask(run_dir: &Path, synchronise: bool) -> Result<Status, ClientError> {
    let request = if synchronise {
        Request::Synchronise
    } else {
        Request::Status
    };
    match Client::ask(run_dir, &request).await? {
        Reply::Status(status) => Ok(*status),
        _ => Err(ClientError::Mismatch),
    }
}

fn text(status: &Status) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _infallible = write(&mut out, status);
    out.truncate(out.trim_end().len());
    out
}

fn write(out: &mut String, status: &Status) -> std::fmt::Result {
    let ready = if status.is_ready { "ready" } else { "NOT READY" };
    writeln!(out, "sluice {} on {}: {ready}", status.version, status.node_name)?;
    for reason in &status.waits_for {
        writeln!(out, "  waits for {reason}")?;
    }
    let synced = if status.source.is_synced {
        "in sync"
    } else {
        "not read yet"
    };
    writeln!(
        out,
        "Policies:   revision {}, {} ({synced})",
        status.revision, status.source.location
    )?;
    for problem in &status.source.problems {
        writeln!(out, "  refused: {problem}")?;
    }
    let compiled = &status.source.compiled;
    writeln!(
        out,
        "Compiled:   {} rules in {} decisions for {} kinds of pod",
        compiled.rules, compiled.decisions, compiled.subjects
    )?;
    for worker in &status.workers {
        writeln!(
            out,
            "Worker {}:   revision {}, {} received, {} transmitted, {}/{} flows",
            worker.id,
            worker.revision,
            worker.received,
            worker.transmitted,
            worker.flows,
            worker.flow_capacity
        )?;
        if worker.receive_dropped + worker.transmit_dropped != 0 {
            writeln!(
                out,
                "  {} packets found no frame, {} no room in their interface's queue",
                worker.receive_dropped, worker.transmit_dropped
            )?;
        }
        if worker.lost_affinities != 0 {
            writeln!(out, "  {} flows without session affinity", worker.lost_affinities)?;
        }
        if worker.lost_events != 0 {
            writeln!(out, "  {} flow events lost", worker.lost_events)?;
        }
    }
    let frames = &status.frames;
    writeln!(
        out,
        "Frames:     {} ({} free, {} in rings, {} held)",
        frames.total, frames.free, frames.in_rings, frames.held
    )?;
    writeln!(
        out,
        "Node state: {} repairs, {} packets guarded off",
        status.repairs, status.guarded
    )?;
    if !status.excluded_namespaces.is_empty() {
        writeln!(out, "Excluded:   {}", status.excluded_namespaces.join(", "))?;
    }
    for warning in &status.warnings {
        writeln!(out, "  warning: {warning}")?;
    }
    writeln!(out, "Endpoints:  {}", status.endpoints.len())?;
    if !status.endpoints.is_empty() {
        writeln!(out, "{}", super::endpoint::text(&status.endpoints))?;
    }
    let dropped: u64 = status.drops.iter().map(|drop| drop.packets).sum();
    writeln!(
        out,
        "Packets:    {} forwarded, {dropped} dropped",
        status.forwarded
    )?;
    let audited = &status.audited;
    if audited.ingress + audited.egress != 0 {
        writeln!(
            out,
            "Audited:    {} at ingress, {} at egress that policy denies",
            audited.ingress, audited.egress
        )?;
    }
    let mut drops: Vec<_> = status.drops.iter().collect();
    drops.sort_by_key(|drop| std::cmp::Reverse(drop.packets));
    let rows: Vec<_> = drops
        .into_iter()
        .map(|drop| {
            let direction = drop.direction.map_or("-", policy::Direction::name);
            vec![
                drop.packets.to_string(),
                format!("{} ({})", drop.reason, drop.code),
                direction.to_owned(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        writeln!(out, "{}", table(&["DROPPED", "REASON", "DIRECTION"], &rows))?;
    }
    Ok(())
}
