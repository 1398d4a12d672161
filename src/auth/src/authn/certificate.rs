//! Client certificates: the common name is the user, the organizations are the groups.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::ConfigError;
use crate::UserInfo;

/// Maximum number of cached verified certificates.
const REMEMBERED: usize = 64;
/// Maximum age of a cached verification. Requests on one connection present the same
/// certificate, and verification costs far more than a lookup.
const REMEMBER: SignedDuration = SignedDuration::from_mins(10);

/// A CA for client certificates, with a cache of verified certificates.
pub(super) struct Authority {
    verifier: Arc<dyn ClientCertVerifier>,
    verified: Mutex<VecDeque<Verified>>,
}

struct Verified {
    leaf: CertificateDer<'static>,
    user: UserInfo,
    until: Timestamp,
}

impl Authority {
    /// Reads a bundle of CA certificates; `what` names it in errors.
    pub(super) fn from_pem(what: &'static str, pem: &[u8]) -> Result<Authority, ConfigError> {
        let failed = |reason: String| ConfigError::Ca { what, reason };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|e| failed(e.to_string()))?;
            roots.add(certificate).map_err(|e| failed(e.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|e| failed(e.to_string()))?;
        Ok(Authority {
            verifier,
            verified: Mutex::default(),
        })
    }

    /// Verifies that a chain leads to this CA and that its leaf is currently valid for client
    /// authentication. Returns the user in the leaf's subject.
    pub(super) fn identify(
        &self,
        chain: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<UserInfo, String> {
        let [leaf, intermediates @ ..] = chain else {
            return Err("no certificate".into());
        };
        let mut verified = self.verified.lock();
        if let Some(known) = verified.iter().find(|v| v.leaf == *leaf && now < v.until) {
            return Ok(known.user.clone());
        }
        verified.retain(|v| v.leaf != *leaf);
        drop(verified);

        let since_epoch = std::time::Duration::from_secs(now.as_second().max(0) as u64);
        self.verifier
            .verify_client_cert(leaf, intermediates, UnixTime::since_unix_epoch(since_epoch))
            .map_err(|e| format!("verifying certificate failed: {e}"))?;
        let (user, expires) = read(leaf)?;
        let until = expires.min(now.saturating_add(REMEMBER).unwrap_or(now));

        let mut verified = self.verified.lock();
        if verified.len() == REMEMBERED {
            verified.pop_front();
        }
        verified.push_back(Verified {
            leaf: leaf.clone().into_owned(),
            user: user.clone(),
            until,
        });
        Ok(user)
    }
}

/// Returns the user in a certificate's subject and the certificate's expiration time.
fn read(leaf: &CertificateDer<'_>) -> Result<(UserInfo, Timestamp), String> {
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|e| e.to_string())?;
    let text = |values: Vec<Result<&str, String>>| -> Result<Vec<String>, String> {
        values.into_iter().map(|v| v.map(str::to_owned)).collect()
    };
    let subject = certificate.subject();
    // The last of several common names is used, as in Go's parser.
    let names = text(
        subject
            .iter_common_name()
            .map(|n| n.as_str().map_err(|e| e.to_string()))
            .collect(),
    )?;
    let groups = text(
        subject
            .iter_organization()
            .map(|o| o.as_str().map_err(|e| e.to_string()))
            .collect(),
    )?;
    let hex: String = digest(&SHA256, leaf)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let user = UserInfo {
        name: names.into_iter().next_back().unwrap_or_default(),
        uid: String::new(),
        groups,
        extra: [(
            super::service_account::CREDENTIAL_ID.to_owned(),
            vec![format!("X509SHA256={hex}")],
        )]
        .into(),
    };
    let expires = Timestamp::from_second(certificate.validity().not_after.timestamp());
    Ok((user, expires.map_err(|e| e.to_string())?))
}
