//! Enabling and disabling addons.

use rkube_testing::require_machine;
use rkube_testing::{Cluster, eventually, http_get};
use serde_json::Value;

/// The manifest of a user's addon: a custom resource definition, an object of its kind, and
/// more.
const MANIFEST: &str = "
apiVersion: example.com/v1
kind: Thing
metadata: {name: one}
spec: {size: 3}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Thing, plural: things, singular: thing, listKind: ThingList}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {size: {type: integer}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: later-gone}
data: {a: b}
";

/// Writes a user's addon with the namespace `things`.
fn write(cluster: &Cluster, name: &str, manifests: &str, text: &str) {
    let dir = cluster.home().join("addons").join(name);
    std::fs::create_dir_all(&dir).expect("a folder");
    let description = format!(
        "name: {name}\ndescription: Mine\nversion: v1\nnamespace: things\nmanifests:\n{manifests}"
    );
    std::fs::write(dir.join("addon.yaml"), description).expect("a file");
    std::fs::write(dir.join("things.yaml"), text).expect("a file");
}

/// Returns the entry of an addon in `rkube addons list`.
fn entry(cluster: &Cluster, name: &str) -> Value {
    let text = cluster.rkube(&["addons", "list", "-o", "json"]).ok();
    let all: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let found = all.into_iter().find(|e| e["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {text}"))
}

/// Returns the names of all objects that addons have installed.
fn members(cluster: &Cluster) -> String {
    let kinds = "namespaces,deployments,services,ingresses,configmaps,customresourcedefinitions";
    let label = "applyset.kubernetes.io/part-of";
    let line = ["get", kinds, "-A", "-l", label, "-o", "name"];
    cluster.kubectl(&line).ok()
}

#[test]
fn the_demo_comes_with_the_start_and_goes() {
    require_machine!();
    let cluster = Cluster::plan("demo");
    let error = cluster
        .rkube(&["start", "--addons", "demo,nonsense"])
        .failed(15);
    assert!(
        error.contains("'nonsense'") && error.contains("demo"),
        "{error}"
    );
    assert!(!cluster.home().join("profiles").exists());
    assert_eq!(entry(&cluster, "demo")["status"], "unknown");

    let nodes = rkube_testing::nodes(2).to_string();
    cluster
        .rkube(&["start", "--nodes", &nodes, "--addons", "demo"])
        .ok();
    let demo = entry(&cluster, "demo");
    assert_eq!(demo["status"], "enabled");
    assert_eq!(demo["source"], "built-in");
    assert!(demo["version"].is_string() && demo["homepage"].is_string());
    let status = ["rollout", "status", "deployment/kubia", "-n", "rkube-demo"];
    let timeout = rkube_testing::timeout();
    cluster
        .kubectl(&[&status[..], &[timeout.as_str()]].concat())
        .ok();
    let pod = [
        "get",
        "pods",
        "-n",
        "rkube-demo",
        "-o",
        "jsonpath={.items[*].status.phase}",
    ];
    assert_eq!(cluster.kubectl(&pod).ok(), "Running Running Running");
    // The service selects the pods.
    let patch = r#"{"spec":{"type":"NodePort"}}"#;
    cluster
        .kubectl(&["patch", "service", "kubia", "-n", "rkube-demo", "-p", patch])
        .ok();
    let path = "jsonpath={.spec.ports[0].nodePort}";
    let port = cluster
        .kubectl(&["get", "service", "kubia", "-n", "rkube-demo", "-o", path])
        .ok();
    if rkube_testing::driver() == "native" {
        let ip = cluster.rkube(&["ip"]).ok();
        let address = format!("{}:{port}", ip.trim());
        eventually("the demo", || {
            http_get(&address).filter(|b| b.starts_with("You've hit kubia-"))
        });
    }
    let listed = cluster.rkube(&["addons", "list"]).ok();
    assert!(listed.starts_with("NAME"), "{listed}");
    let stopped = cluster.rkube(&["stop"]);
    stopped.ok();
    assert_eq!(entry(&cluster, "demo")["status"], "unknown");
    let error = cluster.rkube(&["addons", "enable", "demo"]).failed(83);
    assert!(error.contains("rkube start"), "{error}");
    cluster.rkube(&["start"]).ok();

    let told = cluster
        .rkube(&["addons", "disable", "demo", "-o", "json"])
        .ok();
    let events: Vec<Value> = told
        .lines()
        .map(|l| serde_json::from_str(l).expect("an event a line"))
        .collect();
    assert_eq!(events[0]["data"]["name"], "remove");
    assert_eq!(members(&cluster), "");
    let namespaces = cluster.kubectl(&["get", "namespaces", "-o", "name"]).ok();
    assert!(!namespaces.contains("rkube-demo"), "{namespaces}");
    let error = cluster.rkube(&["addons", "disable", "demo"]).failed(15);
    assert!(error.contains("not enabled"), "{error}");
    assert_eq!(entry(&cluster, "demo")["status"], "disabled");
}

#[test]
fn ones_own_addon_comes_changes_and_goes() {
    require_machine!();
    let cluster = Cluster::start("own", 1);
    write(&cluster, "things", "- file: things.yaml\n", MANIFEST);
    cluster.rkube(&["addons", "enable", "things"]).ok();
    let path = "jsonpath={.spec.size}";
    let size = ["get", "thing", "one", "-n", "things", "-o", path];
    assert_eq!(cluster.kubectl(&size).ok(), "3");
    assert_eq!(members(&cluster).lines().count(), 3);
    let shown = cluster.rkube(&["addons", "show", "things"]).ok();
    assert!(shown.contains("things.yaml"), "{shown}");
    // A newer version without the last document.
    let newer = MANIFEST.rsplit_once("---").expect("documents").0;
    write(&cluster, "things", "- file: things.yaml\n", newer);
    cluster.rkube(&["addons", "enable", "things"]).ok();
    let left = members(&cluster);
    assert!(!left.contains("later-gone"), "{left}");
    // The addon's directory is not needed for disabling it.
    std::fs::remove_dir_all(cluster.home().join("addons/things")).expect("removed");
    assert_eq!(entry(&cluster, "things")["status"], "enabled");
    cluster.rkube(&["addons", "disable", "things"]).ok();
    assert_eq!(members(&cluster), "");
    let parents = [
        "get",
        "configmaps",
        "-n",
        "kube-system",
        "-l",
        "rkube.dev/addon",
        "-o",
        "name",
    ];
    assert_eq!(cluster.kubectl(&parents).ok(), "");

    // A namespace that existed before does not belong to the addon.
    cluster.kubectl(&["create", "namespace", "things"]).ok();
    write(&cluster, "things", "- file: things.yaml\n", MANIFEST);
    cluster.rkube(&["addons", "enable", "things"]).ok();
    cluster.rkube(&["addons", "disable", "things"]).ok();
    cluster.kubectl(&["get", "namespace", "things"]).ok();

    failures(&cluster);
    // The check for leftovers requires an empty home directory.
    std::fs::remove_dir_all(cluster.home().join("addons")).expect("removed");
}

/// Errors name their cause and leave a working cluster.
fn failures(cluster: &Cluster) {
    let enable = |code: i32| cluster.rkube(&["addons", "enable", "things"]).failed(code);
    let nowhere = "- url: http://127.0.0.1:1/things.yaml\n";
    write(cluster, "things", nowhere, MANIFEST);
    let error = enable(49);
    assert!(error.contains("http://127.0.0.1:1/things.yaml"), "{error}");
    assert!(error.contains("download it elsewhere"), "{error}");
    write(cluster, "things", "- file: ../things.yaml\n", MANIFEST);
    assert!(enable(18).contains("'../things.yaml'"));
    write(
        cluster,
        "things",
        "- file: things.yaml\n",
        "a: 1\n---\nb: [",
    );
    assert!(enable(18).contains("document 1 of things.yaml"));
    let refused = "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {ports: []}}";
    write(cluster, "things", "- file: things.yaml\n", refused);
    let error = enable(108);
    assert!(error.contains("Service things/s"), "{error}");
    assert_eq!(entry(cluster, "things")["status"], "incomplete");
    cluster.rkube(&["addons", "disable", "things"]).ok();
    assert_eq!(entry(cluster, "things")["status"], "disabled");
    let error = cluster.rkube(&["addons", "enable", "nonsense"]).failed(15);
    assert!(error.contains("cert-manager"), "{error}");
    cluster.rkube(&["addons", "enable", "-x"]).failed(14);
    cluster.rkube(&["addons", "disable", "../x"]).failed(14);
}
