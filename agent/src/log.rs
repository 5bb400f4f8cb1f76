//! The log of the long-running commands: text on standard error, `RUST_LOG` says how much.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Begins to log.
pub fn init() {
    // The client of the API server reports each failed try; status and our own lines say it once.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_unset| "info,kube_client=off".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}
