//! Conversions to errors of builds.

use std::path::Path;

use crate::error::{BuildError, Result};

/// Runs blocking work off the asynchronous threads.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(BuildError::new(format!(
            "a part of the build has failed: {e}"
        ))),
    }
}

/// Converts an error of any kind.
pub fn failed(e: impl std::fmt::Display) -> BuildError {
    BuildError::new(e.to_string())
}

/// Converts an error of the operating system at a path.
pub fn failed_at(path: &Path) -> impl Fn(std::io::Error) -> BuildError + '_ {
    move |e| BuildError::new(format!("{}: {e}", path.display()))
}
