//! `APIService` objects of the group versions that this server serves itself.
//!
//! Those of built-in groups are created at startup and may then be changed by users. Those of
//! custom resources are created and deleted with their definitions.

use std::collections::BTreeMap;
use std::sync::Arc;

use rkube_api::{Object, meta};
use rkube_store::{Expect, StoreError};
use serde_json::json;

use super::remote::{GROUP, PLURAL, Priority, key};
use crate::backend::Backend;
use crate::cache::Filter;
use crate::codec::encode;
use crate::conditions::set_condition;

/// The label of managed `APIService`s: `onstart` (created if missing) or `true` (kept in sync).
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// Group and version priorities of the built-in group versions, as upstream.
const PRIORITIES: [(&str, &str, i64, i64); 27] = [
    ("", "v1", 18_000, 1),
    ("apiregistration.k8s.io", "v1", 20_000, 15),
    ("apps", "v1", 17_800, 15),
    ("events.k8s.io", "v1", 17_750, 15),
    ("authentication.k8s.io", "v1", 17_700, 15),
    ("authorization.k8s.io", "v1", 17_600, 15),
    ("autoscaling", "v2", 17_500, 30),
    ("autoscaling", "v1", 17_500, 15),
    ("batch", "v1", 17_400, 15),
    ("certificates.k8s.io", "v1", 17_300, 15),
    ("networking.k8s.io", "v1", 17_200, 15),
    ("policy", "v1", 17_100, 15),
    ("rbac.authorization.k8s.io", "v1", 17_000, 15),
    ("storage.k8s.io", "v1", 16_800, 15),
    ("apiextensions.k8s.io", "v1", 16_700, 15),
    ("admissionregistration.k8s.io", "v1", 16_700, 15),
    ("admissionregistration.k8s.io", "v1beta1", 16_700, 12),
    ("scheduling.k8s.io", "v1", 16_600, 15),
    ("coordination.k8s.io", "v1", 16_500, 15),
    ("node.k8s.io", "v1", 16_300, 15),
    ("discovery.k8s.io", "v1", 16_200, 15),
    ("resource.k8s.io", "v1", 16_200, 21),
    ("flowcontrol.apiserver.k8s.io", "v1", 16_100, 21),
    ("internal.apiserver.k8s.io", "v1alpha1", 16_000, 9),
    ("storagemigration.k8s.io", "v1beta1", 15_800, 9),
    ("storagemigration.k8s.io", "v1alpha1", 15_800, 1),
    // As in the manifest of metrics-server.
    ("metrics.k8s.io", "v1beta1", 100, 100),
];

/// Returns the priority of a group version that this server serves.
pub fn priority(group: &str, version: &str) -> Priority {
    PRIORITIES
        .iter()
        .find(|(g, v, ..)| *g == group && *v == version)
        .map_or(
            // Custom resources rank low, and among each other by version name.
            Priority {
                group: 1000,
                version: 100,
            },
            |(_, _, group, version)| Priority {
                group: *group,
                version: *version,
            },
        )
}

fn object(group: &str, version: &str, managed: &str) -> Object {
    let place = priority(group, version);
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "APIService",
        "metadata": {
            "name": format!("{version}.{group}"),
            "labels": {MANAGED: managed},
            "uid": crate::uid::new_uid(),
            "creationTimestamp": meta::now_rfc3339(),
        },
        "spec": {
            "groupPriorityMinimum": place.group,
            "version": version,
            "versionPriority": place.version,
        },
    });
    // Upstream's encoding omits an empty group.
    if !group.is_empty() {
        object["spec"]["group"] = group.into();
    }
    let message = "Local APIServices are always available";
    set_condition(&mut object["status"], "Available", "True", "Local", message);
    object
}

async fn create(backend: &Backend, mut object: Object) {
    let name = meta::name(&object).to_owned();
    let Ok(bytes) = encode(&mut object) else {
        return;
    };
    match backend.store.put(&key(&name), bytes, Expect::Absent).await {
        // Another server was faster.
        Ok(_) | Err(StoreError::Conflict { .. }) => {}
        Err(error) => tracing::warn!(%error, name, "an APIService was not made"),
    }
}

/// Creates the missing `APIService`s of built-in groups.
pub async fn write_builtin(backend: &Backend) {
    let cache = backend.cache.resource(GROUP, PLURAL);
    let missing = PRIORITIES
        .iter()
        .filter(|(group, version, ..)| {
            *group != GROUP
                && rkube_api::registry::builtin()
                    .iter()
                    .any(|r| r.group == *group && r.version == *version)
                && cache.get("", &format!("{version}.{group}")).is_none()
        })
        .map(|(group, version, ..)| create(backend, object(group, version, "onstart")));
    futures::future::join_all(missing).await;
}

/// Creates and deletes `APIService`s so that there is one for each version that `definitions`
/// serve.
pub async fn sync_custom(backend: &Backend, definitions: &[Arc<Object>]) {
    let mut wanted: BTreeMap<String, (String, String)> = BTreeMap::new();
    for definition in definitions {
        let group = definition["spec"]["group"].as_str().unwrap_or_default();
        let versions = definition["spec"]["versions"].as_array();
        for version in versions.into_iter().flatten() {
            let name = version["name"].as_str().unwrap_or_default();
            if version["served"] == true && !is_builtin(group, name) {
                let key = format!("{name}.{group}");
                wanted.insert(key, (group.to_owned(), name.to_owned()));
            }
        }
    }
    let cache = backend.cache.resource(GROUP, PLURAL);
    for found in cache.list(&Filter::default()) {
        if wanted.remove(&*found.name).is_some() || found.label(MANAGED) != Some("true") {
            continue;
        }
        let expect = Expect::Revision(found.revision);
        match backend.store.delete(&key(&found.name), expect).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => {
                tracing::warn!(%error, name = &*found.name, "an APIService was not removed");
            }
        }
    }
    for (group, version) in wanted.into_values() {
        create(backend, object(&group, &version, "true")).await;
    }
}

fn is_builtin(group: &str, version: &str) -> bool {
    PRIORITIES
        .iter()
        .any(|(g, v, ..)| *g == group && *v == version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_group_version_has_a_place() {
        for row in rkube_api::registry::builtin() {
            assert!(
                is_builtin(&row.group, &row.version),
                "{}/{}",
                row.group,
                row.version
            );
        }
        assert_eq!(priority("example.com", "v1").group, 1000);
    }
}
