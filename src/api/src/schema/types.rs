//! The types of the schema: a view of built-in types and of structural schemas.

use std::collections::BTreeMap;

use serde_json::Value;

/// A type of values.
#[derive(Clone, Copy, Debug)]
pub enum Type<'a> {
    /// A type of a built-in kind.
    Builtin(TypeRef),
    /// A type of a custom resource.
    Structural(&'a Structural),
}

/// A built-in type, by its position in the schema blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TypeRef(pub(super) u16);

/// The kind of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A struct. [`Type::field`] returns its declared fields and [`Type::element`] the type
    /// of others.
    Object,
    /// A map with values of one type.
    Map,
    /// A list of items of one type.
    Array,
    /// A string.
    String,
    /// Bytes as a string of base64.
    Bytes,
    /// An integer of 64 bits, or of 32 if [`Type::is_int32`].
    Integer,
    /// A floating-point number.
    Number,
    /// A boolean.
    Boolean,
    /// A number or a string.
    IntOrString,
    /// A resource quantity, as a string or a number.
    Quantity,
    /// A time, RFC 3339 in seconds.
    Time,
    /// A time, RFC 3339 in microseconds.
    MicroTime,
    /// Any value.
    Any,
    /// A JSON schema, a list of them, a boolean, or a list of strings, as in a
    /// CustomResourceDefinition.
    SchemaOr,
}

/// The treatment of a list in server-side apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    /// Replaced as a whole.
    Atomic,
    /// A set of unique scalars.
    Set,
    /// A list of objects that are identified by keys.
    Map,
}

/// The treatment of a field in strategic merge patch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    /// Items are merged rather than the list replaced.
    pub merge: bool,
    /// The value is replaced although it is an object.
    pub replace: bool,
    /// Keys that the patch does not contain are removed.
    pub retain_keys: bool,
}

/// A declared field of an object type.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// The name in JSON.
    pub name: &'a str,
    /// The field's type.
    pub ty: Type<'a>,
    /// Whether the field is required.
    pub required: bool,
    /// Whether Go omits the field's zero value: a scalar that it holds by value.
    pub omit_zero: bool,
    /// Whether Go encodes the field even when it is unset.
    pub always_encoded: bool,
}

/// A field that every object of a built-in type has in Go's encoding.
#[derive(Clone, Copy, Debug)]
pub struct PermanentField {
    /// The name in JSON.
    pub name: &'static str,
    /// The field's type.
    pub ty: TypeRef,
    /// Whether it is a struct that Go holds by value.
    pub embedded: bool,
    /// Whether it is `null` when it is unset, rather than a zero value.
    pub null_when_unset: bool,
}

/// A structural schema, or a part of one.
#[derive(Clone, Debug, PartialEq)]
pub struct Structural {
    /// `type`, empty when missing.
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
