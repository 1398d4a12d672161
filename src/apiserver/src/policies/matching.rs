//! Matching of writes to policies and bindings, and lookup of parameters.

use std::sync::Arc;

use rkube_api::selector::LabelSelector;
use rkube_api::status::Status;
use rkube_api::{Object, meta};
use serde_json::Value;

use crate::admission::attributes::Admission;
use crate::admission::rules::{Coverage, coverage, covers, selected};
use crate::backend::Backend;
use crate::cache::Filter;
use crate::resources::Resource;

/// The result of matching a write to a policy or binding.
pub enum Match {
    /// No match.
    No,
    /// A match; holds the version that the rules match if it is not the write's own.
    Yes(Option<Arc<Resource>>),
}

/// Returns whether `matchConstraints` or `matchResources` match a write. A binding without rules
/// matches whatever its policy matches. Selectors are evaluated on the object in its original
/// version.
pub fn matches(
    admission: &Admission<'_>,
    resources: &Value,
    object: Option<&Object>,
    old: Option<&Object>,
) -> Result<Match, Status> {
    if !resources.is_object() {
        return Ok(Match::Yes(None));
    }
    let name = admission.name(object.or(old));
    let exact = resources["matchPolicy"] == "Exact";
    let coverage = |rules: &[Value]| {
        coverage(admission, exact, |target| {
            rules.iter().any(|rule| {
                let names = rule["resourceNames"].as_array().filter(|n| !n.is_empty());
                names.is_none_or(|names| names.iter().any(|n| n == name.as_str()))
                    && covers(rule, target)
            })
        })
    };
    let rules = |key: &str| resources[key].as_array().filter(|r| !r.is_empty());
    if let Some(excluded) = rules("excludeResourceRules")
        && !matches!(coverage(excluded), Coverage::None)
    {
        return Ok(Match::No);
    }
    let version = match rules("resourceRules").map(|rules| coverage(rules)) {
        None | Some(Coverage::Exact) => None,
        Some(Coverage::Equivalent(version)) => Some(version),
        Some(Coverage::None) => return Ok(Match::No),
    };
    Ok(match selected(admission, resources, object, old)? {
        true => Match::Yes(version),
        false => Match::No,
    })
}

/// Returns the resource of an apiVersion and kind.
pub fn resource_of_kind(backend: &Backend, api_version: &str, kind: &str) -> Option<Arc<Resource>> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let snapshot = backend.resources.snapshot();
    snapshot
        .all
        .iter()
        .find(|r| r.group == group && r.version == version && r.kind == kind)
        .cloned()
}

/// Returns the parameters of a binding. `None` in the list means one evaluation without parameters.
///
/// # Errors
///
/// The problem with the parameter reference.
pub fn params(
    admission: &Admission<'_>,
    policy: &Value,
    binding: &Value,
    namespace: &str,
) -> Result<Vec<Option<Value>>, String> {
    let kind = &policy["paramKind"];
    let reference = &binding["paramRef"];
    if !kind.is_object() {
        return Ok(vec![None]);
    }
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (text(kind, "apiVersion"), text(kind, "kind"));
    let Some(resource) = resource_of_kind(admission.backend, &api_version, &kind) else {
        return Err(format!(
            "paramKind kind `{api_version}, Kind={kind}` not known"
        ));
    };
    if !reference.is_object() {
        return Ok(vec![None]);
    }
    let own = text(reference, "namespace");
    let within = match (resource.namespaced, own.is_empty()) {
        (true, false) => Some(own),
        (true, true) if namespace.is_empty() => {
            return Err(
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped \
                 resources"
                    .into(),
            );
        }
        (true, true) => Some(namespace.to_owned()),
        (false, false) => {
            return Err(
                "paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into(),
            );
        }
        (false, true) => None,
    };
    let name = text(reference, "name");
    let selector = &reference["selector"];
    let served = |object: Object| {
        let mut object = resource.served(object).map_err(|e| e.message)?;
        meta::set_type(&mut object, &api_version, &kind);
        Ok::<_, String>(Some(object))
    };
    let found: Vec<Option<Value>> = match (name.is_empty(), selector.is_object()) {
        (false, true) => {
            return Err("paramRef.name and paramRef.selector are mutually exclusive".into());
        }
        (false, false) => resource
            .cache
            .get(within.as_deref().unwrap_or_default(), &name)
            .map(|object| served(object.parse()))
            .transpose()?
            .into_iter()
            .collect(),
        (true, true) => {
            let selector = LabelSelector::from_value(selector).map_err(|e| e.message)?;
            let filter = Filter::new(within, None, None, None);
            let mut found = Vec::new();
            for object in resource.cache.list(&filter) {
                let object = object.parse();
                if selector.matches(meta::labels(&object)) {
                    found.push(served(object)?);
                }
            }
            found
        }
        (true, false) => return Err("one of name or selector must be provided".into()),
    };
    if found.is_empty() && reference["parameterNotFoundAction"] == "Deny" {
        return Err(
            "no params found for policy binding with `Deny` parameterNotFoundAction".into(),
        );
    }
    Ok(found)
}
