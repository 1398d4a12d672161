//! Admission: the built-in plugins that modify, validate or reject a write.
//!
//! The API server calls, in this order: [`Plugins::wait_until_ready`]; [`Plugins::mutate`]
//! on the decoded and defaulted object; mutating webhooks; validation;
//! [`Plugins::validate`]; validating webhooks; and [`Plugins::charge_quota`], the only one
//! that writes.

use std::sync::Arc;

use futures::future::BoxFuture;
use rkube_api::gvk::GroupResource;
use rkube_api::status::Status;
use rkube_api::{Object, meta};

use rkube_auth::authz::Authorizer;
use rkube_auth::{ObjectReader, UserInfo};

mod certificates;
mod limit_ranger;
mod namespace_lifecycle;
mod network;
mod node_restriction;
mod pod_defaults;
mod pod_security;
mod priority;
mod quota;
mod runtime_class;
mod service_account;
mod storage;
#[cfg(test)]
mod tests;

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
    fn is(&self, group: &str, resource: &str) -> bool {
        self.group == group && self.resource == resource
    }

    /// Returns whether the request is for this resource, without a subresource.
    fn is_whole(&self, group: &str, resource: &str) -> bool {
        self.is(group, resource) && self.subresource.is_empty()
    }

    /// Returns the new state; null if there is none.
    fn new_object(&self) -> &Object {
        self.object.as_deref().unwrap_or(&Object::Null)
    }

    /// Returns the state before the write; null if there is none.
    fn old_object(&self) -> &Object {
        self.old.unwrap_or(&Object::Null)
    }

    fn resource(&self) -> GroupResource {
        GroupResource::new(self.group, self.resource)
    }

    /// Returns the 403 response of a plugin that rejects the request.
    fn forbidden(&self, why: impl std::fmt::Display) -> Status {
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

/// The built-in admission plugins that are on by default, in upstream's order.
pub struct Plugins {
    reader: Arc<dyn ObjectReader>,
    authorizer: Arc<Authorizer>,
}

/// Warnings for the client, sent as `Warning` headers.
type Warnings = Vec<String>;

/// Adds an annotation (key and value) to the request's audit event.
pub type Annotate<'a> = &'a mut dyn FnMut(&str, String);

impl Plugins {
    /// Creates the plugins. They read the cluster through `reader`.
    pub fn new(
        reader: Arc<dyn ObjectReader>,
        authorizer: Arc<Authorizer>,
        _config: PluginsConfig,
    ) -> Plugins {
        Plugins { reader, authorizer }
    }

    /// Waits at most two seconds for objects that a controller is about to create: a pod waits
    /// for the service account `default` of a new namespace. If it still does not exist,
    /// [`Self::mutate`] rejects the pod.
    pub async fn wait_until_ready(&self, request: &Request<'_>) {
        service_account::wait_for_account(&*self.reader, request).await;
    }

    /// Runs the mutating plugins. Returns warnings for the client, or the first rejection.
    pub fn mutate(&self, request: &mut Request<'_>) -> Result<Warnings, Status> {
        let reader = &*self.reader;
        namespace_lifecycle::admit(reader, request)?;
        limit_ranger::mutate(reader, request)?;
        service_account::mutate(reader, request)?;
        node_restriction::admit(reader, &self.authorizer, request)?;
        pod_defaults::taint_new_node(request);
        priority::mutate(reader, request)?;
        pod_defaults::default_tolerations(request);
        storage::default_class(reader, request);
        storage::protect_in_use(request);
        runtime_class::mutate(reader, request)?;
        network::default_ingress_class(reader, request);
        pod_defaults::copy_topology_labels(reader, request);
        Ok(Vec::new())
    }

    /// Runs the validating plugins. Returns warnings for the client, or the first rejection.
    /// Passes annotations for the audit event to `annotate`, also if the request is rejected.
    pub fn validate(
        &self,
        request: &Request<'_>,
        annotate: Annotate<'_>,
    ) -> Result<Warnings, Status> {
        let reader = &*self.reader;
        limit_ranger::validate(reader, request)?;
        service_account::validate(reader, request)?;
        let warnings = pod_security::validate(reader, request, annotate)?;
        priority::validate(reader, request)?;
        storage::validate_resize(reader, request)?;
        runtime_class::validate(reader, request)?;
        certificates::validate(&self.authorizer, request)?;
        Ok(warnings)
    }

    /// Runs ResourceQuota: checks the write against the namespace's quotas and charges it to
    /// their status. Must be called last, after nothing else can reject the request.
    pub async fn charge_quota(
        &self,
        request: &Request<'_>,
        store: &dyn QuotaStore,
    ) -> Result<(), Status> {
        quota::charge(&*self.reader, request, store).await
    }
}
