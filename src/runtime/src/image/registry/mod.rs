//! Pulling from registries: the OCI distribution protocol over HTTPS, plain HTTP for
//! loopback and for registries declared insecure, Basic and token authentication.

mod auth;
mod connection;
mod download;
mod http;
mod pull;

pub use pull::pull;
