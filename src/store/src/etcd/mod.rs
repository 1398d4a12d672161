//! A store in an etcd v3 cluster, which several API servers may share.
//!
//! Every key is below the store's root, so that one etcd can hold many clusters. A
//! write is a transaction on the key's `mod_revision`. Reads of the store are
//! linearized. Each watch has its own stream. After a broken connection it continues
//! from the last delivered revision; it ends only when etcd has compacted changes
//! that were not delivered.

mod client;
mod compactor;
#[cfg(test)]
mod failover_tests;
mod follower;
mod grpc;
mod options;
mod store;
#[cfg(test)]
mod tests;
mod watch;
mod wire;

pub use options::{EtcdOptions, host_and_port};
pub use store::EtcdStore;
