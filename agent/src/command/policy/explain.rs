//! `sluice policy explain`

use std::path::Path;
use std::process::ExitCode;

use control::{Engine, Explanation, Outcome, Question, RequestText};

use super::manifests::Manifests;
use crate::api::{Client, ClientError, Reply, Request};
use crate::cli::{ExplainArgs, Output};
use crate::command::{print_json, print_line};
use crate::explanation;

/// Exit status when the flow would be dropped.
const DROPPED: u8 = 2;

pub(super) async fn run(run_dir: &Path, args: ExplainArgs) -> anyhow::Result<ExitCode> {
    let asked =
        args.method.is_some() || args.path.is_some() || args.host.is_some() || !args.headers.is_empty();
    let default = RequestText::default();
    let question = Question {
        from: args.from,
        to: args.to,
        port: args.port,
        protocol: args.protocol,
        http: asked.then_some(RequestText {
            method: args.method.unwrap_or(default.method),
            path: args.path.unwrap_or(default.path),
            host: args.host.unwrap_or_default(),
            headers: args.headers,
        }),
    };
    let explanations: Vec<Explanation> = match &args.manifests {
        Some(path) => {
            let manifests = Manifests::read_valid(path, &args.cluster)?;
            Engine::new(&manifests.index).explain(&question)?
        }
        None => match Client::ask(run_dir, &Request::PolicyExplain(question)).await? {
            Reply::Explanations(explanations) => explanations,
            _ => return Err(ClientError::Mismatch.into()),
        },
    };
    match args.output {
        Output::Json => drop(print_json(&explanations)?),
        Output::Text => {
            for explanation in &explanations {
                print_line(&explanation::text(explanation, args.manifests.is_none()))?;
            }
        }
    }
    let passes = explanations
        .iter()
        .all(|explanation| explanation.verdict == Outcome::Allow);
    Ok(if passes {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(DROPPED)
    })
}
