//! `sluice preflight`

use std::process::ExitCode;

use serde::Serialize;

use super::{print_json, print_line};
use crate::cli::{Output, PreflightArgs};
use crate::cluster::Cluster;
use crate::preflight::node::Machine;
use crate::preflight::{Check, Level, cluster};

/// What `-o json` writes.
#[derive(Debug, Serialize)]
struct Report<'a> {
    checks: &'a [Check],
    warnings: usize,
    errors: usize,
}

pub(super) async fn run(args: &PreflightArgs) -> anyhow::Result<ExitCode> {
    let mut checks = Vec::new();
    if !args.cluster {
        let machine = Machine::new("/".into(), args.cni_conf_dir.clone(), args.bpffs.clone());
        checks.extend(machine.checks());
    }
    if args.cluster || args.access.is_given() {
        let cluster = Cluster::connect(&args.access).await?;
        checks.extend(cluster::checks(&cluster).await?);
    }
    let count = |level| checks.iter().filter(|check| check.level == level).count();
    let (warnings, errors) = (count(Level::Warning), count(Level::Error));
    match args.output {
        Output::Json => {
            print_json(&Report {
                checks: &checks,
                warnings,
                errors,
            })?;
        }
        Output::Text => {
            for check in &checks {
                print_line(&text(check))?;
            }
            print_line(&format!(
                "{} checks: {errors} errors, {warnings} warnings",
                checks.len()
            ))?;
        }
    }
    Ok(if errors == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn text(check: &Check) -> String {
    let remedy = check.remedy.as_ref().map(|remedy| format!("\n        {remedy}"));
    format!(
        "{:7} {}: {}{}",
        check.level.name(),
        check.name,
        check.found,
        remedy.unwrap_or_default()
    )
}
