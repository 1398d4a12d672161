//! Authenticates clients by their certificate.

use jiff::Timestamp;
use rkube_x509::{Certificate, Roots, Usage, verify};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::access::User;

/// Identity of a client of the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// The client has no certificate, or one that the cluster's CA has not signed for clients.
    Anonymous,
    /// The certificate is valid. The API server knows what its user may.
    User(User),
    /// The API server, or a member of `system:masters`.
    Trusted,
}

/// Common name of the API server's client certificate.
const API_SERVER: &str = "kube-apiserver-kubelet-client";
/// Group with full access.
const MASTERS: &str = "system:masters";
/// Group of all users that are known.
const AUTHENTICATED: &str = "system:authenticated";

impl Identity {
    /// Returns the identity for a certificate chain. TLS has verified that the client holds the key
    /// of the first certificate, and nothing else.
    pub(crate) fn from_chain(chain: Option<&[CertificateDer<'_>]>, roots: &Roots) -> Self {
        let Some([leaf, others @ ..]) = chain else {
            return Self::Anonymous;
        };
        if let Err(why) = check(leaf, others, roots) {
            tracing::debug!("a client's certificate is not accepted: {why}");
            return Self::Anonymous;
        }
        let Ok((_, certificate)) = X509Certificate::from_der(leaf) else {
            return Self::Anonymous;
        };
        let subject = certificate.subject();
        let name = subject
            .iter_common_name()
            .find_map(|n| n.as_str().ok())
            .unwrap_or_default();
        let organizations = subject.iter_organization().filter_map(|o| o.as_str().ok());
        let mut groups: Vec<String> = organizations.map(str::to_owned).collect();
        if name == API_SERVER || groups.iter().any(|group| group == MASTERS) {
            return Self::Trusted;
        }
        groups.push(AUTHENTICATED.to_owned());
        Self::User(User {
            name: name.to_owned(),
            groups,
            ..User::default()
        })
    }
}

fn check(
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    roots: &Roots,
) -> Result<(), rkube_x509::Error> {
    let leaf = Certificate::parse(leaf)?;
    let others = others.iter().map(|der| Certificate::parse(der));
    let others = others.collect::<Result<Vec<_>, _>>()?;
    let now = Timestamp::now().as_second();
    verify(roots, &leaf, &others, now, Usage::Client, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_clusters_certificates_for_clients_count() {
        let authority = || {
            let mut params = rcgen::CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = params.self_signed(&key).unwrap();
            (certificate, rcgen::Issuer::new(params, key))
        };
        let leaf = |issuer: &rcgen::Issuer<'_, rcgen::KeyPair>, name: &str, usage| {
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, name);
            params.extended_key_usages = vec![usage];
            let key = rcgen::KeyPair::generate().unwrap();
            params.signed_by(&key, issuer).unwrap().der().clone()
        };
        use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        let ((ca, own), (_, stranger)) = (authority(), authority());
        let mut roots = Roots::default();
        roots.add(ca.der()).unwrap();
        let of = |leaf| Identity::from_chain(Some(&[leaf]), &roots);
        assert_eq!(of(leaf(&own, API_SERVER, ClientAuth)), Identity::Trusted);
        assert_eq!(
            of(leaf(&own, "jane", ClientAuth)),
            Identity::User(User {
                name: "jane".into(),
                groups: vec![AUTHENTICATED.into()],
                ..User::default()
            })
        );
        assert_eq!(of(leaf(&own, API_SERVER, ServerAuth)), Identity::Anonymous);
        assert_eq!(
            of(leaf(&stranger, API_SERVER, ClientAuth)),
            Identity::Anonymous
        );
        assert_eq!(Identity::from_chain(None, &roots), Identity::Anonymous);
        assert_eq!(Identity::from_chain(Some(&[]), &roots), Identity::Anonymous);
    }
}
