//! What the benches of the packet path share: traffic, a node to put it through, and how a case is timed and counted.
//!
//! A bench is named `stage/case/batch`; criterion's time is that of one batch. Inputs are made outside the timed part, and a case
//! that does not do what it claims (a packet is dropped, a lookup misses) panics instead of being measured. Every case prints the
//! allocations of its timed part per element beside its time. Figures are those of one machine at one time: compare two revisions
//! with `scripts/bench-ab.sh`, which alternates them.
#![forbid(unsafe_code)]

pub mod alloc;
pub mod case;
pub mod connection;
pub mod node;
pub mod pipeline;
pub mod stream;
