//! The requests of a generated case: what an object may go through.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

use crate::generate::Case;
use crate::server::{Server, named};
use crate::step::{Script, Step};

/// The modes of `fieldValidation`.
const MODES: [&str; 3] = ["Strict", "Warn", "Ignore"];
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const PATCH: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const JSON: &str = "application/json";

/// The steps that follow a creation. Each case has one of these, by its number.
type Course = fn(&Life) -> Vec<Step>;

const COURSES: &[Course] = &[
    rewritten, updated, patched, merged, applied, parts, shown, watched, deleted,
];

/// An object of a case.
struct Life {
    path: String,
    object: Value,
    case: Case,
}

/// Returns the requests of a case: dry runs in each mode of field validation, a creation, a read,
/// and one of several courses of life.
pub fn script(server: &Server, case: &Case) -> Script {
    let name = format!("d{}", case.number);
    let collection = server.collection(case);
    let object = named(server, case, &name);
    let mut steps = Vec::new();
    for mode in MODES {
        let query = format!("?dryRun=All&fieldValidation={mode}");
        steps.push(Step::new(format!("POST {collection}{query}")).with(JSON, object.clone()));
    }
    let mut create = Step::new(format!("POST {collection}")).with(JSON, object.clone());
    create.must = true;
    create.save = Some("first".into());
    let path = format!("{collection}/{name}");
    steps.push(create);
    steps.push(Step::new(format!("GET {path}")));
    let life = Life {
        path: path.clone(),
        object,
        case: case.clone(),
    };
    // A number that differs for the cases of one kind, which follow each other in large steps.
    let mixed = case.number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let course = COURSES[mixed as usize % COURSES.len()];
    steps.extend(course(&life));
    Script {
        name: format!("case {}", case.number),
        vars: BTreeMap::new(),
        made: vec![path],
        steps,
    }
}

impl Life {
    fn step(&self, method: &str, query: &str) -> Step {
        Step::new(format!("{method} {}{query}", self.path))
    }
}

fn changed(changes: &[(&str, Value)]) -> Option<BTreeMap<String, Value>> {
    let changes = changes.iter();
    Some(changes.map(|(p, v)| ((*p).to_owned(), v.clone())).collect())
}

/// The same object again, as apply and as merge patch.
fn rewritten(life: &Life) -> Vec<Step> {
    let apply = "?fieldManager=differential&force=true";
    vec![
        life.step("PATCH", apply).with(APPLY, life.object.clone()),
        life.step("PATCH", "").with(MERGE, life.object.clone()),
    ]
}

/// Updates with the version, without and with an old one.
fn updated(life: &Life) -> Vec<Step> {
    let with = |changes: &[(&str, Value)]| Step {
        last: changed(changes),
        ..life.step("PUT", "")
    };
    vec![
        with(&[]),
        with(&[("/metadata/labels/updated", "1".into())]),
        with(&[("/metadata/resourceVersion", "@first@".into())]),
        with(&[
            ("/metadata/resourceVersion", Value::Null),
            ("/metadata/labels/updated", "2".into()),
        ]),
        life.step("PUT", "?fieldValidation=Warn")
            .with(JSON, life.object.clone()),
    ]
}

/// JSON patches: of metadata, of what is not there, and one that is tested.
fn patched(life: &Life) -> Vec<Step> {
    let patch = |operations: Value| life.step("PATCH", "").with(PATCH, operations);
    let mut steps = vec![
        patch(json!([{"op": "add", "path": "/metadata/labels", "value": {"patched": "1"}}])),
        patch(json!([{"op": "test", "path": "/metadata/labels/patched", "value": "2"}])),
        patch(json!([{"op": "remove", "path": "/metadata/annotations/none"}])),
    ];
    // Each member of the object, once removed.
    for key in members(&life.object) {
        steps.push(patch(json!([{"op": "remove", "path": format!("/{key}")}])));
    }
    steps
}

/// Strategic merge patches with the object's own lists.
fn merged(life: &Life) -> Vec<Step> {
    let patch = |body: Value| life.step("PATCH", "").with(STRATEGIC, body);
    let mut body = life.object.clone();
    body["metadata"]["labels"] = json!({"merged": "1"});
    let mut steps = vec![patch(body)];
    for key in members(&life.object) {
        steps.push(patch(json!({&key: {"$patch": "replace"}})));
        steps.push(patch(json!({&key: null})));
    }
    steps
}

/// Applies of two managers.
fn applied(life: &Life) -> Vec<Step> {
    let apply = |query: &str, body: Value| life.step("PATCH", query).with(APPLY, body);
    let mut small = Map::new();
    for key in ["apiVersion", "kind"] {
        small.insert(key.into(), life.object[key].clone());
    }
    small.insert("metadata".into(), json!({"labels": {"one": "1"}}));
    let small = Value::Object(small);
    let mut other = small.clone();
    other["metadata"]["labels"]["one"] = "2".into();
    vec![
        apply("?fieldManager=one", small.clone()),
        apply("?fieldManager=two", other.clone()),
        apply("?fieldManager=two&force=true", other),
        apply("?fieldManager=one", life.object.clone()),
        apply("?fieldManager=one&force=true", life.object.clone()),
        apply("?fieldManager=one&force=true", small),
    ]
}

/// The status and the scale.
fn parts(life: &Life) -> Vec<Step> {
    let mut steps = Vec::new();
    let resource = life.case.resource;
    if resource.subresource("status").is_some() {
        steps.extend([
            life.step("GET", "/status"),
            Step {
                last: changed(&[("/metadata/labels/status", "1".into())]),
                ..life.step("PUT", "/status")
            },
            life.step("PATCH", "/status")
                .with(MERGE, life.object.clone()),
            life.step("PATCH", "/status?fieldManager=status")
                .with(APPLY, life.object.clone()),
        ]);
    }
    if resource.subresource("scale").is_some() {
        let three = json!({"spec": {"replicas": 3}});
        steps.extend([
            life.step("GET", "/scale"),
            life.step("PATCH", "/scale").with(MERGE, three),
            life.step("GET", ""),
        ]);
    }
    steps.push(life.step("GET", "/nothing"));
    steps
}

/// Tables, metadata and YAML of the object.
fn shown(life: &Life) -> Vec<Step> {
    let metadata = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let mut yaml = life.step("GET", "").accepting("application/yaml");
    // Its versions and times differ, and its form is that of JSON.
    yaml.ignore.push(String::new());
    vec![
        life.step("GET", "").accepting(table),
        life.step("GET", "?includeObject=Object").accepting(table),
        life.step("GET", "").accepting(metadata),
        yaml,
    ]
}

/// The events of the object's life.
fn watched(life: &Life) -> Vec<Step> {
    let (collection, name) = life.path.rsplit_once('/').unwrap_or_default();
    let label = json!({"metadata": {"labels": {"watched": "1"}, "finalizers": null}});
    let now = json!({"gracePeriodSeconds": 0});
    let watch = format!(
        "GET {collection}?watch=1&fieldSelector=metadata.name={name}&resourceVersion=@first@&timeoutSeconds=2"
    );
    let mut watch = Step::new(watch);
    watch.until = Some("DELETED".into());
    let metadata = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    vec![
        life.step("PATCH", "").with(MERGE, label),
        life.step("DELETE", "").with(JSON, now),
        watch.clone(),
        watch.accepting(metadata),
    ]
}

/// Deletions with preconditions and each propagation policy.
fn deleted(life: &Life) -> Vec<Step> {
    let delete = |options: Value| life.step("DELETE", "").with(JSON, options);
    let policy = ["Orphan", "Background", "Foreground"][life.case.number as usize % 3];
    vec![
        delete(json!({"preconditions": {"uid": "other"}})),
        delete(json!({"preconditions": {"resourceVersion": "1"}})),
        delete(json!({"dryRun": ["All"]})),
        delete(json!({"propagationPolicy": policy})),
        life.step("GET", ""),
        life.step("DELETE", ""),
    ]
}

/// Returns the members of an object that are its own.
fn members(object: &Value) -> Vec<String> {
    let fields = object.as_object().into_iter().flatten();
    let names = fields.map(|(name, _)| name.clone());
    names
        .filter(|n| !matches!(n.as_str(), "apiVersion" | "kind" | "metadata"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Generator;

    #[test]
    fn members_are_the_objects_own() {
        let object =
            json!({"apiVersion": "v1", "kind": "K", "metadata": {}, "spec": {}, "data": 1});
        assert_eq!(members(&object), ["data", "spec"]);
    }

    #[test]
    fn a_kind_goes_through_every_course() {
        let generator = Generator::new(1, "v1/ConfigMap").unwrap();
        let mut seen = [false; 9];
        for number in 0..200u64 {
            let case = generator.case(number);
            let mixed = case.number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            seen[mixed as usize % COURSES.len()] = true;
        }
        assert_eq!(seen, [true; 9]);
    }
}
