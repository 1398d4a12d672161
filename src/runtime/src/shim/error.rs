//! Errors of the shim and its launcher.

use std::io;

use libcontainer::error::LibcontainerError;

/// An error of a shim. Its text is sent to the agent and appears in events of the pod.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// An operation failed.
    #[error("{context}: {source}")]
    Io {
        /// The attempted operation, such as `cannot make a pipe`.
        context: String,
        /// The underlying I/O error.
        source: io::Error,
    },
    /// An operation failed whose context would not help.
    #[error(transparent)]
    Bare(#[from] io::Error),
    /// `libcontainer` could not create the container or a process in it.
    #[error("{}", error_chain(.0))]
    Launch(#[from] LibcontainerError),
    /// A configuration file could not be decoded.
    #[error("malformed {path}: {source}")]
    Config {
        /// The path of the file.
        path: String,
        /// The decoding error.
        source: serde_json::Error,
    },
    /// The operation is not possible, or the launcher reported this error.
    #[error("{0}")]
    Message(String),
}

impl ShimError {
    /// Returns a function that adds the attempted operation to an I/O error.
    pub fn io(context: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            context: context.into(),
            source,
        }
    }

    /// Returns the text as a single line.
    pub fn line(&self) -> String {
        self.to_string().replace('\n', " ")
    }
}

impl From<&str> for ShimError {
    fn from(text: &str) -> Self {
        Self::Message(text.to_owned())
    }
}

/// Formats an error with its causes. Causes that the text already contains are omitted.
fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let part = e.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        cause = e.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_kept_and_not_repeated() {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let text = missing().to_string();
        let launch = ShimError::from(LibcontainerError::OtherIO(missing()));
        assert_eq!(launch.to_string().matches(&text).count(), 1);
        let error = ShimError::io("cannot make a pipe")(missing());
        assert_eq!(error.to_string(), format!("cannot make a pipe: {text}"));
        assert!(std::error::Error::source(&error).is_some());
        assert_eq!(ShimError::from("a\nb").line(), "a b");
    }
}
