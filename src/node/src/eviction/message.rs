//! Upstream's messages about evictions for want of a resource.

use std::fmt::Write as _;

use rkube_api::quantity::{Format, Quantity};

use super::types::{Resource, format_amount, signed};
use super::usage::{ContainerUsage, PodUsage};
use crate::kinds::*;

/// Returns the message of an eviction: what the node is short of, and which containers used more
/// than they had requested. `amounts` are the threshold and what is available.
pub(super) fn eviction_message(
    resource: Resource,
    amounts: Option<(String, String)>,
    pod: &Pod,
    usage: Option<&PodUsage>,
) -> String {
    let name = resource.as_str();
    let mut message = format!("The node was low on resource: {name}. ");
    if let Some((quantity, available)) = amounts {
        let _ = write!(
            message,
            "Threshold quantity: {quantity}, available: {available}. "
        );
    }
    let Some(usage) = usage else {
        return message;
    };
    let mut greedy = |what: &str, of: &str, used: u64, request: &str| {
        let used = format_amount(used, Format::BinarySi);
        let _ = write!(
            message,
            "{what} {of} was using {used}, request is {request}, has larger consumption of {name}. "
        );
    };
    let at_pod_level = pod.spec().resources.as_ref();
    if resource == Resource::Memory
        && let Some(request) = at_pod_level.and_then(|r| request(r, name))
        && let Some(used) = usage.memory
    {
        greedy("Pod", pod.name(), used, &request.to_string());
    }
    for container in &usage.containers {
        let defined = pod.spec().containers.iter().chain(pod.init_containers());
        let Some(definition) = defined.into_iter().find(|c| c.name == container.name) else {
            continue;
        };
        let Some(used) = used(container, resource) else {
            continue;
        };
        let requirements = definition.resources.as_ref();
        let requested = requirements
            .and_then(|r| request(r, name))
            .unwrap_or(Quantity::new(0, Format::DecimalSi));
        if signed(used) > requested.value() {
            greedy("Container", &container.name, used, &requested.to_string());
        }
    }
    message
}

fn request(requirements: &ResourceRequirements, name: &str) -> Option<Quantity> {
    let text = requirements.requests.as_ref()?.get(name)?;
    Quantity::parse(&text.0).ok()
}

/// Returns what a container uses of a resource that containers request.
fn used(container: &ContainerUsage, resource: Resource) -> Option<u64> {
    match resource {
        Resource::Memory => container.memory,
        Resource::EphemeralStorage => Some(container.disk.used_bytes),
        Resource::Inodes | Resource::Pids => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rkube_runtime::FsUsage;
    use serde_json::json;

    const MIB: u64 = 1 << 20;

    fn container(name: &str, memory: u64, disk: u64) -> ContainerUsage {
        ContainerUsage {
            name: name.into(),
            memory: Some(memory * MIB),
            disk: FsUsage {
                used_bytes: disk * MIB,
                used_inodes: 1,
            },
        }
    }

    /// The first case is upstream's `TestEvictonMessageWithResourceResize`.
    #[test]
    fn containers_beyond_their_requests_are_named() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "testpod"},
            "spec": {
                "containers": [
                    {"name": "testcontainer", "resources": {"requests": {"memory": "100Mi"}}},
                    {"name": "modest", "resources": {"requests": {"memory": "1Gi"}}},
                ],
                "initContainers": [{"name": "sidecar", "restartPolicy": "Always"}],
                "ephemeralContainers": [{"name": "debugger"}],
            },
        }))
        .unwrap();
        let usage = PodUsage {
            memory: Some(999 * MIB),
            containers: vec![
                container("testcontainer", 150, 0),
                container("modest", 500, 0),
                container("sidecar", 3, 7),
                container("debugger", 900, 900),
            ],
            ..PodUsage::default()
        };
        let amounts = || Some(("100Mi".to_owned(), "96Mi".to_owned()));
        assert_eq!(
            eviction_message(Resource::Memory, amounts(), &pod, Some(&usage)),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 96Mi. \
             Container testcontainer was using 150Mi, request is 100Mi, has larger consumption of memory. \
             Container sidecar was using 3Mi, request is 0, has larger consumption of memory. "
        );
        assert_eq!(
            eviction_message(Resource::EphemeralStorage, None, &pod, Some(&usage)),
            "The node was low on resource: ephemeral-storage. \
             Container sidecar was using 7Mi, request is 0, has larger consumption of ephemeral-storage. "
        );
        for (resource, name) in [(Resource::Inodes, "inodes"), (Resource::Pids, "pids")] {
            assert_eq!(
                eviction_message(resource, None, &pod, Some(&usage)),
                format!("The node was low on resource: {name}. ")
            );
        }
        assert_eq!(
            eviction_message(Resource::Memory, None, &pod, None),
            "The node was low on resource: memory. "
        );
    }

    #[test]
    fn pods_with_a_request_of_their_own_are_named() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [], "resources": {"requests": {"memory": "64Mi"}}},
        }))
        .unwrap();
        let usage = PodUsage {
            memory: Some(80 * MIB),
            ..PodUsage::default()
        };
        assert_eq!(
            eviction_message(Resource::Memory, None, &pod, Some(&usage)),
            "The node was low on resource: memory. \
             Pod p was using 80Mi, request is 64Mi, has larger consumption of memory. "
        );
    }
}
