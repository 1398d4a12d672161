//! Occurrences of events, and the settings of their recorder.

use std::borrow::Cow;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;

/// Number of entries of each kind that are remembered.
pub(super) const MAX_REMEMBERED: usize = 4096;

/// The type of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// Informational.
    Normal,
    /// A problem that may need attention.
    Warning,
}

impl Severity {
    /// Returns the value of an event's field `type`.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Normal => "Normal",
            Severity::Warning => "Warning",
        }
    }
}

/// The representation of repeated events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// By `count`, `firstTimestamp` and `lastTimestamp`.
    Counted,
    /// By `series`.
    Series,
}

/// Settings of a recorder.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The representation of repetitions.
    pub style: Style,
    /// Field manager of the writes.
    pub field_manager: &'static str,
    /// The host in an event's source; node agents give the name of their node.
    pub host: Option<String>,
    /// The reporting instance; empty if it is not known.
    pub instance: String,
}

/// One occurrence of an event.
#[derive(Clone, Debug)]
pub struct Report {
    /// The reporting component, such as `deployment-controller`.
    pub component: Cow<'static, str>,
    /// The object that the event is about.
    pub regarding: ObjectReference,
    /// The type.
    pub severity: Severity,
    /// The reason: one word for programs.
    pub reason: Cow<'static, str>,
    /// The action that the component did or tried; required in [`Style::Series`], otherwise empty.
    pub action: Cow<'static, str>,
    /// The text for users.
    pub message: String,
    /// When it occurred.
    pub at: Timestamp,
}

impl Report {
    /// Returns the namespace in which the event belongs: the object's, or `default`.
    pub(super) fn namespace(&self) -> &str {
        match self.regarding.namespace.as_deref() {
            None | Some("") => "default",
            Some(namespace) => namespace,
        }
    }

    /// Returns the name of the event's API object.
    pub(super) fn name(&self) -> String {
        let object = self.regarding.name.as_deref().unwrap_or_default();
        format!("{object}.{:x}", self.at.as_nanosecond())
    }
}
