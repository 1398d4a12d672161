//! Bootstrap objects of a cluster: system namespaces, priority classes, default roles and
//! bindings, flow control.
//!
//! They have the form of create requests, so they must be defaulted before they are stored. At
//! each start, the API server creates missing objects and updates existing ones with
//! [`reconcile()`].

use rkube_api::Object;
use serde_json::json;

mod bindings;
mod cluster_roles;
mod controller_roles;
mod flow_control;
mod namespace_roles;
mod reconcile;
mod table;

pub use reconcile::reconcile;

/// The settings of the bootstrap objects; there are none yet.
#[derive(Clone, Debug, Default)]
pub struct BootstrapConfig {}

/// An object that is created if it does not exist.
#[derive(Clone, Debug, PartialEq)]
pub struct BootstrapObject {
    /// The resource's API group, empty for core.
    pub group: &'static str,
    /// The resource's plural name.
    pub resource: &'static str,
    /// The object.
    pub object: Object,
}

/// The system namespaces. The API server creates them again if they are deleted.
pub const SYSTEM_NAMESPACES: [&str; 4] =
    ["kube-system", "kube-public", "kube-node-lease", "default"];

/// The value of the priority class `system-cluster-critical`.
pub const SYSTEM_CRITICAL_PRIORITY: i64 = 2_000_000_000;

/// Returns every bootstrap object, in an order in which they can be created.
pub fn objects(_config: &BootstrapConfig) -> Vec<BootstrapObject> {
    const RBAC: &str = "rbac.authorization.k8s.io";
    const FLOW: &str = "flowcontrol.apiserver.k8s.io";
    let mut all = Vec::with_capacity(220);
    let mut add = |group, resource, objects: Vec<Object>| {
        all.extend(objects.into_iter().map(|object| BootstrapObject {
            group,
            resource,
            object,
        }));
    };
    add(
        "",
        "namespaces",
        SYSTEM_NAMESPACES
            .iter()
            .map(|name| namespace(name))
            .collect(),
    );
    add("scheduling.k8s.io", "priorityclasses", priority_classes());
    let cluster_roles = cluster_roles::CLUSTER_ROLES
        .iter()
        .chain(controller_roles::CONTROLLER_ROLES);
    add(
        RBAC,
        "clusterroles",
        cluster_roles.map(table::Role::to_object).collect(),
    );
    let mut cluster_bindings: Vec<Object> = bindings::CLUSTER_BINDINGS
        .iter()
        .map(table::Binding::to_object)
        .collect();
    cluster_bindings.extend(
        controller_roles::CONTROLLER_ROLES
            .iter()
            .map(table::controller_binding),
    );
    add(RBAC, "clusterrolebindings", cluster_bindings);
    add(
        RBAC,
        "roles",
        namespace_roles::NAMESPACE_ROLES
            .iter()
            .map(table::Role::to_object)
            .collect(),
    );
    add(
        RBAC,
        "rolebindings",
        bindings::NAMESPACE_BINDINGS
            .iter()
            .map(table::Binding::to_object)
            .collect(),
    );
    add(FLOW, "prioritylevelconfigurations", flow_control::levels());
    add(FLOW, "flowschemas", flow_control::schemas());
    all
}

/// Returns the rules of the ClusterRole `system:node`, which the Node authorizer applies.
pub(crate) fn node_rules() -> Vec<Object> {
    let role = cluster_roles::CLUSTER_ROLES
        .iter()
        .find(|role| role.name == "system:node");
    role.map(|role| role.rules.iter().map(table::Rule::to_object).collect())
        .unwrap_or_default()
}

fn namespace(name: &str) -> Object {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn priority_classes() -> Vec<Object> {
    let class = |name: &str, value: i64, description: &str| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
            "description": description,
        })
    };
    vec![
        class(
            "system-node-critical",
            SYSTEM_CRITICAL_PRIORITY + 1000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        class(
            "system-cluster-critical",
            SYSTEM_CRITICAL_PRIORITY,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::tree;

    #[test]
    fn names_are_unique_and_bindings_bind_what_there_is() {
        let all = objects(&BootstrapConfig::default());
        let mut seen = HashSet::new();
        for o in &all {
            let key = (
                o.resource,
                tree::namespace(&o.object).to_owned(),
                tree::name(&o.object).to_owned(),
            );
            assert!(
                seen.insert(key),
                "{} {} is there twice",
                o.resource,
                tree::name(&o.object)
            );
        }
        for o in all.iter().filter(|o| o.resource.ends_with("rolebindings")) {
            let role = tree::text(&o.object, &["roleRef", "name"]).to_owned();
            let (resource, namespace) = match tree::text(&o.object, &["roleRef", "kind"]) {
                "Role" => ("roles", tree::namespace(&o.object).to_owned()),
                _ => ("clusterroles", String::new()),
            };
            assert!(
                seen.contains(&(resource, namespace, role.clone())),
                "{role} is bound and not there"
            );
        }
        let count = |resource: &str| all.iter().filter(|o| o.resource == resource).count();
        assert_eq!(count("namespaces"), 4);
        assert_eq!(count("flowschemas"), 11);
        assert_eq!(count("prioritylevelconfigurations"), 8);
        assert_eq!(
            count("clusterrolebindings"),
            bindings::CLUSTER_BINDINGS.len() + 39
        );
    }

    #[test]
    fn rows_become_objects_as_upstream_writes_them() {
        let all = objects(&BootstrapConfig::default());
        let find = |resource: &str, name: &str| {
            all.iter()
                .find(|o| o.resource == resource && tree::name(&o.object) == name)
                .unwrap()
                .object
                .clone()
        };
        assert_eq!(
            find("clusterroles", "view"),
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRole",
                "metadata": {
                    "name": "view",
                    "labels": {
                        "kubernetes.io/bootstrapping": "rbac-defaults",
                        "rbac.authorization.k8s.io/aggregate-to-edit": "true",
                    },
                    "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
                },
                "aggregationRule": {"clusterRoleSelectors": [
                    {"matchLabels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
                ]},
                "rules": [],
            })
        );
        let rules = find("clusterroles", "cluster-admin")["rules"].clone();
        assert_eq!(
            rules,
            json!([
                {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
                {"nonResourceURLs": ["*"], "verbs": ["*"]},
            ])
        );
        let binding = find("clusterrolebindings", "system:controller:job-controller");
        assert_eq!(
            binding["subjects"],
            json!([{"kind": "ServiceAccount", "namespace": "kube-system", "name": "job-controller"}])
        );
        assert!(!node_rules().is_empty());
    }
}
