//! Header blocks: names and values, compressed as one zlib stream per direction.

use std::collections::BTreeMap;

use flate2::{Decompress, FlushDecompress, Status};

use super::dictionary::DICTIONARY;

/// Header fields by name in lower case.
pub type Headers = BTreeMap<String, String>;

/// Maximum size of a decompressed header block, in bytes.
const MAX_BLOCK_BYTES: usize = 64 << 10;

/// Error returned for an invalid header block.
#[derive(Debug, thiserror::Error)]
#[error("malformed SPDY header block")]
pub(crate) struct Malformed;

/// Decodes the peer's header blocks.
///
/// The inflater does not support preset dictionaries, so the dictionary is fed to it first, as a
/// stored block whose output is discarded. Later blocks can then refer to it.
pub(crate) struct HeaderDecoder {
    inflater: Decompress,
    /// Bytes of the zlib header received so far; `None` once it is complete.
    header: Option<Vec<u8>>,
}

impl HeaderDecoder {
    /// Returns a decoder for a new connection.
    pub(crate) fn new() -> Result<Self, Malformed> {
        let mut inflater = Decompress::new(false);
        let dictionary = &*DICTIONARY;
        let length = u16::try_from(dictionary.len()).map_err(|_| Malformed)?;
        let mut primer = vec![0];
        primer.extend_from_slice(&length.to_le_bytes());
        primer.extend_from_slice(&(!length).to_le_bytes());
        primer.extend_from_slice(dictionary);
        let mut sink = Vec::with_capacity(dictionary.len() + 64);
        inflater
            .decompress_vec(&primer, &mut sink, FlushDecompress::Sync)
            .map_err(|_| Malformed)?;
        if sink.len() != dictionary.len() {
            return Err(Malformed);
        }
        Ok(Self {
            inflater,
            header: Some(Vec::new()),
        })
    }

    /// Decodes the next header block of the connection.
    ///
    /// After an error the decoder must not be used again.
    pub(crate) fn decode(&mut self, packed: &[u8]) -> Result<Headers, Malformed> {
        let mut packed = packed;
        if let Some(seen) = &mut self.header {
            // CMF, FLG and, if FLG announces a dictionary, its checksum (RFC 1950).
            while let Some((first, rest)) = packed.split_first() {
                let wanted = match seen.get(1) {
                    Some(flags) if flags & 0x20 != 0 => 6,
                    _ => 2,
                };
                if seen.len() == wanted {
                    break;
                }
                seen.push(*first);
                packed = rest;
            }
            if seen.len() < 2 {
                return Err(Malformed);
            }
            self.header = None;
        }
        let mut plain = Vec::new();
        let mut chunk = Vec::with_capacity(4096);
        while !packed.is_empty() {
            let before = self.inflater.total_in();
            chunk.clear();
            let status = self
                .inflater
                .decompress_vec(packed, &mut chunk, FlushDecompress::Sync)
                .map_err(|_| Malformed)?;
            let used = usize::try_from(self.inflater.total_in() - before).map_err(|_| Malformed)?;
            packed = &packed[used..];
            plain.extend_from_slice(&chunk);
            if plain.len() > MAX_BLOCK_BYTES {
                return Err(Malformed);
            }
            if status == Status::StreamEnd || (used == 0 && chunk.is_empty()) {
                break;
            }
        }
        // Drain output that did not fit into the last chunk.
        loop {
            chunk.clear();
            let done = self
                .inflater
                .decompress_vec(&[], &mut chunk, FlushDecompress::Sync);
            plain.extend_from_slice(&chunk);
            if plain.len() > MAX_BLOCK_BYTES {
                return Err(Malformed);
            }
            if done.is_err() || chunk.is_empty() {
                break;
            }
        }
        parse(&plain)
    }
}

/// Parses a decompressed header block (SPDY/3.1 specification, section 2.6.10).
fn parse(mut plain: &[u8]) -> Result<Headers, Malformed> {
    let number = |plain: &mut &[u8]| -> Result<usize, Malformed> {
        let (head, rest) = plain.split_first_chunk::<4>().ok_or(Malformed)?;
        *plain = rest;
        usize::try_from(u32::from_be_bytes(*head)).map_err(|_| Malformed)
    };
    let count = number(&mut plain)?;
    let text = |plain: &mut &[u8]| -> Result<String, Malformed> {
        let length = number(plain)?;
        if length > plain.len() {
            return Err(Malformed);
        }
        let (head, rest) = plain.split_at(length);
        *plain = rest;
        String::from_utf8(head.to_vec()).map_err(|_| Malformed)
    };
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = text(&mut plain)?.to_lowercase();
        let value = text(&mut plain)?;
        headers.insert(name, value);
    }
    Ok(headers)
}

/// Encodes the server's header blocks.
///
/// They are few and empty, so they are stored without compression.
#[derive(Default)]
pub(crate) struct HeaderEncoder {
    begun: bool,
}

impl HeaderEncoder {
    /// Encodes the next header block of the connection.
    pub(crate) fn encode(&mut self, headers: &Headers) -> Vec<u8> {
        let mut plain = Vec::new();
        let number = |plain: &mut Vec<u8>, n: usize| {
            plain.extend_from_slice(&u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes());
        };
        number(&mut plain, headers.len());
        for (name, value) in headers {
            for text in [name, value] {
                number(&mut plain, text.len());
                plain.extend_from_slice(text.as_bytes());
            }
        }
        let mut packed = Vec::with_capacity(plain.len() + 12);
        if !self.begun {
            self.begun = true;
            // zlib header: deflate, 32 KiB window, no dictionary; the pair is a multiple of 31 (RFC
            // 1950).
            packed.extend_from_slice(&[0x78, 0x01]);
        }
        for part in plain.chunks(usize::from(u16::MAX)) {
            let length = u16::try_from(part.len()).unwrap_or(u16::MAX);
            packed.push(0);
            packed.extend_from_slice(&length.to_le_bytes());
            packed.extend_from_slice(&(!length).to_le_bytes());
            packed.extend_from_slice(part);
        }
        // A flush ends with an empty stored block. Some decoders return nothing before it.
        packed.extend_from_slice(&[0, 0, 0, 0xff, 0xff]);
        packed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(list: &[(&str, &str)]) -> Headers {
        list.iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn blocks_round_trip() {
        let mut encoder = HeaderEncoder::default();
        let mut decoder = HeaderDecoder::new().unwrap();
        for h in [
            headers(&[]),
            headers(&[("streamtype", "data"), ("port", "8080")]),
            headers(&[("x", &"y".repeat(9000))]),
        ] {
            assert_eq!(decoder.decode(&encoder.encode(&h)).unwrap(), h);
        }
    }

    #[test]
    fn names_become_lower_case() {
        let block = HeaderEncoder::default().encode(&headers(&[("StreamType", "Error")]));
        assert_eq!(
            HeaderDecoder::new().unwrap().decode(&block).unwrap(),
            headers(&[("streamtype", "Error")])
        );
    }

    #[test]
    fn invalid_blocks_end_in_errors() {
        let stored = |plain: &[u8]| {
            let length = u16::try_from(plain.len()).unwrap();
            let mut block = vec![0x78, 0x01, 0];
            block.extend_from_slice(&length.to_le_bytes());
            block.extend_from_slice(&(!length).to_le_bytes());
            block.extend_from_slice(plain);
            block
        };
        let large =
            HeaderEncoder::default().encode(&headers(&[("x", &"y".repeat(MAX_BLOCK_BYTES))]));
        for (block, reason) in [
            (vec![], "no zlib header"),
            (vec![0x78], "half a zlib header"),
            (vec![0x78, 0x01, 0xff], "an unknown kind of deflate block"),
            (stored(&[]), "no count"),
            (stored(&[0, 0, 0, 1]), "a header that is missing"),
            (
                stored(&[0, 0, 0, 1, 0, 0, 0, 9, b'a']),
                "a name beyond the end",
            ),
            (
                stored(&[0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0, 0, 0, 0]),
                "a name that is not UTF-8",
            ),
            (stored(&[0xff; 8]), "more headers than bytes"),
            (large, "a block that is too large"),
        ] {
            let mut decoder = HeaderDecoder::new().unwrap();
            assert!(decoder.decode(&block).is_err(), "{reason}");
        }
    }

    #[test]
    fn blocks_may_refer_to_the_dictionary() {
        // Two header blocks of one stream, compressed by Python's zlib with the dictionary (level
        // 9, sync flush): {"port": "80", "streamtype": "error"} and {"port": "80", "streamtype":
        // "data"}.
        let blocks = [
            &[
                0x78, 0xf9, 0xe3, 0xc6, 0xa7, 0xc2, 0x02, 0xe5, 0x0e, 0x48, 0xf9, 0x5b, 0x04, 0x4a,
                0xab, 0x4c, 0x16, 0x06, 0xe0, 0x54, 0x57, 0x52, 0x94, 0x9a, 0x98, 0x0b, 0x2d, 0x58,
                0x58, 0x53, 0x41, 0xc1, 0x0e, 0x00, 0x00, 0x00, 0xff, 0xff,
            ][..],
            &[
                0x22, 0x42, 0x21, 0xa8, 0x04, 0x4a, 0x04, 0x00, 0x00, 0x00, 0xff, 0xff,
            ][..],
        ];
        let mut decoder = HeaderDecoder::new().unwrap();
        assert_eq!(
            decoder.decode(blocks[0]).unwrap(),
            headers(&[("port", "80"), ("streamtype", "error")])
        );
        assert_eq!(
            decoder.decode(blocks[1]).unwrap(),
            headers(&[("port", "80"), ("streamtype", "data")])
        );
    }

    proptest! {
        #[test]
        fn any_headers_round_trip(list in proptest::collection::vec(
            proptest::collection::btree_map("[a-z-]{0,10}", ".{0,40}", 0..5), 1..4)) {
            let mut encoder = HeaderEncoder::default();
            let mut decoder = HeaderDecoder::new().unwrap();
            for headers in list {
                prop_assert_eq!(decoder.decode(&encoder.encode(&headers)).unwrap(), headers);
            }
        }

        #[test]
        fn hostile_blocks_never_panic(blocks in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..200), 1..4)) {
            let mut decoder = HeaderDecoder::new().unwrap();
            for block in blocks {
                if decoder.decode(&block).is_err() {
                    break;
                }
            }
        }
    }
}
