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

mod admission;
mod aggregator;
mod apiextensions;
pub mod audit;
mod body;
mod bootstrap;
pub mod cache;
mod call;
mod codec;
mod connect;
mod convert;
mod discovery;
mod dump;
mod events;
mod eviction;
mod fairness;
mod handlers;
mod health;
mod inprocess;
mod metrics;
mod negotiate;
mod openapi;
mod policies;
mod reader;
mod request;
mod resources;
mod respond;
mod reviews;
mod server;
mod service;
mod services;
mod store_error;
mod subresources;
#[cfg(test)]
mod tests;
mod versions;
mod webhooks;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use ipnet::Ipv4Net;
use rkube_auth::admission::Plugins;
use rkube_auth::authn::Authenticators;
use rkube_auth::authz::Authorizer;
use rkube_auth::token::TokenSigner;
use rkube_store::{Store, StoreError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use body::{Body, BoxError};
pub use cache::PREFIX as STORE_PREFIX;
pub use inprocess::InProcess;
pub use server::Peer;

/// A new unique identifier (RFC 9562, version 4), without asking the kernel each time.
fn new_uid() -> String {
    uuid::Builder::from_random_bytes(rand::random())
        .into_uuid()
        .to_string()
}

/// Certificates and keys, each as the PEM bytes of its file.
#[derive(Clone, Default)]
pub struct Pki {
    /// The cluster's CA: clients and node agents are of it.
    pub ca_cert: Vec<u8>,
    /// The server's own certificate chain.
    pub serving_cert: Vec<u8>,
    /// The key of `serving_cert`.
    pub serving_key: Vec<u8>,
    /// What the server shows to node agents.
    pub kubelet_client_cert: Vec<u8>,
    /// The key of `kubelet_client_cert`.
    pub kubelet_client_key: Vec<u8>,
    /// The CA of front proxies that may assert users by header.
    pub front_proxy_ca_cert: Option<Vec<u8>>,
    /// What the server shows to aggregated API servers.
    pub front_proxy_client_cert: Option<Vec<u8>>,
    /// The key of `front_proxy_client_cert`.
    pub front_proxy_client_key: Option<Vec<u8>>,
    /// Signs service-account tokens (PKCS#8, ECDSA P-256).
    pub service_account_key: Vec<u8>,
    /// Verifies service-account tokens (SPKI).
    pub service_account_pub: Vec<u8>,
}

impl Pki {
    /// Reads the files of a control-plane node's PKI folder, named as
    /// `rkube_config::paths::PKI` says.
    pub fn read(folder: &std::path::Path) -> Result<Self, Error> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path)
                .map_err(|e| Error::Pki(format!("cannot read {}: {e}", path.display())))
        };
        Ok(Self {
            ca_cert: read("ca.crt")?,
            serving_cert: read("apiserver.crt")?,
            serving_key: read("apiserver.key")?,
            kubelet_client_cert: read("apiserver-kubelet-client.crt")?,
            kubelet_client_key: read("apiserver-kubelet-client.key")?,
            front_proxy_ca_cert: Some(read("front-proxy-ca.crt")?),
            front_proxy_client_cert: Some(read("front-proxy-client.crt")?),
            front_proxy_client_key: Some(read("front-proxy-client.key")?),
            service_account_key: read("sa.key")?,
            service_account_pub: read("sa.pub")?,
        })
    }
}

/// What the API server is told to be.
#[derive(Clone)]
pub struct Config {
    /// Where objects are kept.
    pub store: Arc<dyn Store>,
    /// Certificates and keys.
    pub pki: Pki,
    /// What `/version` answers, as `v1.36.0+rkube0.1.0`.
    pub version: String,
    /// DNS suffix of services, as `cluster.local`.
    pub dns_domain: String,
    /// Where service addresses come from.
    pub service_cidr: Ipv4Net,
    /// First and last port of the NodePort range.
    pub node_ports: (u16, u16),
    /// The address that the service `kubernetes` leads to.
    pub advertise_ip: Ipv4Addr,
    /// The port that the service `kubernetes` leads to.
    pub advertise_port: u16,
    /// What is written down of requests, and where; nothing when `None`.
    pub audit: Option<audit::Config>,
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A certificate or key is missing or not usable.
    #[error("the cluster's certificates are not usable: {0}")]
    Pki(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The audit policy cannot be used, or its log cannot be written.
    #[error("the audit log cannot be kept: {0}")]
    Audit(String),
    /// An object that every cluster has could not be written.
    #[error("a bootstrap object could not be written: {0}")]
    Bootstrap(String),
}

/// The API server.
pub struct ApiServer {
    pub(crate) config: Config,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) cache: Arc<cache::Cache>,
    pub(crate) resources: resources::Resources,
    pub(crate) authenticators: Authenticators,
    pub(crate) authorizer: Arc<Authorizer>,
    pub(crate) plugins: Plugins,
    pub(crate) signer: TokenSigner,
    pub(crate) fairness: fairness::Fairness,
    pub(crate) audit: Option<audit::Audit>,
    pub(crate) metrics: metrics::Metrics,
    pub(crate) streams: connect::Transports,
    pub(crate) webhooks: webhooks::Webhooks,
    pub(crate) policies: policies::Policies,
    pub(crate) openapi: openapi::Documents,
    pub(crate) aggregator: aggregator::Aggregator,
    pub(crate) components: inprocess::Components,
    pub(crate) bookmarks: tokio::sync::watch::Sender<u64>,
    pub(crate) started: Instant,
    pub(crate) shutdown: CancellationToken,
}

impl ApiServer {
    /// Fills the watch cache from the store, writes what every cluster has and
    /// this one lacks, and starts the server's own upkeep, which ends when the
    /// server is dropped or [`serve`](Self::serve) is told to shut down.
    pub async fn new(config: Config) -> Result<Arc<Self>, Error> {
        bootstrap::start(config).await
    }

    /// Serves HTTPS on `listener` until `shutdown`.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let tls = server::tls_config(&self.config.pki)?;
        let stop = self.shutdown.clone();
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
        self.shutdown.cancel();
    }
}
