use super::*;

const HEAD: &str = "apiVersion: rkube.dev/v1alpha1\nkind: Cluster\n";

fn parse(rest: &str) -> Result<File, String> {
    read(&Document::new("c.yaml", format!("{HEAD}{rest}"))).map_err(|e| e.message)
}

const FULL: &str = "\
name: demo
driver: native
nodes:
- role: worker
  count: 2
  cpus: 1.5
  memory: 2g
  zone: b
  labels: {tier: web, size: 3}
  taints: ['dedicated=web:NoSchedule']
- role: control-plane
  memory: 4096
  mounts: ['/srv:/srv:ro']
  ports: ['8080:80', 443]
mounts: ['/data:/data']
networking: {nodeSubnet: 192.168.77.0/24, podSubnet: 10.1.0.0/16, serviceSubnet: 10.2.0.0/16, dnsDomain: x.local}
insecureRegistries: ['r:5000']
store: {endpoints: ['http://10.0.0.1:2379']}
machine: {kernel: /boot/k, modules: /lib/m, diskSize: 30g}
auditPolicyFile: audit.yaml
addons: [ingress]
images: [app.tar]
manifests: [app.yaml]
kubeconfig: {namespace: dev, keepCurrent: true}
";

#[test]
fn booleans_are_those_that_kubectl_reads() {
    for (text, expected) in [("yes", true), ("On", true), ("no", false), ("off", false)] {
        let file = parse(&format!("kubeconfig: {{keepCurrent: {text}}}\n")).unwrap();
        assert_eq!(file.keep_context, expected, "{text}");
    }
    let error = parse("kubeconfig: {keepCurrent: maybe}\n").unwrap_err();
    assert!(error.starts_with("c.yaml:3:27: "), "{error}");
    assert!(error.contains("expected a boolean"), "{error}");
}

#[test]
fn every_field_is_read() {
    let file = parse(FULL).unwrap();
    assert_eq!(file.name.as_deref(), Some("demo"));
    let [first, worker, other] = file.nodes.as_slice() else {
        panic!("{file:?}");
    };
    assert_eq!(worker, other);
    assert_eq!(first.memory_bytes, Some(4 << 30));
    assert_eq!(first.ports[1].to_string(), "127.0.0.1:443:443/tcp");
    assert_eq!(worker.cpu_millis, Some(1500));
    assert_eq!(worker.labels[ZONE], "b");
    assert_eq!(worker.labels["size"], "3");
    assert_eq!(
        labels::taint_text(&worker.taints[0]),
        "dedicated=web:NoSchedule"
    );
    assert_eq!(file.pods.unwrap().to_string(), "10.1.0.0/16");
    assert_eq!(file.machine.disk_bytes, Some(30 << 30));
    assert!(file.keep_context && file.store.is_some());
    assert!(parse("").unwrap().nodes.is_empty());
}

#[test]
fn mistakes_have_a_place() {
    for (rest, place) in [
        ("nodse: []", "c.yaml:3:1: unknown field `nodse`"),
        (
            "nodes:\n- role: worker\n  cpu: 2",
            "nodes[0]: unknown field `cpu`",
        ),
        ("nodes: [{role: master}]", "c.yaml:3:16: nodes[0].role: "),
        ("nodes: [{role: worker}]", "c.yaml:3:8: nodes: "),
        (
            "nodes: [{role: control-plane, count: 3}]",
            "c.yaml:3:38: nodes[0].count: ",
        ),
        (
            "nodes: [{role: control-plane}, {role: control-plane}]",
            "c.yaml:3:39: nodes[1].role: ",
        ),
        (
            "nodes: [{role: control-plane, memory: lots}]",
            "c.yaml:3:39: nodes[0].memory: ",
        ),
        (
            "nodes: [{role: control-plane, taints: ['a:b']}]",
            "c.yaml:3:40: nodes[0].taints[0]: ",
        ),
        (
            "nodes: [{role: control-plane, labels: {a: [1]}}]",
            "c.yaml:3:39: nodes[0].labels: ",
        ),
        (
            "nodes: [{role: control-plane, ports: [x]}]",
            "c.yaml:3:39: nodes[0].ports[0]: ",
        ),
        ("mounts: ['/a']", "c.yaml:3:10: mounts[0]: "),
        ("driver: virtualbox", "c.yaml:3:9: driver: "),
        ("name: A_b", "c.yaml:3:7: name: "),
        ("featureGates: {A: true}", "c.yaml:3:15: featureGates: "),
        ("networking: {podSubnet: x}", "c.yaml:3:25: "),
        ("store: {endpoints: []}", "c.yaml:3:8: store: "),
    ] {
        let error = parse(rest).unwrap_err();
        assert!(error.contains(place), "{rest}: {error}");
    }
    let kinds = "apiVersion: kind.x-k8s.io/v1alpha4\nkind: Cluster\nfeatureGates: {}\n";
    let failure = read(&Document::new("k.yaml", kinds)).unwrap_err();
    assert!(failure.message.starts_with("k.yaml:1:13: apiVersion: "));
    assert!(
        failure
            .advice
            .unwrap()
            .contains("rkube kind create cluster")
    );
}

/// Returns the fields that the parser expects at a place, from its error for an unknown one.
fn expected(text: &str) -> Vec<String> {
    let error = parse(text).unwrap_err();
    let list = error
        .split("expected ")
        .nth(1)
        .unwrap_or_else(|| panic!("{error}"));
    list.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_schema_has_the_fields_of_the_parser() {
    let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
    for (pointer, text) in [
        ("", "zzz: 1"),
        ("/$defs/node", "nodes: [{zzz: 1}]"),
        ("/properties/networking", "networking: {zzz: 1}"),
        ("/properties/store", "store: {zzz: 1}"),
        ("/properties/machine", "machine: {zzz: 1}"),
        ("/properties/kubeconfig", "kubeconfig: {zzz: 1}"),
        ("/properties/dev", "dev: {zzz: 1}"),
        (
            "/properties/dev/properties/build/items",
            "dev: {build: [{zzz: 1}]}",
        ),
    ] {
        let object = schema.pointer(pointer).unwrap();
        assert_eq!(object["additionalProperties"], false, "{pointer}");
        let properties = object["properties"].as_object().unwrap();
        let mut described: Vec<&str> = properties.keys().map(String::as_str).collect();
        described.sort_unstable();
        let mut read = expected(text);
        // It is known for its error only.
        read.retain(|name| name != "featureGates");
        read.sort();
        assert_eq!(described, read, "{pointer}");
    }
}

#[test]
fn manifests_become_an_addon() {
    assert!(manifests(&[]).unwrap().is_none());
    assert!(manifests(&["/nowhere/x.yaml".to_owned()]).is_err());
    let names = ["Cargo.toml".to_owned(), "https://a.b/c.yaml".to_owned()];
    let addon = manifests(&names).unwrap().unwrap();
    assert_eq!(addon.manifests.len(), 2);
    assert!(matches!(&addon.manifests[0], Manifest::File(name) if name.ends_with("Cargo.toml")));
}
