//! HTTP clients for node agents, pods and services.

use std::sync::Arc;
use std::time::Duration;

use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rkube_x509::{AnyServer, Renewable, Roots, ServerVerifier, client_config, renewable_client};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use crate::body::Body;
use crate::config::{Error, Pki};

/// The authentication of an HTTPS peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// By a certificate of the cluster's CA for the peer's address.
    Cluster,
    /// Not at all. Pods and services have arbitrary certificates; upstream's proxy does not verify
    /// them either.
    Anyone,
}

/// An HTTP client.
pub type HttpClient = Client<HttpsConnector<HttpConnector>, Body>;

/// The HTTP clients for both trust settings.
pub struct Transports {
    cluster: HttpClient,
    anyone: HttpClient,
}

impl Transports {
    /// Creates the clients. `kubelet_client` is what node agents receive.
    pub fn new(pki: &Pki, kubelet_client: Arc<Renewable>) -> Result<Self, Error> {
        let invalid =
            |what: &str, error: &dyn std::fmt::Display| Error::Pki(format!("{what}: {error}"));
        let roots = Roots::from_pem(&pki.ca_cert).map_err(|e| invalid("CA certificate", &e))?;
        let cluster = renewable_client(ServerVerifier::new(roots), kubelet_client)
            .map_err(|e| invalid("kubelet client certificate", &e))?;
        let anyone =
            client_config(Arc::new(AnyServer), None).map_err(|e| invalid("TLS versions", &e))?;
        Ok(Self {
            cluster: client(cluster),
            anyone: client(anyone),
        })
    }

    /// Returns the client for peers with the given trust setting.
    pub fn client(&self, trust: Trust) -> &HttpClient {
        match trust {
            Trust::Cluster => &self.cluster,
            Trust::Anyone => &self.anyone,
        }
    }
}

fn client(tls: ClientConfig) -> HttpClient {
    client_for(tls, None, Duration::from_secs(30))
}

/// Creates a client. With a name, the peer's certificate must be valid for that name instead of its
/// address.
pub fn client_for(
    tls: ClientConfig,
    name: Option<ServerName<'static>>,
    idle: Duration,
) -> HttpClient {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(Duration::from_secs(10)));
    // HTTP/1.1 only: HTTP/2 connections cannot be upgraded to streams.
    let builder = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http();
    let connector = match name {
        Some(name) => builder
            .with_server_name_resolver(FixedServerNameResolver::new(name))
            .enable_http1()
            .wrap_connector(tcp),
        None => builder.enable_http1().wrap_connector(tcp),
    };
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(idle)
        .pool_max_idle_per_host(4)
        .build(connector)
}
