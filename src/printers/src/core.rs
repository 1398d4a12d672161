//! Rows of the core group.

use jiff::Timestamp;
use rkube_strategy::tree::{at, entries, flag, has, int, list, text};
use rkube_strategy::{Object, format_labels};
use serde_json::Value;

use crate::cells::{
    access_modes, age, containers, count, is_true, name, or_none, or_unset, quantity, since,
    text_or,
};
use crate::network;
use crate::types::{AGE, Column, NAME, Printer, integer, string, wide};

const EVENT_COLUMNS: &[Column] = &[
    string("Last Seen"),
    string("Type"),
    string("Reason"),
    string("Object"),
    wide("Subobject"),
    wide("Source"),
    string("Message"),
    wide("First Seen"),
    wide("Count"),
    Column {
        priority: 1,
        ..NAME
    },
];

/// Printers of the core group.
pub(crate) static PRINTERS: &[Printer] = &[
    Printer {
        group: "",
        kind: "Node",
        columns: &[
            NAME,
            string("Status"),
            string("Roles"),
            AGE,
            string("Version"),
            wide("Internal-IP"),
            wide("External-IP"),
            wide("OS-Image"),
            wide("Kernel-Version"),
            wide("Container-Runtime"),
        ],
        cells: node,
    },
    Printer {
        group: "",
        kind: "Namespace",
        columns: &[NAME, string("Status"), AGE],
        cells: namespace,
    },
    Printer {
        group: "",
        kind: "Service",
        columns: &[
            NAME,
            string("Type"),
            string("Cluster-IP"),
            string("External-IP"),
            string("Port(s)"),
            AGE,
            wide("Selector"),
        ],
        cells: network::service,
    },
    Printer {
        group: "",
        kind: "Endpoints",
        columns: &[NAME, string("Endpoints"), AGE],
        cells: network::endpoints,
    },
    Printer {
        group: "",
        kind: "Secret",
        columns: &[NAME, string("Type"), string("Data"), AGE],
        cells: secret,
    },
    Printer {
        group: "",
        kind: "ConfigMap",
        columns: &[NAME, string("Data"), AGE],
        cells: config_map,
    },
    Printer {
        group: "",
        kind: "ServiceAccount",
        columns: &[NAME, string("Secrets"), AGE],
        cells: service_account,
    },
    Printer {
        group: "",
        kind: "PersistentVolume",
        columns: &[
            NAME,
            string("Capacity"),
            string("Access Modes"),
            string("Reclaim Policy"),
            string("Status"),
            string("Claim"),
            string("StorageClass"),
            string("VolumeAttributesClass"),
            string("Reason"),
            AGE,
            wide("VolumeMode"),
        ],
        cells: volume,
    },
    Printer {
        group: "",
        kind: "PersistentVolumeClaim",
        columns: &[
            NAME,
            string("Status"),
            string("Volume"),
            string("Capacity"),
            string("Access Modes"),
            string("StorageClass"),
            string("VolumeAttributesClass"),
            AGE,
            wide("VolumeMode"),
        ],
        cells: claim,
    },
    Printer {
        group: "",
        kind: "Event",
        columns: EVENT_COLUMNS,
        cells: event,
    },
    Printer {
        group: "events.k8s.io",
        kind: "Event",
        columns: EVENT_COLUMNS,
        cells: event,
    },
    Printer {
        group: "",
        kind: "ReplicationController",
        columns: &[
            NAME,
            integer("Desired"),
            integer("Current"),
            integer("Ready"),
            AGE,
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ],
        cells: replication_controller,
    },
    Printer {
        group: "",
        kind: "ResourceQuota",
        columns: &[NAME, string("Request"), string("Limit"), AGE],
        cells: resource_quota,
    },
    Printer {
        group: "",
        kind: "ComponentStatus",
        columns: &[NAME, string("Status"), string("Message"), string("Error")],
        cells: component_status,
    },
    Printer {
        group: "",
        kind: "PodTemplate",
        columns: &[
            NAME,
            string("Containers"),
            string("Images"),
            string("Pod Labels"),
        ],
        cells: pod_template,
    },
];

fn namespace(o: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(o), text(o, "status.phase").into(), age(o, now)]
}

fn secret(o: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        name(o),
        text(o, "type").into(),
        count(o, "data"),
        age(o, now),
    ]
}

fn config_map(o: &Object, now: Timestamp) -> Vec<Value> {
    let entries = entries(o, "data").count() + entries(o, "binaryData").count();
    vec![name(o), entries.into(), age(o, now)]
}

fn service_account(o: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(o), count(o, "secrets"), age(o, now)]
}

fn replication_controller(o: &Object, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(at(o, "spec.template.spec"));
    vec![
        name(o),
        int(o, "spec.replicas").unwrap_or(0).into(),
        int(o, "status.replicas").unwrap_or(0).into(),
        int(o, "status.readyReplicas").unwrap_or(0).into(),
        age(o, now),
        names,
        images,
        format_labels(o, "spec.selector").into(),
    ]
}

fn pod_template(o: &Object, _: Timestamp) -> Vec<Value> {
    let [names, images] = containers(at(o, "template.spec"));
    vec![
        name(o),
        names,
        images,
        format_labels(o, "template.metadata.labels").into(),
    ]
}

/// Returns the node's roles, sorted and joined by commas, from the labels
/// `node-role.kubernetes.io/<role>` and `kubernetes.io/role`.
fn roles(node: &Object) -> String {
    let mut roles: Vec<&str> = entries(node, "metadata.labels")
        .filter_map(
            |(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
                Some(role) => Some(role),
                None if key == "kubernetes.io/role" => value.as_str(),
                None => None,
            },
        )
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    text_or(&roles.join(","), "<none>").to_owned()
}

fn node(o: &Object, now: Timestamp) -> Vec<Value> {
    let ready = list(o, "status.conditions")
        .iter()
        .find(|c| text(c, "type") == "Ready");
    let mut status = match ready {
        Some(_) if is_true(o, "Ready") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if flag(o, "spec.unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    let address = |kind: &str| -> Value {
        let found = list(o, "status.addresses")
            .iter()
            .find(|a| text(a, "type") == kind)
            .map_or("", |a| text(a, "address"));
        or_none(found)
    };
    let info =
        |key: &str| -> Value { text_or(text(at(o, "status.nodeInfo"), key), "<unknown>").into() };
    vec![
        name(o),
        status.into(),
        roles(o).into(),
        age(o, now),
        text(o, "status.nodeInfo.kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn storage(o: &Object, path: &str) -> String {
    match at(o, path).get("storage") {
        Some(value) => quantity(value),
        None => String::new(),
    }
}

/// Returns the storage class; the beta annotation takes precedence over the field.
fn storage_class(o: &Object) -> Value {
    let annotated = at(o, "metadata.annotations")
        .get("volume.beta.kubernetes.io/storage-class")
        .and_then(Value::as_str);
    match annotated {
        Some(class) => class.into(),
        None => text(o, "spec.storageClassName").into(),
    }
}

fn phase(o: &Object) -> Value {
    if has(o, "metadata.deletionTimestamp") {
        "Terminating".into()
    } else {
        text(o, "status.phase").into()
    }
}

fn volume(o: &Object, now: Timestamp) -> Vec<Value> {
    let claim = if has(o, "spec.claimRef") {
        format!(
            "{}/{}",
            text(o, "spec.claimRef.namespace"),
            text(o, "spec.claimRef.name")
        )
    } else {
        String::new()
    };
    let capacity = text_or(&storage(o, "spec.capacity"), "0").to_owned();
    vec![
        name(o),
        capacity.into(),
        access_modes(at(o, "spec.accessModes")).into(),
        text(o, "spec.persistentVolumeReclaimPolicy").into(),
        phase(o),
        claim.into(),
        storage_class(o),
        or_unset(at(o, "spec.volumeAttributesClassName")),
        text(o, "status.reason").into(),
        age(o, now),
        or_unset(at(o, "spec.volumeMode")),
    ]
}

fn claim(o: &Object, now: Timestamp) -> Vec<Value> {
    let bound = !text(o, "spec.volumeName").is_empty();
    let (capacity, modes) = if bound {
        (
            text_or(&storage(o, "status.capacity"), "0").to_owned(),
            access_modes(at(o, "status.accessModes")),
        )
    } else {
        (String::new(), String::new())
    };
    vec![
        name(o),
        phase(o),
        text(o, "spec.volumeName").into(),
        capacity.into(),
        modes.into(),
        storage_class(o),
        or_unset(at(o, "spec.volumeAttributesClassName")),
        age(o, now),
        or_unset(at(o, "spec.volumeMode")),
    ]
}

/// Returns the first non-empty field of several; the two event APIs use different names.
fn first_text<'a>(o: &'a Object, paths: &[&str]) -> &'a str {
    paths
        .iter()
        .map(|p| text(o, p))
        .find(|s| !s.is_empty())
        .unwrap_or_default()
}

fn event(o: &Object, now: Timestamp) -> Vec<Value> {
    let time = |paths: &[&str]| since(first_text(o, paths), now);
    let first_seen = time(&["firstTimestamp", "deprecatedFirstTimestamp", "eventTime"]);
    let mut last_seen = match first_text(o, &["lastTimestamp", "deprecatedLastTimestamp"]) {
        "" => first_seen.clone(),
        t => since(t, now),
    };
    let mut count = int(o, "count")
        .or(int(o, "deprecatedCount"))
        .unwrap_or(0)
        .max(1);
    if has(o, "series") {
        last_seen = time(&["series.lastObservedTime"]);
        count = int(o, "series.count").unwrap_or(0);
    }
    let about = if has(o, "regarding") {
        at(o, "regarding")
    } else {
        at(o, "involvedObject")
    };
    let kind = text(about, "kind").to_lowercase();
    let target = match text(about, "name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let component = first_text(
        o,
        &[
            "source.component",
            "deprecatedSource.component",
            "reportingComponent",
            "reportingController",
        ],
    );
    let host = first_text(
        o,
        &["source.host", "deprecatedSource.host", "reportingInstance"],
    );
    let source = if host.is_empty() {
        component.to_owned()
    } else {
        format!("{component}, {host}")
    };
    vec![
        last_seen.into(),
        text(o, "type").into(),
        text(o, "reason").into(),
        target.into(),
        text(about, "fieldPath").into(),
        source.into(),
        first_text(o, &["message", "note"]).trim().into(),
        first_seen.into(),
        count.into(),
        name(o),
    ]
}

fn resource_quota(o: &Object, now: Timestamp) -> Vec<Value> {
    let mut requests = Vec::new();
    let mut limits = Vec::new();
    for (resource, hard) in entries(o, "status.hard") {
        let used = quantity(&at(o, "status.used")[resource.as_str()]);
        let hard = quantity(hard);
        let line = format!("{resource}: {used}/{hard}");
        if resource.starts_with("limits") {
            limits.push(line);
        } else {
            requests.push(line);
        }
    }
    vec![
        name(o),
        requests.join(", ").into(),
        limits.join(", ").into(),
        age(o, now),
    ]
}

fn component_status(o: &Object, _now: Timestamp) -> Vec<Value> {
    let healthy = list(o, "conditions")
        .iter()
        .find(|c| text(c, "type") == "Healthy");
    let field = |key: &str| healthy.map_or("", |c| text(c, key));
    let status = match field("status") {
        "True" => "Healthy",
        "False" => "Unhealthy",
        _ => "Unknown",
    };
    vec![
        name(o),
        status.into(),
        field("message").into(),
        field("error").into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn now() -> Timestamp {
        "2026-01-01T00:00:10Z".parse().unwrap()
    }

    #[test]
    fn nodes() {
        let n = json!({"metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": ""}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.36.0"},
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}});
        let cells = node(&n, now());
        assert_eq!(
            cells[..6],
            [
                json!("n"),
                json!("Ready,SchedulingDisabled"),
                json!("control-plane,worker"),
                json!("10s"),
                json!("v1.36.0"),
                json!("10.0.0.1")
            ]
        );
        assert_eq!(cells[6], "<none>");
        assert_eq!(cells[7], "<unknown>");
    }

    #[test]
    fn events() {
        let e = json!({"metadata": {"name": "e"}, "lastTimestamp": "2026-01-01T00:00:05Z", "type": "Normal", "reason": "Pulled",
            "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "f"}, "source": {"component": "kubelet", "host": "n"}, "message": " m\n"});
        assert_eq!(
            event(&e, now()),
            vec![
                json!("5s"),
                json!("Normal"),
                json!("Pulled"),
                json!("pod/p"),
                json!("f"),
                json!("kubelet, n"),
                json!("m"),
                json!("<unknown>"),
                json!(1),
                json!("e")
            ]
        );
    }

    #[test]
    fn claims() {
        let c = json!({"metadata": {"name": "c"}, "spec": {"volumeName": "v", "storageClassName": "s", "volumeMode": "Filesystem"},
            "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}});
        assert_eq!(
            claim(&c, now())[1..7],
            [
                json!("Bound"),
                json!("v"),
                json!("1Gi"),
                json!("RWO"),
                json!("s"),
                json!("<unset>")
            ]
        );
    }
}
