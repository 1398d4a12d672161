//! `get` and `list`.

use std::sync::Arc;

use rkube_api::status::Status;

use super::error::HandlerError;
use crate::backend::Backend;
use crate::cache::{CachedObject, Filter};
use crate::call::Call;
use crate::input::list::{Continue, ListOptions};
use crate::outcome::{ListMeta, Outcome};
use crate::resources::Resource;
use crate::store_error::{store_error, too_large};

/// Returns one object, at least as new as `revision`.
pub async fn get(
    backend: &Backend,
    call: &Call,
    resource: &Resource,
    revision: Option<u64>,
) -> Result<Outcome, HandlerError> {
    match revision {
        None => backend.cache.try_consistent().await?,
        Some(revision) => at_least(backend, revision).await?,
    };
    let name = &call.info.name;
    let object = resource
        .cache
        .get(&resource.namespace_of(&call.info), name)
        .ok_or_else(|| HandlerError::NotFound(resource.group_resource(), name.clone()))?;
    Ok(Outcome::Cached(object))
}

/// Waits a short time for a revision that the store may not have reached.
///
/// # Errors
///
/// 504 if it is not reached in time.
pub async fn at_least(backend: &Backend, revision: u64) -> Result<u64, Status> {
    if backend.cache.revision() >= revision {
        return Ok(backend.cache.revision());
    }
    let wait = std::time::Duration::from_secs(3);
    match tokio::time::timeout(wait, backend.cache.reached(revision)).await {
        Ok(now) => Ok(now),
        Err(_) => Err(too_large(revision, backend.cache.revision())),
    }
}

fn key_of(object: &CachedObject) -> String {
    if object.namespace.is_empty() {
        object.name.to_string()
    } else {
        format!("{}/{}", object.namespace, object.name)
    }
}

/// Returns a list, or a page of it.
pub async fn list(
    backend: &Backend,
    resource: &Resource,
    options: &ListOptions,
) -> Result<Outcome, HandlerError> {
    let filter = resource.stored_filter(&options.filter);
    let request = ListRequest {
        backend,
        resource,
        options,
    };
    if let Some(token) = &options.token {
        return request.next_page(&filter, token).await;
    }
    let (limit, revision) = (options.limit, options.revision);
    if let Some(revision) = revision.filter(|_| options.exact) {
        at_least(backend, revision).await?;
        if backend.compaction.has_compacted(revision) {
            let why = "The resourceVersion for the provided list is too old.";
            return Err(Status::gone(why).into());
        }
        let now = backend.cache.revision();
        if revision == now || resource.cache.last_change() <= revision {
            return request.page(resource.cache.list(&filter), revision).await;
        }
        let items = past(backend, resource, &filter, revision).await?;
        return request.page(items, revision).await;
    }
    match revision {
        None => backend.cache.try_consistent().await?,
        Some(revision) => at_least(backend, revision).await?,
    };
    let (mut items, mut revision) = backend.current(resource, &filter);
    if limit > 0 && items.len() > limit {
        let (all, now) = resource.cache.first_page(backend.cache.revision());
        items = filtered(&all, &filter);
        revision = now;
    }
    request.page(items, revision).await
}

impl Backend {
    /// Returns the current objects and a revision that they include.
    pub fn current(&self, resource: &Resource, filter: &Filter) -> (Vec<Arc<CachedObject>>, u64) {
        // Read the revision first. Changes applied meanwhile have a higher revision; a watch from
        // this one repeats them instead of missing them.
        let revision = self.cache.revision();
        let (items, newest) = resource.cache.list_with_revision(filter);
        (items, revision.max(newest))
    }
}

fn filtered(items: &[Arc<CachedObject>], filter: &Filter) -> Vec<Arc<CachedObject>> {
    items
        .iter()
        .filter(|o| filter.matches(o))
        .cloned()
        .collect()
}

/// Returns the objects of a resource at a past revision, from the store's history.
async fn past(
    backend: &Backend,
    resource: &Resource,
    filter: &Filter,
    revision: u64,
) -> Result<Vec<Arc<CachedObject>>, Status> {
    let options = rkube_store::ListOptions {
        revision: Some(revision),
        ..Default::default()
    };
    let page = backend
        .store
        .list(resource.prefix(), options)
        .await
        .map_err(|e| store_error(resource, "", e))?;
    Ok(page
        .items
        .iter()
        .filter_map(|kv| resource.read(kv))
        .filter(|o| filter.matches(o))
        .map(Arc::new)
        .collect())
}

/// A list request, of which each page is made in the same way.
struct ListRequest<'a> {
    backend: &'a Backend,
    resource: &'a Resource,
    options: &'a ListOptions,
}

impl ListRequest<'_> {
    /// Returns the first of the objects, all of which are of this revision.
    async fn page(
        &self,
        items: Vec<Arc<CachedObject>>,
        revision: u64,
    ) -> Result<Outcome, HandlerError> {
        let mut meta = ListMeta {
            revision,
            ..ListMeta::default()
        };
        let (limit, filter) = (self.options.limit, &self.options.filter);
        let mut items = self.backend.select(self.resource, items, filter).await?;
        if limit > 0 && items.len() > limit {
            let remaining = items.len() - limit;
            items.truncate(limit);
            meta.next = items
                .last()
                .map(|last| Continue::after(Some(revision), &key_of(last)).encode())
                .unwrap_or_default();
            if !filter.has_selectors() {
                meta.remaining = Some(remaining as u64);
            }
        }
        Ok(Outcome::List(items, meta))
    }

    /// Returns the page that a token names. `filter` selects stored objects.
    async fn next_page(&self, filter: &Filter, token: &Continue) -> Result<Outcome, HandlerError> {
        let (backend, resource) = (self.backend, self.resource);
        let expired = || HandlerError::Expired(Continue::after(None, token.start()));
        let (mut items, revision) = match token.revision() {
            // A token without a revision continues with the current state.
            None => {
                backend.cache.try_consistent().await?;
                backend.current(resource, filter)
            }
            Some(revision) => {
                if backend.compaction.has_compacted(revision) {
                    return Err(expired());
                }
                if let Some(all) = resource.cache.further_page(revision) {
                    let rest = all.partition_point(|item| key_of(item).as_str() <= token.start());
                    (filtered(&all[rest..], filter), revision)
                } else if resource.cache.last_change() <= revision {
                    (resource.cache.list(filter), revision)
                } else {
                    match past(backend, resource, filter, revision).await {
                        Ok(items) => (items, revision),
                        Err(status) if status.code == 410 => return Err(expired()),
                        Err(status) => return Err(status.into()),
                    }
                }
            }
        };
        items.retain(|item| key_of(item).as_str() > token.start());
        self.page(items, revision).await
    }
}
