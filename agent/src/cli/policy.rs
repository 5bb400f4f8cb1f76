//! `sluice policy`: its commands and their options.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};
use control::PartyName;
use ipnet::IpNet;
use policy::Protocol;

use super::Output;

/// `sluice policy`
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Tell what would become of a flow, and which rule decides
    #[command(after_help = "\
Without -f: asks the running agent, by the tables that its workers use. With -f: asks a folder of manifests.
Exit status: 0 when the flow (and the request, if one is given) would pass, 2 when not, 1 when it cannot be told.

Examples:
  sluice policy explain --from dummy/debug --to db/postgres --port 5432
  sluice policy explain --from db/debug --to db/flask-app --port 5000 --method GET --path /metrics
  sluice policy explain --from world --to 10.96.0.7 --port 80        a Service: every backend is explained
  sluice policy explain -f ./manifests --from db/debug --to world --port 443")]
    Explain(ExplainArgs),
    /// Say what is wrong with a folder of manifests
    #[command(after_help = "\
Prints a line `file:line: object: field: message` for each fault, and warns of what is valid but most likely not meant: a policy
that selects none of the pods given, a port name that no pod has, a CIDR group or Service that is not there.
Exit status: 0 without faults, 1 with faults, 2 when the manifests cannot be read.

Examples:
  sluice policy check -f ./manifests
  kubectl get cnp,netpol,ns,pods,svc,endpointslices -A -o yaml | sluice policy check -f -
  sluice policy check -f policy.yaml -o json | jq '.faults'")]
    Check(CheckArgs),
    /// Show who may talk to whom
    #[command(after_help = "\
Rows are sources, columns destinations; pods that no policy can tell apart are one. Ports are those that pods and policies name,
unless --port is given; ports with the same table are shown together.
Exit status: 0, or 2 when the manifests cannot be read or have faults.

Examples:
  sluice policy matrix -f ./manifests
  sluice policy matrix -f ./manifests --port 5432 --port 53/UDP
  sluice policy matrix -f ./manifests -o csv > matrix.csv
  sluice policy matrix -f ./manifests -o json | jq '.cells[] | select(.verdict == \"allow\")'")]
    Matrix(MatrixArgs),
    /// Check what you expect of your policies
    #[command(after_help = "\
The tests are a YAML list. `from` and `to` are namespace/pod, an address, `host` or `world`; several mean every pair. `expect` is
allow, deny or l7-deny. `protocol` is TCP unless given; `rule` is a part of the name of a rule that must have decided.

  - name: only flask-app reaches the database
    from: [db/debug, dummy/debug]
    to: db/postgres
    port: 5432
    expect: deny
  - name: metrics are not public
    from: world
    to: db/flask-app
    port: 5000
    http: {method: GET, path: /metrics}
    expect: l7-deny
    rule: db/l7-rule

Exit status: 0 when all hold, 1 when one does not, 2 when manifests or tests cannot be read or have faults.

Example:
  sluice policy test -f ./manifests -t expectations.yaml --junit report.xml")]
    Test(TestArgs),
    /// Judge flows, one JSON object a line
    #[command(after_help = "\
Reads flows from standard input and answers each with one line, in order. A line that is no flow is answered with its number and
what is wrong; the stream goes on. A Service's address is judged by the worst of its backends, which is named.
Without `http` a flow under HTTP rules is allowed, with reason `http-judged`. A path is judged as it is written: other spellings of a
path (`//`, `..`, needless %-encodings), which a worker refuses, are not looked for here.
Exit status: 0, 1 when a line was no flow, 2 when the manifests cannot be read or have faults.

Example:
  $ echo '{\"from\":\"world\",\"to\":\"db/flask-app\",\"port\":5000,\"proto\":\"TCP\",\"http\":{\"method\":\"GET\",\"path\":\"/metrics\"}}' |
      sluice policy decide -f ./manifests
  {\"verdict\":\"l7-deny\",\"reason\":\"http-denied\",\"rules\":[\"cnp db/l7-rule ingress[0]\"]}

Verdicts: allow, deny, l7-deny. Reasons: not-judged, same-pod, no-policy, allowed, http-judged, http-denied, default-deny, deny-rule,
unknown-pod, unknown-service-port, no-backend, outside-source-ranges.")]
    Decide(DecideArgs),
}

/// Where manifests are.
#[derive(Debug, Args)]
pub struct ManifestArgs {
    /// Folder of manifests (YAML, also in subfolders), a single file, or `-` for standard input
    #[arg(short = 'f', long, value_name = "PATH")]
    pub manifests: PathBuf,
    /// What the manifests do not say.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// What an agent is told beside its manifests.
#[derive(Debug, Args)]
#[command(next_help_heading = "With --manifests")]
pub struct ClusterArgs {
    /// A range that pods have their addresses from: an address in it that is no known pod's never counts as `world`; may be
    /// given several times
    #[arg(long = "pod-cidr", value_name = "CIDR", requires = "manifests")]
    pub pod_cidrs: Vec<IpNet>,
    /// Name of the node that judges: addresses of other Node objects are `remote-node` [default: every Node is another one]
    #[arg(long, value_name = "NAME", requires = "manifests")]
    pub node_name: Option<String>,
    /// An address of the node, which is `host`; may be given several times
    #[arg(long = "node-address", value_name = "IP", requires = "manifests")]
    pub node_addresses: Vec<IpAddr>,
    /// Name of the cluster, for selectors that name one
    #[arg(long, value_name = "NAME", default_value = "default", requires = "manifests")]
    pub cluster_name: String,
}

/// `sluice policy explain`
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Ask these manifests instead of the agent: a folder, a single file, or `-` for standard input
    #[arg(short = 'f', long, value_name = "PATH")]
    pub manifests: Option<PathBuf>,
    /// What the manifests do not say.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Who opens the flow: namespace/pod, an address, `host` or `world`
    #[arg(long, value_name = "PARTY")]
    pub from: PartyName,
    /// To whom: namespace/pod, an address (also of a Service), `host` or `world`
    #[arg(long, value_name = "PARTY")]
    pub to: PartyName,
    /// Destination port; for ICMP the type
    #[arg(long, value_name = "N")]
    pub port: u16,
    /// TCP, UDP, SCTP, ICMP, ICMPv6 or a number
    #[arg(long, value_name = "PROTOCOL", default_value = "TCP", value_parser = parse_protocol)]
    pub protocol: Protocol,
    /// Judge an HTTP request with this method [default: GET, if one of the others is given]
    #[arg(long, value_name = "METHOD")]
    pub method: Option<String>,
    /// Judge an HTTP request with this path [default: /, if one of the others is given]
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// Judge an HTTP request with this `Host`
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// Judge an HTTP request with this header; may be given several times
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    pub headers: Vec<(String, String)>,
    /// Form of output
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// `sluice policy check`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The manifests.
    #[command(flatten)]
    pub manifests: ManifestArgs,
    /// Form of output
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// `sluice policy matrix`
#[derive(Debug, Args)]
pub struct MatrixArgs {
    /// The manifests.
    #[command(flatten)]
    pub manifests: ManifestArgs,
    /// A port, as 5432 or 53/UDP; may be given several times [default: all that pods and policies name]
    #[arg(long = "port", value_name = "N[/PROTOCOL]")]
    pub ports: Vec<PortProtocol>,
    /// Form of output
    #[arg(short, long, value_enum, default_value_t)]
    pub output: MatrixOutput,
}

/// Form of a matrix.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum MatrixOutput {
    /// Tables for people.
    #[default]
    Text,
    /// Every pair and port, with reasons and rules.
    Json,
    /// The same, one line each.
    Csv,
}

/// `sluice policy test`
#[derive(Debug, Args)]
pub struct TestArgs {
    /// The manifests.
    #[command(flatten)]
    pub manifests: ManifestArgs,
    /// File of tests
    #[arg(short, long, value_name = "FILE")]
    pub tests: PathBuf,
    /// Also write a JUnit report
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
}

/// `sluice policy decide`
#[derive(Debug, Args)]
pub struct DecideArgs {
    /// The manifests.
    #[command(flatten)]
    pub manifests: ManifestArgs,
}

/// A port and its protocol, written `5432` (TCP) or `53/UDP`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortProtocol {
    /// The port; the type for ICMP.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl std::fmt::Display for PortProtocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol.name())
    }
}

impl FromStr for PortProtocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (port, protocol) = text.split_once('/').unwrap_or((text, "TCP"));
        Ok(Self {
            port: port
                .parse()
                .map_err(|_not_a_number| format!("`{port}` is not a port from 0 to 65535"))?,
            protocol: parse_protocol(protocol).map_err(|error| error.to_string())?,
        })
    }
}

/// `text` is no IP protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is none of TCP, UDP, SCTP, ICMP, ICMPv6, nor a number from 1 to 255")]
pub struct ProtocolError {
    /// What was given.
    pub text: String,
}

/// Reads a protocol's name, in any case, or its number.
///
/// # Errors
/// [`ProtocolError`].
pub fn parse_protocol(text: &str) -> Result<Protocol, ProtocolError> {
    [
        ("TCP", Protocol::TCP),
        ("UDP", Protocol::UDP),
        ("SCTP", Protocol::SCTP),
        ("ICMP", Protocol::ICMP),
        ("ICMPv6", Protocol::ICMPV6),
    ]
    .into_iter()
    .find(|(name, _)| name.eq_ignore_ascii_case(text))
    .map(|(_, protocol)| protocol)
    .or_else(|| text.parse().ok().filter(|number| *number != 0).map(Protocol))
    .ok_or_else(|| ProtocolError { text: text.into() })
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.trim().to_owned())),
        _ => Err(format!("`{text}` is not of the form NAME: VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_read_by_name_and_number() {
        assert_eq!(parse_protocol("udp"), Ok(Protocol::UDP));
        assert_eq!(parse_protocol("ICMPv6"), Ok(Protocol::ICMPV6));
        assert_eq!(parse_protocol("47"), Ok(Protocol(47)));
        for text in ["", "0", "256", "tcpx"] {
            assert!(parse_protocol(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ports_are_tcp_unless_they_say_otherwise() {
        let read = |text: &str| text.parse::<PortProtocol>().map(|port| port.to_string());
        assert_eq!(read("80"), Ok("80/TCP".into()));
        assert_eq!(read("53/udp"), Ok("53/UDP".into()));
        for text in ["", "x", "65536", "80/", "80/x"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn headers_are_split_at_the_first_colon() {
        assert_eq!(parse_header("X-A: b:c"), Ok(("X-A".into(), "b:c".into())));
        assert!(parse_header("X-A").is_err());
        assert!(parse_header(": b").is_err());
    }
}
