//! Rows of the smaller groups.

use serde_json::Value;

use super::{AGE, NAME, Printer, age, boolean, count, integer, name, or, or_none, string, wide};
use crate::Object;
use crate::tree::{at, flag, has, int, list, text};

pub(super) fn printer(group: &str, kind: &str) -> Option<Printer> {
    Some(match (group, kind) {
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => (
            const {
                &[
                    NAME,
                    string("Role"),
                    AGE,
                    wide("Users"),
                    wide("Groups"),
                    wide("ServiceAccounts"),
                ]
            },
            binding,
        ),
        ("storage.k8s.io", "StorageClass") => (
            const {
                &[
                    NAME,
                    string("Provisioner"),
                    string("ReclaimPolicy"),
                    string("VolumeBindingMode"),
                    string("AllowVolumeExpansion"),
                    AGE,
                ]
            },
            storage_class,
        ),
        ("storage.k8s.io", "VolumeAttributesClass") => {
            (const { &[NAME, string("DriverName"), AGE] }, |o, now| {
                vec![name(o), text(o, "driverName").into(), age(o, now)]
            })
        }
        ("storage.k8s.io", "VolumeAttachment") => (
            const {
                &[
                    NAME,
                    string("Attacher"),
                    string("PV"),
                    string("Node"),
                    boolean("Attached"),
                    AGE,
                ]
            },
            |o, now| {
                vec![
                    name(o),
                    text(o, "spec.attacher").into(),
                    text(o, "spec.source.persistentVolumeName").into(),
                    text(o, "spec.nodeName").into(),
                    flag(o, "status.attached").into(),
                    age(o, now),
                ]
            },
        ),
        ("storage.k8s.io", "CSIDriver") => (
            const {
                &[
                    NAME,
                    boolean("AttachRequired"),
                    boolean("PodInfoOnMount"),
                    boolean("StorageCapacity"),
                    string("TokenRequests"),
                    boolean("RequiresRepublish"),
                    string("Modes"),
                    AGE,
                ]
            },
            csi_driver,
        ),
        ("storage.k8s.io", "CSINode") => (const { &[NAME, integer("Drivers"), AGE] }, |o, now| {
            vec![name(o), count(o, "spec.drivers"), age(o, now)]
        }),
        ("storage.k8s.io", "CSIStorageCapacity") => (
            const { &[NAME, string("StorageClassName"), string("Capacity")] },
            |o, _| {
                let capacity = match at(o, "capacity") {
                    Value::Null => "<unset>".to_owned(),
                    value => crate::quantities::of(Some(value)).to_string(),
                };
                vec![name(o), text(o, "storageClassName").into(), capacity.into()]
            },
        ),
        ("coordination.k8s.io", "Lease") => (const { &[NAME, string("Holder"), AGE] }, |o, now| {
            vec![name(o), text(o, "spec.holderIdentity").into(), age(o, now)]
        }),
        ("certificates.k8s.io", "CertificateSigningRequest") => (
            const {
                &[
                    NAME,
                    AGE,
                    string("SignerName"),
                    string("Requestor"),
                    string("RequestedDuration"),
                    string("Condition"),
                ]
            },
            signing_request,
        ),
        ("scheduling.k8s.io", "PriorityClass") => (
            const {
                &[
                    NAME,
                    integer("Value"),
                    boolean("Global-Default"),
                    AGE,
                    string("PreemptionPolicy"),
                ]
            },
            |o, now| {
                vec![
                    name(o),
                    int(o, "value").unwrap_or(0).into(),
                    flag(o, "globalDefault").into(),
                    age(o, now),
                    text(o, "preemptionPolicy").into(),
                ]
            },
        ),
        ("node.k8s.io", "RuntimeClass") => (const { &[NAME, string("Handler"), AGE] }, |o, now| {
            vec![name(o), text(o, "handler").into(), age(o, now)]
        }),
        (
            "admissionregistration.k8s.io",
            "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration",
        ) => (const { &[NAME, integer("Webhooks"), AGE] }, |o, now| {
            vec![name(o), count(o, "webhooks"), age(o, now)]
        }),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => (
            const { &[NAME, integer("Validations"), string("ParamKind"), AGE] },
            |o, now| {
                vec![
                    name(o),
                    count(o, "spec.validations"),
                    parameter_kind(o),
                    age(o, now),
                ]
            },
        ),
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => (
            const { &[NAME, integer("Mutations"), string("ParamKind"), AGE] },
            |o, now| {
                vec![
                    name(o),
                    count(o, "spec.mutations"),
                    parameter_kind(o),
                    age(o, now),
                ]
            },
        ),
        (
            "admissionregistration.k8s.io",
            "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding",
        ) => (
            const { &[NAME, string("PolicyName"), string("ParamRef"), AGE] },
            |o, now| {
                let reference = at(o, "spec.paramRef");
                let shown = match (text(reference, "namespace"), text(reference, "name")) {
                    _ if reference.is_null() => "<unset>".to_owned(),
                    (namespace, "") => or(namespace, "*").to_owned() + "/*",
                    ("", name) => format!("*/{name}"),
                    (namespace, name) => format!("{namespace}/{name}"),
                };
                vec![
                    name(o),
                    text(o, "spec.policyName").into(),
                    shown.into(),
                    age(o, now),
                ]
            },
        ),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => (
            const {
                &[
                    NAME,
                    string("PriorityLevel"),
                    integer("MatchingPrecedence"),
                    string("DistinguisherMethod"),
                    AGE,
                    string("MissingPL"),
                ]
            },
            flow_schema,
        ),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => (
            const {
                &[
                    NAME,
                    string("Type"),
                    string("NominalConcurrencyShares"),
                    string("Queues"),
                    string("HandSize"),
                    string("QueueLengthLimit"),
                    AGE,
                ]
            },
            priority_level,
        ),
        ("apiregistration.k8s.io", "APIService") => (
            const { &[NAME, string("Service"), string("Available"), AGE] },
            api_service,
        ),
        ("resource.k8s.io", "ResourceClaim") => {
            (const { &[NAME, string("State"), AGE] }, |o, now| {
                vec![name(o), claim_state(o).into(), age(o, now)]
            })
        }
        ("resource.k8s.io", "ResourceSlice") => (
            const { &[NAME, string("Node"), string("Driver"), string("Pool"), AGE] },
            |o, now| {
                vec![
                    name(o),
                    or(text(o, "spec.nodeName"), "<unset>").into(),
                    text(o, "spec.driver").into(),
                    text(o, "spec.pool.name").into(),
                    age(o, now),
                ]
            },
        ),
        _ => return None,
    })
}

fn binding(o: &Object, now: jiff::Timestamp) -> Vec<Value> {
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

fn storage_class(o: &Object, now: jiff::Timestamp) -> Vec<Value> {
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
        or(text(o, "reclaimPolicy"), "Delete").into(),
        or(text(o, "volumeBindingMode"), "Immediate").into(),
        flag(o, "allowVolumeExpansion").into(),
        age(o, now),
    ]
}

fn csi_driver(o: &Object, now: jiff::Timestamp) -> Vec<Value> {
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
        or(&tokens.join(","), "<unset>").into(),
        flag(o, "spec.requiresRepublish").into(),
        or_none(&modes.join(",")),
        age(o, now),
    ]
}

fn signing_request(o: &Object, now: jiff::Timestamp) -> Vec<Value> {
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

fn flow_schema(o: &Object, now: jiff::Timestamp) -> Vec<Value> {
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

fn priority_level(o: &Object, now: jiff::Timestamp) -> Vec<Value> {
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

fn api_service(o: &Object, now: jiff::Timestamp) -> Vec<Value> {
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

    const NOW: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;

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
