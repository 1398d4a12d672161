//! The server's own certificates, which can be renewed while it runs.

use std::sync::Arc;

use rkube_x509::{Identity, Renewable};

use crate::{Error, Pki};

/// The certificates that the server shows. New connections use what they are replaced by.
#[derive(Clone)]
pub struct Certificates {
    /// The certificate of the server.
    pub serving: Arc<Renewable>,
    /// The certificate of the client of node agents.
    pub kubelet_client: Arc<Renewable>,
    /// The certificate of the client of aggregated API servers, if there is one.
    pub front_proxy: Option<Arc<Renewable>>,
}

impl Certificates {
    /// Reads the certificates and their keys.
    pub(crate) fn new(pki: &Pki) -> Result<Self, Error> {
        let front_proxy = pki.front_proxy_client_cert.as_ref();
        let front_proxy = front_proxy.zip(pki.front_proxy_client_key.as_ref());
        Ok(Self {
            serving: read("serving", &pki.serving_cert, &pki.serving_key)?,
            kubelet_client: read(
                "kubelet client",
                &pki.kubelet_client_cert,
                &pki.kubelet_client_key,
            )?,
            front_proxy: front_proxy
                .map(|(certificate, key)| read("front proxy", certificate, key))
                .transpose()?,
        })
    }
}

fn read(what: &str, certificate: &[u8], key: &[u8]) -> Result<Arc<Renewable>, Error> {
    let identity =
        Identity::from_pem(certificate, key).map_err(|e| Error::Pki(format!("{what} {e}")))?;
    Renewable::new(identity).map_err(|e| Error::Pki(format!("{what} certificate: {e}")))
}
