//! Amounts of resources, as integers: thousandths of a core, bytes, pieces.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use rkube_api::quantity::Quantity;

/// What a container counts for in scores when it requests no CPU: a tenth of a core.
pub const DEFAULT_MILLI_CPU: i64 = 100;
/// What a container counts for in scores when it requests no memory: 200 MiB.
pub const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// An amount of each resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a core.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// Huge pages (bytes) and extended resources (pieces), by name.
    pub scalar: BTreeMap<String, i64>,
}

fn parse(text: &Text) -> Quantity {
    // The API server lets no malformed quantity pass.
    Quantity::parse(&text.0).unwrap_or(Quantity::ZERO)
}

impl Resources {
    /// Reads a resource list. Pods are counted apart.
    pub fn from_list(list: Option<&BTreeMap<String, Text>>) -> Self {
        let mut all = Resources::default();
        for (name, text) in list.into_iter().flatten() {
            let quantity = parse(text);
            match name.as_str() {
                "cpu" => all.milli_cpu = quantity.milli_value(),
                "memory" => all.memory = quantity.value(),
                "ephemeral-storage" => all.ephemeral_storage = quantity.value(),
                "pods" => {}
                _ => {
                    all.scalar.insert(name.clone(), quantity.value());
                }
            }
        }
        all
    }

    /// Adds another amount.
    pub fn add(&mut self, other: &Resources) {
        self.milli_cpu += other.milli_cpu;
        self.memory += other.memory;
        self.ephemeral_storage += other.ephemeral_storage;
        for (name, amount) in &other.scalar {
            *self.scalar.entry(name.clone()).or_default() += amount;
        }
    }

    /// Takes an amount away that was added before.
    pub fn subtract(&mut self, other: &Resources) {
        self.milli_cpu -= other.milli_cpu;
        self.memory -= other.memory;
        self.ephemeral_storage -= other.ephemeral_storage;
        for (name, amount) in &other.scalar {
            *self.scalar.entry(name.clone()).or_default() -= amount;
        }
    }

    /// Raises each amount to another's.
    pub fn raise(&mut self, other: &Resources) {
        self.milli_cpu = self.milli_cpu.max(other.milli_cpu);
        self.memory = self.memory.max(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.max(other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            let entry = self.scalar.entry(name.clone()).or_default();
            *entry = (*entry).max(*amount);
        }
    }

    /// Is nothing asked for?
    pub fn is_zero(&self) -> bool {
        self.milli_cpu == 0
            && self.memory == 0
            && self.ephemeral_storage == 0
            && self.scalar.values().all(|n| *n == 0)
    }
}

/// The pods a node may run, from its allocatable list.
pub fn allowed_pods(list: Option<&BTreeMap<String, Text>>) -> i64 {
    list.and_then(|l| l.get("pods"))
        .map_or(0, |t| parse(t).value())
}

/// Is the init container a sidecar?
fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What a pod takes of its node: the containers and sidecars together, or the
/// moment of an init container that takes more, plus the runtime's overhead.
/// Pod-level requests override the sum for CPU, memory and huge pages.
///
/// With `scored`, a container without a request counts for the defaults.
pub fn pod_requests(spec: &PodSpec, status: Option<&PodStatus>, scored: bool) -> Resources {
    // A resize that the node has not made yet counts as the greater of both.
    let granted = |name: &str| {
        status
            .and_then(|s| s.container_statuses.as_ref())
            .into_iter()
            .flatten()
            .find(|s| s.name == name)
            .and_then(|s| s.allocated_resources.as_ref())
    };
    let of = |container: &Container| {
        let requests = container
            .resources
            .as_ref()
            .and_then(|r| r.requests.as_ref());
        let mut own = Resources::from_list(requests);
        if let Some(granted) = granted(&container.name) {
            own.raise(&Resources::from_list(Some(granted)));
        }
        if scored {
            let has = |name: &str| requests.is_some_and(|r| r.contains_key(name));
            if !has("cpu") {
                own.milli_cpu = DEFAULT_MILLI_CPU;
            }
            if !has("memory") {
                own.memory = DEFAULT_MEMORY;
            }
        }
        own
    };
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&of(container));
    }
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let own = of(container);
        if is_sidecar(container) {
            total.add(&own);
            sidecars.add(&own);
            peak.raise(&sidecars);
        } else {
            let mut moment = sidecars.clone();
            moment.add(&own);
            peak.raise(&moment);
        }
    }
    total.raise(&peak);
    if let Some(requests) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        let own = Resources::from_list(Some(requests));
        if requests.contains_key("cpu") {
            total.milli_cpu = own.milli_cpu;
        }
        if requests.contains_key("memory") {
            total.memory = own.memory;
        }
        for (name, amount) in own.scalar {
            if name.starts_with("hugepages-") {
                total.scalar.insert(name, amount);
            }
        }
    }
    total.add(&Resources::from_list(spec.overhead.as_ref()));
    total
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
        // The first runs alone (3); later 0.5 + 2; then 1 + 0.5.
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
