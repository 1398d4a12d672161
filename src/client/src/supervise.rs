//! Tasks that run for as long as the process.

use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use rkube_component_helpers::backoff::Backoff;
use tokio::time::Instant;

/// Delay before a task that ended is started again.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// A task that has run for this long counts as healthy: its back-off starts again.
const HEALTHY_PERIOD: Duration = Duration::from_secs(120);

/// Runs the task that `start` returns, and starts it again with back-off whenever it ends or panics.
///
/// Returns never. Dropping the future drops the task.
///
/// The task's own state must survive a panic in the middle of any step: what outlives the task, such
/// as a work queue, is used again by the next one.
pub async fn supervise<F: Future<Output = ()>>(name: impl Display, start: impl Fn() -> F) {
    with_backoff(name, start, BACKOFF).await;
}

async fn with_backoff<F: Future<Output = ()>>(
    name: impl Display,
    start: impl Fn() -> F,
    backoff: Backoff,
) {
    let mut failures = 0u32;
    loop {
        let began = Instant::now();
        let ended = AssertUnwindSafe(async { start().await })
            .catch_unwind()
            .await;
        if began.elapsed() >= HEALTHY_PERIOD {
            failures = 0;
        }
        let delay = backoff.delay(failures);
        failures = failures.saturating_add(1);
        // The panic's message, which may quote an object, is not part of this record.
        let how = if ended.is_ok() { "ended" } else { "panicked" };
        tracing::error!(task = %name, ?delay, "a task {how} and will be started again");
        tokio::time::sleep(delay).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn what_ends_or_panics_is_started_again() {
        let (starts, third) = (AtomicU32::new(0), tokio::sync::Notify::new());
        let at_once = Backoff::new(Duration::ZERO, Duration::ZERO);
        let start = || async {
            match starts.fetch_add(1, Ordering::Relaxed) {
                0 => panic!("expected by this test"),
                1 => {}
                _ => {
                    third.notify_one();
                    std::future::pending().await
                }
            }
        };
        tokio::select! {
            () = with_backoff("test", start, at_once) => unreachable!(),
            () = third.notified() => {}
        }
        assert_eq!(starts.load(Ordering::Relaxed), 3);
    }
}
