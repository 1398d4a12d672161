use tempfile::TempDir;

use super::super::frame::{SEGMENT_HEADER, SegmentKind};

use super::*;

#[test]
fn a_log_cut_anywhere_in_its_last_commits_opens_at_a_commit() {
    let dir = TempDir::new().unwrap();
    let mut ends = Vec::new();
    run(async {
        let store = open(dir.path());
        for i in 0..6 {
            put(&store, &format!("/k{}", i % 2), &format!("value {i}")).await;
            ends.push(written(&log_files(dir.path())[0]).len());
        }
    });
    let whole = written(&log_files(dir.path())[0]);
    let copy = TempDir::new().unwrap();
    let log = copy.path().join(SegmentKind::Log.name(1));
    for cut in 0..=whole.len() {
        std::fs::write(&log, &whole[..cut]).unwrap();
        let store = open(copy.path());
        let commits = ends.iter().filter(|end| **end <= cut).count() as u64;
        assert_eq!(store.revision(), 1 + commits, "cut at byte {cut}");
        if cut % 7 == 0 {
            // The next write continues after the last whole commit.
            run(put(&store, "/next", "x"));
            drop(store);
            assert_eq!(
                open(copy.path()).revision(),
                2 + commits,
                "cut at byte {cut}"
            );
        }
    }
    // A crash of the machine leaves zeros in place of the rest.
    for cut in SEGMENT_HEADER..=whole.len() {
        if ends.iter().any(|end| (end - 8 + 1..*end).contains(&cut)) {
            // So little is missing that it may be what was written.
            continue;
        }
        let mut torn = whole[..cut].to_vec();
        torn.resize(whole.len() + 8192, 0);
        std::fs::write(&log, &torn).unwrap();
        let commits = ends.iter().filter(|end| **end <= cut).count() as u64;
        assert_eq!(
            open(copy.path()).revision(),
            1 + commits,
            "zeros from byte {cut}"
        );
    }
    // A hole in acknowledged data is not the end of the log.
    let mut holed = whole.clone();
    holed[ends[2]..ends[3]].fill(0);
    std::fs::write(&log, &holed).unwrap();
    let opened = EmbeddedStore::open(copy.path(), EmbeddedOptions::default());
    assert!(matches!(opened.err(), Some(StoreError::Corrupt(_))));
}

#[test]
fn room_is_written_ahead_and_grows_with_the_log() {
    let dir = TempDir::new().unwrap();
    let size = || log_files(dir.path())[0].metadata().unwrap().len();
    run(async {
        let store = open(dir.path());
        let fresh = size();
        for i in 0..100 {
            put(&store, "/k", &format!("value {i}")).await;
        }
        assert_eq!(size(), fresh, "what was written found room");
        put(&store, "/large", &"v".repeat(2 << 20)).await;
        assert!(size() > fresh + (2 << 20), "{} bytes", size());
        put(&store, "/k", "after").await;
    });
    assert_eq!(open(dir.path()).revision(), 1 + 102);
}

#[test]
fn a_torn_last_commit_is_dropped_and_damage_reported() {
    let dir = TempDir::new().unwrap();
    let mut ends = Vec::new();
    run(async {
        let store = open(dir.path());
        for i in 0..4 {
            put(&store, "/k", &format!("value {i}")).await;
            ends.push(written(&log_files(dir.path())[0]).len());
        }
    });
    let whole = written(&log_files(dir.path())[0]);
    let copy = TempDir::new().unwrap();
    let log = copy.path().join(SegmentKind::Log.name(1));
    let try_open = |bytes: &[u8]| {
        std::fs::write(&log, bytes).unwrap();
        EmbeddedStore::open(copy.path(), EmbeddedOptions::default()).map(|s| s.revision())
    };
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        let opened = try_open(&damaged);
        assert!(
            matches!(opened, Err(StoreError::Corrupt(_))),
            "byte {at} was acknowledged: {opened:?}"
        );
    }
    let mut torn = whole.clone();
    torn[ends[2]..].fill(0);
    torn.extend(b"\0".repeat(2048));
    assert_eq!(
        try_open(&torn),
        Ok(4),
        "nothing of the last commit was written"
    );
    torn.truncate(ends[2] + 20);
    torn[ends[2]..].copy_from_slice(&whole[ends[2]..ends[2] + 20]);
    assert_eq!(
        try_open(&torn),
        Ok(4),
        "the file ends within the last commit"
    );
    let mut zeros = whole.clone();
    zeros.extend([0; 4096]);
    assert_eq!(
        try_open(&zeros),
        Ok(5),
        "room that was never written to is no damage"
    );
}

#[test]
fn a_damaged_snapshot_or_a_missing_file_is_reported() {
    let dir = TempDir::new().unwrap();
    run(async {
        let store = EmbeddedStore::open(dir.path(), small()).unwrap();
        for i in 0..60 {
            put(&store, &format!("/k{}", i % 3), &"v".repeat(60)).await;
        }
    });
    let files = |prefix: &str| -> Vec<PathBuf> {
        let all = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().path());
        all.filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with(prefix))
            .collect()
    };
    let try_open = || EmbeddedStore::open(dir.path(), small()).map(|s| s.revision());
    let expected = try_open().unwrap();
    // Without the generation before, which would serve as well.
    let mut snapshots = files("snapshot-");
    snapshots.sort();
    let snapshot = snapshots.pop().unwrap();
    let log = log_files(dir.path()).pop().unwrap();
    for old in files("snapshot-").into_iter().chain(files("log-")) {
        if old != snapshot && old != log {
            std::fs::remove_file(old).unwrap();
        }
    }
    let whole = std::fs::read(&snapshot).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        std::fs::write(&snapshot, &damaged).unwrap();
        assert!(
            matches!(try_open(), Err(StoreError::Corrupt(_))),
            "byte {at}"
        );
        std::fs::write(&snapshot, &whole[..at]).unwrap();
        assert!(
            matches!(try_open(), Err(StoreError::Corrupt(_))),
            "cut at byte {at}"
        );
    }
    std::fs::remove_file(&snapshot).unwrap();
    assert!(
        matches!(try_open(), Err(StoreError::Corrupt(_))),
        "the snapshot is missing"
    );
    std::fs::write(&snapshot, &whole).unwrap();
    assert_eq!(try_open(), Ok(expected));
    std::fs::remove_file(log).unwrap();
    assert!(
        matches!(try_open(), Err(StoreError::Corrupt(_))),
        "the log is missing"
    );
}

#[test]
fn a_crash_between_the_steps_of_a_rotation_loses_nothing() {
    let dir = TempDir::new().unwrap();
    run(async {
        let store = open(dir.path());
        for i in 0..10 {
            put(&store, &format!("/k{i}"), "v").await;
        }
    });
    // A new log, of which not even the header is whole.
    let unfinished = dir.path().join(SegmentKind::Log.name(11));
    for length in [0, 10, 24] {
        std::fs::write(&unfinished, vec![0; length]).unwrap();
        assert_eq!(open(dir.path()).revision(), 11);
    }
    // A half-written snapshot.
    let temporary = dir.path().join("snapshot-00000000000000000011.tmp");
    std::fs::write(&temporary, b"half").unwrap();
    let store = open(dir.path());
    run(put(&store, "/later", "v"));
    drop(store);
    assert!(!temporary.exists());
    assert_eq!(log_files(dir.path()).len(), 1);
    assert_eq!(open(dir.path()).revision(), 12);
}

#[test]
fn a_damaged_store_is_salvaged_or_reset() {
    let dir = TempDir::new().unwrap();
    let mut ends = Vec::new();
    run(async {
        let store = open(dir.path());
        for i in 0..6 {
            put(&store, &format!("/k{i}"), &format!("value {i}")).await;
            ends.push(written(&log_files(dir.path())[0]).len());
        }
        let busy = salvage(dir.path(), Duration::ZERO).err();
        assert!(matches!(busy, Some(StoreError::InUse(_))));
        // A check does not need the store to be closed.
        let check = verify(dir.path()).unwrap();
        assert!(check.is_sound());
        assert_eq!(check.opens, Ok((7, 6)));
        assert_eq!(check.segments[0].records, 6);
    });
    assert!(
        salvage(dir.path(), Duration::ZERO).unwrap().is_none(),
        "it is sound"
    );
    let log = log_files(dir.path()).remove(0);
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[ends[2] + 30] ^= 1;
    std::fs::write(&log, &bytes).unwrap();

    let check = verify(dir.path()).unwrap();
    assert!(!check.is_sound());
    assert!(matches!(check.opens, Err(StoreError::Corrupt(_))));
    assert_eq!(check.segments[0].damage.len(), 1);
    let salvaged = salvage(dir.path(), Duration::ZERO).unwrap().unwrap();
    assert_eq!((salvaged.entries, &salvaged.missing), (5, &vec![(5, 5)]));
    let store = open(dir.path());
    assert_eq!(store.revision(), 1_000_007);
    let keys: Vec<_> = store.shared.state.read().entries();
    let keys: Vec<_> = keys.iter().map(|kv| &*kv.key).collect();
    assert_eq!(keys, ["/k0", "/k1", "/k2", "/k4", "/k5"]);
    run(put(&store, "/k6", "v"));
    drop(store);
    assert!(verify(dir.path()).unwrap().is_sound());
    assert_eq!(
        std::fs::read(salvaged.kept.join(log.file_name().unwrap())).unwrap(),
        bytes,
        "the damaged file is kept"
    );

    let reset = reset(dir.path(), Duration::ZERO).unwrap();
    assert_ne!(reset.kept, salvaged.kept);
    let store = open(dir.path());
    assert_eq!(store.revision(), 2_000_008);
    assert!(store.shared.state.read().entries().is_empty());
}
