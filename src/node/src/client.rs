//! The node's identities and its API server clients.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rkube_config::NodeConfig;
use rkube_x509::{Certificate, Identity, Renewable, Roots, ServerVerifier, renewable_client};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tower::ServiceExt as _;

/// One of the node's identities, and the cluster's CA.
pub(crate) struct Pki {
    /// The cluster's CA certificates.
    pub ca: Vec<CertificateDer<'static>>,
    /// The identity. The agent's user is `system:node:<name>`; its certificate is valid for clients
    /// and servers. The control plane renews it before it expires.
    pub identity: Arc<Renewable>,
}

impl Pki {
    /// Reads `ca.crt`, `<name>.crt` and `<name>.key` from a directory. If `renewed` has a later
    /// certificate of the same key, uses that one.
    pub(crate) fn read(dir: &Path, renewed: &Path, name: &str) -> anyhow::Result<Self> {
        let certificates = |path: &Path| {
            CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .with_context(|| format!("reading {}", path.display()))
        };
        let path = dir.join(format!("{name}.key"));
        let key = PrivateKeyDer::from_pem_file(&path)
            .with_context(|| format!("reading {}", path.display()))?;
        let file = format!("{name}.crt");
        let chain = certificates(&dir.join(&file))?;
        let identity = Renewable::new(Identity::new(chain, key))
            .with_context(|| format!("the certificate and key of {name}"))?;
        let later = renewed.join(&file);
        if later.exists()
            && let Err(why) = use_later(&identity, &later)
        {
            tracing::warn!("{} is not used: {why:#}", later.display());
        }
        Ok(Self {
            ca: certificates(&dir.join("ca.crt"))?,
            identity,
        })
    }

    /// Returns the cluster's CA as the only trusted one.
    pub(crate) fn roots(&self) -> anyhow::Result<Roots> {
        let mut roots = Roots::default();
        for certificate in &self.ca {
            roots
                .add(certificate)
                .context("the cluster's authority is not a certificate")?;
        }
        Ok(roots)
    }
}

/// Replaces a certificate by one that is valid longer, if the file has such a one.
fn use_later(identity: &Renewable, path: &Path) -> anyhow::Result<()> {
    let later = CertificateDer::from_pem_slice(&std::fs::read(path)?)?;
    let end = |der: &[u8]| Certificate::parse(der).map(|c| c.not_after());
    let ends = end(&later).and_then(|later| Ok((later, end(&identity.certificate())?)));
    match ends? {
        (later_end, present) if later_end > present => {
            identity.replace(later).map_err(anyhow::Error::msg)
        }
        _ => Ok(()),
    }
}

/// Returns an API server client with the identity of `pki`.
///
/// All requests and watches share one HTTP/2 connection if the server supports it. A watch then
/// costs a stream instead of a TLS session.
///
/// `component` is the upstream program that makes these requests, such as `kubelet`. It appears in
/// the `User-Agent`, from which the API server derives the field manager.
pub(crate) fn connect(
    config: &NodeConfig,
    pki: &Pki,
    component: &str,
) -> anyhow::Result<kube::Client> {
    let agent = format!(
        "{component}/{} (linux/{})",
        rkube_config::VERSION,
        std::env::consts::ARCH
    );
    let agent: http::HeaderValue = agent.parse()?;
    let tls = renewable_client(ServerVerifier::new(pki.roots()?), pki.identity.clone())
        .context("the agent's certificate and key")?;
    let mut http = hyper_util::client::legacy::connect::HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(Duration::from_secs(5)));
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .enable_all_versions()
        .wrap_connector(http);
    let hyper = HyperClient::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_keep_alive_interval(Duration::from_secs(30))
        .http2_keep_alive_timeout(Duration::from_secs(15))
        .http2_keep_alive_while_idle(true)
        // Flow control per stream: a slow watch must not block the others.
        .http2_initial_stream_window_size(256 << 10)
        .http2_initial_connection_window_size(8 << 20)
        .build(connector);
    let authority = format!(
        "{}:{}",
        config.cluster.api_server_ip, config.cluster.api_server_port
    );
    let authority: http::uri::Authority = authority.parse()?;
    let service = hyper.map_request(move |mut request: http::Request<kube::client::Body>| {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(http::uri::Scheme::HTTPS);
        parts.authority = Some(authority.clone());
        if parts.path_and_query.is_none() {
            parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        }
        *request.uri_mut() = http::Uri::from_parts(parts).unwrap_or_default();
        request
            .headers_mut()
            .insert(http::header::USER_AGENT, agent.clone());
        request
    });
    Ok(kube::Client::new(service, "default"))
}

/// Returns whether a request failed without a response from the API server.
pub(crate) fn unreachable(error: &kube::Error) -> bool {
    !matches!(error, kube::Error::Api(_))
}

/// Returns whether the API server responded with this status code.
pub(crate) fn answered(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Returns the delay before the next attempt; `attempt` counts from 0.
///
/// The first 100 delays are short (30 ms), because the server may still be starting.
pub(crate) fn retry_delay(attempt: u32) -> Duration {
    match attempt {
        0..100 => Duration::from_millis(30),
        100..120 => Duration::from_millis(500),
        _ => Duration::from_secs(3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_with_the_attempts() {
        let delays = [0, 99, 100, 119, 120, u32::MAX].map(retry_delay);
        assert_eq!(
            delays.map(|d| d.as_millis()),
            [30, 30, 500, 500, 3000, 3000]
        );
    }

    #[test]
    fn certificates_that_are_missing_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = Pki::read(dir.path(), dir.path(), "agent").err().unwrap();
        assert!(format!("{error:#}").contains("reading "), "{error:#}");
    }
}
