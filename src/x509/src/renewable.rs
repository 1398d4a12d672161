//! The certificate of a client or server that is replaced while it runs.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use rustls_pki_types::CertificateDer;

use crate::{Certificate, Identity, provider};

/// An identity whose certificate can be replaced; clones of the `Arc` share it. New connections use
/// the new certificate.
#[derive(Debug)]
pub struct Renewable(RwLock<Arc<CertifiedKey>>);

impl Renewable {
    /// Returns a replaceable identity that begins with `identity`.
    ///
    /// # Errors
    ///
    /// The key cannot be used, or is not that of the certificate.
    pub fn new(identity: Identity) -> Result<Arc<Self>, rustls::Error> {
        let certified = identity.certified(&provider())?;
        Ok(Arc::new(Self(RwLock::new(Arc::new(certified)))))
    }

    /// Returns the present certificate in DER.
    pub fn certificate(&self) -> CertificateDer<'static> {
        // A certified key has at least one certificate.
        self.present().cert[0].clone()
    }

    /// Replaces the certificate and keeps the key.
    ///
    /// # Errors
    ///
    /// The certificate cannot be parsed, or is that of another key.
    pub fn replace(&self, certificate: CertificateDer<'static>) -> Result<(), String> {
        let present = self.present();
        let spki = |der: &[u8]| Certificate::parse(der).map(|c| c.spki);
        let old = spki(&present.cert[0]).map_err(|e| e.to_string())?;
        if spki(&certificate).map_err(|e| e.to_string())? != old {
            return Err("the certificate is that of another key".into());
        }
        let new = CertifiedKey::new(vec![certificate], present.key.clone());
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        Ok(())
    }

    fn present(&self) -> Arc<CertifiedKey> {
        let present = self.0.read().unwrap_or_else(PoisonError::into_inner);
        present.clone()
    }
}

impl ResolvesServerCert for Renewable {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.present())
    }
}

impl ResolvesClientCert for Renewable {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _sigschemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(self.present())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Returns a TLS client that verifies servers with `verifier` and shows what `identity` is at the
/// time of each connection.
///
/// # Errors
///
/// The cryptography supports no version of TLS.
pub fn renewable_client(
    verifier: Arc<dyn rustls::client::danger::ServerCertVerifier>,
    identity: Arc<Renewable>,
) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = builder.with_client_cert_resolver(identity);
    // A resumed session would be that of the certificate at its beginning.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}
