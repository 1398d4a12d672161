//! `/stats/summary`: CPU, memory and disk usage of the node and its pods.

use jiff::Timestamp;
use rkube_config::paths;
use rkube_runtime::Stats;
use serde_json::{Value, json};

use super::answer::{Answer, json as answer};
use super::endpoint::Endpoint;
use crate::kinds::*;
use crate::machine;
use crate::network::UPLINK;
use crate::pods::qos;

fn time(t: Timestamp) -> String {
    crate::kinds::seconds(t).to_string()
}

fn cpu(stats: &Stats) -> Value {
    json!({
        "time": time(stats.timestamp),
        "usageCoreNanoSeconds": stats.cpu_ns,
    })
}

fn memory(stats: &Stats, capacity: u64) -> Value {
    let limit = stats.memory_limit.unwrap_or(capacity);
    let mut value = json!({
        "time": time(stats.timestamp),
        "usageBytes": stats.memory_usage,
        "workingSetBytes": stats.memory_working_set,
        "rssBytes": stats.memory_rss,
        "pageFaults": stats.page_faults,
        "majorPageFaults": stats.major_page_faults,
    });
    value["availableBytes"] = json!(limit.saturating_sub(stats.memory_working_set));
    value
}

fn filesystem(path: &str) -> Value {
    let now = time(Timestamp::now());
    match machine::filesystem(path.as_ref()) {
        Some(s) => json!({
            "time": now,
            "availableBytes": s.available,
            "capacityBytes": s.total,
            "usedBytes": s.total.saturating_sub(s.available),
            "inodesFree": s.inodes_free,
            "inodes": s.inodes,
            "inodesUsed": s.inodes.saturating_sub(s.inodes_free),
        }),
        None => json!({"time": now}),
    }
}

/// Returns the counters of a network interface; `None` if it does not exist.
pub(crate) fn link(name: &str) -> Option<Value> {
    let read = |counter: &str| -> Option<u64> {
        std::fs::read_to_string(format!("/sys/class/net/{name}/statistics/{counter}"))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    Some(json!({
        "name": name,
        "rxBytes": read("rx_bytes")?,
        "rxErrors": read("rx_errors")?,
        "txBytes": read("tx_bytes")?,
        "txErrors": read("tx_errors")?,
    }))
}

/// Serves `/stats/summary`.
pub(crate) fn summary(endpoint: &Endpoint) -> Answer {
    let capacity = endpoint.host.machine.memory_bytes;
    let node = endpoint.runtime.cgroup_stats("/").unwrap_or_default();
    let now = time(Timestamp::now());
    let mut pods = Vec::new();
    for snapshot in endpoint.pods.all() {
        let pod = &snapshot.pod;
        let mut containers = Vec::new();
        for instance in snapshot
            .instances
            .values()
            .filter_map(|a| a.last())
            .filter(|i| i.running())
        {
            let Ok(stats) = endpoint.runtime.stats(&instance.id) else {
                // The container has exited in the meantime.
                continue;
            };
            containers.push(json!({
                "name": instance.name,
                "startTime": instance.started_at.map(time),
                "cpu": cpu(&stats),
                "memory": memory(&stats, capacity),
                "rootfs": {"time": now},
                "logs": {"time": now},
            }));
        }
        let total = endpoint
            .runtime
            .cgroup_stats(&qos::cgroup_parent(pod))
            .unwrap_or_default();
        let network = endpoint
            .network
            .pods()
            .into_iter()
            .find(|p| snapshot.sandbox.as_deref() == Some(p.sandbox_id.as_str()))
            .and_then(|p| link(&p.host_link))
            // Counters of the host's end of a veth pair are reversed: it transmits what the pod
            // receives.
            .map(|l| {
                json!({
                    "time": now, "name": "eth0",
                    "rxBytes": l["txBytes"], "rxErrors": l["txErrors"],
                    "txBytes": l["rxBytes"], "txErrors": l["rxErrors"],
                })
            });
        pods.push(json!({
            "podRef": {
                "name": pod.name(),
                "namespace": pod.namespace(),
                "uid": pod.uid(),
            },
            "startTime": pod.status.as_ref().and_then(|s| s.start_time.clone()),
            "containers": containers,
            "cpu": cpu(&total),
            "memory": memory(&total, capacity),
            "network": network,
            "process_stats": {"process_count": total.pids},
        }));
    }
    let mut network = link(UPLINK).unwrap_or_else(|| json!({}));
    network["time"] = json!(now);
    answer(&json!({
        "node": {
            "nodeName": endpoint.host.name(),
            "startTime": now,
            "cpu": cpu(&node),
            "memory": memory(&node, capacity),
            "network": network,
            "fs": filesystem(paths::STATE),
            "runtime": {"imageFs": filesystem(paths::IMAGES), "containerFs": filesystem(paths::RUNTIME)},
            "rlimit": {"time": now, "maxpid": maximum_pid(), "curproc": node.pids},
        },
        "pods": pods,
    }))
}

fn maximum_pid() -> u64 {
    std::fs::read_to_string("/proc/sys/kernel/pid_max")
        .ok()
        .and_then(|t| t.trim().parse().ok())
        .unwrap_or(0)
}
