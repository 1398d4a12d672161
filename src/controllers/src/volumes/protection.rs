//! Protects claims used by pods, volumes bound to claims, and attribute classes named by either.
//!
//! A finalizer prevents their removal until they are no longer in use.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::claims_of;
use crate::common::pods;
use crate::context::{Context, Result, optional};
use crate::controller::{Controller, Watches};
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

/// The controller that protects claims in use.
pub struct ClaimProtection {
    ctx: Context,
    queue: Queue<Key>,
}

impl ClaimProtection {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
        }
    }
}

impl Controller for ClaimProtection {
    type Item = Key;

    fn name(&self) -> &'static str {
        "persistentvolumeclaim-protection-controller"
    }

    fn workers(&self) -> usize {
        4
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        let informers = &self.ctx.informers;
        watches
            .present(&informers.claims)
            .on(&informers.pods, |change, queue| {
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

    async fn reconcile(&self, key: Key) -> Result<()> {
        let pods = self.ctx.informers.pods.in_namespace(&key.namespace);
        // An unscheduled pod does not count: the scheduler rejects it once its claim is being
        // deleted.
        let used = pods
            .iter()
            .any(|pod| !pods::node_name(pod).is_empty() && claims_of(pod).contains(&key.name));
        hold(&self.ctx, &self.ctx.informers.claims, &key, CLAIM, used).await
    }
}

/// The controller that protects bound volumes.
pub struct VolumeProtection {
    ctx: Context,
    queue: Queue<Key>,
}

impl VolumeProtection {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
        }
    }
}

impl Controller for VolumeProtection {
    type Item = Key;

    fn name(&self) -> &'static str {
        "persistentvolume-protection-controller"
    }

    fn workers(&self) -> usize {
        4
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        watches.present(&self.ctx.informers.volumes);
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        let store = &self.ctx.informers.volumes;
        let used = store.by_key(&key).is_some_and(|volume| {
            let status = volume.status.as_ref();
            status.and_then(|status| status.phase.as_deref()) == Some("Bound")
        });
        hold(&self.ctx, store, &key, VOLUME, used).await
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

/// The controller that protects attribute classes in use.
pub struct ClassProtection {
    ctx: Context,
    queue: Queue<Key>,
}

impl ClassProtection {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
        }
    }
}

impl Controller for ClassProtection {
    type Item = Key;

    fn name(&self) -> &'static str {
        "volumeattributesclass-protection-controller"
    }

    fn workers(&self) -> usize {
        1
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        let informers = &self.ctx.informers;
        watches
            .present(&informers.attribute_classes)
            // An update may remove the last use of a class.
            .on(&informers.claims, |change, queue| {
                let before = change
                    .old()
                    .into_iter()
                    .flat_map(|old| classes_of_claim(old));
                for class in before.chain(classes_of_claim(change.object())) {
                    queue.add(Key::new(String::new(), class.clone()));
                }
            })
            .on(&informers.volumes, |change, queue| {
                let before = change.old().and_then(|old| class_of_volume(old));
                for class in before.into_iter().chain(class_of_volume(change.object())) {
                    queue.add(Key::new(String::new(), class.clone()));
                }
            });
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        let informers = &self.ctx.informers;
        let claims = informers.claims.list();
        let volumes = informers.volumes.list();
        let used = claims
            .iter()
            .any(|claim| classes_of_claim(claim).any(|class| *class == key.name))
            || volumes
                .iter()
                .any(|volume| class_of_volume(volume) == Some(&key.name));
        hold(&self.ctx, &informers.attribute_classes, &key, CLASS, used).await
    }
}
