//! Making a server ready: caches filled, the objects of every cluster written.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use rkube_api::status::Status;
use rkube_api::{Object, meta};
use rkube_auth::admission::{Plugins, PluginsConfig};
use rkube_auth::authn::{Authenticators, AuthnConfig, FrontProxyConfig};
use rkube_auth::authz::Authorizer;
use rkube_auth::bootstrap::{self as objects, BootstrapConfig, BootstrapObject};
use rkube_auth::token::TokenSigner;
use rkube_store::{Expect, StoreError};
use rkube_strategy::Context;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::apiextensions::controller;
use crate::cache::{Cache, Filter, Watcher};
use crate::codec::encode;
use crate::reader::CacheReader;
use crate::resources::Resources;
use crate::{
    ApiServer, Config, Error, aggregator, audit, connect, events, fairness, inprocess, metrics,
    openapi, policies, services, webhooks,
};

/// Who writes what the server itself writes.
const SELF: &str = "system:apiserver";

/// Builds a server over the store and makes it ready.
pub async fn start(config: Config) -> Result<Arc<ApiServer>, Error> {
    let cache = Arc::new(Cache::new(config.store.clone()));
    // Selectable fields are known before the first object is read.
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
    let authorizer = Arc::new(Authorizer::new(reader.clone()));
    let plugins = Plugins::new(reader, authorizer.clone(), PluginsConfig::default());
    let signer = TokenSigner::from_pem(&config.pki.service_account_key, &issuer)
        .map_err(|e| Error::Pki(e.to_string()))?;
    let streams = connect::Transports::new(&config.pki)?;
    let audit = config.audit.as_ref().map(audit::Audit::open).transpose()?;
    let aggregator = aggregator::Aggregator::new(&config.pki)?;
    let shutdown = CancellationToken::new();
    let server = Arc::new(ApiServer {
        store: config.store.clone(),
        cache: cache.clone(),
        resources,
        authenticators,
        authorizer,
        plugins,
        signer,
        fairness: fairness::Fairness::default(),
        audit,
        metrics: metrics::Metrics::default(),
        streams,
        webhooks: webhooks::Webhooks::default(),
        policies: policies::Policies::default(),
        openapi: openapi::Documents::default(),
        aggregator,
        components: inprocess::Components::default(),
        bookmarks: tokio::sync::watch::Sender::new(0),
        started: Instant::now(),
        shutdown: shutdown.clone(),
        config,
    });
    controller::sync(&server);

    let stop = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = cache.follow(changes) => {}
            () = stop.cancelled() => {}
        }
    });
    write_objects(&server).await?;
    // Services from before there were reservations get theirs before anybody
    // can be given what they have.
    services::repair(&server, jiff::Timestamp::now()).await?;
    server.cache.consistent().await;

    tokio::spawn(events::upkeep(Arc::downgrade(&server), shutdown.clone()));
    tokio::spawn(controller::follow(
        Arc::downgrade(&server),
        shutdown.clone(),
    ));
    fairness::read(&server);
    tokio::spawn(fairness::follow(Arc::downgrade(&server), shutdown.clone()));
    tokio::spawn(aggregator::follow(
        Arc::downgrade(&server),
        shutdown.clone(),
    ));
    tokio::spawn(policies::follow(Arc::downgrade(&server), shutdown.clone()));
    for (group, plural) in [
        ("", "namespaces"),
        ("", "services"),
        ("", "endpoints"),
        ("discovery.k8s.io", "endpointslices"),
        ("", "configmaps"),
    ] {
        tokio::spawn(guard(
            Arc::downgrade(&server),
            group,
            plural,
            shutdown.clone(),
        ));
    }
    Ok(server)
}

/// Writes what is missing or has been changed, all at once, so that the store
/// takes it in few commits.
async fn write_objects(server: &Arc<ApiServer>) -> Result<(), Error> {
    let all = objects::objects(&BootstrapConfig::default());
    let defaults = all
        .into_iter()
        .map(|expected| async move { reconcile(server, expected).await });
    let range = json!({
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": [server.config.service_cidr.to_string()]},
    });
    let range = ("networking.k8s.io", "servicecidrs", range);
    let own =
        services::kubernetes_service(server)
            .into_iter()
            .chain([range])
            .map(|(group, plural, wanted)| async move {
                ensure(server, group, plural, wanted, true).await
            });
    let authentication = aggregate_authentication(server)
        .into_iter()
        .map(|wanted| async move { ensure(server, "", "configmaps", wanted, true).await });
    let (defaults, own, authentication, ()) = futures::future::join4(
        futures::future::join_all(defaults),
        futures::future::join_all(own),
        futures::future::join_all(authentication),
        aggregator::local::write_builtin(server),
    )
    .await;
    for result in defaults.into_iter().chain(own).chain(authentication) {
        result.map_err(|e| Error::Bootstrap(e.message))?;
    }
    Ok(())
}

/// A default object: made when missing, repaired when it must be as it was.
async fn reconcile(server: &Arc<ApiServer>, expected: BootstrapObject) -> Result<(), Status> {
    let snapshot = server.resources.snapshot();
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
            server,
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
        // Another roleRef: a binding is replaced, not changed.
        match server
            .store
            .delete(&key, Expect::Revision(found.revision))
            .await
        {
            Ok(_) | Err(StoreError::Conflict { found: None }) => {}
            Err(error) => return Err(Status::internal(error)),
        }
        return create(server, resource, wanted).await;
    }
    let bytes = encode(&mut wanted)?;
    match server
        .store
        .put(&key, bytes, Expect::Revision(found.revision))
        .await
    {
        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(error) => Err(Status::internal(error)),
    }
}

/// Makes an object that is missing; with `restore`, one that is there gets
/// back the fields that `wanted` names.
pub async fn ensure(
    server: &Arc<ApiServer>,
    group: &str,
    plural: &str,
    wanted: Object,
    restore: bool,
) -> Result<(), Status> {
    let snapshot = server.resources.snapshot();
    let Some(resource) = snapshot.by_group(group, plural) else {
        return Err(Status::internal(format!("{plural} is not served")));
    };
    let found = resource
        .cache
        .get(meta::namespace(&wanted), meta::name(&wanted));
    let Some(found) = found else {
        return create(server, resource, wanted).await;
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
    match server
        .store
        .put(&key, bytes, Expect::Revision(found.revision))
        .await
    {
        // Lost to another writer: the watch that led here will lead here again.
        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(error) => Err(Status::internal(error)),
    }
}

/// Sets in `object` what `wanted` says; maps are merged, all else is replaced.
fn overlay(object: &mut Value, wanted: &Value) {
    match (object, wanted) {
        (Value::Object(object), Value::Object(wanted)) => {
            for (key, value) in wanted {
                overlay(object.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        // Items may carry defaults that `wanted` leaves out.
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
    server: &Arc<ApiServer>,
    resource: &crate::resources::Resource,
    mut object: Object,
) -> Result<(), Status> {
    let now = Timestamp::now();
    let strategy = resource.strategy();
    meta::set_type(&mut object, &resource.storage_api_version(), &resource.kind);
    strategy.default(&mut object);
    meta::set_uid(&mut object, &crate::new_uid());
    meta::set_creation_timestamp(&mut object, &meta::rfc3339(now));
    strategy.prepare_create(&Context::new(now, SELF), &mut object);
    let key = resource.key(meta::namespace(&object), meta::name(&object));
    let bytes = encode(&mut object)?;
    match server.store.put(&key, bytes, Expect::Absent).await {
        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(error) => Err(Status::internal(error)),
    }
}

/// Brings back what every cluster has when someone deletes or breaks it.
async fn guard(
    server: std::sync::Weak<ApiServer>,
    group: &'static str,
    plural: &'static str,
    stop: CancellationToken,
) {
    loop {
        let mut watcher = {
            let Some(server) = server.upgrade() else {
                return;
            };
            let cache = server.cache.resource(group, plural);
            let (_, position) = cache.snapshot(&Filter::nothing(), 0);
            let wanted = wanted(&server, plural);
            for (plural, object) in wanted {
                if let Err(error) =
                    ensure(&server, group, plural, object, plural != "namespaces").await
                {
                    tracing::warn!(%error, plural, "an object of every cluster could not be restored");
                }
            }
            Watcher::new(cache, position)
        };
        loop {
            let events = tokio::select! {
                () = stop.cancelled() => return,
                events = watcher.next() => events,
            };
            let Ok(events) = events else { break };
            let Some(server) = server.upgrade() else {
                return;
            };
            let touched = wanted(&server, plural).into_iter().filter(|(_, object)| {
                events.iter().any(|e| {
                    *e.object.name == *meta::name(object)
                        && *e.object.namespace == *meta::namespace(object)
                })
            });
            for (plural, object) in touched {
                if let Err(error) =
                    ensure(&server, group, plural, object, plural != "namespaces").await
                {
                    tracing::warn!(%error, plural, "an object of every cluster could not be restored");
                }
            }
        }
    }
}

/// What aggregated API servers need to tell who asks them: the authority of
/// users' certificates, and that of the front proxy with the headers it sets.
fn aggregate_authentication(server: &ApiServer) -> Option<Object> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let pki = &server.config.pki;
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

fn wanted(server: &ApiServer, plural: &str) -> Vec<(&'static str, Object)> {
    if plural == "namespaces" {
        return objects::SYSTEM_NAMESPACES
            .iter()
            .map(|name| {
                ("namespaces", serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
            })
            .collect();
    }
    if plural == "configmaps" {
        return aggregate_authentication(server)
            .into_iter()
            .map(|object| ("configmaps", object))
            .collect();
    }
    services::kubernetes_service(server)
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
