//! Reasons in statuses.

/// Reason and message of a waiting container or a failed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reason {
    /// Reason in camel case, for programs.
    pub reason: String,
    pub message: String,
}

impl Reason {
    /// Returns a reason with a message for users.
    pub(crate) fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            message: message.into(),
        }
    }
}

/// The node's decision to fail and stop a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Eviction {
    /// Reason of the pod's status: [`Eviction::REASON`] or [`Eviction::PREEMPTING`].
    pub reason: &'static str,
    /// Message of the pod's status.
    pub message: String,
    /// Grace period of the containers in seconds, instead of the pod's own.
    pub grace: i64,
    /// Whether the pod gets the condition by which controllers know a disruption: it went for want
    /// of a resource, not for its own faults.
    pub is_disruption: bool,
}

impl Eviction {
    /// Reason of the status and of the event.
    pub(crate) const REASON: &str = "Evicted";
    /// Reason if the pod goes so that a critical one can be admitted.
    pub(crate) const PREEMPTING: &str = "Preempting";
}
