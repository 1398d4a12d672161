//! The HTTPS listener: HTTP/1.1 and HTTP/2 over TLS on one port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rkube_x509::{Certificate, Renewable, RequestedClient, Roots};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::body;
use crate::{ApiServer, Error, Pki};

/// The time limit for a client's TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The time limit for receiving a request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum size of a request's headers in bytes.
const MAX_HEADER_BYTES: usize = 64 << 10;
/// How long shutdown waits for requests in progress.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// The client of a connection; an extension of each of its requests.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The client's address.
    pub address: SocketAddr,
    /// The client's certificate chain. The client holds the key of the first certificate; whether a
    /// configured CA has signed it is judged by authentication.
    pub certificates: Arc<[CertificateDer<'static>]>,
}

/// Returns the TLS server configuration. Clients are asked for a certificate and may send any or
/// none: a certificate that does not verify is no error of the connection, so that another
/// authenticator can identify the user, or the request fails with 401.
pub fn tls_config(pki: &Pki, serving: Arc<Renewable>) -> Result<rustls::ServerConfig, Error> {
    let invalid =
        |what: &str, error: &dyn std::fmt::Display| Error::Pki(format!("{what}: {error}"));
    let mut roots = Roots::default();
    for pem in [Some(&pki.ca_cert), pki.front_proxy_ca_cert.as_ref()]
        .into_iter()
        .flatten()
    {
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|e| invalid("CA certificate", &e))?;
            roots
                .add(&certificate)
                .map_err(|e| invalid("CA certificate", &e))?;
        }
    }
    let mut config = rustls::ServerConfig::builder_with_provider(rkube_x509::provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| invalid("TLS versions", &e))?
        .with_client_cert_verifier(RequestedClient::new(&roots))
        .with_cert_resolver(serving);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Accepts connections until `shutdown` completes, then waits a short time for requests in
/// progress.
pub async fn serve(
    server: Arc<ApiServer>,
    listener: TcpListener,
    tls: rustls::ServerConfig,
    shutdown: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let connections = tokio_util::task::TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, address)) => {
                let connection = connection(
                    server.clone(),
                    acceptor.clone(),
                    stream,
                    address,
                    shutdown.clone(),
                );
                connections.spawn(connection);
            }
            Err(error) => {
                // Out of file descriptors or memory: wait until other connections end.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    connections.close();
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, connections.wait()).await;
}

async fn connection(
    server: Arc<ApiServer>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    address: SocketAddr,
    shutdown: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%address, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%address, "TLS handshake took too long"),
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = Peer {
        address,
        certificates: certificates
            .iter()
            .map(|c| c.clone().into_owned())
            .collect(),
    };

    let expired = expiry(&peer.certificates);
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let server = server.clone();
        let mut request = request.map(body::boxed);
        request.extensions_mut().insert(peer.clone());
        async move { Ok::<_, std::convert::Infallible>(server.call(request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES.max(8192))
        .half_close(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(250)
        .max_header_list_size(MAX_HEADER_BYTES as u32)
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        // Detects peers that disappeared without closing the connection.
        .keep_alive_interval(Duration::from_secs(60))
        .keep_alive_timeout(Duration::from_secs(20));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        // Clients renew their certificate, and use the new one on their next connection.
        () = expired => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%address, %error, "connection ended");
    }
}

/// Completes when a client's certificate expires; never if it has none, or one that is expired.
fn expiry(chain: &[CertificateDer<'_>]) -> impl Future<Output = ()> + use<> {
    let leaf = chain.first().and_then(|leaf| Certificate::parse(leaf).ok());
    let left = leaf.map(|leaf| leaf.not_after() - jiff::Timestamp::now().as_second());
    let left = left.and_then(|seconds| u64::try_from(seconds).ok());
    async move {
        match left {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    }
}
