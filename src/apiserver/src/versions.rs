//! Conversion of objects between their stored version and the version of the request.
//!
//! Objects are processed in a hub version. For built-in kinds this is the storage version, which
//! all objects of a kind share. For custom resources it is the request's version: defaults, schemas
//! and field ownership are defined per version. Each custom object is stored in the version that
//! was the storage version when it was last written.

use std::sync::Arc;

use bytes::Bytes;
use rkube_api::schema::{Type, TypeRef};
use rkube_api::status::{FieldError, Status};
use rkube_api::{Object, apply, fields, meta};
use tokio::runtime::Handle;

use crate::apiextensions::version::CrdVersion;
use crate::apiextensions::versions::CrdVersions;
use crate::backend::Backend;
use crate::cache::{CachedObject, Event, EventKind, Filter};
use crate::resources::Resource;
use crate::webhooks::client::WebhookClient;

/// Returns the `apiVersion` of encoded JSON if it is the first member, as in everything that this
/// server writes.
fn api_version(json: &[u8]) -> Option<&[u8]> {
    let rest = json.strip_prefix(b"{\"apiVersion\":\"")?;
    let end = rest.iter().position(|b| *b == b'"')?;
    Some(&rest[..end])
}

impl Resource {
    /// Returns whether stored JSON can be served in this version without any change.
    pub fn is_as_served(&self, json: &[u8]) -> bool {
        match self.crd_version() {
            None => self.serves_storage_version(),
            Some(custom) => {
                !custom.has_defaults()
                    && api_version(json).is_some_and(|v| v == self.api_version().as_bytes())
            }
        }
    }
}

impl Resource {
    /// Returns whether `filter` must be evaluated on objects converted by a webhook. Its selectors
    /// refer to fields and labels of the request's version, and objects may be stored in another
    /// one.
    pub fn selects_converted(&self, filter: &Filter) -> bool {
        filter.has_selectors()
            && self
                .crd_versions()
                .is_some_and(|family| family.has_webhook())
    }

    /// Returns the part of a filter that can be evaluated on stored objects.
    pub fn stored_filter(&self, filter: &Filter) -> Filter {
        if self.selects_converted(filter) {
            filter.by_name()
        } else {
            filter.clone()
        }
    }
}

impl Backend {
    /// Converts a stored object to the hub version.
    pub async fn load(&self, resource: &Resource, object: Object) -> Result<Object, Status> {
        let Some(family) = resource.crd_versions() else {
            return Ok(object);
        };
        let mut objects = family
            .read(&self.webhook_client, vec![object], &resource.api_version())
            .await?;
        objects
            .pop()
            .ok_or_else(|| Status::internal("a conversion gave nothing"))
    }

    /// Converts stored objects to the version that the resource serves.
    pub async fn serve_all(
        &self,
        resource: &Resource,
        items: &[Arc<CachedObject>],
    ) -> Result<Vec<Object>, Status> {
        let objects: Vec<Object> = items.iter().map(|item| item.parse()).collect();
        match resource.crd_versions() {
            Some(family) => {
                family
                    .read(&self.webhook_client, objects, &resource.api_version())
                    .await
            }
            None => objects.into_iter().map(|o| resource.served(o)).collect(),
        }
    }

    /// Converts cached objects to the resource's version, so that selectors of that version can be
    /// evaluated. Returns the same number of objects in the same order.
    async fn as_served(
        &self,
        resource: &Resource,
        items: &[Arc<CachedObject>],
    ) -> Result<Vec<Arc<CachedObject>>, Status> {
        let version = resource.api_version();
        let is_other = |item: &&Arc<CachedObject>| {
            api_version(item.stored()).is_none_or(|v| v != version.as_bytes())
        };
        let other: Vec<_> = items.iter().filter(is_other).cloned().collect();
        let mut converted = self.serve_all(resource, &other).await?.into_iter();
        items
            .iter()
            .map(|item| {
                if !is_other(&item) {
                    return Ok(item.clone());
                }
                let mut object = converted
                    .next()
                    .ok_or_else(|| Status::internal("a conversion gave too little"))?;
                let json = crate::codec::encode(&mut object)?;
                let seen = resource.read_as(&item.namespace, &item.name, item.revision, &json);
                seen.map(Arc::new)
                    .ok_or_else(|| Status::internal("a conversion gave no object"))
            })
            .collect()
    }

    /// Returns the objects of `items` that `filter` selects. `items` must already match its
    /// [`stored_filter`](Resource::stored_filter); only selectors that need a webhook's conversion
    /// are evaluated here.
    pub async fn select(
        &self,
        resource: &Resource,
        items: Vec<Arc<CachedObject>>,
        filter: &Filter,
    ) -> Result<Vec<Arc<CachedObject>>, Status> {
        if !resource.selects_converted(filter) {
            return Ok(items);
        }
        let mut served = self.as_served(resource, &items).await?;
        served.retain(|item| filter.matches(item));
        Ok(served)
    }

    /// Returns the events as a watcher with `filter` sees them.
    pub async fn visible_events(
        &self,
        resource: &Resource,
        events: &[Arc<Event>],
        filter: &Filter,
    ) -> Result<Vec<(EventKind, Arc<CachedObject>)>, Status> {
        if !resource.selects_converted(filter) {
            return Ok(events
                .iter()
                .filter_map(|e| e.seen_through(filter))
                .collect());
        }
        let by_name = filter.by_name();
        let near: Vec<_> = events
            .iter()
            .filter(|event| by_name.matches(&event.object))
            .collect();
        let states: Vec<_> = near
            .iter()
            .flat_map(|event| std::iter::once(&event.object).chain(&event.previous))
            .cloned()
            .collect();
        let mut states = self.as_served(resource, &states).await?.into_iter();
        let mut seen = Vec::new();
        for event in near {
            let Some(object) = states.next() else { break };
            let event = Event {
                kind: event.kind,
                revision: event.revision,
                object,
                previous: event.previous.as_ref().and_then(|_| states.next()),
            };
            seen.extend(event.seen_through(filter));
        }
        Ok(seen)
    }

    /// Encodes an object for the store. Returns the stored JSON, and the JSON in the request's
    /// version if that differs; both without a revision.
    pub async fn to_store(
        &self,
        resource: &Resource,
        object: &mut Object,
    ) -> Result<(Bytes, Option<Bytes>), Status> {
        if !fields::is_readable(object) {
            let name = meta::name(object);
            let why = format!(
                "nested deeper than {} levels, with the metadata.managedFields that the server adds",
                fields::MAX_DEPTH
            );
            let error = FieldError::forbidden("", why);
            return Err(Status::invalid(&resource.group_kind(), name, vec![error]));
        }
        let shown = crate::codec::encode(object)?;
        let Some(family) = resource.crd_versions() else {
            return Ok((shown, None));
        };
        let storage = family.storage();
        if meta::api_version(object) == storage {
            return Ok((shown, None));
        }
        let mut stored = family
            .convert(&self.webhook_client, vec![object.clone()], &storage)
            .await?;
        let mut stored = stored
            .pop()
            .ok_or_else(|| Status::internal("a conversion gave nothing"))?;
        Ok((crate::codec::encode(&mut stored)?, Some(shown)))
    }
}

/// An owned reference to the schema of a resource.
#[derive(Clone)]
pub enum SchemaRef {
    /// The type of a built-in kind.
    Builtin(TypeRef),
    /// The version of a custom resource.
    Custom(Arc<CrdVersion>),
}

impl SchemaRef {
    /// Returns the schema of a resource.
    ///
    /// # Errors
    ///
    /// 500 if the resource has no schema.
    pub fn of(resource: &Resource) -> Result<Self, Status> {
        match (resource.crd_version(), resource.schema()) {
            (Some(custom), _) => Ok(Self::Custom(custom.clone())),
            (None, Type::Builtin(ty)) => Ok(Self::Builtin(ty)),
            (None, _) => Err(Status::internal(format!(
                "{} has no schema",
                resource.group_resource()
            ))),
        }
    }

    /// Returns the type to which this refers.
    pub fn ty(&self) -> Type<'_> {
        match self {
            Self::Builtin(ty) => Type::Builtin(*ty),
            Self::Custom(custom) => Type::Structural(custom.structural()),
        }
    }
}

/// Converts objects between the versions of a kind for server-side apply, where field sets may have
/// been recorded in other versions than the request's.
#[derive(Clone)]
pub enum VersionConverters {
    /// A built-in kind.
    Builtin {
        /// The version in which objects are passed in.
        from: Arc<Resource>,
        /// Every version of the kind.
        all: Arc<[Arc<Resource>]>,
    },
    /// A custom resource.
    Custom {
        /// The client of conversion webhooks.
        client: Arc<WebhookClient>,
        /// All versions of the CustomResourceDefinition.
        family: Arc<CrdVersions>,
        /// The runtime on which conversion webhooks are called; `None` if there is no webhook. If
        /// set, converting blocks, so it must run on a thread that may block.
        runtime: Option<Handle>,
    },
}

impl VersionConverters {
    /// Returns the converters of a resource; `None` if it has only one version.
    pub fn of(backend: &Backend, resource: &Resource) -> Option<Self> {
        if let Some(family) = resource.crd_versions() {
            return (family.versions().count() > 1).then(|| Self::Custom {
                client: backend.webhook_client.clone(),
                family: family.clone(),
                runtime: family.has_webhook().then(Handle::current),
            });
        }
        let snapshot = backend.resources.snapshot();
        let all = snapshot.versions(resource)?.clone();
        let from = all
            .iter()
            .find(|r| r.group == resource.group && r.version == resource.version)?
            .clone();
        Some(Self::Builtin { from, all })
    }

    /// Returns whether converting can require a call of a webhook.
    pub fn must_be_planned(&self) -> bool {
        matches!(
            self,
            Self::Custom {
                runtime: Some(_),
                ..
            }
        )
    }

    /// Returns whether applying to `live` requires a call of a webhook: only if one of its field
    /// sets was recorded in another version.
    pub fn must_wait(&self, live: Option<&Object>, version: &str) -> bool {
        self.must_be_planned()
            && live.is_some_and(|live| {
                meta::managed_fields(live)
                    .iter()
                    .any(|entry| entry["apiVersion"] != version)
            })
    }
}

impl apply::Versions for VersionConverters {
    fn convert<'s>(&'s self, object: &Object, api_version: &str) -> Option<(Object, Type<'s>)> {
        match self {
            Self::Builtin { from, all } => {
                let target = all.iter().find(|r| r.api_version() == api_version)?;
                // The result of one conversion may be the input of the next.
                let given = meta::api_version(object);
                let source = all
                    .iter()
                    .find(|r| r.api_version() == given)
                    .unwrap_or(from);
                let stored = source.stored(object.clone()).ok()?;
                Some((target.served(stored).ok()?, target.schema()))
            }
            Self::Custom {
                client,
                family,
                runtime,
            } => {
                let custom: &'s CrdVersion = family.version(api_version)?;
                let ty = Type::Structural(custom.structural());
                match runtime {
                    Some(runtime) if meta::api_version(object) != api_version => {
                        let asked = family.convert(client, vec![object.clone()], api_version);
                        match runtime.block_on(asked) {
                            Ok(mut objects) => Some((objects.pop()?, ty)),
                            Err(error) => {
                                tracing::warn!(%error, "field ownership of another version is lost");
                                None
                            }
                        }
                    }
                    _ => Some((family.rename(object, api_version), ty)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_off_the_front() {
        assert_eq!(
            api_version(br#"{"apiVersion":"a/v1","kind":"X"}"#),
            Some(&b"a/v1"[..])
        );
        assert_eq!(api_version(br#"{"kind":"X","apiVersion":"a/v1"}"#), None);
    }
}
