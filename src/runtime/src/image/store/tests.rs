//! The locks of a store that several threads use at once.

use std::collections::BTreeSet;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use super::*;

/// Limit of steps that wait for nothing unless there is a deadlock.
const TIMEOUT: Duration = Duration::from_secs(30);

fn store(dir: &Path) -> Arc<Store> {
    let root = dir.join("node");
    fs::create_dir_all(&root).unwrap();
    Arc::new(Store::open(&dir.join("images"), &root).unwrap())
}

/// Returns an image without layers, and stores its blobs.
fn image(store: &Store, name: &str) -> Record {
    let digest = Digest::of(name.as_bytes());
    store.write_blob(&digest, name.as_bytes()).unwrap();
    Record {
        config: digest.clone(),
        manifest: digest,
        tags: BTreeSet::from([format!("example.com/{name}:1")]),
        digests: BTreeSet::new(),
        size: 0,
        layers: Vec::new(),
        added: jiff::Timestamp::UNIX_EPOCH,
        given: false,
    }
}

/// Calls `work` on a thread. Returns the receiver of its result.
fn begin<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(work()));
    receiver
}

#[test]
fn a_removal_that_waits_for_a_pull_does_not_block_its_end() {
    type Removal = fn(&Store) -> Result<(), ImageError>;
    let removals: [Removal; 2] = [
        |store| store.untag("example.com/old:1"),
        |store| store.remove("example.com/old:1").map(drop),
    ];
    for removal in removals {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        store
            .add(image(&store, "old"), store.hold().unwrap())
            .unwrap();
        let hold = store.hold().unwrap();
        let new = image(&store, "new");
        let removing = store.clone();
        let removed = begin(move || removal(&removing));
        // From here on, the removal waits for the pull.
        while store.find("example.com/old:1").is_some() {
            thread::yield_now();
        }
        let adding = store.clone();
        let added = begin(move || adding.add(new, hold));
        added.recv_timeout(TIMEOUT).expect("a deadlock").unwrap();
        removed.recv_timeout(TIMEOUT).expect("a deadlock").unwrap();
        let config = Digest::of(b"new");
        assert!(store.read_blob(&config).is_some());
        assert!(store.read_blob(&Digest::of(b"old")).is_none());
    }
}

#[test]
fn a_removal_does_not_wait_for_a_pull_unless_it_may() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    store
        .add(image(&store, "old"), store.hold().unwrap())
        .unwrap();
    let remove = || {
        let store = store.clone();
        let removed = begin(move || store.remove_unless_busy("example.com/old:1"));
        removed.recv_timeout(TIMEOUT).expect("it waits").unwrap()
    };
    let hold = store.hold().unwrap();
    assert!(!remove());
    assert!(store.find("example.com/old:1").is_some(), "nothing changed");
    drop(hold);
    assert!(remove());
    assert!(store.find("example.com/old:1").is_none());
    assert!(store.read_blob(&Digest::of(b"old")).is_none());
    assert!(remove(), "there is nothing to do");
}

#[test]
fn pulls_and_removals_in_parallel_end_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let workers: Vec<_> = (0..4)
        .map(|worker| {
            let store = store.clone();
            begin(move || {
                for round in 0..20 {
                    let name = format!("image-{worker}-{round}");
                    let tag = format!("example.com/{name}:1");
                    let hold = store.hold().unwrap();
                    store.add(image(&store, &name), hold).unwrap();
                    match round % 3 {
                        0 => {}
                        1 => store.untag(&tag).unwrap(),
                        _ => assert!(store.remove(&tag).unwrap()),
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.recv_timeout(TIMEOUT).expect("a deadlock");
    }
    let left = store.list();
    assert_eq!(left.len(), 4 * 7);
    for record in left {
        assert!(store.read_blob(&record.config).is_some(), "{record:?}");
    }
}

#[test]
fn a_damaged_index_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let opened = store(dir.path());
    opened
        .add(image(&opened, "a"), opened.hold().unwrap())
        .unwrap();
    drop(opened);
    let index = dir.path().join("node/images.json");
    for damage in ["", "{", "[]"] {
        fs::write(&index, damage).unwrap();
        assert!(store(dir.path()).list().is_empty());
        let aside = dir.path().join("node/images.json.damaged");
        assert_eq!(fs::read_to_string(aside).unwrap(), damage);
    }
    let again = store(dir.path());
    again
        .add(image(&again, "b"), again.hold().unwrap())
        .unwrap();
    assert_eq!(store(dir.path()).list().len(), 1);
}
