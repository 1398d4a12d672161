//! Creates, starts, stops and removes the nodes of a cluster.
//!
//! A driver has no knowledge of Kubernetes: it receives a [`ClusterPlan`] and creates nodes in
//! which `rkube init` runs with the node's configuration in place.

mod binary;
pub mod docker;
#[cfg(target_os = "linux")]
pub mod native;
#[cfg(unix)]
pub mod qemu;
mod ranges;
mod refused;
mod types;

use rkube_failure::Failure;

pub use types::{
    ClusterPlan, Driver, Endpoints, HostMount, Log, MachineOptions, NodePlan, NodeState,
    PortMapping, Problem, Protocol,
};

/// The address of the host in virtual machines of the driver qemu, which is outside of their range.
pub const QEMU_HOST: std::net::Ipv4Addr = std::net::Ipv4Addr::new(192, 0, 2, 2);

/// The drivers' names, in the order in which `rkube start` tries them. Drivers that a platform does
/// not support are last, because the problems of the first one are reported first.
pub const NAMES: [&str; 3] = if cfg!(target_os = "linux") {
    ["native", "docker", "qemu"]
} else {
    ["docker", "qemu", "native"]
};

/// Runs a role that a driver adds to the binary and returns its exit code; `None` if `role` is not
/// one.
#[cfg_attr(
    not(unix),
    allow(unused_variables, reason = "without Unix, the roles take no arguments")
)]
pub fn helper_main(role: &str, args: &[std::ffi::OsString]) -> Option<i32> {
    if role == rkube_config::roles::DOCKER_INIT {
        return Some(match docker::docker_init() {
            Ok(()) => 0,
            Err(e) => {
                rkube_fsutil::say!("{role}: {e:#}");
                1
            }
        });
    }
    #[cfg(unix)]
    if let Some(code) = qemu::helper_main(role, args) {
        return Some(code);
    }
    #[cfg(target_os = "linux")]
    return native::helper_main(role, args);
    #[cfg(not(target_os = "linux"))]
    None
}

/// Returns the driver with that name.
///
/// # Errors
/// Fails if the name is unknown or this platform does not support the driver.
pub fn by_name(name: &str) -> Result<Box<dyn Driver>, Failure> {
    use rkube_failure::{Kind, Source};
    match name {
        #[cfg(target_os = "linux")]
        "native" => Ok(Box::new(native::Native)),
        "docker" => Ok(Box::new(docker::Docker)),
        #[cfg(unix)]
        "qemu" => Ok(Box::new(qemu::Qemu)),
        #[cfg(not(target_os = "linux"))]
        "native" => Err(not_here(
            "native",
            "its nodes are processes of a Linux kernel",
        )),
        #[cfg(not(unix))]
        "qemu" => Err(not_here(
            "qemu",
            "its machines are joined by sockets of Unix",
        )),
        _ => Err(Failure::new(
            Source::Driver,
            Kind::NotFound,
            format!("there is no driver '{name}'"),
        )
        .advise(format!("the drivers are: {}", NAMES.join(", ")))),
    }
}

/// Returns the error for a driver that this platform does not support.
#[cfg(not(target_os = "linux"))]
fn not_here(name: &str, why: &str) -> Failure {
    use rkube_failure::{Kind, Source};
    Failure::new(
        Source::Driver,
        Kind::Unsupported,
        format!(
            "the driver {name} does not work on {}: {why}",
            std::env::consts::OS
        ),
    )
    .advise("use containers of an engine as nodes: rkube start --driver docker")
}
