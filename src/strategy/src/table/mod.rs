//! Server-side printing: the columns and cells of a `Table`, as upstream's
//! printers make them. Every column is always filled; the client leaves those
//! of priority 1 out unless `-o wide` is asked for.

mod core;
mod misc;
mod network;
mod pod;
mod workloads;

use serde_json::{Value, json};

use crate::Object;
use crate::tree::{at, list, text};

/// One column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Shown in capitals by the client.
    pub name: &'static str,
    /// OpenAPI type of the cells.
    pub kind: &'static str,
    /// OpenAPI format; `name` marks the column that names the object.
    pub format: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
}

impl Column {
    /// The `TableColumnDefinition` of `meta.k8s.io/v1`.
    pub fn to_value(self) -> Value {
        json!({
            "name": self.name,
            "type": self.kind,
            "format": self.format,
            "description": "",
            "priority": self.priority,
        })
    }
}

const fn column(name: &'static str, kind: &'static str, priority: i32) -> Column {
    Column {
        name,
        kind,
        format: "",
        priority,
    }
}

const fn string(name: &'static str) -> Column {
    column(name, "string", 0)
}

const fn integer(name: &'static str) -> Column {
    column(name, "integer", 0)
}

const fn boolean(name: &'static str) -> Column {
    column(name, "boolean", 0)
}

const fn wide(name: &'static str) -> Column {
    column(name, "string", 1)
}

const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    priority: 0,
};
const AGE: Column = string("Age");

/// A kind's columns and how its cells are made.
type Printer = (
    &'static [Column],
    fn(&Object, jiff::Timestamp) -> Vec<Value>,
);

/// Kinds of unknown groups: what a custom resource without columns shows.
const GENERIC: Printer = (&[NAME, AGE], |obj, now| vec![name(obj), age(obj, now)]);

/// Built-in kinds that no printer knows.
const CREATED: Printer = (
    &[
        NAME,
        Column {
            name: "Created At",
            kind: "date",
            format: "",
            priority: 0,
        },
    ],
    |obj, _| vec![name(obj), text(obj, "metadata.creationTimestamp").into()],
);

fn printer(group: &str, kind: &str) -> Printer {
    match (group, kind) {
        ("", "Pod") => pod::PRINTER,
        ("", "LimitRange")
        | ("rbac.authorization.k8s.io", "Role" | "ClusterRole")
        | ("apiextensions.k8s.io", "CustomResourceDefinition") => CREATED,
        ("", _) | ("events.k8s.io", _) => core::printer(kind).unwrap_or(GENERIC),
        ("apps" | "batch" | "autoscaling" | "policy", _) => {
            workloads::printer(kind).unwrap_or(GENERIC)
        }
        ("networking.k8s.io" | "discovery.k8s.io", _) => network::printer(kind).unwrap_or(GENERIC),
        _ => misc::printer(group, kind).unwrap_or(GENERIC),
    }
}

/// The columns of a kind.
pub fn columns(group: &str, kind: &str) -> &'static [Column] {
    printer(group, kind).0
}

/// The cells of one object, as many as its kind has columns.
pub fn cells(group: &str, kind: &str, obj: &Object, now: jiff::Timestamp) -> Vec<Value> {
    (printer(group, kind).1)(obj, now)
}

/// The conditions of an object's row: a pod that has ended says so, and
/// `kubectl get --watch` may hide it.
pub fn row_conditions(group: &str, kind: &str, obj: &Object) -> Vec<Value> {
    if (group, kind) != ("", "Pod") {
        return Vec::new();
    }
    match text(obj, "status.phase") {
        "Succeeded" => vec![
            json!({"type": "Completed", "status": "True", "reason": "Succeeded",
            "message": "The pod has completed successfully."}),
        ],
        "Failed" => vec![
            json!({"type": "Completed", "status": "True", "reason": "Failed",
            "message": "The pod failed."}),
        ],
        _ => Vec::new(),
    }
}

fn name(obj: &Object) -> Value {
    text(obj, "metadata.name").into()
}

/// How long ago the object was made.
fn age(obj: &Object, now: jiff::Timestamp) -> Value {
    since(text(obj, "metadata.creationTimestamp"), now).into()
}

/// How long ago a time was, `<unknown>` when unset.
fn since(time: &str, now: jiff::Timestamp) -> String {
    match rkube_api::meta::parse_time(time) {
        Some(then) => rkube_api::duration::human(now.as_second() - then.as_second()),
        None => "<unknown>".to_owned(),
    }
}

fn or<'a>(value: &'a str, instead: &'a str) -> &'a str {
    if value.is_empty() { instead } else { value }
}

fn or_none(value: &str) -> Value {
    or(value, "<none>").into()
}

/// A scalar as text, `<unset>` when there is none.
fn or_unset(value: &Value) -> Value {
    match value {
        Value::Null => "<unset>".into(),
        Value::String(s) => s.as_str().into(),
        other => other.to_string().into(),
    }
}

/// Names and images of the containers of a pod spec.
fn containers(spec: &Value) -> [Value; 2] {
    let join = |key: &str| -> Value {
        let all: Vec<&str> = list(spec, "containers")
            .iter()
            .map(|c| text(c, key))
            .collect();
        all.join(",").into()
    };
    [join("name"), join("image")]
}

/// The first few of a list, and how many more there are.
fn few(all: &[String], max: usize, none: &str) -> String {
    if all.is_empty() {
        return none.to_owned();
    }
    let shown = all[..all.len().min(max)].join(",");
    if all.len() > max {
        format!("{shown} + {} more...", all.len() - max)
    } else {
        shown
    }
}

/// `RWO,ROX,RWX,RWOP`, in this order.
fn access_modes(modes: &Value) -> String {
    let modes = modes.as_array().map_or(&[][..], Vec::as_slice);
    [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ]
    .iter()
    .filter(|(mode, _)| modes.iter().any(|m| m == mode))
    .map(|(_, short)| *short)
    .collect::<Vec<_>>()
    .join(",")
}

/// Is there a condition of that type that is true?
fn is_true(obj: &Object, condition: &str) -> bool {
    list(obj, "status.conditions")
        .iter()
        .any(|c| text(c, "type") == condition && text(c, "status") == "True")
}

/// The entries a map or list at a path has.
fn count(obj: &Object, path: &str) -> Value {
    match at(obj, path) {
        Value::Object(map) => map.len().into(),
        Value::Array(list) => list.len().into(),
        _ => 0.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_cells_as_columns() {
        let kinds = [
            ("", "Pod"),
            ("", "Service"),
            ("", "Node"),
            ("", "Namespace"),
            ("", "Secret"),
            ("", "ConfigMap"),
            ("", "ServiceAccount"),
            ("", "PersistentVolume"),
            ("", "PersistentVolumeClaim"),
            ("", "Event"),
            ("", "Endpoints"),
            ("", "ReplicationController"),
            ("", "ResourceQuota"),
            ("", "LimitRange"),
            ("", "ComponentStatus"),
            ("", "PodTemplate"),
            ("apps", "Deployment"),
            ("apps", "ReplicaSet"),
            ("apps", "StatefulSet"),
            ("apps", "DaemonSet"),
            ("apps", "ControllerRevision"),
            ("batch", "Job"),
            ("batch", "CronJob"),
            ("autoscaling", "HorizontalPodAutoscaler"),
            ("policy", "PodDisruptionBudget"),
            ("networking.k8s.io", "Ingress"),
            ("networking.k8s.io", "IngressClass"),
            ("networking.k8s.io", "NetworkPolicy"),
            ("networking.k8s.io", "ServiceCIDR"),
            ("networking.k8s.io", "IPAddress"),
            ("discovery.k8s.io", "EndpointSlice"),
            ("rbac.authorization.k8s.io", "RoleBinding"),
            ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
            ("storage.k8s.io", "StorageClass"),
            ("storage.k8s.io", "CSIDriver"),
            ("storage.k8s.io", "CSINode"),
            ("storage.k8s.io", "VolumeAttachment"),
            ("coordination.k8s.io", "Lease"),
            ("certificates.k8s.io", "CertificateSigningRequest"),
            ("scheduling.k8s.io", "PriorityClass"),
            ("node.k8s.io", "RuntimeClass"),
            (
                "admissionregistration.k8s.io",
                "MutatingWebhookConfiguration",
            ),
            ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"),
            (
                "admissionregistration.k8s.io",
                "ValidatingAdmissionPolicyBinding",
            ),
            ("flowcontrol.apiserver.k8s.io", "FlowSchema"),
            ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"),
            ("apiregistration.k8s.io", "APIService"),
            ("resource.k8s.io", "ResourceClaim"),
            ("resource.k8s.io", "ResourceSlice"),
            ("example.com", "Custom"),
        ];
        for (group, kind) in kinds {
            let cells = cells(group, kind, &json!({}), jiff::Timestamp::UNIX_EPOCH);
            assert_eq!(cells.len(), columns(group, kind).len(), "{group}/{kind}");
        }
    }

    #[test]
    fn lists_are_cut() {
        let all: Vec<String> = ["a", "b", "c", "d"]
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(few(&all, 3, "<none>"), "a,b,c + 1 more...");
        assert_eq!(few(&all[..2], 3, "<none>"), "a,b");
        assert_eq!(few(&[], 3, "<none>"), "<none>");
    }
}
