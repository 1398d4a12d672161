//! The OpenAPI documents, made from the tables when someone asks.

use serde_json::{Value, json};

use crate::registry::Resource;

/// What a custom resource contributes to the documents.
pub struct Custom<'a> {
    /// Its row.
    pub resource: &'a Resource,
    /// Its `openAPIV3Schema`.
    pub schema: &'a Value,
}

/// `/openapi/v3`: the paths of the documents; `hash` names a document's version.
pub fn v3_index(resources: &[&Resource], hash: &dyn Fn(&str) -> String) -> Value {
    let _ = (resources, hash);
    json!({})
}

/// `/openapi/v3/apis/<group>/<version>`: one group version's document.
pub fn v3_document(
    group: &str,
    version: &str,
    resources: &[&Resource],
    custom: &[Custom<'_>],
) -> Value {
    let _ = (group, version, resources, custom);
    json!({})
}

/// `/openapi/v2`: everything in one document.
pub fn v2_document(resources: &[&Resource], custom: &[Custom<'_>]) -> Value {
    let _ = (resources, custom);
    json!({})
}
