//! The few messages of etcd's API that the store needs, by hand: numbered
//! fields as `rpc.proto` and `kv.proto` have them.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};

use crate::{KeyValue, Revision};

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

    /// A number, left out when 0 as proto3 does.
    pub fn number(mut self, field: u32, value: u64) -> Self {
        if value != 0 {
            self.varint(u64::from(field) << 3);
            self.varint(value);
        }
        self
    }

    /// Bytes or a text, left out when empty.
    pub fn bytes(self, field: u32, value: &[u8]) -> Self {
        if value.is_empty() {
            return self;
        }
        self.message(field, value)
    }

    /// A message, which counts also when it is empty.
    pub fn message(mut self, field: u32, value: &[u8]) -> Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    /// The bytes.
    pub fn done(self) -> Vec<u8> {
        self.0
    }
}

/// A field's content.
pub enum Field {
    Number(u64),
    Bytes(Bytes),
}

/// Calls `each` with every field of a message. `None` when it is not one.
pub fn fields(mut message: Bytes, mut each: impl FnMut(u32, Field)) -> Option<()> {
    while message.has_remaining() {
        let tag = varint(&mut message)?;
        let number = u32::try_from(tag >> 3).ok()?;
        match tag & 7 {
            0 => each(number, Field::Number(varint(&mut message)?)),
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
                // Shares the response's memory; what is kept is copied out.
                each(number, Field::Bytes(message.split_to(length)));
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

/// The revision in a response's header.
fn header(bytes: Bytes) -> Option<Revision> {
    let mut revision = 0;
    fields(bytes, |number, field| {
        if let (3, Field::Number(n)) = (number, field) {
            revision = n;
        }
    })?;
    Some(revision)
}

/// A `KeyValue` whose key stands below `root`.
fn key_value(root: &str, bytes: Bytes) -> Option<KeyValue> {
    let (mut key, mut value) = (Bytes::new(), Bytes::new());
    let (mut create_revision, mut mod_revision) = (0, 0);
    fields(bytes, |number, field| match (number, field) {
        (1, Field::Bytes(b)) => key = b,
        (2, Field::Number(n)) => create_revision = n,
        (3, Field::Number(n)) => mod_revision = n,
        (5, Field::Bytes(b)) => value = b,
        _ => {}
    })?;
    let key = std::str::from_utf8(&key).ok()?.strip_prefix(root)?;
    Some(KeyValue {
        key: Arc::from(key),
        value: Bytes::copy_from_slice(&value),
        create_revision,
        mod_revision,
    })
}

/// What a `RangeRequest` asks for.
#[derive(Default)]
pub struct Range<'a> {
    pub key: &'a [u8],
    pub end: &'a [u8],
    pub limit: u64,
    pub revision: Revision,
    pub keys_only: bool,
    pub count_only: bool,
}

impl Range<'_> {
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
    pub revision: Revision,
    pub items: Vec<Arc<KeyValue>>,
    /// Entries in the range, whatever the limit.
    pub count: u64,
}

impl RangeResponse {
    pub fn decode(root: &str, bytes: Bytes) -> Option<Self> {
        let mut out = Self::default();
        let mut ok = true;
        fields(bytes, |number, field| match (number, field) {
            (1, Field::Bytes(b)) => match header(b) {
                Some(revision) => out.revision = revision,
                None => ok = false,
            },
            (2, Field::Bytes(b)) => match key_value(root, b) {
                Some(kv) => out.items.push(Arc::new(kv)),
                None => ok = false,
            },
            (4, Field::Number(n)) => out.count = n,
            _ => {}
        })?;
        ok.then_some(out)
    }
}

/// A `Compare` of a key's `mod_revision`, which is 0 for what is not there.
pub fn compare_mod(key: &[u8], revision: Revision) -> Vec<u8> {
    // EQUAL is 0; the target MOD is 2.
    let mut out = Out::default().number(2, 2).bytes(3, key);
    // One of several: it counts also when it is 0.
    out.varint(6 << 3);
    out.varint(revision);
    out.done()
}

/// A `TxnRequest`.
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

/// A range, put or deletion as a `RequestOp`.
pub fn op_range(range: &Range<'_>) -> Vec<u8> {
    Out::default().message(1, &range.encode()).done()
}

pub fn op_put(key: &[u8], value: &[u8]) -> Vec<u8> {
    let put = Out::default().bytes(1, key).bytes(2, value).done();
    Out::default().message(2, &put).done()
}

pub fn op_delete(key: &[u8]) -> Vec<u8> {
    // Field 3 asks for what was deleted.
    let delete = Out::default().bytes(1, key).number(3, 1).done();
    Out::default().message(3, &delete).done()
}

/// A `DeleteRangeRequest`.
pub fn delete_range(key: &[u8], end: &[u8]) -> Vec<u8> {
    Out::default().bytes(1, key).bytes(2, end).done()
}

/// A `TxnResponse` of at most a range and a deletion.
#[derive(Default)]
pub struct TxnResponse {
    pub revision: Revision,
    pub succeeded: bool,
    /// What a range found.
    pub found: Option<Arc<KeyValue>>,
    /// What a deletion took away.
    pub deleted: Option<Arc<KeyValue>>,
}

impl TxnResponse {
    pub fn decode(root: &str, bytes: Bytes) -> Option<Self> {
        let mut out = Self::default();
        let mut responses = Vec::new();
        let mut ok = true;
        fields(bytes, |number, field| match (number, field) {
            (1, Field::Bytes(b)) => match header(b) {
                Some(revision) => out.revision = revision,
                None => ok = false,
            },
            (2, Field::Number(n)) => out.succeeded = n != 0,
            (3, Field::Bytes(b)) => responses.push(b),
            _ => {}
        })?;
        for response in responses {
            fields(response, |number, field| match (number, field) {
                (1, Field::Bytes(b)) => match RangeResponse::decode(root, b) {
                    Some(range) => out.found = range.items.into_iter().next(),
                    None => ok = false,
                },
                (3, Field::Bytes(b)) => {
                    let inner = fields(b, |number, field| {
                        if let (3, Field::Bytes(kv)) = (number, field) {
                            match key_value(root, kv) {
                                Some(kv) => out.deleted = Some(Arc::new(kv)),
                                None => ok = false,
                            }
                        }
                    });
                    ok &= inner.is_some();
                }
                _ => {}
            })?;
        }
        ok.then_some(out)
    }
}

/// A `WatchRequest` that begins a watch.
pub fn watch_create(key: &[u8], end: &[u8], start: Revision) -> Vec<u8> {
    // 4: tell progress, 6: send the state before.
    let create = Out::default()
        .bytes(1, key)
        .bytes(2, end)
        .number(3, start)
        .number(4, 1)
        .number(6, 1)
        .done();
    Out::default().message(1, &create).done()
}

/// A `WatchRequest` for progress.
pub fn watch_progress() -> Vec<u8> {
    Out::default().message(3, &[]).done()
}

/// One event of a watch.
pub struct WatchEvent {
    pub deleted: bool,
    pub now: Arc<KeyValue>,
    pub before: Option<Arc<KeyValue>>,
}

/// A `WatchResponse`.
#[derive(Default)]
pub struct WatchResponse {
    pub revision: Revision,
    pub created: bool,
    pub canceled: bool,
    pub compacted: Revision,
    pub reason: String,
    pub events: Vec<WatchEvent>,
}

impl WatchResponse {
    pub fn decode(root: &str, bytes: Bytes) -> Option<Self> {
        let mut out = Self::default();
        let mut ok = true;
        fields(bytes, |number, field| match (number, field) {
            (1, Field::Bytes(b)) => match header(b) {
                Some(revision) => out.revision = revision,
                None => ok = false,
            },
            (3, Field::Number(n)) => out.created = n != 0,
            (4, Field::Number(n)) => out.canceled = n != 0,
            (5, Field::Number(n)) => out.compacted = n,
            (6, Field::Bytes(b)) => out.reason = String::from_utf8_lossy(&b).into_owned(),
            (11, Field::Bytes(b)) => match event(root, b) {
                Some(event) => out.events.push(event),
                None => ok = false,
            },
            _ => {}
        })?;
        ok.then_some(out)
    }
}

fn event(root: &str, bytes: Bytes) -> Option<WatchEvent> {
    let (mut deleted, mut now, mut before) = (false, None, None);
    let mut ok = true;
    fields(bytes, |number, field| match (number, field) {
        (1, Field::Number(n)) => deleted = n == 1,
        (2, Field::Bytes(b)) => now = key_value(root, b),
        (3, Field::Bytes(b)) => match key_value(root, b) {
            Some(kv) => before = Some(Arc::new(kv)),
            None => ok = false,
        },
        _ => {}
    })?;
    ok.then_some(WatchEvent {
        deleted,
        now: Arc::new(now?),
        before,
    })
}

/// The server's version in a `StatusResponse`.
pub fn version(bytes: Bytes) -> Option<String> {
    let mut version = None;
    fields(bytes, |number, field| {
        if let (2, Field::Bytes(b)) = (number, field) {
            version = String::from_utf8(b.to_vec()).ok();
        }
    })?;
    version
}

/// A `CompactionRequest`.
pub fn compact(revision: Revision) -> Vec<u8> {
    Out::default().number(1, revision).done()
}

/// A message in gRPC's frame: not compressed, its length, itself.
pub fn frame(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(message.len() + 5);
    out.extend_from_slice(&[0]);
    out.extend_from_slice(&(message.len() as u32).to_be_bytes());
    out.extend_from_slice(message);
    out.freeze()
}

/// Takes a whole frame's message off the front of what has arrived.
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
        fn no_answer_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let bytes = Bytes::from(bytes);
            let _ = RangeResponse::decode("/r", bytes.clone());
            let _ = TxnResponse::decode("/r", bytes.clone());
            let _ = WatchResponse::decode("/r", bytes.clone());
            let _ = version(bytes);
        }
    }
}
