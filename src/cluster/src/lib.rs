//! The life cycle of clusters: plan, provision, start, stop, delete.
//!
//! A profile is a directory in `$RKUBE_HOME/profiles`. This crate owns its files
//! (description, certificates, SSH keys, node configurations), the entry in the user's
//! kubeconfig, and the order of calls to the driver.

// Links the serialization of typed objects that is compiled in that crate.
use rkube_client as _;

mod access;
pub mod addons;
pub mod apply;
pub mod audit;
mod choice;
mod directories;
mod docker;
mod download;
mod export;
mod families;
mod files;
mod forward;
mod image_cache;
mod kubeconfig;
pub mod labels;
mod lifecycle;
mod nodes;
mod pause;
mod paused;
mod pki;
mod plan;
mod ports;
mod profile;
mod provision;
mod publish;
mod ready;
mod registries;
mod registry;
mod reservation;
mod schedule;
mod snapshots;
mod standalone;
mod status;
mod store;
mod sudo;
mod tunnel;
pub mod yaml;

pub use access::{
    client, endpoints, error_message, kubeconfig, logs, on_node, runs, server, ssh, ssh_address,
    ssh_host_key, ssh_key, stream_on_node,
};
pub use choice::{Candidate, candidates, none_works};
pub use directories::{mount, unmount};
pub use docker::docker_socket;
#[cfg(unix)]
pub use docker::{DockerSocket, docker_socket_answers};
pub use download::download;
pub use export::{Exported, export};
pub use families::{Cidrs, Families, Ipv6Options};
pub use files::{
    Home, Lock, add_line, home_dir, io_failure, make_private_dir, remove_tree, write_private,
};
pub use forward::Forward;
#[cfg(target_os = "linux")]
pub use image_cache::become_owner;
pub use image_cache::{ImageCache, image_cache_dir, image_cache_is_needed, image_cache_listens};
pub use kubeconfig::{Kubeconfig, default_path as default_kubeconfig};
pub use lifecycle::{
    Started, delete, exists, start, stop, update_entry, wait_ready, write_context,
};
pub use nodes::{add_node, caught_up, delete_node, start_node, stop_node};
pub use pause::set_paused;
pub use paused::{paused_namespaces, set_namespaces_paused};
pub use pki::CertificateStatus;
pub use plan::{KubeletChanges, StartOptions};
pub use ports::{
    PortForward, PortState, PortTarget, add_ports, parse_ports, port_states, ports_are_served,
    ports_can_open, remove_ports, serve_ports,
};
pub use profile::{Node, NodeSpec, Profile, check_name};
pub use provision::{certificates, renew_certificates};
pub use registries::{
    ProxyChoice, RegistryChanges, RegistrySources, from_value as registries_from_value,
};
pub use registry::{
    ADDON as REGISTRY_ADDON, RegistryAdmin, RegistrySettings, attach_registry, detach_registry,
    names as registry_names, none as no_registry, registry_admin, registry_certificate,
    registry_dir, registry_is_known, registry_is_off, registry_listens, registry_lock,
    remove_registry, tell_nodes, withdraw_registry,
};
pub use schedule::{Fate, cancel_stop, fate, schedule_stop, wait_and_stop};
pub use snapshots::{Snapshot, Staged, delete_snapshot, save_snapshot, snapshots, stage_snapshot};
pub use standalone::Standalone;
pub use status::{ClusterStatus, NodeStatus, status};
pub use store::StoreOptions;
pub use tunnel::{
    Change as TunnelChange, Cleanup as TunnelCleanup, State as TunnelState,
    cleanup as clean_up_tunnel, is_needed as tunnel_is_needed, is_open as tunnel_is_open,
    run as tunnel, state as tunnel_state,
};

/// Reports progress to the user.
pub trait Progress: Send + Sync {
    /// Starts a step, which ends with the next one. `name` is for programs.
    fn step(&self, name: &str, message: &str);
    /// Reports a problem that does not stop the operation.
    fn warn(&self, message: &str);
}
