//! What processes of a node may not do to the host, although they are root.
//!
//! A node is not isolated from the host: its root has the host's user namespace. But nothing that
//! runs in a node needs to change the host's kernel, clock, hardware or security policy, which are
//! in no namespace. Mounting, networks, tracing, device nodes and the like are kept for privileged
//! pods.

use anyhow::Context;
use rkube_config::capabilities::NAMES;

/// Capabilities that no process of a node has, privileged pods included.
const REFUSED: [&str; 10] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "SYS_BOOT",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_TIME",
    "SYSLOG",
    "WAKE_ALARM",
];

/// Removes the refused capabilities from the bounding set of this process, which takes effect with
/// the next `execve(2)` and cannot be undone.
pub fn give_up() -> anyhow::Result<()> {
    for number in numbers() {
        // Zero if it is missing already, an error if the kernel does not know it.
        if bounding(libc::PR_CAPBSET_READ, number).is_ok_and(|set| set == 1) {
            bounding(libc::PR_CAPBSET_DROP, number)
                .with_context(|| format!("cannot give up CAP_{}", NAMES[number]))?;
        }
    }
    Ok(())
}

/// Returns the numbers of the refused capabilities.
fn numbers() -> impl Iterator<Item = usize> {
    (0..NAMES.len()).filter(|number| REFUSED.contains(&NAMES[*number]))
}

/// Calls one of the operations of `prctl(2)` on the bounding set.
fn bounding(operation: libc::c_int, capability: usize) -> nix::Result<libc::c_int> {
    let capability = libc::c_ulong::try_from(capability).map_err(|_| nix::errno::Errno::EINVAL)?;
    // SAFETY: these operations take numbers only.
    nix::errno::Errno::result(unsafe { libc::prctl(operation, capability, 0, 0, 0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_known_and_pods_keep_what_they_need() {
        assert_eq!(numbers().count(), REFUSED.len());
        for kept in [
            "AUDIT_WRITE",
            "MKNOD",
            "NET_ADMIN",
            "SYS_ADMIN",
            "SYS_PTRACE",
            "SYS_RESOURCE",
        ] {
            assert!(!REFUSED.contains(&kept), "{kept}");
        }
        assert_eq!(NAMES[16], "SYS_MODULE");
    }
}
