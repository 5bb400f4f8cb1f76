//! HTTP/1.x as RFC 9112 defines it, read more strictly than it asks for.
//!
//! The gate does not have to be liberal: whatever two implementations could read differently is refused, so that the server
//! behind it finds the same requests as the gate did.

pub mod body;
pub mod head;
pub mod line;
pub mod request;
pub mod response;
pub mod target;
