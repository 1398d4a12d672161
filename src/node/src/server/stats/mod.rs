//! `/stats/summary`: CPU, memory, I/O and disk usage of the node and its pods.

mod disk;
mod rates;

use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use rkube_config::paths;
use rkube_runtime::cgroup_details::{Details, Pressure, Stall};
use rkube_runtime::{FsUsage, Stats};
use serde_json::{Value, json};

use super::answer::{Answer, json as answer, text};
use super::endpoint::Endpoint;
use crate::kinds::*;
use crate::machine;
use crate::network::UPLINK;
use crate::pods::instance::Instance;
use crate::pods::paths::{log_dir, pod_dir};
use crate::pods::qos;
use crate::pods::table::Snapshot;

pub(crate) use rates::Rates;

/// The group of all pods.
const PODS: &str = "/kubepods";
/// The time between the first two measurements of a group.
const FIRST_WINDOW: Duration = Duration::from_millis(200);

fn time(t: Timestamp) -> String {
    crate::kinds::seconds(t).to_string()
}

/// The extent of a summary: everything, or CPU and memory only.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    All,
    CpuAndMemory,
}

/// The summary's inputs.
struct Summary<'a> {
    endpoint: &'a Endpoint,
    scope: Scope,
    /// The time of the request.
    now: String,
}

fn stall(stall: Stall) -> Value {
    let [avg10, avg60, avg300] = stall.averages;
    // The API has nanoseconds.
    json!({
        "total": stall.total_us.saturating_mul(1000),
        "avg10": avg10, "avg60": avg60, "avg300": avg300,
    })
}

fn pressure(pressure: Pressure) -> Value {
    json!({"full": stall(pressure.full), "some": stall(pressure.some)})
}

fn memory(stats: &Stats, capacity: u64) -> Value {
    let limit = stats.memory_limit.unwrap_or(capacity);
    json!({
        "time": time(stats.timestamp),
        "availableBytes": limit.saturating_sub(stats.memory_working_set),
        "usageBytes": stats.memory_usage,
        "workingSetBytes": stats.memory_working_set,
        "rssBytes": stats.memory_rss,
        "pageFaults": stats.page_faults,
        "majorPageFaults": stats.major_page_faults,
    })
}

/// Adds CPU, memory, I/O and swap of a group to the stats of its node, pod or container.
fn add_group(object: &mut Value, details: &Details, nano_cores: Option<u64>, capacity: u64) {
    let stats = &details.stats;
    let at = time(stats.timestamp);
    object["cpu"] = json!({"time": at, "usageCoreNanoSeconds": stats.cpu_ns});
    if let Some(nano_cores) = nano_cores {
        object["cpu"]["usageNanoCores"] = nano_cores.into();
    }
    object["memory"] = memory(stats, capacity);
    let mut swap = json!({"time": at, "swapUsageBytes": stats.swap_usage});
    if let Some(limit) = details.limits.swap_alone {
        swap["swapAvailableBytes"] = limit.saturating_sub(stats.swap_usage).into();
    }
    object["swap"] = swap;
    if let Some(pressures) = &details.pressure {
        object["cpu"]["psi"] = pressure(pressures.cpu);
        object["memory"]["psi"] = pressure(pressures.memory);
        object["io"] = json!({"time": at, "psi": pressure(pressures.io)});
    }
}

/// Returns the counters of a network interface; `None` if it does not exist.
fn link(name: &str) -> Option<Value> {
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

/// Returns the `NetworkStats` of a pod from the node's end of its veth pair, whose counters are
/// reversed: it transmits what the pod receives.
fn pod_network(link: &Value, now: &str) -> Value {
    let eth0 = json!({
        "name": "eth0",
        "rxBytes": link["txBytes"], "rxErrors": link["txErrors"],
        "txBytes": link["rxBytes"], "txErrors": link["rxErrors"],
    });
    network(eth0, now)
}

/// Returns `NetworkStats` with one interface, which is the default one.
fn network(interface: Value, now: &str) -> Value {
    let mut stats = interface.clone();
    stats["time"] = now.into();
    stats["interfaces"] = json!([interface]);
    stats
}

/// Returns the groups whose CPU usage a summary has.
fn groups(endpoint: &Endpoint) -> Vec<String> {
    let mut groups = vec!["/".to_owned(), PODS.to_owned()];
    for snapshot in endpoint.pods.all() {
        groups.push(qos::cgroup_parent(&snapshot.pod));
        let running = running(&snapshot);
        groups.extend(running.filter_map(|i| endpoint.runtime.container_cgroup(&i.id).ok()));
    }
    groups
}

fn running(snapshot: &Snapshot) -> impl Iterator<Item = &Instance> {
    let latest = snapshot.instances.values().filter_map(|all| all.last());
    latest.filter(|instance| instance.running())
}

/// Serves `/stats/summary`. With `only_cpu_and_memory`, as the kubelet, without the rest.
///
/// CPU usage is averaged over the last ten seconds or more, if the summary was requested before;
/// the first request measures it for a moment.
pub(crate) async fn summary(endpoint: &Endpoint, only_cpu_and_memory: bool) -> Answer {
    let endpoint = endpoint.clone();
    let known = endpoint.clone();
    let measured = tokio::task::spawn_blocking(move || {
        let now = Timestamp::now();
        let new: Vec<String> = groups(&known)
            .into_iter()
            .filter(|group| known.rates.lacks(group, now))
            .collect();
        for group in &new {
            if let Ok(stats) = known.runtime.cgroup_stats(group) {
                known.rates.note(group, &stats);
            }
        }
        !new.is_empty()
    });
    if measured.await.unwrap_or(false) {
        tokio::time::sleep(FIRST_WINDOW).await;
    }
    let made = tokio::task::spawn_blocking(move || {
        let scope = if only_cpu_and_memory {
            Scope::CpuAndMemory
        } else {
            Scope::All
        };
        let now = Timestamp::now();
        let summary = Summary {
            endpoint: &endpoint,
            scope,
            now: time(now),
        };
        let value = summary.to_value();
        endpoint.rates.forget(now);
        value
    });
    match made.await {
        Ok(value) => answer(&value),
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    }
}

impl Summary<'_> {
    fn to_value(&self) -> Value {
        let pods = self.endpoint.pods.all();
        let pods: Vec<Value> = pods.iter().map(|pod| self.pod(pod)).collect();
        json!({"node": self.node(), "pods": pods})
    }

    /// Adds the usage of a group, if it exists.
    fn add(&self, object: &mut Value, group: &str) -> Option<Details> {
        let details = self.endpoint.runtime.cgroup_details(group).ok()?;
        let nano_cores = self.endpoint.rates.note(group, &details.stats);
        let capacity = self.endpoint.host.machine.memory_bytes;
        add_group(object, &details, nano_cores, capacity);
        if self.scope == Scope::CpuAndMemory
            && let Some(object) = object.as_object_mut()
        {
            object.remove("io");
        }
        Some(details)
    }

    fn node(&self) -> Value {
        let now = &self.now;
        let mut node = json!({
            "nodeName": self.endpoint.host.name(),
            "startTime": time(self.endpoint.started),
        });
        let details = self.add(&mut node, "/");
        let mut pods = json!({"name": "pods", "startTime": time(self.endpoint.started)});
        if self.add(&mut pods, PODS).is_some() {
            node["systemContainers"] = json!([pods]);
        }
        if self.scope == Scope::CpuAndMemory {
            return node;
        }
        if let Some(link) = link(UPLINK) {
            node["network"] = network(link, now);
        }
        node["fs"] = disk::file_system_stats(paths::STATE, now);
        node["runtime"] = json!({
            "imageFs": disk::file_system_stats(paths::IMAGES, now),
            "containerFs": disk::file_system_stats(paths::RUNTIME, now),
        });
        node["rlimit"] = json!({
            "time": now, "maxpid": maximum_pid(),
            "curproc": details.map_or(0, |details| details.stats.pids),
        });
        node
    }

    fn pod(&self, snapshot: &Snapshot) -> Value {
        let (pod, now) = (&snapshot.pod, &self.now);
        let mut total = FsUsage::default();
        let mut containers = Vec::new();
        for instance in running(snapshot) {
            // The container may have exited in the meantime.
            if let Some(container) = self.container(pod, instance, &mut total) {
                containers.push(container);
            }
        }
        let mut object = json!({
            "podRef": {"name": pod.name(), "namespace": pod.namespace(), "uid": pod.uid()},
            "startTime": pod.status.as_ref().and_then(|s| s.start_time.clone()),
            "containers": containers,
        });
        let details = self.add(&mut object, &qos::cgroup_parent(pod));
        if self.scope == Scope::CpuAndMemory {
            return object;
        }
        let processes = details.map_or(0, |details| details.stats.pids);
        object["process_stats"] = json!({"process_count": processes});
        let attached = self.endpoint.network.pods();
        let attached = attached
            .iter()
            .find(|p| snapshot.sandbox.as_deref() == Some(p.sandbox_id.as_str()));
        if let Some(link) = attached.and_then(|p| link(&p.host_link)) {
            object["network"] = pod_network(&link, now);
        }
        let volumes = self.volumes(pod, &mut total);
        if !volumes.is_empty() {
            object["volume"] = volumes.into();
        }
        let space = machine::filesystem(paths::STATE.as_ref());
        object["ephemeral-storage"] = disk::share_stats(space, &total, now);
        object
    }

    fn container(&self, pod: &Pod, instance: &Instance, total: &mut FsUsage) -> Option<Value> {
        let cgroup = self.endpoint.runtime.container_cgroup(&instance.id).ok()?;
        let mut object = json!({
            "name": instance.name,
            "startTime": instance.started_at.map(time),
        });
        self.add(&mut object, &cgroup)?;
        if self.scope == Scope::CpuAndMemory {
            return Some(object);
        }
        let sizes = &self.endpoint.sizes;
        let layer = self.endpoint.runtime.writable_layer(&instance.id);
        let logs = log_dir(pod).join(&instance.name);
        for (name, path) in [("rootfs", layer), ("logs", Some(logs))] {
            let Some(path) = path else {
                continue;
            };
            let usage = sizes.of(&path);
            total.used_bytes += usage.used_bytes;
            total.used_inodes += usage.used_inodes;
            object[name] = disk::share_stats(machine::filesystem(&path), &usage, &self.now);
        }
        Some(object)
    }

    /// Returns the `VolumeStats` of the volumes whose files the agent makes.
    fn volumes(&self, pod: &Pod, total: &mut FsUsage) -> Vec<Value> {
        let directory = pod_dir(pod.uid()).join("volumes");
        let volumes = pod.spec().volumes.iter().flatten();
        volumes
            .filter_map(|volume| {
                let in_memory = volume
                    .empty_dir
                    .as_ref()
                    .is_some_and(|source| source.medium.as_deref() == Some("Memory"));
                let plugin = plugin(volume)?;
                let path = directory
                    .join(format!("kubernetes.io~{plugin}"))
                    .join(&volume.name);
                if !path.is_dir() {
                    return None;
                }
                let mut stats = disk::directory_stats(&self.endpoint.sizes, &path, &self.now);
                stats["name"] = volume.name.as_str().into();
                if !in_memory {
                    let usage = self.endpoint.sizes.of(&path);
                    total.used_bytes += usage.used_bytes;
                    total.used_inodes += usage.used_inodes;
                }
                Some(stats)
            })
            .collect()
    }
}

/// Returns the plugin of a volume whose files the agent makes.
fn plugin(volume: &Volume) -> Option<&'static str> {
    if volume.empty_dir.is_some() {
        Some("empty-dir")
    } else if volume.config_map.is_some() {
        Some("configmap")
    } else if volume.secret.is_some() {
        Some("secret")
    } else if volume.projected.is_some() {
        Some("projected")
    } else if volume.downward_api.is_some() {
        Some("downward-api")
    } else {
        None
    }
}

fn maximum_pid() -> u64 {
    std::fs::read_to_string("/proc/sys/kernel/pid_max")
        .ok()
        .and_then(|t| t.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rkube_runtime::cgroup_details::Pressures;

    #[test]
    fn groups_have_the_fields_of_the_api() {
        let mut details = Details::default();
        details.stats.cpu_ns = 5;
        details.stats.memory_working_set = 300;
        details.limits.swap_alone = Some(10);
        details.stats.swap_usage = 4;
        let mut object = json!({});
        add_group(&mut object, &details, Some(7), 1000);
        assert_eq!(object["cpu"]["usageNanoCores"], 7);
        assert_eq!(object["cpu"]["usageCoreNanoSeconds"], 5);
        assert_eq!(object["memory"]["availableBytes"], 700);
        assert_eq!(object["swap"]["swapAvailableBytes"], 6);
        assert!(object["io"].is_null() && object["cpu"]["psi"].is_null());

        let mut pressures = Pressures::default();
        pressures.io.some = Stall {
            total_us: 3,
            averages: [1.0, 2.0, 3.0],
        };
        details.pressure = Some(pressures);
        add_group(&mut object, &details, None, 1000);
        assert!(object["cpu"]["usageNanoCores"].is_null());
        assert_eq!(
            object["io"]["psi"]["some"],
            json!({"total": 3000, "avg10": 1.0, "avg60": 2.0, "avg300": 3.0})
        );
    }

    #[test]
    fn counters_of_pods_are_reversed() {
        let link =
            json!({"name": "veth", "rxBytes": 1, "rxErrors": 2, "txBytes": 3, "txErrors": 4});
        let stats = pod_network(&link, "now");
        assert_eq!(
            (&stats["rxBytes"], &stats["txErrors"]),
            (&json!(3), &json!(2))
        );
        assert_eq!(stats["interfaces"][0]["name"], "eth0");
        assert_eq!(stats["time"], "now");
    }
}
