//! Revisions: identifies the new replica set and maintains the annotations that `kubectl rollout
//! history` and `undo` use.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::state::{Action, State, replicas};
use super::{scale, status};
use crate::common::{hash, owners, semantic};

/// Annotation with the revision of a replica set, and the current one of a deployment.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Annotation with the earlier revisions of a replica set that was rolled back to.
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Annotation with the deployment's desired size when the set was last scaled.
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// Annotation with the deployment's maximum size, surge included, at that time.
pub const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";
/// Label that distinguishes the pods of different revisions.
const TEMPLATE_HASH: &str = "pod-template-hash";
/// Maximum length of [`HISTORY`] in bytes.
const HISTORY_LENGTH: usize = 2000;

/// Annotations of deployments that are not copied to replica sets.
const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAXIMUM,
    "deprecated.deployment.rollback.to",
];

type Annotations = BTreeMap<String, String>;

/// Returns the revision in the annotation, or 0 if there is none.
pub fn revision_of(meta: &ObjectMeta) -> i64 {
    meta.annotations
        .as_ref()
        .and_then(|annotations| annotations.get(REVISION))
        .and_then(|revision| revision.parse().ok())
        .unwrap_or(0)
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(labels) = template
        .metadata
        .as_mut()
        .and_then(|meta| meta.labels.as_mut())
    {
        labels.remove(TEMPLATE_HASH);
    }
    template
}

/// Returns whether the replica set has the deployment's current template.
pub fn same_template(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let Some(wanted) = deployment.spec.as_ref().map(|spec| &spec.template) else {
        return false;
    };
    let Some(present) = set.spec.as_ref().and_then(|spec| spec.template.as_ref()) else {
        return false;
    };
    semantic::same_template(&without_hash(wanted), &without_hash(present))
}

/// Returns the index of the first replica set with the current template. `sets` must be ordered by
/// age, oldest first.
pub fn find_new(deployment: &Deployment, sets: &[ReplicaSet]) -> Option<usize> {
    sets.iter().position(|set| same_template(deployment, set))
}

/// Updates the revision and annotations of the new replica set. If there is none and `create` is
/// set, plans its creation.
pub fn sync(state: &mut State, create: bool) {
    let newest_old = state
        .old()
        .iter()
        .map(|index| revision_of(&state.sets[*index].metadata))
        .max();
    let revision = newest_old.unwrap_or(0).saturating_add(1);
    match state.new {
        Some(index) => renew(state, index, revision),
        None if create => make(state, revision),
        None => {}
    }
}

fn renew(state: &mut State, index: usize, revision: i64) {
    let min_ready = state
        .deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.min_ready_seconds);
    let set = &mut state.sets[index];
    let mut changed = annotate(&state.deployment, set, revision, true);
    if let Some(spec) = set.spec.as_mut()
        && spec.min_ready_seconds.unwrap_or(0) != min_ready.unwrap_or(0)
    {
        spec.min_ready_seconds = min_ready;
        changed = true;
    }
    let (name, revision) = (
        set.metadata.name.clone().unwrap_or_default(),
        set.metadata
            .annotations
            .as_ref()
            .and_then(|a| a.get(REVISION))
            .cloned(),
    );
    if changed {
        state.actions.push(Action::Update(Box::new(set.clone())));
    }
    if let Some(revision) = revision {
        mark(&mut state.deployment, revision);
    }
    if status::has_deadline(&state.deployment) && status::progressing(&state.deployment).is_none() {
        let message = format!("Found new replica set {name:?}");
        let condition = status::condition(
            "Progressing",
            "True",
            "FoundNewReplicaSet",
            message,
            state.now,
        );
        status::set_condition(state.deployment.status.get_or_insert_default(), condition);
    }
}

fn mark(deployment: &mut Deployment, revision: String) {
    let annotations = deployment.metadata.annotations.get_or_insert_default();
    if annotations.get(REVISION) != Some(&revision) {
        annotations.insert(REVISION.into(), revision);
    }
}

/// Returns the name of a deployment's replica set. A long deployment's name is cut.
fn set_name(deployment: &str, hash: &str) -> String {
    const MAX: usize = 253;
    let mut end = deployment.len().min(MAX - 1 - hash.len());
    while !deployment.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{hash}", &deployment[..end])
}

fn make(state: &mut State, revision: i64) {
    let deployment = &state.deployment;
    let Some(spec) = deployment.spec.as_ref() else {
        return;
    };
    let collisions = deployment
        .status
        .as_ref()
        .and_then(|status| status.collision_count);
    let hash = hash::compute(&spec.template, collisions);
    let with_hash = |labels: &Option<BTreeMap<String, String>>| {
        let mut labels = labels.clone().unwrap_or_default();
        labels.insert(TEMPLATE_HASH.into(), hash.clone());
        Some(labels)
    };
    let mut template = spec.template.clone();
    let meta = template.metadata.get_or_insert_default();
    meta.labels = with_hash(&meta.labels);
    let labels = meta.labels.clone();
    let mut selector = spec.selector.clone();
    selector.match_labels = with_hash(&selector.match_labels);
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(set_name(
                deployment.metadata.name.as_deref().unwrap_or_default(),
                &hash,
            )),
            namespace: deployment.metadata.namespace.clone(),
            labels,
            owner_references: Some(vec![owners::control_by(deployment)]),
            ..Default::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    let count = scale::room_for_new(deployment, state.total(), 0);
    if let Some(spec) = set.spec.as_mut() {
        spec.replicas = Some(count);
    }
    annotate(deployment, &mut set, revision, false);
    let name = set.metadata.name.clone().unwrap_or_default();
    state.actions.push(Action::Create(Box::new(set.clone())));
    if count > 0 {
        let message = format!("Scaled up replica set {name} from 0 to {count}");
        state
            .actions
            .push(Action::Event("ScalingReplicaSet", message));
    }
    mark(&mut state.deployment, revision.to_string());
    if status::has_deadline(&state.deployment) {
        let message = format!("Created new replica set {name:?}");
        let condition = status::condition(
            "Progressing",
            "True",
            "NewReplicaSetCreated",
            message,
            state.now,
        );
        status::set_condition(state.deployment.status.get_or_insert_default(), condition);
    }
    state.sets.push(set);
    state.new = Some(state.sets.len() - 1);
}

/// Updates the set's annotations. Returns whether any changed.
fn annotate(deployment: &Deployment, set: &mut ReplicaSet, revision: i64, exists: bool) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) && annotations.get(key) != Some(value) {
            annotations.insert(key.clone(), value.clone());
            changed = true;
        }
    }
    changed |= renumber(annotations, revision);
    if !exists {
        let wanted = replicas(deployment);
        changed |= size_annotations(
            annotations,
            wanted,
            wanted.saturating_add(scale::max_surge(deployment)),
        );
    }
    changed
}

/// Sets the replica set's revision and appends the previous one to its history. Returns whether it
/// changed.
fn renumber(annotations: &mut Annotations, revision: i64) -> bool {
    let old = annotations.get(REVISION).cloned();
    let old_number = match old.as_deref() {
        None | Some("") => 0,
        Some(text) => match text.parse::<i64>() {
            Ok(number) => number,
            Err(_) => return false, // set by a user; keep it
        },
    };
    if old_number >= revision {
        return false;
    }
    annotations.insert(REVISION.into(), revision.to_string());
    if let Some(old) = old {
        let mut history: Vec<String> = annotations
            .get(HISTORY)
            .filter(|history| !history.is_empty())
            .map(|history| history.split(',').map(str::to_owned).collect())
            .unwrap_or_default();
        history.push(old);
        while history.join(",").len() > HISTORY_LENGTH && history.len() > 1 {
            history.remove(0);
        }
        annotations.insert(HISTORY.into(), history.join(","));
    }
    true
}

/// Records the sizes for which the set was scaled. Returns whether any annotation changed.
pub fn size_annotations(annotations: &mut Annotations, desired: i32, maximum: i32) -> bool {
    let mut changed = false;
    for (key, value) in [
        (DESIRED, desired.to_string()),
        (MAXIMUM, maximum.to_string()),
    ] {
        if annotations.get(key) != Some(&value) {
            annotations.insert(key.into(), value);
            changed = true;
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::set_name;

    #[test]
    fn names_of_long_deployments_are_cut() {
        assert_eq!(set_name("web", "5d4f8c7b9"), "web-5d4f8c7b9");
        for length in [242, 243, 253] {
            let name = set_name(&"x".repeat(length), "5d4f8c7b9f");
            assert_eq!(name.len(), (length + 11).min(253), "{length}");
            assert!(name.ends_with("-5d4f8c7b9f"), "{length}");
        }
    }
}
