//! Protects claims used by pods, volumes bound to claims, and attribute classes named by either.
//!
//! A finalizer prevents their removal until they are no longer in use.

use std::marker::PhantomData;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;

use super::claims_of;
use crate::common::pods;
use crate::context::{Context, Result, optional};
use crate::controller::{Controller, Watches};
use crate::informers::{Key, Object, Store};
use crate::kinds::Informers;
use crate::queue::Queue;

/// A kind whose objects are protected while in use.
pub trait Protected: Object {
    /// Name of the controller in logs.
    const NAME: &'static str;
    /// The finalizer.
    const FINALIZER: &'static str;
    /// Number of workers.
    const WORKERS: usize;

    /// Returns the store of the kind.
    fn store(informers: &Informers) -> &Store<Self>;

    /// Declares which changes of other kinds may end a use.
    fn watch_users(_informers: &Informers, _watches: &mut Watches<Key>) {}

    /// Returns whether an object is in use.
    fn is_used(informers: &Informers, key: &Key) -> bool;
}

/// The controller that protects the objects of one kind.
pub struct Protection<K> {
    ctx: Context,
    queue: Queue<Key>,
    kind: PhantomData<fn() -> K>,
}

/// The controller that protects claims in use.
pub type ClaimProtection = Protection<PersistentVolumeClaim>;
/// The controller that protects bound volumes.
pub type VolumeProtection = Protection<PersistentVolume>;
/// The controller that protects attribute classes in use.
pub type ClassProtection = Protection<VolumeAttributesClass>;

impl<K: Protected> Protection<K> {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
            kind: PhantomData,
        }
    }
}

impl<K: Protected> Controller for Protection<K> {
    type Item = Key;

    fn name(&self) -> &'static str {
        K::NAME
    }

    fn workers(&self) -> usize {
        K::WORKERS
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        let informers = &self.ctx.informers;
        watches.present(K::store(informers));
        K::watch_users(informers, watches);
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        let informers = &self.ctx.informers;
        let used = K::is_used(informers, &key);
        hold(&self.ctx, K::store(informers), &key, K::FINALIZER, used).await
    }
}

/// Adds the finalizer to an object, or removes it from one that is being deleted and not in use.
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

impl Protected for PersistentVolumeClaim {
    const NAME: &'static str = "persistentvolumeclaim-protection-controller";
    const FINALIZER: &'static str = "kubernetes.io/pvc-protection";
    const WORKERS: usize = 4;

    fn store(informers: &Informers) -> &Store<Self> {
        &informers.claims
    }

    fn watch_users(informers: &Informers, watches: &mut Watches<Key>) {
        watches.watches(&informers.pods, |change, queue| {
            if !change.is_deletion() {
                return;
            }
            let pod = change.object();
            for claim in claims_of(pod) {
                let namespace = pod.metadata.namespace.clone().unwrap_or_default();
                queue.add(Key::new(namespace, claim));
            }
        });
    }

    fn is_used(informers: &Informers, key: &Key) -> bool {
        let pods = informers.pods.in_namespace(&key.namespace);
        // An unscheduled pod does not count: the scheduler rejects it once its claim is being
        // deleted.
        pods.iter()
            .any(|pod| !pods::node_name(pod).is_empty() && claims_of(pod).contains(&key.name))
    }
}

impl Protected for PersistentVolume {
    const NAME: &'static str = "persistentvolume-protection-controller";
    const FINALIZER: &'static str = "kubernetes.io/pv-protection";
    const WORKERS: usize = 4;

    fn store(informers: &Informers) -> &Store<Self> {
        &informers.volumes
    }

    fn is_used(informers: &Informers, key: &Key) -> bool {
        informers.volumes.by_key(key).is_some_and(|volume| {
            let status = volume.status.as_ref();
            status.and_then(|status| status.phase.as_deref()) == Some("Bound")
        })
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

impl Protected for VolumeAttributesClass {
    const NAME: &'static str = "volumeattributesclass-protection-controller";
    const FINALIZER: &'static str = "kubernetes.io/vac-protection";
    const WORKERS: usize = 1;

    fn store(informers: &Informers) -> &Store<Self> {
        &informers.attribute_classes
    }

    fn watch_users(informers: &Informers, watches: &mut Watches<Key>) {
        watches
            // An update may remove the last use of a class.
            .watches(&informers.claims, |change, queue| {
                let before = change
                    .old()
                    .into_iter()
                    .flat_map(|old| classes_of_claim(old));
                for class in before.chain(classes_of_claim(change.object())) {
                    queue.add(Key::new(String::new(), class.clone()));
                }
            })
            .watches(&informers.volumes, |change, queue| {
                let before = change.old().and_then(|old| class_of_volume(old));
                for class in before.into_iter().chain(class_of_volume(change.object())) {
                    queue.add(Key::new(String::new(), class.clone()));
                }
            });
    }

    fn is_used(informers: &Informers, key: &Key) -> bool {
        let claims = informers.claims.list();
        let volumes = informers.volumes.list();
        claims
            .iter()
            .any(|claim| classes_of_claim(claim).any(|class| *class == key.name))
            || volumes
                .iter()
                .any(|volume| class_of_volume(volume) == Some(&key.name))
    }
}
