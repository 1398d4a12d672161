//! The types of the schema: a view of built-in types and of structural schemas.

use std::collections::BTreeMap;

use serde_json::Value;

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
pub struct TypeRef(pub(super) u16);

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

/// A structural schema, or a part of one.
#[derive(Clone, Debug, PartialEq)]
pub struct Structural {
    /// `type`, empty when it says none.
    pub type_name: String,
    /// `format`.
    pub format: Option<String>,
    /// `nullable`.
    pub nullable: bool,
    /// `properties`.
    pub properties: BTreeMap<String, Structural>,
    /// `required`.
    pub required: Vec<String>,
    /// `items`.
    pub items: Option<Box<Structural>>,
    /// `additionalProperties` with a schema.
    pub additional: Option<Box<Structural>>,
    /// `additionalProperties: true`.
    pub additional_any: bool,
    /// `x-kubernetes-preserve-unknown-fields`.
    pub preserve_unknown_fields: bool,
    /// `x-kubernetes-embedded-resource`, or the root.
    pub resource: bool,
    /// `x-kubernetes-int-or-string`.
    pub int_or_string: bool,
    /// `x-kubernetes-list-type`.
    pub list_type: ListType,
    /// `x-kubernetes-list-map-keys`.
    pub list_map_keys: Vec<String>,
    /// `x-kubernetes-map-type: atomic`.
    pub atomic_map: bool,
    /// `default`.
    pub default: Option<Value>,
}
