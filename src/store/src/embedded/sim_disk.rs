//! A disk in memory that fails, crashes, and forgets what was not synced. Tests run the store on it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use parking_lot::Mutex;

use crate::embedded::disk::{Disk, DiskFile};

const SECTOR: usize = 512;

/// A sequence of random numbers (xorshift64*), the same for the same seed.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    /// Returns the sequence of a seed.
    pub fn new(seed: u64) -> Random {
        // Neighbouring seeds must not give similar sequences.
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..4 {
            random.number();
        }
        random
    }

    /// Returns the next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Returns a number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.number() >> 16) % end
    }

    /// Returns `true` once in `times` calls.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// The outcome of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Power is lost. The operation, and every later one, fails without effect.
    Crash,
    /// Power is lost, and a write has reached the cache in part.
    CrashWithin,
    /// The operation fails; of a write, a part is done.
    Error(Errno),
}

/// A kind of sync, which a disk may leave out to show that it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Of a commit.
    Commit,
    /// Of a file that was created by the same process.
    New,
    /// Of a log that is continued.
    Old,
    /// Of names.
    Names,
}

/// A file: what programs see, and what a power cut leaves at least.
#[derive(Clone, Default)]
struct Node {
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that differ.
    dirty: BTreeSet<usize>,
}

/// An operation on names that a power cut may undo.
#[derive(Clone, Debug)]
enum NameChange {
    Set(String, u64),
    Rename(String, String, u64),
    Remove(String),
}

struct Inner {
    random: Random,
    nodes: HashMap<u64, Node>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    name_changes: Vec<NameChange>,
    operations: u64,
    faults: BTreeMap<u64, Fault>,
    crashed: bool,
    /// The bytes that fit on the disk.
    capacity: usize,
    left_out: Option<Sync>,
}

/// The disk. Its clones are views of the same one.
#[derive(Clone)]
pub struct SimDisk {
    inner: Arc<Mutex<Inner>>,
    /// The number of operations after which this view has no effect any more, as if the
    /// thread that uses it were never scheduled again.
    left: Option<Arc<Mutex<u64>>>,
}

pub(super) struct SimFile {
    disk: SimDisk,
    node: u64,
    created: bool,
}

impl SimDisk {
    /// Returns an empty disk, whose choices come from `seed`.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk {
            inner: Arc::new(Mutex::new(Inner {
                random: Random::new(seed),
                nodes: HashMap::new(),
                names: BTreeMap::new(),
                durable_names: BTreeMap::new(),
                name_changes: Vec::new(),
                operations: 0,
                faults: BTreeMap::new(),
                crashed: false,
                capacity: usize::MAX,
                left_out: None,
            })),
            left: None,
        }
    }

    /// Returns a view that has no effect after `operations` more.
    pub fn stalling(&self, operations: u64) -> SimDisk {
        SimDisk {
            inner: self.inner.clone(),
            left: Some(Arc::new(Mutex::new(operations))),
        }
    }

    /// Lets a fault happen at the operation after `skipped` more.
    pub fn inject(&self, skipped: u64, fault: Fault) {
        let mut inner = self.inner.lock();
        let at = inner.operations + skipped;
        inner.faults.insert(at, fault);
    }

    /// Leaves out a kind of sync from now on.
    pub fn leave_out(&self, sync: Sync) {
        self.inner.lock().left_out = Some(sync);
    }

    /// Returns the number of operations so far.
    pub fn operations(&self) -> u64 {
        self.inner.lock().operations
    }

    /// Returns whether power was lost.
    pub fn has_crashed(&self) -> bool {
        self.inner.lock().crashed
    }

    /// Leaves room for `bytes` more; `None` for any number.
    pub fn limit(&self, bytes: Option<usize>) {
        let mut inner = self.inner.lock();
        let used = inner.used();
        inner.capacity = bytes.map_or(usize::MAX, |bytes| used + bytes);
    }

    /// Cuts the power and returns the disk that the next start finds: everything that was
    /// synced, and any of the rest.
    pub fn restart(&self) -> SimDisk {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        inner.crashed = true;
        for node in inner.nodes.values_mut() {
            let all: Vec<usize> = node.dirty.iter().copied().collect();
            for sector in all {
                if inner.random.once_in(2) {
                    node.flush(sector);
                }
            }
        }
        let mut names = inner.durable_names.clone();
        for change in &inner.name_changes {
            if inner.random.once_in(2) {
                change.apply(&mut names);
            }
        }
        let used: BTreeSet<u64> = names.values().copied().collect();
        let nodes = inner
            .nodes
            .iter()
            .filter(|(number, _)| used.contains(number))
            .map(|(number, node)| {
                let bytes = node.durable.clone();
                let node = Node {
                    seen: bytes.clone(),
                    durable: bytes,
                    dirty: BTreeSet::new(),
                };
                (*number, node)
            })
            .collect();
        let disk = SimDisk::new(inner.random.number());
        {
            let mut next = disk.inner.lock();
            next.nodes = nodes;
            next.names = names.clone();
            next.durable_names = names;
            next.left_out = inner.left_out;
        }
        disk
    }

    /// Ends the process and returns the disk that the next one finds: everything that was
    /// written, synced or not.
    pub fn kill(&self) -> SimDisk {
        let mut inner = self.inner.lock();
        inner.crashed = true;
        let next = Inner {
            random: Random::new(inner.random.number()),
            nodes: inner.nodes.clone(),
            names: inner.names.clone(),
            durable_names: inner.durable_names.clone(),
            name_changes: inner.name_changes.clone(),
            operations: 0,
            faults: BTreeMap::new(),
            crashed: false,
            capacity: usize::MAX,
            left_out: inner.left_out,
        };
        SimDisk {
            inner: Arc::new(Mutex::new(next)),
            left: None,
        }
    }

    /// Returns the bytes of a file as programs see them.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let inner = self.inner.lock();
        inner.nodes[&inner.names[name]].seen.clone()
    }

    /// Replaces a file, durably.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let mut inner = self.inner.lock();
        let number = inner.number();
        let node = Node {
            seen: bytes.clone(),
            durable: bytes,
            dirty: BTreeSet::new(),
        };
        inner.nodes.insert(number, node);
        inner.names.insert(name.to_owned(), number);
        inner.durable_names.insert(name.to_owned(), number);
    }

    /// Counts an operation. Returns what happens at it, if it is not done as asked.
    fn step(&self) -> Result<Option<Fault>, io::Error> {
        if let Some(left) = &self.left {
            let mut left = left.lock();
            if *left == 0 {
                return Err(errno(Errno::EIO));
            }
            *left -= 1;
        }
        let mut inner = self.inner.lock();
        if inner.crashed {
            return Err(errno(Errno::EIO));
        }
        let at = inner.operations;
        inner.operations += 1;
        inner.write_back();
        let fault = inner.faults.remove(&at);
        if matches!(fault, Some(Fault::Crash | Fault::CrashWithin)) {
            inner.crashed = true;
        }
        Ok(fault)
    }

    /// Like [`Self::step`], for operations that are done or not.
    fn whole(&self) -> io::Result<()> {
        match self.step()? {
            None => Ok(()),
            Some(Fault::Crash | Fault::CrashWithin) => Err(errno(Errno::EIO)),
            Some(Fault::Error(code)) => Err(errno(code)),
        }
    }
}

fn errno(code: Errno) -> io::Error {
    io::Error::from_raw_os_error(code as i32)
}

impl Inner {
    fn used(&self) -> usize {
        self.names.values().map(|n| self.nodes[n].seen.len()).sum()
    }

    fn number(&self) -> u64 {
        self.nodes.keys().max().map_or(1, |n| n + 1)
    }

    /// Writes something of the cache to the disk, as the system does at any time.
    fn write_back(&mut self) {
        if !self.random.once_in(3) {
            return;
        }
        let numbers: BTreeSet<u64> = self.nodes.keys().copied().collect();
        for number in numbers {
            let dirty: Vec<usize> = self.nodes[&number].dirty.iter().copied().collect();
            for sector in dirty {
                if self.random.once_in(3)
                    && let Some(node) = self.nodes.get_mut(&number)
                {
                    node.flush(sector);
                }
            }
        }
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.name_changes.push(change);
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Set(name, node) => {
                names.insert(name.clone(), *node);
            }
            NameChange::Rename(from, to, node) => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
            NameChange::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl Node {
    /// Makes one sector durable, and with it the file's length as far as the sector.
    fn flush(&mut self, sector: usize) {
        self.dirty.remove(&sector);
        let start = sector * SECTOR;
        let end = (start + SECTOR).min(self.seen.len());
        if start >= self.seen.len() {
            // Cut off.
            self.durable.truncate(start.max(self.seen.len()));
            return;
        }
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        let length = self.durable.len().min(start + SECTOR);
        self.durable[start..end].copy_from_slice(&self.seen[start..end]);
        if length > end {
            self.durable.truncate(end);
        }
    }

    fn flush_all(&mut self) {
        self.durable = self.seen.clone();
        self.dirty.clear();
    }

    fn touch(&mut self, start: usize, end: usize) {
        if end > start {
            self.dirty.extend(start / SECTOR..=(end - 1) / SECTOR);
        }
    }

    fn write(&mut self, bytes: &[u8], at: usize) {
        let end = at + bytes.len();
        let old = self.seen.len();
        if old < end {
            self.seen.resize(end, 0);
            self.touch(old, end);
        }
        self.seen[at..end].copy_from_slice(bytes);
        self.touch(at, end);
    }

    fn set_len(&mut self, length: usize) {
        let old = self.seen.len().max(self.durable.len());
        self.seen.resize(length, 0);
        self.touch(length.min(old), length.max(old));
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn create(&self, name: &str) -> io::Result<SimFile> {
        self.whole()?;
        let mut inner = self.inner.lock();
        let node = match inner.names.get(name).copied() {
            Some(node) => {
                inner.nodes.get_mut(&node).expect("a file").set_len(0);
                node
            }
            None => {
                let node = inner.number();
                inner.nodes.insert(node, Node::default());
                inner.change_name(NameChange::Set(name.to_owned(), node));
                node
            }
        };
        Ok(SimFile {
            disk: self.clone(),
            node,
            created: true,
        })
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        self.whole()?;
        let inner = self.inner.lock();
        let node = inner.names.get(name).ok_or_else(|| errno(Errno::ENOENT))?;
        Ok(SimFile {
            disk: self.clone(),
            node: *node,
            created: false,
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.whole()?;
        let mut inner = self.inner.lock();
        let node = inner.names.get(from).copied();
        let node = node.ok_or_else(|| errno(Errno::ENOENT))?;
        inner.change_name(NameChange::Rename(from.to_owned(), to.to_owned(), node));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.whole()?;
        let mut inner = self.inner.lock();
        if !inner.names.contains_key(name) {
            return Err(errno(Errno::ENOENT));
        }
        inner.change_name(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.whole()?;
        Ok(self.inner.lock().names.keys().cloned().collect())
    }

    fn sync_names(&self) -> io::Result<()> {
        self.whole()?;
        let mut inner = self.inner.lock();
        if inner.left_out == Some(Sync::Names) {
            return Ok(());
        }
        inner.durable_names = inner.names.clone();
        inner.name_changes.clear();
        Ok(())
    }

    fn salt(&self) -> u32 {
        self.inner.lock().random.number() as u32
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new("/sim").join(name)
    }
}

impl SimFile {
    fn sync(&self, kind: Sync) -> io::Result<()> {
        let fault = self.disk.step()?;
        let mut inner = self.disk.inner.lock();
        let inner = &mut *inner;
        if inner.left_out == Some(kind) && fault.is_none() {
            return Ok(());
        }
        let node = inner.nodes.get_mut(&self.node).expect("a file");
        match fault {
            None => {
                node.flush_all();
                Ok(())
            }
            Some(Fault::Crash | Fault::CrashWithin) => Err(errno(Errno::EIO)),
            Some(Fault::Error(code)) => {
                // Some of it is written. The rest counts as written, so that no later sync
                // writes it, as in Linux.
                for sector in std::mem::take(&mut node.dirty) {
                    if inner.random.once_in(2) {
                        node.flush(sector);
                    }
                }
                Err(errno(code))
            }
        }
    }
}

impl DiskFile for SimFile {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let fault = self.disk.step()?;
        let mut inner = self.disk.inner.lock();
        let inner = &mut *inner;
        let used = inner.used();
        let node = inner.nodes.get_mut(&self.node).expect("a file");
        let at = at as usize;
        let grows = (at + bytes.len()).saturating_sub(node.seen.len());
        let over = (used + grows).saturating_sub(inner.capacity).min(grows);
        let part = inner.random.below(bytes.len() as u64 + 1) as usize;
        let (done, result) = match fault {
            Some(Fault::Crash) => return Err(errno(Errno::EIO)),
            Some(Fault::CrashWithin) => (part, Err(errno(Errno::EIO))),
            Some(Fault::Error(code)) => (part, Err(errno(code))),
            None if over > 0 => (bytes.len().saturating_sub(over), Err(errno(Errno::ENOSPC))),
            None => (bytes.len(), Ok(())),
        };
        // Systems copy whole blocks.
        let done = match result.is_ok() {
            true => done,
            false => ((at + done) / SECTOR * SECTOR).saturating_sub(at),
        };
        node.write(&bytes[..done], at);
        result
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        // Without faults, which would only be more of the same errors.
        if self.disk.has_crashed() {
            return Err(errno(Errno::EIO));
        }
        let inner = self.disk.inner.lock();
        let seen = &inner.nodes[&self.node].seen;
        let rest = seen.get(at as usize..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync(Sync::Commit)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync(match self.created {
            true => Sync::New,
            false => Sync::Old,
        })
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.disk.whole()?;
        let mut inner = self.disk.inner.lock();
        let node = inner.nodes.get_mut(&self.node).expect("a file");
        node.set_len(length as usize);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.inner.lock().nodes[&self.node].seen.len() as u64)
    }
}
