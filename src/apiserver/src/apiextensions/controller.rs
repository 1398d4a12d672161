//! The controller of CustomResourceDefinitions: accepts names, sets conditions, serves the
//! resources, and deletes their objects with the definition.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use rkube_api::{Object, meta};
use rkube_store::Expect;

use super::definition::{self, GROUP, PLURAL};
use crate::aggregator;
use crate::backend::Backend;
use crate::cache::{Event, Filter};
use crate::call::Call;
use crate::codec::encode;
use crate::handlers::delete::delete_object;
use crate::handlers::error::HandlerError;
use crate::input::delete::DeleteOptions;
use crate::observer::CacheObserver;
use crate::resources::Resource;
use crate::storage::RestStorage;

/// Replaces the served custom resources by those of the established definitions in the cache.
pub fn sync(backend: &Backend) {
    let Some(cache) = backend.cache.existing(GROUP, PLURAL) else {
        return;
    };
    let mut custom = Vec::new();
    for object in cache.list(&Filter::default()) {
        let definition = object.tree();
        if definition::is_established(&definition) {
            let (rows, family) = definition::rows(&definition);
            custom
                .extend(rows.into_iter().map(|(row, what)| {
                    Resource::custom(row, what, family.clone(), &backend.cache)
                }));
        }
    }
    backend.resources.set_custom(custom);
}

/// Accepts names, establishes and serves definitions, and finalizes deleted ones.
pub struct DefinitionController {
    /// The storage of definitions and custom objects.
    pub storage: Arc<RestStorage>,
}

impl CacheObserver for DefinitionController {
    fn resources(&self) -> Vec<(&'static str, &'static str)> {
        vec![(GROUP, PLURAL)]
    }

    async fn resync(&mut self) {
        reconcile(&self.storage).await;
    }

    async fn handle_events(&mut self, _: usize, _: &[Arc<Event>]) {
        reconcile(&self.storage).await;
    }
}

async fn reconcile(storage: &Arc<RestStorage>) {
    let backend = &storage.backend;
    let Some(cache) = backend.cache.existing(GROUP, PLURAL) else {
        return;
    };
    let all: Vec<Arc<Object>> = cache
        .list(&Filter::default())
        .iter()
        .map(|o| o.tree())
        .collect();
    let mut names: HashMap<(String, String), String> = HashMap::new();
    for definition in &all {
        definition::claim_names(definition, &mut names);
    }
    for definition in &all {
        let status = definition::status(definition, &names);
        if status != definition["status"] {
            let mut new = (**definition).clone();
            new["status"] = status;
            store(backend, definition, new).await;
        } else if meta::deletion_timestamp(definition).is_some() {
            finalize(storage, definition).await;
        }
    }
    sync(backend);
    aggregator::local::sync_custom(backend, &all).await;
}

async fn store(backend: &Backend, old: &Object, mut new: Object) {
    let Ok(revision) = meta::resource_version(old).parse() else {
        return;
    };
    let key = format!("/registry/{GROUP}/{PLURAL}/{}", meta::name(old));
    let Ok(bytes) = encode(&mut new) else { return };
    // If the definition has changed meanwhile, its event triggers the controller again.
    if let Err(error) = backend
        .store
        .put(&key, bytes, Expect::Revision(revision))
        .await
    {
        tracing::debug!(%error, "a definition's status was not written");
    }
}

/// Deletes a definition's objects, then removes its finalizer.
fn finalize<'a>(storage: &'a Arc<RestStorage>, definition: &'a Object) -> BoxFuture<'a, ()> {
    Box::pin(empty(storage, definition))
}

async fn empty(storage: &Arc<RestStorage>, definition: &Object) {
    let backend = &storage.backend;
    if !meta::finalizers(definition).any(|f| f == definition::CLEANUP_FINALIZER) {
        return;
    }
    let snapshot = backend.resources.snapshot();
    let group = definition["spec"]["group"].as_str().unwrap_or_default();
    let plural = definition["spec"]["names"]["plural"]
        .as_str()
        .unwrap_or_default();
    let mut left = 0;
    if let Some(resource) = snapshot.by_group(group, plural) {
        let call = Call::internal("system:apiserver");
        let options = DeleteOptions {
            object: serde_json::json!({}),
            ..Default::default()
        };
        for object in resource.cache.list(&Filter::default()) {
            let result = delete_object(
                storage,
                &call,
                resource,
                &object.namespace,
                &object.name,
                &options,
            )
            .await;
            match result {
                Ok(deleted) if !deleted.gone => left += 1,
                Ok(_) | Err(HandlerError::NotFound(..)) => {}
                Err(_) => left += 1,
            }
        }
    }
    if left > 0 {
        // Other controllers remove the objects' finalizers. These are events of the objects, not of
        // the definition: retry later.
        look_again(storage, meta::name(definition).to_owned());
        return;
    }
    let mut new = definition.clone();
    let kept: Vec<String> = meta::finalizers(definition)
        .filter(|f| *f != definition::CLEANUP_FINALIZER)
        .map(str::to_owned)
        .collect();
    meta::set_finalizers(
        &mut new,
        &kept.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    if kept.is_empty() {
        let Ok(revision) = meta::resource_version(definition).parse() else {
            return;
        };
        let key = format!("/registry/{GROUP}/{PLURAL}/{}", meta::name(definition));
        if let Err(error) = backend.store.delete(&key, Expect::Revision(revision)).await {
            tracing::debug!(%error, "a definition was not deleted");
        }
    } else {
        store(backend, definition, new).await;
    }
}

/// Runs [`finalize`] again after one second.
fn look_again(storage: &Arc<RestStorage>, name: String) {
    let storage = Arc::downgrade(storage);
    let again: BoxFuture<'static, ()> = Box::pin(async move {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let Some(storage) = storage.upgrade() else {
            return;
        };
        let found = storage
            .backend
            .cache
            .existing(GROUP, PLURAL)
            .and_then(|c| c.get("", &name));
        if let Some(object) = found {
            finalize(&storage, &object.tree()).await;
        }
    });
    tokio::spawn(again);
}
