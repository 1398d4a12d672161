//! Decodes messages into objects in their JSON form.
//!
//! Go writes every field that is not a pointer, even when it is empty. Such a field is
//! omitted where Go's JSON omits it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::encode::json_schema;
use super::table::{self, Field as Declared, Holder, Message, Shape};
use super::wire::{Field, MAGIC, MAX_DEPTH, Reader};
use crate::status::Status;
use crate::{Object, meta};

fn invalid(why: &str) -> Status {
    Status::bad_request(format!("the body is not valid protobuf: {why}"))
}

/// Decodes a body into an object.
///
/// # Errors
/// 400 when it is not protobuf of a known kind.
pub fn decode(bytes: &[u8]) -> Result<Object, Status> {
    let envelope = bytes
        .strip_prefix(MAGIC)
        .ok_or_else(|| invalid("the magic number is missing"))?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    let mut reader = Reader::new(envelope);
    let mut json = false;
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
            (4, Field::Bytes(content_type)) => json = content_type == b"application/json",
            _ => {}
        }
    }
    if json {
        return serde_json::from_slice(raw).map_err(|e| invalid(&e.to_string()));
    }
    let known = table::find_kind(&api_version, &kind)
        .ok_or_else(|| invalid(&format!("{api_version}, Kind={kind} is not known")))?;
    let mut map = Map::new();
    message(known, raw, &mut map, 0)?;
    let mut object = Value::Object(map);
    meta::set_type(&mut object, &api_version, &kind);
    Ok(object)
}

fn utf8(bytes: &[u8]) -> Result<String, Status> {
    String::from_utf8(bytes.to_vec()).map_err(|_| invalid("a text is not UTF-8"))
}

/// Decodes a message into the fields of an object.
pub fn message(
    message_: Message,
    bytes: &[u8],
    map: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Status> {
    if depth > MAX_DEPTH {
        return Err(invalid("messages are nested too deep"));
    }
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next().map_err(invalid)? {
        // A field of a later version.
        let Some(declared) = message_.field(number) else {
            continue;
        };
        match declared.holder {
            Holder::Inline => {
                let (Shape::Message(inner), Field::Bytes(bytes)) = (declared.shape, field) else {
                    return Err(invalid("a message is expected"));
                };
                message(inner, bytes, map, depth + 1)?;
            }
            Holder::List => list(declared, field, map, depth)?,
            Holder::Map => entry(declared, field, map, depth)?,
            Holder::Value | Holder::Pointer => decode_field(declared, field, map, depth)?,
        }
    }
    Ok(())
}

/// Returns whether a value that Go does not hold by pointer is the zero value.
fn is_unset(declared: &Declared, field: Field<'_>) -> bool {
    let scalar = matches!(
        declared.shape,
        Shape::Text | Shape::Flag | Shape::Int32 | Shape::Int64 | Shape::Double | Shape::Bytes
    );
    let by_value = declared.holder == Holder::Value || declared.shape == Shape::Bytes;
    scalar
        && by_value
        && !declared.always
        && matches!(
            field,
            Field::Varint(0) | Field::Fixed64(0) | Field::Fixed32(0) | Field::Bytes(&[])
        )
}

fn decode_field(
    declared: &Declared,
    field: Field<'_>,
    map: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Status> {
    if is_unset(declared, field) {
        map.remove(declared.name);
        return Ok(());
    }
    if let Shape::Message(inner) = declared.shape {
        let Field::Bytes(bytes) = field else {
            return Err(invalid("a message is expected"));
        };
        // A message may come in several parts, which are merged.
        let slot = map.entry(declared.name).or_insert_with(|| json!({}));
        if let Some(object) = slot.as_object_mut() {
            message(inner, bytes, object, depth + 1)?;
        }
        return Ok(());
    }
    let value = value(declared.shape, field, depth)?;
    // Times that are not set are sent as empty messages.
    if value.is_null() {
        map.remove(declared.name);
    } else {
        map.insert(declared.name.to_owned(), value);
    }
    Ok(())
}

fn list(
    declared: &Declared,
    field: Field<'_>,
    map: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Status> {
    let slot = map.entry(declared.name).or_insert_with(|| json!([]));
    let Some(items) = slot.as_array_mut() else {
        return Ok(());
    };
    match (declared.shape, field) {
        // Numbers may be packed.
        (Shape::Int32 | Shape::Int64 | Shape::Flag, Field::Bytes(packed)) => {
            let mut reader = Reader::new(packed);
            while let Some(number) = reader.varint_if_any().map_err(invalid)? {
                items.push(value(declared.shape, Field::Varint(number), depth)?);
            }
        }
        (shape, field) => items.push(value(shape, field, depth)?),
    }
    Ok(())
}

fn entry(
    declared: &Declared,
    field: Field<'_>,
    map: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Status> {
    let Field::Bytes(entry) = field else {
        return Err(invalid("a map entry is expected"));
    };
    let slot = map.entry(declared.name).or_insert_with(|| json!({}));
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
    let content = match content {
        Some(field) => value(declared.shape, field, depth)?,
        None => empty(declared.shape),
    };
    entries.insert(key, content);
    Ok(())
}

/// Returns the value of a map's entry that has none.
fn empty(shape: Shape) -> Value {
    match shape {
        Shape::Text => "".into(),
        Shape::Int32 | Shape::Int64 | Shape::Double => 0.into(),
        Shape::Flag => false.into(),
        Shape::Quantity => "0".into(),
        Shape::Texts => json!([]),
        Shape::Bytes | Shape::Time | Shape::MicroTime | Shape::Raw => Value::Null,
        _ => json!({}),
    }
}

/// Decodes one value into its JSON form.
fn value(shape: Shape, field: Field<'_>, depth: usize) -> Result<Value, Status> {
    Ok(match (shape, field) {
        (Shape::Text, Field::Bytes(bytes)) => utf8(bytes)?.into(),
        (Shape::Bytes, Field::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (Shape::Int32, Field::Varint(number)) => (number as i32).into(),
        (Shape::Int64, Field::Varint(number)) => (number as i64).into(),
        (Shape::Flag, Field::Varint(number)) => (number != 0).into(),
        (Shape::Double, Field::Fixed64(bits)) => double(f64::from_bits(bits)),
        (Shape::Quantity, Field::Bytes(bytes)) => quantity(bytes)?.into(),
        (Shape::IntOrString, Field::Bytes(bytes)) => int_or_string(bytes)?,
        (Shape::Time, Field::Bytes(bytes)) => time(bytes, meta::rfc3339)?,
        (Shape::MicroTime, Field::Bytes(bytes)) => time(bytes, meta::rfc3339_micro)?,
        (Shape::Raw, Field::Bytes(bytes)) => raw(bytes)?,
        (Shape::Texts, Field::Bytes(bytes)) => texts(bytes)?,
        (
            Shape::SchemaOrSchemas | Shape::SchemaOrFlag | Shape::SchemaOrTexts,
            Field::Bytes(bytes),
        ) => schema_or(shape, bytes, depth)?,
        (Shape::Message(inner), Field::Bytes(bytes)) => {
            let mut map = Map::new();
            message(inner, bytes, &mut map, depth + 1)?;
            Value::Object(map)
        }
        _ => return Err(invalid("a field has another wire type than its own")),
    })
}

/// Converts a number as Go's JSON does: integers without a fraction.
fn double(number: f64) -> Value {
    // Integers up to here are exact in both forms.
    const MAX_EXACT_INTEGER: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= MAX_EXACT_INTEGER {
        (number as i64).into()
    } else {
        number.into()
    }
}

/// Decodes the string in field 1.
fn quantity(bytes: &[u8]) -> Result<String, Status> {
    let mut reader = Reader::new(bytes);
    let mut text = String::new();
    while let Some((number, field)) = reader.next().map_err(invalid)? {
        if let (1, Field::Bytes(bytes)) = (number, field) {
            text = utf8(bytes)?;
        }
    }
    Ok(if text.is_empty() { "0".into() } else { text })
}

fn texts(bytes: &[u8]) -> Result<Value, Status> {
    let mut reader = Reader::new(bytes);
    let mut texts = Vec::new();
    while let Some((number, field)) = reader.next().map_err(invalid)? {
        if let (1, Field::Bytes(text)) = (number, field) {
            texts.push(utf8(text)?);
        }
    }
    Ok(texts.into())
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
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0, 0i32);
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next().map_err(invalid)? {
        match (number, field) {
            (1, Field::Varint(value)) => seconds = value as i64,
            (2, Field::Varint(value)) => nanos = value as i32,
            _ => {}
        }
    }
    // Years that RFC 3339 can express.
    if !(-62_135_596_800..253_402_300_800).contains(&seconds) {
        return Err(invalid("a time is out of range"));
    }
    let nanos = i128::from(nanos.clamp(0, 999_999_999));
    Timestamp::from_nanosecond(i128::from(seconds) * 1_000_000_000 + nanos)
        .map(|time| format(time).into())
        .map_err(|_| invalid("a time is out of range"))
}

/// Decodes JSON inside of a message, in field 1.
fn raw(bytes: &[u8]) -> Result<Value, Status> {
    let mut reader = Reader::new(bytes);
    let mut value = Value::Null;
    while let Some((number, field)) = reader.next().map_err(invalid)? {
        if let (1, Field::Bytes(json)) = (number, field)
            && !json.is_empty()
        {
            // A client may send protobuf in place of JSON.
            value = if json.starts_with(MAGIC) {
                decode(json)?
            } else {
                serde_json::from_slice(json).map_err(|e| invalid(&e.to_string()))?
            };
        }
    }
    Ok(value)
}

/// Decodes a schema, schemas, a boolean or strings in a CustomResourceDefinition.
fn schema_or(shape: Shape, bytes: &[u8], depth: usize) -> Result<Value, Status> {
    let schema = |bytes: &[u8]| -> Result<Value, Status> {
        let mut map = Map::new();
        message(json_schema()?, bytes, &mut map, depth + 1)?;
        Ok(Value::Object(map))
    };
    let (mut flag, mut one, mut many) = (false, None, Vec::new());
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next().map_err(invalid)? {
        match (shape, number, field) {
            (Shape::SchemaOrFlag, 1, Field::Varint(value)) => flag = value != 0,
            (Shape::SchemaOrFlag, 2, Field::Bytes(bytes)) | (_, 1, Field::Bytes(bytes)) => {
                one = Some(schema(bytes)?)
            }
            (Shape::SchemaOrSchemas, 2, Field::Bytes(bytes)) => many.push(schema(bytes)?),
            (Shape::SchemaOrTexts, 2, Field::Bytes(bytes)) => many.push(utf8(bytes)?.into()),
            _ => {}
        }
    }
    Ok(match (one, shape) {
        (Some(schema), _) => schema,
        (None, Shape::SchemaOrFlag) => flag.into(),
        (None, _) => Value::Array(many),
    })
}
