//! Signs approved requests with the cluster's CA, subject to the rules of upstream's built-in
//! signers.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use ring::rand::SecureRandom;
use rkube_x509::{Certificate, to_pem};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_X509_COMMON_NAME, OID_X509_EXT_SUBJECT_ALT_NAME, OID_X509_ORGANIZATION_NAME,
};
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use super::approve::node_usages;

/// Seconds by which `notBefore` is backdated, to allow for clock skew.
const BACKDATE: u64 = 5 * 60;
/// Certificates with a shorter lifetime get all of it from now on.
const SHORT_LIVED: Duration = Duration::from_secs(8 * 3600);
/// The shortest lifetime that a request can ask for.
const MIN_LIFETIME: Duration = Duration::from_secs(600);

/// The CA that signs requests.
pub struct Authority<'a> {
    /// The CA certificate in PEM.
    pub certificate: &'a str,
    /// The CA key in PEM.
    pub key: &'a str,
    /// Maximum lifetime of signed certificates.
    pub lifetime: Duration,
}

/// The signers of this controller. Requests to others are theirs, whatever they contain.
const SIGNERS: [&str; 4] = [
    "kubernetes.io/kube-apiserver-client",
    "kubernetes.io/kube-apiserver-client-kubelet",
    "kubernetes.io/kubelet-serving",
    "kubernetes.io/legacy-unknown",
];

/// The subject and alternative names of a signing request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The common name (the user).
    pub common_name: String,
    /// The organizations (the user's groups).
    pub organizations: Vec<String>,
    /// The whole subject in DER, which is that of the certificate.
    pub der: Vec<u8>,
    /// Other attributes: object identifiers and values.
    pub others: Vec<(Vec<u64>, String)>,
    /// The kinds of subject alternative names that it has.
    pub names: Names,
}

/// Which kinds of alternative names there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// DNS names.
    pub dns: bool,
    /// IP addresses.
    pub ip: bool,
    /// Mail addresses.
    pub mail: bool,
    /// URIs.
    pub uri: bool,
}

fn der(request: &CertificateSigningRequest) -> Result<Vec<u8>, String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(&request.spec.request.0)
        .map_err(|error| error.to_string())?;
    Ok(pem.contents)
}

/// The attributes of a subject.
#[derive(Debug, PartialEq, Eq)]
struct Attributes {
    common_name: String,
    organizations: Vec<String>,
    others: Vec<(Vec<u64>, String)>,
}

/// Returns the attributes of a subject, of which only the organization may be repeated.
///
/// Readers of certificates differ in which of several common names counts, and a subject rebuilt from
/// parsed attributes loses repeated ones. Neither may decide who someone is.
fn attributes(subject: &X509Name<'_>) -> Result<Attributes, String> {
    let mut common_name = None;
    let (mut organizations, mut others) = (Vec::new(), Vec::<(Vec<u64>, String)>::new());
    for attribute in subject.iter_attributes() {
        let kind = attribute.attr_type();
        let text = attribute.as_str().map_err(|error| error.to_string())?;
        if *kind == OID_X509_COMMON_NAME {
            if common_name.replace(text.to_owned()).is_some() {
                return Err("the subject has several common names".into());
            }
        } else if *kind == OID_X509_ORGANIZATION_NAME {
            organizations.push(text.to_owned());
        } else {
            let parts = kind.iter().ok_or("the subject has an unusual attribute")?;
            let parts: Vec<u64> = parts.collect();
            if others.iter().any(|(known, _)| *known == parts) {
                return Err(format!("the subject has several attributes {kind}"));
            }
            others.push((parts, text.to_owned()));
        }
    }
    Ok(Attributes {
        common_name: common_name.unwrap_or_default(),
        organizations,
        others,
    })
}

/// Returns the alternative names that a request asks for: as upstream, those of the kinds that Go
/// reads. Nothing else that a request asks for is signed, so its other extensions do not matter.
///
/// # Errors
///
/// The names cannot be parsed.
fn alternative_names(request: &X509CertificationRequest<'_>) -> Result<Vec<SanType>, String> {
    let attributes = request.certification_request_info.iter_attributes();
    let extensions = attributes.flat_map(|attribute| match attribute.parsed_attribute() {
        ParsedCriAttribute::ExtensionRequest(requested) => requested.extensions.as_slice(),
        _ => &[],
    });
    let mut found = Vec::new();
    for extension in extensions.filter(|e| e.oid == OID_X509_EXT_SUBJECT_ALT_NAME) {
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
            return Err("the subject alternative names are malformed".into());
        };
        for name in &names.general_names {
            let text = |error: rcgen::Error| error.to_string();
            found.push(match name {
                GeneralName::DNSName(name) => SanType::DnsName((*name).try_into().map_err(text)?),
                GeneralName::RFC822Name(name) => {
                    SanType::Rfc822Name((*name).try_into().map_err(text)?)
                }
                GeneralName::URI(name) => SanType::URI((*name).try_into().map_err(text)?),
                GeneralName::IPAddress(octets) => SanType::IpAddress(address(octets)?),
                _ => continue,
            });
        }
    }
    Ok(found)
}

fn address(octets: &[u8]) -> Result<IpAddr, String> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from))
        .map_err(|_| format!("x509: cannot parse IP address of length {}", octets.len()))
}

impl Subject {
    /// Parses the subject of a request.
    ///
    /// # Errors
    ///
    /// Fails if the request cannot be parsed, or if its subject repeats an attribute other than the
    /// organization.
    pub fn of(request: &CertificateSigningRequest) -> Result<Self, String> {
        let der = der(request)?;
        let (_, parsed) =
            X509CertificationRequest::from_der(&der).map_err(|error| error.to_string())?;
        let subject = attributes(&parsed.certification_request_info.subject)?;
        let mut found = Self {
            common_name: subject.common_name,
            organizations: subject.organizations,
            others: subject.others,
            der: parsed.certification_request_info.subject.as_raw().to_vec(),
            names: Names::default(),
        };
        for name in alternative_names(&parsed)? {
            match name {
                SanType::DnsName(_) => found.names.dns = true,
                SanType::IpAddress(_) => found.names.ip = true,
                SanType::Rfc822Name(_) => found.names.mail = true,
                _ => found.names.uri = true,
            }
        }
        Ok(found)
    }
}

/// Checks a request against its signer's rules. Returns `None` for unknown signers. The reasons are
/// upstream's.
fn check(signer: &str, subject: &Subject, usages: &[String]) -> Option<Result<(), String>> {
    Some(match signer {
        "kubernetes.io/kube-apiserver-client" => client_usages(usages),
        "kubernetes.io/kube-apiserver-client-kubelet" => node_subject(subject)
            .and_then(|()| match subject.names {
                Names { dns: true, .. } => Err("DNS subjectAltNames are not allowed".into()),
                Names { mail: true, .. } => Err("Email subjectAltNames are not allowed".into()),
                Names { ip: true, .. } => Err("IP subjectAltNames are not allowed".into()),
                Names { uri: true, .. } => Err("URI subjectAltNames are not allowed".into()),
                _ => Ok(()),
            })
            .and_then(|()| exact_usages(usages, "client auth")),
        "kubernetes.io/kubelet-serving" => node_subject(subject)
            .and_then(|()| match subject.names {
                Names { mail: true, .. } => Err("Email subjectAltNames are not allowed".into()),
                Names { uri: true, .. } => Err("URI subjectAltNames are not allowed".into()),
                Names {
                    dns: false,
                    ip: false,
                    ..
                } => Err("DNS or IP subjectAltName is required".into()),
                _ => Ok(()),
            })
            .and_then(|()| exact_usages(usages, "server auth")),
        "kubernetes.io/legacy-unknown" => Ok(()),
        _ => return None,
    })
}

fn node_subject(subject: &Subject) -> Result<(), String> {
    if subject.organizations != ["system:nodes"] {
        Err("subject organization is not system:nodes".into())
    } else if !subject.common_name.starts_with("system:node:") {
        Err("subject common name does not begin with system:node:".into())
    } else {
        Ok(())
    }
}

fn client_usages(usages: &[String]) -> Result<(), String> {
    let known = ["digital signature", "key encipherment", "client auth"];
    if let Some(other) = usages.iter().find(|usage| !known.contains(&usage.as_str())) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    if usages.iter().any(|usage| usage == "client auth") {
        Ok(())
    } else {
        Err("missing required usage for client certificate: client auth".into())
    }
}

fn exact_usages(usages: &[String], required: &str) -> Result<(), String> {
    if node_usages(usages, required) {
        return Ok(());
    }
    let mut all = [required, "digital signature", "key encipherment"];
    all.sort_unstable();
    Err(format!("usages did not match [{}]", all.join(" ")))
}

fn key_usage(usage: &str) -> Option<KeyUsagePurpose> {
    Some(match usage {
        "signing" | "digital signature" => KeyUsagePurpose::DigitalSignature,
        "content commitment" => KeyUsagePurpose::ContentCommitment,
        "key encipherment" => KeyUsagePurpose::KeyEncipherment,
        "data encipherment" => KeyUsagePurpose::DataEncipherment,
        "key agreement" => KeyUsagePurpose::KeyAgreement,
        "cert sign" => KeyUsagePurpose::KeyCertSign,
        "crl sign" => KeyUsagePurpose::CrlSign,
        "encipher only" => KeyUsagePurpose::EncipherOnly,
        "decipher only" => KeyUsagePurpose::DecipherOnly,
        _ => return None,
    })
}

fn extended_usage(usage: &str) -> Option<ExtendedKeyUsagePurpose> {
    Some(match usage {
        "any" => ExtendedKeyUsagePurpose::Any,
        "server auth" => ExtendedKeyUsagePurpose::ServerAuth,
        "client auth" => ExtendedKeyUsagePurpose::ClientAuth,
        "code signing" => ExtendedKeyUsagePurpose::CodeSigning,
        "email protection" | "s/mime" => ExtendedKeyUsagePurpose::EmailProtection,
        "timestamping" => ExtendedKeyUsagePurpose::TimeStamping,
        "ocsp signing" => ExtendedKeyUsagePurpose::OcspSigning,
        "ipsec end system" => ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 5]),
        "ipsec tunnel" => ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 6]),
        "ipsec user" => ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 7]),
        "microsoft sgc" => ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
        "netscape sgc" => ExtendedKeyUsagePurpose::Other(vec![2, 16, 840, 1, 113_730, 4, 1]),
        _ => return None,
    })
}

/// Signs a request.
///
/// Returns the certificate in PEM, or the reason why the request is rejected. Returns `None` if the
/// signer is not one of the built-in ones.
pub fn sign(
    request: &CertificateSigningRequest,
    authority: &Authority<'_>,
    now: Timestamp,
) -> Option<Result<String, String>> {
    if !SIGNERS.contains(&request.spec.signer_name.as_str()) {
        return None;
    }
    let usages = request.spec.usages.clone().unwrap_or_default();
    let subject = match Subject::of(request) {
        Ok(subject) => subject,
        Err(reason) => return Some(Err(format!("unable to parse the request: {reason}"))),
    };
    if let Err(reason) = check(&request.spec.signer_name, &subject, &usages)? {
        return Some(Err(reason));
    }
    Some(issue(request, &subject, &usages, authority, now))
}

/// Checks that a certificate is for the subject that was checked.
fn verify(certificate: &[u8], subject: &Subject) -> Result<(), String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let written = attributes(parsed.subject())?;
    if written.common_name == subject.common_name
        && written.organizations == subject.organizations
        && written.others == subject.others
    {
        Ok(())
    } else {
        Err("the certificate would not be for the requested subject".into())
    }
}

/// Returns the beginning and the end of a certificate's validity, in seconds since 1970. As
/// upstream, short-lived certificates have their lifetime from now on, and no certificate outlives
/// its CA.
fn period(now: Timestamp, lifetime: Duration, ca_end: u64) -> (u64, u64) {
    let now = u64::try_from(now.as_second()).unwrap_or(0);
    let begin = now.saturating_sub(BACKDATE);
    let from = if lifetime < SHORT_LIVED { now } else { begin };
    (begin, from.saturating_add(lifetime.as_secs()).min(ca_end))
}

/// Returns the end of the CA's validity, in seconds since 1970.
fn expiry(authority: &Authority<'_>) -> Result<u64, String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(authority.certificate.as_bytes())
        .map_err(|error| error.to_string())?;
    let certificate = pem.parse_x509().map_err(|error| error.to_string())?;
    let end = certificate.validity().not_after.timestamp();
    u64::try_from(end).map_err(|error| error.to_string())
}

fn issue(
    request: &CertificateSigningRequest,
    subject: &Subject,
    usages: &[String],
    authority: &Authority<'_>,
    now: Timestamp,
) -> Result<String, String> {
    let text = |error: rcgen::Error| error.to_string();
    let der = der(request)?;
    let (_, parsed) = X509CertificationRequest::from_der(&der).map_err(|e| e.to_string())?;
    parsed
        .verify_signature()
        .map_err(|e| format!("unable to verify certificate request signature: {e}"))?;
    let holder = parsed.certification_request_info.subject_pki.raw;
    let holder = SubjectPublicKeyInfo::from_der(holder).map_err(text)?;
    let asked = request
        .spec
        .expiration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map(Duration::from_secs);
    let lifetime = asked.map_or(authority.lifetime, |asked| {
        asked.max(MIN_LIFETIME).min(authority.lifetime)
    });
    let (begin, end) = period(now, lifetime, expiry(authority)?);
    let moment = |seconds: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    let mut serial = [0u8; 16];
    ring::rand::SystemRandom::new()
        .fill(&mut serial)
        .map_err(|_| "no randomness is to be had".to_owned())?;
    serial[0] &= 0x7f; // DER integers are signed; keep the serial positive
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = moment(begin);
    params.not_after = moment(end);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.is_ca = IsCa::ExplicitNoCa;
    let unknown = |usage: &&String| key_usage(usage).is_none() && extended_usage(usage).is_none();
    if let Some(unknown) = usages.iter().find(unknown) {
        return Err(format!("unrecognized usage values: [{unknown:?}]"));
    }
    params.key_usages = usages.iter().filter_map(|usage| key_usage(usage)).collect();
    params.extended_key_usages = usages
        .iter()
        .filter_map(|usage| extended_usage(usage))
        .collect();
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names = alternative_names(&parsed)?;
    let key = KeyPair::from_pem(authority.key).map_err(text)?;
    let issuer = Issuer::from_ca_cert_pem(authority.certificate, key).map_err(text)?;
    let certificate = params.signed_by(&holder, &issuer).map_err(text)?;
    // rcgen cannot write every subject, so it gets none, and that of the request is put in.
    let unnamed = Certificate::parse(certificate.der()).map_err(|e| e.to_string())?;
    let (ca, key) = (authority.certificate.as_bytes(), authority.key.as_bytes());
    let issuer = rkube_x509::Issuer::from_pem(ca, key)?;
    let named = issuer
        .rename(&unnamed, &subject.der)
        .map_err(|e| e.to_string())?;
    verify(&named, subject)?;
    Ok(to_pem(&named))
}

#[cfg(test)]
mod tests;
