//! Creates the claims of generic ephemeral volumes, which are owned by their pods.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::common::{owners, pods};
use crate::context::{Context, Error, Result};
use crate::controller::{Controller, Watches};
use crate::events::Severity::Warning;
use crate::informers::Key;
use crate::queue::Queue;

const NAME: &str = "ephemeral_volume";

fn has_ephemeral(pod: &Pod) -> bool {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    volumes
        .into_iter()
        .flatten()
        .any(|volume| volume.ephemeral.is_some())
}

/// Returns the claims required by a pod's ephemeral volumes.
pub fn claims(pod: &Pod) -> Vec<PersistentVolumeClaim> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    volumes
        .into_iter()
        .flatten()
        .filter_map(|volume| {
            let template = volume.ephemeral.as_ref()?.volume_claim_template.clone()?;
            let given = template.metadata.unwrap_or_default();
            Some(PersistentVolumeClaim {
                metadata: ObjectMeta {
                    name: Some(format!("{name}-{}", volume.name)),
                    namespace: pod.metadata.namespace.clone(),
                    labels: given.labels,
                    annotations: given.annotations,
                    owner_references: Some(vec![owners::control_by(pod)]),
                    ..Default::default()
                },
                spec: Some(template.spec),
                status: None,
            })
        })
        .collect()
}

/// The controller of ephemeral volumes.
pub struct EphemeralController {
    ctx: Context,
    queue: Queue<Key>,
}

impl EphemeralController {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
        }
    }
}

impl Controller for EphemeralController {
    type Item = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        let informers = &self.ctx.informers;
        watches
            .watches(&informers.pods, |change, queue| {
                let pod = change.object();
                if change.old().is_none() && !change.is_deletion() && has_ephemeral(pod) {
                    queue.add(Key::of(&pod.metadata));
                }
            })
            .watches(&informers.claims, |change, queue| {
                let meta = &change.object().metadata;
                if change.is_deletion()
                    && let Some(pod) = owners::controller_name::<Pod>(meta)
                {
                    queue.add(Key::new(meta.namespace.clone().unwrap_or_default(), pod));
                }
            });
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        sync(&self.ctx, key).await
    }
}

async fn sync(ctx: &Context, key: Key) -> Result<()> {
    let Some(pod) = ctx
        .informers
        .pods
        .by_key(&key)
        .filter(|pod| pods::is_active(pod))
    else {
        return Ok(());
    };
    for wanted in claims(&pod) {
        let store = &ctx.informers.claims;
        if let Some(present) = store.by_key(&Key::of(&wanted.metadata)) {
            if owners::is_controlled_by(
                &present.metadata,
                pod.metadata.uid.as_deref().unwrap_or_default(),
            ) {
                continue;
            }
            let name = present.metadata.name.as_deref().unwrap_or_default();
            return Err(Error::other(format!(
                "PVC {}/{name} was not created for pod {key}",
                key.namespace
            )));
        }
        match ctx.create(store, &wanted).await {
            Err(error) if error.is_namespace_terminating() => return Ok(()),
            Err(error) => {
                let text = format!("PVC creation failed: {error}");
                ctx.recorder
                    .event(NAME, &*pod, Warning, "FailedCreate", text);
                return Err(error);
            }
            Ok(_) => {}
        }
    }
    Ok(())
}
