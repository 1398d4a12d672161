//! The order in which pods are evicted.

use std::cmp::Reverse;
use std::sync::Arc;

use rkube_component_helpers::resource::pod_requests;

use super::types::{Resource, signed};
use super::usage::PodUsage;
use crate::kinds::*;

/// A pod that may be evicted, and what it uses; `None` if that is not known.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub pod: Arc<Pod>,
    pub usage: Option<PodUsage>,
}

fn priority(pod: &Pod) -> i32 {
    pod.spec().priority.unwrap_or(0)
}

/// Sorts pods: those that are evicted first for want of a resource come first.
///
/// For memory and disks: pods whose usage is not known or exceeds their requests, then lower
/// priority, then larger usage beyond the requests. For process IDs: lower priority, then more
/// processes.
pub(super) fn rank(candidates: &mut [Candidate], resource: Resource) {
    if resource == Resource::Pids {
        candidates.sort_by_key(|candidate| {
            let processes = candidate.usage.as_ref().and_then(|usage| usage.processes);
            let known = processes.is_some();
            (priority(&candidate.pod), known, Reverse(processes))
        });
        return;
    }
    candidates.sort_by_key(|candidate| {
        let excess = excess(candidate, resource);
        let within = excess.is_some_and(|excess| excess <= 0);
        let known = excess.is_some();
        (known, within, priority(&candidate.pod), Reverse(excess))
    });
}

/// Returns whether the eviction of a pod relieves a shortage noticeably: the pod uses at least one
/// percent of it, or its usage is unknown.
pub(super) fn relieves(candidate: &Candidate, resource: Resource, shortage: u64) -> bool {
    used(candidate, resource).is_none_or(|used| used > 0 && used >= shortage / 100)
}

/// Returns what a pod uses.
fn used(candidate: &Candidate, resource: Resource) -> Option<u64> {
    let usage = candidate.usage.as_ref()?;
    match resource {
        Resource::Memory => usage.memory,
        Resource::EphemeralStorage => Some(usage.disk().used_bytes),
        Resource::Inodes => Some(usage.disk().used_inodes),
        Resource::Pids => usage.processes,
    }
}

/// Returns what a pod uses beyond its requests.
fn excess(candidate: &Candidate, resource: Resource) -> Option<i64> {
    let used = used(candidate, resource)?;
    let requests = pod_requests(candidate.pod.spec());
    let requested = requests.get(resource.as_str()).map_or(0, |q| q.value());
    Some(signed(used).saturating_sub(requested))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::usage::ContainerUsage;
    use rkube_runtime::FsUsage;

    const MIB: u64 = 1 << 20;

    /// Returns a pod that requests an amount in MiB.
    fn candidate(name: &str, priority: i32, resource: Resource, requested: u64) -> Candidate {
        let requests = (requested > 0).then(|| {
            [(
                resource.as_str().to_owned(),
                Quantity(format!("{requested}Mi")),
            )]
            .into()
        });
        let pod = Pod {
            metadata: ObjectMeta {
                name: Some(name.into()),
                ..Default::default()
            },
            spec: Some(PodSpec {
                priority: Some(priority),
                containers: vec![Container {
                    name: "c".into(),
                    resources: Some(ResourceRequirements {
                        requests,
                        ..Default::default()
                    }),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        };
        Candidate {
            pod: Arc::new(pod),
            usage: Some(PodUsage::default()),
        }
    }

    fn order(mut candidates: Vec<Candidate>, resource: Resource) -> Vec<String> {
        rank(&mut candidates, resource);
        let names = candidates.iter().map(|c| c.pod.name().to_owned());
        names.collect()
    }

    #[test]
    fn pods_that_use_next_to_nothing_do_not_matter() {
        let mut pod = candidate("a", 0, Resource::EphemeralStorage, 0);
        let storage = Resource::EphemeralStorage;
        assert!(!relieves(&pod, storage, 0), "it uses nothing");
        pod.usage = Some(using([MIB, 0, 0], [5, 0, 0]));
        for (resource, shortage, expected) in [
            (storage, 99 * MIB, true),
            (storage, 100 * MIB, true),
            (storage, 101 * MIB, false),
            (Resource::Inodes, 500, true),
            (Resource::Inodes, 600, false),
        ] {
            assert_eq!(relieves(&pod, resource, shortage), expected, "{shortage}");
        }
        pod.usage = None;
        assert!(relieves(&pod, storage, u64::MAX), "not known");
    }

    /// Priority, request and usage in MiB.
    type Row = (&'static str, i32, u64, u64);

    fn memory(rows: &[Row]) -> Vec<String> {
        let candidates = rows.iter().map(|&(name, priority, requested, used)| {
            let mut candidate = candidate(name, priority, Resource::Memory, requested);
            candidate.usage.as_mut().unwrap().memory = Some(used * MIB);
            candidate
        });
        order(candidates.collect(), Resource::Memory)
    }

    fn disk(rows: &[(&'static str, i32, u64, [u64; 3])]) -> Vec<String> {
        let candidates = rows.iter().map(|&(name, priority, requested, used)| {
            let mut candidate = candidate(name, priority, Resource::EphemeralStorage, requested);
            candidate.usage = Some(using(used.map(|mib| mib * MIB), [0; 3]));
            candidate
        });
        order(candidates.collect(), Resource::EphemeralStorage)
    }

    /// Returns a usage of bytes and inodes by layer, logs and a volume.
    fn using(bytes: [u64; 3], inodes: [u64; 3]) -> PodUsage {
        PodUsage {
            containers: vec![ContainerUsage {
                name: "c".into(),
                memory: None,
                disk: FsUsage {
                    used_bytes: bytes[0] + bytes[1],
                    used_inodes: inodes[0] + inodes[1],
                },
            }],
            volumes: vec![(
                "local-volume".into(),
                FsUsage {
                    used_bytes: bytes[2],
                    used_inodes: inodes[2],
                },
            )],
            ..PodUsage::default()
        }
    }

    /// Upstream's `TestOrderedByExceedsRequestMemory`, `TestOrderedByMemory` and
    /// `TestOrderedByPriorityMemory`.
    #[test]
    fn memory_is_ranked_as_upstream() {
        assert_eq!(
            memory(&[("below", -1, 200, 199), ("exceeds", 1, 100, 101)]),
            ["exceeds", "below"]
        );
        assert_eq!(
            memory(&[
                ("best-effort-high", 0, 0, 500),
                ("best-effort-low", 0, 0, 300),
                ("burstable-high", 0, 100, 800),
                ("burstable-low", 0, 100, 300),
                ("guaranteed-high", 0, 1024, 800),
                ("guaranteed-low", 0, 1024, 200),
            ]),
            [
                "burstable-high",
                "best-effort-high",
                "best-effort-low",
                "burstable-low",
                "guaranteed-high",
                "guaranteed-low"
            ]
        );
        let (low, high) = (-1, 1000);
        assert_eq!(
            memory(&[
                ("8", high, 1024, 200),
                ("7", high, 1024, 800),
                ("6", low, 1024, 200),
                ("5", low, 1024, 800),
                ("4", high, 100, 150),
                ("3", high, 100, 600),
                ("2", low, 0, 50),
                ("1", low, 0, 500),
            ]),
            ["1", "2", "3", "4", "5", "6", "7", "8"]
        );
    }

    /// Upstream's `TestOrderedByExceedsRequestDisk`, `TestOrderedbyDisk` and
    /// `TestOrderedByPriorityDisk`.
    #[test]
    fn disks_are_ranked_as_upstream() {
        assert_eq!(
            disk(&[
                ("below", -1, 200, [100, 99, 0]),
                ("exceeds", 1, 100, [90, 11, 0])
            ]),
            ["exceeds", "below"]
        );
        assert_eq!(
            disk(&[
                ("best-effort-high", 0, 0, [50, 100, 150]),
                ("best-effort-low", 0, 0, [25, 25, 50]),
                ("burstable-high", 0, 100, [150, 150, 50]),
                ("burstable-low", 0, 100, [25, 35, 50]),
                ("guaranteed-high", 0, 400, [225, 100, 50]),
                ("guaranteed-low", 0, 400, [25, 45, 50]),
            ]),
            [
                "best-effort-high",
                "burstable-high",
                "best-effort-low",
                "burstable-low",
                "guaranteed-high",
                "guaranteed-low"
            ]
        );
        let (low, high) = (-1, 1000);
        assert_eq!(
            disk(&[
                ("8", high, 1024, [100, 60, 40]),
                ("7", high, 1024, [250, 500, 50]),
                ("6", low, 1024, [50, 100, 50]),
                ("5", low, 1024, [500, 200, 100]),
                ("4", high, 100, [90, 50, 10]),
                ("3", high, 100, [200, 150, 250]),
                ("2", low, 0, [10, 10, 30]),
                ("1", low, 0, [200, 100, 200]),
            ]),
            ["1", "2", "3", "4", "5", "6", "7", "8"]
        );
    }

    /// Upstream's `TestOrderedByPriorityInodes`.
    #[test]
    fn inodes_are_ranked_as_upstream() {
        let rows = [
            ("4", 1000, [10_000, 40_000, 100_000]),
            ("3", 1000, [150_000, 150_000, 50_000]),
            ("2", -1, [60_000, 30_000, 10_000]),
            ("1", -1, [50_000, 100_000, 250_000]),
        ];
        let candidates = rows.map(|(name, priority, inodes)| {
            let mut candidate = candidate(name, priority, Resource::Inodes, 0);
            candidate.usage = Some(using([0; 3], inodes));
            candidate
        });
        assert_eq!(
            order(candidates.to_vec(), Resource::Inodes),
            ["1", "2", "3", "4"]
        );
    }

    /// Upstream's `TestOrderedByPriorityProcess`.
    #[test]
    fn processes_are_ranked_as_upstream() {
        let rows = [("4", 1000, 5), ("3", 1000, 20), ("2", -1, 6), ("1", -1, 20)];
        let candidates = rows.map(|(name, priority, count)| {
            let mut candidate = candidate(name, priority, Resource::Pids, 0);
            candidate.usage.as_mut().unwrap().processes = Some(count);
            candidate
        });
        assert_eq!(
            order(candidates.to_vec(), Resource::Pids),
            ["1", "2", "3", "4"]
        );
    }

    #[test]
    fn unknown_usage_comes_first() {
        let mut unknown = candidate("unknown", 1000, Resource::Memory, 0);
        unknown.usage = None;
        let mut greedy = candidate("greedy", -1, Resource::Memory, 0);
        greedy.usage.as_mut().unwrap().memory = Some(1 << 30);
        assert_eq!(
            order(vec![greedy, unknown], Resource::Memory),
            ["unknown", "greedy"]
        );
    }
}
