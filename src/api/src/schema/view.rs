//! The common view of built-in types and structural schemas.

use serde_json::Value;

use super::blob;
use super::format::{flag, list_type, strategy, tag};
use super::types::{
    Field, Kind, ListType, PatchStrategy, PermanentField, Structural, Type, TypeRef,
};

impl<'a> From<TypeRef> for Type<'a> {
    fn from(ty: TypeRef) -> Self {
        Self::Builtin(ty)
    }
}

impl<'a> From<&'a Structural> for Type<'a> {
    fn from(ty: &'a Structural) -> Self {
        Self::Structural(ty)
    }
}

impl<'a> Type<'a> {
    /// Returns the kind of type.
    pub fn kind(self) -> Kind {
        match self {
            Self::Builtin(ty) => match ty.record().tag {
                tag::OBJECT => Kind::Object,
                tag::MAP => Kind::Map,
                tag::ARRAY => Kind::Array,
                tag::STRING if ty.format() == Some("byte") => Kind::Bytes,
                tag::STRING => Kind::String,
                tag::INTEGER => Kind::Integer,
                tag::NUMBER => Kind::Number,
                tag::BOOLEAN => Kind::Boolean,
                tag::INT_OR_STRING => Kind::IntOrString,
                tag::QUANTITY => Kind::Quantity,
                tag::TIME => Kind::Time,
                tag::MICRO_TIME => Kind::MicroTime,
                tag::SCHEMA_OR => Kind::SchemaOr,
                _ => Kind::Any,
            },
            Self::Structural(ty) => ty.kind(),
        }
    }

    /// Returns whether an integer has 32 bits.
    pub fn is_int32(self) -> bool {
        match self {
            Self::Builtin(ty) => ty.format() == Some("int32"),
            Self::Structural(ty) => ty.format.as_deref() == Some("int32"),
        }
    }

    /// Returns a declared field.
    pub fn field(self, name: &str) -> Option<Field<'a>> {
        match self {
            Self::Builtin(ty) => {
                if ty.record().tag != tag::OBJECT {
                    return None;
                }
                ty.def()?.find(name).map(builtin_field)
            }
            Self::Structural(ty) => ty.field(name),
        }
    }

    /// Returns all declared fields, sorted by name.
    pub fn fields(self) -> Vec<Field<'a>> {
        match self {
            Self::Builtin(ty) => match ty.def() {
                Some(def) if ty.record().tag == tag::OBJECT => (0..def.count)
                    .map(|i| builtin_field(def.field(i)))
                    .collect(),
                _ => Vec::new(),
            },
            Self::Structural(ty) => ty.fields(),
        }
    }

    /// Returns the declared fields that every object has in Go's encoding: structs held by
    /// value, and fields that are encoded even when they are unset. A custom resource has
    /// none.
    pub fn permanent_fields(self) -> impl Iterator<Item = PermanentField> + use<> {
        let def = match self {
            Self::Builtin(ty) if ty.record().tag == tag::OBJECT => ty.def(),
            _ => None,
        };
        def.into_iter()
            .flat_map(blob::DefRecord::permanent_fields)
            .map(|record| PermanentField {
                name: record.name,
                ty: TypeRef::from_index(record.ty),
                embedded: record.embedded,
                null_when_unset: record.null_when_unset,
            })
    }

    /// Returns the type of an array's items, of a map's values, or of an object's
    /// undeclared fields if those have one.
    pub fn element(self) -> Option<Type<'a>> {
        match self {
            Self::Builtin(ty) => {
                let record = ty.record();
                matches!(record.tag, tag::MAP | tag::ARRAY)
                    .then_some(Type::Builtin(TypeRef(record.a)))
            }
            Self::Structural(ty) => ty.element(),
        }
    }

    /// Returns whether undeclared fields of unknown type are kept.
    pub fn preserves_unknown(self) -> bool {
        match self {
            Self::Builtin(_) => self.kind() == Kind::Any,
            Self::Structural(ty) => ty.preserve_unknown_fields,
        }
    }

    /// Returns whether null is a distinct value; otherwise it means absent.
    pub fn is_nullable(self) -> bool {
        match self {
            Self::Builtin(_) => false,
            Self::Structural(ty) => ty.nullable,
        }
    }

    /// Returns whether an object or map is replaced as a whole.
    pub fn is_atomic_map(self) -> bool {
        match self {
            Self::Builtin(ty) => match ty.own_map_type() {
                Some(own) => own == "atomic",
                None => {
                    ty.record().tag == tag::OBJECT
                        && ty.def().is_some_and(|d| d.flags & flag::ATOMIC != 0)
                }
            },
            Self::Structural(ty) => ty.atomic_map,
        }
    }

    /// Returns how server-side apply treats a list.
    pub fn list_type(self) -> ListType {
        match self {
            Self::Builtin(ty) => match ty.list().map(|l| l.list_type) {
                Some(list_type::SET) => ListType::Set,
                Some(list_type::MAP) => ListType::Map,
                _ => ListType::Atomic,
            },
            Self::Structural(ty) => ty.list_type,
        }
    }

    /// Returns the fields that identify the items of a list map.
    pub fn list_map_keys(self) -> Vec<&'a str> {
        match self {
            Self::Builtin(ty) => ty.list().map(|l| l.keys().collect()).unwrap_or_default(),
            Self::Structural(ty) => ty.list_map_keys.iter().map(String::as_str).collect(),
        }
    }

    /// Returns the key by which strategic merge patch merges a list of objects.
    pub fn merge_key(self) -> Option<&'a str> {
        match self {
            Self::Builtin(ty) => ty.list()?.merge_key,
            Self::Structural(_) => None,
        }
    }

    /// Returns how strategic merge patch treats a field of this type.
    pub fn patch_strategy(self) -> PatchStrategy {
        let bits = match self {
            Self::Builtin(ty) => match ty.record() {
                r if r.tag == tag::ARRAY => blob::list(r.b).strategy,
                r if r.tag == tag::OBJECT || r.tag == tag::MAP => r.b as u8,
                _ => 0,
            },
            Self::Structural(_) => 0,
        };
        PatchStrategy {
            merge: bits & strategy::MERGE != 0,
            replace: bits & strategy::REPLACE != 0,
            retain_keys: bits & strategy::RETAIN_KEYS != 0,
        }
    }

    /// Returns the default of a declared field, if it publishes one.
    pub fn field_default(self, name: &str) -> Option<Value> {
        match self {
            Self::Builtin(ty) => {
                let default = ty.def()?.find(name)?.default?;
                serde_json::from_str(default).ok()
            }
            Self::Structural(ty) => ty.properties.get(name)?.default.clone(),
        }
    }

    /// Returns the name of the Go type, as in decoding errors: `v1.Pod`, `[]v1.Container`,
    /// `map[string]string`, `int32`.
    pub fn go_name(self) -> String {
        match self.kind() {
            Kind::Array => format!(
                "[]{}",
                self.element()
                    .map_or_else(|| "interface {}".into(), Type::go_name)
            ),
            Kind::Map => {
                format!(
                    "map[string]{}",
                    self.element()
                        .map_or_else(|| "interface {}".into(), Type::go_name)
                )
            }
            Kind::String | Kind::Quantity => "string".into(),
            Kind::Bytes => "[]uint8".into(),
            Kind::Integer if self.is_int32() => "int32".into(),
            Kind::Integer => "int64".into(),
            Kind::Number => "float64".into(),
            Kind::Boolean => "bool".into(),
            Kind::Time | Kind::MicroTime => "time.Time".into(),
            Kind::Object | Kind::Any | Kind::IntOrString | Kind::SchemaOr => match self {
                Self::Builtin(ty) => ty.definition_name().map_or_else(
                    || "map[string]interface {}".into(),
                    |name| {
                        let mut parts = name.rsplitn(3, '.');
                        let kind = parts.next().unwrap_or_default();
                        format!("{}.{kind}", parts.next().unwrap_or_default())
                    },
                ),
                Self::Structural(_) => "map[string]interface {}".into(),
            },
        }
    }
}

fn builtin_field(record: blob::FieldRecord) -> Field<'static> {
    Field {
        name: record.name,
        ty: Type::Builtin(TypeRef::from_index(record.ty)),
        required: record.required,
        omit_zero: record.omit_zero,
        always_encoded: record.always,
    }
}
