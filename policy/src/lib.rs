//! The pure policy model: what may talk to what.
//!
//! `control` builds a [`Snapshot`] from Kubernetes objects; `datapath` reads it, once per batch. This crate does no IO, reads no
//! clock, knows no Kubernetes client and holds no `unsafe`. Everything in a snapshot is immutable and shared by [`std::sync::Arc`].
#![forbid(unsafe_code)]

pub mod endpoint;
pub mod http;
pub mod identity;
pub mod ipcache;
pub mod persist;
pub mod service;
pub mod snapshot;
pub mod table;
pub mod verdict;

pub use endpoint::{EndpointKey, PodName, Slot, SlotGeneration};
pub use http::{
    HeaderMatch, HeaderValue, HttpRequest, HttpRule, HttpRuleSet, LineVerdict, MOST_HTTP_RULES, Mismatch,
    PatternError,
};
pub use identity::Identity;
pub use ipcache::{IpCache, IpCacheGeneration};
pub use service::{Affinity, Backend, Frontend, Service, ServiceKey, ServiceLookup, ServiceTable, Unserved};
pub use snapshot::{Revision, RuleInfo, Snapshot};
pub use table::{
    Action, BuildError, Decision, EndpointPolicy, Entry, HttpIndex, HttpSets, MOST_DECISIONS, Peers,
    PolicyGeneration, PolicyTable, RuleId, Tier,
};
pub use verdict::{Direction, DropReason, Protocol, Verdict};
