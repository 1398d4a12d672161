//! Conversion of OpenAPI v2 documents to v3, for servers without v3.

use serde_json::{Map, Value, json};

const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];

/// Members of a v2 parameter that move to its schema in v3.
const SIMPLE_SCHEMA: [&str; 16] = [
    "type",
    "format",
    "items",
    "default",
    "enum",
    "uniqueItems",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
    "multipleOf",
];

type Object = Map<String, Value>;

/// The members of a document that its operations inherit.
struct Shared<'d> {
    parameters: Option<&'d Object>,
    consumes: &'d Value,
    produces: &'d Value,
}

/// Converts a v2 document to v3.
pub(super) fn from_v2(document: &Value) -> Value {
    let shared = Shared {
        parameters: document["parameters"].as_object(),
        consumes: &document["consumes"],
        produces: &document["produces"],
    };
    let mut components = Object::new();
    let mut put = |name: &str, part: &Value, convert: &dyn Fn(&Value) -> Value| {
        if let Some(part) = part.as_object() {
            components.insert(name.into(), convert_members(part, convert));
        }
    };
    put("schemas", &document["definitions"], &schema);
    put("responses", &document["responses"], &|r| {
        response(r, shared.produces)
    });
    put(
        "securitySchemes",
        &document["securityDefinitions"],
        &security_scheme,
    );
    // In v3, body parameters are request bodies; they are inlined where they are used.
    let parameters: Object = shared
        .parameters
        .into_iter()
        .flatten()
        .filter(|(_, p)| p["in"] != "body")
        .map(|(name, p)| (name.clone(), parameter(p)))
        .collect();
    if !parameters.is_empty() {
        components.insert("parameters".into(), parameters.into());
    }
    let paths = document["paths"].as_object().into_iter().flatten();
    let paths: Object = paths
        .map(|(path, item)| (path.clone(), shared.path(item)))
        .collect();
    let mut converted = json!({
        "openapi": "3.0.0",
        "info": document["info"],
        "paths": paths,
        "components": components,
    });
    if document["externalDocs"].is_object() {
        converted["externalDocs"] = document["externalDocs"].clone();
    }
    converted
}

fn convert_members(map: &Object, convert: &dyn Fn(&Value) -> Value) -> Value {
    map.iter()
        .map(|(name, value)| (name.clone(), convert(value)))
        .collect::<Object>()
        .into()
}

/// Returns the members that are the same in both versions: those in `keys`, and extensions.
fn copied(from: &Value, keys: &[&str]) -> Object {
    from.as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| keys.contains(&key.as_str()) || key.starts_with("x-"))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn moved(reference: &str) -> String {
    for (from, to) in [
        ("#/definitions/", "#/components/schemas/"),
        ("#/parameters/", "#/components/parameters/"),
        ("#/responses/", "#/components/responses/"),
    ] {
        if let Some((_, name)) = reference.split_once(from) {
            return format!("{to}{name}");
        }
    }
    reference.to_owned()
}

/// Converts a schema and its references. A reference with sibling members is wrapped in `allOf`,
/// because v3 ignores the siblings of `$ref`.
fn schema(v2: &Value) -> Value {
    let Some(fields) = v2.as_object() else {
        return v2.clone();
    };
    let list = |value: &Value| match value.as_array() {
        Some(parts) => parts.iter().map(schema).collect(),
        None => schema(value),
    };
    let mut v3: Object = fields
        .iter()
        .map(|(key, value)| {
            let value = match (key.as_str(), value) {
                ("$ref", Value::String(reference)) => moved(reference).into(),
                ("properties" | "patternProperties" | "definitions", Value::Object(parts)) => {
                    convert_members(parts, &schema)
                }
                ("items" | "allOf" | "anyOf" | "oneOf", _) => list(value),
                ("additionalProperties" | "additionalItems" | "not", _) => schema(value),
                _ => value.clone(),
            };
            (key.clone(), value)
        })
        .collect();
    if v3.len() > 1
        && let Some(reference) = v3.remove("$ref")
    {
        v3.insert("allOf".into(), json!([{"$ref": reference}]));
    }
    v3.into()
}

fn parameter(v2: &Value) -> Value {
    if let Some(reference) = v2["$ref"].as_str() {
        return json!({"$ref": moved(reference)});
    }
    let mut v3 = copied(
        v2,
        &["name", "description", "in", "required", "allowEmptyValue"],
    );
    let of = match &v2["schema"] {
        Value::Null => SIMPLE_SCHEMA
            .iter()
            .filter_map(|key| Some(((*key).to_owned(), v2.get(*key)?.clone())))
            .collect::<Object>()
            .into(),
        given => schema(given),
    };
    v3.insert("schema".into(), of);
    v3.into()
}

/// Returns the `content` map with the same schema for each media type.
fn content(of: &Value, types: &Value) -> Value {
    let of = schema(of);
    let types = types.as_array().into_iter().flatten();
    types
        .filter_map(Value::as_str)
        .map(|kind| (kind.to_owned(), json!({"schema": of})))
        .collect::<Object>()
        .into()
}

fn response(v2: &Value, produces: &Value) -> Value {
    if let Some(reference) = v2["$ref"].as_str() {
        return json!({"$ref": moved(reference)});
    }
    let mut v3 = copied(v2, &["description"]);
    if v2["schema"].is_object() {
        v3.insert("content".into(), content(&v2["schema"], produces));
    }
    v3.into()
}

fn security_scheme(v2: &Value) -> Value {
    let mut v3 = copied(v2, &["description", "type", "name", "in"]);
    if let Some(flow) = v2["flow"].as_str() {
        let mut said = Object::new();
        for key in ["authorizationUrl", "tokenUrl", "scopes"] {
            if let Some(value) = v2.get(key) {
                said.insert(key.into(), value.clone());
            }
        }
        v3.insert("flows".into(), json!({flow: said}));
    }
    v3.into()
}

impl Shared<'_> {
    fn path(&self, item: &Value) -> Value {
        let mut v3 = copied(item, &["$ref"]);
        let (parameters, body) = self.parameters(&item["parameters"]);
        if !parameters.is_empty() {
            v3.insert("parameters".into(), parameters.into());
        }
        for method in METHODS {
            if item[method].is_object() {
                v3.insert(method.into(), self.operation(&item[method], body));
            }
        }
        v3.into()
    }

    /// Converts parameters; returns the body parameter separately.
    fn parameters<'v>(&'v self, list: &'v Value) -> (Vec<Value>, Option<&'v Value>) {
        let mut parameters = Vec::new();
        let mut body = None;
        for given in list.as_array().into_iter().flatten() {
            let named = given["$ref"]
                .as_str()
                .and_then(|r| r.strip_prefix("#/parameters/"))
                .and_then(|name| self.parameters?.get(name));
            match named.unwrap_or(given) {
                meant if meant["in"] == "body" => body = Some(meant),
                _ => parameters.push(parameter(given)),
            }
        }
        (parameters, body)
    }

    /// Converts an operation. `body` is the body parameter of its path item, if any.
    fn operation(&self, v2: &Value, body: Option<&Value>) -> Value {
        let own = |key: &str, all| match v2.get(key) {
            Some(own) => own,
            None => all,
        };
        let mut v3 = copied(
            v2,
            &[
                "description",
                "externalDocs",
                "tags",
                "summary",
                "deprecated",
                "operationId",
                "security",
            ],
        );
        let (parameters, own_body) = self.parameters(&v2["parameters"]);
        if !parameters.is_empty() {
            v3.insert("parameters".into(), parameters.into());
        }
        if let Some(body) = own_body.or(body) {
            let mut request = copied(body, &["description", "required"]);
            let types = own("consumes", self.consumes);
            request.insert("content".into(), content(&body["schema"], types));
            v3.insert("requestBody".into(), request.into());
        }
        let produces = own("produces", self.produces);
        let responses = match v2["responses"].as_object() {
            Some(responses) => convert_members(responses, &|r| response(r, produces)),
            None => json!({}),
        };
        v3.insert("responses".into(), responses);
        v3.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_keep_their_meaning() {
        assert_eq!(
            schema(&json!({"type": "object", "properties": {
                "$ref": {"type": "string", "default": {"$ref": "#/definitions/kept"}},
                "a": {"$ref": "#/definitions/A"},
                "b": {"$ref": "#/definitions/B", "description": "with words", "default": {}},
                "c": {"type": "array", "items": {"$ref": "#/definitions/C"}},
                "d": {"additionalProperties": {"$ref": "#/definitions/D"}},
                "e": {"allOf": [{"$ref": "#/definitions/E"}], "additionalProperties": true},
            }, "x-kubernetes-group-version-kind": [{"kind": "K"}]})),
            json!({"type": "object", "properties": {
                "$ref": {"type": "string", "default": {"$ref": "#/definitions/kept"}},
                "a": {"$ref": "#/components/schemas/A"},
                "b": {"allOf": [{"$ref": "#/components/schemas/B"}], "description": "with words", "default": {}},
                "c": {"type": "array", "items": {"$ref": "#/components/schemas/C"}},
                "d": {"additionalProperties": {"$ref": "#/components/schemas/D"}},
                "e": {"allOf": [{"$ref": "#/components/schemas/E"}], "additionalProperties": true},
            }, "x-kubernetes-group-version-kind": [{"kind": "K"}]})
        );
    }

    #[test]
    fn a_document_is_converted() {
        let v2 = json!({
            "swagger": "2.0", "info": {"title": "T", "version": "v1"},
            "produces": ["application/json"],
            "paths": {"/apis/g/v1/things": {
                "parameters": [{"$ref": "#/parameters/pretty"}],
                "get": {
                    "operationId": "list", "produces": ["application/json", "application/yaml"],
                    "parameters": [{"name": "limit", "in": "query", "type": "integer", "format": "int64", "uniqueItems": true}],
                    "responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/List"}}, "401": {"$ref": "#/responses/no"}},
                    "x-kubernetes-action": "list",
                },
                "post": {
                    "consumes": ["application/json"],
                    "parameters": [{"$ref": "#/parameters/body"}],
                    "responses": {"201": {"description": "Created", "schema": {"type": "string"}}},
                },
                "put": {
                    "consumes": ["application/yaml"],
                    "parameters": [{"name": "thing", "in": "body", "required": true, "schema": {"$ref": "#/definitions/Thing"}}],
                },
            }},
            "parameters": {
                "pretty": {"name": "pretty", "in": "query", "type": "string", "description": "nicer"},
                "body": {"name": "body", "in": "body", "required": true, "schema": {"$ref": "#/definitions/Thing"}},
            },
            "responses": {"no": {"description": "Unauthorized"}},
            "definitions": {"Thing": {"type": "object"}, "List": {"type": "array", "items": {"$ref": "#/definitions/Thing"}}},
            "securityDefinitions": {"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header"}},
        });
        let thing = json!({"schema": {"$ref": "#/components/schemas/Thing"}});
        let list = json!({"schema": {"$ref": "#/components/schemas/List"}});
        assert_eq!(
            from_v2(&v2),
            json!({
                "openapi": "3.0.0", "info": {"title": "T", "version": "v1"},
                "paths": {"/apis/g/v1/things": {
                    "parameters": [{"$ref": "#/components/parameters/pretty"}],
                    "get": {
                        "operationId": "list",
                        "parameters": [{"name": "limit", "in": "query", "schema": {"type": "integer", "format": "int64", "uniqueItems": true}}],
                        "responses": {
                            "200": {"description": "OK", "content": {"application/json": list, "application/yaml": list}},
                            "401": {"$ref": "#/components/responses/no"},
                        },
                        "x-kubernetes-action": "list",
                    },
                    "post": {
                        "requestBody": {"required": true, "content": {"application/json": thing}},
                        "responses": {"201": {"description": "Created", "content": {"application/json": {"schema": {"type": "string"}}}}},
                    },
                    "put": {
                        "requestBody": {"required": true, "content": {"application/yaml": thing}},
                        "responses": {},
                    },
                }},
                "components": {
                    "schemas": {"Thing": {"type": "object"}, "List": {"type": "array", "items": {"$ref": "#/components/schemas/Thing"}}},
                    "parameters": {"pretty": {"name": "pretty", "in": "query", "description": "nicer", "schema": {"type": "string"}}},
                    "responses": {"no": {"description": "Unauthorized"}},
                    "securitySchemes": {"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header"}},
                },
            })
        );
    }

    #[test]
    fn what_is_no_document_gives_an_empty_one() {
        for odd in [
            json!(null),
            json!([]),
            json!({"paths": 1, "definitions": [], "parameters": {"a": 1}}),
        ] {
            assert_eq!(from_v2(&odd)["paths"], json!({}), "{odd}");
        }
    }
}
