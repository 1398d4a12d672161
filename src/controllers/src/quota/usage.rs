//! Computes the usage of a namespace for the resource names in quotas.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use rkube_component_helpers::quota::{Charged, ClaimView, Evaluator, PodView, ServiceView, count};
use rkube_component_helpers::resource::ResourceList;

/// Objects of a namespace.
pub struct State<'a> {
    /// Its pods.
    pub pods: Vec<Arc<Pod>>,
    /// Its services.
    pub services: Vec<Arc<Service>>,
    /// Its volume claims.
    pub claims: Vec<Arc<PersistentVolumeClaim>>,
    /// Returns the number of its objects of a group's resource, `None` if that is not served.
    pub count: &'a (dyn Fn(&str, &str) -> Option<usize> + Sync),
}

/// Core resources that quotas count by their plain names, without those whose
/// objects are evaluated one by one.
const COUNTED: &[&str] = &[
    "configmaps",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
];

/// Returns whether all scopes of the quota select an object.
fn selects(quota: &ResourceQuota, object: &Charged<'_>) -> bool {
    let Some(spec) = quota.spec.as_ref() else {
        return false;
    };
    let mut scopes = spec.scopes.iter().flatten();
    let mut selectors = spec
        .scope_selector
        .iter()
        .flat_map(|selector| selector.match_expressions.iter().flatten());
    scopes.all(|scope| object.in_scope(scope, "Exists", &[]))
        && selectors.all(|selector| {
            let values = selector.values.iter().flatten();
            let values: Vec<&str> = values.map(String::as_str).collect();
            object.in_scope(&selector.scope_name, &selector.operator, &values)
        })
}

/// Adds up the usage of those objects of a core resource that the quota selects.
fn add_usage<'a>(
    total: &mut ResourceList,
    quota: &ResourceQuota,
    resource: &str,
    objects: impl Iterator<Item = Charged<'a>>,
) {
    let Some(evaluator) = Evaluator::new("", resource) else {
        return;
    };
    for object in objects.filter(|object| selects(quota, object)) {
        total.add(&evaluator.usage(&object));
    }
}

/// Returns the usage of every resource that the quota limits.
pub fn used(quota: &ResourceQuota, state: &State<'_>, now: Timestamp) -> ResourceList {
    let mut known = ResourceList::default();
    let pods = state.pods.iter();
    let pods = pods.map(|pod| Charged::Pod(PodView::new(pod, now)));
    add_usage(&mut known, quota, "pods", pods);
    let services = state.services.iter();
    let services = services.map(|service| Charged::Service(ServiceView::new(service)));
    add_usage(&mut known, quota, "services", services);
    let claims = state.claims.iter();
    let claims = claims.map(|claim| Charged::Claim(ClaimView::new(claim)));
    add_usage(&mut known, quota, "persistentvolumeclaims", claims);

    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    let mut used = ResourceList::default();
    for name in hard.into_iter().flatten().map(|(name, _)| name) {
        let counted = || {
            if COUNTED.contains(&name.as_str()) {
                return (state.count)("", name);
            }
            match name.strip_prefix("count/") {
                None | Some("pods" | "services" | "persistentvolumeclaims") => Some(0),
                Some(resource) => {
                    let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
                    (state.count)(group, plural)
                }
            }
        };
        // Of resources that are not served, not even a zero is reported.
        if let Some(amount) = known.get(name).or_else(|| counted().map(count)) {
            used.set(name, amount);
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::pods::testing::{at, pod};
    use k8s_openapi::api::core::v1::ResourceQuotaSpec;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;
    use serde_json::{Value, json};

    fn running(name: &str, spec: Value) -> Arc<Pod> {
        let mut pod = pod(name, "n", "Running", None);
        pod.spec = Some(serde_json::from_value(spec).unwrap());
        Arc::new(pod)
    }

    /// Returns the usage of each resource of a quota.
    fn used_of(names: &[&str], pods: Vec<Arc<Pod>>) -> Vec<String> {
        let hard = names
            .iter()
            .map(|name| ((*name).to_owned(), QuantityText("10".into())))
            .collect();
        let quota = ResourceQuota {
            spec: Some(ResourceQuotaSpec {
                hard: Some(hard),
                ..Default::default()
            }),
            ..Default::default()
        };
        let state = State {
            pods,
            services: vec![],
            claims: vec![],
            count: &|group, plural| match (group, plural) {
                ("apps", "deployments") => Some(3),
                ("example.com", _) => None,
                _ => Some(7),
            },
        };
        let used = used(&quota, &state, at(0));
        let text = |name: &&str| match used.get(name) {
            Some(amount) => amount.to_string(),
            None => "none".into(),
        };
        names.iter().map(text).collect()
    }

    #[test]
    fn quotas_count_what_they_name() {
        let names = [
            "cpu",
            "requests.cpu",
            "pods",
            "count/pods",
            "count/deployments.apps",
            "secrets",
            "limits.cpu",
            "count/foos.example.com",
        ];
        let container = json!({"name": "c", "resources": {"requests": {"cpu": "250m"}}});
        let pods = vec![
            running("a", json!({"containers": [container]})),
            Arc::new(pod("b", "n", "Succeeded", None)),
        ];
        assert_eq!(
            used_of(&names, pods),
            ["250m", "250m", "1", "2", "3", "7", "0", "none"]
        );
    }

    #[test]
    fn pods_are_counted_as_admission_charges_them() {
        let names = ["requests.cpu", "limits.cpu", "limits.memory"];
        let container =
            json!({"name": "c", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}});
        let pod_level = running(
            "a",
            json!({"containers": [container], "resources": {
                "requests": {"cpu": "3"}, "limits": {"cpu": "4", "memory": "1Gi"}}}),
        );
        assert_eq!(used_of(&names, vec![pod_level]), ["3", "4", "1Gi"]);
        let overhead = running(
            "a",
            json!({"containers": [container], "overhead": {"cpu": "100m", "memory": "1Mi"}}),
        );
        assert_eq!(used_of(&names, vec![overhead]), ["1100m", "1100m", "0"]);
    }
}
