//! `sluice cleanup`

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use datapath::loader::Loader;

use crate::api::SOCKET_NAME;
use crate::cli::CleanupArgs;
use crate::endpoint_registry;
use crate::node::Reconciler;
use crate::supervisor::SNAPSHOT_NAME;

pub(super) async fn run(run_dir: &Path, args: &CleanupArgs) -> anyhow::Result<ExitCode> {
    let socket = run_dir.join(SOCKET_NAME);
    if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
        bail!("an agent is running on {}: stop it first", socket.display());
    }
    // Routes before guards: at no time does the kernel have a way to a pod that is neither guarded nor wanted.
    let removed = Reconciler::new()?.remove_all().await?;
    Loader::remove_all(&args.bpffs)?;
    for name in [SOCKET_NAME, endpoint_registry::FILE_NAME, SNAPSHOT_NAME] {
        let path = run_dir.join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    eprintln!(
        "sluice: removed {removed} links, rules and routes, all programs and the state in {}",
        run_dir.display()
    );
    Ok(ExitCode::SUCCESS)
}
