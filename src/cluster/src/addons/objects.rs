//! Reads objects from manifests and determines the order in which they are created and removed.

use std::collections::{BTreeMap, BTreeSet};

use kube::core::GroupVersionKind;
use rkube_failure::{Failure, Kind, Source};
use serde_json::Value;

use crate::yaml;

/// Metadata fields that the server sets, present in manifests that were read from a cluster.
const SERVERS_FIELDS: &[&str] = &[
    "creationTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// A manifest's text.
#[derive(Debug)]
pub struct Text {
    /// The file name or URL.
    pub name: String,
    /// The content.
    pub text: String,
}

/// A kind without its version, in the notation `Kind.group`, or `Kind` for the core group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKind {
    /// The kind.
    pub kind: String,
    /// The API group; empty for the core group.
    pub group: String,
}

impl GroupKind {
    /// Creates a value from its parts.
    pub fn new(kind: &str, group: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            group: group.to_owned(),
        }
    }

    /// Returns the kind without its version.
    pub fn of(gvk: &GroupVersionKind) -> Self {
        Self::new(&gvk.kind, &gvk.group)
    }

    /// Parses the notation `Kind.group`.
    pub fn parse(text: &str) -> Self {
        let (kind, group) = text.split_once('.').unwrap_or((text, ""));
        Self::new(kind, group)
    }

    fn is(&self, kind: &str, group: &str) -> bool {
        self.kind == kind && self.group == group
    }
}

impl std::fmt::Display for GroupKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.kind)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}

/// An object of a manifest.
#[derive(Clone, Debug)]
pub struct Object {
    /// Group, version and kind.
    pub gvk: GroupVersionKind,
    /// The object's name.
    pub name: String,
    /// The namespace in the manifest, until `enable` resolves it; then `None` if cluster-scoped.
    pub namespace: Option<String>,
    /// The complete object.
    pub content: Value,
}

impl Object {
    /// Returns the kind without its version.
    pub fn group_kind(&self) -> GroupKind {
        GroupKind::of(&self.gvk)
    }

    /// Whether the object is a namespace.
    pub fn is_namespace(&self) -> bool {
        self.group_kind().is("Namespace", "")
    }

    /// Whether the object is a custom resource definition.
    pub fn is_definition(&self) -> bool {
        self.group_kind()
            .is("CustomResourceDefinition", "apiextensions.k8s.io")
    }

    /// Returns the object as it is applied: with its namespace, and without what the server sets.
    pub fn prepared(&self) -> Value {
        let mut content = self.content.clone();
        let Some(metadata) = content.get_mut("metadata").and_then(Value::as_object_mut) else {
            return content;
        };
        metadata.retain(|field, _| !SERVERS_FIELDS.contains(&field.as_str()));
        match &self.namespace {
            Some(namespace) => metadata.insert("namespace".into(), namespace.clone().into()),
            None => metadata.remove("namespace"),
        };
        content
    }

    /// Returns the kind that a definition defines, and whether it is namespaced.
    pub fn defines(&self) -> Option<(GroupKind, bool)> {
        let text = |pointer: &str| self.content.pointer(pointer)?.as_str();
        self.is_definition().then_some(())?;
        let kind = GroupKind::new(text("/spec/names/kind")?, text("/spec/group")?);
        Some((kind, text("/spec/scope")? == "Namespaced"))
    }
}

/// Reads all objects in the order of the manifests. Lists are flattened.
pub fn read(texts: &[Text]) -> Result<Vec<Object>, Failure> {
    let mut objects = Vec::new();
    for text in texts {
        for (i, document) in yaml::documents(&text.text).enumerate() {
            let wrong = |why: String| {
                Failure::new(
                    Source::Program,
                    Kind::Config,
                    format!("document {} of {} is wrong: {why}", i + 1, text.name),
                )
            };
            let value = document.map_err(|e| wrong(e.to_string()))?;
            // A document with comments only.
            if !value.is_null() {
                collect(value, &mut objects).map_err(wrong)?;
            }
        }
    }
    let mut seen = BTreeSet::new();
    for object in &objects {
        let namespace = object.namespace.clone().unwrap_or_default();
        if !seen.insert((object.group_kind(), namespace, object.name.clone())) {
            return Err(Failure::new(
                Source::Program,
                Kind::Config,
                format!(
                    "the manifests hold {} '{}' twice",
                    object.gvk.kind, object.name
                ),
            ));
        }
    }
    if objects.is_empty() {
        return Err(Failure::new(
            Source::Program,
            Kind::Config,
            "the manifests hold no objects",
        ));
    }
    Ok(objects)
}

/// Adds an object, or the items of a list.
fn collect(value: Value, objects: &mut Vec<Object>) -> Result<(), String> {
    let text = |pointer: &str| {
        let text = value.pointer(pointer).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let (version, kind) = (text("/apiVersion"), text("/kind"));
    if version.is_empty() || kind.is_empty() {
        return Err("an object has an apiVersion and a kind".into());
    }
    if kind == "List" && version == "v1" {
        let Some(items) = value.get("items").and_then(Value::as_array) else {
            return Err("a List has items".into());
        };
        return items.iter().try_for_each(|i| collect(i.clone(), objects));
    }
    let name = text("/metadata/name");
    if name.is_empty() {
        return Err(format!("{kind} has no metadata.name"));
    }
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    let namespace = Some(text("/metadata/namespace")).filter(|n| !n.is_empty());
    objects.push(Object {
        gvk: GroupVersionKind::gvk(group, version, &kind),
        name,
        namespace,
        content: value,
    });
    Ok(())
}

/// The groups in which an addon's objects are applied.
#[derive(Debug, Default)]
pub struct Steps {
    /// Namespaces, which are applied first.
    pub namespaces: Vec<Object>,
    /// Custom resource definitions.
    pub definitions: Vec<Object>,
    /// All other objects.
    pub rest: Vec<Object>,
}

/// Groups objects so that dependencies are first; keeps the order of the manifests otherwise.
pub fn in_order(objects: Vec<Object>) -> Steps {
    let mut steps = Steps::default();
    for object in objects {
        if object.is_namespace() {
            steps.namespaces.push(object);
        } else if object.is_definition() {
            steps.definitions.push(object);
        } else {
            steps.rest.push(object);
        }
    }
    steps
}

/// Returns the kinds that definitions define, and whether they are namespaced.
pub fn defined(objects: &[Object]) -> BTreeMap<GroupKind, bool> {
    objects.iter().filter_map(Object::defines).collect()
}

/// Returns the step in which objects of a kind are removed. The objects of a step are removed
/// together, and the next step waits until they are gone.
///
/// Custom resources and then their definitions are removed first, while the controllers that
/// finalize and serve them still run. Webhooks and API services are removed before their servers.
/// `custom` is set for kinds that are not built in.
pub fn removal_step(kind: &GroupKind, custom: bool) -> u8 {
    match (kind.kind.as_str(), kind.group.as_str()) {
        _ if custom => 0,
        ("CustomResourceDefinition", "apiextensions.k8s.io") => 1,
        (_, "admissionregistration.k8s.io" | "apiregistration.k8s.io") => 2,
        ("Namespace", "") => 4,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Vec<Text> {
        vec![Text {
            name: "x.yaml".into(),
            text: text.into(),
        }]
    }

    const SET: &str = "
# A comment of its own.
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: tools}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Secret, metadata: {name: s}}
- {apiVersion: v1, kind: Namespace, metadata: {name: tools}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.com}
spec: {group: example.com, scope: Namespaced, names: {kind: Thing}}
---
apiVersion: example.com/v1
kind: Thing
metadata: {name: one}
";

    #[test]
    fn objects_are_read_and_put_in_order() {
        let objects = read(&text(SET)).unwrap();
        let names = |objects: &[Object]| {
            let names: Vec<String> = objects.iter().map(|o| o.name.clone()).collect();
            names.join(" ")
        };
        assert_eq!(names(&objects), "web s tools things.example.com one");
        assert_eq!(objects[0].group_kind().to_string(), "Deployment.apps");
        assert_eq!(objects[0].namespace.as_deref(), Some("tools"));
        assert_eq!(objects[1].group_kind(), GroupKind::parse("Secret"));
        let defined = defined(&objects);
        assert!(defined[&GroupKind::parse("Thing.example.com")]);
        let steps = in_order(objects);
        assert_eq!(names(&steps.namespaces), "tools");
        assert_eq!(names(&steps.definitions), "things.example.com");
        assert_eq!(names(&steps.rest), "web s one");
    }

    #[test]
    fn scalars_are_read_as_kubectl_reads_them() {
        let volumes = "
      - name: a
        configMap: {name: a, defaultMode: 0644}
      - name: b
        projected:
          defaultMode: 288
          sources:
          - secret: {name: '0644', items: [{key: '0755', path: x, mode: 0400}]}
";
        let deployment = format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: a}}\nspec:\n  template:\n    spec:\n      volumes:{volumes}"
        );
        let objects = read(&text(&deployment)).unwrap();
        let volumes = objects[0].content.pointer("/spec/template/spec/volumes");
        let expected = serde_json::json!([
            {"name": "a", "configMap": {"name": "a", "defaultMode": 420}},
            {"name": "b", "projected": {"defaultMode": 288, "sources": [
                {"secret": {"name": "0644", "items": [{"key": "0755", "path": "x", "mode": 256}]}},
            ]}},
        ]);
        assert_eq!(volumes, Some(&expected));
        let pod = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {hostNetwork: no, containers: [{name: 'no', tty: yes, env: [{name: A, value: 'yes'}]}]}}";
        let objects = read(&text(pod)).unwrap();
        let expected = serde_json::json!({"hostNetwork": false, "containers": [
            {"name": "no", "tty": true, "env": [{"name": "A", "value": "yes"}]},
        ]});
        assert_eq!(objects[0].content["spec"], expected);
    }

    #[test]
    fn errors_name_the_number_of_the_object() {
        let cases = [
            (
                "a: 1\n---\nb: [",
                "document 1 of x.yaml is wrong: an object has",
            ),
            (
                "---\napiVersion: v1\nkind: Secret\nmetadata: {name: a}\n---\nb: [",
                "document 2 of",
            ),
            (
                "apiVersion: v1\nkind: Secret",
                "Secret has no metadata.name",
            ),
            ("apiVersion: v1\nkind: List", "a List has items"),
            ("apiVersion: v1\nkind: Secret\nkind: X", "duplicate"),
            ("# nothing", "no objects"),
            (
                "{apiVersion: v1, kind: Secret, metadata: {name: a}}\n---\n{apiVersion: v1, kind: Secret, metadata: {name: a}}",
                "Secret 'a' twice",
            ),
        ];
        for (wrong, part) in cases {
            let failure = read(&text(wrong)).unwrap_err();
            assert!(failure.message.contains(part), "{wrong}: {failure}");
            assert_eq!(failure.exit_code(), 18);
        }
    }

    #[test]
    fn custom_objects_are_removed_before_their_definitions() {
        let step = |kind: &str, custom| removal_step(&GroupKind::parse(kind), custom);
        let order = [
            step("Thing.example.com", true),
            step("CustomResourceDefinition.apiextensions.k8s.io", false),
            step(
                "ValidatingWebhookConfiguration.admissionregistration.k8s.io",
                false,
            ),
            step("Deployment.apps", false),
            step("Namespace", false),
        ];
        assert!(order.is_sorted_by(|a, b| a < b), "{order:?}");
        assert_eq!(step("APIService.apiregistration.k8s.io", false), order[2]);
        assert_eq!(step("Service", false), order[3]);
    }
}
