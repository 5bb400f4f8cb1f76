//! Connection tracking: one table per worker, keyed by the flow's post-translation tuple, plain old data.
//!
//! - [`table`]: fixed-capacity hash table with batched lookup; both directions of a flow find the same entry.
//! - [`entry`]: what is known of a flow: interfaces, translation, generations of what decided it, TCP state.
//! - [`tcp_state`]: the TCP states that matter for expiry and for who may begin a connection.
//! - Expiry is an incremental sweep ([`table::Conntrack::sweep`]) with the time passed in.

pub mod entry;
pub mod table;
pub mod tcp_state;

pub use entry::{Audited, Entry, EntryVerdict, Translation};
pub use table::{Conntrack, EntryId, InsertError};
pub use tcp_state::{TcpState, TcpWindow};
