//! A client of the OCI distribution protocol, for pulls and pushes. It uses HTTPS, or plain HTTP for loopback
//! hosts and registries declared insecure, with Basic or token authentication.

mod auth;
mod connection;
mod download;
mod http;
mod pull;
mod push;
mod upload;

#[cfg(feature = "fuzzing")]
pub use auth::challenge;
pub use http::client;
pub use pull::pull;
pub use push::push;
