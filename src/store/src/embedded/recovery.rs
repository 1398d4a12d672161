//! Restores the state from the files on disk at start.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::log::{LogWriter, Next, Opened, Record, SegmentKind, SegmentReader, corrupt, disk};
use super::state::{State, Window};
use crate::types::{Change, KeyValue, Revision, StoreError};

/// The revision of an empty store.
const FIRST_REVISION: Revision = 1;

/// Reads the newest snapshot and the logs after it.
///
/// A torn last write is dropped, because it was never acknowledged. Any other damage
/// is an error and never skipped.
pub(super) fn recover(dir: &Path, window: &Window) -> Result<(State, LogWriter), StoreError> {
    let files = Files::find(dir)?;
    let now = Instant::now();
    let base = files.snapshots.last().copied();
    let mut state = match base {
        Some(base) => read_snapshot(dir, base)?,
        None => State::new(FIRST_REVISION),
    };
    let start = state.revision();
    let logs: Vec<Revision> = files
        .logs
        .iter()
        .copied()
        .filter(|log| *log >= start)
        .collect();
    if logs.first().is_some_and(|first| *first != start)
        || (logs.is_empty() && (base.is_some() || !files.logs.is_empty()))
    {
        return Err(StoreError::Corrupt(format!(
            "{} has no log that begins at revision {start}",
            dir.display()
        )));
    }
    let mut log = None;
    for (i, base) in logs.iter().enumerate() {
        let last = i + 1 == logs.len();
        let path = SegmentKind::Log.path(dir, *base);
        if *base != state.revision() {
            let why = format!(
                "it follows a log that ends at revision {}",
                state.revision()
            );
            return Err(corrupt(&path, 0, &why));
        }
        log = replay(dir, &path, *base, last, &mut state, window, now)?;
    }
    let log = match log {
        Some(log) => log,
        None => LogWriter::create(dir, state.revision()).map_err(|e| disk(dir, &e))?,
    };
    files.remove_superseded(dir, base.unwrap_or(FIRST_REVISION));
    Ok((state, log))
}

/// The segments in a store's directory, by base revision.
pub(super) struct Files {
    snapshots: Vec<Revision>,
    logs: Vec<Revision>,
    unfinished: Vec<String>,
}

impl Files {
    pub(super) fn find(dir: &Path) -> Result<Files, StoreError> {
        let mut files = Files {
            snapshots: Vec::new(),
            logs: Vec::new(),
            unfinished: Vec::new(),
        };
        for entry in std::fs::read_dir(dir).map_err(|e| disk(dir, &e))? {
            let name = entry.map_err(|e| disk(dir, &e))?.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(base) = SegmentKind::Snapshot.parse_name(name) {
                files.snapshots.push(base);
            } else if let Some(base) = SegmentKind::Log.parse_name(name) {
                files.logs.push(base);
            } else if name.starts_with("snapshot-") && name.ends_with(".tmp") {
                files.unfinished.push(name.to_owned());
            }
        }
        files.snapshots.sort_unstable();
        files.logs.sort_unstable();
        Ok(files)
    }

    /// Removes the files that the snapshot at `base` and the log after it replace. A
    /// failure is retried at the next rotation or start.
    pub(super) fn remove_superseded(&self, dir: &Path, base: Revision) {
        let old = |kind: SegmentKind, bases: &[Revision]| -> Vec<_> {
            bases
                .iter()
                .filter(|b| **b < base)
                .map(|b| kind.path(dir, *b))
                .collect()
        };
        let mut paths = old(SegmentKind::Log, &self.logs);
        paths.extend(old(SegmentKind::Snapshot, &self.snapshots));
        paths.extend(self.unfinished.iter().map(|name| dir.join(name)));
        for path in paths {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove an old file of the store");
            }
        }
    }
}

fn read_snapshot(dir: &Path, base: Revision) -> Result<State, StoreError> {
    let path = SegmentKind::Snapshot.path(dir, base);
    let Opened::Reader(mut reader) = SegmentReader::open(&path, SegmentKind::Snapshot, base)?
    else {
        return Err(corrupt(&path, 0, "the snapshot has no header"));
    };
    let mut state = State::new(base);
    let mut loaded = 0;
    let mut ended = false;
    loop {
        match reader.next()? {
            Next::Frame => {}
            Next::End if ended => return Ok(state),
            Next::End => return Err(reader.corrupt("the snapshot ends early")),
            Next::Broken(why) => return Err(reader.corrupt(&why)),
        }
        for record in reader.records() {
            match record.map_err(|why| reader.corrupt(why))? {
                Record::Put {
                    revision,
                    create_revision,
                    key,
                    value,
                } if !ended => {
                    loaded += 1;
                    state.load(KeyValue {
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

/// Applies a log to `state`.
///
/// Returns the writer that continues the last log; `None` for any other log, and if the
/// last one has to be created again.
fn replay(
    dir: &Path,
    path: &Path,
    base: Revision,
    last: bool,
    state: &mut State,
    window: &Window,
    now: Instant,
) -> Result<Option<LogWriter>, StoreError> {
    let mut reader = match SegmentReader::open(path, SegmentKind::Log, base)? {
        Opened::Reader(reader) => reader,
        Opened::Unfinished if last => return Ok(None),
        Opened::Unfinished => return Err(corrupt(path, 0, "the log has no header")),
    };
    loop {
        match reader.next()? {
            Next::Frame => {}
            Next::End => break,
            Next::Broken(why) => {
                if !last || reader.intact_frame_follows()? {
                    return Err(reader.corrupt(&why));
                }
                tracing::warn!(
                    dir = %dir.display(),
                    offset = reader.offset(),
                    "dropping a torn last write: {why}"
                );
                break;
            }
        }
        for record in reader.records() {
            let change = to_change(record.map_err(|why| reader.corrupt(why))?, state)
                .map_err(|why| reader.corrupt(why))?;
            state.apply([change], now);
        }
        state.trim(window, now);
    }
    if !last {
        return Ok(None);
    }
    LogWriter::resume(path, reader.offset())
        .map(Some)
        .map_err(|e| disk(path, &e))
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
