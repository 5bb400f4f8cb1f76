//! `sluice policy explain`

use std::path::Path;
use std::process::ExitCode;

use policy::Direction;

use super::{print_json, print_line};
use crate::api::{Client, ClientError, Reply, Request};
use crate::cli::{ExplainArgs, Output};
use crate::explanation::{Explanation, ExplanationRequest};
use crate::flow_record::{FlowPeer, FlowVerdict};

/// Exit status when the flow would be dropped.
const DROPPED: u8 = 2;

pub(super) async fn run(run_dir: &Path, args: ExplainArgs) -> anyhow::Result<ExitCode> {
    let request = ExplanationRequest {
        from: args.from,
        to: args.to,
        port: args.port,
        protocol: args.protocol,
        method: args.method,
        path: args.path,
    };
    let protocol = request.protocol.name();
    let explanations = match Client::ask(run_dir, &Request::PolicyExplain(request)).await? {
        Reply::Explanations(explanations) => explanations,
        _ => return Err(ClientError::Mismatch.into()),
    };
    match args.output {
        Output::Json => drop(print_json(&explanations)?),
        Output::Text => {
            for explanation in &explanations {
                print_line(&text(explanation, &protocol))?;
            }
        }
    }
    let is_dropped = explanations.iter().any(|e| e.verdict == FlowVerdict::Dropped);
    Ok(if is_dropped {
        ExitCode::from(DROPPED)
    } else {
        ExitCode::SUCCESS
    })
}

const fn verdict(verdict: FlowVerdict) -> &'static str {
    match verdict {
        FlowVerdict::Forwarded => "FORWARDED",
        FlowVerdict::Dropped => "DROPPED",
        FlowVerdict::Audit => "AUDIT",
    }
}

fn name(peer: &FlowPeer) -> String {
    let identity = policy::Identity(peer.identity);
    let who = match (&peer.pod, identity.reserved_name()) {
        (Some(pod), _) => pod.to_string(),
        (None, Some(_)) if peer.addr.is_unspecified() => identity.to_string(),
        (None, _) => peer.addr.to_string(),
    };
    let labels = if peer.labels.is_empty() {
        String::new()
    } else {
        format!(" [{}]", peer.labels.join(", "))
    };
    format!("{who} (identity {identity}){labels}")
}

fn text(explanation: &Explanation, protocol: &str) -> String {
    let via = explanation
        .service
        .as_ref()
        .map(|name| format!(" via service {name}"))
        .unwrap_or_default();
    let mut lines = vec![
        format!("from {}", name(&explanation.source)),
        format!(
            "to   {}, port {}/{protocol}{via}",
            name(&explanation.destination),
            explanation.destination.port
        ),
    ];
    for step in &explanation.steps {
        let direction = match step.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        let because = match (&step.rule, &step.drop_reason) {
            (Some(rule), Some(reason)) => format!("{} ({}): {rule}", reason.text, reason.code),
            (None, Some(reason)) => format!("{} ({}): no rule allows it", reason.text, reason.code),
            (Some(rule), None) => rule.clone(),
            (None, None) => "no policy selects this direction".into(),
        };
        let http = step
            .http
            .as_ref()
            .map(|http| format!("; {http}"))
            .unwrap_or_default();
        lines.push(format!(
            "  {direction} of {}: {}, {because}{http}",
            step.pod,
            verdict(step.verdict)
        ));
    }
    if explanation.steps.is_empty() {
        lines.push("  neither side is a local pod: not decided on this node".into());
    }
    lines.push(verdict(explanation.verdict).into());
    lines.join("\n")
}
