//! Node pressure: too little memory or disk, and the pods that have to go for it.

use std::sync::Arc;
use std::time::Duration;

use rkube_config::paths;
use tracing::warn;

use crate::agent::Agent;
use crate::kinds::*;
use crate::machine;
use crate::pods::qos::{self, Qos};
use crate::pods::status::Waiting;
use crate::recorder::Severity::Warning;

/// How often the node is looked at.
const INTERVAL: Duration = Duration::from_secs(20);
/// How long a condition stays after its cause went, the kubelet's default.
const TRANSITION: Duration = Duration::from_secs(300);
/// The kubelet's hard threshold, in bytes.
const MEMORY_AVAILABLE: u64 = 100 << 20;
/// Bytes that the disk must have left. The kubelet's 10 % are of a disk that is the
/// node's; here it is the person's own, which may well be nine tenths full and is no
/// reason to drop their images and pods.
pub(crate) const DISK_AVAILABLE: u64 = 1 << 30;
/// Part of its inodes that the disk must have left, in percent.
pub(crate) const INODES_FREE_PERCENT: u64 = 1;

/// What the node runs short of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pid: bool,
}

impl Pressure {
    fn or(self, other: Self) -> Self {
        Self {
            memory: self.memory || other.memory,
            disk: self.disk || other.disk,
            pid: self.pid || other.pid,
        }
    }
}

/// Watches memory and disk until it is dropped.
pub(crate) async fn run(agent: Arc<Agent>) -> anyhow::Result<()> {
    let mut last_pressed = std::time::Instant::now();
    let mut held = Pressure::default();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let now = observe(&agent);
        if now != Pressure::default() {
            last_pressed = std::time::Instant::now();
        }
        held = if last_pressed.elapsed() < TRANSITION {
            held.or(now)
        } else {
            now
        };
        agent.pressure.send_if_modified(|p| {
            let changed = *p != held;
            *p = held;
            changed
        });
        if now.disk && crate::gc::images(&agent, DISK_AVAILABLE).await > 0 {
            continue;
        }
        if now.memory || now.disk {
            evict_one(&agent, now);
        }
    }
}

fn observe(agent: &Agent) -> Pressure {
    let memory = available_memory(agent).is_some_and(|a| a < MEMORY_AVAILABLE);
    let disk = machine::filesystem(paths::STATE.as_ref()).is_some_and(|f| {
        (f.total > 0 && f.available < DISK_AVAILABLE)
            || (f.inodes > 0 && f.inodes_free * 100 / f.inodes < INODES_FREE_PERCENT)
    });
    Pressure {
        memory,
        disk,
        pid: false,
    }
}

/// Memory that pods may still take: of the node's own limit where it has one.
pub(crate) fn available_memory(agent: &Agent) -> Option<u64> {
    let machine = machine::meminfo("MemAvailable")?;
    let stats = agent.runtime.cgroup_stats("/").ok();
    let own = stats.filter(|s| s.memory_limit.is_some()).map(|s| {
        agent
            .machine
            .memory_bytes
            .saturating_sub(s.memory_working_set)
    });
    Some(own.map_or(machine, |o| o.min(machine)))
}

/// Order of eviction: who uses more than asked for, then low priority, then most over.
fn evict_one(agent: &Agent, pressure: Pressure) {
    let mut candidates: Vec<_> = agent
        .pods
        .all()
        .into_iter()
        .map(|s| s.pod)
        .filter(|p| !matches!(p.api_phase(), "Succeeded" | "Failed") && !p.deleting())
        .filter(|p| p.spec().priority.unwrap_or(0) < 2_000_000_000)
        .map(|pod| {
            let used = agent
                .runtime
                .cgroup_stats(&qos::cgroup_parent(&pod))
                .map_or(0, |s| s.memory_working_set);
            let used = i64::try_from(used).unwrap_or(i64::MAX);
            let asked: i64 = pod
                .spec()
                .containers
                .iter()
                .filter_map(|c| qos::requests(c.resources.as_ref()).memory)
                .sum();
            (pod, used - asked)
        })
        .collect();
    candidates.sort_by_key(|(pod, over)| {
        (
            *over <= 0,
            pod.spec().priority.unwrap_or(0),
            qos::class(pod) == Qos::Guaranteed,
            std::cmp::Reverse(*over),
        )
    });
    let Some((pod, _)) = candidates.first() else {
        return;
    };
    let resource = if pressure.memory {
        "memory"
    } else {
        "ephemeral-storage"
    };
    let message = format!("The node was low on resource: {resource}. ");
    warn!(pod = %pod.full_name(), "evicting: {message}");
    agent.recorder.pod(pod, Warning, "Evicted", message.clone());
    agent.pods.evict(
        pod.uid(),
        Waiting {
            reason: "Evicted".into(),
            message,
        },
    );
}
