//! From Kubernetes objects to [`policy::Snapshot`]s.
//!
//! A source (a folder of manifests) gives objects, the [`index::Index`] keeps them, [`compile::compile`] makes snapshots of it, and
//! [`Control`] publishes them. This crate never depends on the datapath: both meet in the snapshot only. An invalid object is refused
//! whole, with the path of each faulty field; what it said before stays enforced.
#![forbid(unsafe_code)]

pub mod advice;
pub mod api;
pub mod clusternetworkpolicy;
pub mod cnp;
pub mod compile;
pub mod counted;
pub mod decide;
pub mod explain;
pub mod field;
pub mod fqdn;
pub mod identity;
pub mod index;
pub mod kubernetes;
pub mod labels;
pub mod last_good;
pub mod manifest;
pub mod networkpolicy;
pub mod object;
pub mod restore;
pub mod rule;
pub mod selector;
pub mod service;
pub mod source;

pub use decide::{Engine, Flow, Outcome, Party, PartyError, PartyName, Reason, SideVerdict, Verdict};
pub use explain::{ExplainError, Explanation, Question, RequestText, SideExplanation};
pub use index::{Index, IndexConfig, LocalEndpoint};
pub use kubernetes::{ApiServer, KubernetesConfig, KubernetesError};
pub use service::{Control, ControlConfig, ControlHandle, SourceStatus};
pub use source::ObjectError;
