//! Identity of a stateful set's pods: names, labels and volumes.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::common::{owners, pod_control, revisions};

/// Label with the pod's name, so that a service can select a single pod.
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// Label with the pod's ordinal.
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// Returns the pod's ordinal in the set named `set`, or `None` if it is not one of its pods.
pub fn ordinal(set: &str, pod: &Pod) -> Option<i32> {
    let (parent, ordinal) = pod.metadata.name.as_deref()?.rsplit_once('-')?;
    (parent == set).then(|| ordinal.parse().ok()).flatten()
}

/// Returns the name of the revision from which a pod was created.
pub fn revision_of(pod: &Pod) -> Option<&str> {
    pod.metadata
        .labels
        .as_ref()?
        .get(revisions::POD_LABEL)
        .map(String::as_str)
}

fn templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    let spec = set.spec.as_ref();
    spec.and_then(|spec| spec.volume_claim_templates.as_deref())
        .unwrap_or_default()
}

fn claim_name(template: &PersistentVolumeClaim, set: &StatefulSet, ordinal: i32) -> String {
    format!(
        "{}-{}-{ordinal}",
        template.metadata.name.as_deref().unwrap_or_default(),
        set.metadata.name.as_deref().unwrap_or_default()
    )
}

/// Returns the pod with this ordinal, created from a revision's template.
pub fn pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let mut pod = pod_control::from_template(set, template);
    let name = format!(
        "{}-{ordinal}",
        set.metadata.name.as_deref().unwrap_or_default()
    );
    // As upstream's, the pod keeps `generateName` beside its name.
    pod.metadata.name = Some(name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.into(), name.clone());
    labels.insert(POD_INDEX.into(), ordinal.to_string());
    labels.insert(revisions::POD_LABEL.into(), revision.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone());
    let volumes = spec.volumes.get_or_insert_default();
    let claimed: Vec<Volume> = templates(set)
        .iter()
        .map(|template| Volume {
            name: template.metadata.name.clone().unwrap_or_default(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(template, set, ordinal),
                read_only: None,
            }),
            ..Default::default()
        })
        .collect();
    volumes.retain(|volume| !claimed.iter().any(|claimed| claimed.name == volume.name));
    volumes.extend(claimed);
    if volumes.is_empty() {
        spec.volumes = None;
    }
    pod
}

/// Returns the pod with its missing identity labels added, or `None` if they are complete.
pub fn repaired(pod: &Pod, ordinal: i32) -> Option<Pod> {
    let mut repaired = pod.clone();
    let name = pod.metadata.name.clone().unwrap_or_default();
    let labels = repaired.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.into(), name);
    labels.insert(POD_INDEX.into(), ordinal.to_string());
    (repaired != *pod).then_some(repaired)
}

/// Returns the claims required by a pod's volumes.
pub fn claims(set: &StatefulSet, pod: &Pod) -> Vec<PersistentVolumeClaim> {
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let Some(ordinal) = ordinal(name, pod) else {
        return Vec::new();
    };
    let selector = set
        .spec
        .as_ref()
        .and_then(|spec| spec.selector.match_labels.clone());
    templates(set)
        .iter()
        .map(|template| {
            let mut claim = template.clone();
            claim.metadata.name = Some(claim_name(template, set, ordinal));
            claim.metadata.namespace.clone_from(&set.metadata.namespace);
            let labels = claim.metadata.labels.get_or_insert_default();
            labels.extend(selector.clone().unwrap_or_default());
            claim.status = None;
            if let Some(references) = retention(set, pod, false, &claim) {
                claim.metadata.owner_references = Some(references);
            }
            claim
        })
        .collect()
}

/// Returns the owner references that a claim should have according to the retention policy, or
/// `None` if it already has them.
///
/// The owner is the set (`whenDeleted`), the pod if it is `condemned` by scaling down
/// (`whenScaled`), or neither. As upstream's since 1.32, it controls the claim; a claim with another
/// controller gets none.
pub fn retention(
    set: &StatefulSet,
    pod: &Pod,
    condemned: bool,
    claim: &PersistentVolumeClaim,
) -> Option<Vec<OwnerReference>> {
    let policy = set
        .spec
        .as_ref()
        .and_then(|spec| spec.persistent_volume_claim_retention_policy.clone())
        .unwrap_or_default();
    let deletes = |when: Option<String>| when.as_deref() == Some("Delete");
    let (by_set, by_pod) = (deletes(policy.when_deleted), deletes(policy.when_scaled));
    let present = claim.metadata.owner_references.clone().unwrap_or_default();
    let uid = |uid: &Option<String>| uid.clone().unwrap_or_default();
    let (set_uid, pod_uid) = (uid(&set.metadata.uid), uid(&pod.metadata.uid));
    let pod_name = pod.metadata.name.clone().unwrap_or_default();
    let mut wanted: Vec<OwnerReference> = present
        .iter()
        .filter(|owner| owner.uid != set_uid && !(owner.kind == "Pod" && owner.name == pod_name))
        .cloned()
        .collect();
    let controlled = wanted.iter().any(|owner| owner.controller == Some(true));
    if controlled && (by_set || by_pod) {
        return (wanted != present).then_some(wanted);
    }
    if condemned && by_pod && !pod_uid.is_empty() {
        wanted.push(owners::control_by(pod));
    } else if by_set && !(condemned && by_pod) {
        wanted.push(owners::control_by(set));
    }
    (wanted != present).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn set_or_pod_control_a_claim() {
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "set"},
            "spec": {
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"},
                "selector": {}, "serviceName": "web", "template": {},
            },
        }))
        .unwrap();
        let pod = crate::common::pods::testing::pod("web-0", "n", "Running", None);
        let mut claim = PersistentVolumeClaim::default();
        let of_set = retention(&set, &pod, false, &claim).unwrap();
        assert_eq!(of_set, [owners::control_by(&set)]);
        claim.metadata.owner_references = Some(of_set);
        assert_eq!(retention(&set, &pod, false, &claim), None);
        let of_pod = retention(&set, &pod, true, &claim).unwrap();
        assert_eq!((of_pod.len(), of_pod[0].kind.as_str()), (1, "Pod"));
        assert_eq!(of_pod[0].block_owner_deletion, Some(true));
        // Another controller keeps the claim.
        let other = OwnerReference {
            uid: "other".into(),
            ..owners::control_by(&set)
        };
        claim.metadata.owner_references = Some(vec![other]);
        assert_eq!(retention(&set, &pod, false, &claim), None);
    }
}
