//! Validation of a pod's resource claims.

use std::collections::BTreeSet;

use serde_json::Value;

use super::shown::{Field, Form, show};
use crate::errors::{Errors, child, index};
use crate::names;
use crate::tree::{has, list, text};

const CLAIM: &[Field] = &[
    Field("name", "Name", Form::Text),
    Field("resourceClaimName", "ResourceClaimName", Form::Optional),
    Field(
        "resourceClaimTemplateName",
        "ResourceClaimTemplateName",
        Form::Optional,
    ),
];

/// Validates `resourceClaims` of a pod spec; `mirror` says that the pod is static, and so has no
/// claims.
pub(super) fn resource_claims(errors: &mut Errors, spec: &Value, mirror: bool, path: &str) {
    let mut seen = BTreeSet::new();
    for (i, claim) in list(spec, "resourceClaims").iter().enumerate() {
        if mirror {
            errors.forbidden("", "static pods do not support resource claims");
            continue;
        }
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
        let why = match sources.iter().filter(|key| has(claim, key)).count() {
            0 => "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            1 => "",
            _ => {
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"
            }
        };
        if !why.is_empty() {
            errors.invalid_shown(field.clone(), &show(claim, CLAIM), why);
        }
        for key in sources.iter().filter(|key| has(claim, key)) {
            let name = text(claim, key);
            errors.invalid_each(&child(&field, key), name, names::dns1123_subdomain(name));
        }
    }
}
