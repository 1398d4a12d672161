//! New certificates from old ones: the same holder, another period of validity.

use base64::Engine as _;
use jiff::Timestamp;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use crate::{Certificate, Error};

/// `AlgorithmIdentifier` of ECDSA with SHA-256.
const ECDSA_SHA256: [u8; 12] = [
    0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02,
];
/// Seconds by which the beginning of a validity is in the past, because clocks differ.
const BACKDATE: i64 = 3600;
const DAY: i64 = 24 * 3600;
/// The validity of certificates in seconds.
pub const LIFETIME: i64 = 365 * DAY;
/// Certificates that are valid longer than this are renewed: those of earlier versions were made for
/// ten years.
const MAX_LIFETIME: i64 = LIFETIME + 2 * DAY;
/// DER tags.
const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;

/// A CA with its key, which is of ECDSA P-256.
pub struct Issuer {
    certificate: Certificate,
    key: EcdsaKeyPair,
    random: SystemRandom,
}

impl Issuer {
    /// Reads a CA's certificate and key in PEM.
    ///
    /// # Errors
    ///
    /// The part that cannot be read, and the reason.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, String> {
        let der = CertificateDer::from_pem_slice(certificate).map_err(|e| e.to_string())?;
        let certificate = Certificate::parse(&der).map_err(|e| e.to_string())?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(key).map_err(|e| format!("key: {e}"))?;
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let key = EcdsaKeyPair::from_pkcs8(algorithm, key.secret_pkcs8_der(), &random)
            .map_err(|e| format!("key: it is not an ECDSA P-256 private key: {e}"))?;
        if !certificate.spki.ends_with(key.public_key().as_ref()) {
            return Err("the key is not that of the certificate".into());
        }
        Ok(Self {
            certificate,
            key,
            random,
        })
    }

    /// Returns the CA's certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Issues a certificate like `old` that begins at `now` (seconds since 1970) and is valid for
    /// `lifetime` seconds, but not longer than the CA.
    ///
    /// # Errors
    ///
    /// `old` cannot be parsed, or there are no random numbers.
    pub fn renew(
        &self,
        old: &Certificate,
        now: i64,
        lifetime: i64,
    ) -> Result<CertificateDer<'static>, Error> {
        let end = now.saturating_add(lifetime).min(self.certificate.not_after);
        let begin = now.saturating_sub(BACKDATE);
        let validity = tlv(SEQUENCE, &[time(begin)?, time(end)?].concat());
        self.reissue(old, &validity, &old.subject)
    }

    /// Issues a certificate like `old` for another subject, which is a `Name` in DER.
    ///
    /// # Errors
    ///
    /// As [`Issuer::renew`].
    pub fn rename(
        &self,
        old: &Certificate,
        subject: &[u8],
    ) -> Result<CertificateDer<'static>, Error> {
        let times = [time(old.not_before)?, time(old.not_after)?];
        self.reissue(old, &tlv(SEQUENCE, &times.concat()), subject)
    }

    fn reissue(
        &self,
        old: &Certificate,
        validity: &[u8],
        subject: &[u8],
    ) -> Result<CertificateDer<'static>, Error> {
        let (_, mut fields, _) = split(&old.signed)?;
        let mut version: &[u8] = &[];
        if fields.first() == Some(&VERSION) {
            (version, fields) = next(fields)?;
        }
        // Serial number, algorithm, issuer, validity and subject are replaced.
        for _ in 0..5 {
            (_, fields) = next(fields)?;
        }
        let signed = [
            version,
            &tlv(INTEGER, &self.serial()?),
            &ECDSA_SHA256,
            &self.certificate.subject,
            validity,
            subject,
            fields,
        ];
        let signed = tlv(SEQUENCE, &signed.concat());
        let signature = self
            .key
            .sign(&self.random, &signed)
            .map_err(|_| NO_RANDOM)?;
        let signature = [&[0], signature.as_ref()].concat();
        let parts = [&signed[..], &ECDSA_SHA256, &tlv(BIT_STRING, &signature)];
        Ok(tlv(SEQUENCE, &parts.concat()).into())
    }

    /// Returns a random positive number of 16 bytes without superfluous zeros.
    fn serial(&self) -> Result<[u8; 16], Error> {
        let mut serial = [0; 16];
        self.random.fill(&mut serial).map_err(|_| NO_RANDOM)?;
        serial[0] = serial[0] & 0x7f | 0x40;
        Ok(serial)
    }
}

const NO_RANDOM: Error = Error::Signature("the system's random source failed");

impl Certificate {
    /// Returns whether the certificate is to be renewed: less than a third of its validity is left, or
    /// much more than [`LIFETIME`].
    pub fn is_due(&self, now: i64) -> bool {
        let left = self.not_after.saturating_sub(now);
        left < self.not_after.saturating_sub(self.not_before) / 3 || left > MAX_LIFETIME
    }
}

/// Returns a certificate in PEM.
pub fn to_pem(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len())
        .step_by(64)
        .map(|at| &text[at..text.len().min(at + 64)])
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}

/// Returns an element of DER.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut element = vec![tag];
    if length < 0x80 {
        element.push(length as u8);
    } else {
        let bytes = length.to_be_bytes();
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        element.push(0x80 | (bytes.len() - zeros) as u8);
        element.extend_from_slice(&bytes[zeros..]);
    }
    element.extend_from_slice(content);
    element
}

/// Returns the first element of a text of DER with its header, and the rest.
fn next(input: &[u8]) -> Result<(&[u8], &[u8]), Error> {
    let (header, content, _) = split(input)?;
    Ok(input.split_at(header + content.len()))
}

/// Returns the length of the first element's header, its content and the rest.
fn split(input: &[u8]) -> Result<(usize, &[u8], &[u8]), Error> {
    let malformed = || Error::Malformed("an element is cut off".into());
    let first = usize::from(*input.get(1).ok_or_else(malformed)?);
    let (header, length) = if first < 0x80 {
        (2, first)
    } else {
        let count = first - 0x80;
        let bytes = input.get(2..2 + count).filter(|_| count <= 4);
        let bytes = bytes.ok_or_else(malformed)?;
        let length = bytes
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        (2 + count, length)
    };
    let rest = input.get(header..).ok_or_else(malformed)?;
    let (content, rest) = rest.split_at_checked(length).ok_or_else(malformed)?;
    Ok((header, content, rest))
}

/// Returns a time of a validity.
fn time(second: i64) -> Result<Vec<u8>, Error> {
    let time = Timestamp::from_second(second).map_err(|e| Error::Malformed(e.to_string()))?;
    // RFC 5280, 4.1.2.5: two digits for the year through 2049.
    let year: u32 = time.strftime("%Y").to_string().parse().unwrap_or(u32::MAX);
    let (tag, format) = match year {
        1950..2050 => (UTC_TIME, "%y%m%d%H%M%SZ"),
        _ => (GENERALIZED_TIME, "%Y%m%d%H%M%SZ"),
    };
    Ok(tlv(tag, time.strftime(format).to_string().as_bytes()))
}
