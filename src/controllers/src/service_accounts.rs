//! Objects in every namespace: the service account `default`, and the config map `kube-root-ca.crt`
//! with the cluster's CA certificate.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::context::{Context, Result};
use crate::controller::{Controller, Watches};
use crate::informers::{Change, Key, Object, Store};
use crate::kinds::ROOT_CA;
use crate::queue::Queue;

const DEFAULT: &str = "default";
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

/// Declares that a namespace is due when it changes, or when the object `name` in it does.
fn watch_namespaces<K: Object>(
    watches: &mut Watches<Key>,
    ctx: &Context,
    store: &Store<K>,
    name: &'static str,
) {
    watches
        .present(&ctx.informers.namespaces)
        .watches(store, move |change, queue| {
            let meta = change.object().metadata();
            if !matches!(change, Change::Added(_)) && meta.name.as_deref() == Some(name) {
                queue.add(Key::new("", meta.namespace.clone().unwrap_or_default()));
            }
        });
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

/// The controller of the service account `default` of every namespace.
pub struct ServiceAccountController {
    ctx: Context,
    queue: Queue<Key>,
}

impl ServiceAccountController {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
        }
    }
}

impl Controller for ServiceAccountController {
    type Item = Key;

    fn name(&self) -> &'static str {
        "service-account-controller"
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        let accounts = &self.ctx.informers.service_accounts;
        watch_namespaces(watches, &self.ctx, accounts, DEFAULT);
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        let ctx = &self.ctx;
        let accounts = &ctx.informers.service_accounts;
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

/// The controller that publishes the CA certificate in every namespace.
pub struct RootCaPublisher {
    ctx: Context,
    queue: Queue<Key>,
}

impl RootCaPublisher {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
        }
    }
}

impl Controller for RootCaPublisher {
    type Item = Key;

    fn name(&self) -> &'static str {
        "root-ca-certificate-publisher-controller"
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        watch_namespaces(watches, &self.ctx, &self.ctx.informers.root_cas, ROOT_CA);
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        let ctx = &self.ctx;
        let maps = &ctx.informers.root_cas;
        let namespace = ctx.informers.namespaces.by_key(&key);
        if !namespace.is_some_and(|namespace| is_active(&namespace)) {
            return Ok(());
        }
        let wanted = root_ca(&key.name, &ctx.config.ca_cert_pem);
        let outcome = match maps.get(&key.name, ROOT_CA) {
            None => ctx.create(maps, &wanted).await.map(drop),
            Some(present)
                if present.data == wanted.data && present.metadata.annotations.is_some() =>
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
    }
}
