//! The destination of a request that is passed on.

use super::transport::Trust;

/// Where a request goes.
pub struct Target {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Address and port.
    pub authority: String,
    /// Path and query, encoded.
    pub path_and_query: String,
    /// How an HTTPS peer proves who it is.
    pub trust: Trust,
}
