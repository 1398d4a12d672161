//! The error of a build.

/// The error of a build, with the lines of the Dockerfile at which it happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("{message}")]
pub struct BuildError {
    /// The failure and its reason.
    pub message: String,
    /// First and last line of the instruction, from 1; absent if no instruction is to blame.
    pub lines: Option<(usize, usize)>,
}

impl BuildError {
    /// Returns an error that no line of the Dockerfile is to blame for.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            lines: None,
        }
    }

    /// Sets the lines, unless they are known.
    #[must_use]
    pub fn at(mut self, lines: (usize, usize)) -> Self {
        self.lines.get_or_insert(lines);
        self
    }
}

/// The result of a step of a build.
pub type Result<T, E = BuildError> = std::result::Result<T, E>;
