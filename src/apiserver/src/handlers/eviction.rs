//! `pods/eviction`: pod deletion subject to disruption budgets.

use http::StatusCode;
use rkube_api::selector::LabelSelector;
use rkube_api::status::{Cause, Details, Status};
use rkube_api::{GroupResource, Object, meta};
use serde_json::{Value, json};

use super::delete::{check_preconditions, delete_object};
use super::error::HandlerError;
use super::posted::{admit, update_raw};
use crate::admission::attributes::SubresourceKind;
use crate::cache::Filter;
use crate::call::Call;
use crate::conditions::set_condition;
use crate::input::delete::DeleteOptions;
use crate::input::options::WriteOptions;
use crate::outcome::Outcome;
use crate::resources::Resource;
use crate::storage::RestStorage;

/// The kind of the posted object.
pub const EVICTION: SubresourceKind<'static> = SubresourceKind {
    group: "policy",
    version: "v1",
    kind: "Eviction",
    definition: "io.k8s.api.policy.v1.Eviction",
};

/// Deletes the pod unless a disruption budget forbids it.
pub async fn evict(
    storage: &RestStorage,
    call: &Call,
    resource: &Resource,
    options: &WriteOptions,
    mut eviction: Object,
) -> Result<Outcome, HandlerError> {
    let (namespace, name) = (&call.info.namespace, &call.info.name);
    if !meta::name(&eviction).is_empty() && meta::name(&eviction) != name {
        let why = "name in URL does not match name in Eviction object";
        return Err(Status::bad_request(why).into());
    }
    admit(storage, call, resource, EVICTION, options, &mut eviction).await?;
    let mut delete = eviction
        .get("deleteOptions")
        .cloned()
        .unwrap_or_else(|| json!({}));
    if options.dry_run {
        delete["dryRun"] = json!(["All"]);
    }
    let mut delete = DeleteOptions::from_object(delete)?;
    storage.backend.cache.consistent().await;
    let pod = resource
        .cache
        .get(namespace, name)
        .ok_or_else(|| Status::not_found(&resource.group_resource(), name))?
        .tree();
    let given = delete.revision.clone().filter(|r| !r.is_empty());
    let mut spared = None;
    if guarded_by_budget(&pod) {
        spared = charge_budget(storage, &pod, delete.dry_run).await?;
        if spared.is_some() && given.is_none() {
            // The budget let the pod go because it was not ready. Delete this revision only, in
            // case the pod becomes ready meanwhile.
            delete.revision = Some(meta::resource_version(&pod).to_owned());
        }
    }
    if !delete.dry_run {
        let marked = mark(storage, resource, namespace, name, &delete).await;
        let marked = marked.map_err(|status| match &spared {
            Some(budget) if status.code == 409 && given.is_none() => try_again(budget),
            _ => status,
        })?;
        if delete.revision.is_some() {
            delete.revision = Some(meta::resource_version(&marked).to_owned());
        }
    }
    delete_object(storage, call, resource, namespace, name, &delete).await?;
    Ok(Outcome::success(StatusCode::CREATED))
}

/// Sets the pod's condition `DisruptionTarget`, which controllers evaluate when the pod ends.
async fn mark(
    storage: &RestStorage,
    resource: &Resource,
    namespace: &str,
    name: &str,
    delete: &DeleteOptions,
) -> Result<Object, Status> {
    let make = |old: Option<&Object>| -> Result<Object, Status> {
        let old = old.ok_or_else(|| Status::not_found(&resource.group_resource(), name))?;
        check_preconditions(resource, old, delete)?;
        let mut pod = old.clone();
        let status = meta::child_map(meta::map_mut(&mut pod), "status");
        let conditions = status.entry("conditions").or_insert_with(|| json!([]));
        if !conditions.is_array() {
            return Err(Status::internal("the pod's conditions are no list"));
        }
        set_condition(
            &mut pod["status"],
            "DisruptionTarget",
            "True",
            "EvictionByEvictionAPI",
            "Eviction API: evicting",
        );
        Ok(pod)
    };
    update_raw(storage, resource, namespace, name, false, &make).await
}

/// Returns the 429 error for a pod that changed while its budget was evaluated.
fn try_again(budget: &str) -> Status {
    let detail = format!("The disruption budget {budget} is still being processed by the server.");
    refused(detail, 10)
}

/// Returns whether disruption budgets apply: not to pods that are finished, pending or being
/// deleted.
fn guarded_by_budget(pod: &Object) -> bool {
    !matches!(
        pod["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed" | "Pending")
    ) && meta::deletion_timestamp(pod).is_none()
}

/// Charges one disruption to the pod's budget, or returns the error if none is left. Returns the
/// budget's name if the budget lets the pod go because it is not ready.
async fn charge_budget(
    storage: &RestStorage,
    pod: &Object,
    dry_run: bool,
) -> Result<Option<String>, Status> {
    let Some(resource) = storage
        .backend
        .resources
        .find("policy", "v1", "poddisruptionbudgets")
    else {
        return Ok(None);
    };
    let filter = Filter::new(Some(meta::namespace(pod).to_owned()), None, None, None);
    let mut matching = Vec::new();
    for budget in resource.cache.list(&filter) {
        let budget = budget.tree();
        let selector = LabelSelector::from_value(&budget["spec"]["selector"])?;
        if selector.matches(meta::labels(pod)) {
            matching.push(budget);
        }
    }
    let budget = match matching.as_slice() {
        [] => return Ok(None),
        [budget] => budget.clone(),
        _ => {
            return Err(Status::new(
                500,
                "InternalError",
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
    };
    let ready = pod["status"]["conditions"].as_array().is_some_and(|c| {
        c.iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "True")
    });
    let name = meta::name(&budget).to_owned();
    let pod_name = meta::name(pod).to_owned();
    let number = |budget: &Object, field: &str| budget["status"][field].as_i64().unwrap_or(0);
    if !ready {
        let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
        let (healthy, desired) = (
            number(&budget, "currentHealthy"),
            number(&budget, "desiredHealthy"),
        );
        if always || healthy >= desired && desired > 0 {
            // Nothing is charged, so the budget remains unchanged.
            return Ok(Some(name));
        }
    }
    let make = |old: Option<&Object>| -> Result<Object, Status> {
        let mut budget = old.cloned().ok_or_else(|| {
            Status::not_found(&GroupResource::new("policy", "poddisruptionbudgets"), &name)
        })?;
        if number(&budget, "observedGeneration") < meta::generation(&budget) {
            return Err(try_again(&name));
        }
        let allowed = number(&budget, "disruptionsAllowed");
        if allowed <= 0 {
            let detail = format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                number(&budget, "desiredHealthy"),
                number(&budget, "currentHealthy")
            );
            return Err(refused(detail, 0));
        }
        budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
        let disrupted = meta::child_map(
            meta::child_map(meta::map_mut(&mut budget), "status"),
            "disruptedPods",
        );
        disrupted.insert(pod_name.clone(), Value::from(meta::now_rfc3339()));
        Ok(budget)
    };
    update_raw(
        storage,
        &resource,
        meta::namespace(pod),
        meta::name(&budget),
        dry_run,
        &make,
    )
    .await?;
    Ok(None)
}

fn refused(detail: String, retry_after: u32) -> Status {
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    let cause = Cause {
        reason: "DisruptionBudget".into(),
        message: detail,
        field: String::new(),
    };
    Status::new(429, "TooManyRequests", message).with_details(Details {
        causes: vec![cause],
        retry_after_seconds: retry_after,
        ..Details::default()
    })
}
