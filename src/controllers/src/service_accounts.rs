//! Objects in every namespace: the service account `default`, and the config map `kube-root-ca.crt`
//! with the cluster's CA certificate.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::context::{Context, Result};
use crate::informers::{Change, Key, Object, Store};
use crate::kinds::ROOT_CA;
use crate::queue::Queue;

const DEFAULT: &str = "default";
/// Number of namespaces processed concurrently.
const CONCURRENCY: usize = 5;
/// Annotation that explains the config map to users.
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "The CA certificate by which pods of this namespace verify the API server.",
);

fn is_active(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_none()
        && namespace
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref())
            != Some("Terminating")
}

/// Returns a queue of namespaces. One is added when it changes, or when the object `name` in it
/// does.
fn queue_for<K: Object>(ctx: &Context, store: &Store<K>, name: &'static str) -> Queue<Key> {
    let queue: Queue<Key> = Queue::new();
    {
        let queue = queue.clone();
        ctx.informers.namespaces.on_change(move |change| {
            if !change.is_deletion() {
                queue.add(Key::of(&change.object().metadata));
            }
        });
    }
    {
        let queue = queue.clone();
        store.on_change(move |change| {
            let meta = change.object().metadata();
            if !matches!(change, Change::Added(_)) && meta.name.as_deref() == Some(name) {
                queue.add(Key::new("", meta.namespace.clone().unwrap_or_default()));
            }
        });
    }
    queue
}

fn there_or_going(outcome: Result<()>) -> Result<()> {
    match outcome {
        Err(error)
            if error.is_already_exists()
                || error.is_namespace_terminating()
                || error.is_not_found() =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Registers event handlers and returns the run loop of the service account controller. Call before
/// the informers start.
pub fn start(ctx: &Context) -> impl Future<Output = ()> + Send + use<> {
    let accounts = ctx.informers.service_accounts.clone();
    let queue = queue_for(ctx, &accounts, DEFAULT);
    let ctx = ctx.clone();
    async move {
        ctx.informers.namespaces.synced().await;
        accounts.synced().await;
        let (ctx, accounts) = (&ctx, &accounts);
        queue
            .work(
                "service-account-controller",
                CONCURRENCY,
                |key| async move {
                    let namespace = ctx.informers.namespaces.by_key(&key);
                    if !namespace.is_some_and(|namespace| is_active(&namespace))
                        || accounts.get(&key.name, DEFAULT).is_some()
                    {
                        return Ok(());
                    }
                    let account = ServiceAccount {
                        metadata: ObjectMeta {
                            name: Some(DEFAULT.into()),
                            namespace: Some(key.name),
                            ..Default::default()
                        },
                        ..Default::default()
                    };
                    there_or_going(ctx.create(accounts, &account).await.map(drop))
                },
            )
            .await;
    }
}

/// Returns the desired config map.
fn root_ca(namespace: &str, certificate: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(ROOT_CA.into()),
            namespace: Some(namespace.into()),
            annotations: Some([(DESCRIPTION.0.to_owned(), DESCRIPTION.1.to_owned())].into()),
            ..Default::default()
        },
        data: Some(BTreeMap::from([(
            "ca.crt".to_owned(),
            certificate.to_owned(),
        )])),
        ..Default::default()
    }
}

/// Registers event handlers and returns the run loop of the CA certificate's publisher. Call before
/// the informers start.
pub fn publish_root_ca(ctx: &Context) -> impl Future<Output = ()> + Send + use<> {
    let maps = ctx.informers.root_cas.clone();
    let queue = queue_for(ctx, &maps, ROOT_CA);
    let ctx = ctx.clone();
    async move {
        ctx.informers.namespaces.synced().await;
        maps.synced().await;
        let (ctx, maps) = (&ctx, &maps);
        queue
            .work(
                "root-ca-certificate-publisher-controller",
                CONCURRENCY,
                |key| async move {
                    let namespace = ctx.informers.namespaces.by_key(&key);
                    if !namespace.is_some_and(|namespace| is_active(&namespace)) {
                        return Ok(());
                    }
                    let wanted = root_ca(&key.name, &ctx.config.ca_cert_pem);
                    let outcome = match maps.get(&key.name, ROOT_CA) {
                        None => ctx.create(maps, &wanted).await.map(drop),
                        Some(present)
                            if present.data == wanted.data
                                && present.metadata.annotations.is_some() =>
                        {
                            Ok(())
                        }
                        Some(present) => {
                            let mut changed = ConfigMap::clone(&present);
                            changed.data = wanted.data;
                            let annotations = changed.metadata.annotations.get_or_insert_default();
                            annotations.extend(wanted.metadata.annotations.unwrap_or_default());
                            ctx.update(maps, &changed).await.map(drop)
                        }
                    };
                    there_or_going(outcome)
                },
            )
            .await;
    }
}
