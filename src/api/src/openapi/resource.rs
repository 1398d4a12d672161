//! Paths of resources and the operations on them.

use serde_json::{Map, Value};

use crate::gvk::GroupVersionKind;
use crate::registry::{Resource, Subresource, group_version_path};

use super::names::{capitalize, group_name, tag};
use super::operation::{Body, OBJECT_TYPES, Operation, write_path};
use super::queries::{
    APPLY, DELETE, DELETE_COLLECTION, LIST, PRETTY, Query, WRITE, path_parameter,
    subresource_queries,
};
use super::schemas::{Schemas, definition_of_kind};
use super::types::Dialect;

/// Media types of lists and watches.
const LIST_TYPES: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
/// Media types of custom resources.
const CUSTOM_TYPES: &[&str] = &["application/json", "application/yaml"];
/// Media types of patches.
const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
/// Media types of patches of custom resources.
const CUSTOM_PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/apply-patch+yaml",
];
/// Media types of logs.
const LOG_TYPES: &[&str] = &[
    "text/plain",
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];
/// The media type of requests without a checked type.
const ANY_TYPES: &[&str] = &["*/*"];

/// A resource, and the parts of its operations' names.
struct Names<'a> {
    resource: &'a Resource,
    /// The group version as in operation names: `AppsV1`.
    group_version: String,
    /// `Namespaced`, or empty for resources of the cluster.
    scope: &'static str,
    is_custom: bool,
}

impl<'a> Names<'a> {
    fn new(resource: &'a Resource) -> Self {
        Self {
            resource,
            group_version: format!(
                "{}{}",
                group_name(&resource.group),
                capitalize(&resource.version)
            ),
            scope: if resource.namespaced {
                "Namespaced"
            } else {
                ""
            },
            is_custom: resource.definition.is_empty(),
        }
    }

    /// Returns the parameters of the path of a collection.
    fn collection_parameters(&self, dialect: Dialect) -> Vec<Value> {
        if !self.resource.namespaced {
            return Vec::new();
        }
        let text = "object name and auth scope, such as for teams and projects";
        vec![path_parameter(dialect, "namespace", text)]
    }

    /// Returns the parameters of the path of an object.
    fn item_parameters(&self, dialect: Dialect) -> Vec<Value> {
        let mut parameters = self.collection_parameters(dialect);
        let text = format!("name of the {}", self.resource.kind);
        parameters.push(path_parameter(dialect, "name", &text));
        parameters
    }

    /// Returns the `operationId` of an operation.
    fn id(&self, verb: &str, rest: &str) -> String {
        format!(
            "{verb}{}{}{}{rest}",
            self.group_version, self.scope, self.resource.kind
        )
    }

    /// Returns the media types of responses, given those of built-in resources.
    fn produces(&self, builtin: &'static [&'static str]) -> &'static [&'static str] {
        if self.is_custom {
            CUSTOM_TYPES
        } else {
            builtin
        }
    }

    /// Returns an operation without parameters, body and response.
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
            response: None,
            codes: &["200"],
            consumes: ANY_TYPES,
            produces: self.produces(OBJECT_TYPES),
        }
    }
}

fn with_pretty(queries: &[Query]) -> Vec<Query> {
    let mut all = queries.to_vec();
    all.push(PRETTY);
    all
}

/// Writes all paths of a resource.
pub(super) fn paths(
    dialect: Dialect,
    resource: &Resource,
    schemas: &mut Schemas<'_>,
    out: &mut Map<String, Value>,
) {
    let names = Names::new(resource);
    let tag = tag(&resource.group, &resource.version);
    let base = group_version_path(&resource.group, &resource.version);
    let plural = &resource.plural;
    let collection = format!("{base}{}/{plural}", namespace_segment(resource));
    let item = format!("{collection}/{{name}}");

    let parameters = names.collection_parameters(dialect);
    let operations = collection_operations(&names, schemas);
    write_path(dialect, &collection, &tag, parameters, &operations, out);
    let parameters = names.item_parameters(dialect);
    let operations = item_operations(&names, schemas);
    write_path(dialect, &item, &tag, parameters, &operations, out);
    for sub in &resource.subresources {
        let path = format!("{item}/{}", sub.name);
        let parameters = names.item_parameters(dialect);
        let operations = subresource_operations(&names, sub, schemas, "");
        write_path(dialect, &path, &tag, parameters, &operations, out);
        if sub.name == "proxy" {
            let path = format!("{path}/{{path}}");
            let mut parameters = names.item_parameters(dialect);
            parameters.push(path_parameter(dialect, "path", "path to the resource"));
            let operations = subresource_operations(&names, sub, schemas, "WithPath");
            write_path(dialect, &path, &tag, parameters, &operations, out);
        }
    }
    if resource.has_verb("list") && resource.namespaced {
        let id = format!(
            "list{}{}ForAllNamespaces",
            names.group_version, resource.kind
        );
        let operation = list_operation(&names, schemas, id);
        let path = format!("{base}/{plural}");
        write_path(dialect, &path, &tag, Vec::new(), &[operation], out);
    }
    if resource.has_verb("watch") && !names.is_custom {
        watch_paths(dialect, &names, &tag, schemas, out);
    }
}

/// Returns the part of a resource's paths that names the namespace.
fn namespace_segment(resource: &Resource) -> &'static str {
    if resource.namespaced {
        "/namespaces/{namespace}"
    } else {
        ""
    }
}

fn list_operation(names: &Names<'_>, schemas: &mut Schemas<'_>, id: String) -> Operation {
    Operation {
        queries: with_pretty(LIST),
        response: Some(schemas.list(names.resource)),
        produces: names.produces(LIST_TYPES),
        ..names.operation(
            "get",
            "list",
            id,
            format!("list or watch objects of kind {}", names.resource.kind),
        )
    }
}

/// Returns the operations on a collection.
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
            queries: with_pretty(WRITE),
            body: Some(Body {
                schema: object.clone(),
                required: true,
            }),
            response: Some(object),
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
            queries: with_pretty(DELETE_COLLECTION),
            body: Some(Body {
                schema: schemas.meta("DeleteOptions"),
                required: false,
            }),
            response: Some(schemas.meta("Status")),
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

/// Returns the indefinite article of a kind.
fn article(kind: &str) -> &'static str {
    if kind.starts_with(['A', 'E', 'I', 'O', 'U']) {
        "an"
    } else {
        "a"
    }
}

/// Returns the operations on an object.
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
        out.push(read_operation(
            names,
            names.id("read", ""),
            format!("read the specified {kind}"),
            &resource.gvk(),
            &object,
        ));
    }
    if resource.has_verb("update") {
        let description = format!("replace the specified {kind}");
        out.push(replace_operation(
            names,
            names.id("replace", ""),
            description,
            &resource.gvk(),
            &object,
        ));
    }
    if resource.has_verb("patch") {
        let description = format!("partially update the specified {kind}");
        out.push(patch_operation(
            names,
            schemas,
            names.id("patch", ""),
            description,
            &resource.gvk(),
            &object,
        ));
    }
    if resource.has_verb("delete") {
        let response = if resource.returns_deleted_object() {
            object.clone()
        } else {
            schemas.meta("Status")
        };
        out.push(Operation {
            queries: with_pretty(DELETE),
            body: Some(Body {
                schema: schemas.meta("DeleteOptions"),
                required: false,
            }),
            response: Some(response),
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

fn read_operation(
    names: &Names<'_>,
    id: String,
    description: String,
    kind: &GroupVersionKind,
    object: &Value,
) -> Operation {
    Operation {
        kind: Some(kind.clone()),
        response: Some(object.clone()),
        ..names.operation("get", "get", id, description)
    }
}

fn replace_operation(
    names: &Names<'_>,
    id: String,
    description: String,
    kind: &GroupVersionKind,
    object: &Value,
) -> Operation {
    Operation {
        kind: Some(kind.clone()),
        queries: with_pretty(WRITE),
        body: Some(Body {
            schema: object.clone(),
            required: true,
        }),
        response: Some(object.clone()),
        codes: &["200", "201"],
        ..names.operation("put", "put", id, description)
    }
}

fn patch_operation(
    names: &Names<'_>,
    schemas: &mut Schemas<'_>,
    id: String,
    description: String,
    kind: &GroupVersionKind,
    object: &Value,
) -> Operation {
    Operation {
        kind: Some(kind.clone()),
        queries: with_pretty(APPLY),
        body: Some(Body {
            schema: schemas.meta("Patch"),
            required: true,
        }),
        response: Some(object.clone()),
        codes: &["200", "201"],
        consumes: if names.is_custom {
            CUSTOM_PATCH_TYPES
        } else {
            PATCH_TYPES
        },
        ..names.operation("patch", "patch", id, description)
    }
}

/// Returns the operations on a subresource. `suffix` ends their names.
fn subresource_operations(
    names: &Names<'_>,
    sub: &Subresource,
    schemas: &mut Schemas<'_>,
    suffix: &str,
) -> Vec<Operation> {
    let resource = names.resource;
    let definition = definition_of_kind(&sub.kind);
    // Neither an object is sent nor received.
    if sub.kind != resource.gvk() && definition.is_none() {
        return connect_operations(names, sub, suffix);
    }
    if (resource.kind.as_ref(), sub.name.as_ref()) == ("Pod", "log") {
        return vec![log_operation(names, sub)];
    }
    let object = match definition {
        Some(definition) => schemas.builtin(definition),
        None => schemas.object(resource),
    };
    object_operations(names, sub, schemas, object)
}

/// Returns the operations that connect to a subresource.
fn connect_operations(names: &Names<'_>, sub: &Subresource, suffix: &str) -> Vec<Operation> {
    let kind = &names.resource.kind;
    let name = &sub.name;
    let methods: &[&'static str] = if name == "proxy" {
        &["get", "put", "post", "delete", "options", "head", "patch"]
    } else {
        &["get", "post"]
    };
    methods
        .iter()
        .map(|method| Operation {
            kind: Some(sub.kind.clone()),
            queries: subresource_queries(&sub.kind.kind, name).to_vec(),
            produces: ANY_TYPES,
            ..names.operation(
                method,
                "connect",
                format!(
                    "connect{}{}{}{kind}{}{suffix}",
                    names.group_version,
                    capitalize(method),
                    names.scope,
                    capitalize(name)
                ),
                format!(
                    "connect {} requests to {name} of {kind}",
                    method.to_uppercase()
                ),
            )
        })
        .collect()
}

/// Returns the operation that reads a pod's log.
fn log_operation(names: &Names<'_>, sub: &Subresource) -> Operation {
    Operation {
        queries: subresource_queries(&sub.kind.kind, &sub.name).to_vec(),
        produces: LOG_TYPES,
        ..names.operation(
            "get",
            "get",
            names.id("read", "Log"),
            "read log of the specified Pod".into(),
        )
    }
}

/// Returns the operations on a subresource that is an object.
fn object_operations(
    names: &Names<'_>,
    sub: &Subresource,
    schemas: &mut Schemas<'_>,
    object: Value,
) -> Vec<Operation> {
    let kind = &names.resource.kind;
    let name = &sub.name;
    let title = capitalize(name);
    let mut out = Vec::new();
    if sub.verbs.contains(&"get") {
        let description = format!("read {name} of the specified {kind}");
        out.push(read_operation(
            names,
            names.id("read", &title),
            description,
            &sub.kind,
            &object,
        ));
    }
    if sub.verbs.contains(&"update") {
        let description = format!("replace {name} of the specified {kind}");
        out.push(replace_operation(
            names,
            names.id("replace", &title),
            description,
            &sub.kind,
            &object,
        ));
    }
    if sub.verbs.contains(&"patch") {
        let description = format!("partially update {name} of the specified {kind}");
        out.push(patch_operation(
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
            queries: with_pretty(WRITE),
            body: Some(Body {
                schema: object.clone(),
                required: true,
            }),
            response: Some(object),
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

/// Writes the deprecated paths of watches.
fn watch_paths(
    dialect: Dialect,
    names: &Names<'_>,
    tag: &str,
    schemas: &mut Schemas<'_>,
    out: &mut Map<String, Value>,
) {
    let resource = names.resource;
    let kind = &resource.kind;
    let base = group_version_path(&resource.group, &resource.version);
    let scope = namespace_segment(resource);
    let collection = format!("{base}/watch{scope}/{}", resource.plural);
    let event = schemas.meta("WatchEvent");
    let operation = |action, id, description: String| Operation {
        queries: with_pretty(LIST),
        response: Some(event.clone()),
        produces: LIST_TYPES,
        ..names.operation("get", action, id, description)
    };
    let list_text = || {
        format!(
            "watch individual changes to a list of {kind}. deprecated: use the 'watch' parameter with a list operation instead."
        )
    };
    let list = operation("watchlist", names.id("watch", "List"), list_text());
    write_path(
        dialect,
        &collection,
        tag,
        names.collection_parameters(dialect),
        &[list],
        out,
    );
    if resource.namespaced {
        let id = format!("watch{}{kind}ListForAllNamespaces", names.group_version);
        let all = operation("watchlist", id, list_text());
        write_path(
            dialect,
            &format!("{base}/watch/{}", resource.plural),
            tag,
            Vec::new(),
            &[all],
            out,
        );
    }
    if resource.has_verb("get") {
        let item = operation(
            "watch",
            names.id("watch", ""),
            format!(
                "watch changes to an object of kind {kind}. deprecated: use the 'watch' parameter with a list operation instead, filtered to a single item with the 'fieldSelector' parameter."
            ),
        );
        write_path(
            dialect,
            &format!("{collection}/{{name}}"),
            tag,
            names.item_parameters(dialect),
            &[item],
            out,
        );
    }
}
