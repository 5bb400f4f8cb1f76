//! The lock-free modules of the datapath, compiled against loom; their tests try every order of their atomic operations.

#[path = "../../../datapath/src/xsk/handoff.rs"]
pub mod handoff;
