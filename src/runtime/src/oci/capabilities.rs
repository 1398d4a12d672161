//! Capability names, the default set, and the capabilities that this node can grant.

use rkube_config::capabilities::NAMES;

use crate::error::{Result, RuntimeError};
use crate::spec::Security;

/// Default capabilities of containers in Docker and containerd.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Number of `CAP_SYS_RESOURCE`.
pub const SYS_RESOURCE: u32 = 24;

/// Returns the bit of a capability, with or without the prefix `CAP_`, in any case.
fn bit(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES
        .iter()
        .position(|known| *known == name)
        .map(|n| 1 << n)
}

/// Returns the names in a set, with the prefix `CAP_`.
pub fn names(set: u64) -> Vec<String> {
    (0..NAMES.len())
        .filter(|n| set & 1 << n != 0)
        .map(|n| format!("CAP_{}", NAMES[n]))
        .collect()
}

/// Returns the capabilities that this process can grant.
pub fn available() -> u64 {
    set_of("CapBnd:") & set_of("CapPrm:")
}

/// Returns a set of this process from `/proc/self/status`; empty on failure.
fn set_of(key: &str) -> u64 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .unwrap_or(0)
}

/// Returns the requested set of a container, regardless of what this node can grant. Fails if a
/// name is unknown.
pub fn requested_set(security: &Security) -> Result<u64> {
    let all: u64 = (1 << NAMES.len()) - 1;
    if security.privileged {
        return Ok(all);
    }
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let bits = |names: &[String]| -> Result<u64> {
        names
            .iter()
            .filter(|n| !is_all(n))
            .try_fold(0, |set, name| {
                bit(name)
                    .map(|b| set | b)
                    .ok_or_else(|| RuntimeError::Invalid(format!("unknown capability {name:?}")))
            })
    };
    let add = bits(&security.add_capabilities)?;
    let drop = bits(&security.drop_capabilities)?;
    let default = DEFAULT
        .iter()
        .filter_map(|name| bit(name))
        .fold(0, |set, b| set | b);
    // As in other CRI runtimes: ALL is applied first, then the individual names. A dropped name
    // wins over an added one, but an added name wins over "drop ALL".
    let mut set = if security.add_capabilities.iter().any(is_all) {
        all
    } else {
        default
    };
    if security.drop_capabilities.iter().any(is_all) {
        set = 0;
    }
    Ok((set | add) & !drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &[&str], drop: &[&str]) -> Vec<String> {
        let strings = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let security = Security {
            add_capabilities: strings(add),
            drop_capabilities: strings(drop),
            ..Security::default()
        };
        names(requested_set(&security).unwrap())
    }

    #[test]
    fn sets() {
        assert_eq!(set(&[], &[]).len(), 14);
        assert_eq!(set(&["NET_ADMIN"], &["ALL"]), ["CAP_NET_ADMIN"]);
        assert_eq!(set(&["CAP_NET_ADMIN"], &["all"]), ["CAP_NET_ADMIN"]);
        assert_eq!(set(&["ALL"], &[]).len(), 41);
        assert_eq!(set(&["ALL"], &["CHOWN"]).len(), 40);
        assert!(!set(&[], &["MKNOD"]).contains(&"CAP_MKNOD".to_string()));
        let bad = Security {
            add_capabilities: vec!["NOPE".into()],
            ..Security::default()
        };
        assert!(requested_set(&bad).is_err());
    }
}
