//! The cache of one resource: its objects and its recent events.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::watch;

use super::object::{CachedObject, FieldExtractor};
use super::pages::{Objects, Pages};
use super::watcher::{Filter, Position, TooOld};

/// Maximum number of recent events kept for watches that start in the past.
const MAX_RING_EVENTS: usize = 2048;
/// Maximum total size in bytes of the objects in kept events, except for the last
/// [`MIN_RING_EVENTS`] events.
const MAX_RING_BYTES: usize = 4 << 20;
/// Number of events kept regardless of their size.
const MIN_RING_EVENTS: usize = 64;

/// The type of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The object was created.
    Added,
    /// The object was updated.
    Modified,
    /// The object was deleted.
    Deleted,
}

impl EventKind {
    /// Returns the `type` of the watch event.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// A change of one object.
pub struct Event {
    /// The type of the change.
    pub kind: EventKind,
    /// The revision of the change.
    pub revision: u64,
    /// The new state; for a deletion, the last state with the revision of the deletion.
    pub object: Arc<CachedObject>,
    /// The previous state, if there was one.
    pub previous: Option<Arc<CachedObject>>,
}

impl Event {
    fn weight(&self) -> usize {
        self.object.stored().len() + self.previous.as_ref().map_or(0, |p| p.stored().len())
    }

    /// Returns the event as a watcher with `filter` sees it, or `None` if the watcher does not see
    /// it. An update that enters the selection is an addition, one that leaves it is a deletion.
    pub fn seen_through(&self, filter: &Filter) -> Option<(EventKind, Arc<CachedObject>)> {
        if filter.is_all() {
            return Some((self.kind, self.object.clone()));
        }
        let now = self.kind != EventKind::Deleted && filter.matches(&self.object);
        let before = self.previous.as_ref().is_some_and(|p| filter.matches(p));
        match (before, now) {
            (true, true) => Some((EventKind::Modified, self.object.clone())),
            (false, true) => Some((EventKind::Added, self.object.clone())),
            (true, false) if self.kind == EventKind::Deleted => {
                Some((EventKind::Deleted, self.object.clone()))
            }
            (true, false) => {
                let previous = self.previous.as_ref()?;
                Some((EventKind::Deleted, Arc::new(previous.at(self.revision))))
            }
            (false, false) => None,
        }
    }
}

/// The objects of one resource and their recent events.
pub struct ResourceCache {
    state: RwLock<State>,
    /// Sequence number of the next event; a change wakes the watchers.
    next: watch::Sender<u64>,
    /// Snapshots for paginated lists.
    pages: Pages,
}

struct State {
    objects: BTreeMap<Arc<str>, Arc<CachedObject>>,
    extractor: Option<FieldExtractor>,
    ring: VecDeque<Arc<Event>>,
    ring_bytes: usize,
    /// Sequence number of `ring[0]`.
    first: u64,
    /// The ring holds every event after this revision.
    floor: u64,
}

impl ResourceCache {
    /// Creates an empty cache whose history starts at `revision`.
    pub fn new(revision: u64) -> Self {
        Self {
            state: RwLock::new(State {
                objects: BTreeMap::new(),
                extractor: None,
                ring: VecDeque::new(),
                ring_bytes: 0,
                first: 0,
                floor: revision,
            }),
            next: watch::Sender::new(0),
            pages: Pages::default(),
        }
    }

    /// Sets the extractor of selectable fields, and applies it to all cached objects.
    pub fn set_extractor(&self, extractor: Option<FieldExtractor>) {
        let mut state = self.state.write();
        for object in state.objects.values_mut() {
            if let Some(again) = CachedObject::new(
                &object.namespace,
                &object.name,
                object.revision,
                object.stored(),
                extractor.as_ref(),
            ) {
                *object = Arc::new(again);
            }
        }
        state.extractor = extractor;
    }

    /// Replaces all objects. The events up to `revision` are unknown, so watchers at earlier
    /// positions must start over.
    pub fn replace<'a>(
        &self,
        items: impl Iterator<Item = (&'a str, &'a Bytes, u64)>,
        revision: u64,
    ) {
        let mut state = self.state.write();
        let extractor = state.extractor.clone();
        state.objects = items
            .filter_map(|(key, value, revision)| {
                let (namespace, name) = split(key);
                let object =
                    CachedObject::new(namespace, name, revision, value, extractor.as_ref());
                if object.is_none() {
                    tracing::error!(key, "a stored value is not an object, it is left out");
                }
                Some((Arc::from(key), Arc::new(object?)))
            })
            .collect();
        let end = state.first + state.ring.len() as u64;
        state.ring.clear();
        state.ring_bytes = 0;
        // Skipping a sequence number makes existing watchers fail with `TooOld`.
        state.first = end + 1;
        state.floor = revision;
        drop(state);
        self.wake();
    }

    /// Applies a write. Watchers are not woken until [`wake`](Self::wake).
    pub fn put(&self, key: &str, value: &Bytes, revision: u64) {
        let (namespace, name) = split(key);
        let read = |extractor: Option<&FieldExtractor>| {
            CachedObject::new(namespace, name, revision, value, extractor).map(Arc::new)
        };
        // The object is read without the lock, and again if the fields to extract have changed
        // meanwhile.
        let extractor = self.state.read().extractor.clone();
        let mut object = read(extractor.as_ref());
        self.pages.age(Instant::now());
        let mut state = self.state.write();
        if !is_same(extractor.as_ref(), state.extractor.as_ref()) {
            object = read(state.extractor.as_ref());
        }
        let Some(object) = object else {
            tracing::error!(key, "a stored value is not an object, it is left out");
            return;
        };
        let previous = match state.objects.get_mut(key) {
            Some(slot) => Some(std::mem::replace(slot, object.clone())),
            None => {
                state.objects.insert(Arc::from(key), object.clone());
                None
            }
        };
        let kind = if previous.is_some() {
            EventKind::Modified
        } else {
            EventKind::Added
        };
        state.push(Event {
            kind,
            revision,
            object,
            previous,
        });
    }

    /// Applies a deletion. Watchers are not woken until [`wake`](Self::wake).
    pub fn delete(&self, key: &str, revision: u64) {
        let mut state = self.state.write();
        let Some(previous) = state.objects.remove(key) else {
            return;
        };
        let object = Arc::new(previous.at(revision));
        state.push(Event {
            kind: EventKind::Deleted,
            revision,
            object,
            previous: Some(previous),
        });
    }

    /// Wakes the watchers if there are new events.
    pub fn wake(&self) {
        let end = self.state.read().end();
        self.next
            .send_if_modified(|next| std::mem::replace(next, end) != end);
    }

    /// Returns an object by namespace (empty for cluster-scoped resources) and name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<CachedObject>> {
        let state = self.state.read();
        if namespace.is_empty() {
            return state.objects.get(name).cloned();
        }
        state
            .objects
            .get(format!("{namespace}/{name}").as_str())
            .cloned()
    }

    /// Returns a receiver that is notified of each change from now on.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.next.subscribe()
    }

    /// Returns the revision of the latest change.
    pub fn last_change(&self) -> u64 {
        let state = self.state.read();
        state.ring.back().map_or(state.floor, |e| e.revision)
    }

    /// Returns the number of objects.
    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// Returns whether there are no objects.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the objects that `filter` selects, in key order.
    pub fn list(&self, filter: &Filter) -> Vec<Arc<CachedObject>> {
        self.state.read().select(filter)
    }

    /// Returns the objects that `filter` selects, and the revision of the latest change.
    pub fn list_with_revision(&self, filter: &Filter) -> (Vec<Arc<CachedObject>>, u64) {
        let state = self.state.read();
        (
            state.select(filter),
            state.ring.back().map_or(state.floor, |e| e.revision),
        )
    }

    /// Returns all objects and their revision: that of the latest change, or `at_least` if greater.
    /// Keeps them as a snapshot for the list's further pages.
    pub fn first_page(&self, at_least: u64) -> (Objects, u64) {
        let (objects, revision) = {
            let state = self.state.read();
            let newest = state.ring.back().map_or(state.floor, |e| e.revision);
            let objects: Objects = state.objects.values().cloned().collect();
            (objects, newest.max(at_least))
        };
        self.pages.keep(revision, objects.clone(), Instant::now());
        (objects, revision)
    }

    /// Returns all objects at `revision`, if a recent list has kept a snapshot of it.
    pub fn further_page(&self, revision: u64) -> Option<Objects> {
        self.pages.at(revision, Instant::now())
    }

    /// Returns a watcher's position right after `revision`.
    ///
    /// # Errors
    ///
    /// [`TooOld`] if the events since then are no longer kept.
    pub fn position_after(&self, revision: u64) -> Result<Position, TooOld> {
        let state = self.state.read();
        if revision < state.floor {
            return Err(TooOld {
                oldest: state.floor,
            });
        }
        let skip = state
            .ring
            .partition_point(|event| event.revision <= revision);
        Ok(Position::new(
            state.first + skip as u64,
            revision,
            self.next.subscribe(),
        ))
    }

    /// Returns the current objects and the position right after them. `revision` must be one that
    /// the whole cache has reached.
    pub fn snapshot(&self, filter: &Filter, revision: u64) -> (Vec<Arc<CachedObject>>, Position) {
        let state = self.state.read();
        let seen = state
            .ring
            .back()
            .map_or(state.floor, |e| e.revision)
            .max(revision);
        (
            state.select(filter),
            Position::new(state.end(), seen, self.next.subscribe()),
        )
    }

    /// Returns the events with sequence numbers from `from` on, and the next sequence number.
    pub(super) fn events_from(&self, from: u64) -> Result<(Vec<Arc<Event>>, u64), TooOld> {
        let state = self.state.read();
        if from < state.first {
            return Err(TooOld {
                oldest: state.floor,
            });
        }
        let skip = (from - state.first) as usize;
        Ok((state.ring.iter().skip(skip).cloned().collect(), state.end()))
    }
}

impl State {
    fn end(&self) -> u64 {
        self.first + self.ring.len() as u64
    }

    fn push(&mut self, event: Event) {
        debug_assert!(
            self.ring
                .back()
                .is_none_or(|last| last.revision <= event.revision)
        );
        self.ring_bytes += event.weight();
        self.ring.push_back(Arc::new(event));
        while self.ring.len() > MAX_RING_EVENTS
            || (self.ring_bytes > MAX_RING_BYTES && self.ring.len() > MIN_RING_EVENTS)
        {
            if let Some(old) = self.ring.pop_front() {
                self.ring_bytes -= old.weight();
                self.first += 1;
                self.floor = old.revision;
            }
        }
    }

    fn select(&self, filter: &Filter) -> Vec<Arc<CachedObject>> {
        if let Some(key) = filter.single_key() {
            return self
                .objects
                .get(key.as_str())
                .filter(|o| filter.matches(o))
                .cloned()
                .into_iter()
                .collect();
        }
        match filter.namespace() {
            Some(namespace) => {
                // '0' is the successor of '/', so this range holds every key that starts with
                // `namespace/`.
                let range = Arc::<str>::from(format!("{namespace}/"))
                    ..Arc::<str>::from(format!("{namespace}0"));
                self.objects
                    .range(range)
                    .map(|(_, o)| o)
                    .filter(|o| filter.matches(o))
                    .cloned()
                    .collect()
            }
            None if filter.is_all() => self.objects.values().cloned().collect(),
            None => self
                .objects
                .values()
                .filter(|o| filter.matches(o))
                .cloned()
                .collect(),
        }
    }
}

fn is_same(one: Option<&FieldExtractor>, other: Option<&FieldExtractor>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

/// Splits a key without its prefix into namespace and name.
fn split(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or(("", key))
}
