//! The agent of a node: wiring, command line, API socket, metrics and node state.
//!
//! `control` compiles policies into snapshots, `datapath` enforces them; this crate starts both, tells them of endpoints, and
//! shows what they do. It decides nothing about packets.
#![forbid(unsafe_code)]

pub mod affinity;
pub mod api;
pub mod capture;
pub mod cli;
pub mod cluster;
pub mod cni;
pub mod command;
pub mod connectivity;
pub mod dataplane;
pub mod endpoint_registry;
pub mod explanation;
pub mod flow_log;
pub mod flow_record;
pub mod handover;
pub mod heartbeat;
pub mod junit;
pub mod log;
pub mod metrics;
pub mod names;
pub mod node;
pub mod operator;
pub mod preflight;
pub mod pump;
pub mod supervisor;
pub mod sysdump;
pub mod watchdog;
