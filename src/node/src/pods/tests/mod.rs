//! Facts of the kubelet's own tests (`pkg/kubelet`, `pkg/volume`), as tables of inputs and results.

mod admission;
mod environment;
mod files;
mod resources;
mod restarts;
mod security;
mod status;

use super::*;

/// Returns a pod with this specification, as JSON.
fn pod(spec: &str) -> Pod {
    let spec: serde_json::Value =
        serde_json::from_str(spec).unwrap_or_else(|e| panic!("{spec}: {e}"));
    let pod = serde_json::json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "u"},
        "spec": spec,
    });
    serde_json::from_value(pod).expect("a pod")
}

/// Returns `resources`, written as requests, a slash and limits: `cpu=1 memory=1Gi / cpu=2`.
fn requirements(text: &str) -> ResourceRequirements {
    let words: Vec<&str> = text.split_whitespace().collect();
    let slash = words.iter().position(|word| *word == "/").expect(text);
    let list = |words: &[&str]| {
        let amounts = words.iter().map(|word| {
            let (name, amount) = word.split_once('=').expect(text);
            (name.to_owned(), Quantity(amount.to_owned()))
        });
        Some(amounts.collect()).filter(|list: &std::collections::BTreeMap<_, _>| !list.is_empty())
    };
    ResourceRequirements {
        requests: list(&words[..slash]),
        limits: list(&words[slash + 1..]),
        ..Default::default()
    }
}

/// Returns a pod of containers with these resources, in the notation of [`requirements`]. A word
/// before a colon says what they belong to: an `init` container, a `sidecar`, or the `pod`.
fn pod_of(parts: &[&str]) -> Pod {
    let mut spec = PodSpec::default();
    for (i, part) in parts.iter().enumerate() {
        let (kind, text) = part.split_once(':').unwrap_or(("", part));
        let container = Container {
            name: format!("c{i}"),
            resources: Some(requirements(text)),
            restart_policy: (kind == "sidecar").then(|| "Always".into()),
            ..Default::default()
        };
        match kind {
            "" => spec.containers.push(container),
            "pod" => spec.resources = Some(requirements(text)),
            _ => spec.init_containers.get_or_insert_default().push(container),
        }
    }
    Pod {
        spec: Some(spec),
        ..Default::default()
    }
}

#[test]
fn strays_are_found_by_uid() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["u1", "u2", "ns_web_u1", "ns_web_u3"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    let known = HashSet::from(["u1".to_owned()]);
    let mut found = find_stray_directories(dir.path(), &known);
    found.sort();
    let found: Vec<(String, &str)> = found
        .iter()
        .map(|(path, uid)| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, uid.as_str())
        })
        .collect();
    assert_eq!(
        found,
        [("ns_web_u3".to_owned(), "u3"), ("u2".to_owned(), "u2")]
    );
    assert!(find_stray_directories(&dir.path().join("none"), &known).is_empty());
}
