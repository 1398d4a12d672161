//! The API server of this workspace, in this process.

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rkube_apiserver::{ApiServer, Config, Pki};
use rkube_store::{EmbeddedOptions, EmbeddedStore};

use crate::Server;

/// An API server without a listener, a controller or a node. Its store is gone with it.
pub struct Own {
    api: std::sync::Arc<ApiServer>,
    _folder: tempfile::TempDir,
}

impl Own {
    /// Starts the server.
    ///
    /// # Errors
    /// The store's folder or a certificate cannot be made.
    pub async fn start() -> Result<Self> {
        let folder = tempfile::tempdir().context("a folder for the store")?;
        let config = Config {
            store: EmbeddedStore::open(&folder.path().join("store"), EmbeddedOptions::default())?,
            pki: authority()?,
            version: "v1.36.0+rkube0.0.0".into(),
            dns_domain: "cluster.local".into(),
            service_cidrs: vec!["10.96.0.0/16".parse()?],
            node_ports: (30000, 32767),
            advertise_ip: "192.168.49.2".parse()?,
            advertise_port: 8443,
            audit: None,
        };
        Ok(Self {
            api: ApiServer::new(config).await?,
            _folder: folder,
        })
    }

    /// Returns the server as an administrator sees it.
    pub fn server(&self, namespace: &str) -> Server {
        Server::new(self.api.client("admin", &["system:masters"]), namespace)
    }
}

fn authority() -> Result<Pki> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key)?.pem();
    let issuer = Issuer::from_params(&params, &key);
    let sign = |name: &str| -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    };
    let serving = sign("kube-apiserver")?;
    let kubelet = sign("kubelet-client")?;
    let tokens = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    Ok(Pki {
        ca_cert: ca.into(),
        serving_cert: serving.0.into(),
        serving_key: serving.1.into(),
        kubelet_client_cert: kubelet.0.into(),
        kubelet_client_key: kubelet.1.into(),
        service_account_key: tokens.serialize_pem().into(),
        service_account_pub: tokens.public_key_pem().into(),
        ..Pki::default()
    })
}
