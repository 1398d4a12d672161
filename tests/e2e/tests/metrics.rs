//! Metrics: `kubectl top`, autoscaling on CPU, and the pages of a node.

use rkube_testing::{Cluster, require_machine};

/// A deployment that computes, and a pod with two containers and a probe.
const WORKLOADS: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: busy}
spec:
  selector: {matchLabels: {app: busy}}
  template:
    metadata: {labels: {app: busy}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: test/busybox:1
        command: [sh, -c, 'while true; do :; done']
        resources: {requests: {cpu: 10m}, limits: {cpu: 200m, memory: 64Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: two, labels: {app: two}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: first
    image: test/busybox:1
    command: [sleep, '1000']
    livenessProbe: {exec: {command: ['true']}, periodSeconds: 1}
  - {name: second, image: 'test/busybox:1', command: [sleep, '1000']}
";

const AUTOSCALER: &str = "
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: NAME}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: busy}
  maxReplicas: 2
  metrics:
  - type: Resource
    resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}
";

/// As in metrics-server's manifest, without the server.
const API_SERVICE: &str = "
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.metrics.k8s.io, labels: {k8s-app: metrics-server}}
spec:
  service: {name: metrics-server, namespace: kube-system}
  group: metrics.k8s.io
  version: v1beta1
  insecureSkipTLSVerify: true
  groupPriorityMinimum: 100
  versionPriority: 100
";

#[test]
fn usage_is_shown_and_scaled_on() {
    require_machine!();
    let Some(image) = rkube_testing::image::Image::busybox("test/busybox:1") else {
        rkube_testing::skip!("no busybox-static");
    };
    let cluster = Cluster::start("metrics", 2);
    let nodes = cluster.kubectl(&["top", "nodes", "--no-headers"]).ok();
    assert_eq!(nodes.lines().count(), rkube_testing::nodes(2), "{nodes}");
    let archive = cluster.path("busybox.tar");
    std::fs::write(&archive, image.docker_archive()).expect("the archive");
    let load = ["image", "load", &archive.display().to_string()];
    cluster.rkube(&load).ok();
    cluster.apply(WORKLOADS);
    let ready = ["wait", "--for=condition=Ready", "pod", "--all"];
    let timeout = rkube_testing::timeout();
    cluster
        .kubectl(&[&ready[..], &[timeout.as_str()]].concat())
        .ok();

    let top = ["top", "pods", "--containers", "--no-headers"];
    cluster.wait_for(&top, |text| text.lines().count() == 3);
    let table = cluster.kubectl(&["get", "podmetrics", "two"]).ok();
    assert!(
        table.contains("MEMORY") && table.contains("WINDOW"),
        "{table}"
    );
    scale(&cluster);
    pages(&cluster);
    scraped_by_a_service_account(&cluster);
    another_server(&cluster);
}

fn scale(cluster: &Cluster) {
    cluster.apply(&AUTOSCALER.replace("NAME", "first"));
    let status = "jsonpath={.status.replicas}";
    let get = ["get", "deployment", "busy", "-o", status];
    cluster.wait_for(&get, |text| text == "2");
    let conditions = "jsonpath={.status.conditions[*].reason}";
    let get = ["get", "hpa", "first", "-o", conditions];
    cluster.wait_for(&get, |text| text.contains("ValidMetricFound"));
    let events = ["get", "events", "-o", "jsonpath={.items[*].message}"];
    cluster.wait_for(&events, |text| {
        text.contains(
            "New size: 2; reason: cpu resource utilization (percentage of request) above target",
        )
    });
    // Two autoscalers must not fight over the same pods.
    cluster.apply(&AUTOSCALER.replace("NAME", "second"));
    let get = ["get", "hpa", "second", "-o", conditions];
    cluster.wait_for(&get, |text| text.contains("AmbiguousSelector"));
}

/// Reads the pages of the node of the pod with two containers, as Prometheus does.
fn pages(cluster: &Cluster) {
    let name = ["get", "pod", "two", "-o", "jsonpath={.spec.nodeName}"];
    let node = cluster.kubectl(&name).ok();
    let page = |path: &str| {
        let path = format!("/api/v1/nodes/{node}/proxy/{path}");
        cluster.kubectl(&["get", "--raw", &path]).ok()
    };
    let text = page("metrics/cadvisor");
    for part in [
        "container_cpu_usage_seconds_total{container=\"first\",cpu=\"total\",id=\"/kubepods/besteffort/pod",
        "container_memory_working_set_bytes{container=\"\",id=\"/\",",
        "interface=\"eth0\"",
        "machine_cpu_cores{",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let text = page("metrics/probes");
    assert!(
        text.contains("probe_type=\"Liveness\",result=\"successful\""),
        "{text}"
    );
    let summary = page("stats/summary");
    for part in ["usageNanoCores", "ephemeral-storage", "rootfs"] {
        assert!(summary.contains(part), "{part}\n{summary}");
    }
}

/// Programs that monitor nodes come with the token of a service account, as Prometheus and
/// metrics-server do.
fn scraped_by_a_service_account(cluster: &Cluster) {
    let token = |account: &str| {
        let kubectl = |args: &[&str]| cluster.kubectl(args).ok();
        kubectl(&["create", "serviceaccount", account]);
        kubectl(&["create", "token", account])
    };
    let (scraper, nobody) = (token("scraper"), token("nobody"));
    let role = [
        "create",
        "clusterrole",
        "scraper",
        "--verb=get",
        "--resource=nodes/metrics",
    ];
    cluster.kubectl(&role).ok();
    let binding = [
        "create",
        "clusterrolebinding",
        "scraper",
        "--clusterrole=scraper",
    ];
    let account = "--serviceaccount=default:scraper";
    cluster.kubectl(&[&binding[..], &[account]].concat()).ok();
    let node = cluster.rkube(&["ip"]).ok();
    let get = |path: &str, token: &str| {
        let url = format!("https://{}:10250{path}", node.trim());
        let header = format!("Authorization: Bearer {}", token.trim());
        let mut curl = std::process::Command::new("curl");
        curl.args(["--silent", "--insecure", "--header", &header, &url]);
        curl.args(["--write-out", "\n%{http_code}"]);
        let out = curl.output().expect("curl runs");
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    // The role takes effect when the authorizer has seen it.
    rkube_testing::eventually("metrics of the node", || {
        let page = get("/metrics/resource", &scraper);
        page.contains("node_cpu_usage_seconds_total").then_some(())
    });
    let refused = get("/pods", &scraper);
    let words = "Forbidden (user=system:serviceaccount:default:scraper, verb=get, \
                 resource=nodes, subresource(s)=[pods proxy])";
    assert!(
        refused.contains(words) && refused.ends_with("403"),
        "{refused}"
    );
    assert!(get("/metrics/resource", &nobody).ends_with("403"));
    assert!(get("/metrics/resource", "no.such.token").ends_with("401"));
    assert!(get("/rkube/certificates", &scraper).ends_with("403"));
}

/// Another server may take the group over, and gives it back.
fn another_server(cluster: &Cluster) {
    let top = ["top", "nodes", "--no-headers"];
    cluster.apply(API_SERVICE);
    rkube_testing::eventually("the API service takes over", || {
        let path = "/apis/metrics.k8s.io/v1beta1/nodes";
        (cluster.kubectl(&["get", "--raw", path]).code != 0).then_some(())
    });
    let name = "v1beta1.metrics.k8s.io";
    cluster.kubectl(&["delete", "apiservice", name]).ok();
    cluster.wait_for(&top, |text| !text.is_empty());
}
