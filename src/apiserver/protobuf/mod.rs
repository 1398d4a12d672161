//! Requests in Kubernetes' protobuf form, as Go clients send them.
//!
//! The fields' numbers are facts of the published `generated.proto` files and
//! stand in `fields.txt`: a line a message, `number:name` a field, and
//! `number:>message` for a message whose fields JSON shows in its parent. How a
//! value is read off the wire follows from the schema's type of that name.
//!
//! Go writes every field that is not a pointer, also when it holds nothing.
//! JSON leaves such a field out; a pointer to nothing much (`replicas: 0`) is
//! kept, and `*` after a name marks these.

pub mod openapi;
mod wire;

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine as _;
use jiff::Timestamp;
use rkube_api::schema::{Kind, Schema, Type};
use rkube_api::status::Status;
use rkube_api::{Object, meta, registry};
use serde_json::{Map, Value, json};

use wire::{Field, Reader};

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// How deep messages may nest.
const MAX_DEPTH: usize = 100;

static MESSAGES: LazyLock<HashMap<&'static str, &'static str>> = LazyLock::new(|| {
    include_str!("fields.txt")
        .lines()
        .map(|line| line.split_once(' ').unwrap_or((line, "")))
        .collect()
});

fn invalid(why: &str) -> Status {
    Status::bad_request(format!("the body is not valid protobuf: {why}"))
}

/// What field `number` of `message` is: its name in JSON, or a message that is
/// shown in place.
fn lookup(message: &str, number: u32) -> Option<&'static str> {
    MESSAGES.get(message)?.split(' ').find_map(|field| {
        let (n, name) = field.split_once(':')?;
        (n.parse() == Ok(number)).then_some(name)
    })
}

/// A body as an object. `kind` and `group_version` are what is expected where
/// the envelope leaves them out.
pub fn decode(bytes: &[u8]) -> Result<Object, Status> {
    let envelope = bytes
        .strip_prefix(b"k8s\0")
        .ok_or_else(|| invalid("the magic number is missing"))?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    let mut reader = Reader::new(envelope);
    while let Some((number, field)) = reader.next().map_err(invalid)? {
        match (number, field) {
            (1, Field::Bytes(type_meta)) => {
                let mut reader = Reader::new(type_meta);
                while let Some((number, field)) = reader.next().map_err(invalid)? {
                    match (number, field) {
                        (1, Field::Bytes(text)) => api_version = utf8(text)?,
                        (2, Field::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Field::Bytes(bytes)) => raw = bytes,
            (3, Field::Bytes(encoding)) if !encoding.is_empty() => {
                return Err(invalid("the content encoding is not supported"));
            }
            (4, Field::Bytes(b"application/json")) => {
                return serde_json::from_slice(raw).map_err(|e| invalid(&e.to_string()));
            }
            _ => {}
        }
    }
    let definition = definition_of(&api_version, &kind)
        .ok_or_else(|| invalid(&format!("{api_version}, Kind={kind} is not known")))?;
    let ty = Schema::builtin()
        .definition(&definition)
        .ok_or_else(|| invalid(&format!("{api_version}, Kind={kind} is not known")))?;
    let mut map = Map::new();
    message(&definition, Type::Builtin(ty), raw, &mut map, 0)?;
    let mut object = Value::Object(map);
    meta::set_type(&mut object, &api_version, &kind);
    Ok(object)
}

/// The OpenAPI definition of a kind, be it a resource's, a subresource's or an
/// options object's.
fn definition_of(api_version: &str, kind: &str) -> Option<String> {
    let (group, version) = rkube_api::gvk::parse_api_version(api_version);
    if let Some(row) = registry::find_kind(group, version, kind) {
        return Some(row.definition.to_string());
    }
    let schema = Schema::builtin();
    let meta = format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}");
    if matches!(kind, "DeleteOptions" | "Status") && schema.definition(&meta).is_some() {
        return Some(meta);
    }
    let package = match group.split('.').next().unwrap_or_default() {
        "" => "core",
        first => first,
    };
    let name = format!("io.k8s.api.{package}.{version}.{kind}");
    schema.definition(&name).is_some().then_some(name)
}

fn utf8(bytes: &[u8]) -> Result<String, Status> {
    String::from_utf8(bytes.to_vec()).map_err(|_| invalid("a text is not UTF-8"))
}

/// Reads a message into the fields of an object of type `ty`.
fn message(
    definition: &str,
    ty: Type<'_>,
    bytes: &[u8],
    map: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Status> {
    if depth > MAX_DEPTH {
        return Err(invalid("messages are nested too deep"));
    }
    let key = definition.strip_prefix("io.k8s.").unwrap_or(definition);
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next().map_err(invalid)? {
        // A field that is newer than this server.
        let Some(name) = lookup(key, number) else {
            continue;
        };
        if let Some(inner) = name.strip_prefix('>') {
            let Field::Bytes(bytes) = field else {
                return Err(invalid("a message is expected"));
            };
            message(inner, ty, bytes, map, depth + 1)?;
            continue;
        }
        let (name, pointer) = name
            .strip_suffix('*')
            .map_or((name, false), |name| (name, true));
        let Some(declared) = ty.field(name) else {
            continue;
        };
        if !pointer && is_zero(declared.ty, field) {
            continue;
        }
        put(declared.ty, field, map, name, depth)?;
    }
    Ok(())
}

/// Whether a scalar holds what a Go field holds that nobody has set.
fn is_zero(ty: Type<'_>, field: Field<'_>) -> bool {
    matches!(
        ty.kind(),
        Kind::String | Kind::Bytes | Kind::Integer | Kind::Boolean | Kind::Number
    ) && matches!(
        field,
        Field::Varint(0) | Field::Fixed64(0) | Field::Fixed32(0) | Field::Bytes(&[])
    )
}

/// Adds a field's occurrence to what was read of it before.
fn put(
    ty: Type<'_>,
    field: Field<'_>,
    map: &mut Map<String, Value>,
    name: &str,
    depth: usize,
) -> Result<(), Status> {
    match ty.kind() {
        Kind::Array => {
            let element = ty
                .element()
                .ok_or_else(|| Status::internal("a list without a type of items"))?;
            let slot = map.entry(name).or_insert_with(|| json!([]));
            let Some(items) = slot.as_array_mut() else {
                return Ok(());
            };
            match (element.kind(), &field) {
                // Numbers may come packed, whatever the schema says.
                (Kind::Integer | Kind::Boolean, Field::Bytes(packed)) => {
                    let mut reader = Reader::new(packed);
                    while let Some(number) = reader.varint_if_any().map_err(invalid)? {
                        items.push(value(element, Field::Varint(number), depth)?);
                    }
                }
                _ => items.push(value(element, field, depth)?),
            }
        }
        Kind::Map => {
            let element = ty
                .element()
                .ok_or_else(|| Status::internal("a map without a type of values"))?;
            let Field::Bytes(entry) = field else {
                return Err(invalid("a map entry is expected"));
            };
            let slot = map.entry(name).or_insert_with(|| json!({}));
            let Some(entries) = slot.as_object_mut() else {
                return Ok(());
            };
            let mut key = String::new();
            let mut content = None;
            let mut reader = Reader::new(entry);
            while let Some((number, field)) = reader.next().map_err(invalid)? {
                match (number, field) {
                    (1, Field::Bytes(text)) => key = utf8(text)?,
                    (2, field) => content = Some(field),
                    _ => {}
                }
            }
            let content = match (element.kind(), content) {
                // A list cannot be a map's value in protobuf: a message holds it.
                (Kind::Array, content) => {
                    let mut inner = Map::new();
                    if let Some(Field::Bytes(bytes)) = content {
                        let mut reader = Reader::new(bytes);
                        while let Some((number, field)) = reader.next().map_err(invalid)? {
                            if number == 1 {
                                put(element, field, &mut inner, "items", depth + 1)?;
                            }
                        }
                    }
                    inner.remove("items").unwrap_or_else(|| json!([]))
                }
                (_, Some(field)) => value(element, field, depth)?,
                (_, None) => empty(element),
            };
            entries.insert(key, content);
        }
        Kind::Object => {
            let Field::Bytes(bytes) = field else {
                return Err(invalid("a message is expected"));
            };
            let slot = map.entry(name).or_insert_with(|| json!({}));
            let Some(inner) = slot.as_object_mut() else {
                return Ok(());
            };
            object(ty, bytes, inner, depth)?;
        }
        _ => {
            let value = value(ty, field, depth)?;
            // Times that are not set are sent as empty messages.
            if !value.is_null() {
                map.insert(name.to_owned(), value);
            }
        }
    }
    Ok(())
}

fn object(
    ty: Type<'_>,
    bytes: &[u8],
    map: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Status> {
    let Type::Builtin(reference) = ty else {
        return Err(Status::internal("protobuf is for built-in kinds"));
    };
    let definition = reference.definition_name().unwrap_or_default();
    message(definition, ty, bytes, map, depth + 1)
}

/// The value of a scalar that was left out.
fn empty(ty: Type<'_>) -> Value {
    match ty.kind() {
        Kind::String | Kind::Bytes => "".into(),
        Kind::Integer | Kind::Number => 0.into(),
        Kind::Boolean => false.into(),
        Kind::Quantity => "0".into(),
        _ => json!({}),
    }
}

/// One value off the wire, as JSON has it.
fn value(ty: Type<'_>, field: Field<'_>, depth: usize) -> Result<Value, Status> {
    Ok(match (ty.kind(), field) {
        (Kind::String, Field::Bytes(bytes)) => utf8(bytes)?.into(),
        // A duration, which JSON writes as a text.
        (Kind::String, Field::Varint(number)) => number.to_string().into(),
        (Kind::Bytes, Field::Bytes(bytes)) => base64::engine::general_purpose::STANDARD
            .encode(bytes)
            .into(),
        (Kind::Integer, Field::Varint(number)) if ty.is_int32() => (number as i32).into(),
        (Kind::Integer, Field::Varint(number)) => (number as i64).into(),
        (Kind::Boolean, Field::Varint(number)) => (number != 0).into(),
        (Kind::Number, Field::Fixed64(bits)) => f64::from_bits(bits).into(),
        (Kind::Number, Field::Fixed32(bits)) => f64::from(f32::from_bits(bits)).into(),
        (Kind::Number, Field::Varint(number)) => (number as i64).into(),
        (Kind::Quantity, Field::Bytes(bytes)) => first_text(bytes)?.into(),
        (Kind::IntOrString, Field::Bytes(bytes)) => int_or_string(bytes)?,
        (Kind::Time, Field::Bytes(bytes)) => time(bytes, meta::rfc3339)?,
        (Kind::MicroTime, Field::Bytes(bytes)) => time(bytes, meta::rfc3339_micro)?,
        (Kind::Any, Field::Bytes(bytes)) => raw(bytes)?,
        (Kind::SchemaOr, Field::Bytes(bytes)) => schema_or(bytes, depth)?,
        (Kind::Object, Field::Bytes(bytes)) => {
            let mut map = Map::new();
            object(ty, bytes, &mut map, depth)?;
            Value::Object(map)
        }
        _ => return Err(invalid("a field has another wire type than its own")),
    })
}

/// The text in field 1.
fn first_text(bytes: &[u8]) -> Result<String, Status> {
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next().map_err(invalid)? {
        if let (1, Field::Bytes(text)) = (number, field) {
            return utf8(text);
        }
    }
    Ok("0".to_owned())
}

fn int_or_string(bytes: &[u8]) -> Result<Value, Status> {
    let (mut is_text, mut number_value, mut text) = (false, 0i32, String::new());
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next().map_err(invalid)? {
        match (number, field) {
            (1, Field::Varint(kind)) => is_text = kind == 1,
            (2, Field::Varint(value)) => number_value = value as i32,
            (3, Field::Bytes(bytes)) => text = utf8(bytes)?,
            _ => {}
        }
    }
    Ok(if is_text {
        text.into()
    } else {
        number_value.into()
    })
}

fn time(bytes: &[u8], format: fn(Timestamp) -> String) -> Result<Value, Status> {
    let (mut seconds, mut nanos) = (None, 0i32);
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next().map_err(invalid)? {
        match (number, field) {
            (1, Field::Varint(value)) => seconds = Some(value as i64),
            (2, Field::Varint(value)) => nanos = value as i32,
            _ => {}
        }
    }
    let Some(seconds) = seconds else {
        return Ok(Value::Null);
    };
    let time = Timestamp::new(seconds, nanos.clamp(0, 999_999_999))
        .map_err(|_| invalid("a time is out of range"))?;
    Ok(format(time).into())
}

/// JSON inside of a message, in field 1.
fn raw(bytes: &[u8]) -> Result<Value, Status> {
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next().map_err(invalid)? {
        if let (1, Field::Bytes(json)) = (number, field) {
            return serde_json::from_slice(json).map_err(|e| invalid(&e.to_string()));
        }
    }
    Ok(Value::Null)
}

/// A schema, or schemas, or a flag, or texts, in a CustomResourceDefinition.
/// A schema is field 1 of two of the three messages and field 2 of the other,
/// which has the flag in field 1.
fn schema_or(bytes: &[u8], depth: usize) -> Result<Value, Status> {
    let schema = |bytes: &[u8]| -> Result<Value, Status> {
        let name = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
        let ty = Schema::builtin()
            .definition(name)
            .ok_or_else(|| Status::internal("no schema of schemas"))?;
        let mut map = Map::new();
        message(name, Type::Builtin(ty), bytes, &mut map, depth + 1)?;
        Ok(Value::Object(map))
    };
    let (mut flag, mut one, mut many) = (None, None, Vec::new());
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next().map_err(invalid)? {
        match (number, field) {
            (1, Field::Varint(value)) => flag = Some(value != 0),
            (1, Field::Bytes(bytes)) => one = Some(schema(bytes)?),
            (2, Field::Bytes(bytes)) if flag.is_some() => one = Some(schema(bytes)?),
            (2, Field::Bytes(bytes)) => many.push(schema(bytes)?),
            _ => {}
        }
    }
    Ok(match (one, flag) {
        (Some(schema), _) => schema,
        (None, Some(flag)) => flag.into(),
        (None, None) => Value::Array(many),
    })
}

#[cfg(test)]
mod tests;
