//! `sluice endpoint`

use std::path::Path;
use std::process::ExitCode;

use super::{print_json, print_line, table};
use crate::api::status::EndpointStatus;
use crate::api::{Client, ClientError, Reply, Request};
use crate::cli::{EndpointCommand, Output};
use crate::endpoint_registry::EndpointSpec;

pub(super) async fn run(run_dir: &Path, command: EndpointCommand) -> anyhow::Result<ExitCode> {
    let (request, output) = match command {
        EndpointCommand::Add(args) => {
            let spec = EndpointSpec {
                uid: args.uid,
                pod: args.pod,
                interface: args.interface,
                ipv4: args.ipv4,
                ipv6: args.ipv6,
                mac: args.mac,
                netns: args.netns,
                attachment: None,
            };
            (Request::EndpointAdd(spec), Output::Text)
        }
        EndpointCommand::Delete { pod } => {
            let attachment = None;
            (Request::EndpointDelete { pod, attachment }, Output::Text)
        }
        EndpointCommand::Config { pod, audit } => (Request::EndpointConfig { pod, audit }, Output::Text),
        EndpointCommand::List { output } => (Request::EndpointList, output),
    };
    let endpoints = match Client::ask(run_dir, &request).await? {
        Reply::Endpoints(endpoints) => endpoints,
        Reply::Endpoint(endpoint) => vec![*endpoint],
        _ => return Err(ClientError::Mismatch.into()),
    };
    match output {
        Output::Text => print_line(&text(&endpoints))?,
        Output::Json => print_json(&endpoints)?,
    };
    Ok(ExitCode::SUCCESS)
}

/// A table of endpoints, with their warnings below.
pub(super) fn text(endpoints: &[EndpointStatus]) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let rows: Vec<_> = endpoints
        .iter()
        .map(|endpoint| {
            let (key, spec) = (endpoint.endpoint.key, &endpoint.endpoint.spec);
            vec![
                spec.pod.to_string(),
                format!("{}/{}", key.slot.0, key.generation.0),
                spec.interface.clone(),
                or_dash(spec.ipv4.map(|addr| addr.to_string())),
                or_dash(spec.ipv6.map(|addr| addr.to_string())),
                or_dash(endpoint.identity.map(|identity| identity.to_string())),
                or_dash(endpoint.mode.map(|mode| mode.name().to_owned())),
                endpoint.forwarded.to_string(),
                endpoint.dropped.to_string(),
                match &endpoint.waits_for {
                    Some(reason) => format!("waits for {reason}"),
                    None if endpoint.is_ready && endpoint.audits => "ready, audit".into(),
                    None if endpoint.is_ready => "ready".into(),
                    None => "not ready".into(),
                },
            ]
        })
        .collect();
    let header = [
        "POD",
        "SLOT",
        "INTERFACE",
        "IPV4",
        "IPV6",
        "IDENTITY",
        "XDP",
        "FORWARDED",
        "DROPPED",
        "STATE",
    ];
    let mut text = table(&header, &rows);
    for endpoint in endpoints {
        for warning in &endpoint.warnings {
            text.push_str(&format!("\n  {}: {warning}", endpoint.endpoint.spec.pod));
        }
    }
    text
}
