//! The cluster's name server.
//!
//! [`DnsState`] holds the names of the Kubernetes DNS specification 1.1.0, derived from services
//! and endpoint slices. Queries for the cluster's names are answered from memory, in the task that
//! received them. All others are forwarded. A Corefile says what else is answered, and how
//! ([`corefile`]).

mod chain;
pub mod corefile;
mod forward;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod respond;
mod server;
mod shares;
#[cfg(test)]
mod tests;
mod types;
mod zone;

pub use server::DnsServer;
pub use types::DnsConfig;
pub use zone::DnsState;
