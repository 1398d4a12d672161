//! Errors. Their text appears in events of pods.

use std::io;

/// An error of an operation on images.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The text is not an image reference.
    #[error("couldn't parse image name {reference:?}: {reason}")]
    InvalidReference {
        /// The invalid text.
        reference: String,
        /// The reason.
        reason: String,
    },
    /// No such image is stored on this node.
    #[error("image {0:?} is not present on this node")]
    NotPresent(String),
    /// The registry has no such repository or tag.
    #[error("image {0:?} not found in its registry")]
    NotFound(String),
    /// The registry has no such repository, and does not make it for a push.
    #[error("registry {registry} has no repository {repository:?} to push to: {reason}")]
    NoRepository {
        /// The registry's host and port.
        registry: String,
        /// The repository within it.
        repository: String,
        /// The registry's message.
        reason: String,
    },
    /// The registry requires credentials, or rejects those given.
    #[error("registry {registry} denies access to {repository:?}: {reason}")]
    Denied {
        /// The registry's host and port.
        registry: String,
        /// The repository within it.
        repository: String,
        /// The registry's message.
        reason: String,
    },
    /// The registry cannot be reached, or its response is invalid.
    #[error("registry {registry}: {reason}")]
    Registry {
        /// The registry's host and port.
        registry: String,
        /// The reason.
        reason: String,
    },
    /// The content does not match its digest.
    #[error("content of {expected} is corrupt: it hashes to {actual}")]
    DigestMismatch {
        /// The requested digest.
        expected: String,
        /// The digest of the content.
        actual: String,
    },
    /// The image has no variant for this machine.
    #[error("image {image:?} has no variant for {wanted}; it is made for {available}")]
    Platform {
        /// The image.
        image: String,
        /// The platform of this machine, such as `linux/amd64`.
        wanted: String,
        /// The platforms that the image has.
        available: String,
    },
    /// A manifest, configuration or archive is malformed.
    #[error("{0}")]
    Malformed(String),
    /// A layer could not be unpacked.
    #[error("cannot unpack layer {layer}: {reason}")]
    Unpack {
        /// The digest of the layer.
        layer: String,
        /// The entry that failed, and the reason.
        reason: String,
    },
    /// The image is in use by containers.
    #[error("image {image:?} is in use by container {container}")]
    InUse {
        /// The image.
        image: String,
        /// One of the containers that use it.
        container: String,
    },
    /// An operation of the operating system failed.
    #[error("{context}: {source}")]
    Io {
        /// The attempted operation.
        context: String,
        /// The underlying I/O error.
        source: io::Error,
    },
}

/// An error of an operation on sandboxes or containers.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No such sandbox.
    #[error("sandbox {0} not found")]
    SandboxNotFound(String),
    /// No such container.
    #[error("container {0} not found")]
    ContainerNotFound(String),
    /// The container's state does not allow the operation.
    #[error("container {id} is {state}, not {wanted}")]
    State {
        /// The container.
        id: String,
        /// Its state.
        state: &'static str,
        /// The state that the operation needs.
        wanted: &'static str,
    },
    /// The request is invalid.
    #[error("{0}")]
    Invalid(String),
    /// The container's process could not be started, for example because the command does not exist
    /// or a mount failed.
    #[error("{0}")]
    Start(String),
    /// The user or group does not exist in the image.
    #[error("{0}")]
    User(String),
    /// A command exceeded its timeout.
    #[error("command {command:?} timed out after {seconds} s")]
    Timeout {
        /// The command line.
        command: String,
        /// The timeout in seconds.
        seconds: f64,
    },
    /// The container's shim is gone, failed a request or does not respond.
    #[error("shim of container {id}: {reason}")]
    Shim {
        /// The container.
        id: String,
        /// The reason.
        reason: String,
    },
    /// An operation on an image failed.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An operation of the operating system failed.
    #[error("{context}: {source}")]
    Io {
        /// The attempted operation.
        context: String,
        /// The underlying I/O error.
        source: io::Error,
    },
}

impl From<rkube_cgroups::Error> for RuntimeError {
    fn from(error: rkube_cgroups::Error) -> Self {
        match error {
            rkube_cgroups::Error::Io { context, source } => Self::Io { context, source },
            other => Self::Invalid(other.to_string()),
        }
    }
}

/// The result of a runtime operation.
pub type Result<T, E = RuntimeError> = std::result::Result<T, E>;

/// Adds the attempted operation to an I/O error.
pub(crate) trait Context<T> {
    /// Returns an error of an operation on sandboxes or containers.
    fn context(self, what: impl FnOnce() -> String) -> Result<T, RuntimeError>;
    /// Returns an error of an operation on images.
    fn image_context(self, what: impl FnOnce() -> String) -> Result<T, ImageError>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, RuntimeError> {
        self.map_err(|e| RuntimeError::Io {
            context: what(),
            source: e.into(),
        })
    }

    fn image_context(self, what: impl FnOnce() -> String) -> Result<T, ImageError> {
        self.map_err(|e| ImageError::Io {
            context: what(),
            source: e.into(),
        })
    }
}
