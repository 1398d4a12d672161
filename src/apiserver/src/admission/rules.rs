//! Matching of writes against the rules and selectors of webhooks and policies.

use std::sync::Arc;

use rkube_admission::Operation;
use rkube_api::selector::LabelSelector;
use rkube_api::status::Status;
use rkube_api::{Object, meta};
use serde_json::Value;

use super::attributes::Admission;
use crate::resources::Resource;

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

fn named(value: &Value, name: &str) -> bool {
    texts(value).any(|t| t == "*" || t == name)
}

/// The properties of a write that rules match.
pub struct Target<'a> {
    /// The operation, in upper case as in rules.
    pub operation: &'a str,
    /// The API group.
    pub group: &'a str,
    /// The API version.
    pub version: &'a str,
    /// The plural resource name.
    pub resource: &'a str,
    /// The subresource; empty for the main resource.
    pub subresource: &'a str,
    /// Whether the resource is namespaced.
    pub namespaced: bool,
}

/// Returns whether a rule matches a write.
pub fn covers(rule: &Value, target: &Target<'_>) -> bool {
    let scope = match rule["scope"].as_str() {
        Some("Namespaced") => target.namespaced,
        Some("Cluster") => !target.namespaced,
        _ => true,
    };
    scope
        && named(&rule["operations"], target.operation)
        && named(&rule["apiGroups"], target.group)
        && named(&rule["apiVersions"], target.version)
        && texts(&rule["resources"]).any(|pattern| {
            let (resource, subresource) = pattern.split_once('/').unwrap_or((pattern, ""));
            (resource == "*" || resource == target.resource)
                && (subresource == "*" || subresource == target.subresource)
        })
}

/// The match of a set of rules with a write.
pub enum Coverage {
    /// No rule matches.
    None,
    /// A rule matches the write's own version.
    Exact,
    /// A rule matches another version of the resource (`matchPolicy: Equivalent`).
    Equivalent(Arc<Resource>),
}

impl<'a> Target<'a> {
    fn new(admission: &'a Admission<'_>, resource: &'a Resource) -> Self {
        Self {
            operation: admission.operation.as_str(),
            group: &resource.group,
            version: &resource.version,
            resource: &resource.plural,
            subresource: match admission.operation {
                Operation::Delete => "",
                _ => &admission.call.info.subresource,
            },
            // The resource `namespaces` counts as cluster-scoped in rules.
            namespaced: resource.namespaced,
        }
    }
}

/// Returns how rules match a write. The write's own version takes precedence; unless `exact`, the
/// first other version that matches is used.
pub fn coverage(
    admission: &Admission<'_>,
    exact: bool,
    covered: impl Fn(&Target<'_>) -> bool,
) -> Coverage {
    let resource = admission.resource;
    if covered(&Target::new(admission, resource)) {
        return Coverage::Exact;
    }
    if exact {
        return Coverage::None;
    }
    let snapshot = admission.backend.resources.snapshot();
    let other = snapshot.all.iter().find(|other| {
        // Resources that share a cache hold the same objects in another version or group.
        Arc::ptr_eq(&other.cache, &resource.cache)
            && other.is_stored()
            && (&other.version, &other.group) != (&resource.version, &resource.group)
            && covered(&Target::new(admission, other))
    });
    other.map_or(Coverage::None, |other| Coverage::Equivalent(other.clone()))
}

/// Returns whether the `namespaceSelector` and the `objectSelector` of a webhook, policy or binding
/// match a write.
pub fn selected(
    admission: &Admission<'_>,
    about: &Value,
    object: Option<&Object>,
    old: Option<&Object>,
) -> Result<bool, Status> {
    if about["namespaceSelector"].is_object() {
        let selector = LabelSelector::from_value(&about["namespaceSelector"])?;
        if !selector.is_empty() && !namespace_matches(admission, &selector, object.or(old)) {
            return Ok(false);
        }
    }
    if about["objectSelector"].is_object() {
        let selector = LabelSelector::from_value(&about["objectSelector"])?;
        let matches = |o: Option<&Object>| o.is_some_and(|o| selector.matches(meta::labels(o)));
        if !selector.is_empty() && !matches(object) && !matches(old) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns whether a namespace selector matches the labels of a write's namespace.
fn namespace_matches(
    admission: &Admission<'_>,
    selector: &LabelSelector,
    object: Option<&Object>,
) -> bool {
    if admission.resource.is("", "namespaces") {
        return object.is_some_and(|o| selector.matches(meta::labels(o)));
    }
    let namespace = admission.namespace(object);
    if namespace.is_empty() {
        return true;
    }
    let found = admission
        .backend
        .cache
        .existing("", "namespaces")
        .and_then(|c| c.get("", &namespace));
    found.is_some_and(|n| selector.matches_with(|key| n.label(key)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_cover_by_every_part() {
        let rule = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods", "services/*"]});
        let target = |operation, resource, subresource| Target {
            operation,
            group: "",
            version: "v1",
            resource,
            subresource,
            namespaced: true,
        };
        assert!(covers(&rule, &target("CREATE", "pods", "")));
        assert!(!covers(&rule, &target("CREATE", "pods", "status")));
        assert!(covers(&rule, &target("CREATE", "services", "status")));
        assert!(!covers(&rule, &target("UPDATE", "pods", "")));
        let cluster = json!({"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"], "scope": "Cluster"});
        assert!(!covers(&cluster, &target("CREATE", "pods", "")));
    }
}
