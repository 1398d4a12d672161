//! The verifier in TLS.

use std::error::Error as StdError;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, InconsistentKeys,
    OtherError, PeerMisbehaved, SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::Error;
use crate::certificate::Certificate;
use crate::key::{Algorithm, Curve, Hash, PublicKey};
use crate::verify::{Roots, Usage, verify};

/// Signature schemes of handshakes, in order of preference.
const SCHEMES: [SignatureScheme; 10] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA512,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP521_SHA512,
];

/// Returns the cryptography of all connections.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Verifies servers by trusted certificates, as clients written in Go do.
#[derive(Debug)]
pub struct ServerVerifier(Roots);

impl ServerVerifier {
    /// Returns a verifier that trusts `roots`.
    pub fn new(roots: Roots) -> Arc<Self> {
        Arc::new(Self(roots))
    }
}

/// Accepts any server whose certificate can be parsed. The server must hold the certificate's key.
#[derive(Debug)]
pub struct AnyServer;

/// Asks clients for a certificate and accepts any, or none. The client must hold the
/// certificate's key. Whether the certificate leads to a trusted one is left to authentication, so
/// that a stranger's certificate does not fail the connection.
#[derive(Debug)]
pub struct RequestedClient {
    hints: Vec<DistinguishedName>,
}

impl RequestedClient {
    /// Returns a verifier that tells clients the subjects of `roots`, by which they may choose a
    /// certificate.
    pub fn new(roots: &Roots) -> Arc<Self> {
        // Both the sequence's tag and length are part of the stored subjects, and of hints.
        let hints = roots
            .subjects()
            .map(|s| DistinguishedName::from(s.to_vec()));
        Arc::new(Self {
            hints: hints.collect(),
        })
    }
}

/// A certificate chain, and the key of its first certificate.
#[derive(Debug)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

impl Identity {
    /// Returns an identity of a chain and a key.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Self {
        Self { chain, key }
    }

    /// Reads a chain and a key in PEM.
    ///
    /// # Errors
    ///
    /// The part that cannot be read, and the reason.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| format!("certificate: {e}"))?;
        if chain.is_empty() {
            return Err("certificate: the file contains none".into());
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| format!("key: {e}"))?;
        Ok(Self { chain, key })
    }

    /// Returns the identity as rustls has it. Certificates of any version are possible.
    pub(crate) fn certified(
        self,
        provider: &CryptoProvider,
    ) -> Result<CertifiedKey, rustls::Error> {
        let key = provider.key_provider.load_private_key(self.key)?;
        let leaf = self
            .chain
            .first()
            .ok_or(rustls::Error::NoCertificatesPresented)?;
        let leaf = Certificate::parse(leaf).map_err(into_rustls)?;
        if key.public_key().is_some_and(|spki| *spki != leaf.spki) {
            return Err(InconsistentKeys::KeyMismatch.into());
        }
        Ok(CertifiedKey::new(self.chain, key))
    }
}

/// Returns a TLS client that verifies servers with `verifier` and shows `identity`.
///
/// # Errors
///
/// The identity's key cannot be used, or is not that of its certificate.
pub fn client_config(
    verifier: Arc<dyn ServerCertVerifier>,
    identity: Option<Identity>,
) -> Result<ClientConfig, rustls::Error> {
    let provider = provider();
    let identity = match identity {
        Some(identity) => Some(identity.certified(&provider)?),
        None => None,
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    Ok(match identity {
        Some(identity) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity)))
        }
        None => builder.with_no_client_auth(),
    })
}

/// Returns why a certificate was refused, in Go's words, if this is the cause of an error of a
/// connection or a request.
pub fn reason(error: &(dyn StdError + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) =
            error.downcast_ref::<rustls::Error>()
            && let Some(cause) = other.0.downcast_ref::<Error>()
        {
            return Some(format!("tls: failed to verify certificate: {cause}"));
        }
        // An I/O error has the source of the error that it wraps, not that error, as its source.
        next = match error.downcast_ref::<std::io::Error>() {
            Some(error) => error
                .get_ref()
                .map(|inner| inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

fn into_rustls(error: Error) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

fn parse(certificates: &[CertificateDer<'_>]) -> Result<Vec<Certificate>, rustls::Error> {
    let parsed = certificates.iter().map(|der| Certificate::parse(der));
    parsed.collect::<Result<_, _>>().map_err(into_rustls)
}

/// The part of a verifier that is the same for servers and clients, whose traits are distinct: how
/// peers prove that they hold their keys.
macro_rules! prove_possession {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_handshake(message, cert, dss, false)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_handshake(message, cert, dss, true)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            SCHEMES.to_vec()
        }
    };
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let leaf = Certificate::parse(end_entity).map_err(into_rustls)?;
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let host = server_name.to_str();
        let others = parse(intermediates)?;
        verify(&self.0, &leaf, &others, now, Usage::Server, Some(&host)).map_err(into_rustls)?;
        Ok(ServerCertVerified::assertion())
    }

    prove_possession!();
}

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Certificate::parse(end_entity).map_err(into_rustls)?;
        Ok(ServerCertVerified::assertion())
    }

    prove_possession!();
}

impl ClientCertVerifier for RequestedClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Certificate::parse(end_entity).map_err(into_rustls)?;
        parse(intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    prove_possession!();
}

/// Verifies the signature by which a peer proves in a handshake that it holds its key.
fn verify_handshake(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    tls13: bool,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let unadvertised = PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme;
    let certificate = Certificate::parse(certificate).map_err(into_rustls)?;
    let key = certificate
        .key
        .ok_or(Error::Signature("unsupported public key"))
        .map_err(into_rustls)?;
    // TLS 1.3 ties the curve to the hash, and permits RSA only with PSS.
    let (algorithm, curve) = match signed.scheme {
        SignatureScheme::ECDSA_NISTP256_SHA256 => {
            (Algorithm::Ecdsa(Hash::Sha256), Some(Curve::P256))
        }
        SignatureScheme::ECDSA_NISTP384_SHA384 => {
            (Algorithm::Ecdsa(Hash::Sha384), Some(Curve::P384))
        }
        SignatureScheme::ECDSA_NISTP521_SHA512 => {
            (Algorithm::Ecdsa(Hash::Sha512), Some(Curve::P521))
        }
        SignatureScheme::ED25519 => (Algorithm::Ed25519, None),
        SignatureScheme::RSA_PSS_SHA256 => (Algorithm::RsaPss(Hash::Sha256), None),
        SignatureScheme::RSA_PSS_SHA384 => (Algorithm::RsaPss(Hash::Sha384), None),
        SignatureScheme::RSA_PSS_SHA512 => (Algorithm::RsaPss(Hash::Sha512), None),
        SignatureScheme::RSA_PKCS1_SHA256 if !tls13 => (Algorithm::Rsa(Hash::Sha256), None),
        SignatureScheme::RSA_PKCS1_SHA384 if !tls13 => (Algorithm::Rsa(Hash::Sha384), None),
        SignatureScheme::RSA_PKCS1_SHA512 if !tls13 => (Algorithm::Rsa(Hash::Sha512), None),
        _ => return Err(unadvertised.into()),
    };
    if tls13
        && let (PublicKey::Ec(found, _), Some(expected)) = (&key, curve)
        && *found != expected
    {
        return Err(unadvertised.into());
    }
    key.verify(algorithm, message, signed.signature())
        .map_err(|_| CertificateError::BadSignature)?;
    Ok(HandshakeSignatureValid::assertion())
}
