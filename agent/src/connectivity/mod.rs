//! The connectivity test: pods that serve and probe, policies between them, and what should come of each.
//!
//! [`scenario`] says what is tried, [`runner`] tries it on the pods of [`deployment`]. The pods run this binary, as [`serve`] and
//! [`probe`], so that no image but sluice's own is needed.

pub mod deployment;
pub mod pods;
pub mod probe;
pub mod report;
pub mod runner;
pub mod scenario;
pub mod serve;
