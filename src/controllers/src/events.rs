//! Event recorder: what `kubectl describe` lists under "Events".
//!
//! A separate task writes events, so that controllers never wait for them. As in client-go's
//! correlator, repetitions increment the count of the first event. Each source may send 25 events
//! per object in a burst, then one per five minutes.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio::sync::mpsc;

use crate::context::FIELD_MANAGER;
use crate::informers::Object;

/// Maximum number of event series remembered for counting repetitions.
const REMEMBERED: usize = 1024;
/// Burst of events allowed per source and object.
const BURST: f64 = 25.0;
/// Seconds per further event after the burst.
const REFILL_SECONDS: f64 = 300.0;
/// A repetition after this time becomes a new event.
const SERIES: Duration = Duration::from_secs(600);

/// The type of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// Informational.
    Normal,
    /// A problem that may need attention.
    Warning,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Severity::Normal => "Normal",
            Severity::Warning => "Warning",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Series {
    component: &'static str,
    uid: String,
    name: String,
    severity: Severity,
    reason: String,
    message: String,
}

struct Report {
    series: Series,
    regarding: ObjectReference,
    at: Timestamp,
}

/// Records events; clones share the writer task.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::UnboundedSender<Report>,
}

impl Recorder {
    /// Returns a recorder and its writer task, which must be polled for events to be written.
    pub fn new(client: Client) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self { sender }, write(client, receiver))
    }

    /// Records an event about `object` from `component`.
    pub fn event<K: Object>(
        &self,
        component: &'static str,
        object: &K,
        severity: Severity,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.event_about(component, object.object_ref(&()), severity, reason, message);
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
        let report = Report {
            series: Series {
                component,
                uid: regarding.uid.clone().unwrap_or_default(),
                name: regarding.name.clone().unwrap_or_default(),
                severity,
                reason: reason.to_owned(),
                message: message.into(),
            },
            regarding,
            at: Timestamp::now(),
        };
        // Sending fails only if the writer task was dropped, that is, on shutdown.
        let _ = self.sender.send(report);
    }
}

struct Known {
    namespace: String,
    name: String,
    count: i32,
    last: Timestamp,
}

#[derive(Default)]
struct Correlator {
    known: HashMap<Series, Known>,
    order: VecDeque<Series>,
    buckets: HashMap<(&'static str, String), (f64, Timestamp)>,
}

enum Step {
    Drop,
    Create(Box<Event>),
    Raise {
        namespace: String,
        name: String,
        count: i32,
        at: Timestamp,
    },
}

impl Correlator {
    fn step(&mut self, report: Report) -> Step {
        let Report {
            series,
            regarding,
            at,
        } = report;
        let bucket = self
            .buckets
            .entry((series.component, series.uid.clone()))
            .or_insert((BURST, at));
        let gained = (at.as_second() - bucket.1.as_second()).max(0) as f64 / REFILL_SECONDS;
        *bucket = ((bucket.0 + gained).min(BURST), at);
        if bucket.0 < 1.0 {
            return Step::Drop;
        }
        bucket.0 -= 1.0;
        if self.buckets.len() > REMEMBERED * 2 {
            self.buckets.retain(|_, (tokens, _)| *tokens < BURST - 1.0);
        }
        if let Some(known) = self.known.get_mut(&series)
            && at.duration_since(known.last).as_secs() < SERIES.as_secs() as i64
        {
            known.count += 1;
            known.last = at;
            return Step::Raise {
                namespace: known.namespace.clone(),
                name: known.name.clone(),
                count: known.count,
                at,
            };
        }
        let namespace = regarding
            .namespace
            .clone()
            .unwrap_or_else(|| "default".into());
        let name = format!("{}.{:x}", series.name, at.as_nanosecond());
        let event = event(&series, regarding, &namespace, &name, at);
        let known = Known {
            namespace,
            name,
            count: 1,
            last: at,
        };
        if self.known.insert(series.clone(), known).is_none() {
            self.order.push_back(series);
            if self.order.len() > REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
        Step::Create(Box::new(event))
    }
}

fn event(
    series: &Series,
    regarding: ObjectReference,
    namespace: &str,
    name: &str,
    at: Timestamp,
) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..Default::default()
        },
        involved_object: regarding,
        reason: Some(series.reason.clone()),
        message: Some(series.message.clone()),
        source: Some(EventSource {
            component: Some(series.component.into()),
            host: None,
        }),
        first_timestamp: Some(Time(at)),
        last_timestamp: Some(Time(at)),
        count: Some(1),
        type_: Some(series.severity.name().into()),
        reporting_component: Some(series.component.into()),
        reporting_instance: Some(String::new()),
        ..Default::default()
    }
}

async fn write(client: Client, mut reports: mpsc::UnboundedReceiver<Report>) {
    let mut correlator = Correlator::default();
    while let Some(report) = reports.recv().await {
        let outcome = match correlator.step(report) {
            Step::Drop => continue,
            Step::Create(event) => {
                let namespace = event.metadata.namespace.clone().unwrap_or_default();
                let params = PostParams {
                    field_manager: Some(FIELD_MANAGER.into()),
                    ..Default::default()
                };
                Api::<Event>::namespaced(client.clone(), &namespace)
                    .create(&params, &event)
                    .await
                    .map(drop)
            }
            Step::Raise {
                namespace,
                name,
                count,
                at,
            } => {
                let params = PatchParams {
                    field_manager: Some(FIELD_MANAGER.into()),
                    ..Default::default()
                };
                let patch = serde_json::json!({"count": count, "lastTimestamp": Time(at)});
                Api::<Event>::namespaced(client.clone(), &namespace)
                    .patch(&name, &params, &Patch::Merge(patch))
                    .await
                    .map(drop)
            }
        };
        if let Err(error) = outcome {
            // Expected, for example, for objects in a namespace that is being deleted. Events are
            // best effort.
            tracing::debug!(%error, "event not written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(message: &str, second: i64) -> Report {
        let regarding = ObjectReference {
            uid: Some("u".into()),
            name: Some("web".into()),
            namespace: Some("ns".into()),
            ..Default::default()
        };
        Report {
            series: Series {
                component: "c",
                uid: "u".into(),
                name: "web".into(),
                severity: Severity::Normal,
                reason: "R".into(),
                message: message.into(),
            },
            regarding,
            at: Timestamp::from_second(second).unwrap(),
        }
    }

    #[test]
    fn repeats_raise_the_count() {
        let mut correlator = Correlator::default();
        assert!(matches!(correlator.step(report("a", 1)), Step::Create(_)));
        assert!(matches!(
            correlator.step(report("a", 2)),
            Step::Raise { count: 2, .. }
        ));
        assert!(matches!(correlator.step(report("b", 2)), Step::Create(_)));
        assert!(matches!(
            correlator.step(report("a", 1000)),
            Step::Create(_)
        ));
    }

    #[test]
    fn a_flood_is_held_back() {
        let mut correlator = Correlator::default();
        for i in 0..25 {
            assert!(!matches!(
                correlator.step(report(&i.to_string(), 1)),
                Step::Drop
            ));
        }
        assert!(matches!(correlator.step(report("more", 1)), Step::Drop));
        assert!(!matches!(correlator.step(report("more", 301)), Step::Drop));
    }
}
