//! The managers of CPUs, memory and topology on this node, and the limits of all pods together.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use parking_lot::Mutex;
use rkube_component_helpers::resource::is_hugepages;
use rkube_config::paths;
use rkube_resource_managers::machine::Machine;
use rkube_resource_managers::{
    ContainerDemand, CpuSet, Managers, PodDemand, Rejection, Role, Settings, cpu,
};
use rkube_runtime::{Resources, Runtime};
use tokio::sync::Notify;
use tracing::warn;

use crate::eviction::thresholds::reserved;
use crate::eviction::types::{Signal, signed};
use crate::host::Host;
use crate::kinds::*;
use crate::pods::qos;
use crate::pods::reason::Reason;
use crate::pods::table::{PodTable, Snapshot};
use crate::recorder::Severity::{Normal, Warning};
use crate::recorder::{Recorder, node_reference};

/// Where the kernel describes the machine.
const SYSTEM: &str = "/sys/devices/system";

/// The control group of all pods.
const ALL_PODS: &str = "/kubepods";

/// Time between two attempts to limit all pods (upstream's).
const ENFORCE_PERIOD: Duration = Duration::from_secs(60);

/// What pods have alone on this node.
pub(crate) struct NodeResources {
    settings: Settings,
    managers: Mutex<Managers>,
    /// Signalled when other containers lose or get CPUs.
    changed: Notify,
    /// Whether all pods of the node are known, so that the others are gone.
    complete: AtomicBool,
}

/// Returns the CPUs that this process may use; `None` if the kernel does not say.
fn allowed_cpus() -> Option<CpuSet> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("Cpus_allowed_list:"))?;
    CpuSet::parse(line.trim()).ok()
}

/// Reads the part of the machine that the node may use: as many CPUs as it has time of, and its
/// memory.
fn read_machine(host: &Host) -> anyhow::Result<Machine> {
    let memory = host.machine.memory_bytes;
    let mut machine = Machine::read(Path::new(SYSTEM), allowed_cpus().as_ref(), memory)
        .map_err(anyhow::Error::msg)?
        .with_memory(memory);
    let all = machine.cpus.all();
    let count = usize::try_from(host.machine.cpu_millis.div_ceil(1000)).unwrap_or(usize::MAX);
    if count < all.len() {
        let own = cpu::assignment::take_packed(&machine.cpus, &all, count, false)
            .map_err(anyhow::Error::msg)?;
        machine.cpus = machine.cpus.only(&own);
    }
    Ok(machine)
}

impl NodeResources {
    /// Starts the managers, with the state that an earlier agent left.
    ///
    /// # Errors
    ///
    /// Fails with upstream's message if the options do not fit the machine or the state.
    pub(crate) fn start(host: &Host) -> anyhow::Result<Self> {
        check_reserved(host)?;
        let settings = host.settings.clone();
        let is_used = settings.cpu_static
            || settings.memory_static
            || settings.topology_policy() != "none"
            || !settings.reserved_cpus.is_empty();
        let machine = match read_machine(host) {
            Err(e) if !is_used => {
                warn!("the machine's layout is not known: {e:#}");
                Machine::default()
            }
            read => read.context("reading the machine's layout")?,
        };
        anyhow::ensure!(
            !settings.limited_swap || rkube_runtime::cgroup_is_v2(),
            "memorySwap.swapBehavior LimitedSwap needs control groups of version 2, and this node has version 1: take it back with --extra-config=kubelet.memory-swap.swap-behavior=NoSwap"
        );
        let eviction = reserved(Signal::MemoryAvailable, host.machine.memory_bytes);
        let managers = Managers::start(&settings, &machine, eviction, paths::STATE.as_ref())
            .context("starting the managers of CPUs and memory")?;
        if settings.topology_policy() != "none" {
            warn!("the topology manager does not know the NUMA nodes of devices");
        }
        Ok(Self {
            settings,
            managers: Mutex::new(managers),
            changed: Notify::new(),
            complete: AtomicBool::new(false),
        })
    }

    /// Notes that all pods of the node are known.
    pub(crate) fn set_complete(&self) {
        self.complete.store(true, Ordering::Relaxed);
    }

    /// Gives a pod what it has alone.
    ///
    /// # Errors
    ///
    /// Returns why the pod is not admitted.
    pub(crate) fn admit(&self, pod: &Pod) -> Result<(), Reason> {
        let demand = demand(pod);
        self.managers
            .lock()
            .admit(&demand)
            .map_err(|Rejection { reason, message }| Reason::new(reason, message))?;
        if self.settings.cpu_static {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Takes back what a pod has.
    pub(crate) fn release(&self, uid: &str) {
        if let Err(e) = self.managers.lock().release(uid) {
            warn!("{e}");
        }
    }

    /// Takes back what pods have of which nothing runs any more.
    pub(crate) fn release_inactive(&self, table: &PodTable) {
        let is_used = self.settings.cpu_static || self.settings.memory_static;
        if !is_used || !self.complete.load(Ordering::Relaxed) {
            return;
        }
        // Before the table: a pod that is admitted meanwhile is not in an older view of it.
        let held = self.managers.lock().pods();
        let pods = table.all();
        let keep = |uid: &str| {
            !held.iter().any(|held| held == uid)
                || pods.iter().any(|s| s.pod.uid() == uid && is_active(s))
        };
        if let Err(e) = self.managers.lock().retain(keep) {
            warn!("{e}");
        }
    }

    /// Notes that a container starts.
    pub(crate) fn started(&self, pod: &Pod, container: &Container) {
        if self.settings.memory_static
            && let Err(e) = self.managers.lock().started(&demand(pod), &container.name)
        {
            warn!("{e}");
        }
    }

    /// Returns a container's limits with its CPUs and NUMA nodes. With CPUs of its own it has all of
    /// their time.
    pub(crate) fn of_container(
        &self,
        pod: &Pod,
        container: &Container,
        mut limits: Resources,
    ) -> Resources {
        let managers = self.managers.lock();
        let (uid, name) = (pod.uid(), container.name.as_str());
        limits.cpuset_cpus = managers.cpus_of(uid, name).map(|cpus| cpus.to_string());
        if managers.has_exclusive_cpus(uid, name) {
            limits.cpu_quota = limits.cpu_quota.map(|_| -1);
        }
        let nodes: Vec<String> = managers
            .memory_nodes_of(uid, name)
            .nodes()
            .map(|n| n.to_string())
            .collect();
        limits.cpuset_mems = (!nodes.is_empty()).then(|| nodes.join(","));
        if self.settings.limited_swap {
            let amounts = SwapAmounts::read();
            limits.memory_swap_limit = None;
            let bytes = swap_limit(pod, container, amounts).to_string();
            limits.unified.insert("memory.swap.max".into(), bytes);
        }
        limits
    }

    /// Returns a pod's limits. If one of its containers has CPUs of its own, its time is not limited.
    pub(crate) fn of_pod(&self, pod: &Pod) -> Resources {
        let mut limits = qos::pod_resources(pod);
        let managers = self.managers.lock();
        let mut containers = pod.init_containers().iter().chain(&pod.spec().containers);
        if containers.any(|c| managers.has_exclusive_cpus(pod.uid(), &c.name)) {
            limits.cpu_quota = limits.cpu_quota.map(|_| -1);
        }
        limits
    }

    /// Returns the CPUs that each running container should have.
    fn wanted(&self, pods: &[Snapshot]) -> Vec<(String, CpuSet)> {
        let managers = self.managers.lock();
        let mut wanted = Vec::new();
        for snapshot in pods {
            let running = snapshot
                .instances
                .values()
                .flatten()
                .filter(|i| i.running());
            wanted.extend(running.filter_map(|i| {
                let cpus = managers.cpus_of(snapshot.pod.uid(), &i.name)?;
                Some((i.id.clone(), cpus))
            }));
        }
        wanted
    }
}

/// Returns whether something of a pod runs, or may run.
fn is_active(snapshot: &Snapshot) -> bool {
    let over = matches!(snapshot.pod.api_phase(), "Succeeded" | "Failed");
    let runs = snapshot.instances.values().flatten().any(|i| i.running());
    runs || !(over || snapshot.cleaned)
}

/// Returns what the managers need to know of a pod.
fn demand(pod: &Pod) -> PodDemand {
    let is_pod_level = |r: &ResourceRequirements| {
        let any = |list: &Option<_>| {
            list.as_ref()
                .is_some_and(|l: &std::collections::BTreeMap<String, Quantity>| !l.is_empty())
        };
        any(&r.requests) || any(&r.limits)
    };
    let container = |c: &Container, role| {
        let requests = qos::requests_or_limits(c.resources.as_ref());
        let is_memory = |name: &str| name == "memory" || is_hugepages(name);
        ContainerDemand {
            name: c.name.clone(),
            role,
            cpu_millis: requests.get("cpu").map_or(0, |q| q.milli_value()),
            memory: requests
                .0
                .iter()
                .filter(|(name, _)| is_memory(name))
                .map(|(name, q)| (name.clone(), q.value().unsigned_abs()))
                .collect(),
        }
    };
    let init = pod.init_containers().iter().map(|c| {
        let role = if is_sidecar(c) {
            Role::Sidecar
        } else {
            Role::Init
        };
        container(c, role)
    });
    let main = pod
        .spec()
        .containers
        .iter()
        .map(|c| container(c, Role::Main));
    PodDemand {
        uid: pod.uid().to_owned(),
        guaranteed: qos::class(pod) == qos::Qos::Guaranteed,
        pod_level: pod.spec().resources.as_ref().is_some_and(is_pod_level),
        containers: init.chain(main).collect(),
    }
}

/// Memory and swap of the machine, in bytes.
#[derive(Clone, Copy)]
struct SwapAmounts {
    memory: u64,
    swap: u64,
}

impl SwapAmounts {
    fn read() -> Self {
        let of = |key| crate::machine::meminfo(key).unwrap_or(0);
        Self {
            memory: of("MemTotal"),
            swap: of("SwapTotal"),
        }
    }
}

/// Returns how many bytes a container may swap with `LimitedSwap` (KEP-2400): of the machine's swap,
/// the part that its request is of the memory. Only burstable pods swap, and no critical ones.
fn swap_limit(pod: &Pod, container: &Container, amounts: SwapAmounts) -> u64 {
    let resources = container.resources.as_ref();
    let request = qos::requests(resources).memory.unwrap_or(0);
    let limit = qos::limits(resources).memory.unwrap_or(0);
    let none = qos::class(pod) != qos::Qos::Burstable || qos::is_critical(pod) || request == limit;
    let request = u64::try_from(request).unwrap_or(0);
    if none || amounts.memory == 0 || request > amounts.memory {
        return 0;
    }
    let part = u128::from(request) * u128::from(amounts.swap) / u128::from(amounts.memory);
    u64::try_from(part).unwrap_or(u64::MAX)
}

/// Keeps the CPUs of all running containers as they should be, until the future is dropped.
pub(crate) async fn run(
    node: Arc<NodeResources>,
    runtime: Runtime,
    pods: Arc<PodTable>,
) -> anyhow::Result<()> {
    if !node.settings.cpu_static {
        return std::future::pending().await;
    }
    let mut known: std::collections::HashMap<String, CpuSet> = Default::default();
    loop {
        // A container that has just started was created with the CPUs of its creation.
        node.release_inactive(&pods);
        let all = pods.all();
        let wanted = node.wanted(&all);
        known.retain(|id, _| wanted.iter().any(|(w, _)| w == id));
        for (id, cpus) in wanted {
            if known.get(&id) == Some(&cpus) {
                continue;
            }
            let limits = Resources {
                cpuset_cpus: Some(cpus.to_string()),
                ..Default::default()
            };
            match runtime.update_resources(&id, &limits).await {
                Ok(()) => drop(known.insert(id, cpus)),
                // It may have ended meanwhile; otherwise the next look tries again.
                Err(e) => warn!("giving CPUs {cpus} to container {id}: {e}"),
            }
        }
        tokio::select! {
            () = node.changed.notified() => {}
            () = tokio::time::sleep(node.settings.reconcile) => {}
        }
    }
}

/// Refuses to reserve more than the node has: the limits of all pods would be gone.
fn check_reserved(host: &Host) -> anyhow::Result<()> {
    let (taken, machine) = (host.settings.reserved(), &host.machine);
    let all = [
        ("cpu", taken.cpu_millis, machine.cpu_millis),
        ("memory", taken.memory, machine.memory_bytes),
        ("ephemeral-storage", taken.storage, machine.storage_bytes),
    ];
    let errors: Vec<String> = all
        .into_iter()
        .filter(|(_, taken, capacity)| *taken > 0 && *taken >= signed(*capacity))
        .map(|(name, taken, capacity)| {
            format!("Resource {name:?} has a reservation of {taken} but capacity of {capacity}. Expected capacity >= reservation.")
        })
        .collect();
    anyhow::ensure!(
        errors.is_empty(),
        "invalid Node Allocatable configuration. {}",
        errors.join(" ")
    );
    Ok(())
}

/// Limits what all pods use together to what is not reserved; tries again until it succeeds.
pub(crate) async fn enforce(
    host: Arc<Host>,
    runtime: Runtime,
    recorder: Recorder,
) -> anyhow::Result<()> {
    let limits = all_pods_limits(&host);
    let record = |severity, reason: &'static str, message: String| {
        recorder.record(node_reference(host.name()), severity, reason, message);
    };
    loop {
        match runtime.configure_cgroup(ALL_PODS, &limits).await {
            Ok(()) => {
                let message = "Updated Node Allocatable limit across pods".to_owned();
                record(Normal, "NodeAllocatableEnforced", message);
                return std::future::pending().await;
            }
            Err(e) => {
                let message = format!("Failed to update Node Allocatable Limits {ALL_PODS:?}: {e}");
                record(Warning, "FailedNodeAllocatableEnforcement", message);
            }
        }
        tokio::time::sleep(ENFORCE_PERIOD).await;
    }
}

/// Returns the limits of all pods together: the capacity, less what is reserved if that is enforced.
/// Eviction thresholds are not subtracted: they are there to act before this limit does.
fn all_pods_limits(host: &Host) -> Resources {
    let reserved = match host.settings.enforce_pods {
        true => host.settings.reserved(),
        false => Default::default(),
    };
    let machine = &host.machine;
    let left = |capacity: u64, taken: i64| signed(capacity).saturating_sub(taken).max(0);
    let max_pids = std::fs::read_to_string("/proc/sys/kernel/pid_max");
    let max_pids = max_pids
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok());
    Resources {
        cpu_shares: Some(qos::cpu_shares(left(
            machine.cpu_millis,
            reserved.cpu_millis,
        ))),
        memory_limit: Some(left(machine.memory_bytes, reserved.memory)),
        pids_limit: max_pids.map(|max| left(max, reserved.pids)),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(text: &str) -> Pod {
        let spec: PodSpec = serde_json::from_str(text).unwrap();
        Pod {
            metadata: ObjectMeta {
                uid: Some("u".into()),
                ..Default::default()
            },
            spec: Some(spec),
            ..Default::default()
        }
    }

    const GUARANTEED: &str = r#"{"cpu": "2", "memory": "1Gi", "hugepages-2Mi": "4Mi"}"#;

    #[test]
    fn managers_are_told_what_pods_request() {
        let p = pod(&format!(
            r#"{{"containers": [{{"name": "c", "resources": {{"limits": {GUARANTEED}}}}}],
                "initContainers": [{{"name": "s", "restartPolicy": "Always", "resources": {{"limits": {GUARANTEED}}}}},
                                   {{"name": "i", "resources": {{"limits": {GUARANTEED}}}}}]}}"#
        ));
        let d = demand(&p);
        assert!(d.guaranteed && !d.pod_level);
        let roles: Vec<_> = d
            .containers
            .iter()
            .map(|c| (c.name.as_str(), c.role))
            .collect();
        assert_eq!(
            roles,
            [("s", Role::Sidecar), ("i", Role::Init), ("c", Role::Main)]
        );
        let c = &d.containers[2];
        assert_eq!(
            (c.cpu_millis, c.memory["memory"], c.memory["hugepages-2Mi"]),
            (2000, 1 << 30, 4 << 20)
        );
        let level = pod(
            r#"{"containers": [{"name": "c"}], "resources": {"limits": {"cpu": "1", "memory": "1"}}}"#,
        );
        assert!(demand(&level).pod_level && demand(&level).guaranteed);
    }

    #[test]
    fn burstable_pods_swap_in_proportion() {
        let amounts = SwapAmounts {
            memory: 8 << 30,
            swap: 4 << 30,
        };
        let limit = |resources: &str| {
            let p = pod(&format!(
                r#"{{"containers": [{{"name": "c", "resources": {resources}}}]}}"#
            ));
            swap_limit(&p, &p.spec().containers[0], amounts)
        };
        assert_eq!(limit(r#"{"requests": {"memory": "2Gi"}}"#), 1 << 30);
        assert_eq!(limit(r#"{"requests": {"memory": "16Gi"}}"#), 0);
        assert_eq!(limit(r#"{"requests": {"cpu": "1"}}"#), 0);
        assert_eq!(limit(r#"{"limits": {"cpu": "1", "memory": "1Gi"}}"#), 0);
    }
}
