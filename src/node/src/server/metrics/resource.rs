//! `/metrics/resource`: the usage that metrics-server and the API server read.

use std::sync::Arc;

use rkube_runtime::Stats;

use super::super::answer::Answer;
use super::super::endpoint::Endpoint;
use super::page::Page;
use crate::kinds::*;
use crate::pods::instance::Instance;
use crate::pods::qos;

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

/// Serves `/metrics/resource`.
pub(crate) fn serve(endpoint: &Endpoint) -> Answer {
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
    let node = endpoint.runtime.cgroup_stats("/").ok();
    page(&containers(endpoint), node.as_ref(), &pods).into_answer()
}

/// Name, type, help text and value of a metric family.
type Family = (&'static str, &'static str, &'static str, fn(&Stats) -> f64);

/// Name, type, help text and value of a metric family of containers.
type ContainerFamily = (
    &'static str,
    &'static str,
    &'static str,
    fn(&Instance, &Stats) -> Option<f64>,
);

const CONTAINERS: [ContainerFamily; 4] = [
    (
        "container_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
        |_, s| Some(s.cpu_ns as f64 / 1e9),
    ),
    (
        "container_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the container in bytes",
        |_, s| Some(s.memory_working_set as f64),
    ),
    (
        "container_start_time_seconds",
        "gauge",
        "[STABLE] Start time of the container since unix epoch in seconds",
        |i, _| i.started_at.map(|t| t.as_millisecond() as f64 / 1e3),
    ),
    (
        "container_swap_usage_bytes",
        "gauge",
        "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
        |_, s| Some(s.swap_usage as f64),
    ),
];

const NODE: [Family; 3] = [
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
    (
        "node_swap_usage_bytes",
        "gauge",
        "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
        |s| s.swap_usage as f64,
    ),
];

const PODS: [Family; 3] = [
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
    (
        "pod_swap_usage_bytes",
        "gauge",
        "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
        |s| s.swap_usage as f64,
    ),
];

/// Returns the page; without the node's usage, it says that there was an error.
fn page(containers: &[Usage], node: Option<&Stats>, pods: &[(Arc<Pod>, Stats)]) -> Page {
    let mut page = Page::default();
    for (name, kind, help, value) in CONTAINERS {
        page.family(name, kind, help);
        for (pod, i, s) in containers {
            let labels = [
                ("container", i.name.as_str()),
                ("namespace", pod.namespace()),
                ("pod", pod.name()),
            ];
            let at = s.timestamp.as_millisecond();
            // Not measured, so without a time.
            let at = (name != "container_start_time_seconds").then_some(at);
            if let Some(value) = value(i, s) {
                page.sample(name, &labels, value, at);
            }
        }
    }
    for (name, kind, help, value) in NODE {
        page.family(name, kind, help);
        if let Some(node) = node {
            let at = Some(node.timestamp.as_millisecond());
            page.sample(name, &[], value(node), at);
        }
    }
    for (name, kind, help, value) in PODS {
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
    let error = f64::from(u8::from(node.is_none()));
    page.sample("resource_scrape_error", &[], error, None);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut instance = crate::pods::instance::testing::instance("c", "s", state, 0);
        instance.started_at = jiff::Timestamp::from_millisecond(1500).ok();
        let containers = [(pod.clone(), instance, stats(1_500_000_000, 7))];
        let pods = [(pod, stats(3_000_000_000, 8))];
        let text = page(&containers, Some(&stats(2_000_000_000, 9)), &pods).into_text();
        for line in [
            "# TYPE container_cpu_usage_seconds_total counter",
            "container_cpu_usage_seconds_total{container=\"c\",namespace=\"ns\",pod=\"p\"} 1.5 5",
            "container_memory_working_set_bytes{container=\"c\",namespace=\"ns\",pod=\"p\"} 7 5",
            "container_start_time_seconds{container=\"c\",namespace=\"ns\",pod=\"p\"} 1.5",
            "node_cpu_usage_seconds_total 2 5",
            "node_memory_working_set_bytes 9 5",
            "pod_cpu_usage_seconds_total{namespace=\"ns\",pod=\"p\"} 3 5",
            "pod_memory_working_set_bytes{namespace=\"ns\",pod=\"p\"} 8 5",
            "pod_swap_usage_bytes{namespace=\"ns\",pod=\"p\"} 0 5",
            "resource_scrape_error 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        let text = page(&[], None, &[]).into_text();
        assert!(text.ends_with("resource_scrape_error 1\n"));
    }
}
