//! Inline protocol inspection: bytes in, verdicts out.
//!
//! The crate owns the decision which bytes of a TCP flow a receiver may see. It knows no sockets, frames, clocks or tasks: the
//! datapath hands it segments in the order of arrival and obeys the [`gate::GateVerdict`].
//!
//! Invariants: every buffer is bounded and reserved when a flow begins; nothing is held back, so no window can deadlock; no
//! byte at or past the point where a request is denied is ever forwarded; what cannot be understood is denied.
#![forbid(unsafe_code)]

pub mod gate;
pub mod http1;
pub mod segment;
pub mod sequence;
mod server;

pub use gate::{Answer, Denial, GateVerdict, HttpGate, L7Sink, Rules};
pub use segment::{Payload, Segment};
