//! Threads, rings and packets: the dataplane of one node.
//!
//! A [`worker::Worker`] takes packets from the rings of its interfaces ([`xsk`]), runs them through the packet graph ([`graph`],
//! [`stage`]) and queues them on the rings of their receivers. It reads one immutable [`policy::Snapshot`] per batch and knows nothing
//! of Kubernetes. Everything is allocated at start or when an interface is attached; a packet allocates nothing. `unsafe` is
//! confined to [`xsk`].
#![deny(unsafe_code)]

pub mod adoption;
pub mod capture;
pub mod conntrack;
pub mod counters;
pub mod event;
pub mod flow;
pub mod fragment;
pub mod graph;
pub mod hold;
pub mod interface;
pub mod interface_table;
pub mod l7_flow;
pub mod loader;
pub mod reservation;
pub mod stage;
pub mod translation;
pub mod wire;
pub mod worker;
pub mod xsk;
