//! What a pod's containers ask of device plugins.

use rkube_plugins::devices::{Request, Role};

use crate::kinds::*;

/// Returns whether a resource of a container is provided by the pod's claim for extended resources,
/// and not by a device plugin.
fn is_of_claim(pod: &Pod, container: &str, resource: &str) -> bool {
    let status = pod
        .status
        .as_ref()
        .and_then(|s| s.extended_resource_claim_status.as_ref());
    let mut mappings = status.into_iter().flat_map(|s| &s.request_mappings);
    mappings.any(|m| m.container_name == container && m.resource_name == resource)
}

/// Returns the request of a container.
pub(crate) fn request(pod: &Pod, container: &Container) -> Request {
    let is_init = pod
        .init_containers()
        .iter()
        .any(|c| c.name == container.name);
    let limits = container
        .resources
        .iter()
        .flat_map(|r| r.limits.iter().flatten());
    Request {
        container: container.name.clone(),
        role: if is_init && !is_sidecar(container) {
            Role::Init
        } else {
            Role::Lasting
        },
        limits: limits
            .filter(|(name, _)| !is_of_claim(pod, &container.name, name))
            .map(|(name, amount)| (name.clone(), quantity_value(amount)))
            .collect(),
    }
}

/// Returns the requests of all containers that a pod starts with, in their order.
pub(crate) fn requests(pod: &Pod) -> Vec<Request> {
    let containers = pod.init_containers().iter().chain(&pod.spec().containers);
    containers
        .map(|container| request(pod, container))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_requests_for_devices() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "spec": {
                "initContainers": [
                    {"name": "i", "resources": {"limits": {"e.com/a": "2"}}},
                    {"name": "s", "restartPolicy": "Always"},
                ],
                "containers": [
                    {"name": "c", "resources": {"limits": {"e.com/a": "1", "e.com/b": "1"}}},
                ],
            },
            "status": {"extendedResourceClaimStatus": {
                "resourceClaimName": "x",
                "requestMappings": [
                    {"containerName": "c", "resourceName": "e.com/b", "requestName": "r"},
                ],
            }},
        }))
        .unwrap();
        let requests = requests(&pod);
        let roles: Vec<Role> = requests.iter().map(|r| r.role).collect();
        assert_eq!(roles, [Role::Init, Role::Lasting, Role::Lasting]);
        assert_eq!(requests[0].limits["e.com/a"], 2);
        let names: Vec<&String> = requests[2].limits.keys().collect();
        assert_eq!(names, ["e.com/a"], "the claim provides the other one");
    }
}
