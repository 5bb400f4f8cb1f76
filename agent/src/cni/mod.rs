//! How the container runtime comes to call sluice: the plugin and its configuration beside those of the node's network, and the
//! pods that were there before.

pub mod adoption;
pub mod conflist;
pub mod installation;

pub use installation::{Installation, InstallationError};
