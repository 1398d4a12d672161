//! The `Node` object and its lease.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSystemInfo,
};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use rkube_config::ports;
use serde_json::{Value, json};
use tracing::{debug, info, warn};

use crate::agent::Agent;
use crate::client::{answered, retry_delay, unreachable};
use crate::eviction::Pressure;
use crate::kinds::*;
use crate::recorder::{Severity, node_reference};

/// How often an unchanged status is told again.
const HEARTBEAT: Duration = Duration::from_secs(300);
/// How often the lease is renewed, and how long it counts: the kubelet's defaults.
const LEASE_INTERVAL: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
/// Images listed in the node's status at most, the kubelet's default.
const MAX_IMAGES: usize = 50;
const MAX_NAMES_PER_IMAGE: usize = 5;
/// Memory kept from pods, as the kubelet's default hard eviction threshold is.
const EVICTION_RESERVE: u64 = 100 << 20;

/// Registers the node, then keeps its status true.
pub(crate) async fn run(agent: Arc<Agent>) -> anyhow::Result<()> {
    let api: Api<Node> = Api::all(agent.client.clone());
    let registered = register(&agent, &api).await?;
    info!(node = %agent.config.name, "registered");
    *agent.node.write() = Some(Arc::new(registered));
    let object = node_reference(&agent.config.name);
    agent.recorder.record(
        object.clone(),
        Severity::Normal,
        "Starting",
        "Starting kubelet.",
    );
    agent.recorder.record(
        object,
        Severity::Normal,
        "NodeReady",
        format!("Node {} status is now: NodeReady", agent.config.name),
    );

    let mut pressure = agent.pressure.subscribe();
    let mut images = agent.images.changes();
    let mut events = Box::pin(crate::watching::forever(
        api.clone(),
        kube::runtime::watcher::Config::default()
            .fields(&format!("metadata.name={}", agent.config.name)),
    ));
    let mut next = tokio::time::Instant::now() + HEARTBEAT;
    loop {
        use futures::StreamExt;
        let mut lost = false;
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            Ok(()) = pressure.changed() => {}
            Ok(()) = images.changed() => {
                // A burst of pulls is one change of the status.
                tokio::time::sleep(Duration::from_secs(2)).await;
                images.mark_unchanged();
            }
            Some(event) = events.next() => {
                use kube::runtime::watcher::Event::*;
                match event {
                    Apply(node) | InitApply(node) => {
                        *agent.node.write() = Some(Arc::new(node));
                        continue;
                    }
                    Delete(_) => lost = true,
                    Init | InitDone => continue,
                }
            }
        }
        let done = if lost {
            // Someone deleted the node while it lives on; it registers again.
            warn!("the node object is gone; registering again");
            register(&agent, &api).await.map(Some)
        } else {
            patch_status(&agent, &api).await
        };
        match done {
            Ok(Some(node)) => *agent.node.write() = Some(Arc::new(node)),
            Ok(None) => {}
            Err(e) => {
                warn!("node status: {e:#}");
                next = tokio::time::Instant::now() + LEASE_INTERVAL;
                continue;
            }
        }
        next = tokio::time::Instant::now() + HEARTBEAT;
    }
}

/// Creates the node, or brings the one that is there up to date. Waits for the API server.
async fn register(agent: &Agent, api: &Api<Node>) -> anyhow::Result<Node> {
    let mut attempt = 0;
    loop {
        let node = node(agent);
        let error = match api.create(&PostParams::default(), &node).await {
            Ok(created) => return Ok(created),
            Err(e) if answered(&e, 409) => match update(agent, api, &node).await {
                Ok(updated) => return Ok(updated),
                Err(e) => e,
            },
            Err(e) => e,
        };
        if unreachable(&error) {
            debug!("registering: {error}");
        } else {
            warn!("registering: {error}");
        }
        tokio::time::sleep(retry_delay(attempt)).await;
        attempt += 1;
    }
}

async fn update(agent: &Agent, api: &Api<Node>, wanted: &Node) -> Result<Node, kube::Error> {
    let spec = wanted.spec.as_ref();
    let labels = json!({
        "metadata": {"labels": wanted.metadata.labels, "annotations": wanted.metadata.annotations},
        "spec": {
            "podCIDR": spec.and_then(|s| s.pod_cidr.as_ref()),
            "podCIDRs": spec.and_then(|s| s.pod_cidrs.as_ref()),
            "providerID": spec.and_then(|s| s.provider_id.as_ref()),
        },
    });
    let name = &agent.config.name;
    let current = api
        .patch(name, &PatchParams::default(), &Patch::Merge(&labels))
        .await?;
    *agent.node.write() = Some(Arc::new(current));
    let status = json!({"status": status(agent)});
    api.patch_status(name, &PatchParams::default(), &Patch::Strategic(&status))
        .await
}

/// Tells the status; conditions always, the rest when it differs from what the API has.
async fn patch_status(agent: &Agent, api: &Api<Node>) -> anyhow::Result<Option<Node>> {
    let wanted = serde_json::to_value(status(agent))?;
    let known = agent
        .node
        .read()
        .as_ref()
        .and_then(|n| n.status.as_ref())
        .map(serde_json::to_value)
        .transpose()?
        .unwrap_or(Value::Null);
    let mut patch = serde_json::Map::new();
    if let Value::Object(fields) = wanted {
        for (field, value) in fields {
            if field == "conditions" || known.get(&field) != Some(&value) {
                patch.insert(field, value);
            }
        }
    }
    let patch = json!({"status": patch});
    let done = api
        .patch_status(
            &agent.config.name,
            &PatchParams::default(),
            &Patch::Strategic(&patch),
        )
        .await;
    match done {
        Ok(node) => Ok(Some(node)),
        Err(e) if answered(&e, 404) => Ok(Some(register(agent, api).await?)),
        Err(e) => Err(e.into()),
    }
}

fn node(agent: &Agent) -> Node {
    let config = &agent.config;
    let architecture = agent.machine.architecture;
    // Roles are the control plane's to give: a node may not set them itself.
    let labels: BTreeMap<String, String> = [
        ("kubernetes.io/hostname", config.name.as_str()),
        ("kubernetes.io/arch", architecture),
        ("kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture),
        ("beta.kubernetes.io/os", "linux"),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .collect();
    let annotations = [
        (
            "volumes.kubernetes.io/controller-managed-attach-detach",
            "true",
        ),
        ("rkube.dev/profile", config.cluster.name.as_str()),
    ];
    Node {
        metadata: ObjectMeta {
            name: Some(config.name.clone()),
            labels: Some(labels),
            annotations: Some(
                annotations
                    .into_iter()
                    .map(|(k, v)| (k.to_owned(), v.to_owned()))
                    .collect(),
            ),
            ..Default::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: Some(config.pod_cidr.to_string()),
            pod_cidrs: Some(vec![config.pod_cidr.to_string()]),
            provider_id: Some(config.provider_id.clone()),
            ..Default::default()
        }),
        status: Some(status(agent)),
    }
}

/// What pods may use of a resource set in all.
pub(crate) struct Allocatable {
    pub cpu_millis: i64,
    pub memory: i64,
    pub storage: i64,
    pub pods: i64,
    pub hugepages: Vec<(String, i64)>,
}

/// What the node offers to pods: its capacity less the eviction thresholds.
pub(crate) fn allocatable(agent: &Agent) -> Allocatable {
    let m = &agent.machine;
    let signed = |v: u64| i64::try_from(v).unwrap_or(i64::MAX);
    let huge: u64 = m.hugepages.iter().map(|(_, bytes)| bytes).sum();
    Allocatable {
        cpu_millis: signed(m.cpu_millis),
        memory: signed(
            m.memory_bytes
                .saturating_sub(huge)
                .saturating_sub(EVICTION_RESERVE),
        ),
        storage: signed(
            m.storage_bytes
                .saturating_sub(crate::eviction::DISK_AVAILABLE),
        ),
        pods: i64::from(agent.config.max_pods),
        hugepages: m
            .hugepages
            .iter()
            .map(|(name, bytes)| (name.clone(), signed(*bytes)))
            .collect(),
    }
}

fn cpu_quantity(millis: i64) -> Quantity {
    if millis % 1000 == 0 {
        Quantity((millis / 1000).to_string())
    } else {
        Quantity(format!("{millis}m"))
    }
}

fn status(agent: &Agent) -> NodeStatus {
    let config = &agent.config;
    let m = &agent.machine;
    let a = allocatable(agent);
    let signed = |v: u64| i64::try_from(v).unwrap_or(i64::MAX);
    let resources = |cpu: i64, memory: i64, storage: Quantity| {
        let mut map = BTreeMap::from([
            ("cpu".to_owned(), cpu_quantity(cpu)),
            (
                "memory".to_owned(),
                Quantity(format!("{}Ki", memory / 1024)),
            ),
            ("ephemeral-storage".to_owned(), storage),
            ("pods".to_owned(), Quantity(a.pods.to_string())),
        ]);
        for (name, bytes) in &a.hugepages {
            let text = if *bytes == 0 {
                "0".to_owned()
            } else {
                format!("{}Ki", bytes / 1024)
            };
            map.insert(name.clone(), Quantity(text));
        }
        map
    };
    NodeStatus {
        addresses: Some(vec![
            NodeAddress {
                type_: "InternalIP".into(),
                address: config.ip.to_string(),
            },
            NodeAddress {
                type_: "Hostname".into(),
                address: config.name.clone(),
            },
        ]),
        capacity: Some(resources(
            signed(m.cpu_millis),
            signed(m.memory_bytes),
            Quantity(format!("{}Ki", m.storage_bytes / 1024)),
        )),
        allocatable: Some(resources(
            a.cpu_millis,
            a.memory,
            Quantity(a.storage.to_string()),
        )),
        conditions: Some(conditions(agent)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: i32::from(ports::KUBELET),
            }),
        }),
        node_info: Some(NodeSystemInfo {
            architecture: m.architecture.into(),
            boot_id: m.boot_id.clone(),
            container_runtime_version: format!("rkube://{}", env!("CARGO_PKG_VERSION")),
            kernel_version: m.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: rkube_config::version(),
            machine_id: m.machine_id.clone(),
            operating_system: "linux".into(),
            os_image: m.os_image.clone(),
            system_uuid: m.system_uuid.clone(),
            swap: None,
        }),
        images: Some(images(agent)),
        runtime_handlers: Some(vec![NodeRuntimeHandler {
            name: Some(String::new()),
            features: Some(NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(true),
                user_namespaces: Some(false),
            }),
        }]),
        ..Default::default()
    }
}

/// The largest images first, as the kubelet reports them.
fn images(agent: &Agent) -> Vec<ContainerImage> {
    let mut all = agent.runtime.list_images();
    all.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    all.into_iter()
        .take(MAX_IMAGES)
        .map(|i| {
            let mut names: Vec<String> = i.repo_digests.into_iter().chain(i.repo_tags).collect();
            names.truncate(MAX_NAMES_PER_IMAGE);
            ContainerImage {
                names: Some(names),
                size_bytes: i64::try_from(i.size).ok(),
            }
        })
        .collect()
}

fn conditions(agent: &Agent) -> Vec<NodeCondition> {
    let now = now();
    let pressure = *agent.pressure.borrow();
    let node = agent.node.read();
    let old = node
        .as_ref()
        .and_then(|n| n.status.as_ref())
        .and_then(|s| s.conditions.as_deref())
        .unwrap_or_default();
    wanted_conditions(pressure)
        .into_iter()
        .map(|(type_, on, reason, message)| {
            let status = if on { "True" } else { "False" };
            let since = old
                .iter()
                .find(|c| c.type_ == type_ && c.status == status)
                .and_then(|c| c.last_transition_time.clone());
            NodeCondition {
                type_: type_.into(),
                status: status.into(),
                reason: Some(reason.into()),
                message: Some(message.into()),
                last_heartbeat_time: Some(now.clone()),
                last_transition_time: Some(since.unwrap_or_else(|| now.clone())),
            }
        })
        .collect()
}

type Wanted = (&'static str, bool, &'static str, &'static str);

fn wanted_conditions(p: Pressure) -> [Wanted; 4] {
    let either = |on: bool, yes: (&'static str, &'static str), no: (&'static str, &'static str)| {
        if on { yes } else { no }
    };
    let memory = either(
        p.memory,
        (
            "KubeletHasInsufficientMemory",
            "kubelet has insufficient memory available",
        ),
        (
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
    );
    let disk = either(
        p.disk,
        ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    );
    let pid = either(
        p.pid,
        (
            "KubeletHasInsufficientPID",
            "kubelet has insufficient PID available",
        ),
        (
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
        ),
    );
    [
        ("MemoryPressure", p.memory, memory.0, memory.1),
        ("DiskPressure", p.disk, disk.0, disk.1),
        ("PIDPressure", p.pid, pid.0, pid.1),
        (
            "Ready",
            true,
            "KubeletReady",
            "kubelet is posting ready status",
        ),
    ]
}

/// Keeps the node's lease fresh.
pub(crate) async fn renew_lease(agent: Arc<Agent>) -> anyhow::Result<()> {
    let api: Api<Lease> = Api::namespaced(agent.client.clone(), "kube-node-lease");
    let mut current: Option<Lease> = None;
    let mut failures = 0;
    loop {
        let done = match current.take() {
            Some(lease) => renew(&agent, &api, lease).await,
            None => acquire(&agent, &api).await,
        };
        match done {
            Ok(lease) => {
                // Without its owner the lease would outlive a deleted node.
                let owned = lease.metadata.owner_references.is_some();
                current = Some(lease);
                failures = 0;
                let pause = if owned {
                    LEASE_INTERVAL
                } else {
                    Duration::from_secs(1)
                };
                tokio::time::sleep(pause).await;
            }
            Err(e) => {
                debug!("node lease: {e}");
                // Fetched anew next time: another writer or a new cluster.
                tokio::time::sleep(retry_delay(failures)).await;
                failures += 1;
            }
        }
    }
}

fn lease_spec(agent: &Agent) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(agent.config.name.clone()),
        lease_duration_seconds: Some(LEASE_SECONDS),
        renew_time: Some(MicroTime(jiff::Timestamp::now())),
        ..Default::default()
    }
}

fn owner(agent: &Agent) -> Option<Vec<OwnerReference>> {
    let node = agent.node.read();
    let uid = node.as_ref()?.uid()?;
    Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: agent.config.name.clone(),
        uid,
        ..Default::default()
    }])
}

async fn acquire(agent: &Agent, api: &Api<Lease>) -> Result<Lease, kube::Error> {
    if let Some(lease) = api.get_opt(&agent.config.name).await? {
        return renew(agent, api, lease).await;
    }
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(agent.config.name.clone()),
            owner_references: owner(agent),
            ..Default::default()
        },
        spec: Some(lease_spec(agent)),
    };
    api.create(&PostParams::default(), &lease).await
}

async fn renew(agent: &Agent, api: &Api<Lease>, mut lease: Lease) -> Result<Lease, kube::Error> {
    lease.spec = Some(lease_spec(agent));
    if let Some(owner) = owner(agent) {
        lease.metadata.owner_references = Some(owner);
    }
    api.replace(&agent.config.name, &PostParams::default(), &lease)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_follow_the_pressure() {
        let calm = wanted_conditions(Pressure::default());
        assert_eq!(calm.map(|c| c.1), [false, false, false, true]);
        let tight = wanted_conditions(Pressure {
            memory: true,
            ..Default::default()
        });
        assert_eq!(tight[0].2, "KubeletHasInsufficientMemory");
    }

    #[test]
    fn cpu_is_whole_or_in_thousandths() {
        assert_eq!(cpu_quantity(2000).0, "2");
        assert_eq!(cpu_quantity(1500).0, "1500m");
    }
}
