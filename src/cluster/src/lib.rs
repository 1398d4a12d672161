//! A profile's life: plan, provision, start, stop, delete.
//!
//! A profile is a folder under `$RKUBE_HOME/profiles`. This room owns its files
//! (description, certificates, SSH keys, node configurations), the user's
//! kubeconfig entry and the order in which a driver is asked to do things.

mod access;
pub mod addons;
mod choice;
mod files;
mod forward;
mod kubeconfig;
mod lifecycle;
mod nodes;
mod pki;
mod profile;
mod publish;
mod ready;
mod snapshots;
mod status;
mod store;
mod sudo;
mod tunnel;

pub use access::{client, endpoints, logs, on_node, server, ssh, ssh_address, ssh_key};
pub use choice::{Candidate, candidates, none_works};
pub use files::Home;
pub use forward::Forward;
pub use kubeconfig::{Kubeconfig, default_path as default_kubeconfig};
pub use lifecycle::{StartOptions, Started, delete, start, stop, wait_ready, write_context};
pub use nodes::{add_node, delete_node, start_node, stop_node};
pub use profile::{Node, Profile};
pub use snapshots::{Snapshot, Staged, delete_snapshot, save_snapshot, snapshots, stage_snapshot};
pub use status::{ClusterStatus, NodeStatus, status};
pub use store::StoreOptions;
pub use tunnel::{Change as TunnelChange, is_open as tunnel_is_open, run as tunnel};

/// Tells the user what is going on.
pub trait Progress: Send + Sync {
    /// A step begins; it ends with the next one. `name` is for machines.
    fn step(&self, name: &str, message: &str);
    /// Something that the user should know and that stops nothing.
    fn warn(&self, message: &str);
}
