mod crash;
mod damage;
mod formats;
mod model;
mod simulation;

use std::collections::BTreeMap;
use std::path::PathBuf;

use tempfile::TempDir;

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
    assert!(matches!(second.err(), Some(StoreError::InUse(_))));
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

/// Returns the content of a segment without preallocated zeros.
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
fn history_is_bounded() {
    let options = |history_changes, history_bytes| EmbeddedOptions {
        history_changes,
        history_bytes,
        ..EmbeddedOptions::default()
    };
    for options in [
        options(10, usize::MAX),
        // Eleven values: the oldest change also holds what it replaced.
        options(usize::MAX, 10 * (128 + 100) + 100),
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
fn history_counts_what_deletions_hold() {
    let dir = TempDir::new().unwrap();
    let options = EmbeddedOptions {
        history_bytes: 64 << 10,
        ..EmbeddedOptions::default()
    };
    run(async {
        let store = EmbeddedStore::open(dir.path(), options).unwrap();
        for i in 0..40 {
            put(&store, &format!("/k{i}"), &"v".repeat(10 << 10)).await;
        }
        for i in 0..40 {
            store.delete(&format!("/k{i}"), Expect::Any).await.unwrap();
        }
        let mut state = store.shared.state.write();
        assert!(state.oldest() >= state.revision() - 6, "{}", state.oldest());
        let newest = state.revision();
        state.forget_until(newest);
        assert_eq!(state.history_bytes(), 0);
    });
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
fn a_watch_is_cut_off_when_it_holds_too_much_memory() {
    let dir = TempDir::new().unwrap();
    run(async {
        let store = open(dir.path());
        let mut slow = store.watch("/", 1).await.unwrap();
        let mut quick = store.watch("/", 1).await.unwrap();
        let value = "v".repeat(16 << 20);
        for i in 0..8 {
            put(&store, &format!("/k{i}"), &value).await;
            assert!(quick.recv().await.unwrap().is_ok(), "its receiver keeps up");
        }
        let mut batches = 0;
        while slow.recv().await.unwrap().is_ok() {
            batches += 1;
        }
        assert!((4..8).contains(&batches), "{batches} batches of 16 MiB");
        assert!(slow.recv().await.is_none());
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
            .decide(
                "/k",
                Some(Bytes::from_static(b"v")),
                Expect::Any,
                Claim::Nothing,
            )
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
            ("k".repeat(MAX_KEY_BYTES + 1), 0),
            ("/k".into(), MAX_VALUE_BYTES + 1),
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
