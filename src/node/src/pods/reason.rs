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
