//! Paths and the operations on them.

use serde_json::{Map, Value};

use crate::gvk::GroupVersionKind;
use crate::registry::{Resource, Subresource, group_version_path};

use super::Dialect;
use super::operation::{Body, Operation, capital, group_name, lower_first, tag, write};
use super::queries::{self, APPLY, DELETE, DELETE_COLLECTION, LIST, PRETTY, Query, WRITE};
use super::schemas::{Schemas, definition_of_kind};

const OBJECT_TYPES: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/cbor",
];
const LIST_TYPES: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/cbor",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
    "application/cbor-seq",
];
const ROOT_TYPES: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];
const CUSTOM_TYPES: &[&str] = &["application/json", "application/yaml"];
const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
    "application/apply-patch+cbor",
];
const CUSTOM_PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/apply-patch+yaml",
];
const LOG_TYPES: &[&str] = &[
    "text/plain",
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/cbor",
];
const ANY_TYPES: &[&str] = &["*/*"];

fn discovery(
    id: String,
    description: &str,
    answer: Value,
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
        answer: Some(answer),
        codes: &["200"],
        consumes: types,
        produces: types,
    }
}

/// The paths above all groups.
pub(super) fn roots(dialect: Dialect, schemas: &mut Schemas<'_>, out: &mut Map<String, Value>) {
    let versions = schemas.meta("APIVersions");
    let core = discovery(
        "getCoreAPIVersions".into(),
        "get available API versions",
        versions,
        ROOT_TYPES,
    );
    write(dialect, "/api/", "core", Vec::new(), &[core], out);
    let groups = schemas.meta("APIGroupList");
    let apis = discovery(
        "getAPIVersions".into(),
        "get available API versions",
        groups,
        ROOT_TYPES,
    );
    write(dialect, "/apis/", "apis", Vec::new(), &[apis], out);
    let info = schemas.builtin("io.k8s.apimachinery.pkg.version.Info");
    let version = discovery(
        "getCodeVersion".into(),
        "get the version information for this server",
        info,
        &["application/json"],
    );
    write(dialect, "/version/", "version", Vec::new(), &[version], out);
    let text = |id: &str, description: &str, types| Operation {
        answer: None,
        produces: types,
        consumes: &[],
        ..discovery(id.into(), description, Value::Null, &[])
    };
    let jwks = text(
        "getServiceAccountIssuerOpenIDKeyset",
        "get the keys that verify service accounts' tokens",
        &["application/jwk-set+json"],
    );
    write(
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
    write(
        dialect,
        "/.well-known/openid-configuration/",
        "WellKnown",
        Vec::new(),
        &[configuration],
        out,
    );
}

/// The path of a group.
pub(super) fn group(
    dialect: Dialect,
    group: &str,
    schemas: &mut Schemas<'_>,
    out: &mut Map<String, Value>,
) {
    if group.is_empty() {
        return;
    }
    let answer = schemas.meta("APIGroup");
    let name = group_name(group);
    let operation = discovery(
        format!("get{name}APIGroup"),
        "get information of a group",
        answer,
        ROOT_TYPES,
    );
    write(
        dialect,
        &format!("/apis/{group}/"),
        &lower_first(&name),
        Vec::new(),
        &[operation],
        out,
    );
}

/// The path of a group version.
pub(super) fn group_version(
    dialect: Dialect,
    group: &str,
    version: &str,
    schemas: &mut Schemas<'_>,
    out: &mut Map<String, Value>,
) {
    let answer = schemas.meta("APIResourceList");
    let id = format!("get{}{}APIResources", group_name(group), capital(version));
    let operation = discovery(id, "get available resources", answer, OBJECT_TYPES);
    let path = format!("{}/", group_version_path(group, version));
    write(
        dialect,
        &path,
        &tag(group, version),
        Vec::new(),
        &[operation],
        out,
    );
}

/// What the operations of one resource have in common.
struct Names<'a> {
    resource: &'a Resource,
    /// `AppsV1`.
    group_version: String,
    /// `Namespaced`, or nothing.
    scope: &'static str,
    is_custom: bool,
}

impl Names<'_> {
    fn id(&self, verb: &str, rest: &str) -> String {
        format!(
            "{verb}{}{}{}{rest}",
            self.group_version, self.scope, self.resource.kind
        )
    }

    fn produces(&self, builtin: &'static [&'static str]) -> &'static [&'static str] {
        if self.is_custom {
            CUSTOM_TYPES
        } else {
            builtin
        }
    }

    fn operation(
        &self,
        method: &'static str,
        action: &'static str,
        id: String,
        description: String,
    ) -> Operation {
        Operation {
            method,
            id,
            description,
            action: Some(action),
            kind: Some(self.resource.gvk()),
            queries: vec![PRETTY],
            body: None,
            answer: None,
            codes: &["200"],
            consumes: ANY_TYPES,
            produces: self.produces(OBJECT_TYPES),
        }
    }
}

fn with(queries: &[Query]) -> Vec<Query> {
    let mut all = queries.to_vec();
    all.push(PRETTY);
    all
}

/// All paths of a resource.
pub(super) fn resource(
    dialect: Dialect,
    resource: &Resource,
    schemas: &mut Schemas<'_>,
    out: &mut Map<String, Value>,
) {
    let names = Names {
        resource,
        group_version: format!(
            "{}{}",
            group_name(&resource.group),
            capital(&resource.version)
        ),
        scope: if resource.namespaced {
            "Namespaced"
        } else {
            ""
        },
        is_custom: resource.definition.is_empty(),
    };
    let tag = tag(&resource.group, &resource.version);
    let base = group_version_path(&resource.group, &resource.version);
    let scope = if resource.namespaced {
        "/namespaces/{namespace}"
    } else {
        ""
    };
    let plural = &resource.plural;
    let collection = format!("{base}{scope}/{plural}");
    let item = format!("{collection}/{{name}}");

    let in_collection = |dialect| -> Vec<Value> {
        if resource.namespaced {
            vec![queries::in_path(
                dialect,
                "namespace",
                "object name and auth scope, such as for teams and projects",
            )]
        } else {
            Vec::new()
        }
    };
    let in_item = |dialect| -> Vec<Value> {
        let mut parameters = in_collection(dialect);
        parameters.push(queries::in_path(
            dialect,
            "name",
            &format!("name of the {}", resource.kind),
        ));
        parameters
    };

    write(
        dialect,
        &collection,
        &tag,
        in_collection(dialect),
        &collection_operations(&names, schemas),
        out,
    );
    write(
        dialect,
        &item,
        &tag,
        in_item(dialect),
        &item_operations(&names, schemas),
        out,
    );
    for sub in &resource.subresources {
        let path = format!("{item}/{}", sub.name);
        let operations = subresource_operations(&names, sub, schemas, "");
        write(dialect, &path, &tag, in_item(dialect), &operations, out);
        if sub.name == "proxy" {
            let mut parameters = in_item(dialect);
            parameters.push(queries::in_path(dialect, "path", "path to the resource"));
            let operations = subresource_operations(&names, sub, schemas, "WithPath");
            write(
                dialect,
                &format!("{path}/{{path}}"),
                &tag,
                parameters,
                &operations,
                out,
            );
        }
    }
    if resource.has_verb("list") && resource.namespaced {
        let operation = list_operation(
            &names,
            schemas,
            format!(
                "list{}{}ForAllNamespaces",
                names.group_version, resource.kind
            ),
        );
        write(
            dialect,
            &format!("{base}/{plural}"),
            &tag,
            Vec::new(),
            &[operation],
            out,
        );
    }
    if resource.has_verb("watch") && !names.is_custom {
        watch_paths(
            dialect,
            &names,
            &tag,
            schemas,
            &in_collection,
            &in_item,
            out,
        );
    }
}

fn list_operation(names: &Names<'_>, schemas: &mut Schemas<'_>, id: String) -> Operation {
    Operation {
        queries: with(LIST),
        answer: Some(schemas.list(names.resource)),
        produces: names.produces(LIST_TYPES),
        ..names.operation(
            "get",
            "list",
            id,
            format!("list or watch objects of kind {}", names.resource.kind),
        )
    }
}

fn collection_operations(names: &Names<'_>, schemas: &mut Schemas<'_>) -> Vec<Operation> {
    let resource = names.resource;
    let kind = &resource.kind;
    let mut out = Vec::new();
    if resource.has_verb("list") {
        out.push(list_operation(names, schemas, names.id("list", "")));
    }
    if resource.has_verb("create") {
        let object = schemas.object(resource);
        out.push(Operation {
            queries: with(WRITE),
            body: Some(Body {
                schema: object.clone(),
                required: true,
            }),
            answer: Some(object),
            codes: &["200", "201", "202"],
            ..names.operation(
                "post",
                "post",
                names.id("create", ""),
                format!("create {} {kind}", article(kind)),
            )
        });
    }
    if resource.has_verb("deletecollection") {
        let id = format!(
            "delete{}Collection{}{kind}",
            names.group_version, names.scope
        );
        out.push(Operation {
            queries: with(DELETE_COLLECTION),
            body: Some(Body {
                schema: schemas.meta("DeleteOptions"),
                required: false,
            }),
            answer: Some(schemas.meta("Status")),
            ..names.operation(
                "delete",
                "deletecollection",
                id,
                format!("delete collection of {kind}"),
            )
        });
    }
    out
}

fn article(kind: &str) -> &'static str {
    if kind.starts_with(['A', 'E', 'I', 'O', 'U']) {
        "an"
    } else {
        "a"
    }
}

fn item_operations(names: &Names<'_>, schemas: &mut Schemas<'_>) -> Vec<Operation> {
    let resource = names.resource;
    let kind = &resource.kind;
    let object = if resource.has_verb("get") {
        schemas.object(resource)
    } else {
        Value::Null
    };
    let mut out = Vec::new();
    if resource.has_verb("get") {
        out.push(read(
            names,
            names.id("read", ""),
            format!("read the specified {kind}"),
            &resource.gvk(),
            &object,
        ));
    }
    if resource.has_verb("update") {
        let description = format!("replace the specified {kind}");
        out.push(replace(
            names,
            names.id("replace", ""),
            description,
            &resource.gvk(),
            &object,
        ));
    }
    if resource.has_verb("patch") {
        let description = format!("partially update the specified {kind}");
        out.push(patch(
            names,
            schemas,
            names.id("patch", ""),
            description,
            &resource.gvk(),
            &object,
        ));
    }
    if resource.has_verb("delete") {
        let answer = if resource.returns_deleted_object() {
            object.clone()
        } else {
            schemas.meta("Status")
        };
        out.push(Operation {
            queries: with(DELETE),
            body: Some(Body {
                schema: schemas.meta("DeleteOptions"),
                required: false,
            }),
            answer: Some(answer),
            codes: &["200", "202"],
            ..names.operation(
                "delete",
                "delete",
                names.id("delete", ""),
                format!("delete {} {kind}", article(kind)),
            )
        });
    }
    out
}

fn read(
    names: &Names<'_>,
    id: String,
    description: String,
    kind: &GroupVersionKind,
    object: &Value,
) -> Operation {
    Operation {
        kind: Some(kind.clone()),
        answer: Some(object.clone()),
        ..names.operation("get", "get", id, description)
    }
}

fn replace(
    names: &Names<'_>,
    id: String,
    description: String,
    kind: &GroupVersionKind,
    object: &Value,
) -> Operation {
    Operation {
        kind: Some(kind.clone()),
        queries: with(WRITE),
        body: Some(Body {
            schema: object.clone(),
            required: true,
        }),
        answer: Some(object.clone()),
        codes: &["200", "201"],
        ..names.operation("put", "put", id, description)
    }
}

fn patch(
    names: &Names<'_>,
    schemas: &mut Schemas<'_>,
    id: String,
    description: String,
    kind: &GroupVersionKind,
    object: &Value,
) -> Operation {
    Operation {
        kind: Some(kind.clone()),
        queries: with(APPLY),
        body: Some(Body {
            schema: schemas.meta("Patch"),
            required: true,
        }),
        answer: Some(object.clone()),
        codes: &["200", "201"],
        consumes: if names.is_custom {
            CUSTOM_PATCH_TYPES
        } else {
            PATCH_TYPES
        },
        ..names.operation("patch", "patch", id, description)
    }
}

fn subresource_operations(
    names: &Names<'_>,
    sub: &Subresource,
    schemas: &mut Schemas<'_>,
    suffix: &str,
) -> Vec<Operation> {
    let resource = names.resource;
    let kind = &resource.kind;
    let name = &sub.name;
    let title = capital(name);
    let of_own_kind = sub.kind == resource.gvk();
    let definition = definition_of_kind(&sub.kind);
    let options = queries::of_subresource(&sub.kind.kind, name);

    // A connection: no object goes in or out.
    if !of_own_kind && definition.is_none() {
        let methods: &[&'static str] = if name == "proxy" {
            &["get", "put", "post", "delete", "options", "head", "patch"]
        } else {
            &["get", "post"]
        };
        let shared: Vec<Query> = options.to_vec();
        return methods
            .iter()
            .map(|method| Operation {
                kind: Some(sub.kind.clone()),
                queries: shared.clone(),
                produces: ANY_TYPES,
                ..names.operation(
                    method,
                    "connect",
                    format!(
                        "connect{}{}{}{kind}{title}{suffix}",
                        names.group_version,
                        capital(method),
                        names.scope
                    ),
                    format!(
                        "connect {} requests to {name} of {kind}",
                        method.to_uppercase()
                    ),
                )
            })
            .collect();
    }
    if (kind.as_ref(), name.as_ref()) == ("Pod", "log") {
        return vec![Operation {
            queries: options.to_vec(),
            produces: LOG_TYPES,
            ..names.operation(
                "get",
                "get",
                names.id("read", "Log"),
                "read log of the specified Pod".into(),
            )
        }];
    }
    let object = match definition {
        Some(definition) => schemas.builtin(definition),
        None => schemas.object(resource),
    };
    let mut out = Vec::new();
    if sub.verbs.contains(&"get") {
        let description = format!("read {name} of the specified {kind}");
        out.push(read(
            names,
            names.id("read", &title),
            description,
            &sub.kind,
            &object,
        ));
    }
    if sub.verbs.contains(&"update") {
        let description = format!("replace {name} of the specified {kind}");
        out.push(replace(
            names,
            names.id("replace", &title),
            description,
            &sub.kind,
            &object,
        ));
    }
    if sub.verbs.contains(&"patch") {
        let description = format!("partially update {name} of the specified {kind}");
        out.push(patch(
            names,
            schemas,
            names.id("patch", &title),
            description,
            &sub.kind,
            &object,
        ));
    }
    if sub.verbs.contains(&"create") {
        out.push(Operation {
            kind: Some(sub.kind.clone()),
            queries: with(WRITE),
            body: Some(Body {
                schema: object.clone(),
                required: true,
            }),
            answer: Some(object),
            codes: &["200", "201", "202"],
            ..names.operation(
                "post",
                "post",
                names.id("create", &title),
                format!("create {name} of {} {kind}", article(kind)),
            )
        });
    }
    out
}

/// The old way of watching, by path.
fn watch_paths(
    dialect: Dialect,
    names: &Names<'_>,
    tag: &str,
    schemas: &mut Schemas<'_>,
    in_collection: &dyn Fn(Dialect) -> Vec<Value>,
    in_item: &dyn Fn(Dialect) -> Vec<Value>,
    out: &mut Map<String, Value>,
) {
    let resource = names.resource;
    let kind = &resource.kind;
    let base = group_version_path(&resource.group, &resource.version);
    let scope = if resource.namespaced {
        "/namespaces/{namespace}"
    } else {
        ""
    };
    let collection = format!("{base}/watch{scope}/{}", resource.plural);
    let event = schemas.meta("WatchEvent");
    let operation = |action, id, description: String| Operation {
        queries: with(LIST),
        answer: Some(event.clone()),
        produces: LIST_TYPES,
        ..names.operation("get", action, id, description)
    };
    let list_text = || {
        format!(
            "watch individual changes to a list of {kind}. deprecated: use the 'watch' parameter with a list operation instead."
        )
    };
    let list = operation("watchlist", names.id("watch", "List"), list_text());
    write(
        dialect,
        &collection,
        tag,
        in_collection(dialect),
        &[list],
        out,
    );
    if resource.namespaced {
        let id = format!("watch{}{kind}ListForAllNamespaces", names.group_version);
        let all = operation("watchlist", id, list_text());
        write(
            dialect,
            &format!("{base}/watch/{}", resource.plural),
            tag,
            Vec::new(),
            &[all],
            out,
        );
    }
    if resource.has_verb("get") {
        let one = operation(
            "watch",
            names.id("watch", ""),
            format!(
                "watch changes to an object of kind {kind}. deprecated: use the 'watch' parameter with a list operation instead, filtered to a single item with the 'fieldSelector' parameter."
            ),
        );
        write(
            dialect,
            &format!("{collection}/{{name}}"),
            tag,
            in_item(dialect),
            &[one],
            out,
        );
    }
}
