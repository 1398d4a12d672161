//! Evicts pods while the node is short of memory or disk space.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rkube_config::paths;
use rkube_runtime::Runtime;
use tokio::sync::watch;
use tracing::warn;

use crate::allocatable::signed;
use crate::gc::ImageCollector;
use crate::host::Host;
use crate::kinds::*;
use crate::machine::{self, Space};
use crate::pods::qos::{self, Qos};
use crate::pods::reason::Reason;
use crate::pods::table::PodTable;
use crate::pressure::{
    DISK_AVAILABLE_BYTES, INODES_FREE_PERCENT, MEMORY_AVAILABLE_BYTES, Pressure,
};
use crate::recorder::Recorder;
use crate::recorder::Severity::Warning;

/// Time between two observations of memory and disk.
const OBSERVATION_PERIOD: Duration = Duration::from_secs(20);
/// How long a pressure condition remains after the pressure has ended (the kubelet's default).
const TRANSITION_PERIOD: Duration = Duration::from_secs(300);
/// Minimum priority of critical pods, which are not evicted.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// The eviction loop and its dependencies.
pub(crate) struct Evictor {
    pub host: Arc<Host>,
    pub runtime: Runtime,
    pub recorder: Recorder,
    pub pods: Arc<PodTable>,
    pub pressure: watch::Sender<Pressure>,
    pub images: ImageCollector,
}

/// Observes memory and disk until the future is dropped.
///
/// Reports pressure as node conditions. Under disk pressure, removes unused images first; if none
/// is left, or under memory pressure, evicts at most one pod per observation.
pub(crate) async fn run(evictor: Evictor) -> anyhow::Result<()> {
    let mut last_pressed = Instant::now();
    let mut held = Pressure::default();
    loop {
        tokio::time::sleep(OBSERVATION_PERIOD).await;
        let now = evictor.observe();
        if now.any() {
            last_pressed = Instant::now();
        }
        held = if last_pressed.elapsed() < TRANSITION_PERIOD {
            held.or(now)
        } else {
            now
        };
        evictor.pressure.send_if_modified(|p| {
            let changed = *p != held;
            *p = held;
            changed
        });
        if now.disk && evictor.images.free(DISK_AVAILABLE_BYTES).await > 0 {
            continue;
        }
        if now.memory || now.disk {
            evictor.evict_one(now);
        }
    }
}

impl Evictor {
    fn observe(&self) -> Pressure {
        let memory = self
            .available_memory()
            .is_some_and(|a| a < MEMORY_AVAILABLE_BYTES);
        Pressure {
            memory,
            disk: machine::filesystem(paths::STATE.as_ref()).is_some_and(disk_pressure),
            pid: false,
        }
    }

    /// Returns the memory that is available to pods, in bytes.
    ///
    /// That is the machine's available memory, or what is left of the node's own limit if that is
    /// less.
    fn available_memory(&self) -> Option<u64> {
        let machine = machine::meminfo("MemAvailable")?;
        let stats = self.runtime.cgroup_stats("/").ok();
        let own = stats.filter(|s| s.memory_limit.is_some()).map(|s| {
            self.host
                .machine
                .memory_bytes
                .saturating_sub(s.memory_working_set)
        });
        Some(own.map_or(machine, |o| o.min(machine)))
    }

    fn evict_one(&self, pressure: Pressure) {
        let pods = self.pods.all().into_iter().map(|s| s.pod).collect();
        let used = |pod: &Pod| {
            let stats = self.runtime.cgroup_stats(&qos::cgroup_parent(pod));
            signed(stats.map_or(0, |s| s.memory_working_set))
        };
        let ranked = rank(pods, used);
        let Some(pod) = ranked.first() else {
            return;
        };
        let message = message(pressure);
        warn!(pod = %pod.full_name(), "evicting: {message}");
        self.recorder.pod(pod, Warning, "Evicted", message.clone());
        self.pods.evict(pod.uid(), Reason::new("Evicted", message));
    }
}

fn disk_pressure(space: Space) -> bool {
    (space.total > 0 && space.available < DISK_AVAILABLE_BYTES)
        || (space.inodes > 0 && space.inodes_free * 100 / space.inodes < INODES_FREE_PERCENT)
}

/// Returns the pods that may be evicted, in eviction order.
///
/// Ordered by: memory usage above the requests, lower priority, QoS class other than guaranteed,
/// larger excess of usage over requests. `used` returns a pod's memory usage in bytes.
fn rank(pods: Vec<Arc<Pod>>, used: impl Fn(&Pod) -> i64) -> Vec<Arc<Pod>> {
    let mut candidates: Vec<_> = pods
        .into_iter()
        .filter(|p| !matches!(p.api_phase(), "Succeeded" | "Failed") && !p.deleting())
        .filter(|p| p.spec().priority.unwrap_or(0) < CRITICAL_PRIORITY)
        .map(|pod| {
            let requested: i64 = pod
                .spec()
                .containers
                .iter()
                .filter_map(|c| qos::requests(c.resources.as_ref()).memory)
                .fold(0, i64::saturating_add);
            let excess = used(&pod).saturating_sub(requested);
            (pod, excess)
        })
        .collect();
    candidates.sort_by_key(|(pod, excess)| {
        (
            *excess <= 0,
            pod.spec().priority.unwrap_or(0),
            qos::class(pod) == Qos::Guaranteed,
            Reverse(*excess),
        )
    });
    candidates.into_iter().map(|(pod, _)| pod).collect()
}

/// Returns the message of an eviction, worded as upstream.
fn message(pressure: Pressure) -> String {
    let resource = if pressure.memory {
        "memory"
    } else {
        "ephemeral-storage"
    };
    format!("The node was low on resource: {resource}. ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: i64 = 1 << 20;

    /// Returns a pod with a memory request in MiB.
    fn pod(name: &str, requested: i64, priority: i32) -> Arc<Pod> {
        let requests = (requested > 0)
            .then(|| [("memory".to_owned(), Quantity(format!("{requested}Mi")))].into());
        Arc::new(Pod {
            metadata: ObjectMeta {
                name: Some(name.into()),
                ..Default::default()
            },
            spec: Some(PodSpec {
                priority: Some(priority),
                containers: vec![Container {
                    resources: Some(ResourceRequirements {
                        requests,
                        ..Default::default()
                    }),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    fn order(pods: &[(Arc<Pod>, i64)]) -> Vec<String> {
        let used = |p: &Pod| {
            let found = pods.iter().find(|(q, _)| q.name() == p.name());
            found.map_or(0, |(_, used)| used * MIB)
        };
        rank(pods.iter().map(|(p, _)| p.clone()).collect(), used)
            .iter()
            .map(|p| p.name().to_owned())
            .collect()
    }

    #[test]
    fn excess_then_priority_then_amount() {
        assert_eq!(
            order(&[
                (pod("within-low", 300, -1), 100),
                (pod("over-high", 100, 1000), 900),
                (pod("over-little", 100, 0), 200),
                (pod("over-much", 100, 0), 500),
                (pod("best-effort", 0, 0), 250),
            ]),
            [
                "over-much",
                "best-effort",
                "over-little",
                "over-high",
                "within-low"
            ]
        );
    }

    #[test]
    fn some_pods_stay() {
        let with = |name: &str, change: fn(&mut Pod)| {
            let mut p = Pod::clone(&pod(name, 0, 0));
            change(&mut p);
            (Arc::new(p), 100)
        };
        let done = with("done", |p| {
            p.status = Some(PodStatus {
                phase: Some("Succeeded".into()),
                ..Default::default()
            });
        });
        let deleting = with("deleting", |p| {
            p.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        });
        let critical = (pod("critical", 0, CRITICAL_PRIORITY), 100);
        let other = (pod("other", 0, 0), 1);
        assert_eq!(order(&[done, deleting, critical, other]), ["other"]);
    }

    #[test]
    fn disks_need_space_and_inodes() {
        let space = |available, inodes_free| Space {
            total: 100 << 30,
            available,
            inodes: 1000,
            inodes_free,
        };
        assert!(!disk_pressure(space(2 << 30, 500)));
        assert!(disk_pressure(space(1 << 29, 500)));
        assert!(disk_pressure(space(2 << 30, 9)));
        assert!(!disk_pressure(space(2 << 30, 10)));
        assert!(!disk_pressure(Space::default()), "nothing is known");
    }

    #[test]
    fn messages_name_the_resource() {
        let pressure = |memory, disk| Pressure {
            memory,
            disk,
            pid: false,
        };
        assert_eq!(
            message(pressure(true, true)),
            "The node was low on resource: memory. "
        );
        assert_eq!(
            message(pressure(false, true)),
            "The node was low on resource: ephemeral-storage. "
        );
    }
}
