//! Internal roles on systems that cannot run nodes: only those of drivers, which run on the host.

use std::ffi::{OsStr, OsString};

use rkube_config::roles;

/// Returns `None`: the binary has other names in the node image only.
pub fn by_name(_program: Option<&OsStr>, _args: &[OsString]) -> Option<i32> {
    None
}

/// Runs an internal role and returns its exit code; `None` if `role` is not one.
pub fn run(role: &str, args: &[OsString]) -> Option<i32> {
    if roles::IN_NODES.contains(&role) {
        eprintln!(
            "{role}: this role runs inside nodes, in rkube for Linux, not on {}",
            std::env::consts::OS
        );
        return Some(1);
    }
    rkube_drivers::helper_main(role, args)
}
