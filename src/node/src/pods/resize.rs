//! In-place resize of running pods (KEP-1287): granted resources, admission and application.
//!
//! A change of a pod's resources takes effect only once it is granted. Until then the agent works
//! with the pod as last granted. The granted and the applied resources are saved in a file in the
//! pod's directory, so that they survive a restart of the agent. The file is written only for pods
//! that were resized.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rkube_resource_managers::Settings;
use rkube_runtime::{Resources, Runtime};
use serde::{Deserialize, Serialize};

use super::admission;
use super::instance::{Instance, Instances, latest};
use super::paths::pod_dir;
use super::qos;
use crate::allocatable::Allocatable;
use crate::kinds::*;
use crate::resources::NodeResources;

/// Resources that can be resized in place.
const NAMES: [&str; 2] = ["cpu", "memory"];

/// Granted and applied resources of a pod's containers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Granted resources by container name.
    granted: BTreeMap<String, ResourceRequirements>,
    /// Applied resources by container ID; absent if they are those of the container's creation.
    applied: BTreeMap<String, ResourceRequirements>,
}

/// Returns the containers that can be resized: main containers and sidecars.
fn resizable(pod: &Pod) -> impl Iterator<Item = &Container> {
    let sidecars = pod.init_containers().iter().filter(|c| is_sidecar(c));
    sidecars.chain(&pod.spec().containers)
}

/// Returns the names of the resources whose request or limit differs.
fn changed(a: &ResourceRequirements, b: &ResourceRequirements) -> Vec<&'static str> {
    let of = |r: &ResourceRequirements, name: &str| {
        let find = |list: &Option<BTreeMap<String, Quantity>>| {
            list.as_ref().and_then(|l| l.get(name)).cloned()
        };
        (find(&r.requests), find(&r.limits))
    };
    NAMES
        .into_iter()
        .filter(|name| of(a, name) != of(b, name))
        .collect()
}

impl Record {
    fn file(uid: &str) -> PathBuf {
        pod_dir(uid).join("resources.json")
    }

    /// Returns the record of a new pod: its requests are granted as they are.
    pub(crate) fn for_new_pod(pod: &Pod) -> Self {
        Self::default().complete(pod, &Instances::new())
    }

    /// Returns the record of a pod that an earlier agent ran.
    ///
    /// Granted resources come from the file, else from the container's creation, else from the
    /// specification.
    pub(crate) fn load(pod: &Pod, instances: &Instances) -> Self {
        let kept = match std::fs::read(Self::file(pod.uid())) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|e| {
                tracing::warn!(pod = %pod.full_name(), "the record of its resources: {e}");
                Self::default()
            }),
            Err(_) => Self::default(),
        };
        kept.complete(pod, instances)
    }

    fn complete(mut self, pod: &Pod, instances: &Instances) -> Self {
        for c in resizable(pod) {
            self.granted.entry(c.name.clone()).or_insert_with(|| {
                latest(instances, &c.name)
                    .and_then(|i| i.resources.clone())
                    .or_else(|| c.resources.clone())
                    .unwrap_or_default()
            });
        }
        self
    }

    /// Saves the record atomically, for the next agent.
    pub(crate) fn save(&self, uid: &str) -> std::io::Result<()> {
        let file = Self::file(uid);
        let new = file.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(self)?)?;
        std::fs::rename(new, file)
    }

    /// Returns the pod with its granted resources; `None` if they equal the requested ones.
    pub(crate) fn granted(&self, asked: &Pod) -> Option<Pod> {
        let differs = |c: &Container| {
            let resources = c.resources.clone().unwrap_or_default();
            self.granted
                .get(&c.name)
                .is_some_and(|granted| !changed(granted, &resources).is_empty())
        };
        if !resizable(asked).any(differs) {
            return None;
        }
        let mut pod = asked.clone();
        let spec = pod.spec.as_mut()?;
        let containers = spec.init_containers.iter_mut().flatten();
        for c in containers.chain(&mut spec.containers) {
            if let Some(granted) = self.granted.get(&c.name) {
                c.resources = Some(granted.clone());
            }
        }
        Some(pod)
    }

    /// Grants the pod's requests.
    pub(crate) fn grant(&mut self, asked: &Pod) {
        for c in resizable(asked) {
            self.granted
                .insert(c.name.clone(), c.resources.clone().unwrap_or_default());
        }
    }

    /// Records the resources that a container now runs with.
    pub(crate) fn applied(&mut self, id: &str, resources: ResourceRequirements) {
        self.applied.insert(id.to_owned(), resources);
    }

    /// Removes the containers for which `there` returns false.
    pub(crate) fn retain(&mut self, there: impl Fn(&str) -> bool) {
        self.applied.retain(|id, _| there(id));
    }

    /// Returns the resources that a container runs with.
    pub(crate) fn actual<'a>(&'a self, i: &'a Instance) -> Option<&'a ResourceRequirements> {
        self.applied.get(&i.id).or(i.resources.as_ref())
    }

    /// Returns the running containers whose resources differ from the granted ones.
    pub(crate) fn outdated(&self, pod: &Pod, instances: &Instances) -> Vec<Outdated> {
        resizable(pod)
            .filter_map(|c| {
                let i = latest(instances, &c.name).filter(|i| i.running())?;
                let (from, to) = (self.actual(i)?, self.granted.get(&c.name)?);
                let what = changed(from, to);
                let restart = c.resize_policy.iter().flatten().any(|p| {
                    p.restart_policy == "RestartContainer"
                        && what.contains(&p.resource_name.as_str())
                });
                (!what.is_empty()).then(|| Outdated {
                    id: i.id.clone(),
                    name: c.name.clone(),
                    from: from.clone(),
                    to: to.clone(),
                    restart,
                })
            })
            .collect()
    }
}

/// A container whose resources differ from the granted ones.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outdated {
    pub id: String,
    pub name: String,
    pub from: ResourceRequirements,
    pub to: ResourceRequirements,
    /// Whether its `resizePolicy` requires a restart.
    pub restart: bool,
}

/// Why the node does not grant a resize; the condition `PodResizePending` reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// `Deferred` (may be granted later) or `Infeasible` (exceeds the node's capacity).
    pub reason: &'static str,
    pub message: String,
}

/// Checks that the node can grant the pod's requests. `others` are the other active pods, with
/// granted resources.
///
/// # Errors
///
/// Returns whether the resize is deferred or infeasible, and why.
pub(crate) fn decide(asked: &Pod, others: &[&Pod], node: &Allocatable) -> Result<(), Refusal> {
    let needs = admission::needs(asked);
    for (name, wanted, capacity) in [
        ("memory", needs.memory, node.memory),
        ("cpu", needs.cpu, node.cpu_millis),
    ] {
        if wanted > capacity {
            return Err(Refusal {
                reason: "Infeasible",
                message: format!(
                    "Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {capacity}"
                ),
            });
        }
    }
    admission::check_resources(asked, others, node).map_err(|e| Refusal {
        reason: "Deferred",
        message: e.message,
    })
}

/// Refuses to change what the managers of CPUs and memory gave to a guaranteed pod.
///
/// # Errors
///
/// Returns upstream's message.
pub(crate) fn check_managers(asked: &Pod, granted: &Pod, node: &Settings) -> Result<(), Refusal> {
    if qos::class(granted) != qos::Qos::Guaranteed {
        return Ok(());
    }
    let differs = |name: &str| {
        resizable(asked).any(|c| {
            let old = resizable(granted).find(|old| old.name == c.name);
            let of = |c: &Container| c.resources.clone().unwrap_or_default();
            old.is_some_and(|old| changed(&of(old), &of(c)).contains(&name))
        })
    };
    for (name, is_static, manager, policy) in [
        ("cpu", node.cpu_static, "CPU", node.cpu_policy()),
        ("memory", node.memory_static, "Memory", node.memory_policy()),
    ] {
        if is_static && differs(name) {
            return Err(Refusal {
                reason: "Infeasible",
                message: format!(
                    "Resize is infeasible for Guaranteed Pods alongside {manager} Manager policy \"{policy}\""
                ),
            });
        }
    }
    Ok(())
}

/// Result of an in-place resize.
pub(crate) struct Applied {
    /// Containers that now run with the granted resources.
    pub done: Vec<Outdated>,
    pub error: Option<String>,
}

/// Changes the cgroups of the pod and of `containers`.
///
/// Meanwhile the pod's limits are the larger of the old and new ones, never below those of its
/// containers. Stops at the first error; the containers resized before it are in the result.
pub(crate) async fn apply(
    runtime: &Runtime,
    node: &NodeResources,
    before: &Pod,
    after: &Pod,
    containers: Vec<Outdated>,
) -> Applied {
    let cgroup = qos::cgroup_parent(after);
    let (old, new) = (node.of_pod(before), node.of_pod(after));
    let mut done = Vec::new();
    let work = async {
        runtime
            .configure_cgroup(&cgroup, &larger_limits(&old, &new))
            .await
            .map_err(|e| e.to_string())?;
        for container in containers {
            check_memory_usage(runtime, &container)?;
            let wanted = Container {
                name: container.name.clone(),
                resources: Some(container.to.clone()),
                ..Default::default()
            };
            let limits = node.of_container(after, &wanted, qos::runtime_resources(&wanted));
            runtime
                .update_resources(&container.id, &limits)
                .await
                .map_err(|e| format!("container {}: {e}", container.name))?;
            done.push(container);
        }
        runtime
            .configure_cgroup(&cgroup, &new)
            .await
            .map_err(|e| e.to_string())
    };
    let error = work.await.err();
    Applied { done, error }
}

/// Checks that a new memory limit is not below the current usage: the kernel would kill the
/// container.
fn check_memory_usage(runtime: &Runtime, container: &Outdated) -> Result<(), String> {
    let limit = |r| qos::limits(Some(r)).memory;
    let (Some(new), old) = (limit(&container.to), limit(&container.from)) else {
        return Ok(());
    };
    if old.is_some_and(|old| new >= old) {
        return Ok(());
    }
    let stats = runtime
        .stats(&container.id)
        .map_err(|e| format!("container {}: {e}", container.name))?;
    if u64::try_from(new).is_ok_and(|new| new < stats.memory_usage) {
        return Err(format!(
            "attempting to set container {:?} memory limit ({new}) below current usage ({})",
            container.name, stats.memory_usage
        ));
    }
    Ok(())
}

/// Returns limits for the transition between two states: the larger of each.
fn larger_limits(old: &Resources, new: &Resources) -> Resources {
    let greater = |a: Option<i64>, b: Option<i64>| match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        // Becomes unlimited: the limit must be removed explicitly (−1).
        (Some(_), None) => Some(-1),
        (None, _) => None,
    };
    Resources {
        cpu_shares: old.cpu_shares.max(new.cpu_shares),
        cpu_quota: greater(old.cpu_quota, new.cpu_quota),
        cpu_period: old.cpu_period,
        memory_limit: greater(old.memory_limit, new.memory_limit),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ContainerResizePolicy;

    fn resources(cpu: &str, memory: &str) -> ResourceRequirements {
        let list: BTreeMap<String, Quantity> = [("cpu", cpu), ("memory", memory)]
            .into_iter()
            .map(|(k, v)| (k.to_owned(), Quantity(v.to_owned())))
            .collect();
        ResourceRequirements {
            requests: Some(list.clone()),
            limits: Some(list),
            ..Default::default()
        }
    }

    fn pod(cpu: &str, memory: &str) -> Pod {
        Pod {
            metadata: ObjectMeta {
                uid: Some("no-such-pod".into()),
                ..Default::default()
            },
            spec: Some(PodSpec {
                containers: vec![Container {
                    name: "c".into(),
                    resources: Some(resources(cpu, memory)),
                    resize_policy: Some(vec![ContainerResizePolicy {
                        resource_name: "memory".into(),
                        restart_policy: "RestartContainer".into(),
                    }]),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn running(cpu: &str, memory: &str) -> Instances {
        let state = rkube_runtime::ContainerState::Running;
        let mut i = super::super::instance::testing::instance("c", "s", state, 0);
        i.resources = Some(resources(cpu, memory));
        [("c".to_owned(), vec![i])].into()
    }

    #[test]
    fn what_is_asked_waits_for_its_grant() {
        let instances = running("100m", "64Mi");
        let mut record = Record::load(&pod("100m", "64Mi"), &instances);
        assert_eq!(record.granted(&pod("100m", "64Mi")), None);
        let asked = pod("200m", "64Mi");
        assert_eq!(record.granted(&asked), Some(pod("100m", "64Mi")));
        assert_eq!(record.outdated(&asked, &instances), []);
        record.grant(&asked);
        assert_eq!(record.granted(&asked), None);
        let outdated = record.outdated(&asked, &instances);
        assert_eq!(outdated.len(), 1);
        assert!(!outdated[0].restart, "CPU changes in place");
        let (id, to) = (outdated[0].id.clone(), outdated[0].to.clone());
        record.applied(&id, to);
        assert_eq!(record.outdated(&asked, &instances), []);
        record.retain(|_| false);
        assert_eq!(record.outdated(&asked, &instances).len(), 1);
    }

    #[test]
    fn a_new_life_of_the_agent_grants_nothing_by_itself() {
        // Requested while no agent was running.
        let asked = pod("100m", "128Mi");
        let instances = running("100m", "64Mi");
        let mut record = Record::load(&asked, &instances);
        assert_eq!(record.granted(&asked), Some(pod("100m", "64Mi")));
        record.grant(&asked);
        assert!(record.outdated(&asked, &instances)[0].restart, "by policy");
        // Nothing runs yet, so the requests are granted as they are.
        assert_eq!(
            Record::load(&asked, &Instances::new()).granted(&asked),
            None
        );
    }

    #[test]
    fn what_managers_gave_stays() {
        let options = |values: &[(&str, &str)]| rkube_config::ResourceOptions {
            values: values
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        };
        let node = Settings::parse(&options(&[
            ("cpu-manager-policy", "static"),
            ("system-reserved", "cpu=1"),
        ]))
        .unwrap();
        let (old, more_cpu, more_memory) = (pod("1", "1Gi"), pod("2", "1Gi"), pod("1", "2Gi"));
        assert_eq!(check_managers(&more_memory, &old, &node), Ok(()));
        let refusal = check_managers(&more_cpu, &old, &node).unwrap_err();
        assert_eq!(refusal.reason, "Infeasible");
        assert_eq!(
            refusal.message,
            "Resize is infeasible for Guaranteed Pods alongside CPU Manager policy \"static\""
        );
        let node = Settings::parse(&options(&[])).unwrap();
        assert_eq!(check_managers(&more_cpu, &old, &node), Ok(()));
    }

    #[test]
    fn the_node_decides() {
        let node = Allocatable {
            cpu_millis: 2000,
            memory: 1 << 30,
            storage: 1 << 30,
            pods: 10,
            hugepages: vec![],
        };
        let other = pod("1500m", "64Mi");
        assert_eq!(decide(&pod("500m", "64Mi"), &[&other], &node), Ok(()));
        let later = decide(&pod("600m", "64Mi"), &[&other], &node).unwrap_err();
        assert_eq!(later.reason, "Deferred");
        assert_eq!(
            later.message,
            "Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000"
        );
        let never = decide(&pod("100m", "2Gi"), &[], &node).unwrap_err();
        assert_eq!(never.reason, "Infeasible");
        assert_eq!(
            never.message,
            "Node didn't have enough capacity: memory, requested: 2147483648, capacity: 1073741824"
        );
    }

    #[test]
    fn between_two_states_the_greater_limits_hold() {
        let of = |memory_limit| Resources {
            memory_limit,
            ..Default::default()
        };
        let limit = |a, b| larger_limits(&of(a), &of(b)).memory_limit;
        assert_eq!(limit(Some(1), Some(2)), Some(2));
        assert_eq!(limit(Some(2), Some(1)), Some(2));
        assert_eq!(limit(None, Some(1)), None);
        assert_eq!(limit(Some(1), None), Some(-1));
    }
}
