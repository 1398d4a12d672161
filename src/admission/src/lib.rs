//! Admission: the built-in plugins that modify, validate or reject a write.
//!
//! The API server calls, in this order: [`Plugins::wait_until_ready`]; [`Plugins::mutate`]
//! on the decoded and defaulted object; mutating webhooks; validation;
//! [`Plugins::validate`]; validating webhooks; and [`Plugins::charge_quota`], the only one
//! that writes.

use std::sync::Arc;

use rkube_api::status::Status;
use rkube_auth::ObjectReader;
use rkube_auth::authz::Authorizer;

mod certificates;
mod limit_ranger;
mod namespace_lifecycle;
mod network;
mod node_restriction;
mod pod_defaults;
mod pod_security;
mod priority;
mod quota;
mod resource_claims;
mod runtime_class;
mod service_account;
mod storage;
#[cfg(test)]
mod tests;
mod types;

use types::Warnings;
pub use types::{Annotate, Operation, PluginsConfig, QuotaStore, Request};

/// The built-in admission plugins that are on by default, in upstream's order.
pub struct Plugins {
    reader: Arc<dyn ObjectReader>,
    authorizer: Arc<Authorizer>,
}

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
        resource_claims::validate(reader, &self.authorizer, request)?;
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
