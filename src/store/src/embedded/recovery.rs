//! Restores the state from the files on disk at start.
//!
//! A generation is a snapshot and the logs after it; the oldest one has no snapshot,
//! because it begins with the empty store. The logs of the generation before the newest
//! are kept with its snapshot, so that a damaged snapshot costs nothing: the older one and
//! all logs since lead to the same state.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::disk::Disk;
use super::frame::{Format, Record, SegmentKind};
use super::log::{LogWriter, Preallocation, Tail};
use super::reader::{Damage, Next, Opened, SegmentReader, corrupt, failed};
use super::state::{State, Window};
use crate::types::{Change, KeyValue, Revision, StoreError};

/// The revision of an empty store.
pub(super) const FIRST_REVISION: Revision = 1;

/// The suffix of a snapshot that is damaged and not read again.
const DAMAGED: &str = ".damaged";

/// Reads the newest snapshot and the logs after it, or the generation before if the
/// snapshot is damaged.
///
/// A torn last write is dropped, because it was never acknowledged. Any other damage
/// is an error and never skipped.
pub(super) fn recover<D: Disk>(
    disk: &D,
    window: &Window,
    room: Preallocation,
) -> Result<(State, LogWriter<D>), StoreError> {
    let files = Files::find(disk)?;
    let loaded = load(disk, &files, window)?;
    let disk_failed = |e| failed(&disk.path(""), &e);
    let revision = loaded.state.revision();
    let (current, log) = match loaded.tail {
        Some((base, Format::V2 { salt }, tail)) => {
            let tail = Tail { salt, ..tail };
            let name = SegmentKind::Log.name(base);
            (base, LogWriter::resume(disk, &name, &tail, room))
        }
        Some((base, Format::V1, tail)) => {
            // Only to cut its end off. It is not written to again.
            let old = LogWriter::resume(disk, &SegmentKind::Log.name(base), &tail, room);
            let new = old.and_then(|_| LogWriter::create(disk, revision, room));
            (revision, new)
        }
        None => (revision, LogWriter::create(disk, revision, room)),
    };
    let log = log.map_err(disk_failed)?;
    // The process before this one may have ended before it made a file's name durable.
    disk.sync_names().map_err(disk_failed)?;
    for base in files.snapshots.iter().filter(|b| **b > loaded.start) {
        let name = SegmentKind::Snapshot.name(*base);
        disk.rename(&name, &format!("{name}{DAMAGED}"))
            .map_err(disk_failed)?;
    }
    for name in &files.unfinished {
        remove(disk, name);
    }
    for base in loaded.stale.iter().filter(|base| **base != current) {
        remove(disk, &SegmentKind::Log.name(*base));
    }
    Ok((loaded.state, log))
}

/// The contents of the files of a store.
pub(super) struct Loaded {
    pub(super) state: State,
    /// The base of the generation that was read.
    pub(super) start: Revision,
    /// The log to continue, with its base and format; `None` if it has to be created.
    tail: Option<(Revision, Format, Tail)>,
    /// Logs without a frame, left by rotations that failed.
    stale: Vec<Revision>,
    /// A torn write at the end, which is to be dropped.
    pub(super) torn: Option<StoreError>,
}

/// Reads the newest generation that is not damaged. Changes nothing.
///
/// # Errors
/// [`StoreError::Corrupt`] with the damage of the newest one when all are damaged.
pub(super) fn load<D: Disk>(
    disk: &D,
    files: &Files,
    window: &Window,
) -> Result<Loaded, StoreError> {
    let mut newest = None;
    for start in files.generations() {
        match load_generation(disk, files, start, window) {
            Ok(loaded) => {
                if let Some(error) = newest {
                    tracing::warn!(%error, "the store is read from the generation before");
                }
                return Ok(loaded);
            }
            Err(error @ StoreError::Corrupt(_)) => {
                newest.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(newest.unwrap_or_else(|| {
        StoreError::Corrupt(format!(
            "{} has no log that begins at revision {FIRST_REVISION}",
            disk.path("").display()
        ))
    }))
}

fn load_generation<D: Disk>(
    disk: &D,
    files: &Files,
    start: Revision,
    window: &Window,
) -> Result<Loaded, StoreError> {
    let state = match files.snapshots.contains(&start) {
        true => read_snapshot(disk, start)?,
        false => State::new(FIRST_REVISION),
    };
    let mut loaded = Loaded {
        state,
        start,
        tail: None,
        stale: Vec::new(),
        torn: None,
    };
    let logs: Vec<Revision> = files
        .logs
        .iter()
        .copied()
        .filter(|log| *log >= start)
        .collect();
    if !files.is_empty() && logs.first() != Some(&start) {
        return Err(StoreError::Corrupt(format!(
            "{} has no log that begins at revision {start}",
            disk.path("").display()
        )));
    }
    let now = Instant::now();
    for base in logs {
        loaded.replay(disk, base, window, now)?;
    }
    // A file's base is durable before the file is made.
    let reached = loaded.state.revision();
    if let Some(newest) = files.newest().filter(|newest| *newest > reached) {
        return Err(loaded.torn.unwrap_or_else(|| {
            StoreError::Corrupt(format!(
                "the logs in {} end at revision {reached}, and there was revision {newest}",
                disk.path("").display()
            ))
        }));
    }
    if let Some(torn) = &loaded.torn {
        tracing::warn!(%torn, "dropping a torn last write");
    }
    Ok(loaded)
}

impl Loaded {
    /// Applies the next log.
    fn replay<D: Disk>(
        &mut self,
        disk: &D,
        base: Revision,
        window: &Window,
        now: Instant,
    ) -> Result<(), StoreError> {
        let mut reader = match SegmentReader::open(disk, SegmentKind::Log, base)? {
            Opened::Reader(reader) => reader,
            Opened::Unfinished => {
                self.stale.push(base);
                return Ok(());
            }
        };
        let mut next = reader.next()?;
        if matches!(next, Next::End) && self.tail.is_some() {
            // The log before it goes on, as it does when a new one cannot be begun.
            self.stale.push(base);
            return Ok(());
        }
        if let Some(torn) = self.torn.take() {
            // Not the last write, as others followed.
            return Err(torn);
        }
        if base != self.state.revision() {
            let why = format!(
                "it follows a log that ends at revision {}",
                self.state.revision()
            );
            return Err(corrupt(reader.path(), 0, &why));
        }
        let clean = loop {
            match next {
                Next::Frame => {}
                Next::End => break true,
                Next::Broken(why) => {
                    let error = reader.corrupt(why);
                    if reader.damage()? == Damage::Rotten {
                        return Err(error);
                    }
                    self.torn = Some(error);
                    break false;
                }
            }
            for record in reader.records() {
                let change = to_change(record.map_err(|why| reader.corrupt(why))?, &self.state)
                    .map_err(|why| reader.corrupt(why))?;
                self.state.apply([change], now);
            }
            self.state.trim(window, now);
            next = reader.next()?;
        };
        let tail = Tail {
            salt: 0,
            last_frame: reader.frame(),
            length: reader.offset(),
            clean,
        };
        self.tail = Some((base, reader.format(), tail));
        Ok(())
    }
}

/// The segments in a store's directory, by base revision.
pub(super) struct Files {
    pub(super) snapshots: BTreeSet<Revision>,
    pub(super) logs: BTreeSet<Revision>,
    /// Files that were not finished, and damaged snapshots.
    unfinished: Vec<String>,
    damaged: Vec<String>,
}

impl Files {
    pub(super) fn find<D: Disk>(disk: &D) -> Result<Files, StoreError> {
        let mut files = Files {
            snapshots: BTreeSet::new(),
            logs: BTreeSet::new(),
            unfinished: Vec::new(),
            damaged: Vec::new(),
        };
        for name in disk.names().map_err(|e| failed(&disk.path(""), &e))? {
            if let Some(base) = SegmentKind::Snapshot.parse_name(&name) {
                files.snapshots.insert(base);
            } else if let Some(base) = SegmentKind::Log.parse_name(&name) {
                files.logs.insert(base);
            } else if name.starts_with("snapshot-") || name.starts_with("log-") {
                if name.ends_with(".tmp") {
                    files.unfinished.push(name);
                } else if name.ends_with(DAMAGED) {
                    files.damaged.push(name);
                }
            }
        }
        Ok(files)
    }

    /// Returns whether there is no segment.
    fn is_empty(&self) -> bool {
        self.snapshots.is_empty() && self.logs.is_empty()
    }

    /// Returns the newest revision that is the base of a segment.
    pub(super) fn newest(&self) -> Option<Revision> {
        self.snapshots.last().max(self.logs.last()).copied()
    }

    /// Returns the bases of the generations, the newest first.
    fn generations(&self) -> Vec<Revision> {
        let mut bases: Vec<Revision> = self.snapshots.iter().rev().copied().collect();
        if !bases.contains(&FIRST_REVISION)
            && (self.logs.contains(&FIRST_REVISION) || self.is_empty())
        {
            bases.push(FIRST_REVISION);
        }
        bases
    }

    /// Removes the files before the newest snapshot but one. A failure is retried at the
    /// next rotation.
    pub(super) fn remove_superseded<D: Disk>(&self, disk: &D) {
        let oldest = self.snapshots.iter().rev().nth(1);
        let old = |bases: &BTreeSet<Revision>, kind: SegmentKind| -> Vec<String> {
            let old = bases.iter().filter(|base| Some(*base) < oldest);
            old.map(|base| kind.name(*base)).collect()
        };
        let logs = old(&self.logs, SegmentKind::Log);
        let snapshots = old(&self.snapshots, SegmentKind::Snapshot);
        for name in logs.iter().chain(&snapshots).chain(&self.damaged) {
            remove(disk, name);
        }
    }
}

/// Removes a file that is not needed; if that fails, it is tried again later.
fn remove<D: Disk>(disk: &D, name: &str) {
    if let Err(error) = disk.remove(name) {
        tracing::warn!(
            path = %disk.path(name).display(), %error, "cannot remove an old file of the store"
        );
    }
}

/// Reads a snapshot's entries and gives each to `entry`.
pub(super) fn read_entries<D: Disk>(
    disk: &D,
    base: Revision,
    mut entry: impl FnMut(KeyValue),
) -> Result<(), StoreError> {
    let Opened::Reader(mut reader) = SegmentReader::open(disk, SegmentKind::Snapshot, base)? else {
        let path = disk.path(&SegmentKind::Snapshot.name(base));
        return Err(corrupt(&path, 0, "the snapshot has no header"));
    };
    let mut loaded = 0;
    let mut ended = false;
    loop {
        match reader.next()? {
            Next::Frame => {}
            Next::End if ended => return Ok(()),
            Next::End => return Err(reader.corrupt("the snapshot ends early")),
            Next::Broken(why) => return Err(reader.corrupt(why)),
        }
        for record in reader.records() {
            match record.map_err(|why| reader.corrupt(why))? {
                Record::Put {
                    revision,
                    create_revision,
                    key,
                    value,
                } if !ended && create_revision <= revision && revision <= base => {
                    loaded += 1;
                    entry(KeyValue {
                        key: Arc::from(key),
                        value: Bytes::copy_from_slice(value),
                        create_revision,
                        mod_revision: revision,
                    });
                }
                Record::End { count } if !ended && count == loaded => ended = true,
                _ => return Err(reader.corrupt("a record does not belong in a snapshot")),
            }
        }
    }
}

fn read_snapshot<D: Disk>(disk: &D, base: Revision) -> Result<State, StoreError> {
    let mut state = State::new(base);
    read_entries(disk, base, |entry| state.load(entry))?;
    Ok(state)
}

fn to_change(record: Record<'_>, state: &State) -> Result<Change, &'static str> {
    let (key, revision) = match &record {
        Record::Put { key, revision, .. } | Record::Delete { key, revision } => (*key, *revision),
        Record::End { .. } => return Err("a record does not belong in a log"),
    };
    if revision != state.revision() + 1 {
        return Err("a revision is missing");
    }
    let before = state.get(key).cloned();
    match record {
        Record::Put {
            create_revision,
            value,
            ..
        } => {
            let expected = before.as_ref().map_or(revision, |b| b.create_revision);
            if create_revision != expected {
                return Err("a record does not fit the one before it");
            }
            let key = before
                .as_ref()
                .map_or_else(|| Arc::from(key), |b| b.key.clone());
            let value = Bytes::copy_from_slice(value);
            let now = Arc::new(KeyValue {
                key,
                value,
                create_revision,
                mod_revision: revision,
            });
            Ok(Change::Put { now, before })
        }
        _ => match before {
            Some(before) => Ok(Change::Delete { before, revision }),
            None => Err("a record deletes what is not there"),
        },
    }
}
