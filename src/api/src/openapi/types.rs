//! Types that all parts of the documents share.

use serde_json::{Value, json};

use crate::registry::Resource;

/// A custom resource in one version, as an input of the documents.
pub struct Custom<'a> {
    /// The resource.
    pub resource: &'a Resource,
    /// The version's `openAPIV3Schema`.
    pub schema: &'a Value,
}

/// The version of OpenAPI that a document is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// OpenAPI 2.0, also called Swagger.
    V2,
    /// OpenAPI 3.0.
    V3,
}

impl Dialect {
    /// Returns a reference to a definition.
    pub fn reference(self, name: &str) -> Value {
        let base = match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        };
        json!({"$ref": format!("{base}{name}")})
    }
}
