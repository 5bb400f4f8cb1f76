//! What each client command does: ask the agent over its socket, show the answer. Policy tools need no agent.

pub mod capture;
pub mod cleanup;
pub mod connectivity;
pub mod endpoint;
pub mod flows;
pub mod policy;
pub mod preflight;
pub mod status;
pub mod sysdump;
pub mod uninstall;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

use crate::cli::{Cli, Command};

/// Runs one command; `worker_cpu` was set aside for the worker of `sluice agent`.
///
/// # Errors
/// Whatever there is to tell the user.
pub async fn run(cli: Cli, worker_cpu: Option<usize>) -> anyhow::Result<ExitCode> {
    let run_dir = &cli.run_dir;
    match cli.command {
        Command::Agent(args) => crate::supervisor::run(run_dir, args, worker_cpu).await,
        Command::Status(args) => status::run(run_dir, &args).await,
        Command::Endpoint(command) => endpoint::run(run_dir, command).await,
        Command::Flows(args) => flows::run(run_dir, args).await,
        Command::Policy(command) => policy::run(run_dir, command).await,
        Command::Capture(args) => capture::run(run_dir, args).await,
        Command::Connectivity(command) => connectivity::run(command).await,
        Command::Preflight(args) => preflight::run(&args).await,
        Command::Sysdump(args) => sysdump::run(&args).await,
        Command::Cleanup(args) => cleanup::run(run_dir, &args).await,
        Command::Operator(args) => crate::operator::run(args).await,
        Command::Uninstall(args) => uninstall::run(&args).await,
    }
}

/// Writes one line to standard output; `false` when nobody reads any more, as after `| head`.
fn print_line(line: &str) -> anyhow::Result<bool> {
    match writeln!(io::stdout(), "{line}") {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(e).context("cannot write to standard output"),
    }
}

/// Writes `value` as JSON on several lines.
fn print_json(value: &impl Serialize) -> anyhow::Result<bool> {
    print_line(&serde_json::to_string_pretty(value).context("cannot write JSON")?)
}

/// Columns of text, each as wide as its widest cell.
fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let line: String = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}  ", width = *width))
            .collect();
        line.trim_end().to_owned()
    };
    let mut lines = vec![line(&mut header.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["db/postgres".to_owned(), "1".to_owned()],
            vec!["a/b".to_owned(), "22".to_owned()],
        ];
        assert_eq!(
            super::table(&["POD", "N"], &rows),
            "POD          N\ndb/postgres  1\na/b          22"
        );
    }
}
