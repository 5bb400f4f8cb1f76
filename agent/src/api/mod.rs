//! The agent's API on a unix socket: newline-delimited JSON.
//!
//! A client sends one [`Request`] line and reads one [`Reply`] line, or, for `flows` and `capture`, a stream of them that ends
//! with [`Reply::End`] or with the connection. Lines are bounded on both sides. Whoever may open the socket (mode 0600) may do
//! everything, so there is no other authentication.

pub mod client;
mod line;
pub mod server;
pub mod state;
pub mod status;
pub mod types;

pub use client::{Client, ClientError};
pub use server::{Server, ServerError};
pub use state::{AgentState, Command};
pub use status::Status;
pub use types::{ApiError, ErrorCode, Reply, Request};

/// Name of the socket in the run directory.
pub const SOCKET_NAME: &str = "sluice.sock";
