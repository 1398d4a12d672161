//! Entry points of the fuzz target `store` (`tests/fuzz`) to the private formats of files.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::disk::{Disk, DiskFile};
use super::frame::{FrameBuilder, SegmentKind, segment_header};
use super::log::Preallocation;
use super::recovery::recover;
use super::salvage::check;
use super::sim_disk::SimDisk;
use super::state::Window;
use crate::types::{Change, KeyValue, StoreError};

/// A record of a segment. Those of one frame are written together.
#[derive(Clone, Debug)]
pub struct Record {
    /// The kind: an entry, a deletion, the end of a snapshot, or the end of a frame.
    pub kind: u8,
    /// The revision, or the number of entries before the end.
    pub number: u64,
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
}

/// A segment's file.
#[derive(Clone, Debug)]
pub struct File {
    /// Whether it is a snapshot, and no log.
    pub snapshot: bool,
    /// The base revision.
    pub base: u64,
    /// Its content.
    pub records: Vec<Record>,
    /// Changes: an offset, and what the byte there is combined with by exclusive or.
    pub damage: Vec<(u16, u8)>,
}

impl File {
    fn bytes(&self) -> Vec<u8> {
        const SALT: u32 = 7;
        let mut bytes = segment_header(self.kind(), self.base, SALT);
        let mut frame = FrameBuilder::begin();
        for record in &self.records {
            let entry = KeyValue {
                key: Arc::from(record.key.as_str()),
                value: Bytes::from(record.value.clone()),
                create_revision: record.number,
                mod_revision: record.number,
            };
            match record.kind % 4 {
                0 => frame.entry(&entry),
                1 => frame.change(&Change::Delete {
                    before: Arc::new(entry),
                    revision: record.number,
                }),
                2 => frame.end(record.number),
                _ => {
                    bytes.extend_from_slice(frame.finish(SALT));
                    frame.reset();
                }
            }
        }
        bytes.extend_from_slice(frame.finish(SALT));
        for (at, change) in &self.damage {
            if let Some(byte) = bytes.get_mut(usize::from(*at)) {
                *byte ^= change;
            }
        }
        bytes
    }

    fn kind(&self) -> SegmentKind {
        match self.snapshot {
            true => SegmentKind::Snapshot,
            false => SegmentKind::Log,
        }
    }
}

/// Opens a store of these files. One that opens is checked as sound, and opens again with the same
/// revision and entries.
pub fn open(files: &[File]) {
    let disk = SimDisk::new(1);
    for file in files {
        let name = file.kind().name(file.base);
        let written = disk.create(&name).expect("a file");
        written.write_at(&file.bytes(), 0).expect("a write");
    }
    let window = Window {
        changes: 100,
        bytes: 1 << 20,
        age: Duration::from_secs(60),
    };
    let room = Preallocation::default();
    let checked = check(&disk);
    let first = match recover(&disk, &window, room) {
        Ok((state, _)) => state,
        Err(StoreError::Corrupt(_)) => return,
        Err(error) => panic!("neither sound nor damaged: {error}"),
    };
    let checked = checked.expect("what opens can be checked");
    let (revision, entries) = checked.opens.expect("the check says that it opens");
    assert_eq!(
        (revision, entries),
        (first.revision(), first.entries().len())
    );
    let (again, _) = recover(&disk, &window, room).expect("it opens again");
    assert_eq!(again.revision(), first.revision());
    assert_eq!(again.entries(), first.entries());
}
