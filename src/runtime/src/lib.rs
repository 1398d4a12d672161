//! The container runtime of a node, as a library with the operations of the CRI.
//!
//! - [`Runtime`] is the node agent's handle for all operations.
//! - Images are pulled or loaded into a content-addressed store. Several nodes on one machine may
//!   share the content; each node keeps its own index of names.
//! - A sandbox is a set of namespaces pinned by bind mounts in the run directory. It has a process
//!   (`rkube pause`) only if its containers share a PID namespace.
//! - A container is an overlay mount, an OCI configuration and, while it runs, one `rkube shim`
//!   process. The shim is the parent of the container's first process, writes its log and serves
//!   its socket. Shims keep running when the agent exits.
//!
//! The binary must call [`helper_main`] before anything else, because it is also executed as the
//! shim and as `pause`.

#![warn(missing_docs)]

use std::ffi::OsString;

mod beneath;
mod blocking;
pub mod build;
mod client;
mod container;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod handle;
mod image;
mod oci;
mod pause;
mod sandbox;
mod seccomp;
mod session;
mod shim;
mod snapshot;
mod spec;
mod stage;
mod status;
mod tree;
mod users;

pub use rkube_cgroups::details as cgroup_details;
pub use rkube_cgroups::node::is_v2 as cgroup_is_v2;
pub use rkube_cgroups::{Resources, Stats};

pub use error::{ImageError, Result, RuntimeError};
pub use handle::Runtime;
pub use image::registry::{Cache, CacheUsage, CachedManifest, CachedName};
pub use session::{Input, Output, Session, SessionControl};
pub use snapshot::usage as directory_usage;
pub use spec::{
    ContainerSpec, Device, ExecSpec, Hook, HostNamespaces, ImageMount, Mount, MountPropagation,
    PidMode, PullProgress, PushProgress, Pushed, RegistryAuth, RuntimeConfig, SandboxSpec,
    SeccompProfile, Security, TmpfsMount,
};
pub use status::{
    ContainerEvent, ContainerEventKind, ContainerState, ContainerStatus, ContainerUser, ExecOutput,
    FsInfo, FsUsage, GivenImage, ImageStatus, Sandbox, SandboxState,
};
pub use users::IdRange;

/// Runs a helper process of the runtime if `role`, the binary's first argument, is `shim` or
/// `pause`. Returns its exit code, or `None` for any other role.
///
/// Must be called before any thread is started, because the helpers fork.
pub fn helper_main(role: &str, args: &[OsString]) -> Option<i32> {
    match role {
        "shim" => Some(shim::main(args)),
        "pause" => Some(pause::main(args)),
        _ => None,
    }
}
