//! Resource amounts as integers: millicores, bytes and counts.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;
use rkube_api::quantity::{Format, Quantity};
use rkube_component_helpers::resource::{self, ResourceList};

/// CPU that scores assume for a container without a CPU request: a tenth of a core.
pub const DEFAULT_MILLI_CPU: i64 = 100;
/// Memory in bytes that scores assume for a container without a memory request: 200 MiB.
pub const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// The largest amount that a list can have. Larger ones exceed every node in any case; limiting
/// them lets the amounts of thousands of pods be added without overflow.
const MAX_AMOUNT: i64 = i64::MAX / 4096;

/// Amounts of resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// CPU in millicores.
    pub milli_cpu: i64,
    /// Memory in bytes.
    pub memory: i64,
    /// Ephemeral storage in bytes.
    pub ephemeral_storage: i64,
    /// Huge pages in bytes and extended resources as counts, by name.
    pub scalar: BTreeMap<String, i64>,
}

impl From<&ResourceList> for Resources {
    /// Converts a list of quantities. The resource `pods` is ignored; see [`allowed_pods`].
    fn from(list: &ResourceList) -> Self {
        let mut all = Resources::default();
        let bounded = |amount: i64| amount.clamp(-MAX_AMOUNT, MAX_AMOUNT);
        for (name, quantity) in &list.0 {
            match name.as_str() {
                "cpu" => all.milli_cpu = bounded(quantity.milli_value()),
                "memory" => all.memory = bounded(quantity.value()),
                "ephemeral-storage" => all.ephemeral_storage = bounded(quantity.value()),
                "pods" => {}
                _ => {
                    all.scalar.insert(name.clone(), bounded(quantity.value()));
                }
            }
        }
        all
    }
}

impl Resources {
    /// Reads a resource list. The resource `pods` is ignored; see [`allowed_pods`].
    pub fn from_list(list: Option<&BTreeMap<String, QuantityText>>) -> Self {
        Resources::from(&ResourceList::from_typed(list))
    }

    /// Adds other amounts.
    ///
    /// Wraps around on overflow, so that [`Resources::subtract`] restores the former amounts.
    pub fn add(&mut self, other: &Resources) {
        self.combine(other, i64::wrapping_add);
    }

    /// Subtracts amounts that were added before.
    pub fn subtract(&mut self, other: &Resources) {
        self.combine(other, i64::wrapping_sub);
    }

    fn combine(&mut self, other: &Resources, with: fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            let own = self.scalar.entry(name.clone()).or_default();
            *own = with(*own, *amount);
        }
    }

    /// Returns whether all amounts are zero.
    pub fn is_zero(&self) -> bool {
        self.milli_cpu == 0
            && self.memory == 0
            && self.ephemeral_storage == 0
            && self.scalar.values().all(|n| *n == 0)
    }
}

/// Returns the number of pods in an allocatable list, or 0 if it has none.
pub fn allowed_pods(list: Option<&BTreeMap<String, QuantityText>>) -> i64 {
    ResourceList::from_typed(list)
        .get("pods")
        .map_or(0, |pods| pods.value())
}

/// Returns the effective requests of a pod. For a container with allocated resources in its status,
/// the greater of request and allocation counts, which covers pending resizes.
///
/// If `scored` is set, containers without a CPU or memory request count with the defaults.
pub fn pod_requests(spec: &PodSpec, status: Option<&PodStatus>, scored: bool) -> Resources {
    let allocated = |name: &str| {
        let mut statuses = status
            .and_then(|status| status.container_statuses.as_ref())
            .into_iter()
            .flatten();
        statuses
            .find(|status| status.name == name)
            .and_then(|status| status.allocated_resources.as_ref())
    };
    let requests_of = |container: &Container| {
        let requests = resource::container_requests(container);
        let mut counted = requests.clone();
        if let Some(allocated) = allocated(&container.name) {
            counted.raise_to(&ResourceList::from_typed(Some(allocated)));
        }
        if scored {
            if requests.get("cpu").is_none() {
                let default = Quantity::from_milli(DEFAULT_MILLI_CPU, Format::DecimalSi);
                counted.set("cpu", default);
            }
            if requests.get("memory").is_none() {
                counted.set("memory", Quantity::new(DEFAULT_MEMORY, Format::BinarySi));
            }
        }
        counted
    };
    Resources::from(&resource::pod_requests_with(spec, requests_of))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(value: serde_json::Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn init_containers_overlap_sidecars() {
        let c = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = c("500m");
        sidecar["restartPolicy"] = json!("Always");
        let s = spec(
            json!({"containers": [c("1")], "initContainers": [c("3"), sidecar, c("2")],
            "overhead": {"cpu": "10m"}}),
        );
        // First 3 alone, then 0.5 + 2, then 1 + 0.5; overhead is added to the maximum.
        assert_eq!(pod_requests(&s, None, false).milli_cpu, 3010);
    }

    #[test]
    fn defaults_count_in_scores_only() {
        let s = spec(
            json!({"containers": [{"name": "a"}, {"name": "b", "resources": {"requests": {"cpu": "0"}}}]}),
        );
        assert!(pod_requests(&s, None, false).is_zero());
        let scored = pod_requests(&s, None, true);
        assert_eq!(scored.milli_cpu, DEFAULT_MILLI_CPU);
        assert_eq!(scored.memory, 2 * DEFAULT_MEMORY);
    }

    #[test]
    fn pod_level_requests_override() {
        let s = spec(
            json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "1", "example.com/gpu": "2"}}}],
            "resources": {"requests": {"cpu": "3"}}}),
        );
        let r = pod_requests(&s, None, false);
        assert_eq!(r.milli_cpu, 3000);
        assert_eq!(r.scalar["example.com/gpu"], 2);
    }
}
