//! Reasons in statuses.

/// Why a container waits, or why the node failed a pod, as the status shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reason {
    /// A word in camel case.
    pub reason: String,
    pub message: String,
}

impl Reason {
    pub(crate) fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            message: message.into(),
        }
    }
}
