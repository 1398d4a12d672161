//! The common view of built-in types and structural schemas.

use serde_json::Value;

use super::blob;
use super::format::{flag, list_type, strategy, tag};
use super::types::{Field, Kind, ListType, PatchStrategy, Structural, Type, TypeRef};

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
    /// The sort of type.
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

    /// Whether an integer has 32 bits.
    pub fn is_int32(self) -> bool {
        match self {
            Self::Builtin(ty) => ty.format() == Some("int32"),
            Self::Structural(ty) => ty.format.as_deref() == Some("int32"),
        }
    }

    /// A declared field.
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

    /// All declared fields, sorted by name.
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

    /// The declared fields that are structs which Go holds by value: they are
    /// there in every object, if only empty.
    pub fn embedded_fields(self) -> impl Iterator<Item = &'static str> + use<> {
        let def = match self {
            Self::Builtin(ty) if ty.record().tag == tag::OBJECT => ty.def(),
            _ => None,
        };
        def.into_iter().flat_map(|def| {
            (0..def.count)
                .map(move |i| def.field(i))
                .filter(|f| f.embedded)
                .map(|f| f.name)
        })
    }

    /// The type of an array's items, of a map's values, or of an object's
    /// undeclared fields where those have one.
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

    /// Whether undeclared fields are kept although nothing is known of them.
    pub fn preserves_unknown(self) -> bool {
        match self {
            Self::Builtin(_) => self.kind() == Kind::Any,
            Self::Structural(ty) => ty.preserve_unknown_fields,
        }
    }

    /// Whether null is a value of its own; elsewhere it means absent.
    pub fn is_nullable(self) -> bool {
        match self {
            Self::Builtin(_) => false,
            Self::Structural(ty) => ty.nullable,
        }
    }

    /// Whether an object or map is changed as a whole.
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

    /// How a list behaves in server-side apply.
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

    /// The fields that tell the items of a list map apart.
    pub fn list_map_keys(self) -> Vec<&'a str> {
        match self {
            Self::Builtin(ty) => ty.list().map(|l| l.keys().collect()).unwrap_or_default(),
            Self::Structural(ty) => ty.list_map_keys.iter().map(String::as_str).collect(),
        }
    }

    /// The key by which strategic merge merges a list of objects.
    pub fn merge_key(self) -> Option<&'a str> {
        match self {
            Self::Builtin(ty) => ty.list()?.merge_key,
            Self::Structural(_) => None,
        }
    }

    /// How strategic merge patch treats the field with this type.
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

    /// A declared field's default, for fields that publish one.
    pub fn field_default(self, name: &str) -> Option<Value> {
        match self {
            Self::Builtin(ty) => {
                let default = ty.def()?.find(name)?.default?;
                serde_json::from_str(default).ok()
            }
            Self::Structural(ty) => ty.properties.get(name)?.default.clone(),
        }
    }

    /// The Go type's name as decoding errors have it: `v1.Pod`, `[]v1.Container`,
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
        always_encoded: record.required && !record.pointer,
    }
}
