//! Filters, and watchers of a resource's events.

use std::sync::Arc;

use rkube_api::selector::{FieldOperator, FieldSelector, LabelSelector};
use tokio::sync::watch;

use super::object::CachedObject;
use super::resource::{Event, ResourceCache};

/// Selects objects of a resource by namespace, name, labels and fields.
#[derive(Clone, Default)]
pub struct Filter {
    namespace: Option<String>,
    name: Option<String>,
    labels: Option<LabelSelector>,
    fields: Option<FieldSelector>,
}

impl Filter {
    /// Creates a filter of the objects in `namespace` (in all namespaces if `None`), by name if one
    /// is given, that match the selectors.
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

    /// Creates a filter that selects nothing.
    pub fn nothing() -> Self {
        Self {
            labels: Some(LabelSelector::nothing()),
            ..Self::default()
        }
    }

    /// Returns this filter without its label and field selectors.
    pub fn by_name(&self) -> Self {
        Self {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            labels: None,
            fields: None,
        }
    }

    /// Returns whether the filter selects everything.
    pub fn is_all(&self) -> bool {
        self.namespace.is_none()
            && self.name.is_none()
            && self.labels.is_none()
            && self.fields.is_none()
    }

    /// Returns whether there are label or field selectors. If so, the number of selected objects is
    /// not known without evaluating them.
    pub fn has_selectors(&self) -> bool {
        self.labels.is_some() || self.fields.is_some()
    }

    pub(super) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// Returns the only key that can match, if name and namespace are given.
    pub(super) fn single_key(&self) -> Option<String> {
        Some(format!(
            "{}/{}",
            self.namespace.as_ref()?,
            self.name.as_ref()?
        ))
    }

    /// Returns whether the filter selects `object`.
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

/// The error of a watch whose history is no longer kept.
#[derive(Debug)]
pub struct TooOld {
    /// The oldest revision after which a watch can start.
    pub oldest: u64,
}

/// A position in a resource's sequence of events.
pub struct Position {
    next: u64,
    /// All events up to this revision have been returned.
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

/// Follows a resource's events from a position.
pub struct Watcher {
    cache: Arc<ResourceCache>,
    position: Position,
}

impl Watcher {
    /// Creates a watcher of `cache` from `position`.
    pub fn new(cache: Arc<ResourceCache>, position: Position) -> Self {
        Self { cache, position }
    }

    /// Returns the revision up to which all events have been returned.
    pub fn revision(&self) -> u64 {
        self.position.revision
    }

    /// Returns the events since the last call, without waiting.
    pub fn pending(&mut self) -> Result<Vec<Arc<Event>>, TooOld> {
        self.position.woken.mark_unchanged();
        let (mut events, next) = self.cache.events_from(self.position.next)?;
        self.position.next = next;
        // A watch may start at a revision that the store has not reached.
        events.retain(|e| e.revision > self.position.revision);
        if let Some(last) = events.last() {
            self.position.revision = last.revision;
        }
        Ok(events)
    }

    /// Waits for the next events and returns all that are available, at least one.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event>>, TooOld> {
        loop {
            let events = self.pending()?;
            if !events.is_empty() {
                return Ok(events);
            }
            if self.position.woken.changed().await.is_err() {
                // The cache was dropped: the server is shutting down.
                return Err(TooOld {
                    oldest: self.position.revision,
                });
            }
        }
    }

    /// Advances the watcher's revision to `revision` if there are no pending events. The whole
    /// cache must have reached `revision`.
    pub fn advance(&mut self, revision: u64) {
        if let Ok((events, _)) = self.cache.events_from(self.position.next)
            && events.is_empty()
        {
            self.position.revision = self.position.revision.max(revision);
        }
    }
}
