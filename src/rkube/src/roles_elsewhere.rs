//! The roles that the binary plays inside a cluster, where nodes cannot run: what
//! drivers keep on the host, and nothing else.

use std::ffi::OsString;

/// Roles inside of nodes, which people may have read of.
const OF_NODES: [&str; 6] = [
    "init",
    "vm-init",
    "docker-init",
    "control-plane",
    "agent",
    "demo",
];

/// Runs `role` if it is one; `None` when the arguments are for the CLI.
pub fn run(role: &str, args: &[OsString]) -> Option<i32> {
    if OF_NODES.contains(&role) {
        eprintln!(
            "{role}: this is run inside of nodes by the rkube that was built for Linux, not on {}",
            std::env::consts::OS
        );
        return Some(1);
    }
    rkube_drivers::helper_main(role, args)
}
