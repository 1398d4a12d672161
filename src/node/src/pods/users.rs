//! The users of pods with a user namespace (`hostUsers: false`): which IDs of the node they have.
//!
//! A pod keeps its range in the file `userns` of its directory, in the kubelet's format. These files
//! are the only record: a range is free when the pod's directory is gone, and a restarted agent
//! knows what its pods have.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Context;
use parking_lot::Mutex;
use rkube_config::paths;
use rkube_fsutil::write_atomic;
use rkube_runtime::IdRange;
use serde::{Deserialize, Serialize};

use crate::kinds::*;

/// Number of IDs of a pod, the kubelet's default.
const LENGTH: u32 = 1 << 16;
/// First ID of all ranges.
const FIRST: u32 = IdRange::PODS;
/// Number of ranges.
const RANGES: u32 = 0xFFD;
/// Number of ranges that nodes which share a kernel have for themselves: more than a node has pods.
/// Nodes with consecutive addresses have different ones, and only every 31st the same.
const AREA: u32 = 132;

/// Name of the file in the pod's directory.
const FILE: &str = "userns";

/// A part of the mapping between the IDs of a pod and those of its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

/// The content of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mappings {
    uid_mappings: Vec<Mapping>,
    gid_mappings: Vec<Mapping>,
}

impl From<IdRange> for Mappings {
    fn from(range: IdRange) -> Self {
        let all = vec![Mapping {
            host_id: range.first,
            container_id: 0,
            length: range.length,
        }];
        Self {
            uid_mappings: all.clone(),
            gid_mappings: all,
        }
    }
}

impl Mappings {
    /// Returns the range, if the mappings are of the only kind that the agent makes.
    fn range(&self) -> Option<IdRange> {
        match (self.uid_mappings.as_slice(), self.gid_mappings.as_slice()) {
            ([users], [groups]) if users == groups && users.container_id == 0 => Some(IdRange {
                first: users.host_id,
                length: users.length,
            }),
            _ => None,
        }
    }
}

/// Serializes allocations.
static ALLOCATION: Mutex<()> = Mutex::new(());

/// Returns the IDs of a pod; `None` if it uses the node's. They are allocated at the first call.
///
/// # Errors
///
/// Fails if files cannot be read or written, or if no range is free.
pub(super) fn range(pod: &Pod, node: Ipv4Addr) -> anyhow::Result<Option<IdRange>> {
    if pod.spec().host_users != Some(false) {
        return Ok(None);
    }
    range_in(Path::new(paths::PODS), pod.uid(), node).map(Some)
}

fn range_in(pods: &Path, uid: &str, node: Ipv4Addr) -> anyhow::Result<IdRange> {
    let _guard = ALLOCATION.lock();
    if let Some(range) = read(&pods.join(uid))? {
        return Ok(range);
    }
    let range = free(node, &taken(pods)?).context(
        "create user namespace: could not find an empty slot to allocate a user namespace",
    )?;
    let path = pods.join(uid).join(FILE);
    let content = serde_json::to_vec(&Mappings::from(range))?;
    write_atomic(&path, &content).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(range)
}

/// Returns the range that is recorded in a pod's directory.
fn read(dir: &Path) -> anyhow::Result<Option<IdRange>> {
    let path = dir.join(FILE);
    let content = match std::fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let mappings: Mappings = serde_json::from_slice(&content)
        .context("user namespace: invalid user namespace mappings file")?;
    let range = mappings.range().with_context(|| {
        format!(
            "user namespace: {} is not one mapping of users and groups",
            path.display()
        )
    })?;
    Ok(Some(range))
}

/// Returns the first IDs of the ranges of all pods.
fn taken(pods: &Path) -> anyhow::Result<BTreeSet<u32>> {
    let failed = || format!("cannot read {}", pods.display());
    let mut taken = BTreeSet::new();
    for entry in std::fs::read_dir(pods).with_context(failed)? {
        let dir = entry.with_context(failed)?.path();
        match read(&dir) {
            Ok(range) => taken.extend(range.map(|range| range.first)),
            // That pod fails with this error; others go on.
            Err(e) => tracing::warn!("user namespace of the pod in {}: {e:#}", dir.display()),
        }
    }
    Ok(taken)
}

/// Returns a free range. The search begins at the node's area, so that nodes that share a kernel do
/// not use the same IDs.
fn free(node: Ipv4Addr, taken: &BTreeSet<u32>) -> Option<IdRange> {
    let start = u32::from(node) % (RANGES / AREA) * AREA;
    (0..RANGES)
        .map(|step| FIRST + (start + step) % RANGES * LENGTH)
        .find(|first| !taken.contains(first))
        .map(|first| IdRange {
            first,
            length: LENGTH,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 49, 2);

    #[test]
    fn ranges_are_kept_and_do_not_overlap() {
        let pods = tempfile::tempdir().unwrap();
        let mut seen = BTreeSet::new();
        for pod in 0..200 {
            let uid = format!("pod-{pod}");
            std::fs::create_dir(pods.path().join(&uid)).unwrap();
            let range = range_in(pods.path(), &uid, NODE).unwrap();
            assert_eq!((range.length, range.first % LENGTH), (LENGTH, 0));
            assert!(range.first >= FIRST && range.first < 0x7FFE_0000);
            assert!(seen.insert(range.first), "{range:?} is used twice");
            assert_eq!(range_in(pods.path(), &uid, NODE).unwrap(), range);
        }
        // Free again with the pod's directory.
        let first = range_in(pods.path(), "pod-0", NODE).unwrap();
        std::fs::remove_dir_all(pods.path().join("pod-0")).unwrap();
        std::fs::create_dir(pods.path().join("pod-0")).unwrap();
        assert_eq!(range_in(pods.path(), "pod-0", NODE).unwrap(), first);
    }

    #[test]
    fn the_record_has_the_kubelets_format() {
        let pods = tempfile::tempdir().unwrap();
        let dir = pods.path().join("u");
        std::fs::create_dir(&dir).unwrap();
        let file = dir.join(FILE);
        let mapping = r#"[{"hostId":131072,"containerId":0,"length":65536}]"#;
        let text = format!(r#"{{"uidMappings":{mapping},"gidMappings":{mapping}}}"#);
        std::fs::write(&file, &text).unwrap();
        let range = range_in(pods.path(), "u", NODE).unwrap();
        assert_eq!((range.first, range.length), (131_072, 65_536));
        assert_eq!(serde_json::to_string(&Mappings::from(range)).unwrap(), text);
        for bad in [
            "",
            r#"{"uidMappings":[],"gidMappings":[]}"#,
            r#"{"uidMappings":[{"hostId":1,"containerId":1,"length":1}],"gidMappings":[{"hostId":1,"containerId":1,"length":1}]}"#,
        ] {
            std::fs::write(&file, bad).unwrap();
            assert!(range_in(pods.path(), "u", NODE).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_range_is_given_twice_when_all_are_taken() {
        let all = (0..RANGES).map(|i| FIRST + i * LENGTH).collect();
        assert_eq!(free(NODE, &all), None);
    }

    #[test]
    fn nodes_that_share_a_kernel_use_different_ranges() {
        let mut seen = BTreeSet::new();
        for node in 2..2 + (RANGES / AREA) as u8 {
            let mut taken = BTreeSet::new();
            for pod in 0..AREA {
                let range = free(Ipv4Addr::new(192, 168, 49, node), &taken).unwrap();
                taken.insert(range.first);
                assert!(seen.insert(range.first), "pod {pod} of node {node}");
            }
        }
    }

    #[test]
    fn damaged_records_of_other_pods_do_not_matter() {
        let pods = tempfile::tempdir().unwrap();
        for uid in ["damaged", "new"] {
            std::fs::create_dir(pods.path().join(uid)).unwrap();
        }
        std::fs::write(pods.path().join("damaged").join(FILE), "").unwrap();
        assert!(range_in(pods.path(), "new", NODE).is_ok());
        assert!(range_in(pods.path(), "damaged", NODE).is_err());
    }
}
