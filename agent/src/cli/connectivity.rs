//! `sluice connectivity`: its commands and their options.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use regex::Regex;

use super::AccessArgs;
use crate::connectivity::probe::ProbeSpec;

/// `sluice connectivity`
#[derive(Debug, Subcommand)]
pub enum ConnectivityCommand {
    /// Deploy clients and servers, try every kind of policy between them, and take everything away again
    #[command(after_help = "\
Makes the namespaces sluice-test and sluice-test-2, and for each scenario policies in them; cluster-wide policies select only pods of
these namespaces. What is there of an earlier run is removed first. Everything is removed at the end, also after Ctrl-C.
Needs one node, better two: scenarios for a pod of another node are skipped where there is only one.
Exit status: 0 when all scenarios passed, 1 when one failed or the test could not be made, 130 when interrupted.

Examples:
  sluice connectivity test
  sluice connectivity test --list
  sluice connectivity test --test 'http|icmp' --keep
  sluice connectivity test --junit-file report.xml")]
    Test(ConnectivityTestArgs),
    /// Serve HTTP and UDP for the test
    #[command(hide = true)]
    Serve(ServeArgs),
    /// Probe addresses for the test
    #[command(hide = true)]
    Probe(ProbeArgs),
}

/// `sluice connectivity test`
#[derive(Debug, Args)]
pub struct ConnectivityTestArgs {
    /// Only scenarios whose name matches
    #[arg(long = "test", value_name = "REGEX")]
    pub filter: Option<Regex>,
    /// Only print the names of scenarios
    #[arg(long)]
    pub list: bool,
    /// Leave the pods when the test is over, for a closer look; the next run removes them
    #[arg(long)]
    pub keep: bool,
    /// How long a policy may take to be enforced, and pods to start, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
    /// Write a JUnit report
    #[arg(long, value_name = "FILE")]
    pub junit_file: Option<PathBuf>,
    /// Image of the test's pods; it must have /usr/bin/sluice [default: the agents']
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// An IPv4 address outside the cluster that answers TCP, for the entity `world` and CIDRs [default: the API server, where its address is no
    /// node's]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub external: Option<std::net::SocketAddrV4>,
    /// The cluster.
    #[command(flatten)]
    pub access: AccessArgs,
}

/// `sluice connectivity serve`
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// TCP ports for HTTP
    #[arg(long, value_name = "PORT")]
    pub http: Vec<u16>,
    /// UDP ports to echo on
    #[arg(long, value_name = "PORT")]
    pub udp: Vec<u16>,
}

/// `sluice connectivity probe`
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// `http://ADDRESS:PORT/PATH`, `tcp://ADDRESS:PORT`, `udp://ADDRESS:PORT` or `icmp://ADDRESS`, or a JSON object with `url` and
    /// `method`, `headers`, `hold_ms`
    #[arg(required = true, value_name = "PROBE")]
    pub probes: Vec<ProbeSpec>,
    /// How long to wait for each answer, milliseconds
    #[arg(long, value_name = "MS", default_value_t = 2000)]
    pub timeout_ms: u64,
}
