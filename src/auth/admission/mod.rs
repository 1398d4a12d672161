//! Admission: what must be true of a write, and what is filled in.
//!
//! The API server calls [`Plugins::mutate`] on the decoded and defaulted
//! object, then its mutating webhooks, then validation, then
//! [`Plugins::validate`], its validating webhooks, and last
//! [`Plugins::charge_quota`], which is the only one that writes.

use std::sync::Arc;

use futures::future::BoxFuture;
use rkube_api::Object;
use rkube_api::status::Status;

use crate::authz::Authorizer;
use crate::{ObjectReader, UserInfo};

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
    /// The namespace, empty for a cluster-scoped resource.
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
    _reader: Arc<dyn ObjectReader>,
    _authorizer: Arc<Authorizer>,
}

impl Plugins {
    /// Plugins that read the cluster through `reader`.
    pub fn new(
        reader: Arc<dyn ObjectReader>,
        authorizer: Arc<Authorizer>,
        _config: PluginsConfig,
    ) -> Plugins {
        Plugins {
            _reader: reader,
            _authorizer: authorizer,
        }
    }

    /// Fills in and may refuse; gives the warnings for the client.
    pub fn mutate(&self, _request: &mut Request<'_>) -> Result<Vec<String>, Status> {
        Ok(Vec::new())
    }

    /// Refuses what must not be; gives the warnings for the client.
    pub fn validate(&self, _request: &Request<'_>) -> Result<Vec<String>, Status> {
        Ok(Vec::new())
    }

    /// ResourceQuota: checks the write against the namespace's quotas and
    /// charges their status. To be called last, when nothing else can refuse.
    pub async fn charge_quota(
        &self,
        _request: &Request<'_>,
        _store: &dyn QuotaStore,
    ) -> Result<(), Status> {
        Ok(())
    }
}
