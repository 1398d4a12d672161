//! Validation of a pod's resource claims, and of its containers' references to them.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::errors::{Errors, child, index};
use crate::names;
use crate::tree::{at, has, list, text};

/// Validates `resourceClaims` of a pod spec.
pub(super) fn resource_claims(errors: &mut Errors, spec: &Value, path: &str) {
    let mut seen = BTreeSet::new();
    for (i, claim) in list(spec, "resourceClaims").iter().enumerate() {
        let field = index(path, i);
        let name = text(claim, "name");
        if name.is_empty() {
            errors.required(child(&field, "name"), "");
        } else if seen.insert(name) {
            errors.invalid_each(&child(&field, "name"), name, names::dns1123_label(name));
        } else {
            errors.duplicate(child(&field, "name"), name);
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"];
        match sources.iter().filter(|key| has(claim, key)).count() {
            0 => errors.invalid(
                field.clone(),
                claim.clone(),
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            ),
            1 => {}
            _ => errors.invalid(
                field.clone(),
                claim.clone(),
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
        }
        for key in sources.iter().filter(|key| has(claim, key)) {
            let name = text(claim, key);
            errors.invalid_each(&child(&field, key), name, names::dns1123_subdomain(name));
        }
    }
}

/// Validates `claims` of the resources of a container. A claim may appear once for each of its
/// requests.
pub(super) fn container_claims(errors: &mut Errors, resources: &Value, spec: &Value, path: &str) {
    let known: BTreeSet<&str> = list(spec, "resourceClaims")
        .iter()
        .map(|claim| text(claim, "name"))
        .filter(|name| !name.is_empty())
        .collect();
    let mut seen = BTreeSet::new();
    for (i, claim) in list(resources, "claims").iter().enumerate() {
        let field = index(&child(path, "claims"), i);
        let name = text(claim, "name");
        if name.is_empty() {
            errors.required(field, "");
            continue;
        }
        if !seen.insert((name, at(claim, "request").as_str())) {
            errors.duplicate(field.clone(), name);
        }
        if !known.contains(name) {
            errors.not_found(field, name);
        }
    }
}
