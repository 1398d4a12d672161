//! The node's HTTPS endpoint: the API that the kubelet serves on port 10250.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use rkube_config::ports;
use rkube_x509::{RequestedClient, Roots};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

mod access;
mod answer;
mod certificates;
mod connections;
mod endpoint;
mod files;
mod forward;
mod identity;
mod logs;
mod metrics;
mod query;
mod remote;
mod routes;
mod stats;
mod volumes;

pub(crate) use access::Access;
pub(crate) use certificates::Certificates;
pub(crate) use endpoint::Endpoint;

use crate::client::Pki;
use connections::{Connections, Slot};
use identity::Identity;

/// Maximum duration of a client's TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Delay after a failed `accept`.
const ACCEPT_DELAY: Duration = Duration::from_millis(100);

/// The endpoint's server, bound to its port.
pub(crate) struct Server {
    endpoint: Arc<Endpoint>,
    roots: Arc<Roots>,
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Server {
    /// Binds the kubelet's port.
    pub(crate) async fn bind(endpoint: Endpoint, pki: &Pki) -> anyhow::Result<Self> {
        // Clients without a certificate, or with a stranger's, are accepted here and get an HTTP
        // error instead of a failed handshake.
        let roots = pki.roots()?;
        volumes::finish_deletions();
        let mut config = rustls::ServerConfig::builder()
            .with_client_cert_verifier(RequestedClient::new(&roots))
            .with_cert_resolver(pki.identity.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let address = (endpoint.host.config.any_address(), ports::KUBELET);
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listening on port {}", ports::KUBELET))?;
        Ok(Self {
            endpoint: Arc::new(endpoint),
            roots: Arc::new(roots),
            listener,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        })
    }

    /// Accepts and serves connections until the future is dropped.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let config = &self.endpoint.host.config;
        let cluster = &config.cluster;
        let nodes = cluster.nodes.iter().map(|node| node.ip);
        let known = nodes
            .chain([config.ip, cluster.api_server_ip])
            .flat_map(|ip| {
                // Of a cluster of IPv6 alone, the control plane also uses the nodes' IPv4 addresses.
                cluster.node_ips(ip).into_iter().chain([ip.into()])
            });
        let connections = Connections::new(known.chain([Ipv4Addr::LOCALHOST.into()]));
        loop {
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(e) => {
                    warn!("accepting on port {}: {e}", ports::KUBELET);
                    tokio::time::sleep(ACCEPT_DELAY).await;
                    continue;
                }
            };
            let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            let Some(slot) = connections.admit(peer.ip()) else {
                debug!("{peer} has too many connections");
                continue;
            };
            if let Err(e) = stream.set_nodelay(true) {
                debug!("nodelay: {e}");
            }
            let (endpoint, acceptor) = (self.endpoint.clone(), self.acceptor.clone());
            let roots = self.roots.clone();
            tokio::spawn(serve(endpoint, roots, acceptor, stream, (peer, slot)));
        }
    }
}

/// Serves one connection.
async fn serve(
    endpoint: Arc<Endpoint>,
    roots: Arc<Roots>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    (peer, slot): (SocketAddr, Slot),
) {
    let handshake = acceptor.accept(stream);
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => {
            debug!("TLS with {peer}: {e}");
            return;
        }
        Err(_) => return,
    };
    let identity = Identity::from_chain(stream.get_ref().1.peer_certificates(), &roots);
    // Held to the end of the connection by all others. Upgraded ones are of clients that may.
    let slot = (identity != Identity::Trusted).then_some(slot);
    let service = hyper::service::service_fn(move |request| {
        let (endpoint, identity) = (endpoint.clone(), identity.clone());
        async move { Ok::<_, Infallible>(routes::handle(&endpoint, &identity, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(e) = connection.await {
        debug!("connection of {peer}: {e}");
    }
    drop(slot);
}
