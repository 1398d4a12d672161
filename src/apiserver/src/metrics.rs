//! `/metrics` in the Prometheus text format, with upstream's metric names.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use http::{HeaderValue, Response, header};
use parking_lot::Mutex;
use rkube_fairness::{Fairness, Level};

use crate::ApiServer;
use crate::aggregator::remote::Aggregator;
use crate::backend::Backend;
use crate::body::{self, Body};
use rkube_request::RequestInfo;

/// Upper bounds of the latency buckets, in seconds.
const BUCKETS: [f64; 9] = [0.005, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0];

#[derive(Default)]
struct Series {
    /// Number of requests by status code.
    codes: BTreeMap<u16, u64>,
    buckets: [u64; BUCKETS.len()],
    sum: f64,
}

/// The labels of a series: group, version, resource, subresource and verb.
type Labels = (String, String, String, String, &'static str);

/// Request and watch counters.
#[derive(Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<Labels, Series>>,
    watches: Mutex<BTreeMap<String, Arc<AtomicI64>>>,
}

/// Counts a running watch; dropping it ends the count.
pub struct WatchGauge(Arc<AtomicI64>);

impl Drop for WatchGauge {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// Counts a completed request. Requests for unknown or forbidden resources share one series per
    /// verb, so that clients cannot create arbitrarily many.
    pub fn observe(&self, info: &RequestInfo, code: u16, elapsed: Duration) {
        let known = info.is_resource && code != 404 && code != 403 && code != 401;
        let part = |text: &str| {
            if known {
                text.to_owned()
            } else {
                String::new()
            }
        };
        let key = (
            part(&info.group),
            part(&info.version),
            part(&info.resource),
            part(&info.subresource),
            info.verb,
        );
        let mut requests = self.requests.lock();
        let series = requests.entry(key).or_default();
        *series.codes.entry(code).or_default() += 1;
        if !info.is_long_running() {
            let seconds = elapsed.as_secs_f64();
            series.sum += seconds;
            for (bucket, limit) in series.buckets.iter_mut().zip(BUCKETS) {
                *bucket += u64::from(seconds <= limit);
            }
        }
    }

    /// Counts a new watch until the returned gauge is dropped.
    pub fn watch_started(&self, resource: &str) -> WatchGauge {
        let gauge = self
            .watches
            .lock()
            .entry(resource.to_owned())
            .or_default()
            .clone();
        gauge.fetch_add(1, Ordering::Relaxed);
        WatchGauge(gauge)
    }
}

/// Serves `/metrics`.
pub fn handle(server: &ApiServer) -> Response<Body> {
    let mut out = String::with_capacity(16 << 10);
    server.metrics.write_requests(&mut out);
    server.metrics.write_watches(&mut out);
    write_objects(server.backend(), &mut out);
    write_levels(&server.fairness, &mut out);
    write_remotes(&server.aggregator, &mut out);
    let name = "process_uptime_seconds";
    out += &format!("# HELP {name} Time since the server started.\n# TYPE {name} gauge\n");
    let _ = writeln!(out, "{name} {}", server.started.elapsed().as_secs_f64());
    let mut response = Response::new(body::full(out));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    response
}

impl Metrics {
    fn write_requests(&self, out: &mut String) {
        let name = "apiserver_request_total";
        *out +=
            &format!("# HELP {name} Requests by verb, resource and code.\n# TYPE {name} counter\n");
        let requests = self.requests.lock();
        for ((group, version, resource, subresource, verb), series) in requests.iter() {
            let verb = verb.to_uppercase();
            for (code, count) in &series.codes {
                let _ = writeln!(
                    out,
                    "{name}{{code=\"{code}\",group=\"{group}\",resource=\"{resource}\",subresource=\"{subresource}\",verb=\"{verb}\",version=\"{version}\"}} {count}"
                );
            }
        }
        let name = "apiserver_request_duration_seconds";
        *out += &format!(
            "# HELP {name} Time to answer, long-running requests apart.\n# TYPE {name} histogram\n"
        );
        for ((group, version, resource, subresource, verb), series) in requests.iter() {
            let labels = format!(
                "group=\"{group}\",resource=\"{resource}\",subresource=\"{subresource}\",verb=\"{}\",version=\"{version}\"",
                verb.to_uppercase()
            );
            let total: u64 = series.codes.values().sum();
            for (bucket, limit) in series.buckets.iter().zip(BUCKETS) {
                let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{limit}\"}} {bucket}");
            }
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {total}");
            let _ = writeln!(out, "{name}_sum{{{labels}}} {}", series.sum);
            let _ = writeln!(out, "{name}_count{{{labels}}} {total}");
        }
    }

    fn write_watches(&self, out: &mut String) {
        let name = "apiserver_longrunning_requests";
        *out += &format!("# HELP {name} Running watches.\n# TYPE {name} gauge\n");
        for (resource, count) in self.watches.lock().iter() {
            let count = count.load(Ordering::Relaxed);
            let _ = writeln!(
                out,
                "{name}{{resource=\"{resource}\",verb=\"WATCH\"}} {count}"
            );
        }
    }
}

fn write_objects(backend: &Backend, out: &mut String) {
    let name = "apiserver_resource_objects";
    *out += &format!("# HELP {name} Objects by resource.\n# TYPE {name} gauge\n");
    for resource in backend
        .resources
        .snapshot()
        .all
        .iter()
        .filter(|r| r.is_stored() && r.serves_storage_version())
    {
        let (group, plural) = (&resource.group, &resource.plural);
        let _ = writeln!(
            out,
            "{name}{{group=\"{group}\",resource=\"{plural}\"}} {}",
            resource.cache.len()
        );
    }
}

fn write_levels(fairness: &Fairness, out: &mut String) {
    let levels = fairness.levels();
    type Read = fn(&Level) -> u64;
    let gauges: [(&str, &str, &str, Read); 5] = [
        (
            "apiserver_flowcontrol_dispatched_requests_total",
            "counter",
            "Requests let in, by priority level.",
            |l| l.dispatched(),
        ),
        (
            "apiserver_flowcontrol_current_executing_seats",
            "gauge",
            "Seats taken.",
            |l| u64::from(l.executing()),
        ),
        (
            "apiserver_flowcontrol_current_inqueue_requests",
            "gauge",
            "Requests that wait.",
            |l| u64::from(l.waiting()),
        ),
        (
            "apiserver_flowcontrol_nominal_limit_seats",
            "gauge",
            "Seats of the level's own.",
            |l| u64::from(l.nominal()),
        ),
        (
            "apiserver_flowcontrol_current_limit_seats",
            "gauge",
            "Seats at present, with those borrowed and lent.",
            |l| u64::from(l.current()),
        ),
    ];
    for (name, kind, help, read) in gauges {
        *out += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for level in &levels {
            let _ = writeln!(
                out,
                "{name}{{priority_level=\"{}\"}} {}",
                level.name,
                read(level)
            );
        }
    }
    let name = "apiserver_flowcontrol_rejected_requests_total";
    *out += &format!("# HELP {name} Requests turned away.\n# TYPE {name} counter\n");
    for level in &levels {
        for (reason, count) in level.refused() {
            let _ = writeln!(
                out,
                "{name}{{priority_level=\"{}\",reason=\"{reason}\"}} {count}",
                level.name
            );
        }
    }
}

fn write_remotes(aggregator: &Aggregator, out: &mut String) {
    let name = "aggregator_unavailable_apiservice";
    *out +=
        &format!("# HELP {name} Whether an APIService's server is away.\n# TYPE {name} gauge\n");
    for entry in aggregator.table().values() {
        let away = u8::from(!entry.remote.is_available());
        let _ = writeln!(out, "{name}{{name=\"{}\"}} {away}", entry.remote.name);
    }
}
