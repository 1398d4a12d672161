//! Structural schemas of custom resources: the part of `openAPIV3Schema` that describes
//! the form of objects, without the validation of values.

use serde_json::Value;

use super::builtin::Schema;
use super::types::{Field, Kind, ListType, Structural, Type};

impl Structural {
    /// Converts an `openAPIV3Schema`, whose root is an object with metadata.
    pub fn root(schema: &Value) -> Self {
        let mut root = Self::from_value(schema);
        root.resource = true;
        root
    }

    /// Returns the schema of a kind without one: all fields are kept.
    pub fn anything() -> Self {
        let mut root = Self::from_value(&Value::Null);
        root.type_name = "object".into();
        root.preserve_unknown_fields = true;
        root.resource = true;
        root
    }

    /// Converts a part of a schema. Malformed attributes are ignored.
    pub fn from_value(schema: &Value) -> Self {
        let text = |key: &str| schema.get(key).and_then(Value::as_str);
        let truth = |key: &str| schema.get(key).and_then(Value::as_bool).unwrap_or(false);
        let texts = |key: &str| -> Vec<String> {
            let list = schema.get(key).and_then(Value::as_array);
            list.into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect()
        };
        let additional = schema.get("additionalProperties");
        Self {
            type_name: text("type").unwrap_or_default().to_owned(),
            format: text("format").map(str::to_owned),
            nullable: truth("nullable"),
            properties: schema
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
                .map(|(name, schema)| (name.clone(), Self::from_value(schema)))
                .collect(),
            required: texts("required"),
            items: schema
                .get("items")
                .filter(|i| i.is_object())
                .map(|i| Box::new(Self::from_value(i))),
            additional: additional
                .filter(|a| a.is_object())
                .map(|a| Box::new(Self::from_value(a))),
            additional_any: additional.and_then(Value::as_bool).unwrap_or(false),
            preserve_unknown_fields: truth("x-kubernetes-preserve-unknown-fields"),
            resource: truth("x-kubernetes-embedded-resource"),
            int_or_string: truth("x-kubernetes-int-or-string"),
            list_type: match text("x-kubernetes-list-type") {
                Some("set") => ListType::Set,
                Some("map") => ListType::Map,
                _ => ListType::Atomic,
            },
            list_map_keys: texts("x-kubernetes-list-map-keys"),
            atomic_map: text("x-kubernetes-map-type") == Some("atomic"),
            default: schema.get("default").filter(|d| !d.is_null()).cloned(),
        }
    }

    pub(super) fn kind(&self) -> Kind {
        if self.int_or_string {
            return Kind::IntOrString;
        }
        match self.type_name.as_str() {
            "object" if self.properties.is_empty() && !self.resource => match &self.additional {
                Some(_) => Kind::Map,
                None if self.additional_any || self.preserve_unknown_fields => Kind::Any,
                // An object without any attribute has no fields after pruning.
                None => Kind::Object,
            },
            "object" => Kind::Object,
            "array" => Kind::Array,
            "string" => Kind::String,
            "integer" => Kind::Integer,
            "number" => Kind::Number,
            "boolean" => Kind::Boolean,
            _ if !self.properties.is_empty() => Kind::Object,
            _ => Kind::Any,
        }
    }

    pub(super) fn field<'a>(&'a self, name: &str) -> Option<Field<'a>> {
        if self.resource {
            match name {
                "metadata" => {
                    return Some(Field {
                        name: "metadata",
                        ty: Type::Builtin(Schema::builtin().object_meta()),
                        required: false,
                        omit_zero: false,
                        always_encoded: false,
                    });
                }
                "apiVersion" | "kind" if !self.properties.contains_key(name) => {
                    let name = if name == "kind" { "kind" } else { "apiVersion" };
                    return Some(Field {
                        name,
                        ty: Type::Structural(text_type()),
                        required: false,
                        omit_zero: false,
                        always_encoded: false,
                    });
                }
                _ => {}
            }
        }
        let (name, ty) = self.properties.get_key_value(name)?;
        Some(self.declared(name, ty))
    }

    fn declared<'a>(&'a self, name: &'a str, ty: &'a Structural) -> Field<'a> {
        Field {
            name,
            ty: Type::Structural(ty),
            required: self.required.iter().any(|r| r == name),
            omit_zero: false,
            always_encoded: false,
        }
    }

    pub(super) fn fields(&self) -> Vec<Field<'_>> {
        let mut fields: Vec<Field<'_>> = self
            .properties
            .iter()
            .filter(|(name, _)| {
                !(self.resource && matches!(name.as_str(), "metadata" | "apiVersion" | "kind"))
            })
            .map(|(name, ty)| self.declared(name, ty))
            .collect();
        if self.resource {
            fields.extend(
                ["apiVersion", "kind", "metadata"]
                    .iter()
                    .filter_map(|name| self.field(name)),
            );
            fields.sort_unstable_by_key(|f| f.name);
        }
        fields
    }

    pub(super) fn element(&self) -> Option<Type<'_>> {
        let element = if self.type_name == "array" {
            &self.items
        } else {
            &self.additional
        };
        element.as_deref().map(Type::Structural)
    }
}

/// The type of `apiVersion` and `kind`, which a schema need not declare.
fn text_type() -> &'static Structural {
    static TEXT: std::sync::OnceLock<Structural> = std::sync::OnceLock::new();
    TEXT.get_or_init(|| Structural::from_value(&serde_json::json!({"type": "string"})))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_shapes() {
        let root = Structural::root(&json!({
            "type": "object",
            "properties": {
                "spec": {"type": "object", "required": ["items"], "properties": {
                    "items": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
                              "items": {"type": "object", "properties": {"id": {"type": "string", "default": "x"}}}},
                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    "port": {"x-kubernetes-int-or-string": true},
                    "tags": {"type": "object", "additionalProperties": {"type": "string"}},
                }},
            },
        }));
        let ty = Type::from(&root);
        assert_eq!(ty.field("metadata").unwrap().ty.kind(), Kind::Object);
        assert!(
            ty.field("metadata")
                .unwrap()
                .ty
                .field("ownerReferences")
                .is_some()
        );
        let spec = ty.field("spec").unwrap().ty;
        let items = spec.field("items").unwrap();
        assert!(items.required);
        assert_eq!(
            (items.ty.list_type(), items.ty.list_map_keys()),
            (ListType::Map, vec!["id"])
        );
        assert_eq!(
            items.ty.element().unwrap().field_default("id"),
            Some(json!("x"))
        );
        assert_eq!(spec.field("free").unwrap().ty.kind(), Kind::Any);
        assert_eq!(spec.field("port").unwrap().ty.kind(), Kind::IntOrString);
        assert_eq!(
            spec.field("tags").unwrap().ty.element().unwrap().kind(),
            Kind::String
        );
        assert_eq!(
            ty.fields().iter().map(|f| f.name).collect::<Vec<_>>(),
            ["apiVersion", "kind", "metadata", "spec"]
        );
    }
}
