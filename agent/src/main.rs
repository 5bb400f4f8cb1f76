//! `sluice`: see [`agent`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

use agent::affinity;
use agent::cli::{Cli, Command};
use clap::Parser;

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    // Before there are other threads.
    let worker_cpu = match &cli.command {
        Command::Agent(args) if args.pin_worker => affinity::set_aside()?,
        _ => None,
    };
    tokio::runtime::Runtime::new()?.block_on(agent::command::run(cli, worker_cpu))
}

fn main() -> ExitCode {
    run(Cli::parse()).unwrap_or_else(|error| {
        eprintln!("sluice: {error:#}");
        ExitCode::FAILURE
    })
}
