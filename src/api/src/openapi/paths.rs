//! Paths of discovery: those of groups, group versions and the server.

use serde_json::{Map, Value};

use crate::registry::group_version_path;

use super::names::{capitalize, group_name, lower_first, tag};
use super::operation::{OBJECT_TYPES, Operation, write_path};
use super::schemas::Schemas;
use super::types::Dialect;

/// Media types of discovery above the group versions.
const ROOT_TYPES: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];

/// Returns an operation that reads a document of discovery.
fn discovery(
    id: String,
    description: &str,
    response: Value,
    types: &'static [&'static str],
) -> Operation {
    Operation {
        method: "get",
        id,
        description: description.into(),
        action: None,
        kind: None,
        queries: Vec::new(),
        body: None,
        response: Some(response),
        codes: &["200"],
        consumes: types,
        produces: types,
    }
}

/// Writes the paths above all groups.
pub(super) fn roots(dialect: Dialect, schemas: &mut Schemas<'_>, out: &mut Map<String, Value>) {
    let versions = schemas.meta("APIVersions");
    let core = discovery(
        "getCoreAPIVersions".into(),
        "get available API versions",
        versions,
        ROOT_TYPES,
    );
    write_path(dialect, "/api/", "core", Vec::new(), &[core], out);
    let groups = schemas.meta("APIGroupList");
    let apis = discovery(
        "getAPIVersions".into(),
        "get available API versions",
        groups,
        ROOT_TYPES,
    );
    write_path(dialect, "/apis/", "apis", Vec::new(), &[apis], out);
    let info = schemas.builtin("io.k8s.apimachinery.pkg.version.Info");
    let version = discovery(
        "getCodeVersion".into(),
        "get the version information for this server",
        info,
        &["application/json"],
    );
    write_path(dialect, "/version/", "version", Vec::new(), &[version], out);
    let text = |id: &str, description: &str, types| Operation {
        response: None,
        produces: types,
        consumes: &[],
        ..discovery(id.into(), description, Value::Null, &[])
    };
    let jwks = text(
        "getServiceAccountIssuerOpenIDKeyset",
        "get the keys that verify service accounts' tokens",
        &["application/jwk-set+json"],
    );
    write_path(
        dialect,
        "/openid/v1/jwks/",
        "openid",
        Vec::new(),
        &[jwks],
        out,
    );
    let configuration = text(
        "getServiceAccountIssuerOpenIDConfiguration",
        "get the OpenID configuration of the service account issuer",
        &["application/json"],
    );
    write_path(
        dialect,
        "/.well-known/openid-configuration/",
        "WellKnown",
        Vec::new(),
        &[configuration],
        out,
    );
}

/// Writes the path of a group.
pub(super) fn group(
    dialect: Dialect,
    group: &str,
    schemas: &mut Schemas<'_>,
    out: &mut Map<String, Value>,
) {
    if group.is_empty() {
        return;
    }
    let response = schemas.meta("APIGroup");
    let name = group_name(group);
    let operation = discovery(
        format!("get{name}APIGroup"),
        "get information of a group",
        response,
        ROOT_TYPES,
    );
    write_path(
        dialect,
        &format!("/apis/{group}/"),
        &lower_first(&name),
        Vec::new(),
        &[operation],
        out,
    );
}

/// Writes the path of a group version.
pub(super) fn group_version(
    dialect: Dialect,
    group: &str,
    version: &str,
    schemas: &mut Schemas<'_>,
    out: &mut Map<String, Value>,
) {
    let response = schemas.meta("APIResourceList");
    let id = format!(
        "get{}{}APIResources",
        group_name(group),
        capitalize(version)
    );
    let operation = discovery(id, "get available resources", response, OBJECT_TYPES);
    let path = format!("{}/", group_version_path(group, version));
    write_path(
        dialect,
        &path,
        &tag(group, version),
        Vec::new(),
        &[operation],
        out,
    );
}
