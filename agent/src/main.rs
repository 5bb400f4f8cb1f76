//! `sluice`: see [`agent`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

use agent::affinity;
use agent::cli::{Cli, Command};
use clap::Parser;

fn run(mut cli: Cli) -> anyhow::Result<ExitCode> {
    // Before there are other threads.
    if let Command::Agent(args) = &mut cli.command
        && args.pin_worker
    {
        args.worker_cpu = Some(affinity::set_aside()?);
    }
    tokio::runtime::Runtime::new()?.block_on(agent::command::run(cli))
}

fn main() -> ExitCode {
    run(Cli::parse()).unwrap_or_else(|error| {
        eprintln!("sluice: {error:#}");
        ExitCode::FAILURE
    })
}
