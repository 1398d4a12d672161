//! Who may have devices for administrators, and who may write which part of a resource claim's
//! status. Upstream checks this in the strategy of the kind, so rejections look like validation.

use std::collections::BTreeSet;

use rkube_api::gvk::GroupKind;
use rkube_api::status::{FieldError, Status};
use rkube_api::{Object, meta};
use rkube_auth::authz::{Attributes, Authorizer};
use rkube_auth::tree;
use serde_json::Value;

use crate::types::{Operation, Request};
use rkube_auth::ObjectReader as Reader;

const GROUP: &str = "resource.k8s.io";
/// Label of namespaces whose claims may ask for access for administrators.
const ADMIN_LABEL: &str = "resource.kubernetes.io/admin-access";
/// The key in a user's extra values with the node on which its pod runs.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// The verbs of a write. Which of them the client used makes no difference here.
const VERBS: [&str; 2] = ["update", "patch"];

pub(super) fn validate(
    reader: &dyn Reader,
    authorizer: &Authorizer,
    request: &Request<'_>,
) -> Result<(), Status> {
    let kind = match (request.group, request.resource) {
        (GROUP, "resourceclaims") => "ResourceClaim",
        (GROUP, "resourceclaimtemplates") => "ResourceClaimTemplate",
        _ => return Ok(()),
    };
    let (new, old) = (request.new_object(), request.old_object());
    let errors = match (request.operation, request.subresource) {
        (Operation::Create, "") => admin_requests(reader, request, kind),
        (Operation::Update, "status") => {
            let mut errors = admin_results(reader, request);
            errors.extend(binding(authorizer, request));
            if !tree_at(new, &["status", "allocation"]).is_null() {
                errors.extend(device_status(
                    authorizer,
                    request,
                    &new["status"],
                    &old["status"],
                ));
            }
            errors
        }
        _ => return Ok(()),
    };
    if errors.is_empty() {
        return Ok(());
    }
    let kind = GroupKind::new(GROUP, kind);
    Err(Status::invalid(&kind, meta::name(new), errors))
}

fn tree_at<'v>(object: &'v Object, path: &[&str]) -> &'v Value {
    tree::at(object, path).unwrap_or(&Value::Null)
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Returns the error for devices for administrators outside the namespaces that allow them.
fn admin(reader: &dyn Reader, namespace: &str, path: String) -> Option<FieldError> {
    let labels = reader.get("", "namespaces", "", namespace);
    let allowed = labels.is_some_and(|namespace| {
        tree::text(&namespace, &["metadata", "labels", ADMIN_LABEL]) == "true"
    });
    (!allowed).then(|| {
        let why = format!(
            "admin access to devices requires the `{ADMIN_LABEL}: true` label on the containing namespace"
        );
        FieldError::forbidden(path, why)
    })
}

fn admin_requests(reader: &dyn Reader, request: &Request<'_>, kind: &str) -> Vec<FieldError> {
    let spec: &[&str] = match kind {
        "ResourceClaim" => &["spec", "devices", "requests"],
        _ => &["spec", "spec", "devices", "requests"],
    };
    let requests = items(tree_at(request.new_object(), spec));
    let asks = |request: &Value| request["exactly"]["adminAccess"] == Value::Bool(true);
    let Some(i) = requests.iter().position(asks) else {
        return Vec::new();
    };
    let path = format!("spec.devices.requests[{i}].adminAccess");
    admin(reader, request.namespace, path).into_iter().collect()
}

fn admin_results(reader: &dyn Reader, request: &Request<'_>) -> Vec<FieldError> {
    let granted = |claim: &Object| {
        let results = tree_at(claim, &["status", "allocation", "devices", "results"]);
        let mut results = items(results).iter();
        results.position(|result| result["adminAccess"] == Value::Bool(true))
    };
    if granted(request.old_object()).is_some() {
        return Vec::new();
    }
    let Some(i) = granted(request.new_object()) else {
        return Vec::new();
    };
    let path = format!("status.allocation.devices.results[{i}].adminAccess");
    admin(reader, request.namespace, path).into_iter().collect()
}

/// Returns why a user may not do any of the verbs, `None` if it may.
fn denied(
    authorizer: &Authorizer,
    request: &Request<'_>,
    verbs: &[String],
    (subresource, namespace, name): (&str, &str, &str),
) -> Option<String> {
    let mut first = None;
    for verb in verbs {
        let attributes = Attributes {
            api_version: request.version,
            subresource,
            namespace,
            name,
            ..Attributes::resource(request.user, verb, GROUP, "resourceclaims")
        };
        match authorizer.require(&attributes) {
            Ok(()) => return None,
            Err(status) => first = first.or(Some(status.message)),
        }
    }
    first
}

/// Returns the error for a user that may not allocate or reserve claims.
fn binding(authorizer: &Authorizer, request: &Request<'_>) -> Option<FieldError> {
    let (new, old) = (request.new_object(), request.old_object());
    let same = |field: &str| {
        let empty = |value: &Value| value.is_null() || items(value).is_empty() && value.is_array();
        let (new, old) = (&new["status"][field], &old["status"][field]);
        new == old || empty(new) && empty(old)
    };
    if same("allocation") && same("reservedFor") {
        return None;
    }
    let verbs = VERBS.map(str::to_owned);
    let why = denied(authorizer, request, &verbs, ("binding", "", ""))?;
    Some(FieldError::forbidden(
        "status.allocation",
        format!(
            "changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", verb=\"update\" permission: {why}"
        ),
    ))
}

/// Returns the drivers whose devices have another status.
fn changed_drivers(new: &Value, old: &Value) -> BTreeSet<String> {
    let key =
        |device: &Value| ["driver", "pool", "device", "shareID"].map(|field| device[field].clone());
    let (new, old) = (items(&new["devices"]), items(&old["devices"]));
    let differs = |device: &&Value, others: &[Value]| {
        !others
            .iter()
            .any(|other| key(other) == key(device) && other == *device)
    };
    let changed = new.iter().filter(|device| differs(device, old));
    let gone = old.iter().filter(|device| differs(device, new));
    changed
        .chain(gone)
        .map(|device| device["driver"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// Returns the node to which the allocation of a claim is bound.
fn allocated_node(status: &Value) -> Option<&str> {
    let [term] = items(&status["allocation"]["nodeSelector"]["nodeSelectorTerms"]) else {
        return None;
    };
    let ([], [field]) = (
        items(&term["matchExpressions"]),
        items(&term["matchFields"]),
    ) else {
        return None;
    };
    match (
        field["key"].as_str()?,
        field["operator"].as_str()?,
        items(&field["values"]),
    ) {
        ("metadata.name", "In", [name]) => name.as_str(),
        _ => None,
    }
}

/// Returns the errors for a user that may not report the state of a driver's devices. The service
/// account of a pod on the node of the devices needs less.
fn device_status(
    authorizer: &Authorizer,
    request: &Request<'_>,
    new: &Value,
    old: &Value,
) -> Vec<FieldError> {
    let user = request.user;
    let own = user.extra.get(NODE_NAME).map(Vec::as_slice);
    let is_account = user.name.starts_with("system:serviceaccount:");
    let on_node = is_account
        && match (own, allocated_node(new)) {
            (Some([own]), Some(node)) => own == node,
            _ => false,
        };
    let prefixes: &[&str] = match on_node {
        true => &["associated-node:", "arbitrary-node:"],
        false => &["arbitrary-node:"],
    };
    let verbs: Vec<String> = VERBS
        .iter()
        .flat_map(|verb| prefixes.iter().map(move |prefix| format!("{prefix}{verb}")))
        .collect();
    let named: Vec<String> = prefixes
        .iter()
        .map(|prefix| format!("{prefix}update"))
        .collect();
    changed_drivers(new, old)
        .iter()
        .filter_map(|driver| {
            let target = ("driver", request.namespace, driver.as_str());
            let why = denied(authorizer, request, &verbs, target)?;
            Some(FieldError::forbidden(
                "status.devices",
                format!(
                    "changing status.devices requires resource=\"resourceclaims/driver\", verb=\"[{}]\" permission: {why}",
                    named.join(" ")
                ),
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn drivers_whose_devices_changed() {
        let device = |driver: &str, data: i64| json!({"driver": driver, "pool": "p", "device": "d", "data": data});
        let status = |devices: Value| json!({ "devices": devices });
        for (new, old, want) in [
            (json!([]), json!([]), vec![]),
            (json!([device("a", 1)]), json!([device("a", 1)]), vec![]),
            (json!([device("a", 2)]), json!([device("a", 1)]), vec!["a"]),
            (
                json!([device("b", 1)]),
                json!([device("a", 1)]),
                vec!["a", "b"],
            ),
            (json!(null), json!([device("a", 1)]), vec!["a"]),
        ] {
            let found = changed_drivers(&status(new), &status(old));
            assert_eq!(found.into_iter().collect::<Vec<_>>(), want);
        }
    }

    #[test]
    fn nodes_of_allocations() {
        let selector =
            |term: Value| json!({"allocation": {"nodeSelector": {"nodeSelectorTerms": [term]}}});
        let field = json!({"key": "metadata.name", "operator": "In", "values": ["n"]});
        let local = selector(json!({ "matchFields": [field] }));
        assert_eq!(allocated_node(&local), Some("n"));
        let more = selector(json!({"matchFields": [field], "matchExpressions": [{"key": "k"}]}));
        assert_eq!(allocated_node(&more), None);
        assert_eq!(allocated_node(&json!({"allocation": {}})), None);
    }
}
