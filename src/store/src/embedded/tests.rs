use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use proptest::prelude::*;
use tempfile::TempDir;

use super::log::{SEGMENT_HEADER, SegmentKind};
use super::*;
use crate::contract;

fn open(dir: &Path) -> Arc<EmbeddedStore> {
    EmbeddedStore::open(dir, EmbeddedOptions::default()).unwrap()
}

fn small() -> EmbeddedOptions {
    EmbeddedOptions {
        log_bytes: 2048,
        ..EmbeddedOptions::default()
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap()
        .block_on(future)
}

async fn put(store: &EmbeddedStore, key: &str, value: &str) -> Arc<KeyValue> {
    store
        .put(key, Bytes::copy_from_slice(value.as_bytes()), Expect::Any)
        .await
        .unwrap()
}

fn log_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with("log-"))
        .collect();
    files.sort();
    files
}

#[test]
fn keeps_the_contract() {
    let dirs = std::sync::Mutex::new(Vec::new());
    run(contract::run(async || {
        let dir = TempDir::new().unwrap();
        let store: Arc<dyn Store> = open(dir.path());
        dirs.lock().unwrap().push(dir);
        store
    }));
}

#[test]
fn survives_a_restart() {
    let dir = TempDir::new().unwrap();
    run(async {
        let store = open(dir.path());
        assert_eq!(store.revision(), 1);
        let first = put(&store, "/a", "1").await;
        let second = put(&store, "/b", "2").await;
        store.delete("/a", Expect::Any).await.unwrap();
        drop(store);
        let store = open(dir.path());
        assert_eq!(store.revision(), 4);
        assert_eq!(store.get("/a").await.unwrap(), (None, 4));
        assert_eq!(store.get("/b").await.unwrap(), (Some(second.clone()), 4));
        let mut watch = store.watch("", 1).await.unwrap();
        let batch = watch.recv().await.unwrap().unwrap();
        assert_eq!(
            batch.changes,
            [
                Change::Put {
                    now: first.clone(),
                    before: None
                },
                Change::Put {
                    now: second,
                    before: None
                },
                Change::Delete {
                    before: first,
                    revision: 4
                },
            ]
        );
        assert_eq!(put(&store, "/c", "3").await.mod_revision, 5);
    });
}

#[test]
fn a_second_process_cannot_open_it() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let second = EmbeddedStore::open(dir.path(), EmbeddedOptions::default());
    assert!(matches!(second.err(), Some(StoreError::Disk(why)) if why.contains("another process")));
    drop(store);
    open(dir.path());
}

#[test]
fn files_are_private() {
    let dir = TempDir::new().unwrap();
    let inner = dir.path().join("made/here");
    let store = EmbeddedStore::open(&inner, small()).unwrap();
    run(async {
        for i in 0..40 {
            put(&store, &format!("/k{}", i % 4), &"v".repeat(100)).await;
        }
    });
    drop(store);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&inner), 0o700);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&inner).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
    }
    assert!(
        names.iter().any(|n| n.starts_with("snapshot-")),
        "{names:?}"
    );
}

/// What a segment holds, without the room after it.
fn written(path: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
    bytes.truncate(end);
    bytes
}

#[test]
fn the_log_is_rotated_and_the_snapshot_read_back() {
    let dir = TempDir::new().unwrap();
    run(async {
        let mut expected = BTreeMap::new();
        for round in 0..5 {
            let store = EmbeddedStore::open(dir.path(), small()).unwrap();
            for i in 0..60 {
                let key = format!("/k{}", i % 7);
                let written = put(&store, &key, &format!("{round}-{i}-{}", "v".repeat(40))).await;
                expected.insert(key, written);
            }
            store.delete("/k3", Expect::Any).await.unwrap();
            expected.remove("/k3");
        }
        let size: u64 = log_files(dir.path())
            .iter()
            .map(|p| written(p).len() as u64)
            .sum();
        assert!(
            size < 5 * 60 * 60 / 2,
            "old logs are removed, {size} bytes are left"
        );
        let store = EmbeddedStore::open(dir.path(), small()).unwrap();
        let page = store.list("", ListOptions::default()).await.unwrap();
        assert_eq!(page.items, expected.into_values().collect::<Vec<_>>());
        assert_eq!(page.revision, 1 + 5 * 61);
        let oldest = store.watch("", 1).await.err();
        assert!(matches!(
            oldest,
            Some(StoreError::Compacted { asked: 1, .. })
        ));
    });
}

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
    let log = SegmentKind::Log.path(copy.path(), 1);
    for cut in 0..=whole.len() {
        std::fs::write(&log, &whole[..cut]).unwrap();
        let store = open(copy.path());
        let commits = ends.iter().filter(|end| **end <= cut).count() as u64;
        assert_eq!(store.revision(), 1 + commits, "cut at byte {cut}");
        if cut % 7 == 0 {
            // The next write continues where the whole ones end.
            run(put(&store, "/next", "x"));
            drop(store);
            assert_eq!(
                open(copy.path()).revision(),
                2 + commits,
                "cut at byte {cut}"
            );
        }
    }
    // What a crash of the machine leaves: zeros where the rest was to go.
    for cut in SEGMENT_HEADER..=whole.len() {
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
    // A hole in what was acknowledged is no end.
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
fn a_torn_last_commit_with_garbage_is_dropped_and_damage_before_it_reported() {
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
    let log = SegmentKind::Log.path(copy.path(), 1);
    let try_open = |bytes: &[u8]| {
        std::fs::write(&log, bytes).unwrap();
        EmbeddedStore::open(copy.path(), EmbeddedOptions::default()).map(|s| s.revision())
    };
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        let opened = try_open(&damaged);
        if at >= ends[2] {
            assert_eq!(opened, Ok(4), "byte {at} is in the last commit");
        } else {
            assert!(
                matches!(opened, Err(StoreError::Corrupt(_))),
                "byte {at} was acknowledged: {opened:?}"
            );
        }
    }
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
    let snapshot = files("snapshot-").remove(0);
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
    let log = log_files(dir.path()).pop().unwrap();
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
    let unfinished = SegmentKind::Log.path(dir.path(), 11);
    for length in [0, 10, 24] {
        std::fs::write(&unfinished, vec![0; length]).unwrap();
        assert_eq!(open(dir.path()).revision(), 11);
    }
    // A new log without its snapshot, with a half-written one beside it.
    let temporary = dir.path().join("snapshot-00000000000000000011.tmp");
    std::fs::write(&temporary, b"half").unwrap();
    let store = open(dir.path());
    run(put(&store, "/later", "v"));
    let entries = store.shared.state.read().entries();
    drop(store);
    assert!(!temporary.exists());
    assert_eq!(log_files(dir.path()).len(), 2);
    assert_eq!(open(dir.path()).revision(), 12);
    // The snapshot, with the files that it replaces still there.
    let before: Vec<_> = entries
        .iter()
        .filter(|e| e.mod_revision <= 11)
        .cloned()
        .collect();
    super::log::write_snapshot(dir.path(), 11, &before).unwrap();
    let store = open(dir.path());
    assert_eq!((store.revision(), log_files(dir.path()).len()), (12, 1));
    assert_eq!(store.shared.state.read().entries(), entries);
}

#[test]
fn history_is_bounded() {
    let options = |history_changes, history_bytes| EmbeddedOptions {
        history_changes,
        history_bytes,
        ..EmbeddedOptions::default()
    };
    for options in [
        options(10, usize::MAX),
        options(usize::MAX, 10 * (128 + 100)),
    ] {
        let dir = TempDir::new().unwrap();
        run(async {
            let store = EmbeddedStore::open(dir.path(), options).unwrap();
            for _ in 0..30 {
                put(&store, "/k", &"v".repeat(100)).await;
            }
            assert!(store.watch("", 21).await.is_ok());
            let gone = StoreError::Compacted {
                asked: 20,
                oldest: 21,
            };
            assert_eq!(store.watch("", 20).await.err(), Some(gone));
        });
    }
}

#[test]
fn history_ages() {
    let mut state = State::new(1);
    let window = Window {
        changes: 100,
        bytes: usize::MAX,
        age: Duration::from_secs(300),
    };
    let start = Instant::now();
    for revision in 2..12 {
        let kv = KeyValue {
            key: "/k".into(),
            value: Bytes::new(),
            create_revision: 2,
            mod_revision: revision,
        };
        let before = state.get("/k").cloned();
        let now = start + Duration::from_secs(revision * 60);
        state.apply(
            [Change::Put {
                now: Arc::new(kv),
                before,
            }],
            now,
        );
        state.trim(&window, now);
    }
    assert_eq!((state.oldest(), state.revision()), (5, 11));
    state.trim(&window, start + Duration::from_secs(3600));
    assert_eq!(state.oldest(), 11);
    assert!(!state.has_history());
}

#[test]
fn a_slow_watch_is_cut_off_with_an_error() {
    let dir = TempDir::new().unwrap();
    let options = EmbeddedOptions {
        watch_buffer: 4,
        ..EmbeddedOptions::default()
    };
    run(async {
        let store = EmbeddedStore::open(dir.path(), options).unwrap();
        let mut slow = store.watch("/", 1).await.unwrap();
        let gone = store.watch("/", 1).await.unwrap();
        drop(gone);
        for i in 0..10 {
            put(&store, "/k", &i.to_string()).await;
        }
        for revision in 2..6 {
            assert_eq!(slow.recv().await.unwrap().unwrap().revision, revision);
        }
        let error = slow.recv().await.unwrap().unwrap_err();
        assert_eq!(
            error,
            StoreError::Compacted {
                asked: 5,
                oldest: 1
            }
        );
        assert!(slow.recv().await.is_none());
        assert_eq!(store.shared.watchers.lock().len(), 0, "nobody is left");
        let mut again = store.watch("/", 5).await.unwrap();
        assert_eq!(again.recv().await.unwrap().unwrap().changes.len(), 6);
    });
}

#[test]
fn closing_ends_watches_after_the_last_write() {
    let dir = TempDir::new().unwrap();
    run(async {
        let store = open(dir.path());
        let mut watch = store.watch("", 1).await.unwrap();
        put(&store, "/k", "v").await;
        drop(store);
        assert_eq!(watch.recv().await.unwrap().unwrap().changes.len(), 1);
        assert!(watch.recv().await.is_none());
    });
}

#[test]
fn a_write_goes_on_when_its_caller_gives_up() {
    let dir = TempDir::new().unwrap();
    run(async {
        let store = open(dir.path());
        let answer = store
            .shared
            .decide("/k", Some(Bytes::from_static(b"v")), Expect::Any)
            .unwrap();
        drop(answer);
        assert_eq!(put(&store, "/other", "v").await.mod_revision, 3);
        assert!(store.get("/k").await.unwrap().0.is_some());
    });
}

#[test]
fn takes_no_empty_key_and_nothing_huge() {
    let dir = TempDir::new().unwrap();
    run(async {
        let store = open(dir.path());
        for (key, value) in [
            (String::new(), 0),
            ("k".repeat(KEY_MAX + 1), 0),
            ("/k".into(), VALUE_MAX + 1),
        ] {
            let refused = store
                .put(&key, Bytes::from(vec![0; value]), Expect::Any)
                .await;
            assert_eq!(
                refused,
                Err(StoreError::TooLarge {
                    key: key.len(),
                    value
                })
            );
        }
        assert_eq!(store.revision(), 1);
    });
}

/// The child of [`a_killed_process_loses_no_acknowledged_write`].
#[test]
#[ignore = "only makes sense in a process that is killed"]
fn write_until_killed() {
    let Ok(dir) = std::env::var("RKUBE_STORE_TEST_DIR") else {
        return;
    };
    run(async {
        let store = EmbeddedStore::open(Path::new(&dir), small()).unwrap();
        let tasks = (0..4).map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                for i in 0..1_000_000 {
                    let written = put(&store, &format!("/{task}/{}", i % 5), &i.to_string()).await;
                    let line = format!(
                        "acknowledged {} {} {i}\n",
                        written.mod_revision, written.key
                    );
                    std::io::stdout().write_all(line.as_bytes()).unwrap();
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
    });
}

#[test]
fn a_killed_process_loses_no_acknowledged_write() {
    let dir = TempDir::new().unwrap();
    let mut acknowledged: BTreeMap<String, (Revision, String)> = BTreeMap::new();
    for _ in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "embedded::tests::write_until_killed",
                "--ignored",
                "--nocapture",
            ])
            .env("RKUBE_STORE_TEST_DIR", dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            // The test harness writes to the same stream.
            let Some((_, rest)) = line.split_once("acknowledged ") else {
                continue;
            };
            let [revision, key, value] = rest.split(' ').collect::<Vec<_>>()[..] else {
                continue;
            };
            let revision = revision.parse().unwrap();
            let known = acknowledged.entry(key.to_owned()).or_default();
            if known.0 < revision {
                *known = (revision, value.to_owned());
            }
            lines += 1;
            if lines == 300 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(lines >= 300, "the child wrote {lines} times");
        let store = EmbeddedStore::open(dir.path(), small()).unwrap();
        for (key, (revision, value)) in &acknowledged {
            let found = store
                .shared
                .state
                .read()
                .get(key)
                .cloned()
                .expect("an acknowledged key is there");
            assert!(
                found.mod_revision >= *revision,
                "{key} went back from {revision} to {}",
                found.mod_revision
            );
            if found.mod_revision == *revision {
                assert_eq!(found.value, value.as_bytes());
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u16, Hope),
    Delete(u8, Hope),
    Compact(u8),
    Reopen,
}

#[derive(Clone, Copy, Debug)]
enum Hope {
    Any,
    Absent,
    Right,
    Wrong,
}

fn step() -> impl Strategy<Value = Step> {
    let hope = prop_oneof![
        Just(Hope::Any),
        Just(Hope::Absent),
        Just(Hope::Right),
        Just(Hope::Wrong)
    ];
    prop_oneof![
        8 => (0..6u8, any::<u16>(), hope.clone()).prop_map(|(k, v, h)| Step::Put(k, v, h)),
        3 => (0..6u8, hope).prop_map(|(k, h)| Step::Delete(k, h)),
        1 => (0..10u8).prop_map(Step::Compact),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// The store does what a list of whole states does.
    #[test]
    fn behaves_like_a_list_of_states(steps in prop::collection::vec(step(), 1..40)) {
        type Snapshot = BTreeMap<String, Arc<KeyValue>>;
        let dir = TempDir::new().unwrap();
        // A log that is hardly ever rotated, so that a restart keeps history.
        let options = EmbeddedOptions { history_changes: 25, ..EmbeddedOptions::default() };
        run(async {
            let mut store = EmbeddedStore::open(dir.path(), options.clone()).unwrap();
            let mut states: Vec<Snapshot> = vec![BTreeMap::new(), BTreeMap::new()];
            for step in steps {
                let newest = states.len() as u64 - 1;
                let now = states.last().unwrap().clone();
                let expect = |key: &str, hope| match hope {
                    Hope::Any => Expect::Any,
                    Hope::Absent => Expect::Absent,
                    Hope::Right => Expect::Revision(now.get(key).map_or(1, |kv| kv.mod_revision)),
                    Hope::Wrong => Expect::Revision(1),
                };
                let holds = |key: &str, expect| match expect {
                    Expect::Any => true,
                    Expect::Absent => !now.contains_key(key),
                    Expect::Revision(r) => now.get(key).is_some_and(|kv| kv.mod_revision == r),
                };
                match step {
                    Step::Put(k, v, hope) => {
                        let key = format!("/{k}");
                        let expect = expect(&key, hope);
                        let value = Bytes::from(v.to_string());
                        let answer = store.put(&key, value.clone(), expect).await;
                        if holds(&key, expect) {
                            let kv = answer.unwrap();
                            let create_revision = now.get(&key).map_or(newest + 1, |kv| kv.create_revision);
                            let mod_revision = newest + 1;
                            assert_eq!(*kv, KeyValue { key: key.as_str().into(), value, create_revision, mod_revision });
                            let mut next = now.clone();
                            next.insert(key, kv);
                            states.push(next);
                        } else {
                            assert_eq!(answer, Err(StoreError::Conflict { found: now.get(&key).cloned() }));
                        }
                    }
                    Step::Delete(k, hope) => {
                        let key = format!("/{k}");
                        let expect = expect(&key, hope);
                        let answer = store.delete(&key, expect).await;
                        let mut next = now.clone();
                        match (holds(&key, expect), next.remove(&key)) {
                            (true, Some(before)) => {
                                assert_eq!(answer, Ok((before, newest + 1)));
                                states.push(next);
                            }
                            (_, found) => assert_eq!(answer, Err(StoreError::Conflict { found })),
                        }
                    }
                    Step::Compact(back) => store.compact(newest.saturating_sub(back.into())).await.unwrap(),
                    Step::Reopen => {
                        drop(store);
                        store = EmbeddedStore::open(dir.path(), options.clone()).unwrap();
                    }
                }
                let newest = states.len() as u64 - 1;
                assert_eq!(store.revision(), newest);
                let oldest = store.shared.state.read().oldest();
                assert!(newest - oldest <= 25);
                let mut replayed = states[oldest as usize].clone();
                let mut watch = store.watch("/", oldest).await.unwrap();
                if oldest < newest {
                    for change in watch.recv().await.unwrap().unwrap().changes {
                        let state = &states[change.revision() as usize];
                        assert_eq!(change.before(), replayed.get(&**change.key()));
                        match change.after() {
                            Some(kv) => replayed.insert(kv.key.to_string(), kv.clone()),
                            None => replayed.remove(&**change.key()),
                        };
                        assert_eq!(&replayed, state);
                    }
                }
                for revision in oldest..=newest {
                    let options = ListOptions { revision: Some(revision), ..ListOptions::default() };
                    let page = store.list("/", options.clone()).await.unwrap();
                    let expected: Vec<_> = states[revision as usize].values().cloned().collect();
                    assert_eq!(page.items, expected);
                    let options = ListOptions { limit: 2, after: Some("/2".into()), ..options };
                    let page = store.list("/", options).await.unwrap();
                    let after: Vec<_> = states[revision as usize].values().filter(|kv| &*kv.key > "/2").cloned().collect();
                    assert_eq!(page.items, after[..after.len().min(2)]);
                    assert_eq!(page.remaining as usize, after.len().saturating_sub(2));
                }
            }
        });
    }
}
