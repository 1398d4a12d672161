//! The cluster's name server.
//!
//! [`DnsState`] holds the names of the Kubernetes DNS specification 1.1.0, made from
//! services and endpoint slices. Queries for other names are forwarded. Queries for the
//! cluster's names are answered from memory, in the task that received them.

mod forward;
mod respond;
mod server;
#[cfg(test)]
mod tests;
mod types;
mod zone;

pub use server::DnsServer;
pub use types::DnsConfig;
pub use zone::DnsState;
