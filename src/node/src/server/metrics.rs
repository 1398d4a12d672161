//! Metrics in Prometheus' text format.

use std::fmt::Write as _;

use http::{Response, header};

use super::answer::{Answer, full};
use crate::agent::Agent;
use crate::kinds::*;
use crate::pods::instance::Instance;
use crate::pods::qos;

fn answer(text: String) -> Answer {
    let mut response = Response::new(full(text));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    response
}

/// A label's value, escaped.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64, ms: Option<i64>) {
        self.0.push_str(name);
        if !labels.is_empty() {
            let list: Vec<String> = labels
                .iter()
                .map(|(k, v)| format!("{k}=\"{}\"", escape(v)))
                .collect();
            let _ = write!(self.0, "{{{}}}", list.join(","));
        }
        let _ = match ms {
            Some(ms) => writeln!(self.0, " {value} {ms}"),
            None => writeln!(self.0, " {value}"),
        };
    }
}

/// `/metrics`: the agent itself.
pub(crate) fn own(agent: &Agent) -> Answer {
    let pods = agent.pods.all();
    let running = pods
        .iter()
        .flat_map(|p| p.instances.values().filter_map(|a| a.last()))
        .filter(|i| i.running())
        .count();
    let mut page = Page(String::new());
    page.family(
        "kubelet_running_pods",
        "gauge",
        "[ALPHA] Number of pods that have a running pod sandbox",
    );
    let with_sandbox = pods.iter().filter(|p| p.sandbox.is_some()).count();
    page.sample("kubelet_running_pods", &[], with_sandbox as f64, None);
    page.family(
        "kubelet_running_containers",
        "gauge",
        "[ALPHA] Number of containers currently running",
    );
    page.sample(
        "kubelet_running_containers",
        &[("container_state", "running")],
        running as f64,
        None,
    );
    page.family(
        "kubelet_node_name",
        "gauge",
        "[ALPHA] The node's name. The count is always 1.",
    );
    page.sample(
        "kubelet_node_name",
        &[("node", &agent.config.name)],
        1.0,
        None,
    );
    page.family(
        "kubernetes_build_info",
        "gauge",
        "[BETA] A metric with a constant '1' value labeled by version.",
    );
    page.sample(
        "kubernetes_build_info",
        &[
            ("git_version", &rkube_config::version()),
            ("platform", &format!("linux/{}", agent.machine.architecture)),
        ],
        1.0,
        None,
    );
    answer(page.0)
}

/// Every running container with its pod and what it uses.
fn containers(agent: &Agent) -> Vec<(std::sync::Arc<Pod>, Instance, rkube_runtime::Stats)> {
    agent
        .pods
        .all()
        .into_iter()
        .flat_map(|s| {
            s.instances
                .values()
                .filter_map(|a| a.last())
                .filter(|i| i.running())
                .filter_map(|i| {
                    let stats = agent.runtime.stats(&i.id).ok()?;
                    Some((s.pod.clone(), i.clone(), stats))
                })
                .collect::<Vec<_>>()
        })
        .collect()
}

/// `/metrics/resource`: what the metrics server reads.
pub(crate) async fn resource(agent: &Agent) -> Answer {
    let containers = containers(agent);
    let mut page = Page(String::new());
    page.family(
        "container_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
    );
    for (pod, i, s) in &containers {
        let labels = [
            ("container", i.name.as_str()),
            ("namespace", pod.namespace()),
            ("pod", pod.name()),
        ];
        page.sample(
            "container_cpu_usage_seconds_total",
            &labels,
            s.cpu_ns as f64 / 1e9,
            Some(s.timestamp.as_millisecond()),
        );
    }
    page.family(
        "container_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the container in bytes",
    );
    for (pod, i, s) in &containers {
        let labels = [
            ("container", i.name.as_str()),
            ("namespace", pod.namespace()),
            ("pod", pod.name()),
        ];
        page.sample(
            "container_memory_working_set_bytes",
            &labels,
            s.memory_working_set as f64,
            Some(s.timestamp.as_millisecond()),
        );
    }
    page.family(
        "container_start_time_seconds",
        "gauge",
        "[STABLE] Start time of the container since unix epoch in seconds",
    );
    for (pod, i, s) in &containers {
        let labels = [
            ("container", i.name.as_str()),
            ("namespace", pod.namespace()),
            ("pod", pod.name()),
        ];
        let start = i
            .started_at
            .map_or(0.0, |t| t.as_millisecond() as f64 / 1e3);
        page.sample(
            "container_start_time_seconds",
            &labels,
            start,
            Some(s.timestamp.as_millisecond()),
        );
    }
    let node = agent.runtime.cgroup_stats("/").unwrap_or_default();
    let at = Some(node.timestamp.as_millisecond());
    page.family(
        "node_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
    );
    page.sample(
        "node_cpu_usage_seconds_total",
        &[],
        node.cpu_ns as f64 / 1e9,
        at,
    );
    page.family(
        "node_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the node in bytes",
    );
    page.sample(
        "node_memory_working_set_bytes",
        &[],
        node.memory_working_set as f64,
        at,
    );
    let pods: Vec<_> = agent
        .pods
        .all()
        .into_iter()
        .filter_map(|s| {
            let stats = agent
                .runtime
                .cgroup_stats(&qos::cgroup_parent(&s.pod))
                .ok()?;
            Some((s.pod, stats))
        })
        .collect();
    page.family(
        "pod_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
    );
    for (pod, s) in &pods {
        let labels = [("namespace", pod.namespace()), ("pod", pod.name())];
        page.sample(
            "pod_cpu_usage_seconds_total",
            &labels,
            s.cpu_ns as f64 / 1e9,
            Some(s.timestamp.as_millisecond()),
        );
    }
    page.family(
        "pod_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the pod in bytes",
    );
    for (pod, s) in &pods {
        let labels = [("namespace", pod.namespace()), ("pod", pod.name())];
        page.sample(
            "pod_memory_working_set_bytes",
            &labels,
            s.memory_working_set as f64,
            Some(s.timestamp.as_millisecond()),
        );
    }
    page.family(
        "resource_scrape_error",
        "gauge",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
    );
    page.sample("resource_scrape_error", &[], 0.0, None);
    answer(page.0)
}

/// A family's name, type, help and value.
type Family = (
    &'static str,
    &'static str,
    &'static str,
    fn(&rkube_runtime::Stats) -> f64,
);

/// `/metrics/cadvisor`: the counters that dashboards look for first.
pub(crate) async fn cadvisor(agent: &Agent) -> Answer {
    let containers = containers(agent);
    let mut page = Page(String::new());
    let families: [Family; 5] = [
        (
            "container_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed in seconds.",
            |s| s.cpu_ns as f64 / 1e9,
        ),
        (
            "container_memory_usage_bytes",
            "gauge",
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
            |s| s.memory_usage as f64,
        ),
        (
            "container_memory_working_set_bytes",
            "gauge",
            "Current working set in bytes.",
            |s| s.memory_working_set as f64,
        ),
        (
            "container_memory_rss",
            "gauge",
            "Size of RSS in bytes.",
            |s| s.memory_rss as f64,
        ),
        (
            "container_processes",
            "gauge",
            "Number of processes running inside the container.",
            |s| s.pids as f64,
        ),
    ];
    for (name, kind, help, value) in families {
        page.family(name, kind, help);
        for (pod, i, s) in &containers {
            let labels = [
                ("container", i.name.as_str()),
                ("id", i.id.as_str()),
                ("image", i.image.as_str()),
                ("namespace", pod.namespace()),
                ("pod", pod.name()),
            ];
            page.sample(name, &labels, value(s), Some(s.timestamp.as_millisecond()));
        }
    }
    answer(page.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_escaped() {
        let mut page = Page(String::new());
        page.sample("m", &[("l", "a\"b\n")], 1.5, Some(7));
        assert_eq!(page.0, "m{l=\"a\\\"b\\n\"} 1.5 7\n");
    }
}
