//! Threads, rings and packets.
#![deny(unsafe_code)]

pub mod event;
pub mod interface;
