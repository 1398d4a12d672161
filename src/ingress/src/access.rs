//! The access log and the metrics.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, StatusCode, Uri, Version};
use parking_lot::Mutex;

use crate::table::Target;

/// Size in bytes of the lines that wait to be written. Further ones are dropped and counted.
const MAX_WAITING: usize = 4 << 20;
/// The period in which lines are written.
const PERIOD: Duration = Duration::from_millis(200);

/// Counters of a proxy.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Responses by the first digit of their code; those of the proxy's upgrades are first.
    responses: [AtomicU64; 5],
    /// Requests that were sent to another endpoint after a failure.
    pub retries: AtomicU64,
    /// Endpoints that could not be reached.
    pub failures: AtomicU64,
    /// Connections that are open.
    pub connections: AtomicU64,
    /// Lines of the access log that were dropped.
    pub dropped: AtomicU64,
    /// Tables that were loaded.
    pub tables: AtomicU64,
}

impl Metrics {
    /// Returns the metrics in Prometheus' text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut add = |name: &str, kind: &str, labels: &str, value: &AtomicU64| {
            if !text.contains(&format!("# TYPE {name} ")) {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "# TYPE {name} {kind}");
            }
            let _ = writeln!(text, "{name}{labels} {}", value.load(Ordering::Relaxed));
        };
        for (i, value) in self.responses.iter().enumerate() {
            let labels = format!("{{class=\"{}xx\"}}", i + 1);
            add("rkube_ingress_responses_total", "counter", &labels, value);
        }
        for (name, kind, value) in [
            ("rkube_ingress_retries_total", "counter", &self.retries),
            (
                "rkube_ingress_endpoint_failures_total",
                "counter",
                &self.failures,
            ),
            ("rkube_ingress_connections", "gauge", &self.connections),
            (
                "rkube_ingress_dropped_log_lines_total",
                "counter",
                &self.dropped,
            ),
            ("rkube_ingress_tables_total", "counter", &self.tables),
        ] {
            add(name, kind, "", value);
        }
        text
    }
}

/// The access log: lines that wait to be written.
#[derive(Debug, Default)]
pub struct AccessLog {
    waiting: Mutex<Vec<u8>>,
    /// Counters.
    pub metrics: Metrics,
}

impl AccessLog {
    fn push(&self, line: &str) {
        let mut waiting = self.waiting.lock();
        if waiting.len() + line.len() > MAX_WAITING {
            self.metrics.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.extend_from_slice(line.as_bytes());
    }

    /// Takes the lines that wait.
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.waiting.lock())
    }

    /// Writes waiting lines to the standard output.
    pub fn flush(&self) {
        let lines = self.take();
        if lines.is_empty() {
            return;
        }
        let mut out = std::io::stdout().lock();
        if out.write_all(&lines).and_then(|()| out.flush()).is_err() {
            // The log's disk is full; there is no other place to say so.
            self.metrics.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes lines as they come, until the future is dropped.
    pub async fn run(self: Arc<Self>) {
        loop {
            tokio::time::sleep(PERIOD).await;
            let log = self.clone();
            // The next period tries again if the thread panics.
            let _ = tokio::task::spawn_blocking(move || log.flush()).await;
        }
    }
}

/// What the access log says about a request.
#[derive(Debug)]
pub struct Record {
    /// Where the line goes.
    pub log: Arc<AccessLog>,
    /// The client.
    pub client: IpAddr,
    /// When the request came.
    pub began: Instant,
    /// The request's method.
    pub method: Method,
    /// The request's target.
    pub uri: Uri,
    /// The request's host.
    pub host: String,
    /// The request's version.
    pub version: Version,
    /// The header `Referer`.
    pub referer: Option<HeaderValue>,
    /// The header `User-Agent`.
    pub agent: Option<HeaderValue>,
    /// The response's code.
    pub status: StatusCode,
    /// Bytes of the response's body.
    pub sent: u64,
    /// The backend.
    pub backend: Option<Arc<str>>,
    /// The endpoint that responded.
    pub endpoint: Option<Target>,
    /// The ID of the request.
    pub id: Option<HeaderValue>,
}

impl Record {
    /// Returns the line: ingress-nginx' fields, with the host, and the time as in other logs.
    fn line(&self) -> String {
        let mut line = String::with_capacity(256);
        let path = self.uri.path_and_query().map_or("", |p| p.as_str());
        // Writing to a string cannot fail.
        let _ = write!(
            line,
            "{:.3} {} {} \"{} {} {:?}\" {} {} ",
            jiff::Timestamp::now(),
            self.client,
            if self.host.is_empty() {
                "-"
            } else {
                &self.host
            },
            self.method,
            path,
            self.version,
            self.status.as_u16(),
            self.sent,
        );
        quote(&mut line, self.referer.as_ref());
        line.push(' ');
        quote(&mut line, self.agent.as_ref());
        let _ = write!(
            line,
            " {:.3} [{}] ",
            self.began.elapsed().as_secs_f64(),
            self.backend.as_deref().unwrap_or("")
        );
        match &self.endpoint {
            Some(endpoint) => {
                let _ = write!(line, "{endpoint} ");
            }
            None => line.push_str("- "),
        }
        let id = self.id.as_ref().and_then(|id| id.to_str().ok());
        line.push_str(id.unwrap_or("-"));
        line.push('\n');
        line
    }
}

/// Adds a header in quotes. What would end the quotes or the line is replaced.
fn quote(line: &mut String, value: Option<&HeaderValue>) {
    let bytes = value.map_or(&b"-"[..], HeaderValue::as_bytes);
    line.push('"');
    for byte in bytes {
        let plain = (byte.is_ascii_graphic() || *byte == b' ') && *byte != b'"' && *byte != b'\\';
        line.push(if plain { char::from(*byte) } else { '?' });
    }
    line.push('"');
}

impl Drop for Record {
    fn drop(&mut self) {
        let class = usize::from(self.status.as_u16() / 100).clamp(1, 5) - 1;
        self.log.metrics.responses[class].fetch_add(1, Ordering::Relaxed);
        self.log.push(&self.line());
    }
}
