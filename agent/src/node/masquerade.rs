//! Masquerading of what the node's own processes send through Services to other nodes: the kernel forwards it for the worker, under an
//! address that nobody else knows.
//!
//! One nftables table of our own, written by the program `nft`; nothing else of the node's rules is touched.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use datapath::translation::{NODE_CLIENT_V4, NODE_CLIENT_V6};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

/// How long `nft` may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes the table anew, in one transaction.
///
/// # Errors
/// `nft` is not there, or refuses.
pub(super) async fn ensure() -> io::Result<()> {
    let rule = |family: &str, addr: &dyn std::fmt::Display| {
        format!("iifname \"sluice_fwd\" {family} saddr {addr} oifname != \"sluice_*\" masquerade")
    };
    let script = format!(
        "table inet sluice {{}}\ndelete table inet sluice\ntable inet sluice {{ chain postrouting {{\n\
         type nat hook postrouting priority srcnat; policy accept;\n{}\n{}\n}}\n}}\n",
        rule("ip", &NODE_CLIENT_V4),
        rule("ip6", &NODE_CLIENT_V6),
    );
    feed(&script).await
}

/// Removes the table. A node without `nft` has none; whatever else is in the way is reported, since nothing of the agent's depends on it.
pub(super) async fn remove() {
    match feed("table inet sluice {}\ndelete table inet sluice\n").await {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(%error, "cannot remove the nftables table inet sluice, if there is one"),
    }
}

async fn feed(script: &str) -> io::Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).await?;
    }
    // Nothing else of the node's state is looked after meanwhile; dropped, the process is killed.
    let ended = timeout(PATIENCE, child.wait_with_output()).await;
    let output = ended.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{}: {}", output.status, said.trim())))
}
