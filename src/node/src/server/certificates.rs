//! Shows and replaces the certificates of the node's identities. Keys never leave the node: the
//! control plane signs a new certificate for the same key.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use http::StatusCode;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use jiff::Timestamp;
use rkube_x509::{Certificate, Renewable, Roots, Usage, to_pem, verify};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tracing::info;

use super::answer::{Answer, json, text};

/// Maximum size of a request in bytes.
const MAX_BYTES: usize = 64 << 10;

/// The identities whose certificates can be replaced.
pub(crate) struct Certificates {
    /// The names of the files without `.crt`, and the identities.
    pub all: Vec<(&'static str, Arc<Renewable>)>,
    /// The cluster's CA.
    pub roots: Roots,
    /// Directory that keeps new certificates for the next agent.
    pub folder: PathBuf,
}

impl Certificates {
    /// Returns the certificates by name, in PEM.
    pub(super) fn show(&self) -> Answer {
        let all = self.all.iter();
        let all: BTreeMap<_, _> = all
            .map(|(name, identity)| (*name, to_pem(&identity.certificate())))
            .collect();
        json(&all)
    }

    /// Replaces the certificates that the request names, each by one of the same key and subject.
    pub(super) async fn replace(&self, body: Incoming) -> Answer {
        let refused = |why: String| text(StatusCode::BAD_REQUEST, why);
        let body = match Limited::new(body, MAX_BYTES).collect().await {
            Ok(body) => body.to_bytes(),
            Err(e) => return refused(e.to_string()),
        };
        let given: BTreeMap<String, String> = match serde_json::from_slice(&body) {
            Ok(given) => given,
            Err(e) => return refused(e.to_string()),
        };
        for (name, pem) in given {
            if let Err(why) = self.replace_one(&name, &pem) {
                return refused(format!("{name}: {why}"));
            }
            info!(name, "the certificate was renewed");
        }
        text(StatusCode::OK, "ok")
    }

    fn replace_one(&self, name: &str, pem: &str) -> anyhow::Result<()> {
        let found = self.all.iter().find(|(known, _)| *known == name);
        let (name, identity) = found.context("there is no such certificate")?;
        let der = CertificateDer::from_pem_slice(pem.as_bytes())?;
        let new = Certificate::parse(&der)?;
        let old = Certificate::parse(&identity.certificate())?;
        let now = Timestamp::now().as_second();
        verify(&self.roots, &new, &[], now, Usage::Client, None)?;
        if new.common_name() != old.common_name() {
            anyhow::bail!("the certificate is that of another user");
        }
        let replaced = identity.replace(der.into_owned());
        replaced.map_err(anyhow::Error::msg)?;
        Ok(keep(&self.folder, name, pem)?)
    }
}

/// Writes a certificate for the next agent.
fn keep(folder: &Path, name: &str, pem: &str) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder)?;
    let temporary = folder.join(format!("{name}.new"));
    let mut options = std::fs::File::options();
    options.create(true).write(true).truncate(true).mode(0o600);
    let mut file = options.open(&temporary)?;
    std::io::Write::write_all(&mut file, pem.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(temporary, folder.join(format!("{name}.crt")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Pki;
    use rkube_x509::Issuer;

    #[test]
    fn a_certificate_is_replaced_by_one_of_the_same_key_and_user() {
        let dir = tempfile::tempdir().unwrap();
        let (pki, renewed) = (dir.path().join("pki"), dir.path().join("renewed"));
        std::fs::create_dir(&pki).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let ca = params.self_signed(&ca_key).unwrap();
        let signer = rcgen::Issuer::new(params, &ca_key);
        let write = |name: &str, text: String| std::fs::write(pki.join(name), text).unwrap();
        write("ca.crt", ca.pem());
        let leaf = |name: &str, key: &rcgen::KeyPair| {
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, name);
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
            params.signed_by(key, &signer).unwrap()
        };
        let (key, other_key) = (
            rcgen::KeyPair::generate().unwrap(),
            rcgen::KeyPair::generate().unwrap(),
        );
        let old = leaf("system:node:n1", &key);
        write("agent.crt", old.pem());
        write("agent.key", key.serialize_pem());
        let read = || Pki::read(&pki, &renewed, "agent").unwrap();
        let issuer =
            Issuer::from_pem(ca.pem().as_bytes(), ca_key.serialize_pem().as_bytes()).unwrap();
        let now = Timestamp::now().as_second();
        let renew = |der: &[u8]| {
            let old = Certificate::parse(der).unwrap();
            to_pem(&issuer.renew(&old, now, 1000).unwrap())
        };
        let agent = read();
        let certificates = Certificates {
            all: vec![("agent", agent.identity.clone())],
            roots: agent.roots().unwrap(),
            folder: renewed.clone(),
        };
        for (name, pem, reason) in [
            ("other", renew(old.der()), "no such certificate"),
            ("agent", old.pem(), "expired"),
            (
                "agent",
                renew(leaf("system:node:n2", &key).der()),
                "another user",
            ),
            (
                "agent",
                renew(leaf("system:node:n1", &other_key).der()),
                "another key",
            ),
        ] {
            let error = certificates.replace_one(name, &pem).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
        }
        assert_eq!(&agent.identity.certificate(), old.der());
        let new = renew(old.der());
        certificates.replace_one("agent", &new).unwrap();
        assert_eq!(to_pem(&agent.identity.certificate()), new);
        // The next agent begins with it, as long as it is the later one.
        assert_eq!(to_pem(&read().identity.certificate()), new);
        std::fs::write(renewed.join("agent.crt"), "damaged").unwrap();
        assert_eq!(&read().identity.certificate(), old.der());
    }
}
