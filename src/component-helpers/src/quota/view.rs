//! The fields of objects that affect quotas.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodAffinityTerm, Service};
use rkube_api::quantity::Quantity;
use rkube_api::{Object, meta};

use crate::qos::{self, QosClass};
use crate::resource::{self, ResourceList};
use crate::tree;

/// Annotation with the storage class on older claims.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// The charged fields of an object.
#[derive(Clone, Debug)]
pub enum Charged<'a> {
    /// A pod.
    Pod(PodView<'a>),
    /// A service.
    Service(ServiceView),
    /// A persistent volume claim.
    Claim(ClaimView<'a>),
    /// An object of another kind, which is only counted.
    Other,
}

/// The charged fields of a pod.
#[derive(Clone, Debug)]
pub struct PodView<'a> {
    /// Effective requests, overhead included.
    pub requests: ResourceList,
    /// Effective limits, overhead included.
    pub limits: ResourceList,
    /// Whether `spec.activeDeadlineSeconds` is set.
    pub has_deadline: bool,
    /// Whether its quality of service class is `BestEffort`.
    pub is_best_effort: bool,
    /// Whether a pod affinity term selects pods of other namespaces.
    pub has_cross_namespace_affinity: bool,
    /// `spec.priorityClassName`, or empty.
    pub priority_class: &'a str,
    /// Whether it is terminal or its deletion is overdue, so that it no longer counts.
    pub is_over: bool,
}

/// The charged fields of a service.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServiceView {
    /// Number of load balancers that it uses.
    pub load_balancers: usize,
    /// Number of node ports that it uses.
    pub node_ports: usize,
}

/// The charged fields of a persistent volume claim.
#[derive(Clone, Debug, Default)]
pub struct ClaimView<'a> {
    /// Name of the storage class, or empty.
    pub class: &'a str,
    /// Requested storage.
    pub requested: Option<Quantity>,
    /// Allocated storage.
    pub allocated: Option<Quantity>,
    /// Names of its current and target volume attributes classes.
    pub attribute_classes: BTreeSet<&'a str>,
}

/// Returns whether a pod no longer counts: it is terminal, or its deletion should have been
/// completed before `now`.
fn is_over(
    phase: &str,
    deletion: Option<Timestamp>,
    grace_seconds: Option<i64>,
    now: Timestamp,
) -> bool {
    if matches!(phase, "Failed" | "Succeeded") {
        return true;
    }
    let (Some(deletion), Some(grace)) = (deletion, grace_seconds) else {
        return false;
    };
    let end = deletion.checked_add(SignedDuration::from_secs(grace));
    end.is_ok_and(|end| now > end)
}

fn is_best_effort(status: &str, compute: impl FnOnce() -> QosClass) -> bool {
    QosClass::parse(status).unwrap_or_else(compute) == QosClass::BestEffort
}

fn has_deadline(seconds: Option<i64>) -> bool {
    seconds.is_some_and(|seconds| seconds >= 0)
}

impl<'a> PodView<'a> {
    /// Extracts the fields of a typed pod.
    pub fn new(pod: &'a Pod, now: Timestamp) -> Self {
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let class = status.and_then(|status| status.qos_class.as_deref());
        let phase = status.and_then(|status| status.phase.as_deref());
        let metadata = &pod.metadata;
        PodView {
            requests: spec.map(resource::pod_requests).unwrap_or_default(),
            limits: spec.map(resource::pod_limits).unwrap_or_default(),
            has_deadline: has_deadline(spec.and_then(|spec| spec.active_deadline_seconds)),
            is_best_effort: is_best_effort(class.unwrap_or_default(), || {
                spec.map_or(QosClass::BestEffort, qos::pod_class)
            }),
            has_cross_namespace_affinity: affinity_terms(pod).any(|term| {
                let namespaces = term.namespaces.as_deref().unwrap_or_default();
                !namespaces.is_empty() || term.namespace_selector.is_some()
            }),
            priority_class: spec
                .and_then(|spec| spec.priority_class_name.as_deref())
                .unwrap_or_default(),
            is_over: is_over(
                phase.unwrap_or_default(),
                metadata.deletion_timestamp.as_ref().map(|time| time.0),
                metadata.deletion_grace_period_seconds,
                now,
            ),
        }
    }

    /// Extracts the fields of an untyped pod.
    pub fn from_object(pod: &'a Object, now: Timestamp) -> Self {
        let spec = pod.get("spec").unwrap_or(&Object::Null);
        let text = |path| tree::text(pod, path);
        PodView {
            requests: resource::object_requests(spec),
            limits: resource::object_limits(spec),
            has_deadline: has_deadline(spec.get("activeDeadlineSeconds").and_then(Object::as_i64)),
            is_best_effort: is_best_effort(text(&["status", "qosClass"]), || {
                qos::object_class(spec)
            }),
            has_cross_namespace_affinity: object_affinity_terms(spec).any(|term| {
                !tree::items(term, &["namespaces"]).is_empty()
                    || term.get("namespaceSelector").is_some_and(Object::is_object)
            }),
            priority_class: text(&["spec", "priorityClassName"]),
            is_over: is_over(
                text(&["status", "phase"]),
                meta::deletion_timestamp(pod).and_then(meta::parse_time),
                meta::deletion_grace_period_seconds(pod),
                now,
            ),
        }
    }
}

fn affinity_terms(pod: &Pod) -> impl Iterator<Item = &PodAffinityTerm> {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let near = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
    let apart = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    let near_required = near
        .and_then(|terms| {
            terms
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        })
        .into_iter()
        .flatten();
    let near_preferred = near
        .and_then(|terms| {
            terms
                .preferred_during_scheduling_ignored_during_execution
                .as_ref()
        })
        .into_iter()
        .flatten();
    let apart_required = apart
        .and_then(|terms| {
            terms
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        })
        .into_iter()
        .flatten();
    let apart_preferred = apart
        .and_then(|terms| {
            terms
                .preferred_during_scheduling_ignored_during_execution
                .as_ref()
        })
        .into_iter()
        .flatten();
    let preferred = near_preferred.chain(apart_preferred);
    near_required
        .chain(apart_required)
        .chain(preferred.map(|weighted| &weighted.pod_affinity_term))
}

fn object_affinity_terms(spec: &Object) -> impl Iterator<Item = &Object> {
    let kinds = ["podAffinity", "podAntiAffinity"].into_iter();
    kinds.flat_map(|kind| {
        let terms = |field| tree::items(spec, &["affinity", kind, field]).iter();
        let preferred = terms("preferredDuringSchedulingIgnoredDuringExecution");
        terms("requiredDuringSchedulingIgnoredDuringExecution")
            .chain(preferred.filter_map(|weighted| weighted.get("podAffinityTerm")))
    })
}

impl ServiceView {
    fn of(type_: &str, allocates: bool, ports: usize, with_node_port: usize) -> Self {
        let (load_balancers, node_ports) = match type_ {
            "NodePort" => (0, ports),
            "LoadBalancer" if allocates => (1, ports),
            "LoadBalancer" => (1, with_node_port),
            _ => (0, 0),
        };
        ServiceView {
            load_balancers,
            node_ports,
        }
    }

    /// Extracts the fields of a typed service.
    pub fn new(service: &Service) -> Self {
        let Some(spec) = service.spec.as_ref() else {
            return ServiceView::default();
        };
        let ports = spec.ports.as_deref().unwrap_or_default();
        let with_node_port = ports.iter().filter(|port| port.node_port.unwrap_or(0) != 0);
        ServiceView::of(
            spec.type_.as_deref().unwrap_or_default(),
            spec.allocate_load_balancer_node_ports != Some(false),
            ports.len(),
            with_node_port.count(),
        )
    }

    /// Extracts the fields of an untyped service.
    pub fn from_object(service: &Object) -> Self {
        let ports = tree::items(service, &["spec", "ports"]);
        let with_node_port = ports.iter().filter(|port| {
            let number = port.get("nodePort").and_then(Object::as_i64);
            number.is_some_and(|number| number != 0)
        });
        let allocates = tree::at(service, &["spec", "allocateLoadBalancerNodePorts"]);
        ServiceView::of(
            tree::text(service, &["spec", "type"]),
            allocates.and_then(Object::as_bool) != Some(false),
            ports.len(),
            with_node_port.count(),
        )
    }
}

impl<'a> ClaimView<'a> {
    /// Extracts the fields of a typed claim.
    pub fn new(claim: &'a PersistentVolumeClaim) -> Self {
        let spec = claim.spec.as_ref();
        let status = claim.status.as_ref();
        let annotations = claim.metadata.annotations.as_ref();
        let annotated = annotations.and_then(|all| all.get(CLASS_ANNOTATION));
        let class = annotated.or(spec.and_then(|spec| spec.storage_class_name.as_ref()));
        let storage = |list| ResourceList::from_typed(list).get("storage");
        let resources = spec.and_then(|spec| spec.resources.as_ref());
        let target = status
            .and_then(|status| status.modify_volume_status.as_ref())
            .and_then(|modify| modify.target_volume_attributes_class_name.as_deref());
        let attribute_classes = [
            spec.and_then(|spec| spec.volume_attributes_class_name.as_deref()),
            status.and_then(|status| status.current_volume_attributes_class_name.as_deref()),
            target,
        ];
        ClaimView {
            class: class.map(String::as_str).unwrap_or_default(),
            requested: storage(resources.and_then(|all| all.requests.as_ref())),
            allocated: storage(status.and_then(|status| status.allocated_resources.as_ref())),
            attribute_classes: attribute_classes
                .into_iter()
                .flatten()
                .filter(|name| !name.is_empty())
                .collect(),
        }
    }

    /// Extracts the fields of an untyped claim.
    pub fn from_object(claim: &'a Object) -> Self {
        let storage = |path| ResourceList::from_object(tree::at(claim, path)).get("storage");
        let class = meta::annotation(claim, CLASS_ANNOTATION)
            .unwrap_or_else(|| tree::text(claim, &["spec", "storageClassName"]));
        let paths: [&[&str]; 3] = [
            &["spec", "volumeAttributesClassName"],
            &["status", "currentVolumeAttributesClassName"],
            &[
                "status",
                "modifyVolumeStatus",
                "targetVolumeAttributesClassName",
            ],
        ];
        ClaimView {
            class,
            requested: storage(&["spec", "resources", "requests"]),
            allocated: storage(&["status", "allocatedResources"]),
            attribute_classes: paths
                .into_iter()
                .map(|path| tree::text(claim, path))
                .filter(|name| !name.is_empty())
                .collect(),
        }
    }
}
