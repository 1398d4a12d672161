//! Checks trees against their types, as Go's decoder does when it fills a struct.

use base64::Engine as _;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use jiff::civil::{DateTime, date};
use serde_json::{Map, Value};

use crate::Object;
use crate::go_time;
use crate::quantity::Quantity;
use crate::schema::{Field, Kind, PermanentField, Schema, Type};
use crate::status::Status;

use super::named;
use super::path::Path;
use super::validation::cannot_be_handled;

/// The largest number of unknown fields that are reported; all are dropped.
const MAX_MESSAGES: usize = 100;

/// Checks an object against its type and normalises it to the encoding of a Go struct
/// of the type. Returns messages about unknown fields.
///
/// Unknown fields are dropped and reported as `unknown field "…"`. Of a built-in type, what
/// Go's encoder omits is removed: nulls, empty lists and maps, and the zero values of scalars
/// that are neither pointers nor always encoded. What it always encodes is added: structs
/// held by value (`status: {}`), and fields without `omitempty` with their zero value or
/// `null`. Quantities, times and bytes are brought into canonical form.
///
/// A custom resource keeps empty lists and maps, and nulls where its schema allows them.
/// Values that are not of its schema's types are left as they are; to refuse them is up to
/// the validation.
///
/// # Errors
/// 400 with the message of Go's decoder for a field of the wrong type.
pub fn check<'a>(ty: impl Into<Type<'a>>, object: &mut Object) -> Result<Vec<String>, Status> {
    let ty = ty.into();
    let mut checker = Checker {
        path: Path::default(),
        fields: Vec::new(),
        messages: Vec::new(),
    };
    match checker.value(ty, object, None) {
        Ok(()) => Ok(checker.messages),
        Err(error) => Err(cannot_be_handled(object, &error)),
    }
}

/// Returns a new object of the type as Go encodes it: with the structs that Go holds by
/// value, and with the zero value or null of every field that is always encoded. A custom
/// resource is empty.
pub fn empty<'a>(ty: impl Into<Type<'a>>) -> Object {
    let mut map = Map::new();
    add_permanent_fields(ty.into(), &mut map, 0);
    Value::Object(map)
}

/// Adds to an object what every encoded object of its type has. [`check`] does so too; this
/// is for an object of which a part was removed or replaced after it was checked. It enters
/// only structs that Go holds by value.
pub fn complete<'a>(ty: impl Into<Type<'a>>, object: &mut Object) {
    if let Value::Object(map) = object {
        complete_map(ty.into(), map, 0);
    }
}

/// The deepest nesting of structs by value. No type contains itself by value; the bound only
/// guards against a damaged blob.
const MAX_EMBEDDED: usize = 16;

fn complete_map(ty: Type<'_>, map: &mut Map<String, Value>, depth: usize) {
    if depth > MAX_EMBEDDED {
        return;
    }
    for field in ty.permanent_fields() {
        match map.get_mut(field.name) {
            Some(Value::Object(inner)) if field.embedded => {
                complete_map(field.ty.into(), inner, depth + 1);
            }
            Some(_) => {}
            None => {
                map.insert(field.name.to_owned(), permanent_value(field, depth));
            }
        }
    }
}

fn add_permanent_fields(ty: Type<'_>, map: &mut Map<String, Value>, depth: usize) {
    if depth > MAX_EMBEDDED {
        return;
    }
    for field in ty.permanent_fields() {
        if !map.contains_key(field.name) {
            map.insert(field.name.to_owned(), permanent_value(field, depth));
        }
    }
}

/// Returns what Go encodes for a field that is unset.
fn permanent_value(field: PermanentField, depth: usize) -> Value {
    if field.embedded {
        let mut inner = Map::new();
        add_permanent_fields(field.ty.into(), &mut inner, depth + 1);
        Value::Object(inner)
    } else if field.null_when_unset {
        Value::Null
    } else {
        zero_of(field.ty.into())
    }
}

struct Checker {
    path: Path,
    /// The field names above, without indices and map keys, as Go counts them.
    fields: Vec<String>,
    messages: Vec<String>,
}

/// Returns the kind of a JSON value as Go's decoder names it.
pub(crate) fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "bool".into(),
        Value::Number(n) if n.is_f64() => format!("number {n}"),
        Value::Number(_) => "number".into(),
        Value::String(_) => "string".into(),
        Value::Array(_) => "array".into(),
        Value::Object(_) => "object".into(),
    }
}

impl Checker {
    /// `owner` is the Go struct that the field belongs to.
    fn mismatch(&self, value: &str, ty: Type<'_>, owner: Option<Type<'_>>) -> String {
        let plain = ty.go_name();
        let field = self.fields.last().map(String::as_str).unwrap_or_default();
        let named = owner.and_then(|owner| match owner {
            Type::Builtin(owner) => named::go_type(owner.definition_name()?, field, &plain),
            Type::Structural(_) => None,
        });
        self.wrong(value, named.unwrap_or(&plain), owner)
    }

    /// Returns the message about a value that is not of the Go type `ty`.
    fn wrong(&self, value: &str, ty: &str, owner: Option<Type<'_>>) -> String {
        let owner = owner.map(Type::go_name).unwrap_or_default();
        let owner = owner.rsplit('.').next().unwrap_or_default();
        if self.fields.is_empty() {
            return format!("json: cannot unmarshal {value} into Go value of type {ty}");
        }
        format!(
            "json: cannot unmarshal {value} into Go struct field {owner}.{} of type {ty}",
            self.fields.join(".")
        )
    }

    fn unknown(&mut self) {
        if self.messages.len() < MAX_MESSAGES {
            self.messages.push(format!(
                "unknown field {}",
                crate::text::quote(&self.path.text)
            ));
        }
    }

    fn value(
        &mut self,
        ty: Type<'_>,
        value: &mut Value,
        owner: Option<Type<'_>>,
    ) -> Result<(), String> {
        if matches!(ty, Type::Structural(_)) && !fits_structural(ty, value) {
            return Ok(());
        }
        match ty.kind() {
            Kind::Any => self.any(ty, value, owner),
            Kind::Object => self.object(ty, value, owner),
            Kind::Map => self.map(ty, value, owner),
            Kind::Array => self.array(ty, value, owner),
            _ => self.scalar(ty, value, owner),
        }
    }

    fn map(
        &mut self,
        ty: Type<'_>,
        value: &mut Value,
        owner: Option<Type<'_>>,
    ) -> Result<(), String> {
        let found = go_value(value);
        let Value::Object(map) = value else {
            return Err(self.mismatch(&found, ty, owner));
        };
        let Some(element) = ty.element() else {
            return Ok(());
        };
        for (key, value) in map.iter_mut() {
            let at = self.path.field(key);
            self.element(ty, element, value, owner)?;
            self.path.back(at);
        }
        Ok(())
    }

    fn array(
        &mut self,
        ty: Type<'_>,
        value: &mut Value,
        owner: Option<Type<'_>>,
    ) -> Result<(), String> {
        let found = go_value(value);
        let Value::Array(items) = value else {
            return Err(self.mismatch(&found, ty, owner));
        };
        let Some(element) = ty.element() else {
            return Ok(());
        };
        for (i, item) in items.iter_mut().enumerate() {
            let at = self.path.index(i);
            self.element(ty, element, item, owner)?;
            self.path.back(at);
        }
        Ok(())
    }

    /// Checks an item of the list, or a value of the map, of type `holder`.
    fn element(
        &mut self,
        holder: Type<'_>,
        ty: Type<'_>,
        value: &mut Value,
        owner: Option<Type<'_>>,
    ) -> Result<(), String> {
        if !value.is_null() {
            return self.value(ty, value, owner);
        }
        if matches!(holder, Type::Builtin(_)) {
            *value = zero_of(ty);
        }
        Ok(())
    }

    fn object(
        &mut self,
        ty: Type<'_>,
        value: &mut Value,
        owner: Option<Type<'_>>,
    ) -> Result<(), String> {
        let found = go_value(value);
        let Value::Object(map) = value else {
            return Err(self.mismatch(&found, ty, owner));
        };
        let builtin = matches!(ty, Type::Builtin(_));
        let owner = Some(ty);
        let keys: Vec<String> = map.keys().cloned().collect();
        for key in keys {
            let Some(entry) = map.get_mut(&key) else {
                continue;
            };
            let at = self.path.field(&key);
            let dropped = match (ty.field(&key), ty.element()) {
                (Some(field), _) => self.field(field, entry, builtin, owner)?,
                (None, Some(element)) => {
                    if !entry.is_null() {
                        self.value(element, entry, owner)?;
                    }
                    false
                }
                (None, None) if ty.preserves_unknown() => {
                    write_whole_numbers(entry);
                    false
                }
                (None, None) => {
                    self.unknown();
                    true
                }
            };
            if dropped {
                map.remove(&key);
            }
            self.path.back(at);
        }
        if builtin {
            add_permanent_fields(ty, map, 0);
        }
        Ok(())
    }

    /// Checks a declared field, and returns whether it is dropped.
    fn field(
        &mut self,
        field: Field<'_>,
        value: &mut Value,
        builtin: bool,
        owner: Option<Type<'_>>,
    ) -> Result<bool, String> {
        if value.is_null() {
            // Custom resources get theirs defaulted or dropped by their own rules.
            return Ok(matches!(field.ty, Type::Builtin(_)) || !field.ty.is_nullable());
        }
        self.fields.push(field.name.to_owned());
        self.value(field.ty, value, owner)?;
        self.fields.pop();
        // An empty list of managers of the object itself asks for a reset; see `apply::update`.
        let resets = field.name == "managedFields" && self.fields == ["metadata"];
        Ok(builtin && !resets && is_dropped(field, value, owner))
    }

    /// Free-form values; only embedded objects and JSON schemas have rules.
    fn any(
        &mut self,
        ty: Type<'_>,
        value: &mut Value,
        owner: Option<Type<'_>>,
    ) -> Result<(), String> {
        let Type::Builtin(builtin) = ty else {
            write_whole_numbers(value);
            return Ok(());
        };
        let name = builtin.definition_name().unwrap_or_default();
        // Defaults, enumerations and examples of schemas.
        if name.ends_with(".apiextensions.v1.JSON") {
            write_whole_numbers(value);
        }
        if (name.ends_with(".FieldsV1") || name.ends_with(".RawExtension")) && !value.is_object() {
            let found = go_value(value);
            if name.ends_with(".FieldsV1") {
                return Err(self.mismatch(&found, ty, owner));
            }
        }
        Ok(())
    }

    fn scalar(
        &mut self,
        ty: Type<'_>,
        value: &mut Value,
        owner: Option<Type<'_>>,
    ) -> Result<(), String> {
        let ok = match ty.kind() {
            Kind::String => value.is_string(),
            Kind::Boolean => value.is_boolean(),
            Kind::Integer => return self.integer(ty, value, owner),
            Kind::Number => {
                if matches!(ty, Type::Structural(_)) {
                    write_whole_numbers(value);
                }
                value.is_number()
            }
            Kind::Bytes => {
                if let (Value::String(text), Type::Builtin(_)) = (&mut *value, ty) {
                    return canonical_base64(text);
                }
                value.is_string()
            }
            Kind::IntOrString => match value {
                Value::String(_) => true,
                Value::Number(n)
                    if matches!(ty, Type::Structural(_)) || n.as_i64().is_some_and(is_int32) =>
                {
                    true
                }
                other => {
                    let wanted = if other.is_number() { "int32" } else { "string" };
                    return Err(self.wrong(&go_number(other), wanted, owner));
                }
            },
            Kind::Quantity => {
                let quantity = Quantity::from_value(value).map_err(|e| e.to_string())?;
                *value = quantity.into();
                true
            }
            Kind::Time | Kind::MicroTime => return self.time(ty, value, owner),
            Kind::SchemaOr => return self.schema_or(ty, value, owner),
            _ => true,
        };
        if ok {
            Ok(())
        } else {
            Err(self.mismatch(&go_value(value), ty, owner))
        }
    }

    fn integer(
        &mut self,
        ty: Type<'_>,
        value: &mut Value,
        owner: Option<Type<'_>>,
    ) -> Result<(), String> {
        if matches!(ty, Type::Structural(_)) {
            // Custom resources may write whole numbers as floats.
            write_whole_numbers(value);
        }
        if let Value::Number(number) = value {
            match number.as_i64() {
                Some(n) if !ty.is_int32() || is_int32(n) => return Ok(()),
                _ if matches!(ty, Type::Structural(_)) => return Ok(()),
                _ => {}
            }
            return Err(self.mismatch(&go_number(value), ty, owner));
        }
        Err(self.mismatch(&go_value(value), ty, owner))
    }

    fn time(
        &mut self,
        ty: Type<'_>,
        value: &mut Value,
        owner: Option<Type<'_>>,
    ) -> Result<(), String> {
        let Value::String(text) = value else {
            return Err(self.wrong(&go_value(value), "string", owner));
        };
        let (time, layout) = if ty.kind() == Kind::Time {
            (go_time::parse_rfc3339(text)?, "%Y-%m-%dT%H:%M:%SZ")
        } else {
            (go_time::parse_micro(text)?, "%Y-%m-%dT%H:%M:%S.%6fZ")
        };
        // A value outside could be written, but not be read again.
        if !(0..=9999).contains(&time.year()) {
            return Err(format!(
                "parsing time {}: year out of range",
                crate::text::quote(text)
            ));
        }
        if is_zero_time(time) {
            *value = Value::Null;
        } else {
            *text = time.strftime(layout).to_string();
        }
        Ok(())
    }

    fn schema_or(
        &mut self,
        ty: Type<'_>,
        value: &mut Value,
        owner: Option<Type<'_>>,
    ) -> Result<(), String> {
        const PACKAGE: &str =
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
        let Some(schema) = Schema::builtin().definition(PACKAGE) else {
            return Ok(());
        };
        match value {
            Value::Object(_) => self.object(schema.into(), value, owner),
            Value::Array(items) => {
                for (i, item) in items
                    .iter_mut()
                    .enumerate()
                    .filter(|(_, item)| item.is_object())
                {
                    let at = self.path.index(i);
                    self.object(schema.into(), item, owner)?;
                    self.path.back(at);
                }
                Ok(())
            }
            Value::Bool(_) | Value::Null => Ok(()),
            other => Err(self.mismatch(&go_value(other), ty, owner)),
        }
    }
}

/// Turns floating-point numbers without fraction into integers, as which Go writes them
/// (`1.0`, `1e3`).
fn write_whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let float = number.as_f64().unwrap_or_default();
            let is_minus_zero = float == 0.0 && float.is_sign_negative();
            if float.fract() == 0.0 && float.abs() < 9.0e15 && !is_minus_zero {
                *value = Value::from(float as i64);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(write_whole_numbers),
        Value::Object(map) => map.values_mut().for_each(write_whole_numbers),
        _ => {}
    }
}

/// Returns whether a value of a custom resource has the type of its schema. What has not is
/// left to the validation against the schema, whose errors have upstream's form.
fn fits_structural(ty: Type<'_>, value: &Value) -> bool {
    match ty.kind() {
        Kind::Object | Kind::Map => value.is_object(),
        Kind::Array => value.is_array(),
        Kind::String | Kind::Bytes => value.is_string(),
        Kind::Boolean => value.is_boolean(),
        Kind::Integer | Kind::Number => value.is_number(),
        Kind::IntOrString => value.is_number() || value.is_string(),
        _ => true,
    }
}

/// Returns whether Go's encoder drops a checked value of a field of a built-in type. What is
/// always encoded is dropped when it is unset too, and added again.
fn is_dropped(field: Field<'_>, value: &Value, owner: Option<Type<'_>>) -> bool {
    match value {
        // The zero time, which Go writes as null.
        Value::Null => true,
        Value::String(text) => field.omit_zero && text.is_empty(),
        Value::Number(number) => field.omit_zero && number.as_f64() == Some(0.0),
        Value::Bool(flag) => field.omit_zero && !flag,
        Value::Array(items) => items.is_empty() && !keeps_empty(field, owner),
        Value::Object(entries) => {
            entries.is_empty() && field.ty.kind() == Kind::Map && !keeps_empty(field, owner)
        }
    }
}

/// Returns whether an empty list or map differs from one that is unset. In etcd's protobuf
/// it does not, so that only the kinds that are stored as JSON keep one.
fn keeps_empty(field: Field<'_>, owner: Option<Type<'_>>) -> bool {
    let Some(Type::Builtin(owner)) = owner else {
        return false;
    };
    field.always_encoded
        && owner.definition_name().is_some_and(|name| {
            name.starts_with("io.k8s.apiextensions-apiserver.")
                || name.starts_with("io.k8s.kube-aggregator.")
        })
}

/// Returns whether a time is Go's zero time, which counts as no time. Parts of a second do
/// not count.
fn is_zero_time(time: DateTime) -> bool {
    time.date() == date(1, 1, 1) && time.hour() == 0 && time.minute() == 0 && time.second() == 0
}

fn is_int32(n: i64) -> bool {
    i32::try_from(n).is_ok()
}

fn go_number(value: &Value) -> String {
    match value {
        Value::Number(n) => format!("number {n}"),
        other => go_value(other),
    }
}

/// Returns the value that Go's decoder stores for a null in a list or map of values.
fn zero_of(ty: Type<'_>) -> Value {
    match ty.kind() {
        Kind::String | Kind::Bytes => Value::from(""),
        Kind::Integer | Kind::Number | Kind::IntOrString => Value::from(0),
        Kind::Boolean => Value::from(false),
        Kind::Quantity => Value::from("0"),
        Kind::Object => empty(ty),
        _ => Value::Null,
    }
}

/// Bytes as Go's `base64.StdEncoding` reads them: unused bits of the last character may be
/// set.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// Decodes base64 as Go does: line breaks are skipped.
///
/// # Errors
/// Go's message, with the place of the first invalid byte.
pub(crate) fn decode_base64(text: &str) -> Result<Vec<u8>, String> {
    let clean: String;
    let digits = if text.contains(['\n', '\r']) {
        clean = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
        clean.as_str()
    } else {
        text
    };
    BASE64.decode(digits).map_err(|error| {
        let at = match error {
            base64::DecodeError::InvalidByte(at, _)
            | base64::DecodeError::InvalidLastSymbol(at, _) => at,
            _ => digits.len() / 4 * 4,
        };
        format!("illegal base64 data at input byte {at}")
    })
}

/// Brings base64 into the form that Go writes.
fn canonical_base64(text: &mut String) -> Result<(), String> {
    *text = BASE64.encode(decode_base64(text)?);
    Ok(())
}
