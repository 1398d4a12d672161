//! Identity of a client, from its certificate.

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Identity of a client of the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// The client has no certificate.
    Anonymous,
    /// The certificate is valid, but its user may not call nodes.
    Unauthorized(String),
    /// The API server, or an administrator of the cluster.
    Trusted,
}

/// The API server's name in its client certificate.
const API_SERVER: &str = "kube-apiserver-kubelet-client";
/// Group that may do everything.
const MASTERS: &str = "system:masters";

impl Identity {
    /// Returns the identity of a chain that TLS has verified against the cluster's CA.
    pub(crate) fn from_chain(chain: Option<&[CertificateDer<'_>]>) -> Self {
        let Some(leaf) = chain.and_then(<[_]>::first) else {
            return Self::Anonymous;
        };
        let Ok((_, certificate)) = X509Certificate::from_der(leaf) else {
            return Self::Anonymous;
        };
        let subject = certificate.subject();
        let name = subject
            .iter_common_name()
            .find_map(|n| n.as_str().ok())
            .unwrap_or_default();
        let masters = subject
            .iter_organization()
            .any(|o| o.as_str() == Ok(MASTERS));
        if masters || name == API_SERVER {
            Self::Trusted
        } else {
            Self::Unauthorized(name.to_owned())
        }
    }
}
