//! What can go wrong, worded for the person who reads a pod's events.

use std::io;

/// Why an image could not be named, pulled, loaded or removed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The text is not an image reference.
    #[error("couldn't parse image name {reference:?}: {reason}")]
    InvalidReference {
        /// What was given.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No such image is stored on this node.
    #[error("image {0:?} is not present on this node")]
    NotPresent(String),
    /// The registry has no such repository or tag.
    #[error("image {0:?} not found in its registry")]
    NotFound(String),
    /// The registry wants credentials, or others than those given.
    #[error("registry {registry} denies access to {repository:?}: {reason}")]
    Denied {
        /// The registry's host and port.
        registry: String,
        /// The repository within it.
        repository: String,
        /// The registry's own words.
        reason: String,
    },
    /// The registry cannot be reached, or answers nonsense.
    #[error("registry {registry}: {reason}")]
    Registry {
        /// The registry's host and port.
        registry: String,
        /// What happened.
        reason: String,
    },
    /// The content is not what its digest promises.
    #[error("content of {expected} is corrupt: it hashes to {actual}")]
    DigestMismatch {
        /// The digest that was asked for.
        expected: String,
        /// The digest of what came.
        actual: String,
    },
    /// The image exists, but not for this machine.
    #[error("image {image:?} has no variant for {wanted}; it is made for {available}")]
    Platform {
        /// The image.
        image: String,
        /// This machine's platform, `linux/amd64`.
        wanted: String,
        /// The platforms that the image has.
        available: String,
    },
    /// A manifest, configuration or archive that does not make sense.
    #[error("{0}")]
    Malformed(String),
    /// A layer that could not be unpacked.
    #[error("cannot unpack layer {layer}: {reason}")]
    Unpack {
        /// The layer's digest.
        layer: String,
        /// The entry and the reason.
        reason: String,
    },
    /// The image is in use by containers.
    #[error("image {image:?} is in use by container {container}")]
    InUse {
        /// The image.
        image: String,
        /// One of its users.
        container: String,
    },
    /// The operating system's refusal.
    #[error("{context}: {source}")]
    Io {
        /// What was attempted.
        context: String,
        /// The reason.
        source: io::Error,
    },
}

/// Why a sandbox or container operation failed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No such sandbox.
    #[error("sandbox {0} not found")]
    SandboxNotFound(String),
    /// No such container.
    #[error("container {0} not found")]
    ContainerNotFound(String),
    /// The container is in a state that does not allow this.
    #[error("container {id} is {state}, not {wanted}")]
    State {
        /// The container.
        id: String,
        /// Its state.
        state: &'static str,
        /// The state that the operation needs.
        wanted: &'static str,
    },
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The container's process could not be started (no such command, no
    /// permission, a mount that fails).
    #[error("{0}")]
    Start(String),
    /// The process's user cannot be resolved in the image.
    #[error("{0}")]
    User(String),
    /// A command ran longer than it may.
    #[error("command {command:?} timed out after {seconds} s")]
    Timeout {
        /// The command line.
        command: String,
        /// The limit.
        seconds: f64,
    },
    /// The container's shim does not answer.
    #[error("shim of container {id}: {reason}")]
    Shim {
        /// The container.
        id: String,
        /// What happened.
        reason: String,
    },
    /// An image's fault.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The operating system's refusal.
    #[error("{context}: {source}")]
    Io {
        /// What was attempted.
        context: String,
        /// The reason.
        source: io::Error,
    },
}

/// The result of a runtime operation.
pub type Result<T, E = RuntimeError> = std::result::Result<T, E>;

/// Adds what was attempted to an I/O error.
pub(crate) trait Context<T> {
    /// For sandboxes and containers.
    fn context(self, what: impl FnOnce() -> String) -> Result<T, RuntimeError>;
    /// For images.
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
