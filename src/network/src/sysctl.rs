//! Kernel parameters under `/proc/sys`.
//!
//! Those below `net/` are per network namespace, here the calling thread's. Use
//! [`crate::netlink::in_netns`] for another namespace.

use crate::error::{NetworkError, Result};

/// Reads a parameter without its newline. `name` is a path, such as `net/ipv4/ip_forward`.
pub fn read(name: &str) -> Result<String> {
    let path = format!("/proc/sys/{name}");
    std::fs::read_to_string(&path)
        .map(|text| text.trim_end().to_owned())
        .map_err(|source| NetworkError::File {
            action: "read",
            path,
            source,
        })
}

/// Sets a parameter. Does not write if it already has the value, so that a read-only `/proc/sys`
/// with correct values is not an error.
pub fn write(name: &str, value: &str) -> Result<()> {
    if read(name).is_ok_and(|now| now == value) {
        return Ok(());
    }
    let path = format!("/proc/sys/{name}");
    std::fs::write(&path, value).map_err(|source| NetworkError::File {
        action: "write",
        path,
        source,
    })
}

/// Sets a parameter if it exists. Kernels may lack it, or its module may not be loaded.
pub fn write_if_present(name: &str, value: &str) -> Result<()> {
    match write(name, value) {
        Err(NetworkError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(())
        }
        other => other,
    }
}
