//! The kernel's network interfaces: rtnetlink and nf_tables, over netlink sockets.
//!
//! - [`netlink`]: links, addresses, routes and network namespaces.
//! - [`nft`]: packet filter tables, applied in one transaction.
//!
//! The crate has no Kubernetes types and runs no other program. All calls are
//! synchronous and take from microseconds to a few milliseconds; use
//! `spawn_blocking` to make them from async code.

#![warn(missing_docs)]

pub mod netlink;
pub mod nft;
#[cfg(test)]
mod testing;
