//! `sluice sysdump`: its options.

use std::path::PathBuf;

use clap::Args;

use super::AccessArgs;

/// `sluice sysdump`
#[derive(Debug, Args)]
#[command(after_help = "\
Writes a .tar.gz with what a bug report needs: nodes, pods, Services, policies, definitions, sluice's own objects, logs and events, and from
each agent its status, endpoints, last flows, metrics and the node's rules and routes. A part that cannot be had is a line in errors.txt.
Left out: Secrets are never asked for; values of environment variables, annotations and arguments that look like credentials,
kubectl's copy of the last configuration, header values in HTTP rules, query strings of requests, and tokens in logs.
Exit status: 0 when the file is written, whatever is missing in it.

Examples:
  sluice sysdump
  sluice sysdump --output-file /tmp/bug.tar.gz --timeout 30")]
pub struct SysdumpArgs {
    /// The file to write [default: sluice-sysdump-TIME.tar.gz]
    #[arg(long, value_name = "FILE")]
    pub output_file: Option<PathBuf>,
    /// How long each part may take, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub timeout: u64,
    /// Flow records of each agent
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub flows: u32,
    /// The cluster.
    #[command(flatten)]
    pub access: AccessArgs,
}
