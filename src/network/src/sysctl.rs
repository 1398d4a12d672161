//! Kernel parameters under `/proc/sys`.
//!
//! Those below `net/` belong to the network namespace of the calling thread:
//! use [`crate::netlink::in_netns`] to reach another namespace's.

use crate::error::{NetworkError, Result};

/// Reads a parameter, named with slashes (`net/ipv4/ip_forward`), without its newline.
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

/// Sets a parameter. Does not write when the value is there already, so that a
/// read-only `/proc/sys` that is right is no error.
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

/// Sets a parameter that a kernel may lack (a module that is not there): absence is fine.
pub fn write_if_present(name: &str, value: &str) -> Result<()> {
    match write(name, value) {
        Err(NetworkError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(())
        }
        other => other,
    }
}
