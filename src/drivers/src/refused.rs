//! Capabilities that nodes do without, with every driver of containers.

/// Capabilities that no process of a node has, privileged pods included.
///
/// A node is not isolated from the machine: its root has the machine's user namespace. But nothing
/// that runs in a node needs to change the machine's kernel, clock, hardware, accounting or security
/// policy, which are in no namespace. Mounting, networks, tracing, device nodes and the like are
/// kept for privileged pods.
///
/// There is no seccomp filter besides: loading modules or another kernel and raw I/O take these
/// capabilities. Every process of a pod without a profile would have the filter, too, which
/// upstream's tests of `Unconfined` refuse.
pub const CAPABILITIES: [&str; 12] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "BLOCK_SUSPEND",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "SYS_BOOT",
    "SYS_MODULE",
    "SYS_PACCT",
    "SYS_RAWIO",
    "SYS_TIME",
    "SYSLOG",
    "WAKE_ALARM",
];

#[cfg(test)]
mod tests {
    use rkube_config::capabilities::NAMES;

    use super::*;

    #[test]
    fn every_name_is_known_and_pods_keep_what_they_need() {
        for name in CAPABILITIES {
            assert!(NAMES.contains(&name), "{name}");
        }
        for kept in [
            "AUDIT_WRITE",
            "MKNOD",
            "NET_ADMIN",
            "SYS_ADMIN",
            "SYS_PTRACE",
            "SYS_RESOURCE",
        ] {
            assert!(!CAPABILITIES.contains(&kept), "{kept}");
        }
    }
}
