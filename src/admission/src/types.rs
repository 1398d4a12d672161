//! The attributes of a write, and what the plugins need from the API server.

use futures::future::BoxFuture;
use rkube_api::gvk::GroupResource;
use rkube_api::status::Status;
use rkube_api::{Object, meta};
use rkube_auth::UserInfo;

/// The operation of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Creates an object.
    Create,
    /// Updates an object.
    Update,
    /// Deletes an object; `object` is `None`, `old` the last state.
    Delete,
    /// exec, attach, port-forward or proxy; `object` is the options object.
    Connect,
}

impl Operation {
    /// Returns the name in an `AdmissionReview`.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// The attributes of a write (upstream: `admission.Attributes`).
#[derive(Debug)]
pub struct Request<'a> {
    /// The operation.
    pub operation: Operation,
    /// The resource's API group, empty for core.
    pub group: &'a str,
    /// The resource's version.
    pub version: &'a str,
    /// The resource's plural name.
    pub resource: &'a str,
    /// The subresource; empty if there is none.
    pub subresource: &'a str,
    /// The kind of `object`.
    pub kind: &'a str,
    /// The namespace; empty for a cluster-scoped resource. For a namespace, its own name.
    pub namespace: &'a str,
    /// The object's name; empty for a create with `generateName`.
    pub name: &'a str,
    /// The user who sends the request.
    pub user: &'a UserInfo,
    /// The new state; plugins may modify it.
    pub object: Option<&'a mut Object>,
    /// The state before the write.
    pub old: Option<&'a Object>,
    /// Whether the write is not stored.
    pub dry_run: bool,
    /// The `CreateOptions`, `UpdateOptions` or `DeleteOptions`.
    pub options: Option<&'a Object>,
}

impl Request<'_> {
    /// Returns whether the request is for this resource or a subresource of it.
    pub(crate) fn is(&self, group: &str, resource: &str) -> bool {
        self.group == group && self.resource == resource
    }

    /// Returns whether the request is for this resource, without a subresource.
    pub(crate) fn is_whole(&self, group: &str, resource: &str) -> bool {
        self.is(group, resource) && self.subresource.is_empty()
    }

    /// Returns the new state; null if there is none.
    pub(crate) fn new_object(&self) -> &Object {
        self.object.as_deref().unwrap_or(&Object::Null)
    }

    /// Returns the state before the write; null if there is none.
    pub(crate) fn old_object(&self) -> &Object {
        self.old.unwrap_or(&Object::Null)
    }

    pub(crate) fn resource(&self) -> GroupResource {
        GroupResource::new(self.group, self.resource)
    }

    /// Returns the 403 response of a plugin that rejects the request.
    pub(crate) fn forbidden(&self, why: impl std::fmt::Display) -> Status {
        let given = [
            self.name,
            meta::name(self.new_object()),
            meta::generate_name(self.new_object()),
            "Unknown",
        ];
        let name = given
            .into_iter()
            .find(|name| !name.is_empty())
            .unwrap_or_default();
        Status::forbidden(&self.resource(), name, why)
    }
}

/// The settings of the plugins; there are none yet.
#[derive(Clone, Debug, Default)]
pub struct PluginsConfig {}

/// Access to quota objects, implemented by the API server over its storage.
pub trait QuotaStore: Send + Sync {
    /// Returns every quota of a namespace, read from the store and not from a cache.
    fn quotas<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Vec<Object>, Status>>;

    /// Updates `quota`'s status if its resource version is current. On a conflict (409) the
    /// caller reads the quotas again and retries.
    fn update_status<'a>(&'a self, quota: Object) -> BoxFuture<'a, Result<Object, Status>>;
}

/// Warnings for the client, sent as `Warning` headers.
pub(crate) type Warnings = Vec<String>;

/// Adds an annotation (key and value) to the request's audit event.
pub type Annotate<'a> = &'a mut dyn FnMut(&str, String);
