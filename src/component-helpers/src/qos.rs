//! Quality-of-service class of pods, as in upstream's `ComputePodQOS`.

use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
use rkube_api::Object;
use rkube_api::quantity::Quantity;

use crate::resource::{ResourceList, Side, object_amounts};
use crate::tree;

/// A quality-of-service class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QosClass {
    /// Every container has limits of CPU and memory, equal to its requests.
    Guaranteed,
    /// Some container requests or limits CPU or memory.
    Burstable,
    /// No container requests or limits CPU or memory.
    BestEffort,
}

impl QosClass {
    /// Returns the value of `status.qosClass` for this class.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// Parses a value of `status.qosClass`.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Guaranteed, Self::Burstable, Self::BestEffort]
            .into_iter()
            .find(|class| class.as_str() == name)
    }
}

/// Resources that determine the class.
const COMPUTE: [&str; 2] = ["cpu", "memory"];

/// Computes the class from pairs of requests and limits.
///
/// Callers pass those of the pod if it has any, otherwise those of each container and init
/// container.
pub fn compute(holders: impl IntoIterator<Item = (ResourceList, ResourceList)>) -> QosClass {
    let mut requests = [Quantity::ZERO; COMPUTE.len()];
    let mut limits = [Quantity::ZERO; COMPUTE.len()];
    let mut all_limited = true;
    for (own_requests, own_limits) in holders {
        for (i, name) in COMPUTE.into_iter().enumerate() {
            let positive = |list: &ResourceList| list.get(name).filter(|q| q.sign() > 0);
            if let Some(request) = positive(&own_requests) {
                requests[i] = requests[i].add(request);
            }
            match positive(&own_limits) {
                Some(limit) => limits[i] = limits[i].add(limit),
                None => all_limited = false,
            }
        }
    }
    if requests.iter().chain(&limits).all(Quantity::is_zero) {
        QosClass::BestEffort
    } else if all_limited && requests == limits {
        QosClass::Guaranteed
    } else {
        QosClass::Burstable
    }
}

fn amounts(resources: Option<&ResourceRequirements>) -> (ResourceList, ResourceList) {
    let list = |map| ResourceList::from_typed(map);
    (
        list(resources.and_then(|resources| resources.requests.as_ref())),
        list(resources.and_then(|resources| resources.limits.as_ref())),
    )
}

/// Computes the class of a pod.
pub fn pod_class(spec: &PodSpec) -> QosClass {
    let (requests, limits) = amounts(spec.resources.as_ref());
    if !requests.is_empty() || !limits.is_empty() {
        return compute([(requests, limits)]);
    }
    let containers = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers);
    compute(containers.map(|container| amounts(container.resources.as_ref())))
}

/// Computes the class of an untyped pod spec.
pub fn object_class(spec: &Object) -> QosClass {
    let amounts = |holder: &Object| {
        (
            object_amounts(holder, Side::Requests),
            object_amounts(holder, Side::Limits),
        )
    };
    let (requests, limits) = amounts(spec);
    if !requests.is_empty() || !limits.is_empty() {
        return compute([(requests, limits)]);
    }
    let containers = ["containers", "initContainers"]
        .into_iter()
        .flat_map(|field| tree::items(spec, &[field]));
    compute(containers.map(amounts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes() {
        let container = |requests: Object, limits: Object| json!({"name": "c", "resources": {"requests": requests, "limits": limits}});
        let none = json!({});
        let full = json!({"cpu": "1", "memory": "1Gi"});
        let cpu = json!({"cpu": "1"});
        let guaranteed = container(full.clone(), full.clone());
        for (spec, class) in [
            (json!({"containers": [{"name": "c"}]}), QosClass::BestEffort),
            (
                json!({"containers": [container(json!({"cpu": "0"}), none.clone())]}),
                QosClass::BestEffort,
            ),
            (
                json!({"containers": [container(json!({"example.com/gpu": "1"}), none.clone())]}),
                QosClass::BestEffort,
            ),
            (json!({"containers": [guaranteed]}), QosClass::Guaranteed),
            (
                json!({"containers": [guaranteed, {"name": "d"}]}),
                QosClass::Burstable,
            ),
            (
                json!({"containers": [guaranteed], "initContainers": [{"name": "d"}]}),
                QosClass::Burstable,
            ),
            (
                json!({"containers": [container(cpu.clone(), none.clone())]}),
                QosClass::Burstable,
            ),
            (
                json!({"containers": [container(cpu.clone(), cpu.clone())]}),
                QosClass::Burstable,
            ),
            (
                json!({"containers": [{"name": "c"}], "resources": {"requests": full, "limits": full}}),
                QosClass::Guaranteed,
            ),
            (
                json!({"containers": [guaranteed], "resources": {"requests": cpu}}),
                QosClass::Burstable,
            ),
        ] {
            assert_eq!(object_class(&spec), class, "{spec}");
            let typed = serde_json::from_value(spec.clone()).unwrap();
            assert_eq!(pod_class(&typed), class, "{spec}");
        }
    }

    #[test]
    fn names() {
        for class in ["Guaranteed", "Burstable", "BestEffort"] {
            assert_eq!(QosClass::parse(class).unwrap().as_str(), class);
        }
        assert_eq!(QosClass::parse(""), None);
    }
}
