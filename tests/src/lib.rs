//! The harness of the end-to-end tests: the lab of `scripts/lab.sh` with the real agent, driven from Rust; and a real cluster.
//!
//! - A [`Cluster`] is there before the test, with sluice on it; its cases use `kubectl` and leave no object behind.
//! - A [`Lab`] is a node, an outside client and pods as network namespaces; it is gone when the value is dropped, also by a panic.
//! - Code runs *inside* a pod by entering its namespace on a thread of its own ([`Netns`]); only real tools (curl, nc, nginx) are
//!   processes.
//! - Waiting is always for a condition with a deadline ([`wait`]), counts are exact, and no test asserts how long anything took.
//! - A test that shows that something does *not* arrive proves it by what was sent behind it and did ([`fence`]).

pub mod agent;
pub mod cluster;
pub mod fence;
pub mod http;
pub mod lab;
pub mod loss;
pub mod netns;
pub mod packets;
pub mod pod;
pub mod suite;
pub mod tap;
pub mod traffic;
pub mod wait;

pub use agent::{Agent, Drops};
pub use cluster::Cluster;
pub use lab::Lab;
pub use netns::Netns;
pub use pod::Pod;
