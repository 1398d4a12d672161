//! Creates the claims of generic ephemeral volumes, which are owned by their pods.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::common::{owners, pods};
use crate::context::{Context, Error, Result};
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

/// Registers event handlers and returns the controller's run loop. Call before the informers start.
pub fn start(ctx: &Context) -> impl Future<Output = ()> + Send + use<> {
    let queue: Queue<Key> = Queue::new();
    let informers = ctx.informers.clone();
    {
        let queue = queue.clone();
        informers.pods.on_change(move |change| {
            let pod = change.object();
            if change.old().is_none() && !change.is_deletion() && has_ephemeral(pod) {
                queue.add(Key::of(&pod.metadata));
            }
        });
    }
    {
        let queue = queue.clone();
        informers.claims.on_change(move |change| {
            if change.is_deletion()
                && let Some(pod) = owners::controller_name::<Pod>(&change.object().metadata)
            {
                queue.add(Key::new(
                    change
                        .object()
                        .metadata
                        .namespace
                        .clone()
                        .unwrap_or_default(),
                    pod,
                ));
            }
        });
    }
    let ctx = ctx.clone();
    async move {
        informers.pods.synced().await;
        informers.claims.synced().await;
        let ctx = &ctx;
        queue.work(NAME, 5, |key| sync(ctx, key)).await;
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
