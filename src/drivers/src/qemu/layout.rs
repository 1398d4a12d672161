//! Paths and addresses that the modules of this driver share.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Name of the gate's socket on the guest's side, in the machine's run directory.
pub const GUEST_SOCKET: &str = "out";
/// Name of the gate's socket on the side of QEMU's user network.
pub const HOST_SOCKET: &str = "world";
/// The network between a machine and its QEMU, which routes to all other networks. The
/// range is reserved for documentation, so that it hides no real network.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 0);
/// The host's address as machines see it.
pub const HOST: Ipv4Addr = crate::QEMU_HOST;
/// QEMU's name server, which asks those of the host.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
/// Returns whether an address is in the network between a machine and its QEMU.
pub fn is_outside(address: Ipv4Addr) -> bool {
    address.octets()[..3] == OUTSIDE.octets()[..3]
}

/// The address of every machine in its own user network.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 15);

/// Returns the directory of a node's sockets.
pub fn run_dir(cluster: &Path, node: &str) -> PathBuf {
    cluster.join("vm").join(node)
}

/// Returns the path of the control socket that commands use; the supervisor has its own.
pub fn control(cluster: &Path, node: &str) -> PathBuf {
    run_dir(cluster, node).join("qmp")
}

/// Returns the path of the control socket that the supervisor uses.
pub fn monitor(cluster: &Path, node: &str) -> PathBuf {
    run_dir(cluster, node).join("monitor")
}

/// Returns the path of the gate's socket.
pub fn gate_socket(cluster: &Path) -> PathBuf {
    cluster.join("vm").join("gate")
}

/// Returns the path of a machine's socket at the gate, [`GUEST_SOCKET`] or [`HOST_SOCKET`].
pub fn gate_port(cluster: &Path, node: &str, side: &str) -> PathBuf {
    run_dir(cluster, node).join(side)
}

/// Returns the path of the switch's socket.
pub fn switch_socket(cluster: &Path) -> PathBuf {
    cluster.join("vm").join("switch")
}

/// Returns the path of a machine's socket at the switch.
pub fn switch_port(cluster: &Path, node: &str) -> PathBuf {
    run_dir(cluster, node).join("link")
}

/// Returns the names of a machine's ports for logs, with their files on the host.
pub fn log_ports(logs: &Path) -> [(&'static str, PathBuf); 2] {
    ["control-plane", "agent"].map(|role| (role, logs.join(format!("rkube/{role}.log"))))
}
