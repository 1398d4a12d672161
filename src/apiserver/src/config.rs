//! Configuration of the API server.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rkube_store::{Store, StoreError};

/// Certificates and keys, each as the PEM contents of its file.
#[derive(Clone, Default)]
pub struct Pki {
    /// The cluster's CA, which signs the certificates of clients and node agents.
    pub ca_cert: Vec<u8>,
    /// The server's certificate chain.
    pub serving_cert: Vec<u8>,
    /// The key of `serving_cert`.
    pub serving_key: Vec<u8>,
    /// The client certificate for connections to node agents.
    pub kubelet_client_cert: Vec<u8>,
    /// The key of `kubelet_client_cert`.
    pub kubelet_client_key: Vec<u8>,
    /// The CA of front proxies that may assert users in request headers.
    pub front_proxy_ca_cert: Option<Vec<u8>>,
    /// The client certificate for connections to aggregated API servers.
    pub front_proxy_client_cert: Option<Vec<u8>>,
    /// The key of `front_proxy_client_cert`.
    pub front_proxy_client_key: Option<Vec<u8>>,
    /// The private key that signs service-account tokens (PKCS#8, ECDSA P-256).
    pub service_account_key: Vec<u8>,
    /// The public key that verifies service-account tokens (SPKI).
    pub service_account_pub: Vec<u8>,
}

impl Pki {
    /// Reads the files of a control-plane node's PKI directory, whose names
    /// `rkube_config::paths::PKI` defines.
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

/// The API server's configuration.
#[derive(Clone)]
pub struct Config {
    /// The store that holds the objects.
    pub store: Arc<dyn Store>,
    /// Certificates and keys.
    pub pki: Pki,
    /// The version reported at `/version`, such as `v1.36.0+rkube0.1.0`.
    pub version: String,
    /// DNS suffix of services, such as `cluster.local`.
    pub dns_domain: String,
    /// The ranges of cluster IPs: at least one and at most one per family, that of the default family
    /// first.
    pub service_cidrs: Vec<IpNet>,
    /// First and last port of the NodePort range.
    pub node_ports: (u16, u16),
    /// The endpoint address of the service `kubernetes`.
    pub advertise_ip: IpAddr,
    /// The endpoint port of the service `kubernetes`.
    pub advertise_port: u16,
    /// The audit policy and log; `None` disables auditing.
    pub audit: Option<rkube_audit::Config>,
}

/// The reason for which the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A certificate or key is missing or invalid.
    #[error("the cluster's certificates are not usable: {0}")]
    Pki(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The audit policy is invalid, or its log cannot be written.
    #[error("the audit log cannot be kept: {0}")]
    Audit(String),
    /// A bootstrap object could not be written.
    #[error("a bootstrap object could not be written: {0}")]
    Bootstrap(String),
}

impl Config {
    /// Returns the range of cluster IPs of the default family.
    pub(crate) fn first_service_cidr(&self) -> IpNet {
        self.service_cidrs.first().copied().unwrap_or_default()
    }
}
