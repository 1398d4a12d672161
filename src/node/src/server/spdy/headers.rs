//! Header blocks: names and values, in one zlib stream a direction.

use std::collections::BTreeMap;

use flate2::{Decompress, FlushDecompress, Status};

use super::dictionary::DICTIONARY;

/// Header fields by lower-case name.
pub(crate) type Headers = BTreeMap<String, String>;

/// A block may not be larger than this when unpacked.
const MAX_BLOCK: usize = 64 << 10;

/// A header block that is not one.
#[derive(Debug, thiserror::Error)]
#[error("malformed SPDY header block")]
pub(crate) struct Malformed;

/// Unpacks the peer's blocks.
///
/// The inflater at hand takes no preset dictionary. A stored block of the raw
/// stream has the same effect: it is fed first and its output thrown away, and
/// what follows may refer to it.
pub(crate) struct Unpacker {
    inflater: Decompress,
    /// Bytes of the zlib header still to be passed over.
    header: Option<Vec<u8>>,
}

impl Unpacker {
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

    /// Takes the next block of the stream.
    pub(crate) fn block(&mut self, packed: &[u8]) -> Result<Headers, Malformed> {
        let mut packed = packed;
        if let Some(seen) = &mut self.header {
            // CMF, FLG, and the dictionary's checksum when FLG says so.
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
            if plain.len() > MAX_BLOCK {
                return Err(Malformed);
            }
            if status == Status::StreamEnd || (used == 0 && chunk.is_empty()) {
                break;
            }
        }
        // What did not fit the last time.
        loop {
            chunk.clear();
            let done = self
                .inflater
                .decompress_vec(&[], &mut chunk, FlushDecompress::Sync);
            plain.extend_from_slice(&chunk);
            if plain.len() > MAX_BLOCK {
                return Err(Malformed);
            }
            if done.is_err() || chunk.is_empty() {
                break;
            }
        }
        parse(&plain)
    }
}

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

/// Packs our blocks. They are few and empty: stored blocks need no compressor,
/// and a reader that knows the dictionary need not find it used.
#[derive(Default)]
pub(crate) struct Packer {
    begun: bool,
}

impl Packer {
    pub(crate) fn block(&mut self, headers: &Headers) -> Vec<u8> {
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
            // Deflate, 32 KiB window, no dictionary; the pair is a multiple of 31.
            packed.extend_from_slice(&[0x78, 0x01]);
        }
        for part in plain.chunks(usize::from(u16::MAX)) {
            let length = u16::try_from(part.len()).unwrap_or(u16::MAX);
            packed.push(0);
            packed.extend_from_slice(&length.to_le_bytes());
            packed.extend_from_slice(&(!length).to_le_bytes());
            packed.extend_from_slice(part);
        }
        // An empty stored block ends a flush: some readers hand out nothing before it.
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
    fn blocks_go_there_and_back() {
        let (mut packer, mut unpacker) = (Packer::default(), Unpacker::new().unwrap());
        for h in [
            headers(&[]),
            headers(&[("streamtype", "data"), ("port", "8080")]),
            headers(&[("x", &"y".repeat(9000))]),
        ] {
            assert_eq!(unpacker.block(&packer.block(&h)).unwrap(), h);
        }
    }

    #[test]
    fn the_dictionary_is_understood() {
        // Two blocks of one stream as Python's zlib makes them with the dictionary
        // (level 9, sync flush): {"port": "80", "streamtype": "error"} and
        // {"port": "80", "streamtype": "data"}.
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
        let mut unpacker = Unpacker::new().unwrap();
        assert_eq!(
            unpacker.block(blocks[0]).unwrap(),
            headers(&[("port", "80"), ("streamtype", "error")])
        );
        assert_eq!(
            unpacker.block(blocks[1]).unwrap(),
            headers(&[("port", "80"), ("streamtype", "data")])
        );
    }

    proptest! {
        #[test]
        fn hostile_blocks_end_in_errors(blocks in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..200), 1..4)) {
            let mut unpacker = Unpacker::new().unwrap();
            for block in blocks {
                if unpacker.block(&block).is_err() {
                    break;
                }
            }
        }
    }
}
