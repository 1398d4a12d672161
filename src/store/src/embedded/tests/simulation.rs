//! The store on a simulated disk: whatever fails, and whenever the power is lost, what
//! was acknowledged is there at the next start.
//!
//! `RKUBE_STORE_SEEDS` sets the number of runs, `RKUBE_STORE_SEED` repeats one.

use std::collections::BTreeMap;

use nix::errno::Errno;

use super::*;
use crate::embedded::salvage::Contents;
use crate::embedded::sim_disk::{Fault, Random, SimDisk, Sync};
use crate::embedded::writer::Snapshot;

const PREALLOCATION: Preallocation = Preallocation {
    step: 4096,
    reserve: 1024,
};

fn options() -> EmbeddedOptions {
    EmbeddedOptions {
        log_bytes: 3000,
        history_changes: 20,
        ..EmbeddedOptions::default()
    }
}

/// Calls `run` with many seeds; that of a failure is printed.
fn for_seeds(default: u64, run: impl Fn(u64)) {
    struct Print(u64);
    impl Drop for Print {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("repeat with RKUBE_STORE_SEED={}", self.0);
            }
        }
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seeds = match number("RKUBE_STORE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RKUBE_STORE_SEEDS").unwrap_or(default),
    };
    for seed in seeds {
        let _print = Print(seed);
        run(seed);
    }
}

/// A write; `None` deletes the key.
type Write = (String, Option<String>);

/// Returns what a write may use of the reserve. Values that begin with an `m` are marks.
fn claim(value: Option<&str>) -> Claim {
    match value {
        None => Claim::All,
        Some(value) if value.starts_with('m') => Claim::Half,
        Some(_) => Claim::Nothing,
    }
}

/// The state that the store must hold.
#[derive(Clone, Default)]
struct Model {
    /// The newest revision that was acknowledged or read.
    newest: Revision,
    /// Value, revision of creation and of the last write.
    live: BTreeMap<String, (String, Revision, Revision)>,
    /// A commit that may or may not survive.
    unknown: Vec<Write>,
}

impl Model {
    fn new() -> Model {
        Model {
            newest: 1,
            ..Model::default()
        }
    }

    fn apply(&mut self, writes: &[Write]) {
        for (key, value) in writes {
            self.newest += 1;
            match value {
                Some(value) => {
                    let made = self.live.get(key).map_or(self.newest, |entry| entry.1);
                    let entry = (value.clone(), made, self.newest);
                    self.live.insert(key.clone(), entry);
                }
                None => {
                    self.live.remove(key);
                }
            }
        }
    }

    /// Compares it with a store that has just been opened.
    fn check(&mut self, shared: &Shared) {
        let state = shared.state.read();
        let unknown = std::mem::take(&mut self.unknown);
        if state.revision() != self.newest {
            // State that can be read now must never vanish.
            self.apply(&unknown);
        }
        assert_eq!(
            state.revision(),
            self.newest,
            "an acknowledged write is lost"
        );
        let found: BTreeMap<_, _> = state
            .entries()
            .into_iter()
            .map(|kv| {
                let value = String::from_utf8(kv.value.to_vec()).unwrap();
                let entry = (value, kv.create_revision, kv.mod_revision);
                (kv.key.to_string(), entry)
            })
            .collect();
        assert_eq!(found, self.live);
    }
}

fn open_sim(disk: &SimDisk) -> Result<(Arc<Shared>, Writer<SimDisk>), StoreError> {
    open_parts(disk.clone(), &options(), PREALLOCATION)
}

/// A store in a process that may end at any time.
struct Process {
    disk: SimDisk,
    shared: Arc<Shared>,
    writer: Writer<SimDisk>,
    snapshot: Option<Snapshot<SimDisk>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    Full,
    Failed,
}

impl Process {
    /// Opens a disk that does not fail.
    fn start(disk: SimDisk, model: &mut Model) -> Process {
        let (shared, writer) = open_sim(&disk).unwrap();
        model.check(&shared);
        Process {
            disk,
            shared,
            writer,
            snapshot: None,
        }
    }

    /// Makes random writes and commits them together.
    fn write(&mut self, model: &mut Model, random: &mut Random) -> Outcome {
        // As the thread does after a while.
        if self.shared.is_full() && random.once_in(2) {
            self.writer.try_room();
        }
        let mut after = model.clone();
        let mut writes = Vec::new();
        for _ in 0..=random.below(4) {
            let key = format!("/registry/{}", random.below(6));
            let deleted = random.once_in(4) && after.live.contains_key(&key);
            let length = match random.below(10) {
                0 => 1500,
                1 => 0,
                n => 20 * n,
            };
            let letter = char::from(b'a' + random.below(26) as u8);
            let value = (!deleted).then(|| letter.to_string().repeat(length as usize));
            let write = (key, value);
            after.apply(std::slice::from_ref(&write));
            writes.push(write);
        }
        self.commit(model, writes)
    }

    /// Commits writes together, without those that a full store refuses at once.
    fn commit(&mut self, model: &mut Model, offered: Vec<Write>) -> Outcome {
        let (mut writes, mut answers) = (Vec::new(), Vec::new());
        let mut after = model.clone();
        for (key, value) in offered {
            if value.is_none() && !after.live.contains_key(&key) {
                // The entry that it deletes was refused.
                continue;
            }
            let claim = claim(value.as_deref());
            let bytes = value.clone().map(Bytes::from);
            match self.shared.decide(&key, bytes, Expect::Any, claim) {
                Ok(answer) => {
                    answers.push(answer);
                    writes.push((key, value));
                    after.apply(&writes[writes.len() - 1..]);
                }
                Err(StoreError::Full(_)) => {
                    assert_eq!(claim, Claim::Nothing);
                    assert!(matches!(self.shared.health(), Err(StoreError::Full(_))));
                }
                Err(error) => panic!("{error}"),
            }
        }
        if answers.is_empty() {
            return Outcome::Full;
        }
        let goes_on = self.writer.step();
        let mut outcomes = answers.into_iter().enumerate().map(|(i, mut answer)| {
            match answer.try_recv().expect("an answer") {
                Ok((_, revision)) => {
                    assert_eq!(revision, model.newest + 1 + i as u64);
                    Outcome::Done
                }
                Err(StoreError::Full(_)) => Outcome::Full,
                Err(StoreError::Disk(_)) => Outcome::Failed,
                Err(error) => panic!("{error}"),
            }
        });
        let outcome = outcomes.next().expect("a write");
        assert!(outcomes.all(|o| o == outcome), "a commit is one");
        match outcome {
            Outcome::Done => model.apply(&writes),
            Outcome::Full => assert!(matches!(self.shared.health(), Err(StoreError::Full(_)))),
            Outcome::Failed => {
                model.unknown = writes;
                assert!(matches!(self.shared.health(), Err(StoreError::Disk(_))));
            }
        }
        assert_eq!(goes_on, outcome != Outcome::Failed);
        outcome
    }

    /// Rotates as the writer's and the snapshot's thread do, in any order.
    fn rotate(&mut self, random: &mut Random) {
        if self.snapshot.is_none() {
            self.snapshot = self.writer.begin_log();
        }
        if random.once_in(2)
            && let Some(snapshot) = self.snapshot.take()
        {
            match random.once_in(3) {
                true => snapshot.on(self.disk.stalling(random.below(14))).take(),
                false => snapshot.take(),
            }
        }
    }

    /// Ends the process, by a power cut or not, and returns the disk.
    fn end(self, random: &mut Random) -> SimDisk {
        match random.once_in(3) {
            true => self.disk.kill(),
            false => self.disk.restart(),
        }
    }
}

fn fault(random: &mut Random) -> Fault {
    match random.below(6) {
        0 | 1 => Fault::Crash,
        2 => Fault::CrashWithin,
        3 => Fault::Error(Errno::EIO),
        4 => Fault::Error(Errno::ENOSPC),
        _ => Fault::Error(Errno::EMFILE),
    }
}

/// Runs a process until it fails or has done enough.
fn run_process(process: &mut Process, model: &mut Model, random: &mut Random) {
    // Short lives show what rests on a later commit.
    let commits = match random.once_in(2) {
        true => random.below(3),
        false => random.below(60),
    };
    for _ in 0..commits {
        if random.once_in(10) {
            let room = random.once_in(2).then(|| random.below(3000) as usize);
            process.disk.limit(room);
        }
        if random.once_in(8) {
            let fault = fault(random);
            process.disk.inject(random.below(12), fault);
        }
        if process.write(model, random) == Outcome::Failed {
            break;
        }
        process.rotate(random);
        if process.disk.has_crashed() {
            break;
        }
    }
}

/// Runs a store on a disk that fails, through several starts.
fn survive(seed: u64, mut disk: SimDisk) {
    let mut random = Random::new(seed);
    let mut model = Model::new();
    for _ in 0..8 {
        while random.once_in(4) {
            // A start that fails changes nothing for the next.
            disk.inject(random.below(12), fault(&mut random));
            if let Err(error) = open_sim(&disk) {
                assert!(matches!(error, StoreError::Disk(_)), "{error}");
            }
            disk = match random.once_in(2) {
                true => disk.kill(),
                false => disk.restart(),
            };
        }
        let mut process = Process::start(disk, &mut model);
        run_process(&mut process, &mut model, &mut random);
        disk = process.end(&mut random);
    }
    drop(Process::start(disk.restart(), &mut model));
}

#[test]
fn nothing_acknowledged_is_lost_whatever_fails() {
    for_seeds(200, |seed| survive(seed, SimDisk::new(seed)));
}

/// Proves that the other tests are effective: they fail when any of the syncs is missing.
#[test]
fn every_sync_is_needed() {
    for sync in [Sync::Commit, Sync::New, Sync::Old, Sync::Names] {
        let missed = (0..3000).any(|seed| {
            let run = || {
                let disk = SimDisk::new(seed);
                disk.leave_out(sync);
                survive(seed, disk);
            };
            std::panic::catch_unwind(run).is_err()
        });
        assert!(missed, "nothing needs {sync:?}");
    }
}

/// Fills logs, rotates and takes snapshots, with one fault at an operation.
fn scenario(seed: u64, at: Option<(u64, Fault)>) -> u64 {
    let mut random = Random::new(seed);
    let mut model = Model::new();
    let disk = SimDisk::new(seed);
    if let Some((at, fault)) = at {
        disk.inject(at, fault);
    }
    let (shared, writer) = match open_sim(&disk) {
        Ok(opened) => opened,
        Err(StoreError::Disk(_)) => {
            drop(Process::start(disk.restart(), &mut model));
            return 0;
        }
        Err(error) => panic!("{error}"),
    };
    let mut process = Process {
        disk: disk.clone(),
        shared,
        writer,
        snapshot: None,
    };
    for _ in 0..40 {
        if process.write(&mut model, &mut random) == Outcome::Failed {
            break;
        }
        if let Some(snapshot) = process.writer.begin_log() {
            snapshot.take();
        }
    }
    let operations = disk.operations();
    let mut process = Process::start(process.disk.restart(), &mut model);
    assert_eq!(process.write(&mut model, &mut random), Outcome::Done);
    drop(Process::start(process.disk.restart(), &mut model));
    operations
}

#[test]
fn every_operation_may_be_the_last_or_fail() {
    let operations = scenario(7, None);
    assert!(operations > 100, "{operations}");
    let errors = [Errno::EIO, Errno::ENOSPC, Errno::EMFILE].map(Fault::Error);
    for fault in [Fault::Crash, Fault::CrashWithin].into_iter().chain(errors) {
        for at in 0..operations {
            scenario(7, Some((at, fault)));
        }
    }
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_room() {
    let mut model = Model::new();
    let mut process = Process::start(SimDisk::new(1), &mut model);
    let write = |i: usize| vec![(format!("/k{i}"), Some("v".repeat(100)))];
    process.disk.limit(Some(0));
    let mut done = 0;
    while process.commit(&mut model, write(done)) == Outcome::Done {
        done += 1;
        assert!(done < 1000);
    }
    assert!(done > 5, "there was room written ahead");
    // Deletions have a reserve.
    let deleted = vec![("/k0".to_owned(), None)];
    assert_eq!(process.commit(&mut model, deleted), Outcome::Done);
    assert!(process.shared.health().is_err());
    assert_eq!(process.commit(&mut model, write(0)), Outcome::Full);
    process.writer.try_room();
    assert!(process.shared.health().is_err());
    // A start on a full disk is no problem.
    let disk = process.disk.restart();
    disk.limit(Some(0));
    let mut process = Process::start(disk, &mut model);
    assert_eq!(process.commit(&mut model, write(0)), Outcome::Full);
    process.disk.limit(None);
    process.writer.try_room();
    assert_eq!(process.shared.health(), Ok(()));
    assert_eq!(process.commit(&mut model, write(0)), Outcome::Done);
}

#[test]
fn a_full_disk_takes_the_steps_of_deletions() {
    let mut model = Model::new();
    let mut process = Process::start(SimDisk::new(1), &mut model);
    let write = |i: usize, letter: &str| vec![(format!("/k{i}"), Some(letter.repeat(100)))];
    process.disk.limit(Some(0));
    while process.commit(&mut model, write(0, "v")) == Outcome::Done {}
    let mut marks = 0;
    while process.commit(&mut model, write(0, "m")) == Outcome::Done {
        marks += 1;
        assert!(marks < 100, "marks have no end");
    }
    assert!(marks >= 2, "{marks} marks");
    assert_eq!(process.commit(&mut model, write(0, "v")), Outcome::Full);
    // Other writes share no commit with a deletion: neither it nor the next one lacks the room.
    let large = vec![
        ("/k0".to_owned(), None),
        ("/large".to_owned(), Some("v".repeat(5000))),
        ("/small".to_owned(), Some("v".to_owned())),
    ];
    assert_eq!(process.commit(&mut model, large), Outcome::Done);
    assert!(model.live.is_empty());
    assert!(process.shared.health().is_err());
    drop(Process::start(process.disk.restart(), &mut model));
}

#[test]
fn a_deletion_that_finds_the_disk_full_stops_other_writes() {
    let mut model = Model::new();
    let mut process = Process::start(SimDisk::new(1), &mut model);
    let both = |i: usize| {
        vec![
            (format!("/k{}", i % 2), None),
            (format!("/k{}", (i + 1) % 2), Some("v".repeat(100))),
        ]
    };
    let first = vec![("/k0".to_owned(), Some("v".to_owned()))];
    assert_eq!(process.commit(&mut model, first), Outcome::Done);
    process.disk.limit(Some(0));
    let mut i = 0;
    while process.shared.health().is_ok() {
        assert_eq!(process.commit(&mut model, both(i)), Outcome::Done);
        i += 1;
        assert!(i < 1000);
    }
    // That one was not known to be without room. From now on, the reserve is left to deletions.
    let next = both(i);
    assert_eq!(process.commit(&mut model, next), Outcome::Done);
    assert!(model.live.is_empty(), "{:?}", model.live);
    process.disk.limit(None);
    let deleted = vec![(format!("/k{}", i % 2), Some("m".to_owned()))];
    assert_eq!(process.commit(&mut model, deleted), Outcome::Done);
    assert_eq!(process.shared.health(), Ok(()));
    drop(Process::start(process.disk.restart(), &mut model));
}

#[test]
fn a_rotation_does_not_give_the_reserve_away() {
    for room in [0, 600, PREALLOCATION.reserve as usize] {
        let mut model = Model::new();
        let mut process = Process::start(SimDisk::new(1), &mut model);
        let write = |i: usize| vec![(format!("/k{}", i % 4), Some("v".repeat(100)))];
        let mut i = 0;
        // Just before the log is long enough.
        while process.writer.log_len() < options().log_bytes {
            assert_eq!(process.commit(&mut model, write(i)), Outcome::Done);
            i += 1;
        }
        process.disk.limit(Some(room));
        assert!(process.writer.begin_log().is_none(), "with {room} bytes");
        while process.commit(&mut model, write(i)) == Outcome::Done {
            i += 1;
        }
        let marked = vec![("/k0".to_owned(), Some("m".repeat(100)))];
        assert_eq!(process.commit(&mut model, marked), Outcome::Done);
        let deleted = vec![("/k0".to_owned(), None)];
        assert_eq!(process.commit(&mut model, deleted), Outcome::Done);
        process.disk.limit(None);
        process.writer.try_room();
        assert_eq!(process.commit(&mut model, write(i)), Outcome::Done);
        drop(Process::start(process.disk.restart(), &mut model));
    }
}

/// Returns a store with its thread on a simulated disk.
fn threaded(disk: &SimDisk, lock: &TempDir) -> Arc<EmbeddedStore> {
    let (shared, writer) = open_sim(disk).unwrap();
    Arc::new(EmbeddedStore {
        shared,
        writer: Some(std::thread::spawn(move || writer.run())),
        _lock: prepare(lock.path(), Duration::ZERO).unwrap(),
    })
}

#[test]
fn a_full_disk_is_noticed_to_have_room_while_nobody_writes() {
    let lock = TempDir::new().unwrap();
    let disk = SimDisk::new(1);
    let store = threaded(&disk, &lock);
    run(async {
        put(&store, "/k", "v").await;
        disk.limit(Some(0));
        let large = Bytes::from("v".repeat(10_000));
        let refused = store.put("/large", large, Expect::Any).await;
        assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
        assert!(store.health().is_err());
        assert_eq!(store.revision(), 2);
        disk.limit(None);
    });
    let began = Instant::now();
    while store.health().is_err() {
        assert!(began.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(20));
    }
    run(put(&store, "/k", "again"));
}

#[test]
fn a_full_disk_is_noticed_to_have_room_while_others_write() {
    let lock = TempDir::new().unwrap();
    let disk = SimDisk::new(1);
    let store = threaded(&disk, &lock);
    run(async {
        disk.limit(Some(0));
        let large = Bytes::from("v".repeat(10_000));
        let refused = store.put("/large", large, Expect::Any).await;
        assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
        disk.limit(None);
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < Duration::from_secs(30));
            match store.put("/k", Bytes::from("v"), Expect::Any).await {
                Ok(_) => break,
                Err(error) => assert!(matches!(error, StoreError::Full(_)), "{error}"),
            }
        }
    });
}

#[test]
fn a_failed_disk_ends_all_writes_and_is_told() {
    let lock = TempDir::new().unwrap();
    let disk = SimDisk::new(1);
    let store = threaded(&disk, &lock);
    run(async {
        put(&store, "/k", "v").await;
        let mut failed = store.failed();
        assert!(futures::poll!(&mut failed).is_pending());
        // The write of the frame succeeds, its sync does not.
        disk.inject(1, Fault::Error(Errno::EIO));
        for _ in 0..2 {
            let put = store.put("/k", Bytes::from("w"), Expect::Any);
            assert!(matches!(put.await, Err(StoreError::Disk(_))));
        }
        assert!(matches!(failed.await, StoreError::Disk(_)));
        assert!(matches!(store.health(), Err(StoreError::Disk(_))));
        assert_eq!(store.get("/k").await.unwrap().0.unwrap().value, "v");
    });
}

#[test]
fn a_failed_rotation_keeps_nobody_from_opening() {
    // The states of a log at each step of its creation, in the first format and in this.
    for left in [0, 10, 24, 28] {
        let mut model = Model::new();
        let mut process = Process::start(SimDisk::new(1), &mut model);
        let write = |i: usize| vec![(format!("/k{i}"), Some("v".to_owned()))];
        for i in 0..10 {
            process.commit(&mut model, write(i));
        }
        let header = frame::segment_header(frame::SegmentKind::Log, 11, 5);
        let name = frame::SegmentKind::Log.name(11);
        process.disk.put(&name, header[..left].to_vec());
        process.commit(&mut model, write(11));
        drop(Process::start(process.disk.restart(), &mut model));
    }
}

/// Returns a disk with two generations, and what is on it.
fn filled(seed: u64) -> (SimDisk, Model) {
    let mut random = Random::new(seed);
    let mut model = Model::new();
    let mut process = Process::start(SimDisk::new(seed), &mut model);
    for _ in 0..60 + random.below(40) {
        process.write(&mut model, &mut random);
        if let Some(snapshot) = process.writer.begin_log() {
            snapshot.take();
        }
    }
    process.disk.sync_names().unwrap();
    (process.disk.restart(), model)
}

#[test]
fn a_flipped_bit_is_reported_or_costs_nothing() {
    for_seeds(100, |seed| {
        let (disk, mut model) = filled(seed);
        let mut random = Random::new(seed);
        let files = disk.names().unwrap();
        let file = &files[random.below(files.len() as u64) as usize];
        let mut bytes = disk.bytes(file);
        let used = bytes.iter().rposition(|b| *b != 0).unwrap() as u64 + 1;
        let at = random.below(used) as usize;
        bytes[at] ^= 1 << random.below(8);
        disk.put(file, bytes);
        let newest = salvage::check(&disk).unwrap();
        assert!(!newest.is_sound(), "{file}: byte {at}");
        let mut found = Contents::default();
        found.read_all(&disk).unwrap();
        match open_sim(&disk) {
            Ok((shared, _)) => model.check(&shared),
            Err(StoreError::Corrupt(_)) => {}
            Err(error) => panic!("{error}"),
        }
        // One commit at most is lost, and it changed no more than four keys.
        let entries: BTreeMap<_, _> = found
            .entries()
            .into_iter()
            .map(|kv| (kv.key.to_string(), kv.mod_revision))
            .collect();
        let wrong =
            |key: &String| entries.get(key).copied() != model.live.get(key).map(|entry| entry.2);
        let keys: std::collections::BTreeSet<_> = entries.keys().chain(model.live.keys()).collect();
        let wrong = keys.into_iter().filter(|key| wrong(key)).count();
        assert!(wrong <= 4, "{file}: byte {at} costs {wrong} keys");
    });
}

#[test]
fn a_damaged_snapshot_is_replaced_by_the_one_before_it() {
    for_seeds(30, |seed| {
        let (disk, mut model) = filled(seed);
        let snapshots: Vec<_> = disk
            .names()
            .unwrap()
            .into_iter()
            .filter(|name| name.starts_with("snapshot-"))
            .collect();
        assert_eq!(snapshots.len(), 2, "{snapshots:?}");
        let mut bytes = disk.bytes(&snapshots[1]);
        let at = Random::new(seed).below(bytes.len() as u64) as usize;
        bytes[at] ^= 0x10;
        disk.put(&snapshots[1], bytes);
        let mut process = Process::start(disk, &mut model);
        let mut random = Random::new(seed);
        for _ in 0..80 {
            process.write(&mut model, &mut random);
            if let Some(snapshot) = process.writer.begin_log() {
                snapshot.take();
            }
        }
        let names = process.disk.names().unwrap();
        drop(Process::start(process.disk.restart(), &mut model));
        assert!(!names.iter().any(|n| n.ends_with(".damaged")), "{names:?}");
        assert_eq!(names.len(), 4, "{names:?}");
    });
}
