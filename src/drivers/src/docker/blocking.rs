//! Runs blocking work from asynchronous code.

use rkube_failure::{Failure, Kind, Source};

/// Runs blocking work on a thread where it does not block the caller's runtime.
pub async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(anyhow::Error::from)
        .flatten()
        .map_err(|e| Failure::new(Source::Driver, Kind::Error, format!("{e:#}")))
}
