//! A running cluster follows its file, a stop that was scheduled happens, and the log of commands knows.

use std::path::Path;

use rkube_testing::{Cluster, eventually, http_get, is_native, require_machine};
use serde_json::Value;

/// Writes a cluster file with these fields.
fn write(file: &Path, cluster: &Cluster, fields: &str) {
    let name = &cluster.profile;
    let head = format!("apiVersion: rkube.dev/v1alpha1\nkind: Cluster\nname: {name}\n");
    std::fs::write(file, head + fields).expect("a file");
}

/// Returns what `apply` changes, or would.
fn changes(cluster: &Cluster, file: &Path, more: &[&str]) -> Vec<String> {
    let file = file.display().to_string();
    let words = [&["apply", "-f", file.as_str(), "-o", "json"], more].concat();
    let out = cluster.rkube(&words).ok();
    // Steps are lines, the result follows them.
    let result = &out[out.find("{\n").expect("a result")..];
    let result: Value = serde_json::from_str(result).expect("JSON");
    let all = result["changes"].as_array().expect("changes").iter();
    all.map(|change| change.as_str().expect("text").to_owned())
        .collect()
}

/// A deployment whose scalars are those of YAML 1.1, on one node, and a service that only that node
/// serves.
fn manifest(node: &str) -> String {
    format!(
        "\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      hostNetwork: no
      terminationGracePeriodSeconds: 1
      nodeName: {node}
      containers: [{{name: web, image: rkube/kubia, tty: yes}}]
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: 8080}}]
"
    )
}

#[test]
fn a_running_cluster_follows_its_file() {
    require_machine!();
    if !is_native("a route of this machine") {
        return;
    }
    let cluster = Cluster::start("apply", 2);
    let (file, app) = (cluster.path("cluster.yaml"), cluster.path("app.yaml"));
    std::fs::write(&file, cluster.rkube(&["config", "init"]).ok()).expect("a file");
    assert_eq!(changes(&cluster, &file, &[]), [""; 0]);

    let workers = "nodes:\n- role: control-plane\n- role: worker\n  labels: {tier: web}\n\
                   - role: worker\n  taints: ['a=b:PreferNoSchedule']\n";
    let second = cluster.node(2);
    std::fs::write(&app, manifest(&second)).expect("a file");
    let fields = format!("{workers}manifests: ['{}']\n", app.display());
    write(&file, &cluster, &fields);
    let planned = changes(&cluster, &file, &["--dry-run"]);
    assert_eq!(
        planned,
        [
            format!("label the node {second}: tier=web"),
            "add a worker node".to_owned(),
            "apply the manifests".to_owned(),
        ]
    );
    assert_eq!(changes(&cluster, &file, &[]), planned);
    let labelled = cluster.kubectl(&["get", "nodes", "-l", "tier=web", "-o", "name"]);
    assert_eq!(labelled.ok().trim(), format!("node/{second}"));
    let third = cluster.node(3);
    let taints = [
        "get",
        "node",
        &third,
        "-o",
        "jsonpath={.spec.taints[*].key}",
    ];
    cluster.wait_for(&taints, |keys| keys.contains('a'));

    // The pod is not on the first node, to which every address was led once.
    let path = "jsonpath={.status.loadBalancer.ingress[0].ip}";
    let ip = cluster.wait_for(&["get", "service", "web", "-o", path], |ip| !ip.is_empty());
    let address = format!("{}:80", ip.trim());
    eventually("an answer", || http_get(&address));
    std::fs::write(&app, manifest(&third)).expect("a file");
    assert_eq!(changes(&cluster, &file, &[]), ["apply the manifests"]);
    let rollout = [
        "rollout",
        "status",
        "deployment/web",
        &rkube_testing::timeout(),
    ];
    cluster.kubectl(&rollout).ok();
    eventually("an answer from the other node", || http_get(&address));

    write(
        &file,
        &cluster,
        "nodes: [{role: control-plane}]\nmanifests: []\n",
    );
    let all = changes(&cluster, &file, &[]);
    assert_eq!(all.len(), 3, "{all:?}");
    assert_eq!(changes(&cluster, &file, &[]), [""; 0]);
    write(&file, &cluster, "networking: {dnsDomain: other.local}\n");
    let name = file.display().to_string();
    let refusal = cluster.rkube(&["apply", "-f", &name]).failed(18);
    assert!(
        refusal.contains(":4:25: networking.dnsDomain: "),
        "{refusal}"
    );
}

#[test]
fn a_stop_happens_later_and_commands_are_logged() {
    require_machine!();
    let cluster = Cluster::start("later", 1);
    let left = || {
        let status = cluster.rkube(&["status", "-f", "{{.TimeToStop}}"]);
        status.stdout.trim().to_owned()
    };
    cluster.rkube(&["stop", "--schedule", "2h"]).ok();
    assert!(
        left().starts_with("1h59m") || left() == "2h0m0s",
        "{}",
        left()
    );
    cluster
        .rkube(&["stop", "--cancel-scheduled", "--user", "ann"])
        .ok();
    assert_eq!(left(), "");
    assert_eq!(cluster.rkube(&["status"]).code, 0);

    cluster
        .rkube(&["stop", "--schedule=5s", "--skip-audit"])
        .ok();
    eventually("the stop", || {
        let status = cluster.rkube(&["status", "-f", "{{.Host}}"]);
        (status.stdout.trim() == "Stopped").then_some(())
    });
    let log = cluster.rkube(&["logs", "--audit", "-o", "json"]).ok();
    let log: Value = serde_json::from_str(&log).expect("JSON");
    let entries = log.as_array().expect("entries").iter();
    let stops: Vec<&Value> = entries.filter(|entry| entry["command"] == "stop").collect();
    let [first, second] = stops.as_slice() else {
        panic!("{log}");
    };
    assert_eq!(first["args"], "--schedule 2h");
    assert_eq!(
        (&second["user"], &second["profile"]),
        (&"ann".into(), &cluster.profile.clone().into())
    );
    // The node has stopped before the command that stops it has ended.
    eventually("the start after the stop", || {
        (cluster.rkube(&["start"]).code == 0).then_some(())
    });
    // A schedule goes with its cluster.
    cluster.rkube(&["stop", "--schedule", "2h"]).ok();
    cluster.rkube(&["delete"]).ok();
    cluster.assert_nothing_left();
}
