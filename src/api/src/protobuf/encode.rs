//! Encodes objects as messages.
//!
//! A message is preceded by its length. Messages are therefore written from end to
//! beginning, into a buffer that grows downwards: every length is known when it is
//! written, and nothing is written or measured twice.

use serde_json::Value;

use super::table::{self, Field, Holder, Message, Shape};
use super::wire::{self, MAX_DEPTH};
use crate::meta;
use crate::status::Status;

/// A buffer that is written backwards.
struct Backward {
    buffer: Vec<u8>,
    at: usize,
}

impl Backward {
    fn new() -> Self {
        Self {
            buffer: vec![0; 512],
            at: 512,
        }
    }

    fn written(&self) -> usize {
        self.buffer.len() - self.at
    }

    fn bytes(&mut self, bytes: &[u8]) {
        if self.at < bytes.len() {
            let written = self.written();
            let size = (self.buffer.len() * 2).max((written + bytes.len()) * 2);
            let mut buffer = vec![0; size];
            buffer[size - written..].copy_from_slice(&self.buffer[self.at..]);
            self.at = size - written;
            self.buffer = buffer;
        }
        self.at -= bytes.len();
        self.buffer[self.at..self.at + bytes.len()].copy_from_slice(bytes);
    }

    fn varint(&mut self, value: u64) {
        let (bytes, length) = wire::varint(value);
        self.bytes(&bytes[..length]);
    }

    fn number(&mut self, number: u32, value: u64) {
        self.varint(value);
        self.varint(u64::from(number) << 3);
    }

    fn text(&mut self, number: u32, bytes: &[u8]) {
        self.bytes(bytes);
        self.varint(bytes.len() as u64);
        self.varint(u64::from(number) << 3 | 2);
    }

    /// Completes field `number`, which began when `before` bytes were written.
    fn close(&mut self, number: u32, before: usize) {
        self.varint((self.written() - before) as u64);
        self.varint(u64::from(number) << 3 | 2);
    }

    fn finish(self) -> Vec<u8> {
        self.buffer[self.at..].to_vec()
    }
}

/// Encodes an object as a message, without the envelope that has its kind.
pub fn message(message: Message, object: &Value) -> Result<Vec<u8>, Status> {
    let mut out = Backward::new();
    fields(&mut out, message, object, 0)?;
    Ok(out.finish())
}

/// Encodes the part of the envelope between the magic number and a message of `length`
/// bytes.
pub fn envelope_head(api_version: &str, kind: &str, length: usize) -> Vec<u8> {
    let mut type_meta = Vec::new();
    wire::put_bytes(&mut type_meta, 1, api_version.as_bytes());
    wire::put_bytes(&mut type_meta, 2, kind.as_bytes());
    let mut head = Vec::new();
    wire::put_bytes(&mut head, 1, &type_meta);
    wire::put_head(&mut head, 2, length);
    head
}

/// Returns the error for a value that is not of its field's type. It does not show the value,
/// which may be a secret and ends up in clients' logs.
fn wrong(field: &Field, value: &Value) -> Status {
    Status::internal(format!(
        "the field {} cannot be encoded as protobuf: a value of type {} does not fit it",
        field.name,
        crate::fields::go_value(value)
    ))
}

fn fields(
    out: &mut Backward,
    message: Message,
    object: &Value,
    depth: usize,
) -> Result<(), Status> {
    if depth > MAX_DEPTH {
        return Err(Status::internal(
            "the object is nested too deep for protobuf",
        ));
    }
    let map = object.as_object();
    for field in message.fields().iter().rev() {
        if let (Holder::Inline, Shape::Message(inner)) = (field.holder, field.shape) {
            let before = out.written();
            fields(out, inner, object, depth + 1)?;
            out.close(field.number, before);
            continue;
        }
        let present = map
            .and_then(|map| map.get(field.name))
            .unwrap_or(&Value::Null);
        match (field.holder, present) {
            (Holder::Value, _) => value(out, field, field.number, present, depth)?,
            (_, Value::Null) => {}
            (Holder::List, Value::Array(items)) => {
                for item in items.iter().rev() {
                    value(out, field, field.number, item, depth)?;
                }
            }
            (Holder::Map, Value::Object(entries)) => {
                for (key, item) in entries.iter().rev() {
                    let before = out.written();
                    if !(field.shape == Shape::Bytes && item.is_null()) {
                        value(out, field, 2, item, depth)?;
                    }
                    out.text(1, key.as_bytes());
                    out.close(field.number, before);
                }
            }
            (Holder::Pointer | Holder::Inline, _) => {
                value(out, field, field.number, present, depth)?;
            }
            (Holder::List | Holder::Map, _) => return Err(wrong(field, present)),
        }
    }
    Ok(())
}

/// Writes the fields of a time. A missing time is an empty message, as Go's zero time.
fn time(out: &mut Backward, field: &Field, value: &Value) -> Result<(), Status> {
    if value.is_null() {
        return Ok(());
    }
    let text = value.as_str().ok_or_else(|| wrong(field, value))?;
    let time = meta::parse_time(text).ok_or_else(|| wrong(field, value))?;
    if text.starts_with("0001-01-01T00:00:00") {
        return Ok(());
    }
    let nanos = time.as_nanosecond().rem_euclid(1_000_000_000) as u64;
    let seconds = time.as_nanosecond().div_euclid(1_000_000_000) as i64;
    // Only micro times have fractions of seconds.
    let nanos = match field.shape {
        Shape::MicroTime => nanos / 1000 * 1000,
        _ => 0,
    };
    out.number(2, nanos);
    out.number(1, seconds as u64);
    Ok(())
}

/// Writes one value as field `number`. Null is written as Go's zero value.
fn value(
    out: &mut Backward,
    field: &Field,
    number: u32,
    value: &Value,
    depth: usize,
) -> Result<(), Status> {
    let wrong = || wrong(field, value);
    let integer = || match value {
        Value::Null => Ok(0),
        Value::Number(n) => n
            .as_i64()
            .or_else(|| n.as_u64().map(|n| n as i64))
            .or_else(|| n.as_f64().map(|n| n as i64))
            .ok_or_else(wrong),
        _ => Err(wrong()),
    };
    match field.shape {
        Shape::Text => match value {
            Value::Null => out.text(number, b""),
            Value::String(text) => out.text(number, text.as_bytes()),
            _ => return Err(wrong()),
        },
        Shape::Flag => match value {
            Value::Null => out.number(number, 0),
            Value::Bool(flag) => out.number(number, u64::from(*flag)),
            _ => return Err(wrong()),
        },
        // Negative numbers take ten bytes, whatever their width.
        Shape::Int32 | Shape::Int64 => out.number(number, integer()? as u64),
        Shape::Double => {
            let float = match value {
                Value::Null => 0.0,
                value => value.as_f64().ok_or_else(wrong)?,
            };
            out.bytes(&float.to_le_bytes());
            out.varint(u64::from(number) << 3 | 1);
        }
        Shape::Bytes => {
            let text = value.as_str().ok_or_else(wrong)?;
            let bytes = crate::fields::decode_base64(text).map_err(|_| wrong())?;
            out.text(number, &bytes);
        }
        Shape::Quantity => {
            let before = out.written();
            match value {
                Value::Null => out.text(1, b"0"),
                Value::String(text) => out.text(1, text.as_bytes()),
                Value::Number(n) => out.text(1, n.to_string().as_bytes()),
                _ => return Err(wrong()),
            }
            out.close(number, before);
        }
        Shape::IntOrString => {
            let before = out.written();
            let text = value.as_str();
            let int = if text.is_some() { 0 } else { integer()? };
            out.text(3, text.unwrap_or_default().as_bytes());
            out.number(2, int as u64);
            out.number(1, u64::from(text.is_some()));
            out.close(number, before);
        }
        Shape::Time | Shape::MicroTime => {
            let before = out.written();
            time(out, field, value)?;
            out.close(number, before);
        }
        Shape::Raw => {
            let before = out.written();
            if !value.is_null() {
                out.text(1, value.to_string().as_bytes());
            }
            out.close(number, before);
        }
        Shape::Texts => {
            let before = out.written();
            for text in value.as_array().into_iter().flatten().rev() {
                out.text(1, text.as_str().ok_or_else(wrong)?.as_bytes());
            }
            out.close(number, before);
        }
        Shape::SchemaOrSchemas | Shape::SchemaOrFlag | Shape::SchemaOrTexts => {
            let before = out.written();
            schema_or(out, field, value, depth)?;
            out.close(number, before);
        }
        Shape::Message(inner) => {
            if !(value.is_object() || value.is_null()) {
                return Err(wrong());
            }
            let before = out.written();
            fields(out, inner, value, depth + 1)?;
            out.close(number, before);
        }
    }
    Ok(())
}

/// Returns the message of JSON schemas.
pub fn json_schema() -> Result<Message, Status> {
    table::named(
        "apiextensions-apiserver.pkg.apis.apiextensions.v1",
        "JSONSchemaProps",
    )
    .ok_or_else(|| Status::internal("no message of schemas"))
}

fn schema_or(out: &mut Backward, field: &Field, value: &Value, depth: usize) -> Result<(), Status> {
    let schema = json_schema()?;
    let one = |out: &mut Backward, number: u32, value: &Value| {
        let before = out.written();
        fields(out, schema, value, depth + 1)?;
        out.close(number, before);
        Ok::<(), Status>(())
    };
    match (field.shape, value) {
        (Shape::SchemaOrFlag, Value::Bool(flag)) => out.number(1, u64::from(*flag)),
        (Shape::SchemaOrFlag, Value::Object(_)) => {
            one(out, 2, value)?;
            // A schema implies that additional values are allowed.
            out.number(1, 1);
        }
        (_, Value::Object(_)) => one(out, 1, value)?,
        (Shape::SchemaOrSchemas, Value::Array(items)) => {
            for item in items.iter().rev() {
                one(out, 2, item)?;
            }
        }
        (Shape::SchemaOrTexts, Value::Array(items)) => {
            for item in items.iter().rev() {
                let text = item.as_str().ok_or_else(|| wrong(field, value))?;
                out.text(2, text.as_bytes());
            }
        }
        _ => return Err(wrong(field, value)),
    }
    Ok(())
}
