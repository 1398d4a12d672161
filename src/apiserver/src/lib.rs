//! The API server: one generic engine for every kind, built-in or custom.
//!
//! A request passes authentication, impersonation, authorization and admission
//! on its way to a handler that knows the resource only as a row of the
//! registry. Writes go to the store; reads and watches are served from the
//! [watch cache](cache). The few places where Kubernetes itself gives one
//! resource a behaviour of its own (service addresses, pod binding, reviews)
//! are small hooks beside the engine.
//!
//! The server is a tower service: components of the same process reach it
//! through [`ApiServer::client`] without sockets or TLS.

// Reuses the readers and writers of typed objects that are compiled there.
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
mod codec;
mod conditions;
mod config;
mod connect;
mod controller;
mod convert;
mod discovery;
mod dump;
mod events;
mod eviction;
mod flowcontrol;
mod handlers;
mod health;
mod inprocess;
mod metrics;
mod negotiate;
mod openapi;
mod policies;
mod reader;
mod resources;
mod respond;
mod reviews;
mod server;
mod service;
mod services;
mod storage;
mod store_error;
mod subresources;
#[cfg(test)]
mod tests;
mod uid;
mod versions;
mod webhooks;

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
pub use config::{Config, Error, Pki};
pub use inprocess::InProcess;
pub use server::Peer;

/// The parts that decide who sends a request and whether it is allowed.
pub(crate) struct Security {
    pub(crate) authenticators: Authenticators,
    pub(crate) authorizer: Arc<Authorizer>,
    pub(crate) signer: TokenSigner,
}

/// The API server.
pub struct ApiServer {
    /// Reads and writes of objects.
    pub(crate) storage: Arc<RestStorage>,
    /// Authentication and authorization.
    pub(crate) security: Security,
    /// Priority and fairness.
    pub(crate) fairness: Arc<rkube_fairness::Fairness>,
    /// The audit log, if one is configured.
    pub(crate) audit: Option<audit::Audit>,
    /// Counters of requests.
    pub(crate) metrics: metrics::Metrics,
    /// Connections to node agents, pods and services.
    pub(crate) transports: connect::Transports,
    /// Cached OpenAPI documents.
    pub(crate) openapi: openapi::Documents,
    /// API servers that requests are passed on to.
    pub(crate) aggregator: Arc<aggregator::remote::Aggregator>,
    /// Components that use a client inside the process.
    pub(crate) components: inprocess::Components,
    /// When the server started.
    pub(crate) started: Instant,
}

impl ApiServer {
    /// Fills the watch cache from the store, writes what every cluster has and
    /// this one lacks, and starts the server's own upkeep, which ends when the
    /// server is dropped or [`serve`](Self::serve) is told to shut down.
    pub async fn new(config: Config) -> Result<Arc<Self>, Error> {
        bootstrap::start(config).await
    }

    /// Returns the objects: store, cache and resources.
    pub(crate) fn backend(&self) -> &Arc<Backend> {
        &self.storage.backend
    }

    /// Serves HTTPS on `listener` until `shutdown`.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let tls = server::tls_config(&self.backend().config.pki)?;
        let stop = self.backend().shutdown.clone();
        server::serve(self, listener, tls, shutdown).await;
        stop.cancel();
        Ok(())
    }

    /// A client of this server inside the process, acting as `user` in `groups`
    /// (and in `system:authenticated`): no socket, no TLS, no credentials.
    pub fn client(self: &Arc<Self>, user: &str, groups: &[&str]) -> kube::Client {
        inprocess::client(self, user, groups)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.backend().shutdown.cancel();
    }
}
