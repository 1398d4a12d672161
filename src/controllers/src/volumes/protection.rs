//! Protects claims used by pods, volumes bound to claims, and attribute classes named by either.
//!
//! A finalizer prevents their removal until they are no longer in use.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::claims_of;
use crate::common::pods;
use crate::context::{Context, Result, optional};
use crate::informers::{Key, Object, Store};
use crate::queue::Queue;

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";
const CLASS: &str = "kubernetes.io/vac-protection";

async fn hold<K: Object>(
    ctx: &Context,
    store: &Store<K>,
    key: &Key,
    finalizer: &str,
    used: bool,
) -> Result<()> {
    let Some(object) = store.by_key(key) else {
        return Ok(());
    };
    let deleting = object.metadata().deletion_timestamp.is_some();
    let held = object
        .metadata()
        .finalizers
        .iter()
        .flatten()
        .any(|present| present == finalizer);
    let mut changed = K::clone(&object);
    let finalizers = changed.meta_mut().finalizers.get_or_insert_default();
    if deleting && held && !used {
        finalizers.retain(|present| present != finalizer);
    } else if !deleting && !held {
        finalizers.push(finalizer.to_owned());
    } else {
        return Ok(());
    }
    let updated = optional(ctx.update(store, &changed).await)?;
    if let Some(updated) = updated
        && deleting
        && updated
            .metadata()
            .finalizers
            .as_ref()
            .is_none_or(Vec::is_empty)
    {
        store.observe_deletion(updated.metadata(), true, ctx.now());
    }
    Ok(())
}

/// Registers event handlers and returns the run loop of claim protection. Call before the informers
/// start.
pub fn claims(ctx: &Context) -> impl Future<Output = ()> + Send + use<> {
    let queue: Queue<Key> = Queue::new();
    let informers = ctx.informers.clone();
    {
        let queue = queue.clone();
        informers.claims.on_change(move |change| {
            if !change.is_deletion() {
                queue.add(Key::of(&change.object().metadata));
            }
        });
    }
    {
        let queue = queue.clone();
        informers.pods.on_change(move |change| {
            if change.is_deletion() {
                let pod = change.object();
                for claim in claims_of(pod) {
                    queue.add(Key::new(
                        pod.metadata.namespace.clone().unwrap_or_default(),
                        claim,
                    ));
                }
            }
        });
    }
    let ctx = ctx.clone();
    async move {
        informers.claims.synced().await;
        informers.pods.synced().await;
        let ctx = &ctx;
        queue
            .work(
                "persistentvolumeclaim-protection-controller",
                4,
                |key| async move {
                    let pods = ctx.informers.pods.in_namespace(&key.namespace);
                    // An unscheduled pod does not count: the scheduler rejects it once its claim is
                    // being deleted.
                    let used = pods.iter().any(|pod| {
                        !pods::node_name(pod).is_empty() && claims_of(pod).contains(&key.name)
                    });
                    hold(ctx, &ctx.informers.claims, &key, CLAIM, used).await
                },
            )
            .await;
    }
}

/// Registers event handlers and returns the run loop of volume protection. Call before the
/// informers start.
pub fn volumes(ctx: &Context) -> impl Future<Output = ()> + Send + use<> {
    let queue: Queue<Key> = Queue::new();
    let store = ctx.informers.volumes.clone();
    {
        let queue = queue.clone();
        store.on_change(move |change| {
            if !change.is_deletion() {
                queue.add(Key::of(&change.object().metadata));
            }
        });
    }
    let ctx = ctx.clone();
    async move {
        store.synced().await;
        let (ctx, store) = (&ctx, &store);
        queue
            .work(
                "persistentvolume-protection-controller",
                4,
                |key| async move {
                    let used = store.by_key(&key).is_some_and(|volume| {
                        volume
                            .status
                            .as_ref()
                            .and_then(|status| status.phase.as_deref())
                            == Some("Bound")
                    });
                    hold(ctx, store, &key, VOLUME, used).await
                },
            )
            .await;
    }
}

/// Returns the attribute classes that a claim requests, currently has or is being changed to.
fn classes_of_claim(claim: &PersistentVolumeClaim) -> impl Iterator<Item = &String> {
    let status = claim.status.as_ref();
    let wanted = claim.spec.as_ref();
    let target = status.and_then(|s| s.modify_volume_status.as_ref());
    [
        wanted.and_then(|spec| spec.volume_attributes_class_name.as_ref()),
        status.and_then(|status| status.current_volume_attributes_class_name.as_ref()),
        target.and_then(|target| target.target_volume_attributes_class_name.as_ref()),
    ]
    .into_iter()
    .flatten()
}

fn class_of_volume(volume: &PersistentVolume) -> Option<&String> {
    let spec = volume.spec.as_ref()?;
    spec.volume_attributes_class_name.as_ref()
}

/// Registers event handlers and returns the run loop of attribute class protection. Call before the
/// informers start.
pub fn classes(ctx: &Context) -> impl Future<Output = ()> + Send + use<> {
    let queue: Queue<Key> = Queue::new();
    let informers = ctx.informers.clone();
    {
        let queue = queue.clone();
        informers.attribute_classes.on_change(move |change| {
            if !change.is_deletion() {
                queue.add(Key::of(&change.object().metadata));
            }
        });
    }
    {
        // An update may remove the last use of a class.
        let queue = queue.clone();
        informers.claims.on_change(move |change| {
            let before = change
                .old()
                .into_iter()
                .flat_map(|old| classes_of_claim(old));
            for class in before.chain(classes_of_claim(change.object())) {
                queue.add(Key::new(String::new(), class.clone()));
            }
        });
    }
    {
        let queue = queue.clone();
        informers.volumes.on_change(move |change| {
            let before = change.old().and_then(|old| class_of_volume(old));
            for class in before.into_iter().chain(class_of_volume(change.object())) {
                queue.add(Key::new(String::new(), class.clone()));
            }
        });
    }
    let ctx = ctx.clone();
    async move {
        informers.attribute_classes.synced().await;
        informers.claims.synced().await;
        informers.volumes.synced().await;
        let ctx = &ctx;
        queue
            .work(
                "volumeattributesclass-protection-controller",
                1,
                |key| async move {
                    let claims = ctx.informers.claims.list();
                    let volumes = ctx.informers.volumes.list();
                    let used = claims
                        .iter()
                        .any(|claim| classes_of_claim(claim).any(|class| *class == key.name))
                        || volumes
                            .iter()
                            .any(|volume| class_of_volume(volume) == Some(&key.name));
                    hold(ctx, &ctx.informers.attribute_classes, &key, CLASS, used).await
                },
            )
            .await;
    }
}
