//! The privileges of a node's container: everything that the host permits.

use bollard::models::HostConfig;
use rkube_config::capabilities::NAMES;

/// Capabilities that engines of 2020 do not know by name. CAP_SYS_ADMIN includes their permissions.
const IN_SYS_ADMIN: [&str; 3] = ["PERFMON", "BPF", "CHECKPOINT_RESTORE"];

/// Returns the capabilities in the bounding set of this process. Returns `None` if the set is
/// complete or unknown.
pub fn bounded() -> Option<Vec<&'static str>> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").ok()?;
    parse(&status, last.trim().parse().ok()?)
}

fn parse(status: &str, last: usize) -> Option<Vec<&'static str>> {
    let line = status.lines().find_map(|l| l.strip_prefix("CapBnd:"))?;
    let set = u64::from_str_radix(line.trim(), 16).ok()?;
    let known = NAMES.iter().enumerate().take(last + 1);
    let left: Vec<&str> = known
        .clone()
        .filter(|(i, _)| set & (1 << i) != 0)
        .map(|(_, name)| *name)
        .collect();
    (left.len() < known.count()).then_some(left)
}

/// Grants the container the given capabilities, or all privileges.
///
/// An engine refuses privileged containers if the host's bounding set lacks a capability. Therefore
/// the remaining ones are added by name in that case.
pub fn grant(host: &mut HostConfig, capabilities: Option<&[&str]>) {
    host.security_opt = Some(
        ["seccomp=unconfined", "apparmor=unconfined", "label=disable"]
            .map(str::to_owned)
            .to_vec(),
    );
    match capabilities {
        None => host.privileged = Some(true),
        Some(left) => {
            let drop_others = vec!["ALL".to_owned()];
            host.cap_drop = Some(drop_others);
            let known = left.iter().filter(|c| !IN_SYS_ADMIN.contains(c));
            host.cap_add = Some(known.map(|c| (*c).to_owned()).collect());
            host.device_cgroup_rules = Some(vec!["a *:* rwm".to_owned()]);
            host.masked_paths = Some(Vec::new());
            host.readonly_paths = Some(Vec::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_left_is_named() {
        assert_eq!(parse("CapBnd:\t000001ffffffffff\n", 40), None);
        // The kernel supports one more capability than this list.
        assert_eq!(parse("CapBnd:\t000003ffffffffff\n", 41), None);
        let left = parse("Name: x\nCapBnd:\t000001fffeffffff\n", 40).unwrap();
        assert_eq!(left.len(), 40);
        assert!(!left.contains(&"SYS_RESOURCE"));
        let mut host = HostConfig::default();
        grant(&mut host, Some(&left));
        assert_eq!(host.privileged, None);
        assert_eq!(host.cap_add.as_ref().unwrap().len(), 37);
        grant(&mut host, None);
        assert_eq!(host.privileged, Some(true));
    }
}
