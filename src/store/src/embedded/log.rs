//! Writing of segments.

use std::io;

use super::disk::{Disk, DiskFile, is_full};
use super::frame::{FrameBuilder, SEGMENT_HEADER, SegmentKind, segment_header};
use crate::types::{KeyValue, Revision};

/// The zeros that a log keeps ahead of its end, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Preallocation {
    /// The number that is preallocated at a time.
    pub(super) step: u64,
    /// The number that only deletions may use when there can be no more.
    pub(super) reserve: u64,
}

/// The share of the reserve that a write may use on a full disk. Deletions make room, or the owner
/// of what fills the disk can be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Claim {
    /// Nothing: it is refused.
    Nothing,
    /// A half: a step of a deletion. The other half is left to removals, which are small,
    /// so that objects that are marked can also go.
    Half,
    /// All of it: a removal.
    All,
}

impl Default for Preallocation {
    fn default() -> Self {
        Preallocation {
            step: 1 << 20,
            reserve: 256 << 10,
        }
    }
}

/// Why a frame was not appended.
#[derive(Debug)]
pub(super) enum AppendError {
    /// The disk is full. Nothing of the frame is in the log, also not after a crash, and
    /// the log can be written to when there is room again.
    Full(io::Error),
    /// The disk failed. It is unknown whether the frame will be there at the next start,
    /// and nothing more may be appended.
    Failed(io::Error),
}

/// The log segment that is written to.
pub(super) struct LogWriter<D: Disk> {
    file: D::File,
    salt: u32,
    room: Preallocation,
    /// Position of the next frame.
    length: u64,
    /// The offset up to which the file is preallocated.
    preallocated: u64,
}

/// The facts about a log that is to be continued.
pub(super) struct Tail {
    /// The salt in the log's header.
    pub(super) salt: u32,
    /// The offset of the last whole frame.
    pub(super) last_frame: u64,
    /// The end of the last whole frame.
    pub(super) length: u64,
    /// Whether only zeros follow.
    pub(super) clean: bool,
}

impl<D: Disk> LogWriter<D> {
    /// Starts the log of changes after `base`; durable when this returns. It has no reserve
    /// if the disk is full.
    ///
    /// A failure leaves at most a log without frames, which the next start ignores.
    pub(super) fn create(
        disk: &D,
        base: Revision,
        room: Preallocation,
    ) -> io::Result<LogWriter<D>> {
        Self::begin(disk, base, room, |error| {
            tracing::debug!(%error, "cannot preallocate space in the log");
            Ok(())
        })
    }

    /// Like [`Self::create`], but fails when there is no room for the reserve.
    pub(super) fn create_reserved(
        disk: &D,
        base: Revision,
        room: Preallocation,
    ) -> io::Result<Self> {
        Self::begin(disk, base, room, Err)
    }

    /// Starts a log. `no_room` decides what a failure to preallocate means.
    fn begin(
        disk: &D,
        base: Revision,
        room: Preallocation,
        no_room: impl Fn(io::Error) -> io::Result<()>,
    ) -> io::Result<LogWriter<D>> {
        let name = SegmentKind::Log.name(base);
        let temporary = temporary(&name);
        let salt = disk.salt();
        let length = SEGMENT_HEADER as u64;
        let begin = || -> io::Result<LogWriter<D>> {
            let file = disk.create(&temporary)?;
            file.write_at(&segment_header(SegmentKind::Log, base, salt), 0)?;
            let mut log: LogWriter<D> = LogWriter {
                file,
                salt,
                room,
                length,
                preallocated: length,
            };
            log.preallocate(length).or_else(&no_room)?;
            log.file.sync_all()?;
            disk.rename(&temporary, &name)?;
            disk.sync_names()?;
            Ok(log)
        };
        begin().inspect_err(|_| discard(disk, &temporary))
    }

    /// Continues a log. A rest that is not zeros is of a commit that was never
    /// acknowledged, and is cut off.
    pub(super) fn resume(
        disk: &D,
        name: &str,
        tail: &Tail,
        room: Preallocation,
    ) -> io::Result<Self> {
        let file = disk.open(name)?;
        let mut preallocated = file.len()?;
        if !tail.clean {
            file.set_len(tail.length)?;
            preallocated = tail.length;
        }
        // The last frame may be there only in memory: the process before this one may have
        // ended before its sync, or because the sync failed. After a failure the kernel
        // takes it for written, so it has to be written again.
        let mut frame = vec![0; (tail.length - tail.last_frame) as usize];
        read_exact(&file, &mut frame, tail.last_frame)?;
        file.write_at(&frame, tail.last_frame)?;
        file.sync_all()?;
        Ok(LogWriter {
            file,
            salt: tail.salt,
            room,
            length: tail.length,
            preallocated,
        })
    }

    /// Appends a frame and makes it durable. Returns the error of the full disk if the frame
    /// has gone to the reserve.
    pub(super) fn append(
        &mut self,
        frame: &mut FrameBuilder,
        claim: Claim,
    ) -> Result<Option<io::Error>, AppendError> {
        let frame = frame.finish(self.salt);
        let end = self.length + frame.len() as u64;
        let mut full = None;
        if end + self.room.reserve > self.preallocated {
            match self.preallocate(end) {
                Ok(()) => {}
                Err(error) if !is_full(&error) => return Err(AppendError::Failed(error)),
                Err(error) if !self.allows(claim, end) => return Err(AppendError::Full(error)),
                Err(error) => full = Some(error),
            }
        }
        let written = self
            .file
            .write_at(frame, self.length)
            .and_then(|()| self.file.sync_data());
        let Err(error) = written else {
            self.length = end;
            self.preallocated = self.preallocated.max(end);
            return Ok(full);
        };
        // These changes were not acknowledged. None of them must come back after a
        // restart, and no part of them must show between those of the next frame.
        let undone = self
            .file
            .set_len(self.length)
            .and_then(|()| self.file.sync_all());
        match undone {
            Ok(()) if is_full(&error) => {
                self.preallocated = self.length;
                Err(AppendError::Full(error))
            }
            // After a failed sync, it is unknown what a later one makes durable.
            Ok(()) => Err(AppendError::Failed(error)),
            Err(undo) => Err(AppendError::Failed(io::Error::other(format!(
                "{error}; and it cannot be undone: {undo}"
            )))),
        }
    }

    /// Returns whether a frame that ends at `end` may be written though the disk is full.
    /// It has zeros to go to, so that a refused one takes nothing of the reserve.
    fn allows(&mut self, claim: Claim, end: u64) -> bool {
        match claim {
            Claim::Nothing => false,
            Claim::Half => end + self.room.reserve / 2 <= self.preallocated,
            Claim::All => end <= self.preallocated || self.fill(end).is_ok(),
        }
    }

    /// Makes sure that there is room for small frames besides the reserve.
    ///
    /// # Errors
    /// Fails if the disk is full or fails.
    pub(super) fn make_room(&mut self) -> io::Result<()> {
        if self.has_room() {
            return Ok(());
        }
        self.preallocate(self.length + self.room.reserve)
    }

    /// Returns whether there is room besides the reserve.
    pub(super) fn has_room(&self) -> bool {
        self.length + self.room.reserve < self.preallocated
    }

    /// Extends the zeros to [`Preallocation::step`] after `end`, or at least to the reserve. The
    /// next sync makes them durable.
    fn preallocate(&mut self, end: u64) -> io::Result<()> {
        match self.fill(end + self.room.step) {
            Err(error) if is_full(&error) => self.fill(end + self.room.reserve),
            filled => filled,
        }
    }

    /// Extends the zeros to the offset `until`; on failure they stay as they were.
    fn fill(&mut self, until: u64) -> io::Result<()> {
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        let mut at = self.preallocated;
        while at < until {
            let part = &ZEROS[..(until - at).min(ZEROS.len() as u64) as usize];
            if let Err(error) = self.file.write_at(part, at) {
                // A longer file is no harm: what is there are zeros.
                if let Err(error) = self.file.set_len(self.preallocated) {
                    tracing::warn!(%error, "cannot free preallocated space in the log");
                }
                return Err(error);
            }
            at += part.len() as u64;
        }
        self.preallocated = self.preallocated.max(until);
        Ok(())
    }

    /// Returns the length of the log in bytes, without preallocated zeros.
    pub(super) fn len(&self) -> u64 {
        self.length
    }
}

/// Returns the name of a file that is renamed to `name` when it is whole.
fn temporary(name: &str) -> String {
    format!("{name}.tmp")
}

/// Removes what a failure left.
fn discard<D: Disk>(disk: &D, name: &str) {
    // The failure is reported. Leftovers are removed at the next start.
    let _ = disk.remove(name);
}

fn read_exact(file: &impl DiskFile, buffer: &mut [u8], at: u64) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => filled += n,
        }
    }
    Ok(())
}

/// Writes the snapshot of `entries` at revision `base`; durable when this returns.
///
/// A failure leaves nothing.
pub(super) fn write_snapshot<D: Disk, E: AsRef<KeyValue>>(
    disk: &D,
    base: Revision,
    entries: &[E],
) -> io::Result<()> {
    let name = SegmentKind::Snapshot.name(base);
    let temporary = temporary(&name);
    let write = || -> io::Result<()> {
        let file = disk.create(&temporary)?;
        write_entries(&file, base, disk.salt(), entries)?;
        file.sync_all()?;
        disk.rename(&temporary, &name)?;
        disk.sync_names()
    };
    write().inspect_err(|_| discard(disk, &temporary))
}

fn write_entries<E: AsRef<KeyValue>>(
    file: &impl DiskFile,
    base: Revision,
    salt: u32,
    entries: &[E],
) -> io::Result<()> {
    const FRAME_TARGET: usize = 64 * 1024;
    let header = segment_header(SegmentKind::Snapshot, base, salt);
    file.write_at(&header, 0)?;
    let mut at = header.len() as u64;
    let mut frame = FrameBuilder::begin();
    for entry in entries {
        frame.entry(entry.as_ref());
        if frame.len() >= FRAME_TARGET {
            file.write_at(frame.finish(salt), at)?;
            at += frame.len() as u64;
            frame.reset();
        }
    }
    frame.end(entries.len() as u64);
    file.write_at(frame.finish(salt), at)
}
