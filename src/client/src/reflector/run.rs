//! Lists and watches one source forever.

use std::time::Duration;

use futures::{AsyncBufReadExt as _, StreamExt as _};
use kube::Client;
use kube::api::{ListParams, WatchParams};
use kube::core::Request;
use tokio::time::Instant;

use super::feed::{Feed, Step};
use super::types::{Initial, Source};

/// Minimum duration of a watch in seconds. Up to the same again is added at random, so that watches
/// do not end simultaneously.
///
/// Within a process no idle connections are dropped, so this only bounds the lifetime of a stuck
/// watch.
const WATCH_SECONDS: u32 = 1800;
/// Timeout for the response to a list, and for the start of a watch.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout between events of a watch. The server sends a bookmark every minute, so a longer silence
/// means that the watch is dead.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(180);
/// A watch that lasts this long is not delayed when it begins again.
const HEALTHY_PERIOD: Duration = Duration::from_secs(5);

/// The end of a watch.
enum End {
    /// It timed out or broke off; resume from this resource version.
    Resume(String),
    /// The resource version is too old, an event was unreadable, or a streamed list was not
    /// completed: list again.
    Relist,
}

/// Where a watch begins.
#[derive(Clone, Copy)]
enum From<'a> {
    /// At a resource version.
    Version(&'a str),
    /// With all objects.
    Start,
}

/// The list and watch of one source.
struct Reflector {
    client: Client,
    source: Source,
    feed: Box<dyn Feed>,
    /// The number of failures in a row.
    failures: u32,
    /// Whether the first list is streamed; false once the server has refused that.
    streams: bool,
}

/// Feeds `feed`. Never returns.
pub(super) async fn run(client: Client, source: Source, feed: Box<dyn Feed>) {
    let mut reflector = Reflector {
        client,
        streams: source.initial == Initial::Stream,
        source,
        feed,
        failures: 0,
    };
    let mut resume = None;
    loop {
        resume = reflector.round(resume.take()).await;
    }
}

impl Reflector {
    /// Lists, unless there is a version to resume from, and watches until the watch ends. Returns
    /// the version from which the next round resumes.
    async fn round(&mut self, resume: Option<String>) -> Option<String> {
        let version = match resume {
            Some(version) => Some(version),
            None if self.streams => None,
            None => match self.list().await {
                Ok(version) => Some(version),
                Err(error) => {
                    self.delay(Some(&error), "cannot list").await;
                    return None;
                }
            },
        };
        let from = version.as_deref().map_or(From::Start, From::Version);
        let began = Instant::now();
        let ended = self.watch(from).await;
        // Back off if watches end immediately.
        if began.elapsed() > HEALTHY_PERIOD {
            self.failures = 0;
            if let Err((error, _)) = &ended {
                self.report(error, "watch broke");
            }
        } else {
            let error = ended.as_ref().err().map(|(error, _)| error);
            self.delay(error, "watch broke").await;
        }
        match ended {
            Ok(End::Resume(version)) => Some(version),
            Ok(End::Relist) => None,
            Err((_, version)) => version,
        }
    }

    /// Logs an error and tells it to the sink. While a server cannot be reached, only the first
    /// failure is logged as a warning.
    fn report(&self, error: &kube::Error, what: &str) {
        let path = &self.source.path;
        // Without the dump of the whole status.
        let text: &dyn std::fmt::Display = match error {
            kube::Error::Api(status) => &status.message,
            other => other,
        };
        if self.failures == 0 || matches!(error, kube::Error::Api(_)) {
            tracing::warn!(%path, error = %text, "{what}");
        } else {
            tracing::debug!(%path, error = %text, "{what}");
        }
        self.feed.failed(error);
    }

    /// Waits after a failure, if any, or the early end of a watch. A server that says when to come
    /// back is not asked before.
    async fn delay(&mut self, error: Option<&kube::Error>, what: &str) {
        let mut delay =
            (self.source.delay)(self.failures).mul_f64(0.75 + rand::random::<f64>() / 2.0);
        if let Some(error) = error {
            self.report(error, what);
            delay = delay.max(retry_after(error));
        }
        self.failures = self.failures.saturating_add(1);
        tokio::time::sleep(delay).await;
    }

    async fn list(&self) -> kube::Result<String> {
        let params = ListParams {
            field_selector: self.source.fields.clone(),
            label_selector: self.source.labels.clone(),
            ..Default::default()
        };
        let request = Request::new(&self.source.path);
        let request = if self.source.metadata_only {
            request.list_metadata(&params)
        } else {
            request.list(&params)
        }
        .map_err(kube::Error::BuildRequest)?;
        let list = in_time(self.client.request_text(request)).await?;
        self.feed
            .replace(&self.source.path, &list)
            .map_err(kube::Error::SerdeError)
    }

    fn watch_request(&self, from: From<'_>) -> kube::Result<http::Request<Vec<u8>>> {
        let params = WatchParams {
            field_selector: self.source.fields.clone(),
            label_selector: self.source.labels.clone(),
            timeout: Some(WATCH_SECONDS + rand::random_range(0..WATCH_SECONDS)),
            bookmarks: true,
            send_initial_events: matches!(from, From::Start),
        };
        // Without a version, the list is at least as new as the request.
        let version = match from {
            From::Version(version) => version,
            From::Start => "",
        };
        let request = Request::new(&self.source.path);
        if self.source.metadata_only {
            request.watch_metadata(&params, version)
        } else {
            request.watch(&params, version)
        }
        .map_err(kube::Error::BuildRequest)
    }

    /// Watches. An error comes with the version to resume from, if the objects were listed and the
    /// server may still take it.
    async fn watch(&mut self, from: From<'_>) -> Result<End, (kube::Error, Option<String>)> {
        let mut at = match from {
            From::Version(version) => Some(version.to_owned()),
            From::Start => {
                self.feed.begin();
                None
            }
        };
        let request = self.watch_request(from).map_err(|e| (e, at.clone()))?;
        let lines = match in_time(self.client.request_stream(request)).await {
            Ok(stream) => stream.lines(),
            Err(kube::Error::Api(status)) if status.code == 410 => return Ok(End::Relist),
            Err(kube::Error::Api(status)) if at.is_none() && matches!(status.code, 400 | 422) => {
                // The server cannot stream lists.
                tracing::debug!(path = %self.source.path, %status, "lists are not streamed");
                self.streams = false;
                return Ok(End::Relist);
            }
            Err(error) => {
                let at = at.filter(|_| keeps_version(&error));
                return Err((error, at));
            }
        };
        let mut lines = std::pin::pin!(lines);
        loop {
            let Ok(line) = tokio::time::timeout(SILENCE_TIMEOUT, lines.next()).await else {
                tracing::warn!(path = %self.source.path, "watch has gone silent");
                return Ok(End::Relist);
            };
            let line = match line {
                Some(Ok(line)) => line,
                Some(Err(error)) => return Err((kube::Error::ReadEvents(error), at)),
                None => return Ok(at.map_or(End::Relist, End::Resume)),
            };
            if let Some(end) = self.take(&line, &mut at) {
                return Ok(end);
            }
            if let Some(ready) = self.feed.ready() {
                ready.await;
            }
        }
    }

    /// Takes one line of a watch. Returns whether, and how, it ends the watch.
    fn take(&self, line: &str, at: &mut Option<String>) -> Option<End> {
        let path = &self.source.path;
        match self.feed.event(path, line) {
            Ok(Step::At(Some(version))) => {
                *at = Some(version);
                None
            }
            Ok(Step::At(None) | Step::Listing) => None,
            Ok(Step::Lost) => Some(End::Relist),
            Ok(Step::Failed(status)) => {
                if status.code != 410 {
                    tracing::warn!(%path, %status, "watch answered an error");
                }
                Some(End::Relist)
            }
            // The stream ended within a line: resume after the last complete event.
            Err(error) if error.is_eof() => Some(at.take().map_or(End::Relist, End::Resume)),
            Err(error) => {
                // Skipping the event would lose a change, so list again.
                tracing::warn!(%path, error = super::feed::place(&error), "watch sent what cannot be read");
                Some(End::Relist)
            }
        }
    }
}

/// Applies the response timeout. Without it, a hanging request would block the store's updates
/// forever.
async fn in_time<T>(answer: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    tokio::time::timeout(ANSWER_TIMEOUT, answer)
        .await
        .unwrap_or_else(|late| Err(kube::Error::Service(late.into())))
}

/// Returns whether a watch that could not begin may begin later at the same version: it did not reach
/// the server, or the server is busy. As client-go, any other answer leads to a new list, also that
/// to a version which the server does not have yet, for example since its data were restored.
fn keeps_version(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return true;
    };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let is_ahead = causes
        .into_iter()
        .any(|cause| cause.reason == "ResourceVersionTooLarge")
        || status.message.contains("Too large resource version");
    (status.code == 429 || status.code >= 500) && !is_ahead
}

/// Returns how long a server wants to be left alone, as with 429 or 503.
fn retry_after(error: &kube::Error) -> Duration {
    match error {
        kube::Error::Api(status) => status.details.as_ref().map_or(Duration::ZERO, |details| {
            Duration::from_secs(details.retry_after_seconds.into())
        }),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_versions_are_forgotten() {
        let late = kube::Error::Service("timed out".into());
        assert!(keeps_version(&late));
        for (code, message, kept) in [
            (429, "busy", true),
            (500, "etcdserver: request timed out", true),
            (503, "starting", true),
            (504, "Too large resource version: 9, current: 3", false),
            (400, "invalid", false),
            (401, "Unauthorized", false),
            (403, "forbidden", false),
            (404, "not found", false),
        ] {
            let status = kube::core::Status::failure(message, "").with_code(code);
            let error = kube::Error::Api(status.boxed());
            assert_eq!(keeps_version(&error), kept, "{code} {message}");
        }
    }

    #[test]
    fn servers_say_when_to_come_back() {
        let mut status = kube::core::Status::failure("busy", "TooManyRequests").with_code(429);
        let after =
            |status: &kube::core::Status| retry_after(&kube::Error::Api(status.clone().boxed()));
        assert_eq!(after(&status), Duration::ZERO);
        status.details = Some(kube::core::response::StatusDetails {
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_seconds: 7,
        });
        assert_eq!(after(&status), Duration::from_secs(7));
    }
}
