//! Threads, rings and packets.
#![deny(unsafe_code)]

pub mod event;
pub mod interface;
pub mod wire;
pub mod xsk;
pub mod conntrack;
pub mod flow;
