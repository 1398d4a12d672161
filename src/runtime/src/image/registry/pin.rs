//! Servers that are known by their certificate.

use rkube_x509::AnyServer;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

/// Accepts servers with one of these certificates, whatever their names and times are, and nobody
/// else. The server must hold the certificate's key.
#[derive(Debug)]
pub(super) struct Pinned(Vec<CertificateDer<'static>>);

impl Pinned {
    /// Reads certificates in PEM. Fails if there are none.
    pub(super) fn from_pem(bundles: &[String]) -> Result<Self, String> {
        let mut all = Vec::new();
        for bundle in bundles {
            for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
                all.push(certificate.map_err(|e| format!("certificate: {e}"))?);
            }
        }
        match all.is_empty() {
            true => Err("the certificate of the cache is not known".to_owned()),
            false => Ok(Self(all)),
        }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.0.iter().any(|c| c.as_ref() == end_entity.as_ref()) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        AnyServer.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        AnyServer.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        AnyServer.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_known_certificate_is_accepted() {
        let new = || rcgen::generate_simple_self_signed(vec!["cache".to_owned()]).unwrap();
        let (own, other) = (new(), new());
        let pinned = Pinned::from_pem(&[own.cert.pem()]).unwrap();
        let name = ServerName::try_from("192.0.2.2").unwrap();
        let check = |der: &CertificateDer<'_>| {
            let now = UnixTime::since_unix_epoch(std::time::Duration::ZERO);
            pinned.verify_server_cert(der, &[], &name, &[], now).is_ok()
        };
        assert!(check(own.cert.der()));
        assert!(!check(other.cert.der()));
        assert!(Pinned::from_pem(&[]).is_err());
    }
}
