//! Event series, with the rules of client-go's `tools/events`.
//!
//! Events with equal type, action, reason, reporter and object are occurrences of one series; their
//! messages may differ, and that of the first one is shown. The second occurrence is written at once,
//! further ones are only counted. The count is written every 30 minutes, and when a series has had
//! no occurrence for six minutes, which ends it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use serde_json::json;

use super::correlate::Write;
use super::lru::Lru;
use super::types::{MAX_REMEMBERED, Report, Settings};

/// Time without occurrences after which a series ends, and interval of the checks for that.
pub const SERIES_TIMEOUT: Duration = Duration::from_secs(6 * 60);
/// Interval at which the counts of current series are written.
pub const REFRESH_PERIOD: Duration = Duration::from_secs(30 * 60);
/// Maximum length of a message in bytes, by the API's validation.
const LONGEST_MESSAGE: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    component: String,
    severity: &'static str,
    reason: String,
    action: String,
    kind: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
    /// As upstream's, a series ends when the object changes.
    resource_version: Option<String>,
    field_path: Option<String>,
}

impl Key {
    fn of(report: &Report) -> Self {
        let object = report.regarding.clone();
        Self {
            component: report.component.clone().into_owned(),
            severity: report.severity.name(),
            reason: report.reason.clone().into_owned(),
            action: report.action.clone().into_owned(),
            kind: object.kind,
            namespace: object.namespace,
            name: object.name,
            uid: object.uid,
            resource_version: object.resource_version,
            field_path: object.field_path,
        }
    }
}

struct Ongoing {
    event: Event,
    /// The number of occurrences.
    count: i32,
    last: Timestamp,
}

impl Ongoing {
    fn write(&self) -> Write {
        let series = EventSeries {
            count: Some(self.count),
            last_observed_time: Some(MicroTime(self.last)),
        };
        let patch = json!({ "series": series });
        let event = Event {
            series: Some(series),
            ..self.event.clone()
        };
        Write {
            event: Box::new(event),
            patch: Some(patch),
        }
    }
}

/// The current series of one process.
pub struct SeriesBook {
    ongoing: Lru<Key, Ongoing>,
}

impl Default for SeriesBook {
    fn default() -> Self {
        Self {
            ongoing: Lru::new(MAX_REMEMBERED),
        }
    }
}

impl SeriesBook {
    /// Returns what to write for an occurrence, or `None` if it is only counted.
    pub fn step(&mut self, settings: &Settings, report: Report) -> Option<Write> {
        let ongoing = self.ongoing.entry(&Key::of(&report), || Ongoing {
            event: event(settings, &report),
            count: 0,
            last: report.at,
        });
        ongoing.count = ongoing.count.saturating_add(1);
        ongoing.last = report.at;
        match ongoing.count {
            1 => Some(Write {
                event: Box::new(ongoing.event.clone()),
                patch: None,
            }),
            2 => Some(ongoing.write()),
            _ => None,
        }
    }

    /// Ends the series without recent occurrences. Returns their final counts to write.
    pub fn finish(&mut self, now: Timestamp) -> Vec<Write> {
        let limit = i64::try_from(SERIES_TIMEOUT.as_secs()).unwrap_or(i64::MAX);
        let mut writes = Vec::new();
        self.ongoing.retain(|_, ongoing| {
            let over = now.duration_since(ongoing.last).as_secs() > limit;
            if over && ongoing.count > 1 {
                writes.push(ongoing.write());
            }
            !over
        });
        writes
    }

    /// Returns the counts of all current series, which keeps their events from expiring.
    pub fn refresh(&mut self) -> Vec<Write> {
        let mut writes = Vec::new();
        self.ongoing.retain(|_, ongoing| {
            if ongoing.count > 1 {
                writes.push(ongoing.write());
            }
            true
        });
        writes
    }
}

fn event(settings: &Settings, report: &Report) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(report.name()),
            namespace: Some(report.namespace().to_owned()),
            ..Default::default()
        },
        involved_object: report.regarding.clone(),
        event_time: Some(MicroTime(report.at)),
        type_: Some(report.severity.name().into()),
        reason: Some(report.reason.clone().into_owned()),
        action: Some(report.action.clone().into_owned()),
        message: Some(shortened(report.message.clone())),
        reporting_component: Some(report.component.clone().into_owned()),
        reporting_instance: Some(settings.instance.clone()),
        ..Default::default()
    }
}

fn shortened(mut message: String) -> String {
    if message.len() > LONGEST_MESSAGE {
        message.truncate(message.floor_char_boundary(LONGEST_MESSAGE - 4));
        message.push_str(" ...");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::super::correlate::tests::{report, settings};
    use super::super::types::Style;
    use super::*;

    #[test]
    fn the_second_occurrence_begins_a_series() {
        let (mut book, settings) = (SeriesBook::default(), settings(Style::Series));
        let first = book.step(&settings, report("a", 1)).unwrap();
        assert!(first.patch.is_none());
        let second = book.step(&settings, report("b", 2)).unwrap();
        assert_eq!(second.patch.unwrap()["series"]["count"], 2);
        assert_eq!(second.event.message.as_deref(), Some("a"));
        assert_eq!(second.event.metadata.name, first.event.metadata.name);
        assert!(book.step(&settings, report("c", 3)).is_none());
        assert_eq!(book.refresh().len(), 1);
    }

    #[test]
    fn a_series_ends_after_six_minutes() {
        let (mut book, settings) = (SeriesBook::default(), settings(Style::Series));
        for second in 1..=3 {
            book.step(&settings, report("a", second));
        }
        let at = |second| Timestamp::from_second(second).unwrap();
        assert!(book.finish(at(363)).is_empty());
        let writes = book.finish(at(364));
        assert_eq!(writes.len(), 1);
        assert_eq!(writes[0].patch.as_ref().unwrap()["series"]["count"], 3);
        let anew = book.step(&settings, report("a", 365)).unwrap();
        assert!(anew.patch.is_none());
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        assert_eq!(shortened("x".repeat(1024)).len(), 1024);
        let cut = shortened("ä".repeat(600));
        assert_eq!(cut.len(), 1024);
        assert!(cut.ends_with("ä ..."));
    }
}
