//! One version of a custom resource, and the strategy derived from its definition.

use std::sync::{Arc, OnceLock};

use rkube_api::schema::Structural;
use rkube_api::status::{FieldError, FieldErrorKind, Status};
use rkube_api::{Object, duration, meta};
use rkube_strategy::{Context, Strategy};
use serde_json::{Value, json};

use super::path::Path;
use super::rules::Rules;
use super::validate;

struct Column {
    definition: Value,
    path: Option<Path>,
    date: bool,
}

struct Scale {
    /// The path of the replicas, for messages.
    replicas: String,
    spec_replicas: Path,
    status_replicas: Path,
    selector: Option<Path>,
}

/// The settings of one version in a definition.
pub struct CrdVersion {
    schema: Value,
    structural: Structural,
    has_defaults: bool,
    has_status: bool,
    scale: Option<Scale>,
    columns: Vec<Column>,
    /// The warning about requests for this version; an empty text stands for the usual one.
    deprecated: Option<String>,
    /// The validation rules, compiled when the first object is written.
    rules: Option<Arc<OnceLock<Option<Rules>>>>,
}

impl CrdVersion {
    /// Parses a version of a definition's spec.
    pub fn new(version: &Value) -> Self {
        let schema = version["schema"]["openAPIV3Schema"].clone();
        let structural = if schema.is_object() {
            Structural::root(&schema)
        } else {
            Structural::anything()
        };
        let path = |value: &Value| Path::parse(value.as_str()?);
        let scale = &version["subresources"]["scale"];
        let scale = path(&scale["specReplicasPath"])
            .zip(path(&scale["statusReplicasPath"]))
            .map(|(spec_replicas, status_replicas)| Scale {
                replicas: scale["specReplicasPath"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
                spec_replicas,
                status_replicas,
                selector: path(&scale["labelSelectorPath"]),
            });
        let mut columns = vec![Column {
            definition: json!({
                "name": "Name", "type": "string", "format": "name", "priority": 0,
                "description": "Name must be unique within a namespace.",
            }),
            path: Path::parse(".metadata.name"),
            date: false,
        }];
        let named = version["additionalPrinterColumns"]
            .as_array()
            .filter(|c| !c.is_empty());
        match named {
            Some(named) => columns.extend(named.iter().map(|column| Column {
                definition: json!({
                    "name": column["name"],
                    "type": column["type"],
                    "format": column["format"].as_str().unwrap_or_default(),
                    "description": column["description"].as_str().unwrap_or_default(),
                    "priority": column["priority"].as_i64().unwrap_or(0),
                }),
                path: path(&column["jsonPath"]),
                date: column["type"] == "date",
            })),
            None => columns.push(Column {
                definition: json!({
                    "name": "Age", "type": "date", "format": "", "priority": 0,
                    "description": "When the object was created.",
                }),
                path: Path::parse(".metadata.creationTimestamp"),
                date: true,
            }),
        }
        Self {
            rules: Rules::of(&schema),
            schema,
            has_defaults: any_default(&structural),
            structural,
            has_status: version["subresources"]["status"].is_object(),
            scale,
            columns,
            deprecated: (version["deprecated"] == true).then(|| {
                let own = version["deprecationWarning"].as_str();
                own.unwrap_or_default().to_owned()
            }),
        }
    }

    /// Returns the structural schema.
    pub fn structural(&self) -> &Structural {
        &self.structural
    }

    /// Returns whether the schema has any defaults.
    pub fn has_defaults(&self) -> bool {
        self.has_defaults
    }

    /// Sets the defaults of missing fields.
    pub fn apply_defaults(&self, object: &mut Object) {
        if self.has_defaults {
            apply_defaults(&self.structural, object);
        }
    }

    /// Returns the `openAPIV3Schema`.
    pub fn schema_value(&self) -> &Value {
        &self.schema
    }

    /// Returns a hash of the schema.
    pub fn fingerprint(&self) -> String {
        let digest =
            ring::digest::digest(&ring::digest::SHA256, self.schema.to_string().as_bytes());
        hex::encode(digest)
    }

    /// Returns the path of the replicas of an object's scale, if it has none there.
    pub fn missing_replicas(&self, object: &Object) -> Option<&str> {
        let scale = self.scale.as_ref()?;
        let missing = scale.spec_replicas.find(object).is_empty();
        missing.then_some(scale.replicas.as_str())
    }

    /// Returns the path of the replicas of an object's scale, if this version has a scale.
    pub fn replicas_path(&self) -> Option<&str> {
        Some(&self.scale.as_ref()?.replicas)
    }

    /// Returns the warning about requests for this version, if it is deprecated. An empty text
    /// stands for the usual one.
    pub fn deprecated(&self) -> Option<&str> {
        self.deprecated.as_deref()
    }

    /// Returns the column definitions of the table.
    pub fn columns(&self) -> Vec<Value> {
        self.columns.iter().map(|c| c.definition.clone()).collect()
    }

    /// Returns an object's cells in the table.
    pub fn cells(&self, object: &Object, now: jiff::Timestamp) -> Vec<Value> {
        self.columns
            .iter()
            .map(|column| {
                let found = column
                    .path
                    .as_ref()
                    .map(|p| p.find(object))
                    .unwrap_or_default();
                // As upstream, only the first of several values is shown.
                match found.get(..1).unwrap_or_default() {
                    [value] if column.date => match value.as_str().and_then(meta::parse_time) {
                        Some(time) => duration::human(now.duration_since(time).as_secs()).into(),
                        None => "<unknown>".into(),
                    },
                    [value] => match (column.definition["type"].as_str(), value) {
                        (Some("string"), Value::String(text)) => text.as_str().into(),
                        (Some("string"), value) => value.to_string().into(),
                        (_, value) => (*value).clone(),
                    },
                    _ => Value::Null,
                }
            })
            .collect()
    }

    /// Violations that exist in the old state and have not changed are tolerated.
    fn validate(&self, object: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if self.schema.is_object() {
            for (key, value) in object.as_object().into_iter().flatten() {
                // These are validated for all kinds.
                if matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
                    continue;
                }
                if let Some(schema) = self.schema["properties"].get(key) {
                    let old = old.and_then(|old| old.get(key));
                    validate::validate(schema, value, old, key, &mut errors);
                }
            }
            validate::validate_root(&self.schema, object, &mut errors);
        }
        validate::validate_lists(&self.structural, object, "", &mut errors);
        validate::validate_embedded(&self.structural, object, "", &mut errors);
        let Some(rules) = &self.rules else {
            return errors;
        };
        let blocks = |e: &FieldError| {
            matches!(
                e.kind,
                FieldErrorKind::Required
                    | FieldErrorKind::TooLong
                    | FieldErrorKind::TooMany
                    | FieldErrorKind::NotFound
                    | FieldErrorKind::TypeInvalid
            )
        };
        if errors.iter().any(blocks) {
            errors.push(FieldError::invalid(
                "<nil>",
                Value::Null,
                "some validation rules were not checked because the object was invalid; correct \
                 the existing errors to complete validation",
            ));
        } else if let Some(rules) = rules.get_or_init(|| Rules::build(&self.schema, true)) {
            errors.extend(rules.validate(object, old));
        }
        errors
    }
}

fn any_default(schema: &Structural) -> bool {
    schema.default.is_some()
        || schema.properties.values().any(any_default)
        || schema.items.as_deref().is_some_and(any_default)
        || schema.additional.as_deref().is_some_and(any_default)
}

/// Sets the defaults of missing fields, outer objects first.
fn apply_defaults(schema: &Structural, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, property) in &schema.properties {
                let missing = match map.get(name) {
                    None => true,
                    Some(Value::Null) => !property.nullable,
                    Some(_) => false,
                };
                if missing && let Some(default) = &property.default {
                    map.insert(name.clone(), default.clone());
                }
                if let Some(value) = map.get_mut(name) {
                    apply_defaults(property, value);
                }
            }
            if let Some(additional) = &schema.additional {
                for (name, value) in map.iter_mut() {
                    if !schema.properties.contains_key(name) {
                        apply_defaults(additional, value);
                    }
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = &schema.items {
                items
                    .iter_mut()
                    .for_each(|item| apply_defaults(schema, item));
            }
        }
        _ => {}
    }
}

impl Strategy for CrdVersion {
    fn default(&self, object: &mut Object) {
        self.apply_defaults(object);
    }

    fn prepare_create(&self, _: &Context<'_>, object: &mut Object) {
        if self.has_status {
            meta::map_mut(object).remove("status");
        }
        meta::set_generation(object, 1);
    }

    fn prepare_update(&self, _: &Context<'_>, new: &mut Object, old: &Object) {
        if self.has_status {
            match old.get("status") {
                Some(status) => {
                    meta::map_mut(new).insert("status".into(), status.clone());
                }
                None => {
                    meta::map_mut(new).remove("status");
                }
            }
        }
        let content = |object: &Object| {
            let mut object = object.clone();
            let map = meta::map_mut(&mut object);
            map.remove("metadata");
            map.remove("apiVersion");
            map.remove("kind");
            if self.has_status {
                map.remove("status");
            }
            object
        };
        let generation = meta::generation(old);
        meta::set_generation(
            new,
            if content(new) == content(old) {
                generation
            } else {
                generation.saturating_add(1)
            },
        );
    }

    fn prepare_status_update(&self, _: &Context<'_>, new: &mut Object, old: &Object) {
        let status = new.get("status").cloned();
        let managed = new["metadata"].get("managedFields").cloned();
        let revision = meta::resource_version(new).to_owned();
        *new = old.clone();
        meta::set_resource_version(new, &revision);
        if let Some(managed) = managed {
            meta::metadata_mut(new).insert("managedFields".into(), managed);
        }
        match status {
            Some(status) => {
                meta::map_mut(new).insert("status".into(), status);
            }
            None => {
                meta::map_mut(new).remove("status");
            }
        }
    }

    fn validate_create(&self, object: &Object) -> Vec<FieldError> {
        self.validate(object, None)
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        self.validate(new, Some(old))
    }

    fn validate_status_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        self.validate(new, Some(old))
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn field_value(&self, object: &Object, field: &str) -> Option<String> {
        let path = Path::parse(&format!(".{field}"))?;
        match path.find(object).first() {
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Null) | None => Some(String::new()),
            Some(other) => Some(other.to_string()),
        }
    }

    fn scale(&self, object: &Object) -> Option<Object> {
        let scale = self.scale.as_ref()?;
        let number = |path: &Path| {
            path.find(object)
                .first()
                .and_then(|v| v.as_i64())
                .unwrap_or(0)
        };
        let mut metadata = json!({});
        for field in [
            "name",
            "namespace",
            "uid",
            "resourceVersion",
            "creationTimestamp",
        ] {
            if let Some(value) = object["metadata"].get(field) {
                metadata[field] = value.clone();
            }
        }
        let mut view = json!({
            "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata,
            "spec": {"replicas": number(&scale.spec_replicas)},
            "status": {"replicas": number(&scale.status_replicas)},
        });
        let selector = scale
            .selector
            .as_ref()
            .and_then(|p| p.find(object).first().and_then(|v| v.as_str()));
        if let Some(selector) = selector {
            view["status"]["selector"] = selector.into();
        }
        Some(view)
    }

    fn set_scale(&self, object: &mut Object, view: &Object) -> Result<(), Status> {
        let Some(scale) = &self.scale else {
            return Err(Status::page_not_found());
        };
        let replicas = view["spec"]["replicas"].as_i64().unwrap_or(0);
        if replicas < 0 {
            let path = scale.replicas.as_str();
            let why = "should be a non-negative integer";
            let error = FieldError::invalid(path, Value::from(replicas), why);
            let kind = meta::kind(object);
            let (group, _) = rkube_api::gvk::parse_api_version(meta::api_version(object));
            let kind = rkube_api::GroupKind::new(group, kind);
            return Err(Status::invalid(&kind, meta::name(object), vec![error]));
        }
        scale.spec_replicas.set(object, replicas.into());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_nest() {
        let schema = Structural::root(&json!({
            "type": "object",
            "properties": {"spec": {"type": "object", "default": {}, "properties": {
                "replicas": {"type": "integer", "default": 1},
                "items": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string", "default": "b"}}}},
            }}},
        }));
        let mut object = json!({"metadata": {"name": "x"}});
        apply_defaults(&schema, &mut object);
        assert_eq!(object["spec"], json!({"replicas": 1}));
        let mut object = json!({"spec": {"items": [{}, {"a": "c"}], "replicas": null}});
        apply_defaults(&schema, &mut object);
        assert_eq!(
            object["spec"],
            json!({"replicas": 1, "items": [{"a": "b"}, {"a": "c"}]})
        );
    }
}
