//! The OpenAPI documents, generated from the resource table and the schemas on
//! request.
//!
//! Version 3 has one document per group version, version 2 one document for all. Both
//! have the same content.

mod facts;
mod names;
mod operation;
mod paths;
mod queries;
mod resource;
mod schemas;
mod simplify;
mod types;

use serde_json::{Map, Value, json};

use crate::registry::{Resource, group_version_path};

use schemas::Schemas;
pub use types::Custom;
use types::Dialect;

/// Returns the index of the version 3 documents, served at `/openapi/v3`.
///
/// `group_versions` are those that are served. `hash` returns the hash of the document
/// for a path like `apis/apps/v1`.
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

/// Returns the version 3 document of one group version, served at
/// `/openapi/v3/apis/<group>/<version>`. Resources of other group versions are ignored.
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
        resource::paths(Dialect::V3, resource, &mut schemas, &mut paths);
    }
    for custom in &custom {
        schemas.add_custom(custom);
        resource::paths(Dialect::V3, custom.resource, &mut schemas, &mut paths);
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

/// Returns the version 2 document, served at `/openapi/v2`.
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
        resource::paths(Dialect::V2, resource, &mut schemas, &mut paths);
    }
    for custom in custom {
        schemas.add_custom(custom);
        resource::paths(Dialect::V2, custom.resource, &mut schemas, &mut paths);
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
