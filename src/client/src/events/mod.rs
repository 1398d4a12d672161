//! Event recorder. `kubectl describe` lists its events under "Events".
//!
//! A separate task writes events, so that their senders never wait. Two styles of repetition exist
//! upstream, and each component uses the one that its counterpart uses:
//!
//! - [`Style::Counted`]: client-go's `tools/record`, used by controllers and kubelet. A repeated
//!   event raises the count of the first one; similar events are combined; a source may send only so
//!   many events about an object ([`correlate`]).
//! - [`Style::Series`]: client-go's `tools/events`, used by the scheduler. Repetitions are counted in
//!   the event's `series` ([`series`]).
//!
//! Memory is bounded: the queue, and the number of events that are remembered.

pub mod correlate;
mod lru;
pub mod series;
mod types;
mod write;

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Client, Resource};
use tokio::sync::mpsc;

pub use types::{Report, Settings, Severity, Style};

/// Maximum number of events that wait to be written. Further ones are dropped.
const MAX_PENDING: usize = 1000;

/// Records events; clones share the queue and its writer.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Report>,
}

impl Recorder {
    /// Returns a recorder and its writer, which must be polled for events to be written. The writer
    /// ends when all clones of the recorder are dropped.
    pub fn new(client: Client, settings: Settings) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, receiver) = mpsc::channel(MAX_PENDING);
        let writer = write::Writer::new(client, Arc::new(settings), receiver);
        (Self { sender }, writer.run())
    }

    /// Records an occurrence. Never blocks: if too many wait to be written, it is dropped.
    pub fn record(&self, report: Report) {
        if let Err(error) = self.sender.try_send(report) {
            let (mpsc::error::TrySendError::Full(report)
            | mpsc::error::TrySendError::Closed(report)) = error;
            tracing::debug!(reason = %report.reason, "an event is dropped: too many wait");
        }
    }

    /// Records an event about `object` from `component`.
    pub fn event<K: Resource<DynamicType = ()>>(
        &self,
        component: &'static str,
        object: &K,
        severity: Severity,
        reason: &str,
        message: impl Into<String>,
    ) {
        let regarding = ObjectReference {
            resource_version: object.meta().resource_version.clone(),
            ..object.object_ref(&())
        };
        self.event_about(component, regarding, severity, reason, message);
    }

    /// Records an event about the object that `regarding` refers to.
    pub fn event_about(
        &self,
        component: &'static str,
        regarding: ObjectReference,
        severity: Severity,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.record(Report {
            component: component.into(),
            regarding,
            severity,
            reason: Cow::Owned(reason.to_owned()),
            action: "".into(),
            message: message.into(),
            at: Timestamp::now(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;

    #[test]
    fn events_have_the_version_of_their_object() {
        let (sender, mut receiver) = mpsc::channel(1);
        let mut pod = Pod::default();
        pod.metadata.name = Some("web".into());
        pod.metadata.resource_version = Some("7".into());
        Recorder { sender }.event("c", &pod, Severity::Normal, "R", "m");
        let regarding = receiver.try_recv().unwrap().regarding;
        assert_eq!(regarding.resource_version.as_deref(), Some("7"));
        assert_eq!(regarding.kind.as_deref(), Some("Pod"));
    }
}
