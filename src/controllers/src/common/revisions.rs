//! Controller revisions: the history of a pod template.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use crate::common::{hash, owners};
use crate::context::{Context, Deletion, Error, Result, optional};
use crate::informers::{Key, Object};
use rkube_component_helpers::label_selector::Labels;

/// Label with the revision on pods and on daemon sets' revisions.
pub const POD_LABEL: &str = "controller-revision-hash";
/// Label with the hash on stateful sets' revisions.
pub const HASH_LABEL: &str = "controller.kubernetes.io/hash";

/// Returns a revision's data: a patch that replaces the owner's template.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = rkube_client::instances::tree(template).unwrap_or_default();
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// Returns the template that a revision stores.
pub fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    // From text, since a reader of trees would be compiled for all types of a pod.
    serde_json::from_str(&template.to_string()).ok()
}

/// Returns whether the revision stores this template.
fn is_of(revision: &ControllerRevision, template: &PodTemplateSpec) -> bool {
    revision
        .data
        .as_ref()
        .is_some_and(|stored| stored.0 == data(template))
        || self::template(revision)
            .is_some_and(|stored| crate::common::semantic::same_template(&stored, template))
}

/// Properties of an owner's revisions.
pub struct Style<'a> {
    /// Labels of new revisions in addition to the hash label.
    pub labels: Option<&'a Labels>,
    /// The label that holds the hash.
    pub hash_label: &'a str,
    /// Number of hash collisions so far.
    pub collisions: Option<i32>,
}

/// Returns an owner's revisions, oldest first.
pub fn list_of<O: Object>(ctx: &Context, owner: &O) -> Vec<Arc<ControllerRevision>> {
    let uid = owner.metadata().uid.as_deref().unwrap_or_default();
    let mut all = ctx.informers.revisions.owned_by(uid);
    all.sort_by_key(|revision| (revision.revision, revision.metadata.name.clone()));
    all
}

/// Returns the revision of `template`: an existing one, renumbered to be the newest if necessary,
/// or a new one.
///
/// Returns `Ok(Err(()))` if another template has the same hash. The caller then has to increment
/// the collision count and retry.
pub async fn current<O: Object>(
    ctx: &Context,
    owner: &O,
    template: &PodTemplateSpec,
    style: &Style<'_>,
) -> Result<std::result::Result<Arc<ControllerRevision>, ()>> {
    let store = &ctx.informers.revisions;
    let all = list_of(ctx, owner);
    let newest = all.last().map_or(0, |revision| revision.revision);
    let next = || {
        let number = newest.checked_add(1);
        number.ok_or_else(|| Error::other("there is no greater revision number than the newest"))
    };
    if let Some(found) = all.iter().rev().find(|revision| is_of(revision, template)) {
        if found.revision == newest {
            return Ok(Ok(found.clone()));
        }
        let mut renumbered = ControllerRevision::clone(found);
        renumbered.revision = next()?;
        return ctx.update(store, &renumbered).await.map(Ok);
    }
    let made = make(owner, template, style, next()?);
    match ctx.create(store, &made).await {
        Ok(revision) => Ok(Ok(revision)),
        Err(error) if error.is_already_exists() => {
            let key = Key::of(&made.metadata);
            let present: ControllerRevision = ctx.get(&key.namespace, &key.name).await?;
            let ours = owners::is_controlled_by(
                &present.metadata,
                owner.metadata().uid.as_deref().unwrap_or_default(),
            );
            if ours && is_of(&present, template) {
                return Ok(Ok(store.observe(present)));
            }
            Ok(Err(()))
        }
        Err(error) => Err(error),
    }
}

fn make<O: Object>(
    owner: &O,
    template: &PodTemplateSpec,
    style: &Style<'_>,
    number: i64,
) -> ControllerRevision {
    let meta = owner.metadata();
    let hash = hash::compute(template, style.collisions);
    let mut labels = style.labels.cloned().unwrap_or_default();
    labels.insert(style.hash_label.to_owned(), hash.clone());
    let mut annotations = meta.annotations.clone();
    if let Some(annotations) = annotations.as_mut() {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    // The name must also fit in a label value.
    let mut name = meta.name.clone().unwrap_or_default();
    name.truncate(223);
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations,
            owner_references: Some(vec![owners::control_by(owner)]),
            ..Default::default()
        },
        data: Some(RawExtension(data(template))),
        revision: number,
    }
}

/// Returns the revisions to delete: the oldest of those that are not `alive`, beyond `limit`.
pub fn surplus(
    all: &[Arc<ControllerRevision>],
    limit: i32,
    alive: impl Fn(&ControllerRevision) -> bool,
) -> Vec<Arc<ControllerRevision>> {
    let dead: Vec<_> = all
        .iter()
        .filter(|revision| !alive(revision))
        .cloned()
        .collect();
    let count = dead
        .len()
        .saturating_sub(usize::try_from(limit).unwrap_or(0));
    dead.into_iter().take(count).collect()
}

/// Deletes revisions. Missing ones are ignored.
pub async fn delete(ctx: &Context, doomed: Vec<Arc<ControllerRevision>>) -> Result<()> {
    for revision in doomed {
        optional(
            ctx.delete(
                &ctx.informers.revisions,
                &revision.metadata,
                &Deletion::default(),
            )
            .await,
        )?;
    }
    Ok(())
}

/// Returns the error after a hash collision that the caller has counted; it causes a retry.
pub fn collision(name: &str) -> Error {
    Error::other(format!("the hash of {name}'s template is taken by another"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::DaemonSet;

    #[test]
    fn a_template_survives_its_revision() {
        let template = PodTemplateSpec {
            metadata: Some(ObjectMeta {
                labels: Some([("a".to_owned(), "b".to_owned())].into()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let style = Style {
            labels: None,
            hash_label: POD_LABEL,
            collisions: None,
        };
        let revision = make(&DaemonSet::default(), &template, &style, 1);
        assert_eq!(self::template(&revision), Some(template.clone()));
        assert!(is_of(&revision, &template));
        assert!(!is_of(&revision, &PodTemplateSpec::default()));
        let all = vec![Arc::new(revision.clone()), Arc::new(revision)];
        assert_eq!(surplus(&all, 1, |_| false).len(), 1);
        assert_eq!(surplus(&all, 1, |_| true).len(), 0);
    }
}
