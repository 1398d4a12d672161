//! Server side of the stream protocols of `kubectl exec`, `attach` and `port-forward`.
//!
//! - [`websocket`]: the `channel.k8s.io` sub-protocols, whose messages start with a channel number.
//! - [`spdy`]: the part of SPDY/3.1 that Kubernetes clients use, on an upgraded connection or
//!   inside a WebSocket ([`websocket::tunnel`]).
//! - [`bounded`]: queues for what clients send faster than it is read.
//! - [`remote_command`]: documents of both protocols: terminal sizes and the final `Status`.
//!
//! The crate does not depend on types of a node or an API server. Responses have an empty body of
//! type `()`; the caller maps it to its own body type.

pub mod bounded;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod remote_command;
pub mod spdy;
mod upgrade;
pub mod websocket;

pub use upgrade::UpgradeError;
