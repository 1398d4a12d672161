//! The tests that every implementation of [`Store`] must pass.

use std::sync::Arc;

use bytes::Bytes;

use crate::types::{Change, Expect, KeyValue, ListOptions, Revision, Store, StoreError, Watch};

/// Runs every test against fresh stores that `open` makes.
pub(crate) async fn run<F: AsyncFn() -> Arc<dyn Store>>(open: F) {
    reads_what_was_written(&*open().await).await;
    expectations_decide(&*open().await).await;
    lists_in_order_and_pages(&*open().await).await;
    lists_the_past(&*open().await).await;
    watches_replay_and_follow(&*open().await).await;
    watches_see_only_their_prefix(&*open().await).await;
    compaction_forgets_the_past(&*open().await).await;
    rejects_the_future(&*open().await).await;
    racing_writers_never_lose_an_update(open().await).await;
}

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn put(store: &dyn Store, key: &str, text: &str) -> Arc<KeyValue> {
    store.put(key, value(text), Expect::Any).await.unwrap()
}

fn keys(items: &[Arc<KeyValue>]) -> Vec<&str> {
    items.iter().map(|kv| &*kv.key).collect()
}

/// The next `count` changes of a watch, in order.
async fn changes(watch: &mut Watch, count: usize) -> Vec<Change> {
    let mut all = Vec::new();
    let mut newest = 0;
    while all.len() < count {
        let batch = watch.recv().await.expect("the watch goes on").unwrap();
        assert!(batch.revision >= newest, "batches are in order");
        newest = batch.revision;
        assert!(batch.changes.iter().all(|c| c.revision() <= newest));
        all.extend(batch.changes);
    }
    assert!(all.windows(2).all(|w| w[0].revision() < w[1].revision()));
    all
}

async fn reads_what_was_written(store: &dyn Store) {
    let start = store.revision();
    assert_eq!(store.get("/a").await.unwrap(), (None, start));
    let first = put(store, "/a", "1").await;
    assert_eq!(
        (first.create_revision, first.mod_revision),
        (start + 1, start + 1)
    );
    let second = put(store, "/a", "2").await;
    assert_eq!(
        (second.create_revision, second.mod_revision),
        (start + 1, start + 2)
    );
    assert_eq!(
        store.get("/a").await.unwrap(),
        (Some(second.clone()), start + 2)
    );
    assert_eq!(store.revision(), start + 2);
    assert_eq!(
        store.delete("/a", Expect::Any).await.unwrap(),
        (second, start + 3)
    );
    assert_eq!(store.get("/a").await.unwrap(), (None, start + 3));
    let again = put(store, "/a", "3").await;
    assert_eq!(
        again.create_revision,
        start + 4,
        "a deleted key is created again"
    );
    let empty = put(store, "/empty", "").await;
    assert_eq!(store.get("/empty").await.unwrap().0, Some(empty));
}

async fn expectations_decide(store: &dyn Store) {
    let conflict = |found: Option<&Arc<KeyValue>>| StoreError::Conflict {
        found: found.cloned(),
    };
    let put = |expect| store.put("/k", value("x"), expect);
    assert_eq!(put(Expect::Revision(7)).await, Err(conflict(None)));
    assert_eq!(store.delete("/k", Expect::Any).await, Err(conflict(None)));
    assert_eq!(
        store.delete("/k", Expect::Revision(7)).await,
        Err(conflict(None))
    );
    let first = put(Expect::Absent).await.unwrap();
    assert_eq!(put(Expect::Absent).await, Err(conflict(Some(&first))));
    let second = put(Expect::Revision(first.mod_revision)).await.unwrap();
    assert_eq!(
        put(Expect::Revision(first.mod_revision)).await,
        Err(conflict(Some(&second)))
    );
    let stale = store
        .delete("/k", Expect::Revision(first.mod_revision))
        .await;
    assert_eq!(stale, Err(conflict(Some(&second))));
    let before = store.revision();
    store
        .delete("/k", Expect::Revision(second.mod_revision))
        .await
        .unwrap();
    assert_eq!(
        store.revision(),
        before + 1,
        "what was refused takes no revision"
    );
}

async fn lists_in_order_and_pages(store: &dyn Store) {
    for key in ["/b/2", "/a/1", "/b/1", "/b/10", "/c", "/b"] {
        put(store, key, key).await;
    }
    let page = store.list("/b/", ListOptions::default()).await.unwrap();
    assert_eq!(keys(&page.items), ["/b/1", "/b/10", "/b/2"]);
    assert_eq!((page.revision, page.remaining), (store.revision(), 0));
    let options = ListOptions {
        limit: 2,
        ..ListOptions::default()
    };
    let page = store.list("/b/", options).await.unwrap();
    assert_eq!(
        (keys(&page.items), page.remaining),
        (vec!["/b/1", "/b/10"], 1)
    );
    let options = ListOptions {
        limit: 2,
        after: Some("/b/10".into()),
        revision: Some(page.revision),
    };
    put(store, "/b/3", "later").await;
    let page = store.list("/b/", options).await.unwrap();
    assert_eq!((keys(&page.items), page.remaining), (vec!["/b/2"], 0));
    let all = store.list("", ListOptions::default()).await.unwrap();
    assert_eq!(all.items.len(), 7);
    assert!(
        store
            .list("/nothing", ListOptions::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    // A start before the prefix is no start at all.
    let options = ListOptions {
        after: Some("/a".into()),
        ..ListOptions::default()
    };
    assert_eq!(store.list("/b/", options).await.unwrap().items.len(), 4);
}

async fn lists_the_past(store: &dyn Store) {
    put(store, "/p/a", "1").await;
    put(store, "/p/b", "1").await;
    let then = store.revision();
    put(store, "/p/a", "2").await;
    store.delete("/p/b", Expect::Any).await.unwrap();
    put(store, "/p/0", "1").await;
    put(store, "/p/b", "again").await;
    let options = ListOptions {
        revision: Some(then),
        ..ListOptions::default()
    };
    let page = store.list("/p/", options).await.unwrap();
    assert_eq!(page.revision, then);
    assert_eq!(keys(&page.items), ["/p/a", "/p/b"]);
    assert!(page.items.iter().all(|kv| kv.value == value("1")));
}

async fn watches_replay_and_follow(store: &dyn Store) {
    let start = store.revision();
    let first = put(store, "/w/a", "1").await;
    let mut watch = store.watch("/w/", start).await.unwrap();
    let second = put(store, "/w/a", "2").await;
    let (last, deleted) = store.delete("/w/a", Expect::Any).await.unwrap();
    assert_eq!(last, second);
    let expected = [
        Change::Put {
            now: first.clone(),
            before: None,
        },
        Change::Put {
            now: second.clone(),
            before: Some(first),
        },
        Change::Delete {
            before: second,
            revision: deleted,
        },
    ];
    assert_eq!(changes(&mut watch, 3).await, expected);
    let mut again = store.watch("/w/", start).await.unwrap();
    assert_eq!(
        changes(&mut again, 3).await,
        expected,
        "history replays the same"
    );
    let mut late = store.watch("/w/", deleted).await.unwrap();
    let third = put(store, "/w/a", "3").await;
    assert_eq!(
        changes(&mut late, 1).await,
        [Change::Put {
            now: third,
            before: None
        }]
    );
}

async fn watches_see_only_their_prefix(store: &dyn Store) {
    let start = store.revision();
    let mut all = store.watch("", start).await.unwrap();
    let mut wide = store.watch("/x/", start).await.unwrap();
    let mut narrow = store.watch("/x/y/", start).await.unwrap();
    let mut exact = store.watch("/x/y/é", start).await.unwrap();
    for key in ["/z", "/x/1", "/x/y/1", "/x/y/é", "/x"] {
        put(store, key, "v").await;
    }
    let names = |changes: Vec<Change>| {
        changes
            .iter()
            .map(|c| c.key().to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(changes(&mut all, 5).await),
        ["/z", "/x/1", "/x/y/1", "/x/y/é", "/x"]
    );
    assert_eq!(
        names(changes(&mut wide, 3).await),
        ["/x/1", "/x/y/1", "/x/y/é"]
    );
    assert_eq!(names(changes(&mut narrow, 2).await), ["/x/y/1", "/x/y/é"]);
    assert_eq!(names(changes(&mut exact, 1).await), ["/x/y/é"]);
}

async fn compaction_forgets_the_past(store: &dyn Store) {
    put(store, "/c", "1").await;
    let early = store.revision();
    put(store, "/c", "2").await;
    put(store, "/other", "1").await;
    let kept = store.revision();
    put(store, "/c", "3").await;
    store.compact(kept).await.unwrap();
    store.compact(kept).await.unwrap();
    store.compact(early).await.unwrap();
    let at = |revision: Revision| ListOptions {
        revision: Some(revision),
        ..ListOptions::default()
    };
    let gone = StoreError::Compacted {
        asked: early,
        oldest: kept,
    };
    assert_eq!(store.list("/", at(early)).await.unwrap_err(), gone);
    assert_eq!(store.watch("/", early).await.err(), Some(gone));
    let page = store.list("/", at(kept)).await.unwrap();
    assert_eq!(page.items[0].value, value("2"));
    let mut watch = store.watch("/", kept).await.unwrap();
    assert_eq!(changes(&mut watch, 1).await[0].revision(), kept + 1);
}

async fn rejects_the_future(store: &dyn Store) {
    let newest = store.revision();
    let future = StoreError::Future {
        asked: newest + 5,
        newest,
    };
    let options = ListOptions {
        revision: Some(newest + 5),
        ..ListOptions::default()
    };
    assert_eq!(store.list("/", options).await.unwrap_err(), future);
    assert_eq!(
        store.watch("/", newest + 5).await.err(),
        Some(future.clone())
    );
    assert_eq!(store.compact(newest + 5).await, Err(future));
}

/// Adds one to the number at `/n`. Returns false if another task has changed it meanwhile.
async fn increment(store: &dyn Store) -> bool {
    let (found, _) = store.get("/n").await.unwrap();
    let (number, expect) = match &found {
        None => (0, Expect::Absent),
        Some(kv) => {
            let text = std::str::from_utf8(&kv.value).unwrap();
            let number = text.parse::<usize>().unwrap();
            (number, Expect::Revision(kv.mod_revision))
        }
    };
    let next = value(&(number + 1).to_string());
    match store.put("/n", next, expect).await {
        Ok(written) => {
            let (now, revision) = store.get("/n").await.unwrap();
            let now = now.unwrap().mod_revision;
            assert!(now >= written.mod_revision, "own writes are read");
            assert!(revision >= written.mod_revision);
            true
        }
        Err(StoreError::Conflict { found: Some(found) }) => {
            let (_, revision) = store.get("/n").await.unwrap();
            assert!(
                found.mod_revision <= revision,
                "a conflict is with what is durable"
            );
            false
        }
        Err(e) => panic!("{e}"),
    }
}

/// Tasks that each read, add one and write if unchanged: the sum must be right,
/// and a watch must see every step once.
async fn racing_writers_never_lose_an_update(store: Arc<dyn Store>) {
    const TASKS: usize = 8;
    const STEPS: usize = 20;
    let start = store.revision();
    let mut watch = store.watch("/n", start).await.unwrap();
    let tasks = (0..TASKS).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..STEPS {
                while !increment(&*store).await {}
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let steps = changes(&mut watch, TASKS * STEPS).await;
    let seen: Vec<String> = steps
        .iter()
        .map(|c| String::from_utf8(c.after().unwrap().value.to_vec()).unwrap())
        .collect();
    let expected: Vec<String> = (1..=TASKS * STEPS).map(|n| n.to_string()).collect();
    assert_eq!(seen, expected);
}
