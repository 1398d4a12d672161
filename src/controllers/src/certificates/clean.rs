//! Expiry of certificate signing requests.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

use super::{certificate, conditions};
use crate::common::pods::until;

const HOUR: i64 = 3600;

/// Returns how long to keep the request: one hour after a decision, one day while pending, and in
/// any case until its certificate expires.
pub fn time_to_deletion(request: &CertificateSigningRequest, now: Timestamp) -> Option<Duration> {
    let decided = conditions(request)
        .filter(|condition| matches!(condition.type_.as_str(), "Approved" | "Denied" | "Failed"))
        .filter_map(|condition| condition.last_update_time.as_ref())
        .map(|time| until(time.0, HOUR, now))
        .min();
    let made = request.metadata.creation_timestamp.as_ref()?;
    let pending = until(made.0, 24 * HOUR, now);
    let expires = certificate(request).and_then(|certificate| {
        let (_, pem) = x509_parser::pem::parse_x509_pem(&certificate.0).ok()?;
        let end = pem.parse_x509().ok()?.validity().not_after.timestamp();
        Some(until(Timestamp::from_second(end).ok()?, 0, now))
    });
    let stays = decided.unwrap_or(pending);
    Some(expires.map_or(stays, |expires| expires.min(stays)))
}
