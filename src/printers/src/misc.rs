//! Rows of the smaller groups.

use jiff::Timestamp;
use rkube_strategy::Object;
use rkube_strategy::tree::{at, flag, has, int, list, text};
use serde_json::Value;

use crate::cells::{age, count, name, or_none, text_or};
use crate::types::{AGE, Column, NAME, Printer, boolean, integer, string, wide};

const BINDING_COLUMNS: &[Column] = &[
    NAME,
    string("Role"),
    AGE,
    wide("Users"),
    wide("Groups"),
    wide("ServiceAccounts"),
];

const WEBHOOK_CONFIGURATION_COLUMNS: &[Column] = &[NAME, integer("Webhooks"), AGE];

const POLICY_BINDING_COLUMNS: &[Column] = &[NAME, string("PolicyName"), string("ParamRef"), AGE];

/// Printer for kinds without a specific one, such as custom resources without columns.
pub(crate) const GENERIC: Printer = Printer {
    group: "",
    kind: "",
    columns: &[NAME, AGE],
    cells: generic,
};

const CREATED_COLUMNS: &[Column] = &[
    NAME,
    Column {
        name: "Created At",
        kind: "date",
        format: "",
        priority: 0,
    },
];

/// Printers of the smaller groups.
pub(crate) static PRINTERS: &[Printer] = &[
    Printer {
        group: "",
        kind: "LimitRange",
        columns: CREATED_COLUMNS,
        cells: created,
    },
    Printer {
        group: "rbac.authorization.k8s.io",
        kind: "Role",
        columns: CREATED_COLUMNS,
        cells: created,
    },
    Printer {
        group: "rbac.authorization.k8s.io",
        kind: "ClusterRole",
        columns: CREATED_COLUMNS,
        cells: created,
    },
    Printer {
        group: "storage.k8s.io",
        kind: "CSIStorageCapacity",
        columns: CREATED_COLUMNS,
        cells: created,
    },
    Printer {
        group: "apiextensions.k8s.io",
        kind: "CustomResourceDefinition",
        columns: CREATED_COLUMNS,
        cells: created,
    },
    Printer {
        group: "rbac.authorization.k8s.io",
        kind: "RoleBinding",
        columns: BINDING_COLUMNS,
        cells: binding,
    },
    Printer {
        group: "rbac.authorization.k8s.io",
        kind: "ClusterRoleBinding",
        columns: BINDING_COLUMNS,
        cells: binding,
    },
    Printer {
        group: "storage.k8s.io",
        kind: "StorageClass",
        columns: &[
            NAME,
            string("Provisioner"),
            string("ReclaimPolicy"),
            string("VolumeBindingMode"),
            string("AllowVolumeExpansion"),
            AGE,
        ],
        cells: storage_class,
    },
    Printer {
        group: "storage.k8s.io",
        kind: "VolumeAttributesClass",
        columns: &[NAME, string("DriverName"), AGE],
        cells: volume_attributes_class,
    },
    Printer {
        group: "storage.k8s.io",
        kind: "VolumeAttachment",
        columns: &[
            NAME,
            string("Attacher"),
            string("PV"),
            string("Node"),
            boolean("Attached"),
            AGE,
        ],
        cells: volume_attachment,
    },
    Printer {
        group: "storage.k8s.io",
        kind: "CSIDriver",
        columns: &[
            NAME,
            boolean("AttachRequired"),
            boolean("PodInfoOnMount"),
            boolean("StorageCapacity"),
            string("TokenRequests"),
            boolean("RequiresRepublish"),
            string("Modes"),
            AGE,
        ],
        cells: csi_driver,
    },
    Printer {
        group: "storage.k8s.io",
        kind: "CSINode",
        columns: &[NAME, integer("Drivers"), AGE],
        cells: csi_node,
    },
    Printer {
        group: "coordination.k8s.io",
        kind: "Lease",
        columns: &[NAME, string("Holder"), AGE],
        cells: lease,
    },
    Printer {
        group: "certificates.k8s.io",
        kind: "CertificateSigningRequest",
        columns: &[
            NAME,
            AGE,
            string("SignerName"),
            string("Requestor"),
            string("RequestedDuration"),
            string("Condition"),
        ],
        cells: signing_request,
    },
    Printer {
        group: "scheduling.k8s.io",
        kind: "PriorityClass",
        columns: &[
            NAME,
            integer("Value"),
            boolean("Global-Default"),
            AGE,
            string("PreemptionPolicy"),
        ],
        cells: priority_class,
    },
    Printer {
        group: "node.k8s.io",
        kind: "RuntimeClass",
        columns: &[NAME, string("Handler"), AGE],
        cells: runtime_class,
    },
    Printer {
        group: "admissionregistration.k8s.io",
        kind: "MutatingWebhookConfiguration",
        columns: WEBHOOK_CONFIGURATION_COLUMNS,
        cells: webhook_configuration,
    },
    Printer {
        group: "admissionregistration.k8s.io",
        kind: "ValidatingWebhookConfiguration",
        columns: WEBHOOK_CONFIGURATION_COLUMNS,
        cells: webhook_configuration,
    },
    Printer {
        group: "admissionregistration.k8s.io",
        kind: "ValidatingAdmissionPolicy",
        columns: &[NAME, integer("Validations"), string("ParamKind"), AGE],
        cells: validating_admission_policy,
    },
    Printer {
        group: "admissionregistration.k8s.io",
        kind: "MutatingAdmissionPolicy",
        columns: &[NAME, integer("Mutations"), string("ParamKind"), AGE],
        cells: mutating_admission_policy,
    },
    Printer {
        group: "admissionregistration.k8s.io",
        kind: "ValidatingAdmissionPolicyBinding",
        columns: POLICY_BINDING_COLUMNS,
        cells: policy_binding,
    },
    Printer {
        group: "admissionregistration.k8s.io",
        kind: "MutatingAdmissionPolicyBinding",
        columns: POLICY_BINDING_COLUMNS,
        cells: policy_binding,
    },
    Printer {
        group: "flowcontrol.apiserver.k8s.io",
        kind: "FlowSchema",
        columns: &[
            NAME,
            string("PriorityLevel"),
            integer("MatchingPrecedence"),
            string("DistinguisherMethod"),
            AGE,
            string("MissingPL"),
        ],
        cells: flow_schema,
    },
    Printer {
        group: "flowcontrol.apiserver.k8s.io",
        kind: "PriorityLevelConfiguration",
        columns: &[
            NAME,
            string("Type"),
            string("NominalConcurrencyShares"),
            string("Queues"),
            string("HandSize"),
            string("QueueLengthLimit"),
            AGE,
        ],
        cells: priority_level,
    },
    Printer {
        group: "apiregistration.k8s.io",
        kind: "APIService",
        columns: &[NAME, string("Service"), string("Available"), AGE],
        cells: api_service,
    },
    Printer {
        group: "resource.k8s.io",
        kind: "ResourceClaim",
        columns: &[NAME, string("State"), AGE],
        cells: resource_claim,
    },
    Printer {
        group: "resource.k8s.io",
        kind: "ResourceSlice",
        columns: &[NAME, string("Node"), string("Driver"), string("Pool"), AGE],
        cells: resource_slice,
    },
];

fn generic(o: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(o), age(o, now)]
}

fn created(o: &Object, _: Timestamp) -> Vec<Value> {
    vec![name(o), text(o, "metadata.creationTimestamp").into()]
}

fn volume_attributes_class(o: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(o), text(o, "driverName").into(), age(o, now)]
}

fn volume_attachment(o: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        name(o),
        text(o, "spec.attacher").into(),
        text(o, "spec.source.persistentVolumeName").into(),
        text(o, "spec.nodeName").into(),
        flag(o, "status.attached").into(),
        age(o, now),
    ]
}

fn csi_node(o: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(o), count(o, "spec.drivers"), age(o, now)]
}

fn lease(o: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(o), text(o, "spec.holderIdentity").into(), age(o, now)]
}

fn priority_class(o: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        name(o),
        int(o, "value").unwrap_or(0).into(),
        flag(o, "globalDefault").into(),
        age(o, now),
        text(o, "preemptionPolicy").into(),
    ]
}

fn runtime_class(o: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(o), text(o, "handler").into(), age(o, now)]
}

fn webhook_configuration(o: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(o), count(o, "webhooks"), age(o, now)]
}

fn validating_admission_policy(o: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        name(o),
        count(o, "spec.validations"),
        parameter_kind(o),
        age(o, now),
    ]
}

fn mutating_admission_policy(o: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        name(o),
        count(o, "spec.mutations"),
        parameter_kind(o),
        age(o, now),
    ]
}

fn policy_binding(o: &Object, now: Timestamp) -> Vec<Value> {
    let reference = at(o, "spec.paramRef");
    let shown = match (text(reference, "namespace"), text(reference, "name")) {
        _ if reference.is_null() => "<unset>".to_owned(),
        (namespace, "") => text_or(namespace, "*").to_owned() + "/*",
        ("", name) => format!("*/{name}"),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    vec![
        name(o),
        text(o, "spec.policyName").into(),
        shown.into(),
        age(o, now),
    ]
}

fn resource_claim(o: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(o), claim_state(o).into(), age(o, now)]
}

fn resource_slice(o: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        name(o),
        text_or(text(o, "spec.nodeName"), "<unset>").into(),
        text(o, "spec.driver").into(),
        text(o, "spec.pool.name").into(),
        age(o, now),
    ]
}

fn binding(o: &Object, now: Timestamp) -> Vec<Value> {
    let of = |kind: &str| -> Value {
        let names: Vec<String> = list(o, "subjects")
            .iter()
            .filter(|s| text(s, "kind") == kind)
            .map(|s| match kind {
                "ServiceAccount" => format!("{}/{}", text(s, "namespace"), text(s, "name")),
                _ => text(s, "name").to_owned(),
            })
            .collect();
        names.join(", ").into()
    };
    vec![
        name(o),
        format!("{}/{}", text(o, "roleRef.kind"), text(o, "roleRef.name")).into(),
        age(o, now),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}

fn storage_class(o: &Object, now: Timestamp) -> Vec<Value> {
    let is_default = [
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
    ]
    .iter()
    .any(|key| {
        at(o, "metadata.annotations")
            .get(*key)
            .is_some_and(|v| v == "true")
    });
    let mut shown = text(o, "metadata.name").to_owned();
    if is_default {
        shown.push_str(" (default)");
    }
    vec![
        shown.into(),
        text(o, "provisioner").into(),
        text_or(text(o, "reclaimPolicy"), "Delete").into(),
        text_or(text(o, "volumeBindingMode"), "Immediate").into(),
        flag(o, "allowVolumeExpansion").into(),
        age(o, now),
    ]
}

fn csi_driver(o: &Object, now: Timestamp) -> Vec<Value> {
    let attach = !has(o, "spec.attachRequired") || flag(o, "spec.attachRequired");
    let tokens: Vec<&str> = list(o, "spec.tokenRequests")
        .iter()
        .map(|t| text(t, "audience"))
        .collect();
    let modes: Vec<&str> = list(o, "spec.volumeLifecycleModes")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    vec![
        name(o),
        attach.into(),
        flag(o, "spec.podInfoOnMount").into(),
        flag(o, "spec.storageCapacity").into(),
        text_or(&tokens.join(","), "<unset>").into(),
        flag(o, "spec.requiresRepublish").into(),
        or_none(&modes.join(",")),
        age(o, now),
    ]
}

fn signing_request(o: &Object, now: Timestamp) -> Vec<Value> {
    let has_condition = |kind: &str| {
        list(o, "status.conditions")
            .iter()
            .any(|c| text(c, "type") == kind)
    };
    let mut state = if has_condition("Denied") {
        "Denied"
    } else if has_condition("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has_condition("Failed") {
        state.push_str(",Failed");
    }
    if !text(o, "status.certificate").is_empty() {
        state.push_str(",Issued");
    }
    let duration =
        int(o, "spec.expirationSeconds").map_or("<none>".to_owned(), rkube_api::duration::human);
    vec![
        name(o),
        age(o, now),
        or_none(text(o, "spec.signerName")),
        text(o, "spec.username").into(),
        duration.into(),
        state.into(),
    ]
}

fn parameter_kind(o: &Object) -> Value {
    let kind = at(o, "spec.paramKind");
    if kind.is_null() {
        "<unset>".into()
    } else {
        format!("{}/{}", text(kind, "apiVersion"), text(kind, "kind")).into()
    }
}

fn flow_schema(o: &Object, now: Timestamp) -> Vec<Value> {
    let dangling = list(o, "status.conditions")
        .iter()
        .find(|c| text(c, "type") == "Dangling")
        .map_or("?", |c| text(c, "status"));
    vec![
        name(o),
        or_none(text(o, "spec.priorityLevelConfiguration.name")),
        int(o, "spec.matchingPrecedence").unwrap_or(0).into(),
        or_none(text(o, "spec.distinguisherMethod.type")),
        age(o, now),
        dangling.into(),
    ]
}

fn priority_level(o: &Object, now: Timestamp) -> Vec<Value> {
    let number = |path: &str| -> Value { int(o, path).map_or_else(|| "<none>".into(), Into::into) };
    let shares = if has(o, "spec.exempt") {
        number("spec.exempt.nominalConcurrencyShares")
    } else {
        number("spec.limited.nominalConcurrencyShares")
    };
    vec![
        name(o),
        text(o, "spec.type").into(),
        shares,
        number("spec.limited.limitResponse.queuing.queues"),
        number("spec.limited.limitResponse.queuing.handSize"),
        number("spec.limited.limitResponse.queuing.queueLengthLimit"),
        age(o, now),
    ]
}

fn api_service(o: &Object, now: Timestamp) -> Vec<Value> {
    let service = if has(o, "spec.service") {
        format!(
            "{}/{}",
            text(o, "spec.service.namespace"),
            text(o, "spec.service.name")
        )
    } else {
        "Local".to_owned()
    };
    let available = list(o, "status.conditions")
        .iter()
        .find(|c| text(c, "type") == "Available");
    let shown = match available {
        Some(c) if text(c, "status") == "True" => "True".to_owned(),
        Some(c) => format!("{} ({})", text(c, "status"), text(c, "reason")),
        None => "Unknown".to_owned(),
    };
    vec![name(o), service.into(), shown.into(), age(o, now)]
}

fn claim_state(o: &Object) -> String {
    let mut states = Vec::new();
    if has(o, "metadata.deletionTimestamp") {
        states.push("deleted");
    }
    if has(o, "status.allocation") {
        states.push("allocated");
        if !list(o, "status.reservedFor").is_empty() {
            states.push("reserved");
        }
    } else {
        states.push("pending");
    }
    states.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn storage_classes() {
        let s = json!({"metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "p"});
        assert_eq!(
            storage_class(&s, NOW)[..4],
            [
                json!("standard (default)"),
                json!("p"),
                json!("Delete"),
                json!("Immediate")
            ]
        );
    }

    #[test]
    fn signing_requests() {
        let c = json!({"status": {"conditions": [{"type": "Approved"}], "certificate": "x"}, "spec": {"expirationSeconds": 3600}});
        assert_eq!(
            signing_request(&c, NOW)[4..],
            [json!("60m"), json!("Approved,Issued")]
        );
    }
}
