//! How objects are shaped: one view of built-in types and of custom resources'
//! structural schemas.
//!
//! [`Type`] is what decoding, patching and server-side apply take. It is a small
//! `Copy` handle. A built-in one points into the checked-in blob `schema.bin`, which
//! is read in place, so that nothing is parsed at start.

pub(crate) mod blob;
mod format;
mod structural;

use serde_json::Value;

use format::{flag, list_type, strategy, tag};
pub use structural::Structural;

/// A type: what a value at some place of an object may be.
#[derive(Clone, Copy, Debug)]
pub enum Type<'a> {
    /// Of a built-in kind.
    Builtin(TypeRef),
    /// Of a custom resource.
    Structural(&'a Structural),
}

/// A built-in type, by its place in the schema blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TypeRef(u16);

/// What sort of type it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Declared fields; see [`Type::field`] and [`Type::element`] for others.
    Object,
    /// Free keys with values of one type.
    Map,
    /// Items of one type.
    Array,
    /// A text.
    String,
    /// A text of base64.
    Bytes,
    /// A whole number of 64 bits, or 32 when [`Type::is_int32`].
    Integer,
    /// A floating-point number.
    Number,
    /// True or false.
    Boolean,
    /// A number or a text.
    IntOrString,
    /// A resource quantity, as a text or a number.
    Quantity,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// Anything at all.
    Any,
    /// A JSON schema, or a list of them, or a boolean, or a list of texts, as a
    /// CustomResourceDefinition has them.
    SchemaOr,
}

/// How a list behaves in server-side apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    /// Changed as a whole.
    Atomic,
    /// Scalars, each there once.
    Set,
    /// Objects told apart by their keys.
    Map,
}

/// How strategic merge patch treats a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    /// Items are merged rather than the list replaced.
    pub merge: bool,
    /// The value is replaced although it is an object.
    pub replace: bool,
    /// Keys that the patch does not name are cleared.
    pub retain_keys: bool,
}

/// A declared field of an object type.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// The name in JSON.
    pub name: &'a str,
    /// The field's type.
    pub ty: Type<'a>,
    /// Whether it must be there.
    pub required: bool,
    /// Whether Go encodes it even when it has no value.
    pub always_encoded: bool,
}

/// All built-in types.
#[derive(Debug)]
pub struct Schema(());

impl Schema {
    /// The one there is.
    pub fn builtin() -> &'static Schema {
        static SCHEMA: Schema = Schema(());
        &SCHEMA
    }

    /// The type with an OpenAPI definition name, as `io.k8s.api.core.v1.Pod`.
    pub fn definition(&self, name: &str) -> Option<TypeRef> {
        blob::find_def(name).map(|d| TypeRef(blob::def(d).ty))
    }

    /// The names of all definitions, sorted.
    pub fn definitions(&self) -> impl Iterator<Item = &'static str> + use<> {
        (0..blob::def_count()).map(|d| blob::def(d).name)
    }

    /// `ObjectMeta`, which every object has.
    pub fn object_meta(&self) -> TypeRef {
        // Its presence is checked by a test; without it nothing else would be right either.
        self.definition("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
            .unwrap_or(TypeRef(0))
    }
}

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

impl TypeRef {
    pub(crate) fn record(self) -> blob::TypeRecord {
        blob::ty(self.0)
    }

    pub(crate) fn from_index(index: u16) -> Self {
        Self(index)
    }

    /// The record of the definition that this type is or refers to.
    pub(crate) fn def(self) -> Option<blob::DefRecord> {
        let record = self.record();
        match record.tag {
            tag::MAP | tag::ARRAY | tag::STRING | tag::INTEGER | tag::NUMBER | tag::BOOLEAN => None,
            _ if record.a == format::NONE => None,
            _ => Some(blob::def(record.a)),
        }
    }

    /// The OpenAPI name of the definition, for types that have one.
    pub fn definition_name(self) -> Option<&'static str> {
        self.def().map(|d| d.name)
    }

    pub(crate) fn list(self) -> Option<blob::ListRecord> {
        let record = self.record();
        (record.tag == tag::ARRAY).then(|| blob::list(record.b))
    }

    /// The format of a scalar, as `int32`, `byte`, `date-time`.
    pub fn format(self) -> Option<&'static str> {
        let record = self.record();
        matches!(record.tag, tag::STRING | tag::INTEGER | tag::NUMBER)
            .then(|| blob::string(record.a))
            .flatten()
    }

    /// What the map type is where the field says so itself.
    pub(crate) fn own_map_type(self) -> Option<&'static str> {
        let flags = self.record().flags;
        if flags & flag::ATOMIC != 0 {
            Some("atomic")
        } else if flags & flag::GRANULAR != 0 {
            Some("granular")
        } else {
            None
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at<'a>(root: Type<'a>, path: &str) -> Type<'a> {
        path.split('.').fold(root, |ty, step| match step {
            "*" => ty.element().expect(path),
            name => {
                ty.field(name)
                    .unwrap_or_else(|| panic!("{path}: {name}"))
                    .ty
            }
        })
    }

    #[test]
    fn knows_pods() {
        let pod = Type::from(
            Schema::builtin()
                .definition("io.k8s.api.core.v1.Pod")
                .unwrap(),
        );
        assert_eq!(at(pod, "spec.containers").kind(), Kind::Array);
        assert_eq!(at(pod, "spec.containers").list_map_keys(), ["name"]);
        assert_eq!(
            at(pod, "spec.containers.*.ports").list_map_keys(),
            ["containerPort", "protocol"]
        );
        assert_eq!(
            at(pod, "spec.containers.*.ports").merge_key(),
            Some("containerPort")
        );
        assert_eq!(
            at(pod, "spec.containers.*.ports.*").field_default("protocol"),
            Some(Value::from("TCP"))
        );
        assert_eq!(at(pod, "metadata.finalizers").list_type(), ListType::Set);
        assert_eq!(at(pod, "metadata.creationTimestamp").kind(), Kind::Time);
        assert!(at(pod, "spec.nodeSelector").is_atomic_map());
        assert!(at(pod, "spec.volumes").patch_strategy().retain_keys);
        assert_eq!(
            at(pod, "spec.containers.*.resources.limits.*").kind(),
            Kind::Quantity
        );
        assert_eq!(
            at(pod, "spec.containers.*.livenessProbe.httpGet.port").kind(),
            Kind::IntOrString
        );
        assert_eq!(at(pod, "spec").go_name(), "v1.PodSpec");
        assert_eq!(at(pod, "spec.containers").go_name(), "[]v1.Container");
        assert!(pod.field("nope").is_none());
    }

    #[test]
    fn uses_may_override_their_definition() {
        let schema = Schema::builtin();
        let pv = Type::from(
            schema
                .definition("io.k8s.api.core.v1.PersistentVolumeSpec")
                .unwrap(),
        );
        assert!(!at(pv, "claimRef").is_atomic_map());
        let event = Type::from(schema.definition("io.k8s.api.core.v1.Event").unwrap());
        assert!(at(event, "involvedObject").is_atomic_map());
        let deployment = Type::from(
            schema
                .definition("io.k8s.api.apps.v1.DeploymentSpec")
                .unwrap(),
        );
        assert!(at(deployment, "strategy").patch_strategy().retain_keys);
        assert_eq!(Type::from(schema.object_meta()).go_name(), "v1.ObjectMeta");
    }
}
