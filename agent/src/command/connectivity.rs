//! `sluice connectivity`

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use futures_util::future;
use tokio::signal::unix::{SignalKind, signal};

use super::print_line;
use crate::cli::{ConnectivityCommand, ConnectivityTestArgs, ProbeArgs};
use crate::cluster::Cluster;
use crate::connectivity::deployment::Deployment;
use crate::connectivity::report::Report;
use crate::connectivity::runner::Runner;
use crate::connectivity::{probe, scenario, serve};
use crate::junit;

/// Exit status after Ctrl-C, as of a shell.
const INTERRUPTED: u8 = 130;

pub(super) async fn run(command: ConnectivityCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConnectivityCommand::Test(args) => test(&args).await,
        ConnectivityCommand::Probe(args) => probe(&args).await,
        ConnectivityCommand::Serve(args) => {
            let mut terminate = signal(SignalKind::terminate())?;
            tokio::select! {
                outcome = serve::run(&args.http, &args.udp) => outcome?,
                // A container's first process gets no default action for signals.
                _ = terminate.recv() => {}
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn probe(args: &ProbeArgs) -> anyhow::Result<ExitCode> {
    let limit = Duration::from_millis(args.timeout_ms);
    let outcomes = future::join_all(args.probes.iter().map(|spec| probe::run(spec, limit))).await;
    for outcome in outcomes {
        print_line(&serde_json::to_string(&outcome)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn test(args: &ConnectivityTestArgs) -> anyhow::Result<ExitCode> {
    let mut scenarios = scenario::all().context("the scenarios of this program")?;
    if let Some(filter) = &args.filter {
        scenarios.retain(|scenario| filter.is_match(&scenario.name));
        anyhow::ensure!(!scenarios.is_empty(), "no scenario's name matches {filter}");
    }
    if args.list {
        for scenario in &scenarios {
            if !print_line(&format!("{:32} {}", scenario.name, scenario.description))? {
                break;
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let cluster = Cluster::connect(&args.access).await?;
    let timeout = Duration::from_secs(args.timeout);
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let deployment = Deployment::new(cluster, args, timeout);
    let work = async {
        let pods = deployment.create().await?;
        let mut runner = Runner::new(&deployment, pods, timeout);
        for scenario in &scenarios {
            runner.run(scenario).await;
        }
        anyhow::Ok(runner.finish())
    };
    let outcome = tokio::select! {
        outcome = work => Some(outcome),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    };
    if args.keep && outcome.is_some() {
        eprintln!("sluice: the pods are left (--keep); the next run removes them");
    } else {
        eprintln!("sluice: removing the test's namespaces and policies");
        deployment.remove().await?;
    }
    let Some(outcome) = outcome else {
        return Ok(ExitCode::from(INTERRUPTED));
    };
    summarise(&outcome?, args)
}

fn summarise(report: &Report, args: &ConnectivityTestArgs) -> anyhow::Result<ExitCode> {
    print_line(&format!(
        "{} passed, {} failed, {} skipped",
        report.passed(),
        report.failed(),
        report.skipped()
    ))?;
    if let Some(path) = &args.junit_file {
        let text = junit::report("sluice connectivity test", "connectivity", &report.cases)
            .context("cannot make the JUnit report")?;
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(if report.failed() == 0 && report.passed() > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
