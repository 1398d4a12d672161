//! Why work on an item of a queue ends without success.

use std::time::Duration;

use kube::core::Status;

/// Why a controller could not process an item.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request to the API server failed.
    #[error("{}", api_message(.0))]
    Api(#[from] kube::Error),
    /// Not a failure: the item is to be processed again after this time.
    #[error("to be looked at again in {0:?}")]
    Retry(Duration),
    /// Any other problem that prevents processing.
    #[error("{0}")]
    Other(String),
}

/// Returns an API error's message without code and reason, as shown in conditions and events.
pub fn api_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// The result of a controller's work on an item.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Returns an error with this text.
    pub fn other(text: impl Into<String>) -> Self {
        Error::Other(text.into())
    }

    /// Returns the API server's status, if the error has one.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Error::Api(kube::Error::Api(status)) => Some(status),
            _ => None,
        }
    }

    /// Returns whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(|status| status.code == 404)
    }

    /// Returns whether the object was changed concurrently.
    pub fn is_conflict(&self) -> bool {
        self.status()
            .is_some_and(|status| status.reason == "Conflict")
    }

    /// Returns whether an object of that name already exists.
    pub fn is_already_exists(&self) -> bool {
        self.status()
            .is_some_and(|status| status.reason == "AlreadyExists")
    }

    /// Returns whether the API server rejected the object as invalid.
    pub fn is_invalid(&self) -> bool {
        self.status().is_some_and(|status| status.code == 422)
    }

    /// Returns whether creation failed because the namespace is being deleted.
    pub fn is_namespace_terminating(&self) -> bool {
        self.status().is_some_and(|status| {
            status.code == 403
                && status
                    .details
                    .iter()
                    .flat_map(|details| &details.causes)
                    .any(|cause| cause.reason == "NamespaceTerminating")
        })
    }
}

/// Converts a "not found" error into `Ok(None)`.
pub fn optional<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
