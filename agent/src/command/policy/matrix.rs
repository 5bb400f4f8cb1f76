//! `sluice policy matrix`: who may talk to whom.
//!
//! Pods with one identity and the same named ports are one group, because nothing in a policy can tell them apart.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use control::rule::{PortRef, PortSet};
use control::{Engine, Flow, Index, Outcome, Party, PartyError, PartyName, Reason};
use policy::{PodName, Protocol};
use serde::Serialize;

use super::manifests::Manifests;
use crate::cli::{MatrixArgs, MatrixOutput, PortProtocol};
use crate::command::{print_json, print_line, table};

/// What a table means.
const LEGEND: &str = "+ allowed   h every request is judged   . denied   - not judged";

/// One row and column.
#[derive(Debug, Serialize)]
struct Group {
    /// What it is called: its first pod, `world` or `host`.
    name: String,
    /// Its pods.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pods: Vec<PodName>,
    identity: u32,
    /// A pod of it as a source, and another one, where there is one, as a destination: a pod always reaches itself.
    #[serde(skip)]
    ends: (Party, Party),
}

impl Group {
    fn heading(&self) -> String {
        match self.pods.len() {
            0 | 1 => self.name.clone(),
            pods => format!("{} (+{})", self.name, pods - 1),
        }
    }
}

/// One pair and port.
#[derive(Debug, Serialize)]
struct Cell {
    from: String,
    to: String,
    port: u16,
    protocol: String,
    verdict: Outcome,
    reason: Reason,
    rules: Vec<String>,
}

/// What `-o json` writes.
#[derive(Debug, Serialize)]
struct Matrix {
    groups: Vec<Group>,
    ports: Vec<String>,
    cells: Vec<Cell>,
}

pub(super) fn run(args: &MatrixArgs) -> anyhow::Result<ExitCode> {
    let manifests = Manifests::read_valid(&args.manifests.manifests, &args.manifests.cluster)?;
    let mut engine = Engine::new(&manifests.index);
    let ports: Vec<PortProtocol> = if args.ports.is_empty() {
        named_ports(&manifests.index).into_iter().collect()
    } else {
        args.ports.clone()
    };
    let matrix = judge(&mut engine, &ports)?;
    match args.output {
        MatrixOutput::Json => drop(print_json(&matrix)?),
        MatrixOutput::Csv => {
            let mut open = print_line("from,to,port,protocol,verdict,reason,rules")?;
            for cell in &matrix.cells {
                open = open && print_line(&csv(cell))?;
            }
        }
        MatrixOutput::Text => drop(print_line(&text(&matrix, &ports))?),
    }
    Ok(ExitCode::SUCCESS)
}

/// The ports that pods name and policies speak of; of a range the first one, ranges from 0 aside.
fn named_ports(index: &Index) -> BTreeSet<PortProtocol> {
    let of_pods = index
        .pods()
        .values()
        .flat_map(|indexed| &indexed.pod.ports)
        .map(|port| PortProtocol {
            port: port.port,
            protocol: port.protocol,
        });
    let specs = index.policies().values().flat_map(|policy| &policy.specs);
    let rules = specs.flat_map(|spec| spec.ingress.rules.iter().chain(&spec.egress.rules));
    let of_policies = rules
        .filter_map(|rule| match &rule.ports {
            PortSet::Of(ports) => Some(ports),
            PortSet::Every => None,
        })
        .flatten()
        .filter_map(|port| match &port.ports {
            PortRef::Range(range) if *range.start() > 0 || is_icmp(port.protocol) => Some(PortProtocol {
                port: *range.start(),
                protocol: if port.protocol == Protocol::ANY {
                    Protocol::TCP
                } else {
                    port.protocol
                },
            }),
            _ => None,
        });
    of_pods.chain(of_policies).collect()
}

/// Type 0 is one: echo reply.
fn is_icmp(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::ICMP | Protocol::ICMPV6)
}

fn groups(engine: &Engine<'_>) -> Result<Vec<Group>, PartyError> {
    let mut members: BTreeMap<_, Vec<PodName>> = BTreeMap::new();
    for (name, indexed) in engine.index().pods() {
        let identity = engine.party_named(&PartyName::Pod(name.clone()))?.identity();
        let kind = (identity, indexed.pod.host_network, &indexed.pod.ports);
        members.entry(kind).or_default().push(name.clone());
    }
    let mut pods: Vec<Vec<PodName>> = members.into_values().collect();
    pods.sort();
    let mut groups = Vec::new();
    for pods in pods {
        let (Some(first), Some(last)) = (pods.first().cloned(), pods.last().cloned()) else {
            continue;
        };
        let name = first.to_string();
        let ends = (
            engine.party_named(&PartyName::Pod(first))?,
            engine.party_named(&PartyName::Pod(last))?,
        );
        groups.push(Group {
            name,
            pods,
            identity: ends.0.identity().0,
            ends,
        });
    }
    for name in [PartyName::World, PartyName::Host] {
        let party = engine.party_named(&name)?;
        groups.push(Group {
            name: name.to_string(),
            pods: Vec::new(),
            identity: party.identity().0,
            ends: (party, party),
        });
    }
    Ok(groups)
}

fn judge(engine: &mut Engine<'_>, ports: &[PortProtocol]) -> Result<Matrix, PartyError> {
    let groups = groups(engine)?;
    let mut cells = Vec::new();
    for port in ports {
        for from in &groups {
            for to in &groups {
                let verdict = engine.decide(&Flow {
                    from: from.ends.0,
                    to: to.ends.1,
                    port: port.port,
                    protocol: port.protocol,
                    request: None,
                });
                cells.push(Cell {
                    from: from.name.clone(),
                    to: to.name.clone(),
                    port: port.port,
                    protocol: port.protocol.name().into_owned(),
                    verdict: verdict.outcome,
                    reason: verdict.reason,
                    rules: verdict.rules().map(|rule| engine.rule(rule).to_owned()).collect(),
                });
            }
        }
    }
    Ok(Matrix {
        groups,
        ports: ports.iter().map(ToString::to_string).collect(),
        cells,
    })
}

fn symbol(cell: &Cell) -> &'static str {
    match (cell.verdict, cell.reason) {
        (_, Reason::NotJudged | Reason::SamePod) => "-",
        (Outcome::Allow, Reason::HttpJudged) => "h",
        (Outcome::Allow, _) => "+",
        (Outcome::Deny | Outcome::L7Deny, _) => ".",
    }
}

/// One table for each set of ports that have the same one.
fn text(matrix: &Matrix, ports: &[PortProtocol]) -> String {
    let size = matrix.groups.len();
    let mut tables: Vec<(Vec<String>, Vec<&'static str>)> = Vec::new();
    for (port, cells) in ports.iter().zip(matrix.cells.chunks(size * size)) {
        let symbols: Vec<_> = cells.iter().map(symbol).collect();
        match tables.iter_mut().find(|(_, other)| *other == symbols) {
            Some((ports, _)) => ports.push(port.to_string()),
            None => tables.push((vec![port.to_string()], symbols)),
        }
    }
    let mut out = Vec::new();
    for (ports, symbols) in &tables {
        let mut header = vec!["FROM \\ TO".to_owned()];
        header.extend(matrix.groups.iter().map(Group::heading));
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        let rows: Vec<Vec<String>> = matrix
            .groups
            .iter()
            .zip(symbols.chunks(size))
            .map(|(group, symbols)| {
                let cells = symbols.iter().map(|symbol| (*symbol).to_owned());
                std::iter::once(group.heading()).chain(cells).collect()
            })
            .collect();
        out.push(format!("{}\n{}\n", ports.join(", "), table(&header, &rows)));
    }
    if tables.is_empty() {
        out.push("no port is named by any pod or policy; give one with --port\n".to_owned());
    }
    out.push(LEGEND.to_owned());
    out.join("\n")
}

/// Names of objects and rules hold neither quotes nor commas; what is quoted all the same costs nothing.
fn csv(cell: &Cell) -> String {
    let quote = |text: &str| {
        if text.contains([',', '"', '\n']) {
            format!("\"{}\"", text.replace('"', "\"\""))
        } else {
            text.to_owned()
        }
    };
    [
        quote(&cell.from),
        quote(&cell.to),
        cell.port.to_string(),
        cell.protocol.clone(),
        cell.verdict.name().to_owned(),
        cell.reason.name().to_owned(),
        quote(&cell.rules.join("; ")),
    ]
    .join(",")
}
