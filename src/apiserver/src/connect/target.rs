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
    /// The authentication of an HTTPS peer.
    pub trust: Trust,
}
