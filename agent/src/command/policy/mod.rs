//! `sluice policy`: what policies say, of a running agent or of a folder.

pub mod check;
pub mod decide;
pub mod explain;
pub mod manifests;
pub mod matrix;
pub mod test;
pub mod test_file;

use std::path::Path;
use std::process::ExitCode;

use crate::cli::PolicyCommand;

/// Exit status when manifests or tests cannot be used.
const UNUSABLE: u8 = 2;

pub(super) async fn run(run_dir: &Path, command: PolicyCommand) -> anyhow::Result<ExitCode> {
    let outcome = match command {
        PolicyCommand::Explain(args) => return explain::run(run_dir, args).await,
        PolicyCommand::Check(args) => check::run(&args),
        PolicyCommand::Matrix(args) => matrix::run(&args),
        PolicyCommand::Test(args) => test::run(&args),
        PolicyCommand::Decide(args) => decide::run(&args),
    };
    Ok(outcome.unwrap_or_else(|error| {
        eprintln!("sluice: {error:#}");
        ExitCode::from(UNUSABLE)
    }))
}
