//! Clients of the kernel's rtnetlink and nf_tables APIs, over netlink sockets.
//!
//! - [`netlink`]: network interfaces, addresses, routes and network namespaces.
//! - [`nft`]: packet filter tables, applied in one transaction.
//!
//! The crate has no Kubernetes types and runs no other program. All calls are synchronous and take
//! from microseconds to a few milliseconds. Call them from async code through `spawn_blocking`.

#![warn(missing_docs)]

pub mod netlink;
pub mod nft;
#[cfg(test)]
mod testing;
