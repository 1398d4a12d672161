//! Connection options of an etcd cluster: endpoints and TLS files.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rkube_x509::{Identity, Roots, ServerVerifier};

use super::grpc::Endpoint;
use crate::types::StoreError;

/// The endpoints of an etcd cluster, credentials, and the root of a store's keys.
#[derive(Clone, Debug, Default)]
pub struct EtcdOptions {
    /// `http://` or `https://` URLs, tried in turn until one answers.
    pub endpoints: Vec<String>,
    /// The prefix of all keys, as `/rkube/<profile>`, without a trailing `/`.
    pub root: String,
    /// PEM file of the CA certificate that signed etcd's server certificate.
    pub ca: Option<PathBuf>,
    /// PEM file of the client's certificate chain.
    pub cert: Option<PathBuf>,
    /// PEM file of the private key of `cert`.
    pub key: Option<PathBuf>,
    /// The address at which the host's loopback is reached, for endpoints on it.
    /// Unset where the loopback is the host's own.
    pub loopback: Option<IpAddr>,
}

impl EtcdOptions {
    /// Creates options with the files of `etcd-ca.crt`, `etcd-client.crt` and
    /// `etcd-client.key` that exist in `dir`.
    pub fn with_files(endpoints: Vec<String>, root: String, dir: &Path) -> Self {
        let file = |name: &str| Some(dir.join(name)).filter(|path| path.exists());
        Self {
            endpoints,
            root,
            ca: file("etcd-ca.crt"),
            cert: file("etcd-client.crt"),
            key: file("etcd-client.key"),
            loopback: None,
        }
    }
}

/// Returns host and port of an endpoint URL, `http[s]://host[:port]`.
///
/// # Errors
/// [`StoreError::Unavailable`] when it is not such a URL.
pub fn host_and_port(url: &str) -> Result<(String, u16), StoreError> {
    let (endpoint, _) = parse_endpoint(url)?;
    Ok((endpoint.host, endpoint.port))
}

/// Parses an endpoint URL; the flag is whether it is `https`.
pub(super) fn parse_endpoint(url: &str) -> Result<(Endpoint, bool), StoreError> {
    let wrong = || {
        StoreError::Unavailable(format!(
            "{url:?} is not an endpoint of etcd; one is https://host:2379"
        ))
    };
    let (secure, rest) = if let Some(rest) = url.strip_prefix("https://") {
        (true, rest)
    } else if let Some(rest) = url.strip_prefix("http://") {
        (false, rest)
    } else {
        return Err(wrong());
    };
    let authority: http::uri::Authority =
        rest.trim_end_matches('/').parse().map_err(|_| wrong())?;
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    if host.is_empty() {
        return Err(wrong());
    }
    let endpoint = Endpoint {
        host: host.to_owned(),
        port: authority.port_u16().unwrap_or(2379),
        address: None,
    };
    Ok((endpoint, secure))
}

/// Builds the TLS configuration of an `https` cluster.
pub(super) fn tls_config(options: &EtcdOptions) -> Result<Arc<rustls::ClientConfig>, StoreError> {
    let failed = |path: &Path, why: String| {
        StoreError::Unavailable(format!("cannot use {}: {why}", path.display()))
    };
    let Some(ca) = &options.ca else {
        return Err(StoreError::Unavailable(
            "etcd over https needs the authority of its certificate (--store-ca)".into(),
        ));
    };
    let read = |path: &Path| std::fs::read(path).map_err(|e| failed(path, e.to_string()));
    let roots = Roots::from_pem(&read(ca)?).map_err(|e| failed(ca, e.to_string()))?;
    let (identity, named) = match (&options.cert, &options.key) {
        (Some(cert), Some(key)) => {
            let identity = Identity::from_pem(&read(cert)?, &read(key)?);
            (Some(identity.map_err(|e| failed(cert, e))?), cert)
        }
        (None, None) => (None, ca),
        _ => {
            return Err(StoreError::Unavailable(
                "a client certificate for etcd and its key go together (--store-cert, --store-key)"
                    .into(),
            ));
        }
    };
    let mut config = rkube_x509::client_config(ServerVerifier::new(roots), identity)
        .map_err(|e| failed(named, e.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}
