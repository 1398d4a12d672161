//! The part of SPDY/3.1 that Kubernetes clients use: framed streams on one connection.
//!
//! `kubectl port-forward` sends these frames through a WebSocket. Older clients send them on a
//! connection that was upgraded to SPDY, also for remote commands.

mod dictionary;
mod frame;
mod headers;
mod session;
mod upgrade;

pub use headers::Headers;
pub use session::{PendingSession, Stream, Streams, prepare};
pub use upgrade::{is_upgrade, upgrade};

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing {
    pub(crate) use super::frame::{Frame, decode, encode};
    pub(crate) use super::headers::{HeaderDecoder, HeaderEncoder};
}
