//! Effective requests and limits of a pod, as in upstream's
//! `k8s.io/component-helpers/resource`.
//!
//! The containers and sidecars of a pod run together. An init container runs
//! with the sidecars that precede it, and the pod needs at least as much as its
//! most demanding init step. Pod-level amounts (`spec.resources`) replace the
//! sum for CPU, memory and huge pages. Overhead is added last; to limits only
//! where a limit exists.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;
use rkube_api::Object;
use rkube_api::quantity::Quantity;

use crate::tree;

/// Quantities by resource name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceList(pub BTreeMap<String, Quantity>);

impl ResourceList {
    /// Reads a map of an untyped object. Malformed quantities are omitted, since
    /// validation reports them.
    pub fn from_object(map: Option<&Object>) -> Self {
        let entries = map.and_then(Object::as_object).into_iter().flatten();
        Self(
            entries
                .filter_map(|(name, value)| Some((name.clone(), Quantity::from_value(value).ok()?)))
                .collect(),
        )
    }

    /// Reads a map of a typed object. Malformed quantities are omitted, since
    /// the API server accepts none.
    pub fn from_typed(map: Option<&BTreeMap<String, QuantityText>>) -> Self {
        let entries = map.into_iter().flatten();
        Self(
            entries
                .filter_map(|(name, text)| Some((name.clone(), Quantity::parse(&text.0).ok()?)))
                .collect(),
        )
    }

    /// Converts the list to a map of an untyped object, in canonical notation.
    pub fn to_object(&self) -> Object {
        let entries = self.0.iter();
        entries
            .map(|(name, amount)| (name.clone(), Object::from(amount.to_string())))
            .collect()
    }

    /// Converts the list to a map of a typed object, in canonical notation.
    pub fn to_typed(&self) -> BTreeMap<String, QuantityText> {
        let entries = self.0.iter();
        entries
            .map(|(name, amount)| (name.clone(), QuantityText(amount.to_string())))
            .collect()
    }

    /// Returns whether the list has no entry.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the amount of a resource, if it is listed.
    pub fn get(&self, name: &str) -> Option<Quantity> {
        self.0.get(name).copied()
    }

    /// Sets the amount of a resource.
    pub fn set(&mut self, name: &str, amount: Quantity) {
        self.0.insert(name.to_owned(), amount);
    }

    /// Adds each amount of another list.
    pub fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            match self.0.get_mut(name) {
                Some(sum) => *sum = sum.add(*amount),
                None => self.set(name, *amount),
            }
        }
    }

    /// Returns this list less another. Resources that only the other one lists
    /// become negative.
    pub fn minus(&self, other: &Self) -> Self {
        let mut rest = self.clone();
        for (name, amount) in &other.0 {
            match rest.0.get_mut(name) {
                Some(difference) => *difference = difference.sub(*amount),
                None => rest.set(name, amount.neg()),
            }
        }
        rest
    }

    /// Raises each amount to that of another list where the latter is greater.
    pub fn raise_to(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            match self.0.get_mut(name) {
                Some(present) if *present >= *amount => {}
                Some(present) => *present = *amount,
                None => self.set(name, *amount),
            }
        }
    }
}

/// The role of a container, which determines when it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerRole {
    /// A container in `spec.containers`.
    Regular,
    /// An init container that terminates before the next one starts.
    Init,
    /// A restartable init container, which runs until the pod ends.
    Sidecar,
}

/// Returns whether an init container is a sidecar (`restartPolicy: Always`).
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Returns whether an init container of an untyped pod is a sidecar.
pub fn is_sidecar_object(container: &Object) -> bool {
    tree::text(container, &["restartPolicy"]) == "Always"
}

/// Returns whether the resource is supported in pod-level requests and limits.
pub fn is_pod_level_resource(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_hugepages(name)
}

/// Returns whether the resource is huge pages of some size.
pub fn is_hugepages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Returns whether the resource is native to Kubernetes: without a domain, or with the domain
/// `kubernetes.io`.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Returns whether the resource is an extended one, which is counted in whole units and cannot be
/// overcommitted (upstream's `IsExtendedResourceName`).
pub fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && rkube_api::names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Returns the effective amounts of a pod's containers.
///
/// Init containers and sidecars must be in the order of `spec.initContainers`.
pub fn aggregate(
    containers: impl IntoIterator<Item = (ContainerRole, ResourceList)>,
) -> ResourceList {
    let mut total = ResourceList::default();
    let mut sidecars = ResourceList::default();
    let mut peak = ResourceList::default();
    for (role, mut amounts) in containers {
        match role {
            ContainerRole::Regular => total.add(&amounts),
            ContainerRole::Sidecar => {
                total.add(&amounts);
                sidecars.add(&amounts);
                peak.raise_to(&sidecars);
            }
            ContainerRole::Init => {
                amounts.add(&sidecars);
                peak.raise_to(&amounts);
            }
        }
    }
    total.raise_to(&peak);
    total
}

/// Replaces the sum of the containers by pod-level amounts, for the resources that support them.
pub fn apply_pod_level(total: &mut ResourceList, pod_level: &ResourceList) {
    for (name, amount) in &pod_level.0 {
        if is_pod_level_resource(name) {
            total.set(name, *amount);
        }
    }
}

/// Adds overhead to limits. Resources without a limit remain unlimited.
pub fn add_overhead_to_limits(limits: &mut ResourceList, overhead: &ResourceList) {
    for (name, amount) in &overhead.0 {
        if let Some(limit) = limits.0.get_mut(name)
            && !limit.is_zero()
        {
            *limit = limit.add(*amount);
        }
    }
}

/// Returns the requests of a container.
pub fn container_requests(container: &Container) -> ResourceList {
    ResourceList::from_typed(requirements_requests(container.resources.as_ref()))
}

/// Returns the limits of a container.
pub fn container_limits(container: &Container) -> ResourceList {
    ResourceList::from_typed(requirements_limits(container.resources.as_ref()))
}

fn requirements_requests(
    resources: Option<&ResourceRequirements>,
) -> Option<&BTreeMap<String, QuantityText>> {
    resources.and_then(|resources| resources.requests.as_ref())
}

fn requirements_limits(
    resources: Option<&ResourceRequirements>,
) -> Option<&BTreeMap<String, QuantityText>> {
    resources.and_then(|resources| resources.limits.as_ref())
}

/// Returns the effective amounts of a pod's containers, where `amounts_of` returns those of one
/// container.
pub fn aggregate_containers(
    spec: &PodSpec,
    amounts_of: impl Fn(&Container) -> ResourceList,
) -> ResourceList {
    let initial = spec.init_containers.iter().flatten().map(|container| {
        let role = if is_sidecar(container) {
            ContainerRole::Sidecar
        } else {
            ContainerRole::Init
        };
        (role, container)
    });
    let regular = spec
        .containers
        .iter()
        .map(|container| (ContainerRole::Regular, container));
    aggregate(
        initial
            .chain(regular)
            .map(|(role, container)| (role, amounts_of(container))),
    )
}

/// Returns the effective requests of a pod, overhead included.
pub fn pod_requests(spec: &PodSpec) -> ResourceList {
    pod_requests_with(spec, container_requests)
}

/// Returns the effective requests of a pod, overhead included, where `requests_of` returns those of
/// one container.
pub fn pod_requests_with(
    spec: &PodSpec,
    requests_of: impl Fn(&Container) -> ResourceList,
) -> ResourceList {
    let mut total = aggregate_containers(spec, requests_of);
    let pod_level = requirements_requests(spec.resources.as_ref());
    apply_pod_level(&mut total, &ResourceList::from_typed(pod_level));
    total.add(&ResourceList::from_typed(spec.overhead.as_ref()));
    total
}

/// Returns the effective limits of a pod, overhead included.
pub fn pod_limits(spec: &PodSpec) -> ResourceList {
    let mut total = aggregate_containers(spec, container_limits);
    let pod_level = requirements_limits(spec.resources.as_ref());
    apply_pod_level(&mut total, &ResourceList::from_typed(pod_level));
    let overhead = ResourceList::from_typed(spec.overhead.as_ref());
    add_overhead_to_limits(&mut total, &overhead);
    total
}

/// A field of `resources` in a container or pod spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `resources.requests`.
    Requests,
    /// `resources.limits`.
    Limits,
}

impl Side {
    /// Returns the name of the field.
    pub fn field(self) -> &'static str {
        match self {
            Side::Requests => "requests",
            Side::Limits => "limits",
        }
    }
}

/// Returns `resources.requests` or `resources.limits` of an untyped container or pod spec.
pub fn object_amounts(holder: &Object, side: Side) -> ResourceList {
    ResourceList::from_object(tree::at(holder, &["resources", side.field()]))
}

/// Returns the effective amounts of the containers of an untyped pod spec.
pub fn aggregate_object_containers(spec: &Object, side: Side) -> ResourceList {
    let initial = tree::items(spec, &["initContainers"])
        .iter()
        .map(|container| {
            let role = if is_sidecar_object(container) {
                ContainerRole::Sidecar
            } else {
                ContainerRole::Init
            };
            (role, container)
        });
    let regular = tree::items(spec, &["containers"])
        .iter()
        .map(|container| (ContainerRole::Regular, container));
    aggregate(
        initial
            .chain(regular)
            .map(|(role, container)| (role, object_amounts(container, side))),
    )
}

/// Returns the effective amounts of an untyped pod spec without overhead.
pub fn object_amounts_without_overhead(spec: &Object, side: Side) -> ResourceList {
    let mut total = aggregate_object_containers(spec, side);
    apply_pod_level(&mut total, &object_amounts(spec, side));
    total
}

/// Returns the effective requests of an untyped pod spec, overhead included.
pub fn object_requests(spec: &Object) -> ResourceList {
    let mut total = object_amounts_without_overhead(spec, Side::Requests);
    total.add(&ResourceList::from_object(spec.get("overhead")));
    total
}

/// Returns the effective limits of an untyped pod spec, overhead included.
pub fn object_limits(spec: &Object) -> ResourceList {
    let mut total = object_amounts_without_overhead(spec, Side::Limits);
    let overhead = ResourceList::from_object(spec.get("overhead"));
    add_overhead_to_limits(&mut total, &overhead);
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Asserts that the typed and untyped results agree, and returns them as strings.
    fn effective(spec: Object) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
        let typed: PodSpec = serde_json::from_value(spec.clone()).unwrap();
        let (requests, limits) = (pod_requests(&typed), pod_limits(&typed));
        assert_eq!(requests, object_requests(&spec));
        assert_eq!(limits, object_limits(&spec));
        let texts = |list: ResourceList| {
            let entries = list.0.into_iter();
            entries.map(|(name, q)| (name, q.to_string())).collect()
        };
        (texts(requests), texts(limits))
    }

    fn container(cpu: &str) -> Object {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}})
    }

    fn sidecar(cpu: &str) -> Object {
        let mut container = container(cpu);
        container["restartPolicy"] = json!("Always");
        container
    }

    fn texts(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        let entries = entries.iter();
        entries
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect()
    }

    #[test]
    fn init_containers_overlap_earlier_sidecars() {
        for (spec, expected) in [
            (
                json!({"containers": [container("1"), container("500m")]}),
                "1500m",
            ),
            (
                json!({"containers": [container("1")], "initContainers": [container("3")]}),
                "3",
            ),
            // First 3 alone, then 0.5 + 2, then 1 + 0.5.
            (
                json!({"containers": [container("1")],
                    "initContainers": [container("3"), sidecar("500m"), container("2")]}),
                "3",
            ),
            // The init container runs with the sidecar before it.
            (
                json!({"containers": [container("1"), container("1")],
                    "initContainers": [sidecar("2"), container("3")]}),
                "5",
            ),
            (
                json!({"containers": [container("1")],
                    "initContainers": [container("2"), sidecar("2"), sidecar("1")]}),
                "4",
            ),
        ] {
            let (requests, limits) = effective(spec);
            assert_eq!(requests, texts(&[("cpu", expected)]));
            assert_eq!(limits, texts(&[("cpu", expected)]));
        }
    }

    #[test]
    fn overhead_is_added_only_to_present_limits() {
        let (requests, limits) = effective(json!({
            "containers": [container("1")],
            "overhead": {"cpu": "250m", "memory": "10Mi"},
        }));
        assert_eq!(requests, texts(&[("cpu", "1250m"), ("memory", "10Mi")]));
        assert_eq!(limits, texts(&[("cpu", "1250m")]));
        let (_, limits) = effective(json!({
            "containers": [{"name": "c", "resources": {"limits": {"cpu": "0"}}}],
            "overhead": {"cpu": "250m"},
        }));
        assert_eq!(limits, texts(&[("cpu", "0")]));
    }

    #[test]
    fn pod_level_amounts_replace_the_sum() {
        let (requests, limits) = effective(json!({
            "containers": [{"name": "c", "resources": {
                "requests": {"cpu": "1", "memory": "1Gi", "example.com/gpu": "2"},
                "limits": {"cpu": "2", "example.com/gpu": "2"},
            }}],
            "resources": {
                "requests": {"cpu": "3", "hugepages-2Mi": "4Mi", "example.com/gpu": "9"},
                "limits": {"cpu": "5", "memory": "2Gi"},
            },
            "overhead": {"cpu": "100m"},
        }));
        assert_eq!(
            requests,
            texts(&[
                ("cpu", "3100m"),
                ("memory", "1Gi"),
                ("example.com/gpu", "2"),
                ("hugepages-2Mi", "4Mi"),
            ])
        );
        assert_eq!(
            limits,
            texts(&[
                ("cpu", "5100m"),
                ("memory", "2Gi"),
                ("example.com/gpu", "2")
            ])
        );
    }

    #[test]
    fn extended_names() {
        assert!(is_extended("example.com/gpu"));
        for name in [
            "cpu",
            "kubernetes.io/x",
            "requests.example.com/gpu",
            "a/b/c",
        ] {
            assert!(!is_extended(name), "{name}");
        }
    }
}
