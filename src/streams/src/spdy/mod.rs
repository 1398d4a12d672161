//! SPDY/3.1 as far as Kubernetes clients use it: framed streams on one connection.
//!
//! `kubectl port-forward` sends these frames through a WebSocket; older clients
//! send them, for commands too, over a connection that was upgraded to SPDY.

mod dictionary;
mod frame;
mod headers;
mod session;
mod upgrade;

pub use headers::Headers;
pub use session::{PendingSession, Stream, Streams, prepare};
pub use upgrade::{is_upgrade, upgrade};
