//! Startup: fills the caches, writes the bootstrap objects and starts the server's controllers.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use rkube_admission::{Plugins, PluginsConfig};
use rkube_api::status::Status;
use rkube_api::{Object, meta};
use rkube_auth::authn::{Authenticators, AuthnConfig, FrontProxyConfig};
use rkube_auth::authz::Authorizer;
use rkube_auth::bootstrap::{self as objects, BootstrapConfig, BootstrapObject};
use rkube_auth::token::TokenSigner;
use rkube_store::{Expect, StoreError};
use rkube_strategy::Context;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::admission::chain::AdmissionChain;
use crate::aggregator::AggregationController;
use crate::apiextensions::controller::{self as definitions, DefinitionController};
use crate::backend::Backend;
use crate::cache::{Cache, Event};
use crate::certificates::Certificates;
use crate::codec::encode;
use crate::compaction::Compaction;
use crate::flowcontrol::FlowController;
use crate::observer::{self, CacheObserver};
use crate::policies::{Policies, TypeChecker};
use crate::reader::CacheReader;
use crate::resources::Resources;
use crate::storage::RestStorage;
use crate::uid::new_uid;
use crate::webhooks::Webhooks;
use crate::webhooks::client::WebhookClient;
use crate::{
    ApiServer, Config, Error, Security, aggregator, audit, connect, events, flowcontrol, inprocess,
    metrics, openapi, services,
};
use rkube_fairness::Fairness;

/// The user name under which the server itself writes.
const SELF: &str = "system:apiserver";

/// Builds a server on top of the store; returns once it can serve requests.
pub async fn start(config: Config) -> Result<Arc<ApiServer>, Error> {
    let cache = Arc::new(Cache::new(config.store.clone()));
    // Selectable fields must be known before the first object is cached.
    let resources = Resources::new(&cache);
    let changes = cache.load().await?;

    let reader = Arc::new(CacheReader(cache.clone()));
    let issuer = format!("https://kubernetes.default.svc.{}", config.dns_domain);
    let authn = AuthnConfig {
        client_ca_pem: config.pki.ca_cert.clone(),
        front_proxy: config
            .pki
            .front_proxy_ca_cert
            .clone()
            .map(|ca_pem| FrontProxyConfig {
                ca_pem,
                allowed_names: vec!["front-proxy-client".into()],
            }),
        service_account_keys_pem: vec![config.pki.service_account_pub.clone()],
        issuer: issuer.clone(),
        api_audiences: vec![issuer.clone()],
    };
    let authenticators =
        Authenticators::new(authn, reader.clone()).map_err(|e| Error::Pki(e.to_string()))?;
    let (token_use, token_notes) = crate::token_use::notes();
    let authenticators = authenticators.on_token_use(token_use);
    let authorizer = Arc::new(Authorizer::new(reader.clone()));
    let plugins = Plugins::new(reader, authorizer.clone(), PluginsConfig::default());
    let signer = TokenSigner::from_pem(&config.pki.service_account_key, &issuer)
        .map_err(|e| Error::Pki(e.to_string()))?;
    let certificates = Certificates::new(&config.pki)?;
    let transports = connect::Transports::new(&config.pki, certificates.kubelet_client.clone())?;
    let audit = config.audit.as_ref().map(audit::Audit::open).transpose()?;
    let aggregator = aggregator::remote::Aggregator::new(certificates.front_proxy.clone());
    let backend = Arc::new(Backend {
        webhook_client: Arc::new(WebhookClient::new(
            cache.clone(),
            config.pki.ca_cert.clone(),
        )),
        store: config.store.clone(),
        cache: cache.clone(),
        resources,
        compaction: Compaction::default(),
        bookmarks: tokio::sync::watch::Sender::new(0),
        shutdown: CancellationToken::new(),
        config,
    });
    let policies = Arc::new(Policies::default());
    let storage = Arc::new(RestStorage {
        backend: backend.clone(),
        admission: AdmissionChain {
            plugins,
            authorizer: authorizer.clone(),
            webhooks: Webhooks::new(policies.clone()),
            policies,
        },
    });
    let server = Arc::new(ApiServer {
        storage: storage.clone(),
        security: Security {
            authenticators,
            authorizer,
            signer,
        },
        fairness: Arc::new(Fairness::default()),
        audit,
        metrics: metrics::Metrics::default(),
        certificates,
        transports,
        openapi: openapi::Documents::default(),
        aggregator: Arc::new(aggregator),
        usage: Arc::default(),
        components: inprocess::Components::default(),
        started: Instant::now(),
    });
    definitions::sync(&backend);

    let stop = backend.shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = cache.follow(changes) => {}
            () = stop.cancelled() => {}
        }
    });
    write_objects(&backend).await?;
    // Reserve the addresses and ports of services that have no reservations, before any write can
    // allocate them.
    services::repair(&backend, jiff::Timestamp::now()).await?;
    backend.cache.consistent().await;
    flowcontrol::read(&backend, &server.fairness);
    start_controllers(&server);
    tokio::spawn(crate::token_use::write(
        Arc::downgrade(&server),
        token_notes,
    ));
    Ok(server)
}

/// Starts the server's controllers, which run until it shuts down.
fn start_controllers(server: &ApiServer) {
    let backend = server.backend();
    tokio::spawn(events::upkeep(backend.clone()));
    let definitions = DefinitionController {
        storage: server.storage.clone(),
    };
    tokio::spawn(observer::run(definitions, backend.clone()));
    let flows = FlowController::new(backend.clone(), server.fairness.clone());
    tokio::spawn(observer::run(flows, backend.clone()));
    let aggregation = AggregationController {
        backend: backend.clone(),
        aggregator: server.aggregator.clone(),
    };
    tokio::spawn(observer::run(aggregation, backend.clone()));
    let type_checker = TypeChecker {
        backend: backend.clone(),
    };
    tokio::spawn(observer::run(type_checker, backend.clone()));
    for (group, plural) in [
        ("", "namespaces"),
        ("", "services"),
        ("", "endpoints"),
        ("discovery.k8s.io", "endpointslices"),
        ("", "configmaps"),
    ] {
        let guard = RestoreController {
            backend: backend.clone(),
            group,
            plural,
        };
        tokio::spawn(observer::run(guard, backend.clone()));
    }
}

/// Writes the bootstrap objects that are missing or changed. All writes run concurrently, so that
/// the store needs few commits.
async fn write_objects(backend: &Backend) -> Result<(), Error> {
    let all = objects::objects(&BootstrapConfig::default());
    let defaults = all
        .into_iter()
        .map(|expected| async move { reconcile(backend, expected).await });
    let cidrs = backend.config.service_cidrs.iter();
    let cidrs: Vec<String> = cidrs.map(|range| range.trunc().to_string()).collect();
    let range = json!({
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": cidrs},
    });
    let range = ("networking.k8s.io", "servicecidrs", range);
    let own = services::kubernetes_service(backend)
        .into_iter()
        .chain([range])
        .map(|(group, plural, wanted)| async move {
            ensure(backend, group, plural, wanted, true).await
        });
    let authentication = aggregate_authentication(backend)
        .into_iter()
        .map(|wanted| async move { ensure(backend, "", "configmaps", wanted, true).await });
    let (defaults, own, authentication, ()) = futures::future::join4(
        futures::future::join_all(defaults),
        futures::future::join_all(own),
        futures::future::join_all(authentication),
        aggregator::local::write_builtin(backend),
    )
    .await;
    for result in defaults.into_iter().chain(own).chain(authentication) {
        result.map_err(|e| Error::Bootstrap(e.message))?;
    }
    Ok(())
}

/// Creates a bootstrap object if it is missing, or restores its fields if they must not change.
async fn reconcile(backend: &Backend, expected: BootstrapObject) -> Result<(), Status> {
    let snapshot = backend.resources.snapshot();
    let Some(resource) = snapshot.by_group(expected.group, expected.resource) else {
        return Err(Status::internal(format!(
            "{} is not served",
            expected.resource
        )));
    };
    let name = meta::name(&expected.object);
    let found = resource.cache.get(meta::namespace(&expected.object), name);
    let Some(found) = found else {
        return ensure(
            backend,
            expected.group,
            expected.resource,
            expected.object,
            false,
        )
        .await;
    };
    let Some(mut wanted) = objects::reconcile(&found.parse(), &expected) else {
        return Ok(());
    };
    let key = resource.key(meta::namespace(&wanted), name);
    if meta::resource_version(&wanted).is_empty() {
        // The roleRef has changed and is immutable: replace the binding.
        match backend
            .store
            .delete(&key, Expect::Revision(found.revision))
            .await
        {
            Ok(_) | Err(StoreError::Conflict { found: None }) => {}
            Err(error) => return Err(Status::internal(error)),
        }
        return create(backend, resource, wanted).await;
    }
    let bytes = encode(&mut wanted)?;
    match backend
        .store
        .put(&key, bytes, Expect::Revision(found.revision))
        .await
    {
        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(error) => Err(Status::internal(error)),
    }
}

/// Creates an object if it is missing. With `restore`, also resets the fields that `wanted` names
/// in an existing object.
pub async fn ensure(
    backend: &Backend,
    group: &str,
    plural: &str,
    wanted: Object,
    restore: bool,
) -> Result<(), Status> {
    let snapshot = backend.resources.snapshot();
    let Some(resource) = snapshot.by_group(group, plural) else {
        return Err(Status::internal(format!("{plural} is not served")));
    };
    let found = resource
        .cache
        .get(meta::namespace(&wanted), meta::name(&wanted));
    let Some(found) = found else {
        return create(backend, resource, wanted).await;
    };
    if !restore || meta::deletion_timestamp(&found.tree()).is_some() {
        return Ok(());
    }
    let old = found.parse();
    let mut new = old.clone();
    overlay(&mut new, &wanted);
    if new == old {
        return Ok(());
    }
    let bytes = encode(&mut new)?;
    let key = resource.key(meta::namespace(&wanted), meta::name(&wanted));
    match backend
        .store
        .put(&key, bytes, Expect::Revision(found.revision))
        .await
    {
        // Another writer was faster; its event triggers the controller again.
        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(error) => Err(Status::internal(error)),
    }
}

/// Merges `wanted` into `object`: objects are merged recursively, all other values are replaced.
fn overlay(object: &mut Value, wanted: &Value) {
    match (object, wanted) {
        (Value::Object(object), Value::Object(wanted)) => {
            for (key, value) in wanted {
                overlay(object.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        // Merge per item: items may have defaults that `wanted` omits.
        (Value::Array(object), Value::Array(wanted)) if object.len() == wanted.len() => {
            object
                .iter_mut()
                .zip(wanted)
                .for_each(|(o, w)| overlay(o, w));
        }
        (object, wanted) => *object = wanted.clone(),
    }
}

async fn create(
    backend: &Backend,
    resource: &crate::resources::Resource,
    mut object: Object,
) -> Result<(), Status> {
    let now = Timestamp::now();
    let strategy = resource.strategy();
    meta::set_type(&mut object, &resource.storage_api_version(), &resource.kind);
    strategy.default(&mut object);
    meta::set_uid(&mut object, &new_uid());
    meta::set_creation_timestamp(&mut object, &meta::rfc3339(now));
    strategy.prepare_create(&Context::new(now, SELF), &mut object);
    let key = resource.key(meta::namespace(&object), meta::name(&object));
    let bytes = encode(&mut object)?;
    match backend.store.put(&key, bytes, Expect::Absent).await {
        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(error) => Err(Status::internal(error)),
    }
}

/// Restores bootstrap objects when they are deleted or changed.
struct RestoreController {
    backend: Arc<Backend>,
    group: &'static str,
    plural: &'static str,
}

impl RestoreController {
    async fn restore(&self, objects: impl Iterator<Item = (&'static str, Object)>) {
        for (plural, object) in objects {
            let restore = plural != "namespaces";
            if let Err(error) = ensure(&self.backend, self.group, plural, object, restore).await {
                tracing::warn!(%error, plural, "an object of every cluster could not be restored");
            }
        }
    }
}

impl CacheObserver for RestoreController {
    fn resources(&self) -> Vec<(&'static str, &'static str)> {
        vec![(self.group, self.plural)]
    }

    async fn resync(&mut self) {
        self.restore(objects_to_restore(&self.backend, self.plural).into_iter())
            .await;
    }

    async fn handle_events(&mut self, _: usize, events: &[Arc<Event>]) {
        let touched: Vec<_> = objects_to_restore(&self.backend, self.plural)
            .into_iter()
            .filter(|(_, object)| {
                events.iter().any(|e| {
                    *e.object.name == *meta::name(object)
                        && *e.object.namespace == *meta::namespace(object)
                })
            })
            .collect();
        self.restore(touched.into_iter()).await;
    }
}

/// Returns the ConfigMap `extension-apiserver-authentication`, from which aggregated API servers
/// learn how to authenticate requests: the client CA, and the front-proxy CA with its headers.
fn aggregate_authentication(backend: &Backend) -> Option<Object> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let pki = &backend.config.pki;
    let mut data = serde_json::json!({"client-ca-file": text(&pki.ca_cert)});
    if let Some(front_proxy) = &pki.front_proxy_ca_cert {
        data["requestheader-client-ca-file"] = text(front_proxy).into();
        for (key, value) in [
            ("requestheader-allowed-names", r#"["front-proxy-client"]"#),
            (
                "requestheader-extra-headers-prefix",
                r#"["X-Remote-Extra-"]"#,
            ),
            ("requestheader-group-headers", r#"["X-Remote-Group"]"#),
            ("requestheader-uid-headers", r#"["X-Remote-Uid"]"#),
            ("requestheader-username-headers", r#"["X-Remote-User"]"#),
        ] {
            data[key] = value.into();
        }
    }
    Some(serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": data,
    }))
}

fn objects_to_restore(backend: &Backend, plural: &str) -> Vec<(&'static str, Object)> {
    if plural == "namespaces" {
        return objects::SYSTEM_NAMESPACES
            .iter()
            .map(|name| {
                ("namespaces", serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
            })
            .collect();
    }
    if plural == "configmaps" {
        return aggregate_authentication(backend)
            .into_iter()
            .map(|object| ("configmaps", object))
            .collect();
    }
    services::kubernetes_service(backend)
        .into_iter()
        .filter(|(_, p, _)| *p == plural)
        .map(|(_, plural, object)| (plural, object))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn overlays_restore_what_they_name() {
        let mut object =
            json!({"spec": {"ports": [{"port": 1, "x": 2}], "other": 3}, "labels": {"a": "b"}});
        overlay(&mut object, &json!({"spec": {"ports": [{"port": 443}]}}));
        assert_eq!(
            object,
            json!({"spec": {"ports": [{"port": 443, "x": 2}], "other": 3}, "labels": {"a": "b"}})
        );
    }
}
