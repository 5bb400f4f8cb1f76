//! Whole-graph tests: packets go in and out by rings in memory, through the real worker, with real snapshots.
//!
//! - `bed`: a worker with pods, the two host pairs, and packets for them
//! - `forwarding`: what reaches whom, and what a router does to it
//! - `l7`: the HTTP gate on packets
//! - `attacks`: what must not get through
//! - `audit`: what passes only because an endpoint audits
//! - `hold`: first packets of pods that are not known yet
//! - `inherited`: connections through Services of which the former worker has told
//! - `lifecycle`: endpoints come and go, policies change, frames are accounted for
//! - `midstream`: connections that are older than the worker
//! - `stream`: client and gate must agree with the server about where a gated stream begins, what its order is, and that it is alive
//! - `services`: which backend a flow gets, and what it is told where there is none

mod attacks;
mod audit;
mod bed;
mod forwarding;
mod hold;
mod inherited;
mod l7;
mod lifecycle;
mod midstream;
mod review;
mod services;
mod stream;
