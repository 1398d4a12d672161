//! The OpenAPI documents, made from the tables when someone asks.
//!
//! Version 3 has a document a group version, version 2 one for all. Both say
//! the same in different dialects ([`Dialect`]).

mod operation;
mod paths;
mod queries;
mod schemas;

use serde_json::{Map, Value, json};

use crate::registry::{Resource, group_version_path};

use schemas::Schemas;

/// What a custom resource contributes to the documents.
pub struct Custom<'a> {
    /// Its row.
    pub resource: &'a Resource,
    /// Its `openAPIV3Schema`.
    pub schema: &'a Value,
}

/// The two ways of saying the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

impl Dialect {
    /// A reference to a definition.
    fn reference(self, name: &str) -> Value {
        let base = match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        };
        json!({"$ref": format!("{base}{name}")})
    }
}

/// `/openapi/v3`: where the documents are. `group_versions` are those served,
/// and `hash` names the version of the document at a path like `apis/apps/v1`.
pub fn v3_index<'a>(
    group_versions: impl IntoIterator<Item = (&'a str, &'a str)>,
    hash: &dyn Fn(&str) -> String,
) -> Value {
    let mut paths = Map::new();
    for (group, version) in group_versions {
        let path = group_version_path(group, version);
        let path = path.trim_start_matches('/');
        let url = format!("/openapi/v3/{path}?hash={}", hash(path));
        paths.insert(path.to_owned(), json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

/// `/openapi/v3/apis/<group>/<version>`: one group version's document. Rows of
/// other group versions are passed over.
pub fn v3_document(
    group: &str,
    version: &str,
    resources: &[&Resource],
    custom: &[Custom<'_>],
) -> Value {
    let in_group = |r: &Resource| r.group == group && r.version == version;
    let resources: Vec<&Resource> = resources.iter().copied().filter(|r| in_group(r)).collect();
    let custom: Vec<&Custom<'_>> = custom.iter().filter(|c| in_group(c.resource)).collect();
    let mut schemas = Schemas::new(Dialect::V3, &[(group, version)]);
    let mut paths = Map::new();
    paths::group_version(Dialect::V3, group, version, &mut schemas, &mut paths);
    for resource in &resources {
        paths::resource(Dialect::V3, resource, &mut schemas, &mut paths);
    }
    for custom in &custom {
        schemas.add_custom(custom);
        paths::resource(Dialect::V3, custom.resource, &mut schemas, &mut paths);
    }
    json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths,
        "components": {
            "schemas": schemas.finish(),
            "securitySchemes": {"BearerToken": bearer()},
        },
    })
}

/// `/openapi/v2`: everything in one document.
pub fn v2_document(resources: &[&Resource], custom: &[Custom<'_>]) -> Value {
    let mut group_versions: Vec<(&str, &str)> = Vec::new();
    let rows = resources
        .iter()
        .copied()
        .chain(custom.iter().map(|c| c.resource));
    for row in rows {
        let group_version = (&*row.group, &*row.version);
        if !group_versions.contains(&group_version) {
            group_versions.push(group_version);
        }
    }
    let mut schemas = Schemas::new(Dialect::V2, &group_versions);
    let mut paths = Map::new();
    paths::roots(Dialect::V2, &mut schemas, &mut paths);
    for (group, version) in &group_versions {
        paths::group(Dialect::V2, group, &mut schemas, &mut paths);
        paths::group_version(Dialect::V2, group, version, &mut schemas, &mut paths);
    }
    for resource in resources {
        paths::resource(Dialect::V2, resource, &mut schemas, &mut paths);
    }
    for custom in custom {
        schemas.add_custom(custom);
        paths::resource(Dialect::V2, custom.resource, &mut schemas, &mut paths);
    }
    json!({
        "swagger": "2.0",
        "info": info(),
        "paths": paths,
        "definitions": schemas.finish(),
        "securityDefinitions": {"BearerToken": bearer()},
        "security": [{"BearerToken": []}],
    })
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": "v1.36.0"})
}

fn bearer() -> Value {
    json!({"description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header"})
}

#[cfg(test)]
mod tests;
