//! Certificates by server name.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// The certificates of a table.
#[derive(Debug, Default)]
pub struct Certificates {
    /// By host.
    pub exact: HashMap<String, Arc<CertifiedKey>>,
    /// Those of `*.NAME` by `NAME`.
    pub wildcard: HashMap<String, Arc<CertifiedKey>>,
    /// For every other name.
    pub default: Option<Arc<CertifiedKey>>,
}

impl Certificates {
    /// Adds a certificate for a host, unless it has one.
    pub fn add(&mut self, host: &str, certificate: &Arc<CertifiedKey>) {
        let (map, name) = match host.strip_prefix("*.") {
            Some(parent) => (&mut self.wildcard, parent),
            None => (&mut self.exact, host),
        };
        map.entry(name.to_ascii_lowercase())
            .or_insert_with(|| certificate.clone());
    }

    /// Finds the certificate for the server name of a client.
    pub fn find(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let name = name.unwrap_or_default().trim_end_matches('.');
        let lower;
        let name = if name.bytes().any(|b| b.is_ascii_uppercase()) {
            lower = name.to_ascii_lowercase();
            &lower
        } else {
            name
        };
        let wildcard = || {
            let (_, parent) = name.split_once('.')?;
            self.wildcard.get(parent)
        };
        self.exact
            .get(name)
            .or_else(wildcard)
            .or(self.default.as_ref())
            .cloned()
    }
}

/// Reads a certificate chain and its key.
///
/// # Errors
///
/// Says what is wrong, without the content of the key.
pub fn read(certificate: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(|_| "tls.crt is not PEM")?;
    if chain.is_empty() {
        return Err("tls.crt contains no certificate".into());
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "tls.key contains no private key")?;
    let key = any_supported_type(&key).map_err(|_| "tls.key is of an unknown type")?;
    let pair = CertifiedKey::new(chain, key);
    match pair.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(Arc::new(pair))
        }
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err("tls.key is not the key of the certificate in tls.crt".into())
        }
        Err(error) => Err(format!("tls.crt cannot be used: {error}")),
    }
}

/// Returns the DNS names of a certificate.
pub fn names(pair: &CertifiedKey) -> Vec<String> {
    let Some(first) = pair.cert.first() else {
        return Vec::new();
    };
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(first) else {
        return Vec::new();
    };
    let Ok(Some(extension)) = parsed.subject_alternative_name() else {
        return Vec::new();
    };
    let names = extension.value.general_names.iter();
    names
        .filter_map(|name| match name {
            x509_parser::extensions::GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect()
}

/// Makes the certificate for clients whose server name has none.
///
/// # Errors
///
/// Fails if no key can be generated.
pub fn self_signed() -> anyhow::Result<Arc<CertifiedKey>> {
    let mut params = rcgen::CertificateParams::new(vec!["ingress.rkube.local".to_owned()])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(
        rcgen::DnType::CommonName,
        "rkube ingress default certificate",
    );
    let key = rcgen::KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    read(certificate.pem().as_bytes(), key.serialize_pem().as_bytes())
        .map_err(|why| anyhow::anyhow!("the default certificate: {why}"))
}
