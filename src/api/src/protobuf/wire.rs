//! The protobuf wire format: numbered fields of four types.

/// The first bytes of every body.
pub const MAGIC: &[u8] = b"k8s\0";

/// The deepest nesting of messages.
pub const MAX_DEPTH: usize = 100;

/// A field's content.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Field<'a> {
    /// A varint.
    Varint(u64),
    /// Eight bytes.
    Fixed64(u64),
    /// Four bytes.
    Fixed32(u32),
    /// A string, bytes, a message, or packed numbers.
    Bytes(&'a [u8]),
}

/// A reader of a message's fields, in order.
pub struct Reader<'a> {
    rest: &'a [u8],
}

const TRUNCATED: &str = "it ends too early";

impl<'a> Reader<'a> {
    /// Creates a reader of an encoded message.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Reads a varint; `None` at the end.
    pub fn varint_if_any(&mut self) -> Result<Option<u64>, &'static str> {
        if self.rest.is_empty() {
            Ok(None)
        } else {
            self.varint().map(Some)
        }
    }

    fn varint(&mut self) -> Result<u64, &'static str> {
        let mut value = 0u64;
        for i in 0..10 {
            let (byte, rest) = self.rest.split_first().ok_or(TRUNCATED)?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number is too long")
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Reads the next field's number and content; `None` at the end.
    pub fn next(&mut self) -> Result<Option<(u32, Field<'a>)>, &'static str> {
        let Some(tag) = self.varint_if_any()? else {
            return Ok(None);
        };
        let number = u32::try_from(tag >> 3).map_err(|_| "a field's number is too large")?;
        let field = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(u64::from_le_bytes(
                self.take(8)?.try_into().map_err(|_| TRUNCATED)?,
            )),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| TRUNCATED)?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(
                self.take(4)?.try_into().map_err(|_| TRUNCATED)?,
            )),
            _ => return Err("a field has an unknown wire type"),
        };
        Ok(Some((number, field)))
    }
}

/// Encodes a varint: the bytes, and how many of them are used.
pub fn varint(mut value: u64) -> ([u8; 10], usize) {
    let mut bytes = [0; 10];
    let mut length = 0;
    while value >= 0x80 {
        bytes[length] = value as u8 | 0x80;
        value >>= 7;
        length += 1;
    }
    bytes[length] = value as u8;
    (bytes, length + 1)
}

fn push_varint(out: &mut Vec<u8>, value: u64) {
    let (bytes, length) = varint(value);
    out.extend_from_slice(&bytes[..length]);
}

/// Appends a field with a varint.
pub fn put_varint(out: &mut Vec<u8>, number: u32, value: u64) {
    push_varint(out, u64::from(number) << 3);
    push_varint(out, value);
}

/// Appends a field of eight bytes.
pub fn put_fixed64(out: &mut Vec<u8>, number: u32, bits: u64) {
    push_varint(out, u64::from(number) << 3 | 1);
    out.extend_from_slice(&bits.to_le_bytes());
}

/// Appends the tag and length of a field of `length` bytes.
pub fn put_head(out: &mut Vec<u8>, number: u32, length: usize) {
    push_varint(out, u64::from(number) << 3 | 2);
    push_varint(out, length as u64);
}

/// Appends a field with a string, bytes or a message.
pub fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_head(out, number, bytes.len());
    out.extend_from_slice(bytes);
}
