//! Authenticates clients by their certificate.

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Identity of a client of the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// The client has no certificate, or one that cannot be parsed.
    Anonymous,
    /// The certificate is valid, but its user may not access the node's endpoint.
    Unauthorized(String),
    /// The API server, or a member of `system:masters`.
    Trusted,
}

/// Common name of the API server's client certificate.
const API_SERVER: &str = "kube-apiserver-kubelet-client";
/// Group with full access.
const MASTERS: &str = "system:masters";

impl Identity {
    /// Returns the identity for a certificate chain that TLS has verified against the cluster's CA.
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
