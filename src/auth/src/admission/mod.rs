//! Admission: what must be true of a write, and what is filled in.
//!
//! The API server awaits [`Plugins::wait_until_ready`], calls
//! [`Plugins::mutate`] on the decoded and defaulted object, then its mutating
//! webhooks, then validation, then [`Plugins::validate`], its validating
//! webhooks, and last [`Plugins::charge_quota`], the only one that writes.

use std::sync::Arc;

use futures::future::BoxFuture;
use rkube_api::gvk::GroupResource;
use rkube_api::status::Status;
use rkube_api::{Object, meta};

use crate::authz::Authorizer;
use crate::{ObjectReader, UserInfo};

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

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A change to an object.
    Update,
    /// A deletion; `object` is `None`, `old` the last state.
    Delete,
    /// exec, attach, port-forward, proxy; `object` is the options object.
    Connect,
}

impl Operation {
    /// As an `AdmissionReview` names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// A write, as admission sees it.
#[derive(Debug)]
pub struct Request<'a> {
    /// What is being done.
    pub operation: Operation,
    /// The resource's API group, empty for core.
    pub group: &'a str,
    /// The resource's version.
    pub version: &'a str,
    /// The resource's plural name.
    pub resource: &'a str,
    /// The subresource, empty when there is none.
    pub subresource: &'a str,
    /// The kind of `object`.
    pub kind: &'a str,
    /// The namespace, empty for a cluster-scoped resource; a namespace's own name.
    pub namespace: &'a str,
    /// The object's name; empty for a create that leaves it to `generateName`.
    pub name: &'a str,
    /// Who writes.
    pub user: &'a UserInfo,
    /// The new state.
    pub object: Option<&'a mut Object>,
    /// The state before.
    pub old: Option<&'a Object>,
    /// Whether nothing will be stored.
    pub dry_run: bool,
    /// The `CreateOptions`, `UpdateOptions` or `DeleteOptions`.
    pub options: Option<&'a Object>,
}

impl Request<'_> {
    /// Whether the request is about this resource, or a subresource of it.
    fn is(&self, group: &str, resource: &str) -> bool {
        self.group == group && self.resource == resource
    }

    /// Whether the request is about objects of this resource themselves.
    fn is_whole(&self, group: &str, resource: &str) -> bool {
        self.is(group, resource) && self.subresource.is_empty()
    }

    /// The new state.
    fn new_object(&self) -> &Object {
        self.object.as_deref().unwrap_or(&Object::Null)
    }

    /// The state before.
    fn old_object(&self) -> &Object {
        self.old.unwrap_or(&Object::Null)
    }

    fn resource(&self) -> GroupResource {
        GroupResource::new(self.group, self.resource)
    }

    /// The 403 of a plugin that refuses the request.
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

/// How the plugins are set up.
#[derive(Clone, Debug, Default)]
pub struct PluginsConfig {}

/// Where quota usage is kept; the API server implements it over its storage.
pub trait QuotaStore: Send + Sync {
    /// The newest state of every quota of a namespace, not a cached one.
    fn quotas<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Vec<Object>, Status>>;

    /// Writes `quota`'s status if it is still at its resource version;
    /// a conflict (409) makes the caller read again and retry.
    fn update_status<'a>(&'a self, quota: Object) -> BoxFuture<'a, Result<Object, Status>>;
}

/// The built-in admission plugins that are on by default, in upstream's order.
pub struct Plugins {
    reader: Arc<dyn ObjectReader>,
    authorizer: Arc<Authorizer>,
}

type Warnings = Vec<String>;

impl Plugins {
    /// Plugins that read the cluster through `reader`.
    pub fn new(
        reader: Arc<dyn ObjectReader>,
        authorizer: Arc<Authorizer>,
        _config: PluginsConfig,
    ) -> Plugins {
        Plugins { reader, authorizer }
    }

    /// Waits, for a bounded time, for what a request may be a moment ahead of:
    /// a pod for its namespace's `default` service account. What is still not
    /// there afterwards is refused by [`Self::mutate`].
    pub async fn wait_until_ready(&self, request: &Request<'_>) {
        service_account::wait_for_account(&*self.reader, request).await;
    }

    /// Fills in and may refuse; gives the warnings for the client.
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

    /// Refuses what must not be; gives the warnings for the client.
    pub fn validate(&self, request: &Request<'_>) -> Result<Warnings, Status> {
        let reader = &*self.reader;
        limit_ranger::validate(reader, request)?;
        service_account::validate(reader, request)?;
        let warnings = pod_security::validate(reader, request)?;
        priority::validate(reader, request)?;
        storage::validate_resize(reader, request)?;
        runtime_class::validate(reader, request)?;
        certificates::validate(&self.authorizer, request)?;
        Ok(warnings)
    }

    /// ResourceQuota: checks the write against the namespace's quotas and
    /// charges their status. To be called last, when nothing else can refuse.
    pub async fn charge_quota(
        &self,
        request: &Request<'_>,
        store: &dyn QuotaStore,
    ) -> Result<(), Status> {
        quota::charge(&*self.reader, request, store).await
    }
}
