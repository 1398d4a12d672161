//! Who is on the other end of a connection, by its certificate.

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Someone who calls the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// No certificate was shown.
    Nobody,
    /// A valid certificate of somebody without a right to call nodes.
    Stranger(String),
    /// The API server, or an administrator of the cluster.
    Trusted,
}

/// The API server's name in its client certificate.
const API_SERVER: &str = "kube-apiserver-kubelet-client";
/// The group that may do everything.
const MASTERS: &str = "system:masters";

impl Identity {
    /// Judges a chain that TLS has verified against the cluster's authority.
    pub(crate) fn of(chain: Option<&[CertificateDer<'_>]>) -> Self {
        let Some(leaf) = chain.and_then(<[_]>::first) else {
            return Self::Nobody;
        };
        let Ok((_, certificate)) = X509Certificate::from_der(leaf) else {
            return Self::Nobody;
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
            Self::Stranger(name.to_owned())
        }
    }
}
