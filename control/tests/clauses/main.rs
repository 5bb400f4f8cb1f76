//! The clauses of Cilium's semantics that are about decisions: policies as YAML, flows, and what becomes of them.
//!
//! `docs/conformance.md` says which test proves which clause. Every flow is asked of two engines: one that compiles for itself, and one
//! over the tables that a compiler has made by following the objects one at a time.

mod cluster;

mod deny;
mod entities;
mod http;
mod identities;
mod kubernetes;
mod networks;
mod nothing;
mod ports;
mod selectors;
mod subjects;
mod tiers;
