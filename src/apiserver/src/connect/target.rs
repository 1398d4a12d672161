//! The destination of a forwarded request.

use super::transport::Trust;

/// The destination of a forwarded request.
pub struct Target {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Host and port.
    pub authority: String,
    /// Percent-encoded path and query.
    pub path_and_query: String,
    /// How an HTTPS peer is authenticated.
    pub trust: Trust,
}
