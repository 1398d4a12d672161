//! Client certificates: the common name is the user, the organizations are the groups.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use rkube_x509::{Certificate, Roots, Usage};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::ConfigError;
use crate::UserInfo;

/// Maximum number of cached verified certificates.
const MAX_VERIFIED: usize = 64;
/// Maximum age of a cached verification. Requests on one connection present the same
/// certificate, and verification costs far more than a lookup.
const VERIFIED_PERIOD: SignedDuration = SignedDuration::from_mins(10);

/// A CA for client certificates, with a cache of verified certificates.
pub(super) struct Authority {
    roots: Roots,
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
        let mut roots = Roots::default();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|e| failed(e.to_string()))?;
            roots.add(&certificate).map_err(|e| failed(e.to_string()))?;
        }
        if roots.is_empty() {
            return Err(failed("it contains no certificate".to_owned()));
        }
        Ok(Authority {
            roots,
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

        self.verify(leaf, intermediates, now)
            .map_err(|e| format!("verifying certificate failed: {e}"))?;
        let (user, expires) = read(leaf)?;
        let until = expires.min(now.saturating_add(VERIFIED_PERIOD).unwrap_or(now));

        let mut verified = self.verified.lock();
        if verified.len() == MAX_VERIFIED {
            verified.pop_front();
        }
        verified.push_back(Verified {
            leaf: leaf.clone().into_owned(),
            user: user.clone(),
            until,
        });
        Ok(user)
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<(), rkube_x509::Error> {
        let leaf = Certificate::parse(leaf)?;
        let others = intermediates.iter().map(|der| Certificate::parse(der));
        let others = others.collect::<Result<Vec<_>, _>>()?;
        rkube_x509::verify(
            &self.roots,
            &leaf,
            &others,
            now.as_second(),
            Usage::Client,
            None,
        )
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
    // The time for "never" (RFC 5280, 4.1.2.5) is beyond what a timestamp holds.
    let expires = Timestamp::from_second(certificate.validity().not_after.timestamp());
    Ok((user, expires.unwrap_or(Timestamp::MAX)))
}
