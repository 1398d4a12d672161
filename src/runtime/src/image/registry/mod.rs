//! A client of the OCI distribution protocol, for pulls and pushes. It uses HTTPS, or plain HTTP for loopback
//! hosts and registries declared insecure, with Basic or token authentication. Mirrors are asked first.

mod auth;
mod cache;
mod connection;
mod download;
mod endpoints;
mod fetch;
mod http;
mod local;
mod pin;
mod pull;
mod push;
mod upload;

#[cfg(feature = "fuzzing")]
pub use auth::challenge;
pub use cache::{Cache, CacheUsage, CachedManifest, CachedName};
pub use fetch::{Fetched, fetch};
pub use http::client;
pub use pull::pull;
pub use push::push;
