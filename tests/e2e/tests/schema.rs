//! What commands print with `-o json` is what their JSON Schemas say.

use std::collections::BTreeSet;

use rkube_testing::{Cluster, require_machine};
use serde_json::Value;

/// Checks a value against the part of JSON Schema that rkube's schemas use. Returns what is wrong. A
/// field that the schema does not name is wrong, too: it was forgotten there.
fn check(root: &Value, schema: &Value, value: &Value, path: &str) -> Vec<String> {
    if let Some(name) = schema["$ref"].as_str() {
        let definition = root.pointer(&name[1..]).expect("a definition");
        return check(root, definition, value, path);
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        let all = choices
            .iter()
            .map(|choice| check(root, choice, value, path));
        return all.min_by_key(Vec::len).unwrap_or_default();
    }
    let mut wrong = Vec::new();
    if schema.get("const").is_some_and(|only| only != value)
        || schema["enum"]
            .as_array()
            .is_some_and(|all| !all.contains(value))
    {
        wrong.push(format!("{path}: {value} is not {schema}"));
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let fits = match &schema["type"] {
        Value::String(only) => only == kind,
        Value::Array(all) => all.iter().any(|one| one == kind),
        _ => true,
    };
    if !fits {
        return vec![format!("{path}: {kind} is not {}", schema["type"])];
    }
    for (i, item) in value.as_array().into_iter().flatten().enumerate() {
        wrong.extend(check(root, &schema["items"], item, &format!("{path}[{i}]")));
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        let name = name.as_str().expect("a name");
        if value.get(name).is_none() {
            wrong.push(format!("{path}: {name} is missing"));
        }
    }
    for (name, field) in value.as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        match schema["properties"].get(name) {
            Some(known) => wrong.extend(check(root, known, field, &path)),
            None if schema["additionalProperties"].is_object() => {
                wrong.extend(check(root, &schema["additionalProperties"], field, &path));
            }
            None if schema["properties"].is_object() => {
                wrong.push(format!("{path} is not in the schema"));
            }
            None => {}
        }
    }
    wrong
}

/// Commands that print a result, by the name of its schema.
const RESULTS: &[(&str, &str)] = &[
    ("status", "status"),
    ("status", "status --layout=cluster"),
    ("status", "status --node=m02"),
    ("node list", "node list"),
    ("ip", "ip"),
    ("ssh-key", "ssh-key"),
    ("ssh-host", "ssh-host"),
    ("mount", "mount"),
    ("service", "service --url --all"),
    ("service list", "service list"),
    ("image ls", "image ls"),
    ("image inspect", "image inspect rkube/kubia"),
    ("image history", "image history rkube/kubia"),
    ("image cache ls", "image cache ls"),
    ("registry list", "registry list"),
    ("port list", "port list"),
    ("snapshot list", "snapshot list"),
    ("addons list", "addons list"),
    ("addons show", "addons show demo"),
    ("addons images", "addons images demo"),
    ("logs", "logs --length=2"),
    ("logs", "logs --audit"),
    ("certs check", "certs check"),
    ("profile", "profile"),
    ("profile list", "profile list"),
    ("profile list", "profile list --light"),
    ("config view", "config view"),
    ("config list", "config list"),
    ("config get", "config get memory"),
    ("config defaults", "config defaults driver"),
    ("config schema", "config schema"),
    ("config init", "config init"),
    ("driver list", "driver list"),
    ("version", "version"),
    ("version", "version --short"),
    ("version", "version --components"),
    ("options", "options"),
    ("license", "license"),
    ("update-check", "update-check"),
    ("start", "start --dry-run"),
    ("export kubeconfig", "export kubeconfig"),
    ("schema list", "schema list"),
    ("schema show", "schema show events"),
];

#[test]
fn outputs_are_what_their_schemas_say() {
    require_machine!();
    let cluster = Cluster::start("schema", 2);
    cluster.deploy_kubia(1);
    cluster.rkube(&["snapshot", "save", "one"]).ok();
    cluster.rkube(&["config", "set", "memory", "4g"]).ok();
    let file = cluster.path("cluster.yaml");
    std::fs::write(&file, cluster.rkube(&["config", "init"]).ok()).expect("a file");
    let file = file.display().to_string();
    let mut seen = BTreeSet::new();
    let apply = format!("apply --dry-run -f {file}");
    let results = RESULTS.iter().copied().chain([("apply", apply.as_str())]);
    for (name, line) in results {
        let words: Vec<&str> = line.split(' ').chain(["-o", "json"]).collect();
        let said = cluster.rkube(&words).ok();
        let value: Value =
            serde_json::from_str(&said).unwrap_or_else(|e| panic!("{line}: {e}: {said}"));
        let schema = schema(&cluster, name);
        let wrong = check(&schema, &schema, &value, "");
        assert!(wrong.is_empty(), "{line}: {wrong:#?}");
        seen.insert(name);
    }
    for (name, line) in [
        ("ctl ps", "ssh -- rkube ctl ps -a -o json"),
        ("ctl images", "ssh -- rkube ctl images -o json"),
        ("ctl store verify", "ssh -- rkube ctl store verify -o json"),
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let value: Value = serde_json::from_str(&cluster.rkube(&words).ok()).expect("JSON");
        let schema = schema(&cluster, name);
        let wrong = check(&schema, &schema, &value, "");
        assert!(wrong.is_empty(), "{line}: {wrong:#?}");
        seen.insert(name);
    }
    let events = schema(&cluster, "events");
    for line in [
        "update-context",
        "node stop m02",
        "node start m02",
        "pause",
        "unpause",
        "config unset memory",
        "addons enable demo",
        "addons disable demo",
        "snapshot delete one",
        "snapshot delete none",
        "node stop m09",
        "stop",
        "start --memory 2g",
        "addons enable nonsense",
    ] {
        let words: Vec<&str> = line.split(' ').chain(["-o", "json"]).collect();
        for event in cluster.rkube(&words).stdout.lines() {
            let value: Value =
                serde_json::from_str(event).unwrap_or_else(|e| panic!("{line}: {e}: {event}"));
            let wrong = check(&events, &events, &value, "");
            assert!(wrong.is_empty(), "{line}: {wrong:#?}");
        }
    }
    // Those that need an engine, a registry or a damaged store, print events first, or go on until
    // Ctrl-C.
    for name in [
        "image bundle load",
        "image bundle save",
        "dashboard",
        "docker-env",
        "image build",
        "image push",
        "registry gc",
        "ctl store salvage",
        "ctl store reset",
        "events",
    ] {
        seen.insert(name);
    }
    let listed: Value =
        serde_json::from_str(&cluster.rkube(&["schema", "list", "-o", "json"]).ok()).expect("JSON");
    for entry in listed.as_array().expect("a list") {
        let name = entry["name"].as_str().expect("a name");
        assert!(
            seen.contains(name),
            "the output of '{name}' is not compared with its schema"
        );
    }
}

fn schema(cluster: &Cluster, name: &str) -> Value {
    let words: Vec<&str> = ["schema", "show"]
        .into_iter()
        .chain(name.split(' '))
        .collect();
    serde_json::from_str(&cluster.rkube(&words).ok()).expect("a schema")
}
