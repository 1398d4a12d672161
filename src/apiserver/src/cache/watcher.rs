//! Selections, and positions in a resource's history.

use std::sync::Arc;

use rkube_api::selector::{FieldOperator, FieldSelector, LabelSelector};
use tokio::sync::watch;

use super::object::CachedObject;
use super::resource::{Event, ResourceCache};

/// Which objects of a resource a request is about.
#[derive(Clone, Default)]
pub struct Filter {
    namespace: Option<String>,
    name: Option<String>,
    labels: Option<LabelSelector>,
    fields: Option<FieldSelector>,
}

impl Filter {
    /// Objects in `namespace` (all when `None`), by name when one is given,
    /// that the selectors match.
    pub fn new(
        namespace: Option<String>,
        name: Option<String>,
        labels: Option<LabelSelector>,
        fields: Option<FieldSelector>,
    ) -> Self {
        Self {
            namespace,
            name,
            labels,
            fields,
        }
    }

    /// A filter that selects nothing.
    pub fn nothing() -> Self {
        Self {
            labels: Some(LabelSelector::nothing()),
            ..Self::default()
        }
    }

    /// The same without labels and fields.
    pub fn by_name(&self) -> Self {
        Self {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            labels: None,
            fields: None,
        }
    }

    /// Whether everything is selected.
    pub fn is_all(&self) -> bool {
        self.namespace.is_none()
            && self.name.is_none()
            && self.labels.is_none()
            && self.fields.is_none()
    }

    /// Whether labels or fields restrict the selection: counts of what is left
    /// are then not known without looking.
    pub fn has_selectors(&self) -> bool {
        self.labels.is_some() || self.fields.is_some()
    }

    pub(super) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The one key that can match, when name and namespace are known.
    pub(super) fn single_key(&self) -> Option<String> {
        Some(format!(
            "{}/{}",
            self.namespace.as_ref()?,
            self.name.as_ref()?
        ))
    }

    /// Whether `object` is selected.
    pub fn matches(&self, object: &CachedObject) -> bool {
        self.namespace
            .as_ref()
            .is_none_or(|n| **n == *object.namespace)
            && self.name.as_ref().is_none_or(|n| **n == *object.name)
            && self
                .labels
                .as_ref()
                .is_none_or(|s| s.matches_with(|key| object.label(key)))
            && self.fields.as_ref().is_none_or(|s| {
                s.requirements().iter().all(|r| {
                    let same = object.field(&r.field).unwrap_or_default() == r.value;
                    same == (r.operator == FieldOperator::Equals)
                })
            })
    }
}

/// A watch cannot start or go on: its history is forgotten.
#[derive(Debug)]
pub struct TooOld {
    /// The oldest revision that a watch can start after.
    pub oldest: u64,
}

/// A place in a resource's history.
pub struct Position {
    next: u64,
    /// Everything up to this revision has been seen.
    revision: u64,
    woken: watch::Receiver<u64>,
}

impl Position {
    pub(super) fn new(next: u64, revision: u64, woken: watch::Receiver<u64>) -> Self {
        Self {
            next,
            revision,
            woken,
        }
    }
}

/// Follows a resource's events from a position on.
pub struct Watcher {
    cache: Arc<ResourceCache>,
    position: Position,
}

impl Watcher {
    /// A watcher of `cache` from `position` on.
    pub fn new(cache: Arc<ResourceCache>, position: Position) -> Self {
        Self { cache, position }
    }

    /// Everything up to this revision has been given out.
    pub fn revision(&self) -> u64 {
        self.position.revision
    }

    /// What has happened since the last call, without waiting.
    pub fn pending(&mut self) -> Result<Vec<Arc<Event>>, TooOld> {
        self.position.woken.mark_unchanged();
        let (mut events, next) = self.cache.events_from(self.position.next)?;
        self.position.next = next;
        // A watch may start at a revision that the store has yet to reach.
        events.retain(|e| e.revision > self.position.revision);
        if let Some(last) = events.last() {
            self.position.revision = last.revision;
        }
        Ok(events)
    }

    /// The next events, at least one. One wake-up takes all that are there.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event>>, TooOld> {
        loop {
            let events = self.pending()?;
            if !events.is_empty() {
                return Ok(events);
            }
            if self.position.woken.changed().await.is_err() {
                // The cache is gone, the server is shutting down.
                return Err(TooOld {
                    oldest: self.position.revision,
                });
            }
        }
    }

    /// Tells that nothing happened to the resource up to `revision`, unless
    /// events are pending.
    pub fn advance(&mut self, revision: u64) {
        if let Ok((events, _)) = self.cache.events_from(self.position.next)
            && events.is_empty()
        {
            self.position.revision = self.position.revision.max(revision);
        }
    }
}
