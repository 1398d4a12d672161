//! HTTP clients for node agents, pods and services.

use std::sync::Arc;
use std::time::Duration;

use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::body::Body;
use crate::config::{Error, Pki};

/// How an HTTPS peer is authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// By a certificate of the cluster's CA for the peer's address.
    Cluster,
    /// Not at all. Pods and services have arbitrary certificates; upstream's proxy does not verify
    /// them either.
    Anyone,
}

/// An HTTP client.
pub type HttpClient = Client<HttpsConnector<HttpConnector>, Body>;

/// The HTTP clients for both trust settings.
pub struct Transports {
    cluster: HttpClient,
    anyone: HttpClient,
}

impl Transports {
    /// Creates the clients. Node agents receive the server's kubelet client certificate.
    pub fn new(pki: &Pki) -> Result<Self, Error> {
        let invalid =
            |what: &str, error: &dyn std::fmt::Display| Error::Pki(format!("{what}: {error}"));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pki.ca_cert) {
            let certificate = certificate.map_err(|e| invalid("CA certificate", &e))?;
            roots
                .add(certificate)
                .map_err(|e| invalid("CA certificate", &e))?;
        }
        let chain = CertificateDer::pem_slice_iter(&pki.kubelet_client_cert)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| invalid("kubelet client certificate", &e))?;
        let key = PrivateKeyDer::from_pem_slice(&pki.kubelet_client_key)
            .map_err(|e| invalid("kubelet client key", &e))?;
        let versions = |provider: &Arc<CryptoProvider>| {
            ClientConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .map_err(|e| invalid("TLS versions", &e))
        };
        let cluster = versions(&provider)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|e| invalid("kubelet client certificate", &e))?;
        let anyone = versions(&provider)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider.clone())))
            .with_no_client_auth();
        Ok(Self {
            cluster: client(cluster),
            anyone: client(anyone),
        })
    }

    /// Returns the client for peers with the given trust setting.
    pub fn client(&self, trust: Trust) -> &HttpClient {
        match trust {
            Trust::Cluster => &self.cluster,
            Trust::Anyone => &self.anyone,
        }
    }
}

fn client(tls: ClientConfig) -> HttpClient {
    client_for(tls, None, Duration::from_secs(30))
}

/// Creates a client. With a name, the peer's certificate must be valid for that name instead of its
/// address.
pub fn client_for(
    tls: ClientConfig,
    name: Option<ServerName<'static>>,
    idle: Duration,
) -> HttpClient {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(Duration::from_secs(10)));
    // HTTP/1.1 only: HTTP/2 connections cannot be upgraded to streams.
    let builder = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http();
    let connector = match name {
        Some(name) => builder
            .with_server_name_resolver(FixedServerNameResolver::new(name))
            .enable_http1()
            .wrap_connector(tcp),
        None => builder.enable_http1().wrap_connector(tcp),
    };
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(idle)
        .pool_max_idle_per_host(4)
        .build(connector)
}

/// Returns a verifier that accepts any certificate.
pub fn any_certificate(provider: Arc<CryptoProvider>) -> Arc<dyn ServerCertVerifier> {
    Arc::new(AnyCertificate(provider))
}

/// Accepts any certificate, but verifies that the peer holds its private key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
