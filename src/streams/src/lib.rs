//! Stream protocols of `kubectl exec`, `attach` and `port-forward`, server side.
//!
//! - [`websocket`]: the `channel.k8s.io` sub-protocols, whose messages begin with the
//!   number of a channel.
//! - [`spdy`]: SPDY/3.1 as far as Kubernetes clients use it, on an upgraded
//!   connection or inside a WebSocket ([`websocket::tunnel`]).
//! - [`remote_command`]: the documents that both carry: terminal sizes and the final
//!   `Status`.
//!
//! The crate has no types of a node or of an API server. Responses have an empty body
//! of type `()`; a caller maps it to its own body type.

pub mod remote_command;
pub mod spdy;
mod upgrade;
pub mod websocket;

pub use upgrade::UpgradeError;
