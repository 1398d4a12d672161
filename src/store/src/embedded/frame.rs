//! The format of the files on disk: segments of CRC-framed records.
//!
//! A segment is a header and a sequence of frames. A frame holds one group commit. It
//! counts only if it is whole on disk, so that a batch is never seen in part. Integers
//! are little-endian. A log ends at the end of its file or in zeros: the file is
//! preallocated, because a sync within the file's size takes one write of the disk.
//! A sync of a growing file also writes the file system's journal, which takes several
//! times as long.
//!
//! ```text
//! segment  magic[8] kind[4] base:u64 salt:u32 crc32(of the 24 bytes before):u32
//! frame    magic[4] length:u32 crc32(length, payload):u32 crc32(of the 12 bytes before):u32
//!          payload[length]
//! record   kind:u8 revision:u64 create_revision:u64 key_len:u32 value_len:u32 key value
//! ```
//!
//! The checksums of frames begin at the salt. Blocks of a removed segment, which a file
//! system may show after a power cut, are thus never taken for frames of this one. A
//! header has a separate checksum: with a length that can be trusted, damage differs
//! from a write of which only a part reached the disk.
//!
//! In the first format, which is still read, segments had no salt and headers of frames
//! no checksum. The segment's header stays as it is in later formats, so that a program
//! recognises what is newer than itself.

use crate::types::{Change, KeyValue, Revision};

/// The magic bytes without the number of the format.
const SEGMENT_MAGIC: [u8; 7] = *b"rkstore";
/// The number of the newest format.
pub(super) const FORMAT: u8 = 2;
/// Bytes that UTF-8 text cannot contain, so that a JSON value is never taken for a
/// frame when a damaged log is searched.
pub(super) const FRAME_MAGIC: [u8; 4] = [0xff, 0xfe, 0xf6, 0xf7];
/// The length of the longest segment header.
pub(super) const SEGMENT_HEADER: usize = 28;
/// The length of a frame's header.
pub(super) const FRAME_HEADER: usize = 16;
const RECORD_HEADER: usize = 25;
/// The longest frame, far above that of a commit; a larger length is damage.
const MAX_FRAME_BYTES: usize = 1 << 30;
/// The largest revision: etcd's, whose numbers have signs. A larger one is damage.
const MAX_REVISION: Revision = i64::MAX as Revision;

/// The kind of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SegmentKind {
    /// Changes after the base revision.
    Log,
    /// All entries at the base revision.
    Snapshot,
}

impl SegmentKind {
    fn tag(self) -> [u8; 4] {
        match self {
            SegmentKind::Log => *b"log\0",
            SegmentKind::Snapshot => *b"snap",
        }
    }

    fn file_prefix(self) -> &'static str {
        match self {
            SegmentKind::Log => "log-",
            SegmentKind::Snapshot => "snapshot-",
        }
    }

    /// Returns the name of a segment's file. Names sort by revision.
    pub(super) fn name(self, base: Revision) -> String {
        format!("{}{base:020}", self.file_prefix())
    }

    /// Parses the base revision in a file name of this kind.
    pub(super) fn parse_name(self, name: &str) -> Option<Revision> {
        let digits = name.strip_prefix(self.file_prefix())?;
        if digits.len() != 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        digits.parse().ok().filter(|base| *base <= MAX_REVISION)
    }
}

/// The format of one segment's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// That of the first stores.
    V1,
    /// The present one.
    V2 {
        /// Initial value of the checksums of the segment's frames.
        salt: u32,
    },
}

/// The kinds of a segment's first bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// The segment's header.
    Valid(Format),
    /// The header of a format that this program does not know.
    Newer(u8),
    /// Anything else.
    Invalid,
}

impl Format {
    /// Returns the length of the segment's header.
    pub(super) fn segment_header(self) -> usize {
        match self {
            Format::V1 => 24,
            Format::V2 { .. } => SEGMENT_HEADER,
        }
    }

    /// Returns the length of a frame's header.
    pub(super) fn frame_header(self) -> usize {
        match self {
            Format::V1 => 12,
            Format::V2 { .. } => FRAME_HEADER,
        }
    }

    /// Returns the formats that a segment with a damaged header may have.
    pub(super) fn guesses(segment: &[u8]) -> Vec<Format> {
        let mut formats = vec![Format::V1];
        if segment.len() >= SEGMENT_HEADER {
            let salt = word(segment, 20);
            formats.push(Format::V2 { salt });
            formats.extend((0..32).map(|bit| Format::V2 {
                salt: salt ^ (1 << bit),
            }));
        }
        formats
    }

    fn hasher(self) -> crc32fast::Hasher {
        match self {
            Format::V1 => crc32fast::Hasher::new(),
            Format::V2 { salt } => crc32fast::Hasher::new_with_initial(salt),
        }
    }

    fn crc(self, parts: &[&[u8]]) -> u32 {
        let mut crc = self.hasher();
        for part in parts {
            crc.update(part);
        }
        crc.finalize()
    }

    /// Parses a frame's header. Returns the length and the checksum of the payload;
    /// `None` if it is none.
    pub(super) fn parse_frame(self, header: &[u8]) -> Option<(usize, u32)> {
        let header = header.get(..self.frame_header())?;
        let length = word(header, 4) as usize;
        let intact = match self {
            Format::V1 => true,
            Format::V2 { .. } => word(header, 12) == self.crc(&[&header[..12]]),
        };
        (header[..4] == FRAME_MAGIC && intact && length <= MAX_FRAME_BYTES)
            .then(|| (length, word(header, 8)))
    }

    /// Returns the checksum of a payload.
    pub(super) fn payload_crc(self, payload: &[u8]) -> u32 {
        self.crc(&[&(payload.len() as u32).to_le_bytes(), payload])
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Returns the header of a segment in the newest format.
pub(super) fn segment_header(kind: SegmentKind, base: Revision, salt: u32) -> Vec<u8> {
    let mut header = Vec::with_capacity(SEGMENT_HEADER);
    header.extend_from_slice(&SEGMENT_MAGIC);
    header.push(FORMAT);
    header.extend_from_slice(&kind.tag());
    header.extend_from_slice(&base.to_le_bytes());
    header.extend_from_slice(&salt.to_le_bytes());
    let crc = crc32fast::hash(&header);
    header.extend_from_slice(&crc.to_le_bytes());
    header
}

/// Parses the first bytes of a segment of this kind and base.
pub(super) fn parse_segment_header(bytes: &[u8], kind: SegmentKind, base: Revision) -> Header {
    let Some((magic, [format, ..])) = bytes.split_first_chunk::<7>() else {
        return Header::Invalid;
    };
    let length = match format {
        1 => Format::V1.segment_header(),
        _ => SEGMENT_HEADER,
    };
    let Some((content, crc)) = bytes
        .get(..length)
        .map(|header| header.split_at(length - 4))
    else {
        return Header::Invalid;
    };
    let intact = *magic == SEGMENT_MAGIC
        && word(crc, 0) == crc32fast::hash(content)
        && content[8..12] == kind.tag()
        && content[12..20] == base.to_le_bytes();
    match format {
        1 if intact => Header::Valid(Format::V1),
        2 if intact => Header::Valid(Format::V2 {
            salt: word(content, 20),
        }),
        3.. if intact => Header::Newer(*format),
        _ => Header::Invalid,
    }
}

/// A record of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    Put {
        revision: Revision,
        create_revision: Revision,
        key: &'a str,
        value: &'a [u8],
    },
    Delete {
        revision: Revision,
        key: &'a str,
    },
    /// The last record of a snapshot, with the number of entries before it.
    End {
        count: u64,
    },
}

const PUT: u8 = 1;
const DELETE: u8 = 2;
const END: u8 = 3;

fn put_record(
    out: &mut Vec<u8>,
    kind: u8,
    revision: u64,
    create_revision: u64,
    key: &str,
    value: &[u8],
) {
    out.push(kind);
    out.extend_from_slice(&revision.to_le_bytes());
    out.extend_from_slice(&create_revision.to_le_bytes());
    out.extend_from_slice(&(key.len() as u32).to_le_bytes());
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(value);
}

/// A frame under construction; the buffer is reused from commit to commit.
#[derive(Default)]
pub(super) struct FrameBuilder {
    buffer: Vec<u8>,
}

impl FrameBuilder {
    /// The capacity in bytes above which a buffer is freed after a commit.
    const MAX_KEPT_BYTES: usize = 256 * 1024;

    fn start(&mut self) {
        self.buffer.clear();
        self.buffer.resize(FRAME_HEADER, 0);
    }

    pub(super) fn begin() -> FrameBuilder {
        let mut frame = FrameBuilder::default();
        frame.start();
        frame
    }

    pub(super) fn change(&mut self, change: &Change) {
        match change {
            Change::Put { now, .. } => self.entry(now),
            Change::Delete { before, revision } => {
                put_record(&mut self.buffer, DELETE, *revision, 0, &before.key, &[]);
            }
        }
    }

    pub(super) fn entry(&mut self, entry: &KeyValue) {
        put_record(
            &mut self.buffer,
            PUT,
            entry.mod_revision,
            entry.create_revision,
            &entry.key,
            &entry.value,
        );
    }

    pub(super) fn end(&mut self, count: u64) {
        put_record(&mut self.buffer, END, count, 0, "", &[]);
    }

    /// Returns the frame's current length in bytes.
    pub(super) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Completes the frame for a segment with this salt, and returns it.
    pub(super) fn finish(&mut self, salt: u32) -> &[u8] {
        let format = Format::V2 { salt };
        let (header, payload) = self.buffer.split_at_mut(FRAME_HEADER);
        header[0..4].copy_from_slice(&FRAME_MAGIC);
        header[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        header[8..12].copy_from_slice(&format.payload_crc(payload).to_le_bytes());
        let crc = format.crc(&[&header[..12]]);
        header[12..16].copy_from_slice(&crc.to_le_bytes());
        &self.buffer
    }

    /// Starts the next frame.
    pub(super) fn reset(&mut self) {
        if self.buffer.capacity() > Self::MAX_KEPT_BYTES {
            self.buffer = Vec::new();
        }
        self.start();
    }
}

/// An iterator over the records of one frame; `Err` for bytes that are no record.
pub(super) struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// Returns the records in a frame's payload.
    pub(super) fn of(payload: &'a [u8]) -> Records<'a> {
        Records { rest: payload }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let parsed = parse_record(self.rest);
        self.rest = match &parsed {
            Ok((_, rest)) => rest,
            Err(_) => &[],
        };
        Some(parsed.map(|(record, _)| record))
    }
}

fn parse_record(bytes: &[u8]) -> Result<(Record<'_>, &[u8]), &'static str> {
    let (header, rest) = bytes
        .split_at_checked(RECORD_HEADER)
        .ok_or("a record's header is cut off")?;
    let long = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let short = |at: usize| word(header, at) as usize;
    let (key, rest) = rest
        .split_at_checked(short(17))
        .ok_or("a record's key is cut off")?;
    let (value, rest) = rest
        .split_at_checked(short(21))
        .ok_or("a record's value is cut off")?;
    let key = std::str::from_utf8(key).map_err(|_| "a record's key is not UTF-8")?;
    if header[0] != END && (long(1) > MAX_REVISION || long(9) > MAX_REVISION) {
        return Err("a record's revision is beyond all bounds");
    }
    let record = match header[0] {
        PUT => Record::Put {
            revision: long(1),
            create_revision: long(9),
            key,
            value,
        },
        DELETE => Record::Delete {
            revision: long(1),
            key,
        },
        END => Record::End { count: long(1) },
        _ => return Err("a record is of an unknown kind"),
    };
    Ok((record, rest))
}
