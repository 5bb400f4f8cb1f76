//! The stages of the graph: one file each. A stage reads and changes [`crate::graph::Graph`] and decides about one packet.
//!
//! Order: [`parse`] (with [`source_guard`], [`neighbour`] and [`fragment`]), [`conntrack`] (with [`midstream`]), [`policy`] (with [`hold`]), [`l7`], [`forward`]. Packets that the worker
//! makes itself come from [`icmp_error`], [`reset`] and [`neighbour`]. `audit`: what policy would deny.

mod audit;
pub mod conntrack;
pub mod forward;
pub mod fragment;
pub mod hold;
pub mod icmp_error;
pub mod l7;
pub mod midstream;
pub mod neighbour;
pub mod parse;
pub mod policy;
pub mod reset;
pub mod source_guard;
