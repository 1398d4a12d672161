//! Cases of the allocator: many follow upstream's own tests, others are ours.

mod capacity;
mod devices;
mod lists;
mod pools;

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::resource::v1::{AllocationResult, DeviceClass, ResourceClaim, ResourceSlice};
use rkube_component_helpers::label_selector::Labels;
use serde_json::{Value, json};

use crate::{AllocatedState, Allocator, DeviceId, Failure, Node, Selectors, World};

/// The objects of a case.
#[derive(Default)]
pub(super) struct Case {
    pub claims: Vec<Value>,
    pub slices: Vec<Value>,
    pub allocated: AllocatedState,
    /// Classes beside `class-a` and `class-b`.
    pub classes: Vec<Value>,
    /// Number of the node: 1 unless given.
    pub node: Option<u8>,
}

struct Classes(HashMap<String, DeviceClass>);

impl World for Classes {
    fn class(&self, name: &str) -> Option<&DeviceClass> {
        self.0.get(name)
    }

    fn new_uid(&self) -> String {
        "share".to_owned()
    }
}

pub(super) fn class(name: &str, expression: &str) -> Value {
    json!({"metadata": {"name": name},
        "spec": {"selectors": [{"cel": {"expression": expression}}]}})
}

impl Case {
    pub(super) fn of(claims: &[Value], slices: &[Value]) -> Self {
        Self {
            claims: claims.to_vec(),
            slices: slices.to_vec(),
            ..Self::default()
        }
    }

    /// Marks a device of `driver-a` as allocated.
    pub(super) fn without(mut self, pool: &str, device: &str) -> Self {
        self.allocated
            .dedicate(DeviceId::new("driver-a", pool, device));
        self
    }

    pub(super) fn on_node(mut self, node: u8) -> Self {
        self.node = Some(node);
        self
    }

    pub(super) fn with_class(mut self, class: Value) -> Self {
        self.classes.push(class);
        self
    }

    pub(super) fn results(&self) -> Result<Option<Vec<AllocationResult>>, Failure> {
        let mut classes = vec![
            class("class-a", "device.driver == \"driver-a\""),
            class("class-b", "device.driver == \"driver-b\""),
        ];
        classes.extend(self.classes.iter().cloned());
        let classes = classes.into_iter().map(|class| {
            let class: DeviceClass = serde_json::from_value(class).unwrap();
            (class.metadata.name.clone().unwrap(), class)
        });
        let world = Classes(classes.collect());
        let slices = self.slices.iter().cloned();
        let slices: Vec<Arc<ResourceSlice>> = slices
            .map(|slice| Arc::new(serde_json::from_value(slice).unwrap()))
            .collect();
        let claims = self.claims.iter().cloned();
        let claims: Vec<ResourceClaim> = claims
            .map(|claim| serde_json::from_value(claim).unwrap())
            .collect();
        let claims: Vec<&ResourceClaim> = claims.iter().collect();
        let number = self.node.unwrap_or(1);
        let labels: Labels = [
            ("region".to_owned(), format!("region-{number}")),
            ("planet".to_owned(), "earth".to_owned()),
        ]
        .into();
        let name = format!("node-{number}");
        let node = Node {
            name: &name,
            labels: &labels,
        };
        let selectors = Selectors::default();
        let allocator = Allocator {
            slices: &slices,
            allocated: &self.allocated,
            selectors: &selectors,
        };
        allocator.allocate(&world, node, &claims)
    }

    /// Returns the devices of all claims as `request=pool/device`, with what is consumed; `-` if there
    /// is no solution, and the message of a failure.
    pub(super) fn told(&self) -> String {
        let results = match self.results() {
            Ok(Some(results)) => results,
            Ok(None) => return "-".to_owned(),
            Err(Failure::Fatal(why) | Failure::OnNode(why)) => return why,
            Err(Failure::TimedOut) => return "late".to_owned(),
        };
        let of_claim = |result: &AllocationResult| {
            let devices = result.devices.as_ref().and_then(|d| d.results.as_ref());
            let devices = devices.into_iter().flatten().map(|found| {
                let consumed = found.consumed_capacity.iter().flatten();
                let consumed: String = consumed.map(|(_, text)| format!(":{}", text.0)).collect();
                let driver = if found.driver == "driver-a" { "" } else { "b/" };
                let admin = if found.admin_access == Some(true) {
                    "!"
                } else {
                    ""
                };
                format!(
                    "{}={driver}{}/{}{consumed}{admin}",
                    found.request, found.pool, found.device
                )
            });
            devices.collect::<Vec<_>>().join(" ")
        };
        let claims: Vec<String> = results.iter().map(of_claim).collect();
        claims.join(" | ")
    }
}

pub(super) fn check(cases: &[(&str, Case, &str)]) {
    for (name, case, want) in cases {
        assert_eq!(case.told(), *want, "{name}");
    }
}

pub(super) fn claim(requests: Value) -> Value {
    json!({"metadata": {"name": "claim-0"}, "spec": {"devices": {"requests": requests}}})
}

pub(super) fn constrained(requests: Value, constraints: Value) -> Value {
    json!({"metadata": {"name": "claim-0"},
        "spec": {"devices": {"requests": requests, "constraints": constraints}}})
}

pub(super) fn request(name: &str, count: i64) -> Value {
    json!({"name": name, "exactly": {"deviceClassName": "class-a",
        "allocationMode": "ExactCount", "count": count}})
}

pub(super) fn all(name: &str) -> Value {
    json!({"name": name, "exactly": {"deviceClassName": "class-a", "allocationMode": "All"}})
}

/// Sets a field of a request, of its only kind.
pub(super) fn with(mut request: Value, field: &str, value: Value) -> Value {
    match request.get("exactly").is_some() {
        true => request["exactly"][field] = value,
        false => request[field] = value,
    }
    request
}

/// Requires memory of a request or alternative.
pub(super) fn memory(request: Value, least: &str) -> Value {
    let expression =
        format!("device.capacity[\"driver-a\"].memory.compareTo(quantity(\"{least}\")) >= 0");
    with(
        request,
        "selectors",
        json!([{"cel": {"expression": expression}}]),
    )
}

pub(super) fn sub(name: &str, class: &str, count: i64) -> Value {
    json!({"name": name, "deviceClassName": class, "allocationMode": "ExactCount", "count": count})
}

pub(super) fn first(name: &str, alternatives: Value) -> Value {
    json!({"name": name, "firstAvailable": alternatives})
}

pub(super) fn slice(name: &str, pool: &str, devices: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"driver": "driver-a", "nodeName": "node-1",
        "pool": {"name": pool, "generation": 1, "resourceSliceCount": 1}, "devices": devices}})
}

/// Sets a field of a slice's spec.
pub(super) fn spec(mut slice: Value, field: &str, value: Value) -> Value {
    slice["spec"][field] = value;
    slice
}

/// Makes a slice one of several of its pool.
pub(super) fn of_count(mut slice: Value, generation: i64, count: i64) -> Value {
    slice["spec"]["pool"]["generation"] = generation.into();
    slice["spec"]["pool"]["resourceSliceCount"] = count.into();
    slice
}

/// Makes a slice available on the nodes that a selector names.
pub(super) fn at_label(slice: Value, key: &str, value: &str) -> Value {
    let mut slice = spec(
        slice,
        "nodeSelector",
        json!({"nodeSelectorTerms": [{"matchExpressions":
        [{"key": key, "operator": "In", "values": [value]}]}]}),
    );
    slice["spec"].as_object_mut().unwrap().remove("nodeName");
    slice
}

pub(super) fn device(name: &str) -> Value {
    json!({"name": name})
}

pub(super) fn sized(name: &str, memory: &str) -> Value {
    json!({"name": name, "capacity": {"memory": {"value": memory}}})
}
