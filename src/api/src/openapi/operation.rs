//! Operations and their encoding in either version of OpenAPI.

use serde_json::{Map, Value, json};

use crate::gvk::GroupVersionKind;

use super::queries::Query;
use super::types::Dialect;

/// Media types of objects.
pub(super) const OBJECT_TYPES: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];

/// An operation: one HTTP method of a path.
pub(super) struct Operation {
    /// The HTTP method in lower case.
    pub method: &'static str,
    /// The `operationId`.
    pub id: String,
    /// The description.
    pub description: String,
    /// The `x-kubernetes-action`.
    pub action: Option<&'static str>,
    /// The `x-kubernetes-group-version-kind`.
    pub kind: Option<GroupVersionKind>,
    /// The query parameters.
    pub queries: Vec<Query>,
    /// The request's body.
    pub body: Option<Body>,
    /// The schema of successful responses; `None` is a plain string.
    pub response: Option<Value>,
    /// The status codes of successful responses.
    pub codes: &'static [&'static str],
    /// The media types of the request's body.
    pub consumes: &'static [&'static str],
    /// The media types of responses.
    pub produces: &'static [&'static str],
}

/// The body of a request.
pub(super) struct Body {
    /// The schema.
    pub schema: Value,
    /// Whether the body is required.
    pub required: bool,
}

impl Operation {
    fn to_value(&self, dialect: Dialect, tag: &str, promoted: &[Query]) -> Value {
        let mut out = Map::new();
        out.insert("operationId".into(), self.id.as_str().into());
        out.insert("description".into(), self.description.as_str().into());
        out.insert("tags".into(), json!([tag]));
        let mut parameters: Vec<Value> = Vec::new();
        if dialect == Dialect::V2
            && let Some(body) = &self.body
        {
            let mut parameter = json!({"name": "body", "in": "body", "schema": body.schema});
            if body.required {
                crate::meta::map_mut(&mut parameter).insert("required".into(), true.into());
            }
            parameters.push(parameter);
        }
        parameters.extend(
            self.queries
                .iter()
                .filter(|q| !promoted.contains(q))
                .map(|q| q.to_value(dialect)),
        );
        if !parameters.is_empty() {
            out.insert("parameters".into(), parameters.into());
        }
        let schema = self
            .response
            .clone()
            .unwrap_or_else(|| json!({"type": "string"}));
        let mut responses = match dialect {
            Dialect::V2 => self.write_v2(&schema, &mut out),
            Dialect::V3 => self.write_v3(&schema, &mut out),
        };
        responses.insert("401".into(), json!({"description": "Unauthorized"}));
        out.insert("responses".into(), responses.into());
        if let Some(action) = self.action {
            out.insert("x-kubernetes-action".into(), action.into());
        }
        if let Some(kind) = &self.kind {
            out.insert(
                "x-kubernetes-group-version-kind".into(),
                json!({"group": kind.group, "version": kind.version, "kind": kind.kind}),
            );
        }
        Value::Object(out)
    }

    /// Writes the parts that only version 2 has, and returns the responses.
    fn write_v2(&self, schema: &Value, out: &mut Map<String, Value>) -> Map<String, Value> {
        out.insert("consumes".into(), self.consumes.into());
        out.insert("produces".into(), self.produces.into());
        out.insert("schemes".into(), json!(["https"]));
        self.responses(|text| json!({"description": text, "schema": schema}))
    }

    /// Writes the parts that only version 3 has, and returns the responses.
    fn write_v3(&self, schema: &Value, out: &mut Map<String, Value>) -> Map<String, Value> {
        let content = |types: &[&str], schema: &Value| -> Value {
            types
                .iter()
                .map(|t| ((*t).to_owned(), json!({"schema": schema})))
                .collect::<Map<_, _>>()
                .into()
        };
        if let Some(body) = &self.body {
            let mut request = json!({"content": content(self.consumes, &body.schema)});
            if body.required {
                crate::meta::map_mut(&mut request).insert("required".into(), true.into());
            }
            out.insert("requestBody".into(), request);
        }
        self.responses(
            |text| json!({"description": text, "content": content(self.produces, schema)}),
        )
    }

    fn responses(&self, response: impl Fn(&str) -> Value) -> Map<String, Value> {
        self.codes
            .iter()
            .map(|code| ((*code).to_owned(), response(code_text(code))))
            .collect()
    }
}

/// Returns the description of a status code.
fn code_text(code: &str) -> &'static str {
    match code {
        "201" => "Created",
        "202" => "Accepted",
        _ => "OK",
    }
}

/// Writes a path with its operations. Parameters that all operations share are written
/// on the path.
pub(super) fn write_path(
    dialect: Dialect,
    path: &str,
    tag: &str,
    path_parameters: Vec<Value>,
    operations: &[Operation],
    out: &mut Map<String, Value>,
) {
    if operations.is_empty() {
        return;
    }
    let shared: Vec<Query> = operations[0]
        .queries
        .iter()
        .copied()
        .filter(|q| operations.iter().all(|o| o.queries.contains(q)))
        .collect();
    let mut item = Map::new();
    for operation in operations {
        item.insert(
            operation.method.into(),
            operation.to_value(dialect, tag, &shared),
        );
    }
    let mut parameters = path_parameters;
    parameters.extend(shared.iter().map(|q| q.to_value(dialect)));
    if !parameters.is_empty() {
        parameters.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
        item.insert("parameters".into(), parameters.into());
    }
    out.insert(path.to_owned(), Value::Object(item));
}
