//! The API server: one generic implementation for all kinds, built-in and custom.
//!
//! A request passes authentication, impersonation, authorization and admission before its handler.
//! Handlers are generic: a resource's properties come from its entry in the resource registry.
//! Writes go to the store; reads and watches are served from the [watch cache](cache). Resources
//! with special behaviour in Kubernetes (service addresses, pod binding, reviews) have small hooks
//! in addition.
//!
//! The server is a tower service. Components of the same process call it through
//! [`ApiServer::client`], without sockets or TLS.

// Links the typed-object serializers compiled in that crate, instead of instantiating them again.
use rkube_client as _;

mod admission;
mod aggregator;
mod apiextensions;
pub mod audit;
mod backend;
mod body;
mod bootstrap;
pub mod cache;
mod call;
mod certificates;
mod codec;
mod compaction;
mod conditions;
mod config;
mod connect;
mod connections;
mod convert;
mod discovery;
mod dump;
mod events;
mod flowcontrol;
mod handlers;
mod health;
mod inprocess;
mod input;
mod kind_handlers;
mod kinds;
mod metrics;
mod negotiate;
mod observer;
mod openapi;
mod outcome;
mod policies;
mod reader;
mod resources;
mod respond;
mod rest;
mod route;
mod server;
mod service;
mod services;
mod storage;
mod store_error;
#[cfg(test)]
mod tests;
mod token_use;
mod uid;
mod usage;
mod versions;
mod webhooks;
mod websocket;

use std::sync::Arc;
use std::time::Instant;

use rkube_auth::authn::Authenticators;
use rkube_auth::authz::Authorizer;
use rkube_auth::token::TokenSigner;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use backend::Backend;
use storage::RestStorage;

pub use body::{Body, BoxError};
pub use cache::PREFIX as STORE_PREFIX;
pub use certificates::Certificates;
pub use config::{Config, Error, Pki};
pub use inprocess::InProcess;
pub use server::Peer;

/// Authentication and authorization of requests.
pub(crate) struct Security {
    pub(crate) authenticators: Authenticators,
    pub(crate) authorizer: Arc<Authorizer>,
    pub(crate) signer: TokenSigner,
}

/// The API server.
pub struct ApiServer {
    /// Reads and writes of objects, with admission.
    pub(crate) storage: Arc<RestStorage>,
    /// Authenticators and authorizer.
    pub(crate) security: Security,
    /// Priority and fairness (flow control).
    pub(crate) fairness: Arc<rkube_fairness::Fairness>,
    /// The audit log, if one is configured.
    pub(crate) audit: Option<audit::Audit>,
    /// Request counters.
    pub(crate) metrics: metrics::Metrics,
    /// The certificates that the server shows to clients, node agents and aggregated servers.
    pub(crate) certificates: Certificates,
    /// Connections to node agents, pods and services.
    pub(crate) transports: connect::Transports,
    /// Cached OpenAPI documents.
    pub(crate) openapi: openapi::Documents,
    /// The aggregated API servers to which requests are forwarded.
    pub(crate) aggregator: Arc<aggregator::remote::Aggregator>,
    /// Samples of the usage of nodes and pods.
    pub(crate) usage: Arc<usage::Rounds>,
    /// Components that have an in-process client.
    pub(crate) components: inprocess::Components,
    /// The time at which the server started.
    pub(crate) started: Instant,
}

impl ApiServer {
    /// Fills the watch cache from the store, writes missing bootstrap objects and starts the
    /// server's controllers. The controllers stop when the server is dropped or
    /// [`serve`](Self::serve) shuts down.
    pub async fn new(config: Config) -> Result<Arc<Self>, Error> {
        bootstrap::start(config).await
    }

    /// Returns the store, the cache and the resources.
    pub(crate) fn backend(&self) -> &Arc<Backend> {
        &self.storage.backend
    }

    /// Serves HTTPS on `listener` until `shutdown` completes.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let serving = self.certificates.serving.clone();
        let tls = server::tls_config(&self.backend().config.pki, serving)?;
        let stop = self.backend().shutdown.clone();
        let limits = connections::Limits::of_process();
        server::serve(self, listener, tls, shutdown, limits).await;
        stop.cancel();
        Ok(())
    }

    /// Returns the certificates that the server shows.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Returns an in-process client that acts as `user` in `groups` and in `system:authenticated`.
    /// It needs no socket, TLS or credentials.
    pub fn client(self: &Arc<Self>, user: &str, groups: &[&str]) -> kube::Client {
        inprocess::client(self, user, groups)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.backend().shutdown.cancel();
    }
}
