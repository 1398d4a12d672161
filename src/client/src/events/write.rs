//! Writes events to the API.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at};

use super::correlate::{Correlator, Write};
use super::series::{FINISH, REFRESH, SeriesBook};
use super::{Report, Settings, Style};

/// Maximum number of attempts while the server cannot be reached.
const MAX_TRIES: u32 = 12;
/// Interval of these attempts. Up to a quarter is added at random.
const RETRY: Duration = Duration::from_secs(10);

/// The writer of a recorder's events.
pub struct Writer {
    client: Client,
    settings: Arc<Settings>,
    reports: mpsc::Receiver<Report>,
}

impl Writer {
    /// Returns a writer for what `reports` receives.
    pub fn new(client: Client, settings: Arc<Settings>, reports: mpsc::Receiver<Report>) -> Self {
        Self {
            client,
            settings,
            reports,
        }
    }

    /// Writes events until all recorders are dropped.
    pub async fn run(mut self) {
        let settings = self.settings.clone();
        match settings.style {
            Style::Counted => {
                let mut correlator = Correlator::default();
                while let Some(report) = self.reports.recv().await {
                    if let Some(write) = correlator.step(&settings, report) {
                        self.write(write).await;
                    }
                }
            }
            Style::Series => self.run_series().await,
        }
    }

    async fn run_series(mut self) {
        let mut book = SeriesBook::default();
        let mut finish = interval_at(Instant::now() + FINISH, FINISH);
        let mut refresh = interval_at(Instant::now() + REFRESH, REFRESH);
        loop {
            let writes: Vec<Write> = tokio::select! {
                report = self.reports.recv() => match report {
                    Some(report) => book.step(&self.settings, report).into_iter().collect(),
                    None => return,
                },
                _ = finish.tick() => book.finish(Timestamp::now()),
                _ = refresh.tick() => book.refresh(),
            };
            for write in writes {
                self.write(write).await;
            }
        }
    }

    async fn write(&self, write: Write) {
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
                    tokio::time::sleep(RETRY.mul_f64(1.0 + rand::random::<f64>() / 4.0)).await;
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
                // The event has expired: create it anew.
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
