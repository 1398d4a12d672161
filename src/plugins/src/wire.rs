//! The wire format of protocol buffers, for the few messages that plugins exchange.
//!
//! [`message!`](crate::message) defines a struct from field numbers. Fields with default values are
//! not written, unknown ones are skipped, as proto3 has it. Sources: the encoding guide of protocol
//! buffers, and the field numbers of upstream's `.proto` files.

use std::collections::BTreeMap;

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "proto: cannot parse invalid wire-format data: {}",
            self.0
        )
    }
}

/// The value of a field as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// An integer, a Boolean or an enumeration.
    Number(u64),
    /// A string, a message, or packed numbers.
    Bytes(&'a [u8]),
    /// A fixed-width number, which no message here has.
    Fixed,
}

/// Splits a message into fields.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn number(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(Malformed("cut off"))?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("a number of more than ten bytes"))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed("too long"))?;
        let (head, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(Malformed("cut off"))?;
        self.0 = rest;
        Ok(head)
    }

    /// Returns the next field's number and value; `None` at the end.
    fn field(&mut self) -> Result<Option<(u32, Value<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.number()?;
        let number = u32::try_from(key >> 3).map_err(|_| Malformed("a field's number"))?;
        let value = match key & 7 {
            0 => Value::Number(self.number()?),
            1 => {
                self.take(8)?;
                Value::Fixed
            }
            2 => {
                let length = self.number()?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Value::Fixed
            }
            _ => return Err(Malformed("a wire type")),
        };
        if number == 0 {
            return Err(Malformed("a field's number"));
        }
        Ok(Some((number, value)))
    }
}

fn put_number(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_key(number: u32, kind: u64, out: &mut Vec<u8>) {
    put_number(u64::from(number) << 3 | kind, out);
}

fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_key(number, 2, out);
    put_number(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// A message: a struct whose fields have numbers.
pub trait Message: Default {
    /// Appends the fields to `out`.
    fn put_fields(&self, out: &mut Vec<u8>);
    /// Takes over a field that was read; ignores an unknown one.
    fn merge_field(&mut self, number: u32, value: Value<'_>) -> Result<(), Malformed>;

    /// Returns the encoded message.
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put_fields(&mut out);
        out
    }

    /// Reads a message.
    ///
    /// # Errors
    ///
    /// Fails if the bytes are no message, or a string is not UTF-8.
    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut message = Self::default();
        message.merge(bytes)?;
        Ok(message)
    }

    /// Reads fields into the message: later values replace earlier ones, lists grow.
    ///
    /// # Errors
    ///
    /// As [`Message::decode`].
    fn merge(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader(bytes);
        while let Some((number, value)) = reader.field()? {
            self.merge_field(number, value)?;
        }
        Ok(())
    }
}

/// The type of a field.
pub trait Field {
    /// Appends the field to `out`, unless it has its default.
    fn put(&self, number: u32, out: &mut Vec<u8>);
    /// Takes over a value that was read.
    fn merge(&mut self, value: Value<'_>) -> Result<(), Malformed>;
}

const KIND: Malformed = Malformed("a field of another type");

fn text(value: Value<'_>) -> Result<String, Malformed> {
    let Value::Bytes(bytes) = value else {
        return Err(KIND);
    };
    let text = std::str::from_utf8(bytes);
    Ok(text
        .map_err(|_| Malformed("string field contains invalid UTF-8"))?
        .to_owned())
}

impl Field for String {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_bytes(number, self.as_bytes(), out);
        }
    }
    fn merge(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        *self = text(value)?;
        Ok(())
    }
}

impl Field for Option<String> {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        if let Some(text) = self {
            put_bytes(number, text.as_bytes(), out);
        }
    }
    fn merge(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        *self = Some(text(value)?);
        Ok(())
    }
}

impl Field for Vec<String> {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        for text in self {
            put_bytes(number, text.as_bytes(), out);
        }
    }
    fn merge(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        self.push(text(value)?);
        Ok(())
    }
}

macro_rules! number {
    ($($type:ty: |$read:ident| $from:expr, |$write:ident| $to:expr;)*) => {$(
        impl Field for $type {
            fn put(&self, number: u32, out: &mut Vec<u8>) {
                let $write = *self;
                if $write != <$type>::default() {
                    put_key(number, 0, out);
                    put_number($to, out);
                }
            }
            fn merge(&mut self, value: Value<'_>) -> Result<(), Malformed> {
                let Value::Number($read) = value else {
                    return Err(KIND);
                };
                *self = $from;
                Ok(())
            }
        }
    )*};
}

// Negative numbers are ten bytes long, also those of 32 bits.
number! {
    bool: |n| n != 0, |v| u64::from(v);
    i32: |n| n as i32, |v| i64::from(v) as u64;
    i64: |n| n as i64, |v| v as u64;
    u64: |n| n, |v| v;
}

impl Field for Vec<i64> {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        if self.is_empty() {
            return;
        }
        let mut packed = Vec::new();
        for value in self {
            put_number(*value as u64, &mut packed);
        }
        put_bytes(number, &packed, out);
    }
    fn merge(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        match value {
            Value::Number(n) => self.push(n as i64),
            Value::Bytes(packed) => {
                let mut reader = Reader(packed);
                while !reader.0.is_empty() {
                    self.push(reader.number()? as i64);
                }
            }
            Value::Fixed => return Err(KIND),
        }
        Ok(())
    }
}

fn nested<'a>(value: Value<'a>) -> Result<&'a [u8], Malformed> {
    match value {
        Value::Bytes(bytes) => Ok(bytes),
        _ => Err(KIND),
    }
}

impl<M: Message> Field for Option<M> {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        if let Some(message) = self {
            put_bytes(number, &message.encode(), out);
        }
    }
    fn merge(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        self.get_or_insert_default().merge(nested(value)?)
    }
}

impl<M: Message> Field for Vec<M> {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        for message in self {
            put_bytes(number, &message.encode(), out);
        }
    }
    fn merge(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        self.push(M::decode(nested(value)?)?);
        Ok(())
    }
}

/// Reads an entry of a map: a message with the key as field 1 and the value as field 2.
fn entry(bytes: &[u8]) -> Result<(String, Option<Value<'_>>), Malformed> {
    let (mut key, mut held) = (String::new(), None);
    let mut reader = Reader(bytes);
    while let Some((number, value)) = reader.field()? {
        match number {
            1 => key = text(value)?,
            2 => held = Some(value),
            _ => {}
        }
    }
    Ok((key, held))
}

impl Field for BTreeMap<String, String> {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        for (key, value) in self {
            let mut entry = Vec::new();
            put_bytes(1, key.as_bytes(), &mut entry);
            put_bytes(2, value.as_bytes(), &mut entry);
            put_bytes(number, &entry, out);
        }
    }
    fn merge(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        let (key, held) = entry(nested(value)?)?;
        self.insert(key, held.map(text).transpose()?.unwrap_or_default());
        Ok(())
    }
}

impl<M: Message> Field for BTreeMap<String, M> {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        for (key, value) in self {
            let mut entry = Vec::new();
            put_bytes(1, key.as_bytes(), &mut entry);
            put_bytes(2, &value.encode(), &mut entry);
            put_bytes(number, &entry, out);
        }
    }
    fn merge(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        let (key, held) = entry(nested(value)?)?;
        let held = match held {
            Some(value) => M::decode(nested(value)?)?,
            None => M::default(),
        };
        self.insert(key, held);
        Ok(())
    }
}

/// Defines messages: `struct Name { number => field: type, … }`.
#[macro_export]
macro_rules! message {
    ($($(#[$doc:meta])* struct $name:ident {
        $($(#[$field_doc:meta])* $number:literal => $field:ident: $type:ty,)*
    })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl $crate::wire::Message for $name {
            fn put_fields(&self, _out: &mut Vec<u8>) {
                $($crate::wire::Field::put(&self.$field, $number, _out);)*
            }
            fn merge_field(
                &mut self,
                number: u32,
                _value: $crate::wire::Value<'_>,
            ) -> Result<(), $crate::wire::Malformed> {
                match number {
                    $($number => $crate::wire::Field::merge(&mut self.$field, _value),)*
                    _ => Ok(()),
                }
            }
        }
    )*};
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    message! {
        /// A message with fields of each type.
        struct All {
            /// Text.
            1 => text: String,
            /// A flag.
            2 => flag: bool,
            /// A small number.
            3 => small: i32,
            /// A number.
            4 => large: i64,
            /// Texts.
            5 => texts: Vec<String>,
            /// Numbers.
            6 => numbers: Vec<i64>,
            /// Optional text.
            7 => maybe: Option<String>,
            /// A message.
            8 => inner: Option<Inner>,
            /// Messages.
            9 => many: Vec<Inner>,
            /// A map.
            10 => map: BTreeMap<String, String>,
            /// A map of messages.
            11 => inners: BTreeMap<String, Inner>,
            /// An unsigned number.
            16 => unsigned: u64,
        }
        /// A message within another.
        struct Inner {
            /// Its text.
            1 => text: String,
        }
    }

    fn inner(text: &str) -> Inner {
        Inner { text: text.into() }
    }

    #[test]
    fn messages_come_back() {
        let all = All {
            text: "a".into(),
            flag: true,
            small: -1,
            large: i64::MIN,
            texts: vec!["".into(), "b".into()],
            numbers: vec![0, 300, -1],
            maybe: Some(String::new()),
            inner: Some(inner("")),
            many: vec![inner("x"), inner("")],
            map: [("k".to_owned(), "v".to_owned())].into(),
            inners: [("k".to_owned(), inner("v"))].into(),
            unsigned: u64::MAX,
        };
        assert_eq!(All::decode(&all.encode()), Ok(all));
        assert!(All::default().encode().is_empty());
    }

    #[test]
    fn the_encoding_is_that_of_protocol_buffers() {
        let all = All {
            text: "ab".into(),
            small: 150,
            numbers: vec![1, 300],
            ..Default::default()
        };
        let bytes = [0x0a, 2, b'a', b'b', 0x18, 0x96, 1, 0x32, 3, 1, 0xac, 2];
        assert_eq!(all.encode(), bytes);
        // Numbers that are not packed, fields that are unknown or fixed.
        let bytes = [0x30, 5, 0x30, 6, 0xa0, 6, 1, 0xad, 6, 0, 0, 0, 0];
        assert_eq!(All::decode(&bytes).map(|a| a.numbers), Ok(vec![5, 6]));
        // An entry without a value, and one field twice.
        let bytes = [0x52, 3, 0x0a, 1, b'k', 0x0a, 1, b'a', 0x0a, 1, b'b'];
        let all = All::decode(&bytes).unwrap();
        assert_eq!((all.map["k"].as_str(), all.text.as_str()), ("", "b"));
    }

    #[test]
    fn damaged_messages_are_refused() {
        for bytes in [
            &[0x0a][..],
            &[0x0a, 2, b'a'],
            &[0x0a, 1, 0xff],
            &[0x08, 1],
            &[0x10],
            &[0x03],
            &[0x00, 0],
            &[0x42, 2, 0x0a, 5],
            &[0x10, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
        ] {
            assert!(All::decode(bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(all) = All::decode(&bytes) {
                prop_assert_eq!(All::decode(&all.encode()), Ok(all));
            }
        }
    }
}
