//! Operations, and how either dialect writes them.

use serde_json::{Map, Value, json};

use crate::gvk::GroupVersionKind;

use super::Dialect;
use super::queries::Query;

/// One method on a path.
pub(super) struct Operation {
    pub method: &'static str,
    pub id: String,
    pub description: String,
    pub action: Option<&'static str>,
    pub kind: Option<GroupVersionKind>,
    pub queries: Vec<Query>,
    pub body: Option<Body>,
    /// Answers with an object of this schema under each of these codes; `None`
    /// is a text.
    pub answer: Option<Value>,
    pub codes: &'static [&'static str],
    pub consumes: &'static [&'static str],
    pub produces: &'static [&'static str],
}

pub(super) struct Body {
    pub schema: Value,
    pub required: bool,
}

/// `Apps`, `RbacAuthorization`, `Core`: a group in operation names.
pub(super) fn group_name(group: &str) -> String {
    if group.is_empty() {
        return "Core".into();
    }
    let group = group.strip_suffix(".k8s.io").unwrap_or(group);
    group.split('.').map(capital).collect()
}

pub(super) fn capital(word: &str) -> String {
    let mut chars = word.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}

pub(super) fn lower_first(word: &str) -> String {
    let mut chars = word.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

pub(super) fn tag(group: &str, version: &str) -> String {
    format!("{}_{version}", lower_first(&group_name(group)))
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
        let mut responses = Map::new();
        let schema = self
            .answer
            .clone()
            .unwrap_or_else(|| json!({"type": "string"}));
        match dialect {
            Dialect::V2 => {
                out.insert("consumes".into(), self.consumes.into());
                out.insert("produces".into(), self.produces.into());
                out.insert("schemes".into(), json!(["https"]));
                for code in self.codes {
                    let text = code_text(code);
                    responses.insert(
                        (*code).into(),
                        json!({"description": text, "schema": schema}),
                    );
                }
            }
            Dialect::V3 => {
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
                for code in self.codes {
                    responses.insert(
                        (*code).into(),
                        json!({"description": code_text(code), "content": content(self.produces, &schema)}),
                    );
                }
            }
        }
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
}

fn code_text(code: &str) -> &'static str {
    match code {
        "201" => "Created",
        "202" => "Accepted",
        _ => "OK",
    }
}

/// Writes a path. Parameters that all operations share stand on the path.
pub(super) fn write(
    dialect: Dialect,
    path: &str,
    tag: &str,
    in_path: Vec<Value>,
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
    let mut parameters = in_path;
    parameters.extend(shared.iter().map(|q| q.to_value(dialect)));
    if !parameters.is_empty() {
        parameters.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
        item.insert("parameters".into(), parameters.into());
    }
    out.insert(path.to_owned(), Value::Object(item));
}
