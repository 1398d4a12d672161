//! An indexed cache of one kind's objects, with change handlers.

use std::any::type_name;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use parking_lot::RwLock;
use tokio::sync::watch;

use super::types::{Change, Key};
use crate::reflector::{Listed, Sink, Versioned};

type Handler<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;
type Index<K> = fn(&K) -> Option<String>;

/// The state of an entry in the last notification of handlers.
enum Notified<K> {
    /// The state that the store holds.
    Current,
    /// A different state, or none yet: the stored one is the result of a write by this process that
    /// the watch has not reported yet.
    Other(Option<Arc<K>>),
}

struct Entry<K> {
    object: Arc<K>,
    notified: Notified<K>,
}

struct Inner<K> {
    objects: BTreeMap<Key, Entry<K>>,
    by_owner: HashMap<String, BTreeSet<Key>>,
    by_index: HashMap<String, BTreeSet<Key>>,
    /// Objects that this process deleted and whose deletion the watch has not reported yet, by UID.
    tombstones: HashMap<String, Arc<K>>,
    /// The latest resource version that the watch has reported.
    revision: u64,
}

/// A cache of one kind's objects; clones share it.
pub struct Store<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    inner: RwLock<Inner<K>>,
    handlers: RwLock<Vec<Handler<K>>>,
    index: Option<Index<K>>,
    synced: watch::Sender<bool>,
}

impl<K> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

fn revision(meta: &ObjectMeta) -> u64 {
    meta.resource_version
        .as_deref()
        .and_then(|version| version.parse().ok())
        .unwrap_or(0)
}

fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

/// Returns the key of an object in the owner index: its controller's UID or, without a controller,
/// `~` followed by its namespace.
fn owner_key(meta: &ObjectMeta) -> String {
    meta.owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))
        .map_or_else(
            || format!("~{}", meta.namespace.as_deref().unwrap_or_default()),
            |owner| owner.uid.clone(),
        )
}

impl<K: Versioned> Inner<K> {
    fn unindex(&mut self, key: &Key, object: &K, index: Option<Index<K>>) {
        let remove = |map: &mut HashMap<String, BTreeSet<Key>>, value: String| {
            if let Some(keys) = map.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    map.remove(&value);
                }
            }
        };
        remove(&mut self.by_owner, owner_key(object.metadata()));
        if let Some(value) = index.and_then(|index| index(object)) {
            remove(&mut self.by_index, value);
        }
    }

    fn put(&mut self, key: Key, object: Arc<K>, notified: Notified<K>, index: Option<Index<K>>) {
        if let Some(old) = self.objects.get(&key).map(|entry| entry.object.clone()) {
            self.unindex(&key, &old, index);
        }
        self.by_owner
            .entry(owner_key(object.metadata()))
            .or_default()
            .insert(key.clone());
        if let Some(value) = index.and_then(|index| index(&object)) {
            self.by_index.entry(value).or_default().insert(key.clone());
        }
        self.objects.insert(key, Entry { object, notified });
    }

    fn take(&mut self, key: &Key, index: Option<Index<K>>) -> Option<Entry<K>> {
        let entry = self.objects.remove(key)?;
        self.unindex(key, &entry.object.clone(), index);
        Some(entry)
    }
}

impl<K: Versioned> Default for Store<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Versioned> Store<K> {
    /// Returns an empty store.
    pub fn new() -> Self {
        Self::with_index(None)
    }

    /// Returns an empty store with an additional index. `index` returns the value under which an
    /// object is indexed.
    pub fn indexed_by(index: Index<K>) -> Self {
        Self::with_index(Some(index))
    }

    fn with_index(index: Option<Index<K>>) -> Self {
        Self {
            shared: Arc::new(Shared {
                inner: RwLock::new(Inner {
                    objects: BTreeMap::new(),
                    by_owner: HashMap::new(),
                    by_index: HashMap::new(),
                    tombstones: HashMap::new(),
                    revision: 0,
                }),
                handlers: RwLock::new(Vec::new()),
                index,
                synced: watch::Sender::new(false),
            }),
        }
    }

    /// Registers a handler for all future changes.
    ///
    /// It is called in the order of changes from the watch's task, so it must be quick and must not
    /// block.
    pub fn on_change(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) {
        self.shared.handlers.write().push(Box::new(handler));
    }

    /// Waits until the initial list has been received.
    pub async fn synced(&self) {
        // Cannot fail: `shared` owns the sender.
        let _ = self
            .shared
            .synced
            .subscribe()
            .wait_for(|synced| *synced)
            .await;
    }

    /// Returns whether the initial list has been received.
    pub fn is_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// Returns the object `namespace`/`name`.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.by_key(&Key::new(namespace, name))
    }

    /// Returns the object with this key.
    pub fn by_key(&self, key: &Key) -> Option<Arc<K>> {
        let inner = self.shared.inner.read();
        inner.objects.get(key).map(|entry| entry.object.clone())
    }

    /// Returns all objects in key order.
    pub fn list(&self) -> Vec<Arc<K>> {
        let inner = self.shared.inner.read();
        inner
            .objects
            .values()
            .map(|entry| entry.object.clone())
            .collect()
    }

    /// Returns the number of objects.
    pub fn len(&self) -> usize {
        self.shared.inner.read().objects.len()
    }

    /// Returns whether the store has no objects.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns all objects of a namespace, ordered by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let inner = self.shared.inner.read();
        inner
            .objects
            .range(Key::new(namespace, "")..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, entry)| entry.object.clone())
            .collect()
    }

    fn gather(inner: &Inner<K>, keys: Option<&BTreeSet<Key>>) -> Vec<Arc<K>> {
        keys.into_iter()
            .flatten()
            .filter_map(|key| inner.objects.get(key))
            .map(|entry| entry.object.clone())
            .collect()
    }

    /// Returns the objects whose controller has this UID.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        let inner = self.shared.inner.read();
        Self::gather(&inner, inner.by_owner.get(uid))
    }

    /// Returns the objects whose controller has this UID, and the namespace's objects without a
    /// controller.
    pub fn claimable_by(&self, namespace: &str, uid: &str) -> Vec<Arc<K>> {
        let inner = self.shared.inner.read();
        let mut found = Self::gather(&inner, inner.by_owner.get(uid));
        found.extend(Self::gather(
            &inner,
            inner.by_owner.get(&format!("~{namespace}")),
        ));
        found
    }

    /// Returns the objects with this value in the store's additional index.
    pub fn indexed(&self, value: &str) -> Vec<Arc<K>> {
        let inner = self.shared.inner.read();
        Self::gather(&inner, inner.by_index.get(value))
    }

    /// Notifies all handlers. A panic in one is logged and stops neither the others nor the watch.
    fn notify_handlers(&self, change: &Change<K>) {
        for handler in self.shared.handlers.read().iter() {
            if catch_unwind(AssertUnwindSafe(|| handler(change))).is_err() {
                let (kind, key) = (type_name::<K>(), Key::of(change.object().metadata()));
                tracing::error!(kind, ?key, "a handler of changes panicked");
            }
        }
    }

    fn slim(object: &mut K) {
        object.metadata_mut().managed_fields = None;
    }

    /// Adds the response to a write by this process, unless the watch has already reported a later
    /// state.
    ///
    /// Handlers are notified only when the watch reports the change.
    pub fn observe(&self, mut object: K) -> Arc<K> {
        Self::slim(&mut object);
        let object = Arc::new(object);
        let meta = object.metadata();
        let (key, new) = (Key::of(meta), revision(meta));
        let mut inner = self.shared.inner.write();
        if inner.tombstones.contains_key(uid(meta)) {
            return object;
        }
        let seen = inner.revision;
        let notified = match inner.objects.get_mut(&key) {
            Some(entry) if uid(entry.object.metadata()) == uid(meta) => {
                if revision(entry.object.metadata()) >= new {
                    return object;
                }
                match std::mem::replace(&mut entry.notified, Notified::Current) {
                    Notified::Current => Notified::Other(Some(entry.object.clone())),
                    other => other,
                }
            }
            // The watch has progressed past this write and the object is missing: it was deleted
            // since.
            _ if new <= seen => return object,
            // An earlier object of that name, whose deletion the watch has not reported yet.
            Some(_) => return object,
            None => Notified::Other(None),
        };
        inner.put(key, object.clone(), notified, self.shared.index);
        object
    }

    /// Records that the API server accepted a deletion by this process. `gone` is true if the
    /// object was removed, and false if it was only marked for deletion.
    pub fn observe_deletion(&self, meta: &ObjectMeta, gone: bool, now: Timestamp) {
        let key = Key::of(meta);
        let mut inner = self.shared.inner.write();
        let Some(entry) = inner.objects.get(&key) else {
            return;
        };
        if uid(entry.object.metadata()) != uid(meta) {
            return;
        }
        if gone {
            if let Some(entry) = inner.take(&key, self.shared.index) {
                let last = match entry.notified {
                    Notified::Current => Some(entry.object),
                    Notified::Other(notified) => notified,
                };
                if let Some(last) = last {
                    inner.tombstones.insert(uid(meta).to_owned(), last);
                }
            }
        } else if entry.object.metadata().deletion_timestamp.is_none() {
            let mut marked = K::clone(&entry.object);
            marked.metadata_mut().deletion_timestamp = Some(Time(now));
            let notified = match &entry.notified {
                Notified::Current => Some(entry.object.clone()),
                Notified::Other(notified) => notified.clone(),
            };
            inner.put(
                key,
                Arc::new(marked),
                Notified::Other(notified),
                self.shared.index,
            );
        }
    }

    /// Handles an added or modified object reported by the watch.
    pub fn apply(&self, mut object: K) {
        Self::slim(&mut object);
        let object = Arc::new(object);
        let meta = object.metadata();
        let (key, new) = (Key::of(meta), revision(meta));
        let change = {
            let mut inner = self.shared.inner.write();
            inner.revision = inner.revision.max(new);
            if inner.tombstones.contains_key(uid(meta)) {
                return;
            }
            let change = match inner.objects.get(&key) {
                Some(entry) if uid(entry.object.metadata()) == uid(meta) => {
                    let held = revision(entry.object.metadata());
                    if held > new {
                        return; // a later write by this process, which the watch will report
                    }
                    match &entry.notified {
                        // Repeated by a new list.
                        Notified::Current if held == new => return,
                        Notified::Current => Change::Updated(entry.object.clone(), object.clone()),
                        Notified::Other(Some(old)) => Change::Updated(old.clone(), object.clone()),
                        Notified::Other(None) => Change::Added(object.clone()),
                    }
                }
                // Another object of the same name: the deletion in between was missed because of a
                // new list, so notify handlers of it now.
                Some(entry) => {
                    let last = entry.object.clone();
                    drop(inner);
                    self.notify_handlers(&Change::Deleted(last));
                    inner = self.shared.inner.write();
                    Change::Added(object.clone())
                }
                None => Change::Added(object.clone()),
            };
            inner.put(key, object.clone(), Notified::Current, self.shared.index);
            change
        };
        self.notify_handlers(&change);
    }

    /// Handles a deletion reported by the watch.
    pub fn remove(&self, object: K) {
        let change = {
            let mut inner = self.shared.inner.write();
            let meta = object.metadata();
            inner.revision = inner.revision.max(revision(meta));
            inner.tombstones.remove(uid(meta));
            let key = Key::of(meta);
            if inner
                .objects
                .get(&key)
                .is_some_and(|entry| uid(entry.object.metadata()) == uid(meta))
            {
                inner.take(&key, self.shared.index);
            }
            Change::Deleted(Arc::new(object))
        };
        self.notify_handlers(&change);
    }

    /// Records that the watch has progressed to `revision` without further changes.
    pub fn bookmark(&self, revision: u64) {
        let mut inner = self.shared.inner.write();
        inner.revision = inner.revision.max(revision);
    }

    /// Replaces the contents by the list at revision `at`: objects missing from it were deleted.
    /// Marks the store as synced.
    pub fn replace(&self, objects: Vec<K>, at: u64) {
        self.relist(Listed::new(objects, at));
    }

    /// Handles a list of the watch. Objects that cannot be read any more stay as they were.
    fn relist(&self, list: Listed<K>) {
        let (objects, at) = (&list.objects, list.revision);
        let listed: BTreeMap<Key, String> = objects
            .iter()
            .map(|object| {
                (
                    Key::of(object.metadata()),
                    uid(object.metadata()).to_owned(),
                )
            })
            .collect();
        let gone: Vec<Arc<K>> = {
            let mut inner = self.shared.inner.write();
            let gone: Vec<Key> = inner
                .objects
                .iter()
                .filter(|(key, entry)| {
                    let meta = entry.object.metadata();
                    revision(meta) <= at
                        && listed.get(key).is_none_or(|listed| listed != uid(meta))
                        && !list.keeps(meta)
                })
                .map(|(key, _)| key.clone())
                .collect();
            let mut last: Vec<Arc<K>> = gone
                .iter()
                .filter_map(|key| inner.take(key, self.shared.index))
                .filter_map(|entry| match entry.notified {
                    Notified::Current => Some(entry.object),
                    Notified::Other(notified) => notified,
                })
                .collect();
            let unreadable = list.unreadable.iter().map(|object| &object.uid);
            let uids: BTreeSet<&str> = listed
                .values()
                .chain(unreadable)
                .map(String::as_str)
                .collect();
            let buried: Vec<String> = inner
                .tombstones
                .keys()
                .filter(|uid| !uids.contains(uid.as_str()))
                .cloned()
                .collect();
            last.extend(buried.iter().filter_map(|uid| inner.tombstones.remove(uid)));
            last
        };
        for object in gone {
            self.notify_handlers(&Change::Deleted(object));
        }
        for object in list.objects {
            self.apply(object);
        }
        self.bookmark(at);
        self.shared.synced.send_replace(true);
    }
}

impl<K: Versioned> Sink<K> for Store<K> {
    fn replace(&self, list: Listed<K>) {
        self.relist(list);
    }

    fn apply(&self, object: K) {
        Store::apply(self, object);
    }

    fn remove(&self, object: K) {
        Store::remove(self, object);
    }

    fn bookmark(&self, revision: u64) {
        Store::bookmark(self, revision);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reflector::Unreadable;
    use k8s_openapi::api::core::v1::ConfigMap;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
    use parking_lot::Mutex;

    fn object(name: &str, uid: &str, revision: u64) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("ns".into()),
                uid: Some(uid.into()),
                resource_version: Some(revision.to_string()),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    fn recorded(store: &Store<ConfigMap>) -> Arc<Mutex<Vec<String>>> {
        let log = Arc::new(Mutex::new(Vec::new()));
        let sink = log.clone();
        store.on_change(move |change| {
            let version = |o: &ConfigMap| o.metadata.resource_version.clone().unwrap_or_default();
            sink.lock().push(match change {
                Change::Added(o) => format!("+{}", version(o)),
                Change::Updated(a, b) => format!("{}>{}", version(a), version(b)),
                Change::Deleted(o) => format!("-{}", version(o)),
            });
        });
        log
    }

    #[test]
    fn an_object_that_cannot_be_read_stays_as_it_was() {
        let store = Store::new();
        let log = recorded(&store);
        store.replace(vec![object("a", "1", 1), object("b", "2", 2)], 2);
        let unreadable = |name: &str, uid: &str| Unreadable {
            namespace: "ns".into(),
            name: name.into(),
            uid: uid.into(),
            error: String::new(),
        };
        let mut list = Listed::new(vec![], 5);
        // The second one is another object of that name.
        list.unreadable = vec![unreadable("a", "1"), unreadable("b", "3")];
        Sink::replace(&store, list);
        assert_eq!(*log.lock(), ["+1", "+2", "-2"]);
        assert!(store.get("ns", "a").is_some() && store.get("ns", "b").is_none());
        store.replace(vec![object("a", "1", 6)], 6);
        assert_eq!(log.lock().last().map(String::as_str), Some("1>6"));
    }

    #[test]
    fn an_own_write_is_seen_at_once_and_notified_once() {
        let store = Store::new();
        let log = recorded(&store);
        store.replace(vec![object("a", "1", 3)], 5);
        store.observe(object("b", "2", 6));
        assert!(store.get("ns", "b").is_some());
        assert_eq!(*log.lock(), ["+3"]);
        store.apply(object("b", "2", 6));
        assert_eq!(*log.lock(), ["+3", "+6"]);
        store.observe(object("b", "2", 8));
        store.apply(object("b", "2", 7)); // older than the own write
        store.apply(object("b", "2", 8));
        assert_eq!(*log.lock(), ["+3", "+6", "6>8"]);
    }

    #[test]
    fn an_own_write_never_raises_the_dead() {
        let store = Store::new();
        store.replace(vec![], 5);
        store.apply(object("a", "1", 6));
        store.remove(object("a", "1", 9));
        store.observe(object("a", "1", 6)); // the response arrives late
        assert!(store.get("ns", "a").is_none());
    }

    #[test]
    fn an_own_delete_is_seen_at_once() {
        let store = Store::new();
        let log = recorded(&store);
        let a = object("a", "1", 3);
        store.replace(vec![a.clone(), object("b", "2", 4)], 5);
        store.observe_deletion(&a.metadata, true, Timestamp::UNIX_EPOCH);
        assert!(store.get("ns", "a").is_none());
        store.apply(object("a", "1", 6)); // a change that precedes the deletion
        assert!(store.get("ns", "a").is_none());
        store.remove(object("a", "1", 7));
        assert_eq!(*log.lock(), ["+3", "+4", "-7"]);
        store.observe_deletion(&object("b", "2", 4).metadata, false, Timestamp::UNIX_EPOCH);
        let b = store.get("ns", "b").unwrap();
        assert!(b.metadata.deletion_timestamp.is_some());
    }

    #[test]
    fn a_list_tells_what_went_and_what_came() {
        let store = Store::new();
        let log = recorded(&store);
        store.replace(vec![object("a", "1", 3), object("b", "2", 4)], 5);
        store.replace(vec![object("b", "2", 4), object("a", "9", 8)], 9);
        assert_eq!(*log.lock(), ["+3", "+4", "-3", "+8"]);
    }

    #[test]
    fn owners_and_orphans_are_indexed() {
        let store = Store::new();
        let mut owned = object("a", "1", 3);
        owned.metadata.owner_references = Some(vec![OwnerReference {
            uid: "owner".into(),
            controller: Some(true),
            ..Default::default()
        }]);
        store.replace(vec![owned, object("b", "2", 4)], 5);
        assert_eq!(store.owned_by("owner").len(), 1);
        assert_eq!(store.claimable_by("ns", "owner").len(), 2);
        assert_eq!(store.claimable_by("other", "owner").len(), 1);
    }
}
