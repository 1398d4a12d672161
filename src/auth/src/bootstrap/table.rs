//! The row types of the tables of default roles and bindings, and their conversion to objects.
//! Lists are words separated by spaces; the core group is `core`.

use rkube_api::Object;
use serde_json::{Map, json};

/// A Role, or a ClusterRole if the namespace is empty.
pub(super) struct Role {
    pub(super) name: &'static str,
    pub(super) namespace: &'static str,
    /// The ClusterRoles (`admin`, `edit`, `view`) that aggregate the rules of this one.
    pub(super) aggregates_to: &'static str,
    /// The label suffix of the ClusterRoles that this one aggregates.
    pub(super) aggregates: &'static str,
    pub(super) rules: &'static [Rule],
}

/// A policy rule for resources (`groups`, `resources`, `names`) or for paths (`urls`).
pub(super) struct Rule {
    pub(super) verbs: &'static str,
    pub(super) groups: &'static str,
    pub(super) resources: &'static str,
    pub(super) names: &'static str,
    pub(super) urls: &'static str,
}

/// Creates a rule for all objects of some resources.
pub(super) const fn on(verbs: &'static str, groups: &'static str, resources: &'static str) -> Rule {
    named(verbs, groups, resources, "")
}

/// Creates a rule for the named objects of some resources.
pub(super) const fn named(
    verbs: &'static str,
    groups: &'static str,
    resources: &'static str,
    names: &'static str,
) -> Rule {
    Rule {
        verbs,
        groups,
        resources,
        names,
        urls: "",
    }
}

/// Creates a rule for paths.
pub(super) const fn url(verbs: &'static str, urls: &'static str) -> Rule {
    Rule {
        verbs,
        groups: "",
        resources: "",
        names: "",
        urls,
    }
}

/// A RoleBinding, or a ClusterRoleBinding if the namespace is empty.
pub(super) struct Binding {
    pub(super) name: &'static str,
    pub(super) namespace: &'static str,
    pub(super) kind: &'static str,
    pub(super) role: &'static str,
    pub(super) subjects: &'static [Subject],
}

/// A subject of a binding.
pub(super) enum Subject {
    User(&'static str),
    Group(&'static str),
    /// A service account: namespace and name.
    Account(&'static str, &'static str),
}

const AGGREGATE: &str = "rbac.authorization.k8s.io/aggregate-to-";
const GROUP: &str = "rbac.authorization.k8s.io";

/// Splits a list into words. Replaces `core` with the empty group name.
pub(super) fn words(list: &'static str) -> Vec<&'static str> {
    list.split_whitespace()
        .map(|word| if word == "core" { "" } else { word })
        .collect()
}

impl Rule {
    pub(super) fn to_object(&self) -> Object {
        let mut rule = Map::new();
        rule.insert("verbs".into(), words(self.verbs).into());
        let lists = [
            ("apiGroups", self.groups),
            ("resources", self.resources),
            ("resourceNames", self.names),
            ("nonResourceURLs", self.urls),
        ];
        for (field, list) in lists {
            if !list.is_empty() {
                rule.insert(field.into(), words(list).into());
            }
        }
        Object::Object(rule)
    }
}

fn metadata(name: &str, namespace: &str) -> Object {
    let mut metadata = json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    });
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    metadata
}

impl Role {
    pub(super) fn to_object(&self) -> Object {
        let rules: Vec<Object> = self.rules.iter().map(Rule::to_object).collect();
        let mut role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": if self.namespace.is_empty() { "ClusterRole" } else { "Role" },
            "metadata": metadata(self.name, self.namespace),
            "rules": rules,
        });
        for role_name in self.aggregates_to.split_ascii_whitespace() {
            role["metadata"]["labels"][format!("{AGGREGATE}{role_name}")] = "true".into();
        }
        if !self.aggregates.is_empty() {
            let labels =
                Map::from_iter([(format!("{AGGREGATE}{}", self.aggregates), "true".into())]);
            role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": labels}]});
        }
        role
    }
}

impl Binding {
    pub(super) fn to_object(&self) -> Object {
        let subjects: Vec<Object> = self.subjects.iter().map(Subject::to_object).collect();
        binding(self.name, self.namespace, self.kind, self.role, subjects)
    }
}

impl Subject {
    fn to_object(&self) -> Object {
        match self {
            Subject::User(name) => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
            Subject::Group(name) => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
            Subject::Account(namespace, name) => {
                json!({"kind": "ServiceAccount", "namespace": namespace, "name": name})
            }
        }
    }
}

/// Returns the binding of a controller's role to its service account in kube-system.
pub(super) fn controller_binding(role: &Role) -> Object {
    let account = role
        .name
        .strip_prefix("system:controller:")
        .unwrap_or(role.name);
    let subject = json!({"kind": "ServiceAccount", "namespace": "kube-system", "name": account});
    binding(role.name, "", "ClusterRole", role.name, vec![subject])
}

fn binding(name: &str, namespace: &str, kind: &str, role: &str, subjects: Vec<Object>) -> Object {
    let mut object = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" },
        "metadata": metadata(name, namespace),
        "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role},
    });
    if !subjects.is_empty() {
        object["subjects"] = subjects.into();
    }
    object
}
