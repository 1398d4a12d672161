//! TLS clients for remote API servers.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;

use crate::config::{Error, Pki};
use crate::connect::{self, HttpClient};

/// Idle connections to remote servers are closed after this time.
const IDLE: Duration = Duration::from_secs(60);

/// The front proxy's client certificate, if the cluster has one.
pub struct Tls {
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Tls {
    /// Reads the front proxy's certificate and key.
    pub fn new(pki: &Pki) -> Result<Self, Error> {
        let invalid =
            |what: &str, error: &dyn std::fmt::Display| Error::Pki(format!("{what}: {error}"));
        let Some((certificate, key)) = pki
            .front_proxy_client_cert
            .as_ref()
            .zip(pki.front_proxy_client_key.as_ref())
        else {
            return Ok(Self { identity: None });
        };
        let chain = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| invalid("front proxy certificate", &e))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| invalid("front proxy key", &e))?;
        Ok(Self {
            identity: Some((chain, key)),
        })
    }

    /// Returns a client for the server of an `APIService` spec. The error is reported to requests
    /// for that server.
    pub fn client(&self, spec: &Value, ca_cert: &[u8]) -> Result<HttpClient, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?;
        let trusting = if spec["insecureSkipTLSVerify"] == true {
            versions
                .dangerous()
                .with_custom_certificate_verifier(connect::any_certificate(provider))
        } else {
            let pem = match spec["caBundle"].as_str().filter(|b| !b.is_empty()) {
                Some(bundle) => base64::engine::general_purpose::STANDARD
                    .decode(bundle)
                    .map_err(|e| format!("caBundle: {e}"))?,
                None => ca_cert.to_vec(),
            };
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let certificate = certificate.map_err(|e| format!("caBundle: {e}"))?;
                roots
                    .add(certificate)
                    .map_err(|e| format!("caBundle: {e}"))?;
            }
            versions.with_root_certificates(roots)
        };
        let tls = match &self.identity {
            Some((chain, key)) => trusting
                .with_client_auth_cert(chain.clone(), key.clone_key())
                .map_err(|e| e.to_string())?,
            None => trusting.with_no_client_auth(),
        };
        let text = |field: &str| spec["service"][field].as_str().unwrap_or_default();
        let name = format!("{}.{}.svc", text("name"), text("namespace"));
        let name = ServerName::try_from(name).map_err(|e| e.to_string())?;
        Ok(connect::client_for(tls, Some(name), IDLE))
    }
}
