//! Reading of segments.

use std::io::{self, BufRead as _, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::disk::{Disk, DiskFile};
use super::frame::{
    FRAME_HEADER, FRAME_MAGIC, Format, Header, Records, SEGMENT_HEADER, SegmentKind,
    parse_segment_header,
};
use crate::types::{Revision, StoreError};

/// The unit that a disk writes as a whole, in bytes.
const SECTOR_BYTES: u64 = 512;
/// The number of zeros at the end of a frame that mean that its end was not written.
const TORN_END: usize = 8;

/// Reads a segment frame by frame.
pub(super) struct SegmentReader<D: Disk> {
    path: PathBuf,
    file: BufReader<Cursor<D::File>>,
    format: Format,
    size: u64,
    /// The offset of the last whole frame.
    frame: u64,
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
    Broken(&'static str),
}

/// The result of opening a segment.
pub(super) enum Opened<D: Disk> {
    /// The header is valid.
    Reader(SegmentReader<D>),
    /// The file is no longer than a header, and the header is incomplete: the machine
    /// stopped while the file was created.
    Unfinished,
}

/// The kind of damage behind the last whole frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// A part of the last write did not reach the disk, so that it was never
    /// acknowledged.
    Torn,
    /// A part that was complete on disk has changed.
    Rotten,
}

impl<D: Disk> SegmentReader<D> {
    pub(super) fn open(
        disk: &D,
        kind: SegmentKind,
        base: Revision,
    ) -> Result<Opened<D>, StoreError> {
        let name = kind.name(base);
        let path = disk.path(&name);
        let file = disk.open(&name).map_err(|e| failed(&path, &e))?;
        let size = file.len().map_err(|e| failed(&path, &e))?;
        let mut header = [0; SEGMENT_HEADER];
        let mut start = Cursor { file, at: 0 };
        let whole = read_up_to(&mut start, &mut header).map_err(|e| failed(&path, &e))?;
        let format = match parse_segment_header(&header[..whole], kind, base) {
            Header::Valid(format) => format,
            Header::Newer(format) => {
                return Err(StoreError::Format(format!(
                    "{} has format {format}",
                    path.display()
                )));
            }
            Header::Invalid if size <= SEGMENT_HEADER as u64 => return Ok(Opened::Unfinished),
            Header::Invalid => {
                return Err(corrupt(&path, 0, "the header is not that of this file"));
            }
        };
        let offset = format.segment_header() as u64;
        start.at = offset;
        Ok(Opened::Reader(SegmentReader {
            path,
            file: BufReader::with_capacity(64 * 1024, start),
            format,
            size,
            frame: offset,
            offset,
            payload: Vec::new(),
        }))
    }

    /// Opens a segment whose header is damaged, by trying what the header may have been.
    /// Returns `None` if no frame can be found then.
    pub(super) fn guess(
        disk: &D,
        kind: SegmentKind,
        base: Revision,
    ) -> Result<Option<SegmentReader<D>>, StoreError> {
        let name = kind.name(base);
        let path = disk.path(&name);
        let file = disk.open(&name).map_err(|e| failed(&path, &e))?;
        let size = file.len().map_err(|e| failed(&path, &e))?;
        let mut bytes = Vec::new();
        let mut cursor = Cursor { file, at: 0 };
        cursor
            .read_to_end(&mut bytes)
            .map_err(|e| failed(&path, &e))?;
        let found = Format::guesses(&bytes)
            .into_iter()
            .find_map(|format| Some((format, find_frame(format, &bytes, 0)? as u64)));
        let Some((format, offset)) = found else {
            return Ok(None);
        };
        cursor.at = offset;
        Ok(Some(SegmentReader {
            path,
            file: BufReader::with_capacity(64 * 1024, cursor),
            format,
            size,
            frame: offset,
            offset,
            payload: Vec::new(),
        }))
    }

    /// Reads the next frame.
    pub(super) fn next(&mut self) -> Result<Next, StoreError> {
        let mut header = [0; FRAME_HEADER];
        let header = &mut header[..self.format.frame_header()];
        let got = read_up_to(&mut self.file, header).map_err(|e| failed(&self.path, &e))?;
        if got == 0 || (header[..got].iter().all(|b| *b == 0) && self.rest_is_zeros()?) {
            return Ok(Next::End);
        }
        if got < header.len() {
            return Ok(Next::Broken("the file ends within a frame's header"));
        }
        let Some((length, crc)) = self.format.parse_frame(header) else {
            return Ok(Next::Broken("a frame's header is damaged"));
        };
        let end = self.offset + (header.len() + length) as u64;
        if end > self.size {
            return Ok(Next::Broken("the file ends within a frame"));
        }
        self.payload.resize(length, 0);
        self.file
            .read_exact(&mut self.payload)
            .map_err(|e| failed(&self.path, &e))?;
        if self.format.payload_crc(&self.payload) != crc {
            return Ok(Next::Broken("a frame's checksum does not match"));
        }
        self.frame = self.offset;
        self.offset = end;
        Ok(Next::Frame)
    }

    /// Returns whether only zeros follow. If not, the reader's position is
    /// unspecified.
    fn rest_is_zeros(&mut self) -> Result<bool, StoreError> {
        loop {
            let part = self.file.fill_buf().map_err(|e| failed(&self.path, &e))?;
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
        Records::of(&self.payload)
    }

    /// Returns the format of the segment.
    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Returns the path of the segment, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the offset of the last whole frame.
    pub(super) fn frame(&self) -> u64 {
        self.frame
    }

    /// Returns the offset of the end of the last whole frame.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the error for damage at the current offset.
    pub(super) fn corrupt(&self, why: &str) -> StoreError {
        corrupt(&self.path, self.offset, why)
    }

    /// Classifies the bytes at [`Self::offset`], which are not a whole frame.
    ///
    /// A write is torn if a sector or the end of it is missing. That part is then still zeros
    /// as preallocated, or beyond the end of the file. Any other frame was whole, and so
    /// was every frame that another one follows.
    pub(super) fn damage(&mut self) -> Result<Damage, StoreError> {
        let rest = self.rest()?;
        let follows = find_frame(self.format, &rest, 1).is_some();
        Ok(if !follows && is_torn(self.format, self.offset, &rest) {
            Damage::Torn
        } else {
            Damage::Rotten
        })
    }

    /// Moves past broken bytes, to the next whole frame. Returns whether there is one.
    pub(super) fn skip_damage(&mut self) -> Result<bool, StoreError> {
        let rest = self.rest()?;
        let Some(found) = find_frame(self.format, &rest, 1) else {
            return Ok(false);
        };
        self.offset += found as u64;
        self.file
            .seek(SeekFrom::Start(self.offset))
            .map_err(|e| failed(&self.path, &e))?;
        Ok(true)
    }

    /// Returns everything behind the last whole frame.
    fn rest(&mut self) -> Result<Vec<u8>, StoreError> {
        let mut rest = Vec::new();
        self.file
            .seek(SeekFrom::Start(self.offset))
            .and_then(|_| self.file.read_to_end(&mut rest))
            .map_err(|e| failed(&self.path, &e))?;
        Ok(rest)
    }
}

/// Returns the position of the first whole frame in `bytes` from `at` on.
fn find_frame(format: Format, bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let rest = bytes.get(at..)?;
        at += rest.windows(4).position(|w| w == FRAME_MAGIC)?;
        let frame = &bytes[at..];
        let header = format.frame_header();
        if let Some((length, crc)) = format.parse_frame(frame)
            && let Some(payload) = frame.get(header..header + length)
            && format.payload_crc(payload) == crc
        {
            return Some(at);
        }
        at += 1;
    }
}

/// Returns whether a part of the frame that begins at `offset` of the file was never
/// written. `bytes` are those from there to the end of the file.
fn is_torn(format: Format, offset: u64, bytes: &[u8]) -> bool {
    let header = format.frame_header();
    let Some((length, _)) = format.parse_frame(bytes) else {
        let (header, rest) = bytes.split_at(header.min(bytes.len()));
        // A frame is more than a header.
        return rest.iter().all(|b| *b == 0) || has_missing_sector(header, offset);
    };
    let Some(frame) = bytes.get(..header + length) else {
        return true;
    };
    // Some file systems do not write whole sectors. Keys and values are text, which does
    // not end in zeros.
    let end = &frame[frame.len().saturating_sub(TORN_END)..];
    end.iter().all(|b| *b == 0) || has_missing_sector(frame, offset)
}

/// Returns whether all that `bytes` have of some sector is zeros. They begin at `offset`.
fn has_missing_sector(mut bytes: &[u8], offset: u64) -> bool {
    let mut sector = (SECTOR_BYTES - offset % SECTOR_BYTES) as usize;
    while !bytes.is_empty() {
        let (part, rest) = bytes.split_at(sector.min(bytes.len()));
        if part.iter().all(|b| *b == 0) {
            return true;
        }
        bytes = rest;
        sector = SECTOR_BYTES as usize;
    }
    false
}

/// A position in a file.
struct Cursor<F> {
    file: F,
    at: u64,
}

impl<F: DiskFile> Read for Cursor<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl<F: DiskFile> Seek for Cursor<F> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::Current(by) => self.at.saturating_add_signed(by),
            SeekFrom::End(by) => self.file.len()?.saturating_add_signed(by),
        };
        Ok(self.at)
    }
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

/// Returns the error for a failed operation on a file.
pub(super) fn failed(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Disk(format!("{}: {error}", path.display()))
}

/// Returns the error for damage in a file.
pub(super) fn corrupt(path: &Path, offset: u64, why: &str) -> StoreError {
    StoreError::Corrupt(format!("{} at byte {offset}: {why}", path.display()))
}
