//! Encodes and decodes the few messages of etcd's API that the store needs. Field
//! numbers are those of `rpc.proto` and `kv.proto`.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};

use crate::types::{KeyValue, Revision};

/// A message under construction.
#[derive(Default)]
pub struct Out(Vec<u8>);

impl Out {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// Appends a number, omitted when 0 as in proto3.
    pub fn number(mut self, field: u32, value: u64) -> Self {
        if value != 0 {
            self.varint(u64::from(field) << 3);
            self.varint(value);
        }
        self
    }

    /// Appends bytes or a string, omitted when empty as in proto3.
    pub fn bytes(self, field: u32, value: &[u8]) -> Self {
        if value.is_empty() {
            return self;
        }
        self.message(field, value)
    }

    /// Appends a message, which is written even when it is empty.
    pub fn message(mut self, field: u32, value: &[u8]) -> Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    /// Returns the encoded message.
    pub fn done(self) -> Vec<u8> {
        self.0
    }
}

/// A field's content.
pub enum Field {
    /// A varint.
    Number(u64),
    /// Bytes, a string or a message.
    Bytes(Bytes),
}

/// Calls `visit` with the number and the content of every field of a message.
///
/// Returns `None` when the message is malformed or `visit` returns `None`.
pub fn fields(mut message: Bytes, mut visit: impl FnMut(u32, Field) -> Option<()>) -> Option<()> {
    while message.has_remaining() {
        let tag = varint(&mut message)?;
        let number = u32::try_from(tag >> 3).ok()?;
        match tag & 7 {
            0 => visit(number, Field::Number(varint(&mut message)?))?,
            1 => {
                if message.len() < 8 {
                    return None;
                }
                message.advance(8);
            }
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                if message.len() < length {
                    return None;
                }
                // Shares the response's memory; values that are kept are copied out.
                visit(number, Field::Bytes(message.split_to(length)))?;
            }
            5 => {
                if message.len() < 4 {
                    return None;
                }
                message.advance(4);
            }
            _ => return None,
        }
    }
    Some(())
}

fn varint(message: &mut Bytes) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        if !message.has_remaining() {
            return None;
        }
        let byte = message.get_u8();
        if shift < 64 {
            value |= u64::from(byte & 0x7f) << shift;
        }
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A response to a request; all of them begin with a header as field 1.
pub trait Response: Default {
    /// Sets the revision of the header.
    fn set_revision(&mut self, revision: Revision);

    /// Takes a field other than the header. Keys are stripped of `root`.
    ///
    /// Returns `None` when the field is malformed.
    fn set_field(&mut self, root: &str, number: u32, field: Field) -> Option<()>;
}

/// Decodes a response; `None` when it is malformed or has a key outside `root`.
pub fn decode<R: Response>(root: &str, bytes: Bytes) -> Option<R> {
    let mut response = R::default();
    fields(bytes, |number, field| match (number, field) {
        (1, Field::Bytes(header)) => {
            response.set_revision(header_revision(header)?);
            Some(())
        }
        (number, field) => response.set_field(root, number, field),
    })?;
    Some(response)
}

/// Returns the revision in a response's header.
fn header_revision(bytes: Bytes) -> Option<Revision> {
    let mut revision = 0;
    fields(bytes, |number, field| {
        if let (3, Field::Number(n)) = (number, field) {
            revision = n;
        }
        Some(())
    })?;
    Some(revision)
}

/// Decodes a `KeyValue` whose key is below `root`.
fn key_value(root: &str, bytes: Bytes) -> Option<KeyValue> {
    let (mut key, mut value) = (Bytes::new(), Bytes::new());
    let (mut create_revision, mut mod_revision) = (0, 0);
    fields(bytes, |number, field| {
        match (number, field) {
            (1, Field::Bytes(b)) => key = b,
            (2, Field::Number(n)) => create_revision = n,
            (3, Field::Number(n)) => mod_revision = n,
            (5, Field::Bytes(b)) => value = b,
            _ => {}
        }
        Some(())
    })?;
    let key = std::str::from_utf8(&key).ok()?.strip_prefix(root)?;
    Some(KeyValue {
        key: Arc::from(key),
        value: Bytes::copy_from_slice(&value),
        create_revision,
        mod_revision,
    })
}

/// A `RangeRequest`.
#[derive(Default)]
pub struct Range<'a> {
    /// The first key.
    pub key: &'a [u8],
    /// The key after the last one; empty for a single key.
    pub end: &'a [u8],
    /// The largest number of entries to return; 0 is no limit.
    pub limit: u64,
    /// The revision to read at; 0 is the newest.
    pub revision: Revision,
    /// Whether to omit values.
    pub keys_only: bool,
    /// Whether to return the number of entries alone.
    pub count_only: bool,
}

impl Range<'_> {
    /// Encodes the request.
    pub fn encode(&self) -> Vec<u8> {
        Out::default()
            .bytes(1, self.key)
            .bytes(2, self.end)
            .number(3, self.limit)
            .number(4, self.revision)
            .number(8, u64::from(self.keys_only))
            .number(9, u64::from(self.count_only))
            .done()
    }
}

/// A `RangeResponse`.
#[derive(Default)]
pub struct RangeResponse {
    /// The store's revision.
    pub revision: Revision,
    /// The entries, in key order.
    pub items: Vec<Arc<KeyValue>>,
    /// The number of entries in the range, whatever the limit.
    pub count: u64,
}

impl Response for RangeResponse {
    fn set_revision(&mut self, revision: Revision) {
        self.revision = revision;
    }

    fn set_field(&mut self, root: &str, number: u32, field: Field) -> Option<()> {
        match (number, field) {
            (2, Field::Bytes(b)) => self.items.push(Arc::new(key_value(root, b)?)),
            (4, Field::Number(n)) => self.count = n,
            _ => {}
        }
        Some(())
    }
}

/// Encodes a `Compare` of a key's `mod_revision`, which is 0 for an absent key.
pub fn compare_mod(key: &[u8], revision: Revision) -> Vec<u8> {
    // EQUAL is 0; the target MOD is 2.
    let mut out = Out::default().number(2, 2).bytes(3, key);
    // A member of a oneof: it is written even when it is 0.
    out.varint(6 << 3);
    out.varint(revision);
    out.done()
}

/// Encodes a `TxnRequest`.
pub fn txn(compare: Option<&[u8]>, success: &[Vec<u8>], failure: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Out::default();
    if let Some(compare) = compare {
        out = out.message(1, compare);
    }
    for op in success {
        out = out.message(2, op);
    }
    for op in failure {
        out = out.message(3, op);
    }
    out.done()
}

/// Encodes a range as a `RequestOp`.
pub fn op_range(range: &Range<'_>) -> Vec<u8> {
    Out::default().message(1, &range.encode()).done()
}

/// Encodes a write as a `RequestOp`.
pub fn op_put(key: &[u8], value: &[u8]) -> Vec<u8> {
    let put = Out::default().bytes(1, key).bytes(2, value).done();
    Out::default().message(2, &put).done()
}

/// Encodes a deletion as a `RequestOp`.
pub fn op_delete(key: &[u8]) -> Vec<u8> {
    // Field 3 asks for the deleted entry.
    let delete = Out::default().bytes(1, key).number(3, 1).done();
    Out::default().message(3, &delete).done()
}

/// Encodes a `DeleteRangeRequest`.
pub fn delete_range(key: &[u8], end: &[u8]) -> Vec<u8> {
    Out::default().bytes(1, key).bytes(2, end).done()
}

/// A `TxnResponse` of at most one range and one deletion.
#[derive(Default)]
pub struct TxnResponse {
    /// The store's revision.
    pub revision: Revision,
    /// Whether the comparison held.
    pub succeeded: bool,
    /// The entry that the range found.
    pub found: Option<Arc<KeyValue>>,
    /// The entry that the deletion removed.
    pub deleted: Option<Arc<KeyValue>>,
}

impl Response for TxnResponse {
    fn set_revision(&mut self, revision: Revision) {
        self.revision = revision;
    }

    fn set_field(&mut self, root: &str, number: u32, field: Field) -> Option<()> {
        match (number, field) {
            (2, Field::Number(n)) => self.succeeded = n != 0,
            (3, Field::Bytes(b)) => self.set_operation(root, b)?,
            _ => {}
        }
        Some(())
    }
}

impl TxnResponse {
    /// Takes the response of one operation, a `ResponseOp`.
    fn set_operation(&mut self, root: &str, bytes: Bytes) -> Option<()> {
        fields(bytes, |number, field| {
            match (number, field) {
                (1, Field::Bytes(range)) => {
                    let range: RangeResponse = decode(root, range)?;
                    self.found = range.items.into_iter().next();
                }
                (3, Field::Bytes(deletion)) => fields(deletion, |number, field| {
                    if let (3, Field::Bytes(kv)) = (number, field) {
                        self.deleted = Some(Arc::new(key_value(root, kv)?));
                    }
                    Some(())
                })?,
                _ => {}
            }
            Some(())
        })
    }
}

/// Encodes a `WatchRequest` that creates a watch.
pub fn watch_create(key: &[u8], end: &[u8], start: Revision) -> Vec<u8> {
    // 4: progress_notify, 6: prev_kv.
    let create = Out::default()
        .bytes(1, key)
        .bytes(2, end)
        .number(3, start)
        .number(4, 1)
        .number(6, 1)
        .done();
    Out::default().message(1, &create).done()
}

/// Encodes a `WatchRequest` for the watch's progress.
pub fn watch_progress() -> Vec<u8> {
    Out::default().message(3, &[]).done()
}

/// One event of a watch.
pub struct WatchEvent {
    /// Whether the key was deleted rather than written.
    pub deleted: bool,
    /// The new entry; of a deletion only the key and the revision.
    pub now: Arc<KeyValue>,
    /// The entry before, if there was one and it is not compacted.
    pub before: Option<Arc<KeyValue>>,
}

/// A `WatchResponse`.
#[derive(Default)]
pub struct WatchResponse {
    /// The store's revision.
    pub revision: Revision,
    /// Whether this confirms the watch.
    pub created: bool,
    /// Whether etcd has ended the watch.
    pub canceled: bool,
    /// The oldest revision that can be watched from, if the start is compacted.
    pub compacted: Revision,
    /// Why the watch was canceled.
    pub reason: String,
    /// The events, in revision order.
    pub events: Vec<WatchEvent>,
}

impl Response for WatchResponse {
    fn set_revision(&mut self, revision: Revision) {
        self.revision = revision;
    }

    fn set_field(&mut self, root: &str, number: u32, field: Field) -> Option<()> {
        match (number, field) {
            (3, Field::Number(n)) => self.created = n != 0,
            (4, Field::Number(n)) => self.canceled = n != 0,
            (5, Field::Number(n)) => self.compacted = n,
            (6, Field::Bytes(b)) => self.reason = String::from_utf8_lossy(&b).into_owned(),
            (11, Field::Bytes(b)) => self.events.push(watch_event(root, b)?),
            _ => {}
        }
        Some(())
    }
}

fn watch_event(root: &str, bytes: Bytes) -> Option<WatchEvent> {
    let (mut deleted, mut now, mut before) = (false, None, None);
    fields(bytes, |number, field| {
        match (number, field) {
            (1, Field::Number(n)) => deleted = n == 1,
            (2, Field::Bytes(b)) => now = Some(Arc::new(key_value(root, b)?)),
            (3, Field::Bytes(b)) => before = Some(Arc::new(key_value(root, b)?)),
            _ => {}
        }
        Some(())
    })?;
    Some(WatchEvent {
        deleted,
        now: now?,
        before,
    })
}

/// Decodes a `StatusResponse` and returns the server's version.
pub fn server_version(bytes: Bytes) -> Option<String> {
    let mut version = None;
    fields(bytes, |number, field| {
        if let (2, Field::Bytes(b)) = (number, field) {
            version = String::from_utf8(b.to_vec()).ok();
        }
        Some(())
    })?;
    version
}

/// Encodes a `CompactionRequest`.
pub fn compact(revision: Revision) -> Vec<u8> {
    Out::default().number(1, revision).done()
}

/// Wraps a message in gRPC's frame: an uncompressed flag, the length, the message.
pub fn frame(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(message.len() + 5);
    out.extend_from_slice(&[0]);
    out.extend_from_slice(&(message.len() as u32).to_be_bytes());
    out.extend_from_slice(message);
    out.freeze()
}

/// Removes the first whole frame from `buffer` and returns its message.
pub fn unframe(buffer: &mut BytesMut) -> Option<Bytes> {
    let (head, _) = buffer.split_first_chunk::<5>()?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if buffer.len() < 5 + length {
        return None;
    }
    buffer.advance(5);
    Some(buffer.split_to(length).freeze())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_comparison_with_nothing_is_written() {
        assert_eq!(
            compare_mod(b"k", 0),
            [0x10, 2, 0x1a, 1, b'k', 0x30, 0],
            "target MOD, the key, mod_revision 0"
        );
        assert_eq!(
            compare_mod(b"k", 300),
            [0x10, 2, 0x1a, 1, b'k', 0x30, 0xac, 2]
        );
    }

    #[test]
    fn frames_come_in_pieces() {
        let mut buffer = BytesMut::new();
        let whole = [frame(b"one"), frame(b""), frame(b"three")].concat();
        let mut seen = Vec::new();
        for byte in whole {
            buffer.extend_from_slice(&[byte]);
            while let Some(message) = unframe(&mut buffer) {
                seen.push(message);
            }
        }
        assert_eq!(seen, [&b"one"[..], b"", b"three"]);
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let bytes = Bytes::from(bytes);
            let _ = decode::<RangeResponse>("/r", bytes.clone());
            let _ = decode::<TxnResponse>("/r", bytes.clone());
            let _ = decode::<WatchResponse>("/r", bytes.clone());
            let _ = server_version(bytes);
        }
    }
}
