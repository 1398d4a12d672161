//! A store whose disk is full.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use rkube_store::{
    EmbeddedOptions, EmbeddedStore, Expect, KeyValue, ListOptions, Page, Pending, Revision, Store,
    StoreError, Watch,
};
use serde_json::json;

use super::support::{TestServer, config, make_pki};
use crate::ApiServer;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A store that refuses writes while it is full.
struct Filling {
    store: Arc<EmbeddedStore>,
    full: Arc<AtomicBool>,
}

impl Filling {
    fn error(&self) -> Result<(), StoreError> {
        match self.full.load(Ordering::Relaxed) {
            true => Err(StoreError::Full("no space".into())),
            false => Ok(()),
        }
    }
}

impl Store for Filling {
    fn get<'a>(&'a self, key: &'a str) -> Pending<'a, (Option<Arc<KeyValue>>, Revision)> {
        self.store.get(key)
    }

    fn list<'a>(&'a self, prefix: &'a str, options: ListOptions) -> Pending<'a, Page> {
        self.store.list(prefix, options)
    }

    fn put<'a>(&'a self, key: &'a str, value: Bytes, expect: Expect) -> Pending<'a, Arc<KeyValue>> {
        Box::pin(async move {
            self.error()?;
            self.store.put(key, value, expect).await
        })
    }

    fn put_deleting<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        expect: Expect,
    ) -> Pending<'a, Arc<KeyValue>> {
        self.store.put_deleting(key, value, expect)
    }

    fn delete<'a>(
        &'a self,
        key: &'a str,
        expect: Expect,
    ) -> Pending<'a, (Arc<KeyValue>, Revision)> {
        self.store.delete(key, expect)
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> Pending<'a, Watch> {
        self.store.watch(prefix, after)
    }

    fn compact<'a>(&'a self, revision: Revision) -> Pending<'a, ()> {
        self.store.compact(revision)
    }

    fn revision(&self) -> Revision {
        self.store.revision()
    }

    fn health(&self) -> Result<(), StoreError> {
        self.error()
    }
}

/// Returns a server, and the switch that fills its disk.
async fn server() -> (TestServer, Arc<AtomicBool>) {
    let folder = tempfile::tempdir().unwrap();
    let pki = make_pki();
    let full = Arc::new(AtomicBool::new(false));
    let mut config = config(&folder.path().join("unused"), pki.pki.clone());
    let store = EmbeddedStore::open(folder.path(), EmbeddedOptions::default()).unwrap();
    config.store = Arc::new(Filling {
        store,
        full: full.clone(),
    });
    let t = TestServer {
        server: ApiServer::new(config).await.unwrap(),
        pki,
        folder,
    };
    (t, full)
}

#[tokio::test]
async fn a_full_disk_takes_graceful_deletions() {
    let (t, full) = server().await;
    let map = |name: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "finalizers": ["example.com/a", "example.com/b"]}})
    };
    assert_eq!(t.post(MAPS, map("a")).await.0, 201);
    full.store(true, Ordering::Relaxed);
    let path = format!("{MAPS}/a");
    let finalizers = |left: &[&str]| json!({"metadata": {"finalizers": left}});
    // It is no step of a deletion yet.
    assert_eq!(
        t.patch(&path, "merge-patch+json", finalizers(&["example.com/b"]))
            .await
            .0,
        507
    );
    let (code, marked) = t.delete(&path).await;
    assert_eq!(code, 200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(
        t.patch(&path, "merge-patch+json", finalizers(&["example.com/b"]))
            .await
            .0,
        200
    );
    assert_eq!(
        t.patch(&path, "merge-patch+json", finalizers(&[])).await.0,
        200
    );
    assert_eq!(t.get(&path).await.0, 404);
}

#[tokio::test]
async fn a_full_disk_is_told_by_writes_and_readiness() {
    let (t, full) = server().await;
    let map =
        |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    assert_eq!(t.post(MAPS, map("a")).await.0, 201);
    full.store(true, Ordering::Relaxed);
    let (code, status) = t.post(MAPS, map("b")).await;
    assert_eq!(
        (code, &status["reason"]),
        (507, &json!("InsufficientStorage"))
    );
    assert!(status["message"].as_str().unwrap().contains("disk is full"));
    assert_eq!(t.get(&format!("{MAPS}/a")).await.0, 200);
    assert_eq!(t.get("/livez").await.0, 200);
    let (code, health) = t.get("/readyz").await;
    assert_eq!(code, 500);
    assert!(
        health
            .as_str()
            .unwrap()
            .contains("[-]etcd-readiness failed")
    );
    full.store(false, Ordering::Relaxed);
    assert_eq!(t.get("/readyz").await.0, 200);
    assert_eq!(t.post(MAPS, map("b")).await.0, 201);
}
