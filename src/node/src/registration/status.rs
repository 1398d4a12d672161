//! Builds the `Node` object and its status.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSystemInfo,
};
use rkube_config::{NodeConfig, ports};
use rkube_plugins::devices::Capacity;
use rkube_runtime::ImageStatus;

use crate::eviction::types::signed;
use crate::host::Host;
use crate::kinds::*;
use crate::pods::unsupported::RUNTIME_HANDLERS;
use crate::pressure::Pressure;

/// Maximum number of images in the status (the kubelet's default).
const MAX_IMAGES: usize = 50;
/// Maximum number of names per image in the status.
const MAX_NAMES_PER_IMAGE: usize = 5;

/// The variable inputs of the node's status.
pub(super) struct NodeState<'a> {
    /// The object as the API server last returned it.
    pub node: Option<&'a Node>,
    pub pressure: Pressure,
    pub images: Vec<ImageStatus>,
    /// Whether pods can have user namespaces.
    pub user_namespaces: bool,
    /// What device plugins offer.
    pub devices: Capacity,
    pub now: Time,
}

/// Returns the `Node` object for registration.
pub(super) fn node(host: &Host, state: &NodeState<'_>) -> Node {
    let config = &host.config;
    let architecture = host.machine.architecture;
    // No role labels: NodeRestriction forbids a node to set them; the control plane does.
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
    let pod_cidrs: Vec<String> = config.pod_cidrs().iter().map(ToString::to_string).collect();
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
            pod_cidr: pod_cidrs.first().cloned(),
            pod_cidrs: Some(pod_cidrs),
            provider_id: Some(config.provider_id.clone()),
            ..Default::default()
        }),
        status: Some(status(host, state)),
    }
}

fn cpu_quantity(millis: i64) -> Quantity {
    if millis % 1000 == 0 {
        Quantity((millis / 1000).to_string())
    } else {
        Quantity(format!("{millis}m"))
    }
}

/// Adds numbers of devices. A resource whose plugin is gone for good stays, with none.
fn with_devices(
    mut resources: BTreeMap<String, Quantity>,
    devices: &Capacity,
    number: impl Fn((u64, u64)) -> u64,
) -> BTreeMap<String, Quantity> {
    for name in &devices.removed {
        resources.insert(name.clone(), Quantity("0".into()));
    }
    for (name, counts) in &devices.resources {
        resources.insert(name.clone(), Quantity(number(*counts).to_string()));
    }
    resources
}

/// Returns the node's addresses and its name.
fn addresses(config: &NodeConfig) -> Vec<NodeAddress> {
    let address = |type_: &str, address: String| NodeAddress {
        type_: type_.into(),
        address,
    };
    let ips = config.ips().into_iter();
    ips.map(|ip| address("InternalIP", ip.to_string()))
        .chain([address("Hostname", config.name.clone())])
        .collect()
}

/// Returns the node's status.
pub(super) fn status(host: &Host, state: &NodeState<'_>) -> NodeStatus {
    let config = &host.config;
    let m = &host.machine;
    let a = host.allocatable();
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
        addresses: Some(addresses(config)),
        capacity: Some(with_devices(
            resources(
                signed(m.cpu_millis),
                signed(m.memory_bytes),
                Quantity(format!("{}Ki", m.storage_bytes / 1024)),
            ),
            &state.devices,
            |(all, _)| all,
        )),
        allocatable: Some(with_devices(
            resources(a.cpu_millis, a.memory, Quantity(a.storage.to_string())),
            &state.devices,
            |(_, healthy)| healthy,
        )),
        conditions: Some(conditions(state)),
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
        images: Some(images(state.images.clone())),
        runtime_handlers: Some(runtime_handlers(state.user_namespaces)),
        features: Some(NodeFeatures {
            supplemental_groups_policy: Some(true),
        }),
        ..Default::default()
    }
}

/// Returns the runtime's handlers: the default one, without a name, and those that a
/// `RuntimeClass` may select.
fn runtime_handlers(user_namespaces: bool) -> Vec<NodeRuntimeHandler> {
    std::iter::once("")
        .chain(RUNTIME_HANDLERS)
        .map(|name| NodeRuntimeHandler {
            name: Some(name.into()),
            features: Some(NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(true),
                user_namespaces: Some(user_namespaces),
            }),
        })
        .collect()
}

/// Returns the largest images, as the kubelet reports them.
fn images(mut all: Vec<ImageStatus>) -> Vec<ContainerImage> {
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

/// Returns the node's conditions. A transition time is kept until the condition's status changes.
fn conditions(state: &NodeState<'_>) -> Vec<NodeCondition> {
    let old = state
        .node
        .and_then(|n| n.status.as_ref())
        .and_then(|s| s.conditions.as_deref())
        .unwrap_or_default();
    wanted_conditions(state.pressure)
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
                last_heartbeat_time: Some(state.now.clone()),
                last_transition_time: Some(since.unwrap_or_else(|| state.now.clone())),
            }
        })
        .collect()
}

/// A condition's type, value, reason and message.
type ConditionSpec = (&'static str, bool, &'static str, &'static str);

fn wanted_conditions(p: Pressure) -> [ConditionSpec; 4] {
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

/// Whether a condition that this node reports is unknown, which only the node controller says of
/// a node that does not renew its lease.
pub(super) fn is_given_up(node: &Node) -> bool {
    let conditions = node
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    conditions
        .filter(|c| c.status == "Unknown")
        .any(|c| c.reason.as_deref() == Some("NodeStatusUnknown"))
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
    fn devices_count_if_they_are_there_and_may_be_used_if_healthy() {
        let devices = Capacity {
            resources: [("e.com/a".to_owned(), (3, 2))].into(),
            removed: ["e.com/b".to_owned()].into(),
        };
        let numbers = |number: fn((u64, u64)) -> u64| {
            let all = with_devices(BTreeMap::new(), &devices, number);
            all.into_iter()
                .map(|(name, q)| (name, q.0))
                .collect::<Vec<_>>()
        };
        let b = ("e.com/b".to_owned(), "0".to_owned());
        assert_eq!(
            numbers(|n| n.0),
            [("e.com/a".to_owned(), "3".to_owned()), b.clone()]
        );
        assert_eq!(
            numbers(|n| n.1),
            [("e.com/a".to_owned(), "2".to_owned()), b]
        );
    }

    #[test]
    fn cpu_is_whole_or_in_thousandths() {
        assert_eq!(cpu_quantity(2000).0, "2");
        assert_eq!(cpu_quantity(1500).0, "1500m");
    }

    fn state(node: Option<&Node>, seconds: i64) -> NodeState<'_> {
        NodeState {
            node,
            pressure: Pressure::default(),
            images: vec![],
            user_namespaces: true,
            devices: Capacity::default(),
            now: Time(jiff::Timestamp::from_second(seconds).unwrap()),
        }
    }

    #[test]
    fn transitions_keep_their_time() {
        let old = Node {
            status: Some(NodeStatus {
                conditions: Some(conditions(&state(None, 100))),
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut later = state(Some(&old), 200);
        later.pressure.disk = true;
        let conditions = conditions(&later);
        let times = |type_: &str| {
            let c = conditions.iter().find(|c| c.type_ == type_).unwrap();
            let second = |t: &Option<Time>| t.as_ref().unwrap().0.as_second();
            (
                second(&c.last_heartbeat_time),
                second(&c.last_transition_time),
            )
        };
        assert_eq!(times("Ready"), (200, 100));
        assert_eq!(times("DiskPressure"), (200, 200));
    }

    #[test]
    fn a_node_that_was_given_up_is_told() {
        let mut node = Node {
            status: Some(NodeStatus {
                conditions: Some(conditions(&state(None, 100))),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert!(!is_given_up(&node));
        let conditions = node.status.as_mut().unwrap().conditions.as_mut().unwrap();
        for condition in conditions {
            condition.status = "Unknown".into();
            condition.reason = Some("NodeStatusUnknown".into());
        }
        assert!(is_given_up(&node));
    }

    #[test]
    fn the_largest_images_are_listed() {
        let image = |id: &str, size, tags: usize| ImageStatus {
            id: id.into(),
            size,
            repo_digests: vec![format!("{id}@sha256:0")],
            repo_tags: (0..tags).map(|i| format!("{id}:{i}")).collect(),
            ..Default::default()
        };
        let listed = images(vec![image("b", 1, 1), image("a", 1, 0), image("c", 9, 9)]);
        let names: Vec<&str> = listed
            .iter()
            .map(|i| i.names.as_ref().unwrap()[0].as_str())
            .collect();
        assert_eq!(names, ["c@sha256:0", "a@sha256:0", "b@sha256:0"]);
        assert_eq!(listed[0].names.as_ref().unwrap().len(), MAX_NAMES_PER_IMAGE);
        assert_eq!(listed[0].size_bytes, Some(9));
        let many = (0..60).map(|i| image(&i.to_string(), i, 1)).collect();
        assert_eq!(images(many).len(), MAX_IMAGES);
    }
}
