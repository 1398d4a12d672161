//! Metrics in the Prometheus text format.

use std::fmt::Write as _;
use std::sync::Arc;

use http::{Response, header};
use rkube_runtime::Stats;

use super::answer::{Answer, full};
use super::endpoint::Endpoint;
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

/// Escapes a label value.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// A page of metrics under construction.
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

/// Serves `/metrics`: metrics of the agent.
pub(crate) fn agent(endpoint: &Endpoint) -> Answer {
    let pods = endpoint.pods.all();
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
        &[("node", endpoint.host.name())],
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
            (
                "platform",
                &format!("linux/{}", endpoint.host.machine.architecture),
            ),
        ],
        1.0,
        None,
    );
    answer(page.0)
}

/// A running container, its pod and its resource usage.
type Usage = (Arc<Pod>, Instance, Stats);

/// Returns the running containers whose usage is known.
fn containers(endpoint: &Endpoint) -> Vec<Usage> {
    endpoint
        .pods
        .all()
        .into_iter()
        .flat_map(|s| {
            s.instances
                .values()
                .filter_map(|a| a.last())
                .filter(|i| i.running())
                .filter_map(|i| {
                    let stats = endpoint.runtime.stats(&i.id).ok()?;
                    Some((s.pod.clone(), i.clone(), stats))
                })
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Serves `/metrics/resource`, which metrics-server reads.
pub(crate) fn resource(endpoint: &Endpoint) -> Answer {
    let pods: Vec<_> = endpoint
        .pods
        .all()
        .into_iter()
        .filter_map(|s| {
            let stats = endpoint
                .runtime
                .cgroup_stats(&qos::cgroup_parent(&s.pod))
                .ok()?;
            Some((s.pod, stats))
        })
        .collect();
    let node = endpoint.runtime.cgroup_stats("/").unwrap_or_default();
    answer(resource_page(&containers(endpoint), &node, &pods))
}

/// Name, type, help text and value of a metric family of containers.
type ContainerFamily = (
    &'static str,
    &'static str,
    &'static str,
    fn(&Instance, &Stats) -> f64,
);

/// Returns the page of `/metrics/resource`.
fn resource_page(containers: &[Usage], node: &Stats, pods: &[(Arc<Pod>, Stats)]) -> String {
    let mut page = Page(String::new());
    let families: [ContainerFamily; 3] = [
        (
            "container_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
            |_, s| s.cpu_ns as f64 / 1e9,
        ),
        (
            "container_memory_working_set_bytes",
            "gauge",
            "[STABLE] Current working set of the container in bytes",
            |_, s| s.memory_working_set as f64,
        ),
        (
            "container_start_time_seconds",
            "gauge",
            "[STABLE] Start time of the container since unix epoch in seconds",
            |i, _| {
                i.started_at
                    .map_or(0.0, |t| t.as_millisecond() as f64 / 1e3)
            },
        ),
    ];
    for (name, kind, help, value) in families {
        page.family(name, kind, help);
        for (pod, i, s) in containers {
            let labels = [
                ("container", i.name.as_str()),
                ("namespace", pod.namespace()),
                ("pod", pod.name()),
            ];
            page.sample(
                name,
                &labels,
                value(i, s),
                Some(s.timestamp.as_millisecond()),
            );
        }
    }
    let node_families: [Family; 2] = [
        (
            "node_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
            |s| s.cpu_ns as f64 / 1e9,
        ),
        (
            "node_memory_working_set_bytes",
            "gauge",
            "[STABLE] Current working set of the node in bytes",
            |s| s.memory_working_set as f64,
        ),
    ];
    for (name, kind, help, value) in node_families {
        page.family(name, kind, help);
        let at = Some(node.timestamp.as_millisecond());
        page.sample(name, &[], value(node), at);
    }
    let pod_families: [Family; 2] = [
        (
            "pod_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
            |s| s.cpu_ns as f64 / 1e9,
        ),
        (
            "pod_memory_working_set_bytes",
            "gauge",
            "[STABLE] Current working set of the pod in bytes",
            |s| s.memory_working_set as f64,
        ),
    ];
    for (name, kind, help, value) in pod_families {
        page.family(name, kind, help);
        for (pod, s) in pods {
            let labels = [("namespace", pod.namespace()), ("pod", pod.name())];
            page.sample(name, &labels, value(s), Some(s.timestamp.as_millisecond()));
        }
    }
    page.family(
        "resource_scrape_error",
        "gauge",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
    );
    page.sample("resource_scrape_error", &[], 0.0, None);
    page.0
}

/// Name, type, help text and value of a metric family.
type Family = (&'static str, &'static str, &'static str, fn(&Stats) -> f64);

/// Serves `/metrics/cadvisor`: the counters that dashboards use most.
pub(crate) fn cadvisor(endpoint: &Endpoint) -> Answer {
    let containers = containers(endpoint);
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

    #[test]
    fn resources_of_containers_pods_and_node() {
        let pod = Arc::new(Pod {
            metadata: ObjectMeta {
                name: Some("p".into()),
                namespace: Some("ns".into()),
                ..Default::default()
            },
            ..Default::default()
        });
        let stats = |cpu_ns, memory_working_set| Stats {
            cpu_ns,
            memory_working_set,
            timestamp: jiff::Timestamp::from_millisecond(5).unwrap(),
            ..Default::default()
        };
        let state = rkube_runtime::ContainerState::Running;
        let instance = crate::pods::instance::testing::instance("c", "s", state, 0);
        let page = resource_page(
            &[(pod.clone(), instance, stats(1_500_000_000, 7))],
            &stats(2_000_000_000, 9),
            &[(pod, stats(3_000_000_000, 8))],
        );
        for line in [
            "# TYPE container_cpu_usage_seconds_total counter",
            "container_cpu_usage_seconds_total{container=\"c\",namespace=\"ns\",pod=\"p\"} 1.5 5",
            "container_memory_working_set_bytes{container=\"c\",namespace=\"ns\",pod=\"p\"} 7 5",
            "node_cpu_usage_seconds_total 2 5",
            "node_memory_working_set_bytes 9 5",
            "pod_cpu_usage_seconds_total{namespace=\"ns\",pod=\"p\"} 3 5",
            "pod_memory_working_set_bytes{namespace=\"ns\",pod=\"p\"} 8 5",
            "resource_scrape_error 0",
        ] {
            assert!(page.lines().any(|l| l == line), "{line}\n{page}");
        }
    }
}
