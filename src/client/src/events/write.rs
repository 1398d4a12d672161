//! Writes events to the API.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at};

use super::correlate::{Correlator, Write};
use super::series::{REFRESH_PERIOD, SERIES_TIMEOUT, SeriesBook};
use super::types::{Report, Settings, Style};

/// Maximum number of attempts while the server cannot be reached.
const MAX_TRIES: u32 = 12;
/// Interval of these attempts. Up to a quarter is added at random.
const RETRY_PERIOD: Duration = Duration::from_secs(10);

/// Maximum number of events of a series writer that are being written. Each waits for the store, which
/// commits them together.
const MAX_WRITING: usize = 64;

/// The writer of a recorder's events.
pub struct Writer {
    sink: Sink,
    reports: mpsc::Receiver<Report>,
}

/// Sends single events to the API.
struct Sink {
    client: Client,
    settings: Arc<Settings>,
}

impl Writer {
    /// Returns a writer for what `reports` receives.
    pub fn new(client: Client, settings: Arc<Settings>, reports: mpsc::Receiver<Report>) -> Self {
        Self {
            sink: Sink { client, settings },
            reports,
        }
    }

    /// Writes events until all recorders are dropped.
    pub async fn run(self) {
        let Self { sink, mut reports } = self;
        match sink.settings.style {
            Style::Counted => {
                let mut correlator = Correlator::default();
                while let Some(report) = reports.recv().await {
                    let step = || correlator.step(&sink.settings, report);
                    if let Some(write) = guarded(step).flatten() {
                        sink.write(write).await;
                    }
                }
            }
            Style::Series => run_series(&sink, reports).await,
        }
    }
}

/// Writes events as series until all recorders are dropped.
async fn run_series(sink: &Sink, mut reports: mpsc::Receiver<Report>) {
    let mut book = SeriesBook::default();
    let mut finish = interval_at(Instant::now() + SERIES_TIMEOUT, SERIES_TIMEOUT);
    let mut refresh = interval_at(Instant::now() + REFRESH_PERIOD, REFRESH_PERIOD);
    let mut writing = FuturesUnordered::new();
    loop {
        let writes: Option<Vec<Write>> = tokio::select! {
            report = reports.recv(), if writing.len() < MAX_WRITING => match report {
                Some(report) => guarded(|| book.step(&sink.settings, report).into_iter().collect()),
                None => break,
            },
            Some(()) = writing.next(), if !writing.is_empty() => continue,
            _ = finish.tick() => guarded(|| book.finish(Timestamp::now())),
            _ = refresh.tick() => guarded(|| book.refresh()),
        };
        writing.extend(writes.into_iter().flatten().map(|write| sink.write(write)));
    }
    writing.collect::<()>().await;
}

/// Returns what `step` returns, or `None` if it panics: an event is not worth the writer.
fn guarded<T>(step: impl FnOnce() -> T) -> Option<T> {
    let result = std::panic::catch_unwind(AssertUnwindSafe(step));
    if result.is_err() {
        tracing::error!("a panic while an event was recorded");
    }
    result.ok()
}

impl Sink {
    /// Writes an event, or gives it up.
    async fn write(&self, write: Write) {
        let tried = AssertUnwindSafe(self.try_until_given_up(write)).catch_unwind();
        if tried.await.is_err() {
            tracing::error!("a panic while an event was written");
        }
    }

    async fn try_until_given_up(&self, write: Write) {
        for _ in 0..MAX_TRIES {
            match self.try_write(&write).await {
                Ok(()) => return,
                Err(error @ kube::Error::Api(_)) => {
                    // Expected, for example, in a namespace that is being deleted. Events are best
                    // effort.
                    tracing::debug!(%error, "an event was refused");
                    return;
                }
                Err(error) => {
                    tracing::debug!(%error, "an event was not written and will be retried");
                    tokio::time::sleep(RETRY_PERIOD.mul_f64(1.0 + rand::random::<f64>() / 4.0))
                        .await;
                }
            }
        }
        tracing::warn!("an event is given up, since the API server cannot be reached");
    }

    async fn try_write(&self, write: &Write) -> kube::Result<()> {
        let meta = &write.event.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        if let Some(patch) = &write.patch {
            let params = PatchParams {
                field_manager: Some(self.settings.field_manager.into()),
                ..Default::default()
            };
            let name = meta.name.as_deref().unwrap_or_default();
            match api.patch(name, &params, &Patch::Merge(patch)).await {
                // The event has expired: create it again.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => return other.map(drop),
            }
        }
        let params = PostParams {
            field_manager: Some(self.settings.field_manager.into()),
            ..Default::default()
        };
        api.create(&params, &write.event).await.map(drop)
    }
}
