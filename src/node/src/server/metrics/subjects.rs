//! The control groups that `/metrics/cadvisor` shows, and what is known about each.

use std::collections::HashMap;
use std::path::Path;

use jiff::Timestamp;
use rkube_config::paths;
use rkube_runtime::cgroup_details::Details;

use super::super::endpoint::Endpoint;
use crate::kinds::PodExt as _;
use crate::machine::{self, Space};
use crate::pods::qos;
use crate::pods::table::Snapshot;

/// The groups of the QoS classes.
const CLASSES: [&str; 3] = ["/kubepods", "/kubepods/besteffort", "/kubepods/burstable"];

/// A control group, or the network of a pod.
#[derive(Debug, Default)]
pub(super) struct Subject {
    /// Path of the group.
    pub(super) id: String,
    /// The ID of the container or sandbox.
    pub(super) name: String,
    pub(super) image: String,
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) container: String,
    pub(super) started: Option<Timestamp>,
    /// Usage and limits; none for a network.
    pub(super) details: Option<Details>,
    pub(super) processes: Option<Processes>,
    pub(super) interfaces: Vec<Interface>,
    /// File systems, by device.
    pub(super) spaces: Vec<(String, Space)>,
}

/// The processes of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Processes {
    pub(super) count: u64,
    pub(super) descriptors: u64,
    pub(super) sockets: u64,
    /// Soft limit of open files of the first process; `None` if unlimited or unknown.
    pub(super) open_files: Option<i64>,
}

/// Cumulative counters of a network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) received: Traffic,
    pub(super) transmitted: Traffic,
}

/// Counters of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) bytes: u64,
    pub(super) packets: u64,
    pub(super) dropped: u64,
    pub(super) errors: u64,
}

/// Everything that the page shows.
pub(super) struct Observations {
    pub(super) subjects: Vec<Subject>,
    /// Names of block devices by their numbers.
    pub(super) devices: HashMap<(u32, u32), String>,
    pub(super) now: Timestamp,
}

/// Gathers what the page shows. Blocks the thread: it reads many files.
pub(super) fn gather(endpoint: &Endpoint) -> Observations {
    let links: HashMap<String, String> = endpoint
        .network
        .pods()
        .into_iter()
        .map(|pod| (pod.sandbox_id, pod.host_link))
        .collect();
    let group = |id: &str| Subject {
        id: id.to_owned(),
        details: endpoint.runtime.cgroup_details(id).ok(),
        ..Subject::default()
    };
    let mut subjects = vec![Subject {
        interfaces: interfaces_of_node(&links),
        spaces: spaces(),
        ..group("/")
    }];
    subjects.extend(CLASSES.map(group));
    for snapshot in endpoint.pods.all() {
        of_pod(endpoint, &snapshot, &links, &mut subjects);
    }
    subjects.retain(|s| s.details.is_some() || !s.interfaces.is_empty());
    let numbers = subjects.iter().flat_map(|s| s.details.iter());
    let numbers = numbers.flat_map(|d| d.io.iter().map(|io| (io.major, io.minor)));
    let devices = numbers.map(|(major, minor)| ((major, minor), device(major, minor)));
    Observations {
        devices: devices.collect(),
        subjects,
        now: Timestamp::now(),
    }
}

fn of_pod(
    endpoint: &Endpoint,
    snapshot: &Snapshot,
    links: &HashMap<String, String>,
    subjects: &mut Vec<Subject>,
) {
    let pod = &snapshot.pod;
    let parent = qos::cgroup_parent(pod);
    let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref());
    let base = |id: String| Subject {
        id,
        namespace: pod.namespace().to_owned(),
        pod: pod.name().to_owned(),
        ..Subject::default()
    };
    let group = |id: String| {
        let details = endpoint.runtime.cgroup_details(&id).ok();
        Subject {
            details,
            ..base(id)
        }
    };
    subjects.push(Subject {
        started: started.map(|time| time.0),
        ..group(parent.clone())
    });
    if let Some(sandbox) = &snapshot.sandbox
        && let Some(link) = links.get(sandbox)
        && let Some(interface) = interface(link)
    {
        subjects.push(Subject {
            name: sandbox.clone(),
            // The node's end of the pair transmits what the pod receives.
            interfaces: vec![Interface {
                name: "eth0".into(),
                received: interface.transmitted,
                transmitted: interface.received,
            }],
            ..base(format!("{parent}/{sandbox}"))
        });
    }
    let latest = snapshot.instances.values().filter_map(|all| all.last());
    for instance in latest.filter(|instance| instance.running()) {
        // The container may have exited in the meantime.
        let Ok(cgroup) = endpoint.runtime.container_cgroup(&instance.id) else {
            continue;
        };
        let processes = processes(&endpoint.runtime.cgroup_processes(&cgroup));
        subjects.push(Subject {
            name: instance.id.clone(),
            image: instance.image.clone(),
            container: instance.name.clone(),
            started: instance.started_at,
            processes: Some(processes),
            ..group(cgroup)
        });
    }
}

fn processes(all: &[i32]) -> Processes {
    let mut found = Processes {
        count: all.len() as u64,
        ..Processes::default()
    };
    for pid in all {
        // A process may end at any time.
        let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            found.descriptors += 1;
            let target = std::fs::read_link(descriptor.path()).unwrap_or_default();
            if target.as_os_str().as_encoded_bytes().starts_with(b"socket") {
                found.sockets += 1;
            }
        }
    }
    found.open_files = all.iter().min().and_then(|pid| {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
        open_files(&limits)
    });
    found
}

/// Returns the soft limit of open files; −1 if there is none.
fn open_files(limits: &str) -> Option<i64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(-1),
        number => number.parse().ok(),
    }
}

/// Returns the counters of an interface of the node; `None` if it does not exist.
fn interface(name: &str) -> Option<Interface> {
    let read = |counter: &str| -> Option<u64> {
        let path = format!("/sys/class/net/{name}/statistics/{counter}");
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    let traffic = |direction: &str| {
        Some(Traffic {
            bytes: read(&format!("{direction}_bytes"))?,
            packets: read(&format!("{direction}_packets"))?,
            dropped: read(&format!("{direction}_dropped"))?,
            errors: read(&format!("{direction}_errors"))?,
        })
    };
    Some(Interface {
        name: name.to_owned(),
        received: traffic("rx")?,
        transmitted: traffic("tx")?,
    })
}

/// Returns the node's interfaces, without those of its pods.
fn interfaces_of_node(links: &HashMap<String, String>) -> Vec<Interface> {
    let entries = std::fs::read_dir("/sys/class/net").into_iter().flatten();
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name != "lo" && !links.values().any(|link| link == name))
        .collect();
    names.sort();
    names.iter().filter_map(|name| interface(name)).collect()
}

/// Returns the file systems of the node's state and images, each once.
fn spaces() -> Vec<(String, Space)> {
    use std::os::linux::fs::MetadataExt as _;
    let mut seen = Vec::new();
    let mut spaces = Vec::new();
    for path in [paths::STATE, paths::IMAGES, paths::RUNTIME] {
        let Ok(metadata) = std::fs::metadata(path) else {
            continue;
        };
        if seen.contains(&metadata.st_dev()) {
            continue;
        }
        seen.push(metadata.st_dev());
        if let Some(space) = machine::filesystem(Path::new(path)) {
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            let (major, minor) = (
                nix::sys::stat::major(metadata.st_dev()),
                nix::sys::stat::minor(metadata.st_dev()),
            );
            let source = mount_source(&mounts, major, minor);
            spaces.push((source.unwrap_or_default().to_owned(), space));
        }
    }
    spaces
}

/// Returns the source of the mounts of a device.
fn mount_source(mountinfo: &str, major: u64, minor: u64) -> Option<&str> {
    let number = format!("{major}:{minor}");
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        (before.split(' ').nth(2)? == number).then(|| after.split(' ').nth(1))?
    })
}

/// Returns the path of a block device; empty if it is not known.
fn device(major: u32, minor: u32) -> String {
    let path = format!("/sys/dev/block/{major}:{minor}/uevent");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("DEVNAME="))
        .map_or_else(String::new, |name| format!("/dev/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_open_files() {
        let text = "Limit                     Soft Limit  Hard Limit  Units\n\
            Max open files            1024        4096        files\n";
        assert_eq!(open_files(text), Some(1024));
        assert_eq!(
            open_files("Max open files unlimited unlimited files"),
            Some(-1)
        );
        assert_eq!(open_files(""), None);
    }

    #[test]
    fn own_processes_have_descriptors() {
        let found = processes(&[std::process::id() as i32]);
        assert_eq!(found.count, 1);
        assert!(found.descriptors > 2 && found.open_files.is_some());
    }

    #[test]
    fn sources_of_mounts() {
        let text = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw\n";
        assert_eq!(mount_source(text, 98, 0), Some("/dev/root"));
        assert_eq!(mount_source(text, 98, 1), None);
    }
}
