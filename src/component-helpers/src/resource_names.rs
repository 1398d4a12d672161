//! The names of resources without a domain, which Kubernetes itself defines.

use crate::resource::is_hugepages;

/// Resources that are numbers of objects.
const OBJECTS: [&str; 9] = [
    "pods",
    "services",
    "services.nodeports",
    "services.loadbalancers",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
];

/// Returns whether containers have the resource wherever they run: unlike huge pages, in one
/// amount.
pub fn is_basic(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage")
}

/// Returns whether the resource is a number of objects.
pub fn is_object_count(name: &str) -> bool {
    OBJECTS.contains(&name)
}

/// Returns whether a quota limits pods by this name: their number, or the sum of their requests or
/// limits. Does not include huge pages.
pub fn is_of_pods(name: &str) -> bool {
    let sum = name.strip_prefix("requests.");
    let sum = sum.or_else(|| name.strip_prefix("limits."));
    name == "pods" || is_basic(sum.unwrap_or(name))
}

/// Returns whether quotas can limit the resource.
pub fn is_of_quota(name: &str) -> bool {
    is_of_pods(name)
        || is_object_count(name)
        || name == "requests.storage"
        || is_hugepages(name.strip_prefix("requests.").unwrap_or(name))
}

/// Returns whether Kubernetes defines the resource.
pub fn is_standard(name: &str) -> bool {
    is_of_quota(name) || name == "storage"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_uses() {
        // Of containers, a number of objects, of pods in a quota, in a quota, standard.
        for (name, uses) in [
            ("cpu", [true, false, true, true, true]),
            ("requests.memory", [false, false, true, true, true]),
            ("limits.ephemeral-storage", [false, false, true, true, true]),
            ("pods", [false, true, true, true, true]),
            ("services.nodeports", [false, true, false, true, true]),
            ("requests.storage", [false, false, false, true, true]),
            ("limits.storage", [false; 5]),
            ("storage", [false, false, false, false, true]),
            ("hugepages-2Mi", [false, false, false, true, true]),
            ("requests.hugepages-2Mi", [false, false, false, true, true]),
            ("limits.hugepages-2Mi", [false; 5]),
            ("requests.pods", [false; 5]),
            ("requests.requests.cpu", [false; 5]),
            ("gpu", [false; 5]),
        ] {
            let answers = [
                is_basic(name),
                is_object_count(name),
                is_of_pods(name),
                is_of_quota(name),
                is_standard(name),
            ];
            assert_eq!(answers, uses, "{name}");
        }
    }
}
