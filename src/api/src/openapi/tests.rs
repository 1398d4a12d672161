use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::*;
use crate::registry;

fn all() -> Vec<&'static Resource> {
    registry::builtin().iter().collect()
}

/// Upstream's published document, where it is at hand.
fn reference() -> Option<Value> {
    let folder = std::env::var_os("RKUBE_REFERENCE").map_or_else(
        || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference"),
        Into::into,
    );
    let path = folder.join("kubernetes-1.36-openapi.json");
    match std::fs::read(&path) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).expect("the reference is JSON")),
        Err(_) => {
            rkube_testing::not_applicable(&format!("no {} (set RKUBE_REFERENCE)", path.display()));
            None
        }
    }
}

/// Group versions that upstream's document has and a default server does not:
/// alpha, and beta that is off by default.
fn is_off(path: &str) -> bool {
    path.split('/').any(|part| {
        part.strip_prefix('v')
            .is_some_and(|v| v.contains("alpha") || v.contains("beta"))
    }) || path.starts_with("/apis/internal.apiserver.k8s.io")
        || path.starts_with("/apis/storagemigration.k8s.io")
}

fn parameters<'a>(document: &'a Value, of: &'a Value) -> BTreeSet<String> {
    let list = of
        .get("parameters")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    list.map(|p| match p.get("$ref").and_then(Value::as_str) {
        Some(reference) => &document["parameters"][reference.rsplit('/').next().unwrap()],
        None => p,
    })
    .map(|p| format!("{}:{}:{}:{}", p["in"], p["name"], p["type"], p["required"]))
    .collect()
}

#[test]
fn paths_and_operations_are_upstreams() {
    let Some(upstream) = reference() else { return };
    let ours = v2_document(&all(), &[]);
    let mut differences: Vec<String> = Vec::new();
    let theirs = upstream["paths"].as_object().unwrap();
    let have = ours["paths"].as_object().unwrap();
    for (path, item) in theirs {
        // The API server's own log files are not served: a node's are, through its proxy.
        if is_off(path) || path.starts_with("/logs/") {
            continue;
        }
        let Some(mine) = have.get(path) else {
            differences.push(format!("no path {path}"));
            continue;
        };
        if parameters(&upstream, item) != parameters(&ours, mine) {
            differences.push(format!(
                "{path}: parameters {:?}, not {:?}",
                parameters(&ours, mine),
                parameters(&upstream, item)
            ));
        }
        for (method, operation) in item.as_object().unwrap() {
            if method == "parameters" {
                continue;
            }
            let Some(my) = mine.get(method) else {
                differences.push(format!("{path}: no {method}"));
                continue;
            };
            for key in [
                "operationId",
                "x-kubernetes-action",
                "x-kubernetes-group-version-kind",
                "tags",
                "responses",
                "consumes",
                "produces",
            ] {
                let their = operation.get(key).map(without_cbor);
                // Descriptions of paths above groups are ours.
                if my.get(key) != their.as_ref()
                    && !(key == "consumes" && operation.get(key).is_none())
                {
                    differences.push(format!(
                        "{path} {method} {key}: {:?}, not {:?}",
                        my.get(key),
                        their
                    ));
                }
            }
            if parameters(&upstream, operation) != parameters(&ours, my) {
                differences.push(format!("{path} {method}: parameters"));
            }
        }
        for method in mine.as_object().unwrap().keys() {
            if item.get(method).is_none() {
                differences.push(format!("{path}: {method} is ours alone"));
            }
        }
    }
    for path in have.keys() {
        if !theirs.contains_key(path) {
            differences.push(format!("{path} is ours alone"));
        }
    }
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences.join("\n")
    );
}

/// Leaves out the media types of CBOR, which the published document has and the server, whose feature
/// gate is off, has not.
fn without_cbor(value: &Value) -> Value {
    let Some(items) = value.as_array() else {
        return value.clone();
    };
    let kept = items.iter().filter(|item| {
        let text = item.as_str().unwrap_or_default();
        !text.contains("cbor")
    });
    kept.cloned().collect()
}

/// Leaves out the enumeration of the values of a list.
fn without_enum(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(map) = value.as_object_mut() {
        map.remove("enum");
    }
    value
}

#[test]
fn definitions_are_upstreams() {
    let Some(upstream) = reference() else { return };
    let ours = v2_document(&all(), &[]);
    let theirs = upstream["definitions"].as_object().unwrap();
    // The fields' texts are not compared: they come from the same source.
    let facts = [
        "type",
        "format",
        "$ref",
        "items",
        "additionalProperties",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-map-type",
        "x-kubernetes-patch-merge-key",
        "x-kubernetes-patch-strategy",
    ];
    let mut differences: Vec<String> = Vec::new();
    let mut compared = 0;
    for (name, mine) in ours["definitions"].as_object().unwrap() {
        let Some(their) = theirs.get(name) else {
            differences.push(format!("{name} is ours alone"));
            continue;
        };
        for key in [
            "type",
            "format",
            "required",
            "x-kubernetes-map-type",
            "x-kubernetes-unions",
        ] {
            let sorted = |v: Option<&Value>| match v {
                Some(Value::Array(items)) => {
                    let mut items: Vec<String> = items.iter().map(ToString::to_string).collect();
                    items.sort_unstable();
                    items.join(",")
                }
                other => format!("{other:?}"),
            };
            if sorted(mine.get(key)) != sorted(their.get(key)) {
                differences.push(format!(
                    "{name} {key}: {:?}, not {:?}",
                    mine.get(key),
                    their.get(key)
                ));
            }
        }
        // The types that go with every group version name those that are served.
        if !name.ends_with(".DeleteOptions") && !name.ends_with(".WatchEvent") {
            let key = "x-kubernetes-group-version-kind";
            if mine.get(key) != their.get(key) {
                differences.push(format!(
                    "{name} {key}: {:?}, not {:?}",
                    mine.get(key),
                    their.get(key)
                ));
            }
        }
        let empty = Map::new();
        let properties = |of: &Value| of.get("properties").and_then(Value::as_object).cloned();
        let (mine, their) = (
            properties(mine).unwrap_or_default(),
            properties(their).unwrap_or(empty),
        );
        let names: BTreeSet<&String> = mine.keys().chain(their.keys()).collect();
        for field in names {
            compared += 1;
            let (Some(my), Some(their)) = (mine.get(field), their.get(field)) else {
                differences.push(format!("{name}.{field} is on one side only"));
                continue;
            };
            for key in facts {
                // The published document has no enumerations in lists; the server's has.
                let mine = my.get(key).map(|my| match key {
                    "items" => without_enum(my),
                    _ => my.clone(),
                });
                if mine.as_ref() != their.get(key) {
                    differences.push(format!(
                        "{name}.{field} {key}: {:?}, not {:?}",
                        my.get(key),
                        their.get(key)
                    ));
                }
            }
        }
    }
    assert!(compared > 2000, "only {compared} fields compared");
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences.join("\n")
    );
}

/// Collects the differences between two values, by path. Descriptions come from the
/// same source on both sides and are passed over.
fn differences(place: &str, ours: &Value, theirs: &Value, out: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(mine), Value::Object(their)) => {
            let keys: BTreeSet<&String> = mine.keys().chain(their.keys()).collect();
            for key in keys {
                if key == "description" && !place.ends_with("/properties") {
                    continue;
                }
                let place = format!("{place}/{key}");
                match (mine.get(key), their.get(key)) {
                    (Some(a), Some(b)) => differences(&place, a, b, out),
                    (Some(a), None) => out.push(format!("{place}: {a} is ours alone")),
                    (None, b) => out.push(format!("{place}: {} is missing", json!(b))),
                }
            }
        }
        (Value::Array(mine), Value::Array(their)) => {
            let sorted = |items: &[Value]| {
                let mut items: Vec<String> = items.iter().map(ToString::to_string).collect();
                items.sort_unstable();
                items
            };
            if mine.iter().chain(their).all(|v| !v.is_object()) || mine.len() != their.len() {
                if sorted(mine) != sorted(their) {
                    out.push(format!("{place}: {ours}, not {theirs}"));
                }
                return;
            }
            let by_name = |items: &[Value]| {
                let mut items = items.to_vec();
                items.sort_by_key(|v| v["name"].to_string());
                items
            };
            for (i, (a, b)) in by_name(mine).iter().zip(&by_name(their)).enumerate() {
                differences(&format!("{place}/{i}"), a, b, out);
            }
        }
        _ if ours == theirs => {}
        _ => out.push(format!("{place}: {ours}, not {theirs}")),
    }
}

/// Upstream's OpenAPI v3 documents of the group versions that are served,
/// where a checkout of Kubernetes is at hand: they publish defaults, too.
#[test]
fn version_3_documents_are_upstreams() {
    let Some(root) = std::env::var_os("RKUBE_KUBERNETES_SOURCE") else {
        rkube_testing::not_applicable("RKUBE_KUBERNETES_SOURCE is not set");
        return;
    };
    let folder = std::path::Path::new(&root).join("api/openapi-spec/v3");
    let mut served: BTreeSet<(String, String)> = BTreeSet::new();
    for row in all() {
        served.insert((row.group.to_string(), row.version.to_string()));
    }
    let mut found = Vec::new();
    let mut documents = 0;
    for (group, version) in served {
        let name = if group.is_empty() {
            format!("api__{version}_openapi.json")
        } else {
            format!("apis__{group}__{version}_openapi.json")
        };
        let bytes = std::fs::read(folder.join(&name)).unwrap();
        let theirs: Value = serde_json::from_slice(&bytes).unwrap();
        let ours = v3_document(&group, &version, &all(), &[]);
        let schemas = |of: &Value| of["components"]["schemas"].clone();
        differences(&name, &schemas(&ours), &schemas(&theirs), &mut found);
        differences(&name, &ours["paths"], &theirs["paths"], &mut found);
        documents += 1;
    }
    assert!(documents > 20, "{documents}");
    found.retain(|text| !is_known(text));
    found.sort();
    assert!(
        found.is_empty(),
        "{} differences:\n{}",
        found.len(),
        found.join("\n")
    );
}

/// Differences that are meant, each with its reason.
fn is_known(difference: &str) -> bool {
    // The text of this field is not in our source, and without one the
    // reference needs no `allOf` around it.
    difference.contains("meta.v1.WatchEvent/properties/object/")
}

/// Every reference in a document leads somewhere.
fn check_references(document: &Value, value: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                let pointer = reference.trim_start_matches('#');
                assert!(
                    document.pointer(pointer).is_some(),
                    "{reference} leads nowhere"
                );
            }
            map.values().for_each(|v| check_references(document, v));
        }
        Value::Array(items) => items.iter().for_each(|v| check_references(document, v)),
        _ => {}
    }
}

#[test]
fn documents_are_closed() {
    let mut groups: BTreeMap<(String, String), ()> = BTreeMap::new();
    for row in all() {
        groups.insert((row.group.to_string(), row.version.to_string()), ());
    }
    for (group, version) in groups.keys() {
        let document = v3_document(group, version, &all(), &[]);
        check_references(&document, &document);
        assert!(
            !document["components"]["schemas"]
                .as_object()
                .unwrap()
                .is_empty()
        );
    }
    let document = v2_document(&all(), &[]);
    check_references(&document, &document);
}

#[test]
fn version_3_says_what_kubectl_reads() {
    let document = v3_document("apps", "v1", &all(), &[]);
    let schemas = &document["components"]["schemas"];
    assert_eq!(
        schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]["x-kubernetes-patch-merge-key"],
        "name"
    );
    let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(
        deployment["x-kubernetes-group-version-kind"],
        json!([{"group": "apps", "version": "v1", "kind": "Deployment"}])
    );
    let spec = &deployment["properties"]["spec"];
    assert_eq!(
        spec["allOf"],
        json!([{"$ref": "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"}])
    );
    assert_eq!(spec["default"], json!({}));
    assert!(spec["description"].as_str().is_some_and(|d| !d.is_empty()));
    assert_eq!(
        schemas["io.k8s.api.core.v1.ContainerPort"]["properties"]["protocol"]["default"],
        "TCP"
    );
    let patch =
        &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    let names: Vec<&str> = patch["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["dryRun", "fieldManager", "fieldValidation", "force"]
    );
    assert_eq!(
        v3_index([("", "v1"), ("apps", "v1")], &|path| path.len().to_string()),
        json!({"paths": {
            "api/v1": {"serverRelativeURL": "/openapi/v3/api/v1?hash=6"},
            "apis/apps/v1": {"serverRelativeURL": "/openapi/v3/apis/apps/v1?hash=12"},
        }})
    );
}

#[test]
fn custom_resources_are_in() {
    let mut resource = registry::find("apps", "v1", "deployments").unwrap().clone();
    resource.group = "stable.example.com".into();
    resource.plural = "crontabs".into();
    resource.kind = "CronTab".into();
    resource.list_kind = "CronTabList".into();
    resource.definition = "".into();
    resource.subresources[1].kind = resource.gvk();
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
        "cron": {"type": "string", "nullable": true, "default": "x"}}}}});
    let custom = [Custom {
        resource: &resource,
        schema: &schema,
    }];
    let v3 = v3_document("stable.example.com", "v1", &all(), &custom);
    check_references(&v3, &v3);
    let definition = &v3["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(
        definition["properties"]["spec"],
        schema["properties"]["spec"]
    );
    assert!(definition["properties"]["metadata"].is_object());
    assert_eq!(
        v3["paths"]["/apis/stable.example.com/v1/namespaces/{namespace}/crontabs"]["get"]["operationId"],
        "listStableExampleComV1NamespacedCronTab"
    );
    let v2 = v2_document(&all(), &custom);
    check_references(&v2, &v2);
    assert_eq!(
        v2["definitions"]["com.example.stable.v1.CronTab"]["properties"]["spec"]["properties"],
        json!({"port": {"x-kubernetes-int-or-string": true}, "cron": {"default": "x"}})
    );
}
