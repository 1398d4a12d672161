//! Checks the files of a store, and makes a store of what is left of damaged ones.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::disk::{Disk, RealDisk};
use super::frame::{Record, SegmentKind};
use super::log::{LogWriter, Preallocation, write_snapshot};
use super::prepare;
use super::reader::{Damage, Next, Opened, SegmentReader, failed};
use super::recovery::{FIRST_REVISION, Files, Loaded, load};
use super::state::Window;
use crate::types::{KeyValue, Revision, StoreError};

/// Distance of a salvaged store's revision above every revision that is known of the damaged one.
/// Lost changes had revisions as well, and clients may remember them.
const REVISION_STEP: Revision = 1_000_000;

/// Maximum number of checks when files change meanwhile.
const ATTEMPTS: u32 = 3;

/// A file of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The file's name.
    pub file: String,
    /// The number of commits in it, or of pieces of a snapshot.
    pub frames: u64,
    /// The number of changes in it, or of entries of a snapshot.
    pub records: u64,
    /// The damage in it. A write that was interrupted by the end of the machine is none.
    pub damage: Vec<String>,
}

/// The result of a check.
#[derive(Clone, Debug)]
pub struct Check {
    /// The files, in the order of their revisions.
    pub segments: Vec<Segment>,
    /// The newest revision and the number of entries; the error if the store does not
    /// open.
    pub opens: Result<(Revision, usize), StoreError>,
}

impl Check {
    /// Returns whether the store opens and none of its files is damaged.
    pub fn is_sound(&self) -> bool {
        self.opens.is_ok() && self.segments.iter().all(|s| s.damage.is_empty())
    }
}

/// The result of a salvage.
#[derive(Clone, Debug)]
pub struct Replaced {
    /// The revision that the store begins at.
    pub revision: Revision,
    /// The number of entries.
    pub entries: usize,
    /// The damage that was found.
    pub damage: Vec<String>,
    /// The revisions of changes that are lost, as ranges with both ends.
    pub missing: Vec<(Revision, Revision)>,
    /// The directory that the files were moved to.
    pub kept: PathBuf,
}

/// Checks the files of the store in `dir`, which may be open.
///
/// # Errors
/// [`StoreError::Disk`] when they cannot be read, [`StoreError::Format`] when they are of
/// a newer program.
pub fn verify(dir: &Path) -> Result<Check, StoreError> {
    let disk = RealDisk::open(dir).map_err(|e| failed(dir, &e))?;
    let mut attempt = 1;
    loop {
        match check(&disk) {
            // A store that is open removes files.
            Err(StoreError::Disk(_)) if attempt < ATTEMPTS => attempt += 1,
            checked => return checked,
        }
    }
}

pub(super) fn check<D: Disk>(disk: &D) -> Result<Check, StoreError> {
    let mut found = Contents::default();
    let segments = found.read_all(disk)?;
    let opens = match load(disk, &Files::find(disk)?, &no_history()) {
        Ok(Loaded { state, .. }) => Ok((state.revision(), state.entries().len())),
        Err(error @ StoreError::Corrupt(_)) => Err(error),
        Err(error) => return Err(error),
    };
    Ok(Check { segments, opens })
}

/// Makes a store of all that can be read of the damaged one in `dir`. Its files are moved
/// to a directory in `dir`. Returns `None`, and changes nothing, if the store opens.
///
/// A key whose last change is damaged gets the newest value that is intact.
///
/// # Errors
/// - [`StoreError::Disk`] if the directory cannot be used.
/// - [`StoreError::InUse`] if another process has the store open for longer than `patience`.
/// - [`StoreError::Format`] if it is of a newer program.
pub fn salvage(dir: &Path, patience: Duration) -> Result<Option<Replaced>, StoreError> {
    let _lock = prepare(dir, patience)?;
    let disk = RealDisk::open(dir).map_err(|e| failed(dir, &e))?;
    if load(&disk, &Files::find(&disk)?, &no_history()).is_ok() {
        return Ok(None);
    }
    let mut found = Contents::default();
    let segments = found.read_all(&disk)?;
    let entries = found.entries();
    replace(dir, &disk, found, segments, &entries).map(Some)
}

/// Makes an empty store in `dir`. The files of the old one are moved to a directory in
/// `dir`. Revisions continue above those of the old store.
///
/// # Errors
/// Those of [`salvage`].
pub fn reset(dir: &Path, patience: Duration) -> Result<Replaced, StoreError> {
    let _lock = prepare(dir, patience)?;
    let disk = RealDisk::open(dir).map_err(|e| failed(dir, &e))?;
    let mut found = Contents::default();
    let segments = found.read_all(&disk)?;
    replace(dir, &disk, found, segments, &[])
}

fn no_history() -> Window {
    Window {
        changes: 0,
        bytes: 0,
        age: Duration::ZERO,
    }
}

/// Begins a store with `entries` and moves the old files away.
fn replace(
    dir: &Path,
    disk: &RealDisk,
    found: Contents,
    segments: Vec<Segment>,
    entries: &[Arc<KeyValue>],
) -> Result<Replaced, StoreError> {
    let disk_failed = |e| failed(dir, &e);
    let old = Files::find(disk)?;
    let newest = found.reached.max(old.newest().unwrap_or(FIRST_REVISION));
    let revision = newest + REVISION_STEP;
    // The store opens with the snapshot, and no earlier without it than it does now.
    let room = Preallocation {
        step: 0,
        reserve: 0,
    };
    LogWriter::create(disk, revision, room).map_err(disk_failed)?;
    write_snapshot(disk, revision, entries).map_err(disk_failed)?;
    let kept = make_folder(dir).map_err(disk_failed)?;
    let logs = old.logs.iter().map(|base| SegmentKind::Log.name(*base));
    let snapshots = old.snapshots.iter();
    let snapshots = snapshots.map(|base| SegmentKind::Snapshot.name(*base));
    for name in logs.chain(snapshots) {
        std::fs::rename(dir.join(&name), kept.join(&name)).map_err(disk_failed)?;
    }
    File::open(&kept)
        .and_then(|kept| kept.sync_all())
        .and_then(|()| disk.sync_names())
        .map_err(disk_failed)?;
    Ok(Replaced {
        revision,
        entries: entries.len(),
        damage: segments.into_iter().flat_map(|s| s.damage).collect(),
        missing: found.missing,
        kept,
    })
}

/// Makes a directory for files that are kept.
fn make_folder(dir: &Path) -> std::io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;

    let mut number = 1;
    loop {
        let folder = dir.join(format!("damaged-{number}"));
        match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            made => return made.map(|()| folder),
        }
    }
}

/// The readable contents of a store.
#[derive(Default)]
pub(super) struct Contents {
    /// The newest that is known of each key; `None` if it was deleted.
    keys: BTreeMap<Arc<str>, (Revision, Option<Arc<KeyValue>>)>,
    /// The newest revision.
    reached: Revision,
    missing: Vec<(Revision, Revision)>,
}

impl Contents {
    pub(super) fn entries(&self) -> Vec<Arc<KeyValue>> {
        let entries = self.keys.values();
        entries.filter_map(|(_, entry)| entry.clone()).collect()
    }

    /// Reads all segments in the order of their revisions.
    pub(super) fn read_all<D: Disk>(&mut self, disk: &D) -> Result<Vec<Segment>, StoreError> {
        self.reached = FIRST_REVISION;
        let files = Files::find(disk)?;
        let snapshots = files.snapshots.iter().map(|b| (*b, SegmentKind::Snapshot));
        let logs = files.logs.iter().map(|b| (*b, SegmentKind::Log));
        let mut all: Vec<_> = snapshots.chain(logs).collect();
        // A snapshot comes before the log of the changes after it.
        all.sort_by_key(|(base, kind)| (*base, *kind == SegmentKind::Log));
        all.into_iter()
            .map(|(base, kind)| match kind {
                SegmentKind::Snapshot => self.read_snapshot(disk, base),
                SegmentKind::Log => self.read_log(disk, base),
            })
            .collect()
    }

    fn read_snapshot<D: Disk>(&mut self, disk: &D, base: Revision) -> Result<Segment, StoreError> {
        let mut entries = Vec::new();
        let mut count = None;
        let mut segment = read_segment(disk, SegmentKind::Snapshot, base, |record| match record {
            Record::Put {
                key,
                value,
                create_revision,
                revision,
            } => entries.push(Arc::new(KeyValue {
                key: key.into(),
                value: Bytes::copy_from_slice(value),
                create_revision,
                mod_revision: revision,
            })),
            Record::End { count: all } => count = Some(all),
            Record::Delete { .. } => {}
        })?;
        if count.is_none() && segment.damage.is_empty() {
            segment
                .damage
                .push(format!("{}: the snapshot ends early", segment.file));
        }
        if segment.damage.is_empty() {
            // It has everything that was before it.
            self.keys.clear();
            self.missing.clear();
            self.reached = self.reached.max(base);
        }
        for entry in entries {
            self.apply(entry.mod_revision, entry.key.clone(), Some(entry));
        }
        Ok(segment)
    }

    fn read_log<D: Disk>(&mut self, disk: &D, base: Revision) -> Result<Segment, StoreError> {
        self.reach(base + 1, base);
        read_segment(disk, SegmentKind::Log, base, |record| match record {
            Record::Put {
                key,
                value,
                create_revision,
                revision,
            } => {
                self.reach(revision, revision);
                let key: Arc<str> = key.into();
                let entry = Arc::new(KeyValue {
                    key: key.clone(),
                    value: Bytes::copy_from_slice(value),
                    create_revision,
                    mod_revision: revision,
                });
                self.apply(revision, key, Some(entry));
            }
            Record::Delete { key, revision } => {
                self.reach(revision, revision);
                self.apply(revision, key.into(), None);
            }
            Record::End { .. } => {}
        })
    }

    /// Notes that the next change has revision `next`, so that everything before it
    /// happened, and that `reached` is reached.
    fn reach(&mut self, next: Revision, reached: Revision) {
        if next > self.reached + 1 {
            self.missing.push((self.reached + 1, next - 1));
        }
        self.reached = self.reached.max(reached);
    }

    fn apply(&mut self, revision: Revision, key: Arc<str>, entry: Option<Arc<KeyValue>>) {
        let known = self.keys.entry(key).or_insert((0, None));
        if revision > known.0 {
            *known = (revision, entry);
        }
    }
}

/// Reads everything in a segment that is intact.
fn read_segment<D: Disk>(
    disk: &D,
    kind: SegmentKind,
    base: Revision,
    mut take: impl FnMut(Record<'_>),
) -> Result<Segment, StoreError> {
    let mut segment = Segment {
        file: kind.name(base),
        ..Segment::default()
    };
    let reader = match SegmentReader::open(disk, kind, base) {
        Ok(Opened::Reader(reader)) => Some(reader),
        Ok(Opened::Unfinished) => None,
        Err(StoreError::Corrupt(why)) => {
            segment.damage.push(why);
            SegmentReader::guess(disk, kind, base)?
        }
        Err(error) => return Err(error),
    };
    let Some(mut reader) = reader else {
        return Ok(segment);
    };
    loop {
        match reader.next()? {
            Next::Frame => segment.frames += 1,
            Next::End => return Ok(segment),
            Next::Broken(why) => {
                let error = reader.corrupt(why).to_string();
                if kind == SegmentKind::Snapshot || reader.damage()? == Damage::Rotten {
                    segment.damage.push(error);
                }
                if !reader.skip_damage()? {
                    return Ok(segment);
                }
                continue;
            }
        }
        for record in reader.records() {
            match record {
                Ok(record) => {
                    segment.records += 1;
                    take(record);
                }
                Err(why) => segment.damage.push(reader.corrupt(why).to_string()),
            }
        }
    }
}
