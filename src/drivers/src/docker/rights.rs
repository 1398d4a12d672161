//! The privileges of a node's container: what the machine permits, without what nodes do without.

use bollard::models::HostConfig;
use rkube_config::capabilities::NAMES;

use crate::refused::CAPABILITIES;
use crate::types::HostMount;

/// Capabilities that engines of 2020 do not know by name. CAP_SYS_ADMIN includes their permissions.
const IN_SYS_ADMIN: [&str; 3] = ["PERFMON", "BPF", "CHECKPOINT_RESTORE"];
/// Devices that nodes may use besides those of all containers, which the engine permits: network
/// tunnels and FUSE.
const DEVICES: [&str; 2] = ["c 10:200 rwm", "c 10:229 rwm"];
/// The rule that permits all devices.
const ALL_DEVICES: &str = "a *:* rwm";

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

/// Returns the rules for the devices of a node that shows these paths of the machine.
///
/// `known` says whether the engine is on this machine, whose devices can be looked at. Otherwise a
/// node that shows any may use all.
pub fn devices(mounts: &[HostMount], known: bool) -> Vec<String> {
    let mut rules: Vec<String> = DEVICES.map(str::to_owned).into();
    #[cfg(target_os = "linux")]
    if known {
        let declared = mounts.iter().map(|mount| &mount.host);
        let declared = declared.flat_map(|path| crate::native::devices(path));
        rules.extend(declared.map(|rule| {
            let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
            let kind = if rule.block { 'b' } else { 'c' };
            let (major, minor) = (number(rule.major), number(rule.minor));
            format!("{kind} {major}:{minor} {}", rule.access)
        }));
        rules.sort();
        rules.dedup();
        return rules;
    }
    let _ = known;
    if mounts.iter().any(|mount| mount.host.starts_with("/dev")) {
        rules = vec![ALL_DEVICES.to_owned()];
    }
    rules
}

/// Grants the container capabilities and devices: of `capabilities`, or of all, those that nodes
/// have.
///
/// It is not privileged in the engine's sense: then it would have all capabilities and devices.
/// An engine refuses names that the machine's bounding set lacks. Therefore the remaining ones are
/// named if some are missing.
pub fn grant(host: &mut HostConfig, capabilities: Option<&[&str]>, devices: Vec<String>) {
    host.security_opt = Some(
        ["seccomp=unconfined", "apparmor=unconfined", "label=disable"]
            .map(str::to_owned)
            .to_vec(),
    );
    let owned = |name: &&str| (*name).to_owned();
    match capabilities {
        None => {
            host.cap_add = Some(vec!["ALL".to_owned()]);
            host.cap_drop = Some(CAPABILITIES.iter().map(owned).collect());
        }
        Some(left) => {
            host.cap_drop = Some(vec!["ALL".to_owned()]);
            let known = left
                .iter()
                .filter(|name| !IN_SYS_ADMIN.contains(name) && !CAPABILITIES.contains(name));
            host.cap_add = Some(known.map(owned).collect());
        }
    }
    host.device_cgroup_rules = Some(devices);
    host.masked_paths = Some(Vec::new());
    host.readonly_paths = Some(Vec::new());
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
        grant(&mut host, Some(&left), Vec::new());
        let added = host.cap_add.clone().unwrap();
        assert_eq!(added.len(), 40 - 3 - CAPABILITIES.len());
        assert!(added.contains(&"SYS_ADMIN".to_owned()));
    }

    #[test]
    fn nodes_are_not_privileged() {
        let mut host = HostConfig::default();
        grant(&mut host, None, devices(&[], true));
        assert_eq!(host.privileged, None);
        assert_eq!(host.cap_add.unwrap(), ["ALL"]);
        let dropped = host.cap_drop.unwrap();
        assert!(dropped.contains(&"SYS_MODULE".to_owned()) && dropped.len() == CAPABILITIES.len());
        assert_eq!(host.device_cgroup_rules.unwrap(), DEVICES);
    }

    #[test]
    fn devices_that_a_node_shows_can_be_used() {
        let mount = |text: &str| -> HostMount { text.parse().unwrap() };
        let null = [mount("/dev/null:/mnt/x"), mount("/tmp:/data")];
        assert_eq!(devices(&null[1..], true), DEVICES);
        assert_eq!(devices(&null[1..], false), DEVICES);
        assert_eq!(devices(&null, false), [ALL_DEVICES]);
        #[cfg(target_os = "linux")]
        assert!(devices(&null, true).contains(&"c 1:3 rwm".to_owned()));
    }
}
