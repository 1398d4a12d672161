//! The wire format of netlink messages: a header, a fixed part, and nested attributes.

use netlink_packet_core::{Emitable, NLA_F_NESTED, NLA_TYPE_MASK};

/// Length of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
/// A writer of netlink messages, which are stored back to back.
#[derive(Default)]
pub struct Writer {
    buf: Vec<u8>,
}

impl Writer {
    /// Returns a writer without messages.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a message; `body` writes the fixed part and the attributes.
    pub fn message(&mut self, kind: u16, flags: u16, seq: u32, body: impl FnOnce(&mut Self)) {
        let start = self.buf.len();
        self.buf.extend_from_slice(&[0; 4]);
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(&flags.to_ne_bytes());
        self.buf.extend_from_slice(&seq.to_ne_bytes());
        self.buf.extend_from_slice(&[0; 4]);
        body(self);
        let length = u32::try_from(self.buf.len() - start).expect("a netlink message below 4 GiB");
        self.buf[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Appends bytes of a message's fixed part, padded to four bytes.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
        self.pad();
    }

    /// Appends a fixed part and its attributes, padded to four bytes.
    pub fn emit(&mut self, body: &impl Emitable) {
        let start = self.buf.len();
        self.buf.resize(start + body.buffer_len(), 0);
        body.emit(&mut self.buf[start..]);
        self.pad();
    }

    /// Appends an attribute. Panics if it is 64 KiB or longer.
    pub fn attr(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).expect("a netlink attribute below 64 KiB");
        self.buf.extend_from_slice(&length.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(value);
        self.pad();
    }

    /// Appends a string attribute with its terminating zero. Panics if it is 64 KiB or longer.
    pub fn string(&mut self, kind: u16, value: &str) {
        let length = u16::try_from(5 + value.len()).expect("a netlink attribute below 64 KiB");
        self.buf.extend_from_slice(&length.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(value.as_bytes());
        self.buf.push(0);
        self.pad();
    }

    /// Appends a 32-bit number in native byte order.
    #[cfg(test)]
    fn u32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_ne_bytes());
    }

    /// Appends a 32-bit number in network byte order, as nfnetlink expects.
    pub fn be32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// Appends a 64-bit number in network byte order.
    pub fn be64(&mut self, kind: u16, value: u64) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// Appends an attribute that contains attributes. Panics if it is 64 KiB or longer.
    pub fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.buf.len();
        self.buf.extend_from_slice(&[0; 2]);
        self.buf
            .extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        body(self);
        let length =
            u16::try_from(self.buf.len() - start).expect("a netlink attribute below 64 KiB");
        self.buf[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Adds flags to the message that begins at offset `start`.
    pub fn add_flags(&mut self, start: usize, flags: u16) {
        let place = start + 6..start + 8;
        let old = u16::from_ne_bytes([self.buf[place.start], self.buf[place.start + 1]]);
        self.buf[place].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    /// Returns the length of all messages in bytes.
    pub fn len(&self) -> usize {
        self.buf.len()
    }

    /// Returns whether there is no message yet.
    pub fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// Returns the messages.
    pub fn as_bytes(&self) -> &[u8] {
        &self.buf
    }

    fn pad(&mut self) {
        while !self.buf.len().is_multiple_of(4) {
            self.buf.push(0);
        }
    }
}

/// Iterates over the attributes of a received message, in order, as pairs of type and
/// value. Ends at the first malformed one.
#[derive(Clone, Copy)]
pub struct Attributes<'a>(
    /// The attributes' bytes.
    pub &'a [u8],
);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(self.0.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?) & NLA_TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

/// Reads a number in native byte order. Returns zero if the value is too short.
pub(crate) fn ne32(value: &[u8]) -> u32 {
    value
        .get(..4)
        .and_then(|v| v.try_into().ok())
        .map_or(0, u32::from_ne_bytes)
}

/// Reads a string attribute without its terminating zero.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_are_padded_and_read_back() {
        let mut w = Writer::new();
        w.message(16, 5, 7, |w| {
            w.raw(&[1, 2, 3, 4]);
            w.string(3, "eth0");
            w.nest(18, |w| w.u32(1, 9));
        });
        let bytes = w.as_bytes();
        assert_eq!(bytes.len(), HEADER + 4 + 12 + 12);
        assert_eq!(ne32(bytes) as usize, bytes.len());
        let mut attributes = Attributes(&bytes[HEADER + 4..]);
        let (kind, value) = attributes.next().unwrap();
        assert_eq!((kind, text(value).as_str()), (3, "eth0"));
        let (kind, value) = attributes.next().unwrap();
        assert_eq!(kind, 18);
        assert_eq!(
            Attributes(value).next().map(|(k, v)| (k, ne32(v))),
            Some((1, 9))
        );
        assert!(attributes.next().is_none());
    }

    proptest! {
        #[test]
        fn attributes_are_read_as_written(
            written in prop::collection::vec((0u16..0x3fff, prop::collection::vec(any::<u8>(), 0..40)), 0..8)
        ) {
            let mut w = Writer::new();
            for (kind, value) in &written {
                w.attr(*kind, value);
            }
            let read: Vec<_> = Attributes(w.as_bytes()).map(|(k, v)| (k, v.to_vec())).collect();
            prop_assert_eq!(read, written);
        }

        #[test]
        fn reading_any_bytes_ends(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            prop_assert!(Attributes(&bytes).count() <= bytes.len() / 4);
        }
    }

    #[test]
    fn broken_attributes_end_the_iteration() {
        for bytes in [
            &[][..],
            &[0, 0, 0, 0],
            &[3, 0, 1, 0],
            &[200, 0, 1, 0, 1],
            &[8, 0, 1],
        ] {
            assert_eq!(Attributes(bytes).count(), 0);
        }
    }
}
