//! Creates resource claims from templates for pods, and ends the life of claims: reservations of
//! finished pods, then devices, then the claim.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{
    ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;

use crate::common::{owners, pods};
use crate::context::{Context, Deletion, Error, Result, optional};
use crate::controller::{Controller, Watches};
use crate::events::Severity::Warning;
use crate::informers::Key;
use crate::queue::Queue;

const NAME: &str = "resource_claim";
/// Name under which the names of claims are applied to the status of pods.
const FIELD_MANAGER: &str = "ResourceClaimController";
/// Names the entry of a pod for which a claim was made.
const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";
/// Finalizer of claims that have devices.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Longest base of a generated name: it leaves room for a hyphen and five characters.
const MAX_BASE: usize = 57;

/// What is due.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Due {
    /// A pod, which may lack claims.
    Pod(Key),
    /// A claim, which may be used no longer.
    Claim(Key),
}

/// The controller of resource claims.
pub struct DeviceClaimController {
    ctx: Context,
    queue: Queue<Due>,
}

impl DeviceClaimController {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
        }
    }
}

pub(crate) fn entries(pod: &Pod) -> impl Iterator<Item = &PodResourceClaim> {
    let spec = pod.spec.as_ref();
    spec.and_then(|s| s.resource_claims.as_ref())
        .into_iter()
        .flatten()
}

/// Returns the name of the claim of a pod's entry: `None` if it was not made yet, and `Some(None)`
/// if none is needed.
pub(crate) fn claim_name<'p>(pod: &'p Pod, entry: &'p PodResourceClaim) -> Option<Option<&'p str>> {
    if let Some(name) = &entry.resource_claim_name {
        return Some(Some(name));
    }
    let status = pod.status.as_ref();
    let mut made = status
        .and_then(|s| s.resource_claim_statuses.as_ref())
        .into_iter()
        .flatten();
    let made = made.find(|made| made.name == entry.name)?;
    Some(made.resource_claim_name.as_deref())
}

/// Returns whether a pod will not use its claims any more.
fn is_done(pod: &Pod) -> bool {
    let scheduled = pod
        .spec
        .as_ref()
        .is_some_and(|spec| spec.node_name.is_some());
    pods::is_terminal(pod) || (pod.metadata.deletion_timestamp.is_some() && !scheduled)
}

/// Queues a pod and, if it uses its claims no longer, those.
fn pod_changed(pod: &Pod, deleted: bool, queue: &Queue<Due>) {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let extended = pod.status.as_ref();
    let extended = extended.and_then(|s| s.extended_resource_claim_status.as_ref());
    if entries(pod).next().is_none() && extended.is_none() {
        return;
    }
    if deleted || is_done(pod) {
        let named = entries(pod).filter_map(|entry| claim_name(pod, entry).flatten());
        let extended = extended.map(|status| status.resource_claim_name.as_str());
        for name in named.chain(extended) {
            queue.add(Due::Claim(Key::new(namespace, name)));
        }
    }
    if !deleted && pod.metadata.deletion_timestamp.is_none() {
        queue.add(Due::Pod(Key::of(&pod.metadata)));
    }
}

impl Controller for DeviceClaimController {
    type Item = Due;

    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &Queue<Due> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Due>) {
        let informers = &self.ctx.informers;
        let with_claim = informers.pods.clone();
        let with_template = informers.pods.clone();
        watches
            .watches(&informers.pods, |change, queue| {
                pod_changed(change.object(), change.is_deletion(), queue);
            })
            .watches(&informers.device_claims, move |change, queue| {
                let meta = &change.object().metadata;
                let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref());
                if !change.is_deletion() {
                    queue.add(Due::Claim(Key::of(meta)));
                }
                for pod in with_claim.in_namespace(namespace.unwrap_or_default()) {
                    if entries(&pod).any(|entry| claim_name(&pod, entry).flatten() == name) {
                        pod_changed(&pod, false, queue);
                    }
                }
            })
            .watches(&informers.claim_templates, move |change, queue| {
                let meta = &change.object().metadata;
                if change.is_deletion() {
                    return;
                }
                for pod in with_template.in_namespace(meta.namespace.as_deref().unwrap_or_default())
                {
                    if entries(&pod).any(|entry| entry.resource_claim_template_name == meta.name) {
                        pod_changed(&pod, false, queue);
                    }
                }
            });
    }

    async fn reconcile(&self, item: Due) -> Result<()> {
        match item {
            Due::Pod(key) => sync_pod(&self.ctx, key).await,
            Due::Claim(key) => sync_claim(&self.ctx, key).await,
        }
    }
}

/// Returns the problem if a claim was not made for a pod.
fn not_for_pod(pod: &Pod, claim: &ResourceClaim) -> Option<String> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    if owners::is_controlled_by(&claim.metadata, uid) {
        return None;
    }
    let (claim, pod) = (Key::of(&claim.metadata), Key::of(&pod.metadata));
    Some(format!(
        "ResourceClaim {claim} was not created for Pod {pod} (Pod is not owner)"
    ))
}

async fn sync_pod(ctx: &Context, key: Key) -> Result<()> {
    let Some(pod) = ctx.informers.pods.by_key(&key) else {
        return Ok(());
    };
    if pod.metadata.deletion_timestamp.is_some() || pods::is_terminal(&pod) {
        return Ok(());
    }
    let mut made = BTreeMap::new();
    for entry in entries(&pod) {
        match claim_for(ctx, &pod, entry).await {
            Ok(Some(name)) => {
                made.insert(entry.name.clone(), name);
            }
            Ok(None) => {}
            Err(error) if error.is_namespace_terminating() => return Ok(()),
            Err(error) => {
                let text = format!("PodResourceClaim {}: {error}", entry.name);
                let reason = "FailedResourceClaimCreation";
                ctx.recorder
                    .event(NAME, &*pod, Warning, reason, text.clone());
                return Err(Error::other(format!("pod {key}, {text}")));
            }
        }
    }
    if !made.is_empty() {
        return tell(ctx, &pod, made).await;
    }
    reserve(ctx, &pod).await
}

/// Returns the name of the claim that was made, now or before, and that the pod does not name yet.
async fn claim_for(ctx: &Context, pod: &Pod, entry: &PodResourceClaim) -> Result<Option<String>> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let Some(template) = &entry.resource_claim_template_name else {
        return Ok(None);
    };
    match claim_name(pod, entry) {
        Some(None) => return Ok(None),
        Some(Some(name)) => {
            let claim = ctx.informers.device_claims.get(namespace, name);
            if claim.is_some_and(|claim| not_for_pod(pod, &claim).is_none()) {
                return Ok(None);
            }
        }
        None => {}
    }
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let of_entry = |claim: &ResourceClaim| {
        let annotations = claim.metadata.annotations.as_ref();
        annotations.and_then(|a| a.get(POD_CLAIM)) == Some(&entry.name)
    };
    let known = ctx.informers.device_claims.owned_by(uid);
    if let Some(claim) = known.iter().find(|claim| of_entry(claim)) {
        return Ok(claim.metadata.name.clone());
    }
    let Some(template) = ctx.informers.claim_templates.get(namespace, template) else {
        return Err(Error::other(format!(
            "resource claim template {template:?}: resourceclaimtemplate.resource.k8s.io {template:?} not found"
        )));
    };
    let wanted = from_template(pod, entry, &template);
    let store = &ctx.informers.device_claims;
    let made = match ctx.create(store, &wanted).await {
        Err(error) if !error.is_namespace_terminating() => {
            return Err(Error::other(format!("create ResourceClaim : {error}")));
        }
        made => made?,
    };
    Ok(made.metadata.name.clone())
}

/// Returns the claim that a template describes for a pod.
fn from_template(
    pod: &Pod,
    entry: &PodResourceClaim,
    template: &ResourceClaimTemplate,
) -> ResourceClaim {
    let given = template.spec.metadata.clone().unwrap_or_default();
    let mut annotations = given.annotations.unwrap_or_default();
    annotations.insert(POD_CLAIM.to_owned(), entry.name.clone());
    let name = pod.metadata.name.clone().unwrap_or_default();
    ResourceClaim {
        metadata: ObjectMeta {
            generate_name: Some(base_name(&name, &entry.name)),
            namespace: pod.metadata.namespace.clone(),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                name,
                uid: pod.metadata.uid.clone().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            annotations: Some(annotations),
            labels: given.labels,
            ..ObjectMeta::default()
        },
        spec: template.spec.spec.clone(),
        status: None,
    }
}

/// Returns the base of a claim's name. Both names are shortened in proportion.
fn base_name(pod: &str, entry: &str) -> String {
    let full = format!("{pod}-{entry}-");
    if full.len() <= MAX_BASE {
        return full;
    }
    let pod = &pod[..pod.len() * MAX_BASE / full.len()];
    // As upstream, in proportion to the base that already has the shortened name of the pod.
    let length = full.len();
    let entry = &entry[..entry.len() * MAX_BASE / length];
    format!("{pod}-{entry}")
}

/// Writes the names of the claims that were made to the pod's status.
async fn tell(ctx: &Context, pod: &Pod, mut made: BTreeMap<String, String>) -> Result<()> {
    let status = pod.status.as_ref();
    let before = status.and_then(|s| s.resource_claim_statuses.as_ref());
    for known in before.into_iter().flatten() {
        // Applying again without an entry would remove it.
        if let Some(name) = &known.resource_claim_name {
            made.entry(known.name.clone())
                .or_insert_with(|| name.clone());
        }
    }
    let key = Key::of(&pod.metadata);
    let statuses: Vec<_> = made
        .iter()
        .map(|(entry, claim)| json!({"name": entry, "resourceClaimName": claim}))
        .collect();
    let body = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": key.name, "namespace": key.namespace},
        "status": {"resourceClaimStatuses": statuses},
    });
    let path = format!(
        "/api/v1/namespaces/{}/pods/{}/status?fieldManager={FIELD_MANAGER}&force=true",
        key.namespace, key.name
    );
    let content = "application/apply-patch+yaml";
    let body = body.to_string().into_bytes();
    let applied = ctx.raw_as(http::Method::PATCH, &path, content, body).await;
    let applied: Pod = applied.map_err(|error| {
        Error::other(format!("update pod {key} ResourceClaimStatuses: {error}"))
    })?;
    ctx.informers.pods.observe(applied);
    Ok(())
}

/// Reserves the claims of a pod that was not scheduled by the scheduler.
async fn reserve(ctx: &Context, pod: &Pod) -> Result<()> {
    if pod
        .spec
        .as_ref()
        .is_none_or(|spec| spec.node_name.is_none())
    {
        return Ok(());
    }
    let key = Key::of(&pod.metadata);
    for entry in entries(pod) {
        let Some(Some(name)) = claim_name(pod, entry) else {
            continue;
        };
        let Some(claim) = ctx.informers.device_claims.get(&key.namespace, name) else {
            return Ok(());
        };
        if entry.resource_claim_name.is_none()
            && let Some(why) = not_for_pod(pod, &claim)
        {
            return Err(Error::other(why));
        }
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let status = claim.status.clone().unwrap_or_default();
        let users = status.reserved_for.as_deref().unwrap_or_default();
        if status.allocation.is_none() || users.iter().any(|user| user.uid == uid) {
            continue;
        }
        let mut claim = (*claim).clone();
        let users = &mut claim.status.get_or_insert_default().reserved_for;
        users
            .get_or_insert_default()
            .push(ResourceClaimConsumerReference {
                api_group: None,
                resource: "pods".to_owned(),
                name: key.name.clone(),
                uid,
            });
        let store = &ctx.informers.device_claims;
        ctx.update_status(store, &claim).await.map_err(|error| {
            Error::other(format!("reserve claim {}/{name}: {error}", key.namespace))
        })?;
    }
    Ok(())
}

/// Returns whether a consumer may still use a claim. Others than pods may.
async fn still_uses(
    ctx: &Context,
    namespace: &str,
    user: &ResourceClaimConsumerReference,
) -> Result<bool> {
    if user.api_group.as_deref().is_some_and(|g| !g.is_empty()) || user.resource != "pods" {
        return Ok(true);
    }
    let uid = Some(&user.uid);
    if let Some(pod) = ctx.informers.pods.get(namespace, &user.name) {
        return Ok(pod.metadata.uid.as_ref() == uid && !is_done(&pod));
    }
    // The informer may lag behind, and devices must not be freed under a running pod.
    let live: Option<Pod> = optional(ctx.get(namespace, &user.name).await)?;
    Ok(live.is_some_and(|pod| pod.metadata.uid.as_ref() == uid))
}

async fn sync_claim(ctx: &Context, key: Key) -> Result<()> {
    let store = &ctx.informers.device_claims;
    let Some(claim) = store.by_key(&key) else {
        return Ok(());
    };
    let before = claim.status.clone().unwrap_or_default();
    let users = before.reserved_for.clone().unwrap_or_default();
    let mut remaining = Vec::new();
    for user in &users {
        if still_uses(ctx, &key.namespace, user).await? {
            remaining.push(user.clone());
        }
    }
    let unused = remaining.is_empty();
    let finalizers = claim.metadata.finalizers.as_deref().unwrap_or_default();
    let protected = finalizers.iter().any(|f| f == FINALIZER);
    let fewer = remaining.len() < users.len();
    let deleted = protected && claim.metadata.deletion_timestamp.is_some() && unused;
    if fewer || deleted {
        let mut changed = (*claim).clone();
        let status = changed.status.get_or_insert_default();
        status.reserved_for = (!unused).then_some(remaining);
        if unused && protected {
            status.allocation = None;
            status.devices = None;
        }
        let mut current = claim.clone();
        if fewer || before.allocation.is_some() {
            current = ctx.update_status(store, &changed).await?;
        }
        let allocation = current.status.as_ref().and_then(|s| s.allocation.as_ref());
        if protected && allocation.is_none() {
            let mut bare = (*current).clone();
            let finalizers = bare.metadata.finalizers.get_or_insert_default();
            finalizers.retain(|f| f != FINALIZER);
            ctx.update(store, &bare).await?;
        }
    }
    if unused {
        return delete_unused(ctx, &claim, &key).await;
    }
    Ok(())
}

/// Deletes a claim that was made for a pod once the pod is done. With the pod gone, the garbage
/// collector does it.
async fn delete_unused(ctx: &Context, claim: &ResourceClaim, key: &Key) -> Result<()> {
    let Some(owner) = owners::controller_of(&claim.metadata) else {
        return Ok(());
    };
    if owner.kind != "Pod"
        || owner.api_version != "v1"
        || claim.metadata.deletion_timestamp.is_some()
    {
        return Ok(());
    }
    let Some(pod) = ctx.informers.pods.get(&key.namespace, &owner.name) else {
        return Ok(());
    };
    if pod.metadata.uid.as_deref() == Some(&owner.uid) && !is_done(&pod) {
        return Ok(());
    }
    let store = &ctx.informers.device_claims;
    let gone = ctx
        .delete(store, &claim.metadata, &Deletion::default())
        .await;
    optional(gone)
        .map(drop)
        .map_err(|error| Error::other(format!("delete unused generated claim {key}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn names_are_shortened_in_proportion() {
        assert_eq!(base_name("pod", "gpu"), "pod-gpu-");
        let long = base_name(&"p".repeat(60), &"c".repeat(60));
        assert_eq!(long, format!("{}-{}", "p".repeat(28), "c".repeat(28)));
    }

    #[test]
    fn pods_name_their_claims() {
        let made = json!({"resourceClaimStatuses": [
            {"name": "made", "resourceClaimName": "p-made-x"}, {"name": "unneeded"}]});
        let claims = json!([
            {"name": "own", "resourceClaimName": "c"},
            {"name": "made", "resourceClaimTemplateName": "t"},
            {"name": "unneeded", "resourceClaimTemplateName": "t"},
            {"name": "missing", "resourceClaimTemplateName": "t"},
        ]);
        let pod = pod(json!({"metadata": {"name": "p"},
            "spec": {"containers": [], "resourceClaims": claims}, "status": made}));
        let names: Vec<_> = entries(&pod).map(|entry| claim_name(&pod, entry)).collect();
        let want = [Some(Some("c")), Some(Some("p-made-x")), Some(None), None];
        assert_eq!(names, want);
    }

    #[test]
    fn pods_are_done_once_they_cannot_run() {
        let deleted = "2026-01-01T00:00:00Z";
        for (value, want) in [
            (json!({"status": {"phase": "Running"}}), false),
            (json!({"status": {"phase": "Succeeded"}}), true),
            (json!({"metadata": {"deletionTimestamp": deleted}}), true),
            (
                json!({"metadata": {"deletionTimestamp": deleted},
                "spec": {"nodeName": "n", "containers": []}}),
                false,
            ),
        ] {
            assert_eq!(is_done(&pod(value.clone())), want, "{value}");
        }
    }

    #[test]
    fn claims_are_made_from_templates() {
        let pod = pod(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}}));
        let entry = PodResourceClaim {
            name: "gpu".into(),
            ..PodResourceClaim::default()
        };
        let template = json!({"metadata": {"name": "t"}, "spec": {
            "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
            "spec": {"devices": {"requests": [{"name": "r"}]}}}});
        let claim = from_template(&pod, &entry, &serde_json::from_value(template).unwrap());
        let want = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {
            "generateName": "p-gpu-", "namespace": "n", "labels": {"a": "b"},
            "annotations": {"c": "d", "resource.kubernetes.io/pod-claim-name": "gpu"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]},
            "spec": {"devices": {"requests": [{"name": "r"}]}}});
        assert_eq!(serde_json::to_value(claim).unwrap(), want);
    }
}
