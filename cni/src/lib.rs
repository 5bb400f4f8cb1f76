//! `sluice-cni`: the last plugin of a chain of CNI plugins.
//!
//! The plugins before it make a pod's interface; this one tells the agent of it, and answers the runtime only when the pod's
//! policy is enforced: no container of a pod starts before. It changes nothing on the node itself.
//!
//! Reference: the [CNI specification](https://www.cni.dev/docs/spec/), versions 0.3.0 to 1.1.0.
#![forbid(unsafe_code)]

pub mod agent;
pub mod command;
pub mod config;
pub mod error;
pub mod invocation;
pub mod link;
pub mod pod_interface;
pub mod result;
pub mod wire;

/// Name of the plugin: the `type` in configurations, and the name of its file.
pub const PLUGIN_NAME: &str = "sluice-cni";
