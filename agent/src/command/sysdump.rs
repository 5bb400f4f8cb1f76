//! `sluice sysdump`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;

use super::print_line;
use crate::cli::SysdumpArgs;
use crate::cluster::Cluster;
use crate::sysdump;

pub(super) async fn run(args: &SysdumpArgs) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::connect(&args.access).await?;
    let path = args.output_file.clone().unwrap_or_else(|| {
        let time = Timestamp::now().strftime("%Y%m%d-%H%M%S");
        PathBuf::from(format!("sluice-sysdump-{time}.tar.gz"))
    });
    let limit = Duration::from_secs(args.timeout);
    let summary = sysdump::write(&cluster, &path, limit, args.flows)
        .await
        .with_context(|| format!("cannot write {}", path.display()))?;
    print_line(&format!(
        "{}: {} parts, {} missing or cut off (errors.txt)",
        path.display(),
        summary.parts,
        summary.errors
    ))?;
    Ok(ExitCode::SUCCESS)
}
