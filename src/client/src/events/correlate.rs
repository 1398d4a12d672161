//! Counting, combining and limiting events, with the rules of client-go's event correlator.
//!
//! In this order:
//!
//! 1. From the tenth distinct message within ten minutes, events that differ only in their message
//!    are combined into one, whose message has the prefix "(combined from similar events): ".
//! 2. An event that was recorded before raises the count of the first one.
//! 3. Each source may send 25 events about an object, then one more per five minutes.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Value, json};

use super::lru::Lru;
use super::types::{MAX_REMEMBERED, Report, Settings};

/// Burst of events allowed per source and object.
const BURST: f64 = 25.0;
/// Seconds per further event after the burst.
const REFILL_SECONDS: f64 = 300.0;
/// Number of distinct messages from which similar events are combined.
const SIMILAR: usize = 10;
/// Events that are further apart than this are not combined.
const SIMILAR_INTERVAL: SignedDuration = SignedDuration::from_secs(600);
/// Prefix of the message of combined events.
const COMBINED: &str = "(combined from similar events): ";

/// An event to write.
#[derive(Debug)]
pub struct Write {
    /// The whole event, to be created if `patch` is `None` or its object no longer exists.
    pub event: Box<Event>,
    /// The change of an event that was created before.
    pub patch: Option<Value>,
}

/// The identity of a source and an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Subject {
    component: String,
    kind: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
    api_version: Option<String>,
}

impl Subject {
    fn of(report: &Report) -> Self {
        let object: &ObjectReference = &report.regarding;
        Self {
            component: report.component.clone().into_owned(),
            kind: object.kind.clone(),
            namespace: object.namespace.clone(),
            name: object.name.clone(),
            uid: object.uid.clone(),
            api_version: object.api_version.clone(),
        }
    }
}

/// The properties that similar events have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Group {
    subject: Subject,
    severity: &'static str,
    reason: String,
}

/// The properties that repetitions of an event have in common. Combined events have neither field
/// path nor message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Identity {
    group: Group,
    exact: Option<(Option<String>, String)>,
}

struct Similar {
    messages: BTreeSet<String>,
    last: Timestamp,
}

/// An event that was created.
struct CreatedEvent {
    name: String,
    first: Timestamp,
    count: i32,
}

struct Bucket {
    tokens: f64,
    refilled: Timestamp,
}

impl Bucket {
    fn take(&mut self, at: Timestamp) -> bool {
        let gained = at.duration_since(self.refilled).as_secs_f64().max(0.0) / REFILL_SECONDS;
        self.tokens = (self.tokens + gained).min(BURST);
        self.refilled = at;
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

/// The state of all recent events of one process.
pub struct Correlator {
    similar: Lru<Group, Similar>,
    known: Lru<Identity, CreatedEvent>,
    buckets: Lru<Subject, Bucket>,
}

impl Default for Correlator {
    fn default() -> Self {
        Self {
            similar: Lru::new(MAX_REMEMBERED),
            known: Lru::new(MAX_REMEMBERED),
            buckets: Lru::new(MAX_REMEMBERED),
        }
    }
}

impl Correlator {
    /// Returns what to write for an occurrence, or `None` if its source has sent too many.
    pub fn step(&mut self, settings: &Settings, mut report: Report) -> Option<Write> {
        let (subject, at) = (Subject::of(&report), report.at);
        let group = Group {
            subject: subject.clone(),
            severity: report.severity.name(),
            reason: report.reason.clone().into_owned(),
        };
        let combined = self.is_combined(&group, &report.message, at);
        let exact = (!combined).then(|| {
            let path = report.regarding.field_path.clone();
            (path, report.message.clone())
        });
        if combined {
            report.message.insert_str(0, COMBINED);
        }
        let mut created = false;
        let known = self.known.entry(&Identity { group, exact }, || {
            created = true;
            CreatedEvent {
                name: report.name(),
                first: at,
                count: 0,
            }
        });
        known.count = known.count.saturating_add(1);
        let patch = (!created).then(
            || json!({"count": known.count, "lastTimestamp": Time(at), "message": report.message}),
        );
        let event = event(settings, &report, known, combined);
        // As upstream does, an occurrence that is not written counts nevertheless.
        let bucket = self.buckets.entry(&subject, || Bucket {
            tokens: BURST,
            refilled: at,
        });
        bucket.take(at).then(|| Write {
            event: Box::new(event),
            patch,
        })
    }

    fn is_combined(&mut self, group: &Group, message: &str, at: Timestamp) -> bool {
        let similar = self.similar.entry(group, || Similar {
            messages: BTreeSet::new(),
            last: at,
        });
        if at.duration_since(similar.last) > SIMILAR_INTERVAL {
            similar.messages.clear();
        }
        similar.last = at;
        similar.messages.insert(message.to_owned());
        if similar.messages.len() < SIMILAR {
            return false;
        }
        similar.messages.pop_first();
        true
    }
}

fn event(settings: &Settings, report: &Report, known: &CreatedEvent, combined: bool) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(known.name.clone()),
            namespace: Some(report.namespace().to_owned()),
            ..Default::default()
        },
        involved_object: report.regarding.clone(),
        reason: Some(report.reason.clone().into_owned()),
        message: Some(report.message.clone()),
        source: Some(EventSource {
            component: Some(report.component.clone().into_owned()),
            host: settings.host.clone(),
        }),
        first_timestamp: Some(Time(known.first)),
        last_timestamp: Some(Time(report.at)),
        count: Some(known.count),
        type_: Some(report.severity.name().into()),
        // Upstream's aggregator leaves it out.
        reporting_component: (!combined).then(|| report.component.clone().into_owned()),
        reporting_instance: Some(settings.instance.clone()),
        ..Default::default()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::types::{Severity, Style};
    use super::*;

    pub fn settings(style: Style) -> Settings {
        Settings {
            style,
            field_manager: "test",
            host: None,
            instance: String::new(),
        }
    }

    pub fn report(message: &str, second: i64) -> Report {
        Report {
            component: "c".into(),
            regarding: ObjectReference {
                uid: Some("u".into()),
                name: Some("web".into()),
                namespace: Some("ns".into()),
                ..Default::default()
            },
            severity: Severity::Normal,
            reason: "R".into(),
            action: "".into(),
            message: message.into(),
            at: Timestamp::from_second(second).unwrap(),
        }
    }

    fn step(correlator: &mut Correlator, report: Report) -> Option<Write> {
        correlator.step(&settings(Style::Counted), report)
    }

    #[test]
    fn repeats_raise_the_count() {
        let mut correlator = Correlator::default();
        let first = step(&mut correlator, report("a", 1)).unwrap();
        assert!(first.patch.is_none());
        assert_eq!(first.event.count, Some(1));
        let second = step(&mut correlator, report("a", 2)).unwrap();
        assert_eq!(second.patch.unwrap()["count"], 2);
        assert_eq!(second.event.metadata.name, first.event.metadata.name);
        assert_eq!(second.event.first_timestamp, first.event.first_timestamp);
        let other = step(&mut correlator, report("b", 2)).unwrap();
        assert!(other.patch.is_none());
    }

    #[test]
    fn the_tenth_similar_message_is_combined() {
        let mut correlator = Correlator::default();
        for i in 0..9 {
            let write = step(&mut correlator, report(&i.to_string(), 1)).unwrap();
            assert_eq!(write.event.message, Some(i.to_string()));
        }
        let tenth = step(&mut correlator, report("9", 2)).unwrap();
        assert!(tenth.patch.is_none());
        let text = "(combined from similar events): 9";
        assert_eq!(tenth.event.message.as_deref(), Some(text));
        assert_eq!(tenth.event.reporting_component, None);
        let next = step(&mut correlator, report("10", 3)).unwrap();
        let patch = next.patch.unwrap();
        assert_eq!(patch["count"], 2);
        assert_eq!(patch["message"], "(combined from similar events): 10");
        // Another reason has its own group, and a pause of ten minutes ends the combination.
        let mut other = report("x", 4);
        other.reason = "S".into();
        assert_eq!(
            step(&mut correlator, other)
                .unwrap()
                .event
                .message
                .as_deref(),
            Some("x")
        );
        let later = step(&mut correlator, report("11", 604)).unwrap();
        assert_eq!(later.event.message.as_deref(), Some("11"));
    }

    #[test]
    fn a_flood_is_held_back() {
        let mut correlator = Correlator::default();
        for _ in 0..25 {
            assert!(step(&mut correlator, report("a", 1)).is_some());
        }
        assert!(step(&mut correlator, report("a", 1)).is_none());
        let after = step(&mut correlator, report("a", 301)).unwrap();
        assert_eq!(after.patch.unwrap()["count"], 27);
        let mut other = report("a", 301);
        other.regarding.uid = Some("v".into());
        assert!(step(&mut correlator, other).is_some());
    }

    #[test]
    fn memory_is_bounded() {
        let mut correlator = Correlator::default();
        for i in 0..MAX_REMEMBERED * 2 {
            let mut report = report("a", 1);
            report.regarding.uid = Some(i.to_string());
            step(&mut correlator, report);
        }
        assert_eq!(correlator.similar.len(), MAX_REMEMBERED);
        assert_eq!(correlator.known.len(), MAX_REMEMBERED);
        assert_eq!(correlator.buckets.len(), MAX_REMEMBERED);
    }
}
