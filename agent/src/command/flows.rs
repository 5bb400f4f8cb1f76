//! `sluice flows`

use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use super::print_line;
use crate::api::{Client, ClientError, Reply, Request};
use crate::cli::{FlowsArgs, Output};
use crate::flow_log::FlowFilter;

/// Past records shown without `--follow` and `--last`.
const DEFAULT_LAST: usize = 20;

pub(super) async fn run(run_dir: &Path, args: FlowsArgs) -> anyhow::Result<ExitCode> {
    let last = args.last.unwrap_or(if args.follow { 0 } else { DEFAULT_LAST });
    let filter = FlowFilter {
        verdict: args.verdict,
        pod: args.pod,
    };
    let request = Request::Flows {
        follow: args.follow,
        last,
        filter,
    };
    let mut client = Client::send(run_dir, &request).await?;
    let colour = io::stdout().is_terminal();
    while let Some(reply) = client.next().await? {
        let line = match reply {
            Reply::Flow(record) => match args.output {
                Output::Text => record.line(colour),
                Output::Json => serde_json::to_string(&record).context("cannot write JSON")?,
            },
            Reply::Lost { events } => {
                eprintln!("sluice: {events} flows lost: they come faster than they are read");
                continue;
            }
            _ => return Err(ClientError::Mismatch.into()),
        };
        if !print_line(&line)? {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}
