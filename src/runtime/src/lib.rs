//! Images, snapshots and containers of one node: a library with the operations of the
//! CRI.
//!
//! - [`Runtime`] is the node agent's handle on everything here.
//! - Images are pulled or loaded into a content-addressed store that several
//!   nodes on one machine may share; each node keeps its own index of names.
//! - A sandbox is a set of namespaces pinned in the run directory; it has a
//!   process of its own (`rkube pause`) only when its containers share a PID
//!   namespace.
//! - A container is an overlay mount, an OCI configuration and, while it runs,
//!   one `rkube shim` process: the parent of the container's first process, the
//!   writer of its log, and the server of its socket. Shims outlive the agent.
//!
//! The binary calls [`helper_main`] before anything else, so that the same file
//! can be run as a shim or as `pause`.

#![warn(missing_docs)]

use std::ffi::OsString;

mod beneath;
mod blocking;
mod client;
mod container;
mod device_filter;
mod error;
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
mod status;

pub use rkube_cgroups::{Resources, Stats};

pub use error::{ImageError, Result, RuntimeError};
pub use handle::Runtime;
pub use session::{Input, Output, Session, SessionControl};
pub use spec::{
    ContainerSpec, Device, ExecSpec, HostNamespaces, ImageMount, Mount, MountPropagation, PidMode,
    PullProgress, RegistryAuth, RuntimeConfig, SandboxSpec, SeccompProfile, Security, TmpfsMount,
};
pub use status::{
    ContainerEvent, ContainerEventKind, ContainerState, ContainerStatus, ContainerUser, ExecOutput,
    FsInfo, FsUsage, ImageStatus, Sandbox, SandboxState,
};

/// Runs one of the runtime's own processes when `role` (the binary's first
/// argument) names one, and returns its exit code.
///
/// To be called before threads are started: these processes stay
/// single-threaded, because they fork.
pub fn helper_main(role: &str, args: &[OsString]) -> Option<i32> {
    match role {
        "shim" => Some(shim::main(args)),
        "pause" => Some(pause::main(args)),
        _ => None,
    }
}
