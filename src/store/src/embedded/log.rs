//! The files on disk: segments of CRC-framed records.
//!
//! A segment is a header and a sequence of frames. A frame holds one group commit. It
//! counts only if it is whole on disk, so that a batch is never seen in part. Integers
//! are little-endian. A log ends at the end of its file or in zeros: the file is
//! preallocated, because a sync within the file's size takes one write of the disk.
//! A sync of a growing file also writes the file system's journal, which takes several
//! times as long.
//!
//! ```text
//! segment  magic[8] kind[4] base:u64 crc32(of the 20 bytes before):u32
//! frame    magic[4] length:u32 crc32(length, payload):u32 payload[length]
//! record   kind:u8 revision:u64 create_revision:u64 key_len:u32 value_len:u32 key value
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::types::{Change, KeyValue, Revision, StoreError};

const SEGMENT_MAGIC: [u8; 8] = *b"rkstore\x01";
/// Bytes that UTF-8 text cannot contain, so that a JSON value is never taken for a
/// frame when a damaged log is searched.
const FRAME_MAGIC: [u8; 4] = [0xff, 0xfe, 0xf6, 0xf7];
pub(super) const SEGMENT_HEADER: usize = 24;
const FRAME_HEADER: usize = 12;
const RECORD_HEADER: usize = 25;
/// The number of zero bytes that are preallocated at a time.
const PREALLOCATE_BYTES: u64 = 1 << 20;
/// The longest frame, far above that of a commit; a larger length is damage.
const MAX_FRAME_BYTES: usize = 1 << 30;

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

    /// Returns the path of a segment. Names sort by revision.
    pub(super) fn path(self, dir: &Path, base: Revision) -> PathBuf {
        dir.join(format!("{}{base:020}", self.file_prefix()))
    }

    /// Parses the base revision in a file name of this kind.
    pub(super) fn parse_name(self, name: &str) -> Option<Revision> {
        let digits = name.strip_prefix(self.file_prefix())?;
        (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()))
            .then(|| digits.parse().ok())?
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

    /// Completes the frame and returns it.
    pub(super) fn finish(&mut self) -> &[u8] {
        let length = ((self.buffer.len() - FRAME_HEADER) as u32).to_le_bytes();
        let mut crc = crc32fast::Hasher::new();
        crc.update(&length);
        crc.update(&self.buffer[FRAME_HEADER..]);
        self.buffer[0..4].copy_from_slice(&FRAME_MAGIC);
        self.buffer[4..8].copy_from_slice(&length);
        self.buffer[8..12].copy_from_slice(&crc.finalize().to_le_bytes());
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

fn segment_header(kind: SegmentKind, base: Revision) -> [u8; SEGMENT_HEADER] {
    let mut header = [0; SEGMENT_HEADER];
    header[0..8].copy_from_slice(&SEGMENT_MAGIC);
    header[8..12].copy_from_slice(&kind.tag());
    header[12..20].copy_from_slice(&base.to_le_bytes());
    let crc = crc32fast::hash(&header[..20]);
    header[20..24].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Makes the file names in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

/// The log segment that is written to.
pub(super) struct LogWriter {
    file: File,
    /// Where the next frame goes.
    length: u64,
    /// The offset up to which the file is preallocated.
    preallocated: u64,
}

impl LogWriter {
    /// Starts the log of changes after `base`; durable when this returns.
    pub(super) fn create(dir: &Path, base: Revision) -> io::Result<LogWriter> {
        let file = create(&SegmentKind::Log.path(dir, base))?;
        file.write_all_at(&segment_header(SegmentKind::Log, base), 0)?;
        let length = SEGMENT_HEADER as u64;
        file.sync_all()?;
        sync_dir(dir)?;
        let mut log = LogWriter {
            file,
            length,
            preallocated: length,
        };
        // Not earlier: an unfinished file is recognised by its size.
        log.preallocate(length);
        Ok(log)
    }

    /// Continues a log after its first `length` bytes. Anything after them is zeros, or
    /// the rest of a commit that was never acknowledged, and is cut off.
    pub(super) fn resume(path: &Path, length: u64) -> io::Result<LogWriter> {
        let file = OpenOptions::new().write(true).open(path)?;
        if file.metadata()?.len() != length {
            file.set_len(length)?;
            file.sync_all()?;
        }
        Ok(LogWriter {
            file,
            length,
            preallocated: length,
        })
    }

    /// Appends a frame and makes it durable.
    pub(super) fn append(&mut self, frame: &[u8]) -> io::Result<()> {
        let end = self.length + frame.len() as u64;
        if end > self.preallocated {
            self.preallocate(end);
        }
        let written = self
            .file
            .write_all_at(frame, self.length)
            .and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => {
                self.length = end;
                self.preallocated = self.preallocated.max(end);
                Ok(())
            }
            Err(e) => {
                // These changes were not acknowledged. None of them must come back
                // after a restart.
                match self.file.set_len(self.length) {
                    Ok(()) => self.preallocated = self.length,
                    Err(undo) => {
                        tracing::warn!(error = %undo, "cannot undo a failed write to the log");
                    }
                }
                Err(e)
            }
        }
    }

    /// Extends the preallocated zeros to [`PREALLOCATE_BYTES`] after `end`. The next
    /// sync makes them durable.
    ///
    /// A failure is not an error: a disk too full for it may have space for a frame.
    fn preallocate(&mut self, end: u64) {
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        let until = end + PREALLOCATE_BYTES;
        let mut at = self.preallocated;
        while at < until {
            let part = &ZEROS[..(until - at).min(ZEROS.len() as u64) as usize];
            if let Err(error) = self.file.write_all_at(part, at) {
                tracing::debug!(%error, "cannot preallocate space in the log");
                if let Err(error) = self.file.set_len(self.preallocated) {
                    tracing::warn!(%error, "cannot free preallocated space in the log");
                }
                return;
            }
            at += part.len() as u64;
        }
        self.preallocated = until;
    }

    /// Returns the length of the log in bytes, without preallocated zeros.
    pub(super) fn len(&self) -> u64 {
        self.length
    }
}

/// Writes the snapshot of `entries` at revision `base`; durable when this returns.
pub(super) fn write_snapshot<E: AsRef<KeyValue>>(
    dir: &Path,
    base: Revision,
    entries: &[E],
) -> io::Result<()> {
    const FRAME_TARGET: usize = 64 * 1024;
    let path = SegmentKind::Snapshot.path(dir, base);
    let temporary = path.with_extension("tmp");
    let mut file = create(&temporary)?;
    file.write_all(&segment_header(SegmentKind::Snapshot, base))?;
    let mut frame = FrameBuilder::begin();
    for entry in entries {
        frame.entry(entry.as_ref());
        if frame.len() >= FRAME_TARGET {
            file.write_all(frame.finish())?;
            frame.reset();
        }
    }
    frame.end(entries.len() as u64);
    file.write_all(frame.finish())?;
    file.sync_all()?;
    std::fs::rename(&temporary, &path)?;
    sync_dir(dir)
}

/// Reads a segment frame by frame.
pub(super) struct SegmentReader {
    path: PathBuf,
    file: BufReader<File>,
    size: u64,
    /// The offset of the next frame.
    offset: u64,
    payload: Vec<u8>,
}

/// The result of reading the next frame of a segment.
pub(super) enum Next {
    /// A whole frame; its records are in [`SegmentReader::records`].
    Frame,
    /// The end of the segment.
    End,
    /// Bytes that are not a whole frame, and why.
    Broken(String),
}

/// The result of opening a segment.
pub(super) enum Opened {
    /// The header is valid.
    Reader(SegmentReader),
    /// The file is no longer than a header, and the header is incomplete: the machine
    /// stopped while the file was created.
    Unfinished,
}

impl SegmentReader {
    pub(super) fn open(
        path: &Path,
        kind: SegmentKind,
        base: Revision,
    ) -> Result<Opened, StoreError> {
        let file = File::open(path).map_err(|e| disk(path, &e))?;
        let size = file.metadata().map_err(|e| disk(path, &e))?.len();
        let mut file = BufReader::with_capacity(64 * 1024, file);
        let mut header = [0; SEGMENT_HEADER];
        let whole = read_up_to(&mut file, &mut header).map_err(|e| disk(path, &e))?;
        if whole < SEGMENT_HEADER || header != segment_header(kind, base) {
            if size <= SEGMENT_HEADER as u64 {
                return Ok(Opened::Unfinished);
            }
            return Err(corrupt(path, 0, "the header is not that of this file"));
        }
        Ok(Opened::Reader(SegmentReader {
            path: path.to_owned(),
            file,
            size,
            offset: SEGMENT_HEADER as u64,
            payload: Vec::new(),
        }))
    }

    /// Reads the next frame.
    pub(super) fn next(&mut self) -> Result<Next, StoreError> {
        let mut header = [0; FRAME_HEADER];
        let got = read_up_to(&mut self.file, &mut header).map_err(|e| disk(&self.path, &e))?;
        if got == 0 || (header[..got].iter().all(|b| *b == 0) && self.rest_is_zeros()?) {
            return Ok(Next::End);
        }
        if got < FRAME_HEADER {
            return Ok(Next::Broken("the file ends within a frame's header".into()));
        }
        let Some((length, crc)) = frame_header(&header) else {
            return Ok(Next::Broken("a frame's header is damaged".into()));
        };
        if self.offset + (FRAME_HEADER + length) as u64 > self.size {
            return Ok(Next::Broken("the file ends within a frame".into()));
        }
        self.payload.resize(length, 0);
        self.file
            .read_exact(&mut self.payload)
            .map_err(|e| disk(&self.path, &e))?;
        if frame_crc(&self.payload) != crc {
            return Ok(Next::Broken("a frame's checksum does not match".into()));
        }
        self.offset += (FRAME_HEADER + length) as u64;
        Ok(Next::Frame)
    }

    /// Returns whether only zeros follow. If not, the reader's position is
    /// unspecified.
    fn rest_is_zeros(&mut self) -> Result<bool, StoreError> {
        loop {
            let part = self.file.fill_buf().map_err(|e| disk(&self.path, &e))?;
            if part.is_empty() {
                return Ok(true);
            }
            if part.iter().any(|b| *b != 0) {
                return Ok(false);
            }
            let length = part.len();
            self.file.consume(length);
        }
    }

    /// Returns the records of the last frame that was read.
    pub(super) fn records(&self) -> Records<'_> {
        Records {
            rest: &self.payload,
        }
    }

    /// Returns the offset of the end of the last whole frame.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns whether a whole frame follows the broken bytes at [`Self::offset`]. Then
    /// an acknowledged write is damaged, and not just a last write torn.
    pub(super) fn intact_frame_follows(&mut self) -> Result<bool, StoreError> {
        let mut tail = Vec::new();
        self.file
            .seek(SeekFrom::Start(self.offset))
            .map_err(|e| disk(&self.path, &e))?;
        self.file
            .read_to_end(&mut tail)
            .map_err(|e| disk(&self.path, &e))?;
        let mut at = 1;
        while let Some(found) = tail
            .get(at..)
            .and_then(|rest| rest.windows(4).position(|w| w == FRAME_MAGIC))
        {
            let frame = &tail[at + found..];
            if let Some(header) = frame.first_chunk::<FRAME_HEADER>()
                && let Some((length, crc)) = frame_header(header)
                && let Some(payload) = frame.get(FRAME_HEADER..FRAME_HEADER + length)
                && frame_crc(payload) == crc
            {
                return Ok(true);
            }
            at += found + 1;
        }
        Ok(false)
    }

    /// Returns the error for damage at the current offset.
    pub(super) fn corrupt(&self, why: &str) -> StoreError {
        corrupt(&self.path, self.offset, why)
    }
}

/// Returns length and checksum in a frame's header, if it is valid.
fn frame_header(header: &[u8; FRAME_HEADER]) -> Option<(usize, u32)> {
    let word = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let length = word(4) as usize;
    (header[..4] == FRAME_MAGIC && length <= MAX_FRAME_BYTES).then(|| (length, word(8)))
}

fn frame_crc(payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&(payload.len() as u32).to_le_bytes());
    crc.update(payload);
    crc.finalize()
}

/// An iterator over the records of one frame; `Err` for bytes that are no record.
pub(super) struct Records<'a> {
    rest: &'a [u8],
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
    let short =
        |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes")) as usize;
    let (key, rest) = rest
        .split_at_checked(short(17))
        .ok_or("a record's key is cut off")?;
    let (value, rest) = rest
        .split_at_checked(short(21))
        .ok_or("a record's value is cut off")?;
    let key = std::str::from_utf8(key).map_err(|_| "a record's key is not UTF-8")?;
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

/// Reads until `buffer` is full or the file ends, and returns the number of bytes.
fn read_up_to(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

pub(super) fn disk(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Disk(format!("{}: {error}", path.display()))
}

pub(super) fn corrupt(path: &Path, offset: u64, why: &str) -> StoreError {
    StoreError::Corrupt(format!("{} at byte {offset}: {why}", path.display()))
}
