//! Signs approved requests with the cluster's CA, subject to the rules of upstream's built-in
//! signers.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use rcgen::{
    CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use ring::rand::SecureRandom;
use x509_parser::oid_registry::{OID_X509_COMMON_NAME, OID_X509_ORGANIZATION_NAME};
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use super::approve::{is_node, node_client_usages};

/// Seconds by which `notBefore` is backdated, to allow for clock skew.
const BACKDATE: i64 = 5 * 60;
/// The shortest lifetime that a request can ask for.
const SHORTEST: Duration = Duration::from_secs(600);

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
    /// Other attributes: object identifiers and values.
    pub others: Vec<(Vec<u64>, String)>,
    /// Whether it has subject alternative names.
    pub has_alternatives: bool,
    /// Whether it has DNS names or IP addresses.
    pub has_server_names: bool,
    /// Whether it has email addresses or URIs.
    pub has_other_names: bool,
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

impl Subject {
    /// Parses the subject of a request.
    ///
    /// # Errors
    ///
    /// Fails if the request cannot be parsed, or if its subject repeats an attribute other than the
    /// organization.
    pub fn of(request: &CertificateSigningRequest) -> Result<Self, String> {
        use x509_parser::extensions::{GeneralName, ParsedExtension};
        let der = der(request)?;
        let (_, parsed) =
            x509_parser::certification_request::X509CertificationRequest::from_der(&der)
                .map_err(|error| error.to_string())?;
        let subject = attributes(&parsed.certification_request_info.subject)?;
        let mut found = Self {
            common_name: subject.common_name,
            organizations: subject.organizations,
            others: subject.others,
            has_alternatives: false,
            has_server_names: false,
            has_other_names: false,
        };
        let extensions = parsed.requested_extensions().into_iter().flatten();
        let names = extensions.flat_map(|extension| match extension {
            ParsedExtension::SubjectAlternativeName(names) => names.general_names.as_slice(),
            _ => &[],
        });
        for name in names {
            found.has_alternatives = true;
            match name {
                GeneralName::DNSName(_) | GeneralName::IPAddress(_) => {
                    found.has_server_names = true;
                }
                _ => found.has_other_names = true,
            }
        }
        Ok(found)
    }
}

/// Checks a request against its signer's rules. Returns `None` for unknown signers.
fn check(signer: &str, subject: &Subject, usages: &[String]) -> Option<Result<(), &'static str>> {
    let only = |allowed: &[&str]| usages.iter().all(|usage| allowed.contains(&usage.as_str()));
    let has = |usage: &str| usages.iter().any(|given| given == usage);
    let usages_fit = |required: &str| {
        only(&["digital signature", "key encipherment", required])
            && has("digital signature")
            && has(required)
    };
    Some(match signer {
        "kubernetes.io/kube-apiserver-client" => {
            let fits = only(&["digital signature", "key encipherment", "client auth"])
                && has("client auth");
            if fits {
                Ok(())
            } else {
                Err("usages did not match the signer's: client auth is needed")
            }
        }
        "kubernetes.io/kube-apiserver-client-kubelet" => {
            if !is_node(subject) {
                Err("the subject is not that of a node")
            } else if subject.has_alternatives {
                Err("subject alternative names are not allowed")
            } else if !node_client_usages(usages) {
                Err("usages did not match the signer's")
            } else {
                Ok(())
            }
        }
        "kubernetes.io/kubelet-serving" => {
            if !is_node(subject) {
                Err("the subject is not that of a node")
            } else if !subject.has_server_names {
                Err("a DNS name or an IP address is needed")
            } else if subject.has_other_names {
                Err("mail addresses and URIs are not allowed")
            } else if !usages_fit("server auth") {
                Err("usages did not match the signer's")
            } else {
                Ok(())
            }
        }
        "kubernetes.io/legacy-unknown" => Ok(()),
        _ => return None,
    })
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
        return Some(Err(reason.to_owned()));
    }
    Some(issue(request, &subject, &usages, authority, now))
}

/// Returns the name of a certificate for the checked subject.
///
/// rcgen keeps one value per attribute type, so a second organization is written with the same
/// object identifier under another key.
fn distinguished_name(subject: &Subject) -> Result<DistinguishedName, String> {
    let organization_types = [
        DnType::OrganizationName,
        DnType::CustomDnType(vec![2, 5, 4, 10]),
    ];
    if subject.organizations.len() > organization_types.len() {
        return Err("certificates with more than two organizations cannot be issued".into());
    }
    let mut name = DistinguishedName::new();
    if !subject.common_name.is_empty() {
        name.push(DnType::CommonName, subject.common_name.as_str());
    }
    for (kind, organization) in organization_types.into_iter().zip(&subject.organizations) {
        name.push(kind, organization.as_str());
    }
    for (kind, text) in &subject.others {
        name.push(DnType::CustomDnType(kind.clone()), text.as_str());
    }
    Ok(name)
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

fn issue(
    request: &CertificateSigningRequest,
    subject: &Subject,
    usages: &[String],
    authority: &Authority<'_>,
    now: Timestamp,
) -> Result<String, String> {
    let text = |error: rcgen::Error| error.to_string();
    let der = der(request)?;
    let mut parsed = CertificateSigningRequestParams::from_der(&der.into()).map_err(text)?;
    let asked = request
        .spec
        .expiration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map(Duration::from_secs);
    let lifetime = asked.map_or(authority.lifetime, |asked| {
        asked.max(SHORTEST).min(authority.lifetime)
    });
    let begin = u64::try_from(now.as_second() - BACKDATE).unwrap_or(0);
    let moment = |seconds: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    let mut serial = [0u8; 16];
    ring::rand::SystemRandom::new()
        .fill(&mut serial)
        .map_err(|_| "no randomness is to be had".to_owned())?;
    serial[0] &= 0x7f; // DER integers are signed; keep the serial positive
    let params = &mut parsed.params;
    params.distinguished_name = distinguished_name(subject)?;
    params.not_before = moment(begin);
    params.not_after = moment(begin + BACKDATE.unsigned_abs() + lifetime.as_secs());
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = usages.iter().filter_map(|usage| key_usage(usage)).collect();
    params.extended_key_usages = usages
        .iter()
        .filter_map(|usage| extended_usage(usage))
        .collect();
    params.use_authority_key_identifier_extension = true;
    // None of the signers accepts other types of alternative names.
    params.subject_alt_names.retain(|name| {
        matches!(
            name,
            SanType::DnsName(_) | SanType::IpAddress(_) | SanType::URI(_) | SanType::Rfc822Name(_)
        )
    });
    let key = KeyPair::from_pem(authority.key).map_err(text)?;
    let issuer = Issuer::from_ca_cert_pem(authority.certificate, key).map_err(text)?;
    let certificate = parsed.signed_by(&issuer).map_err(text)?;
    verify(certificate.der(), subject)?;
    Ok(certificate.pem())
}

#[cfg(test)]
mod tests {
    use super::super::approve::{Kind, recognize};
    use super::*;
    use crate::common::pods::testing::at;
    use k8s_openapi::ByteString;
    use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
    use rcgen::{BasicConstraints, CertificateParams};

    fn request(
        common_name: &str,
        organization: &str,
        signer: &str,
        usages: &[&str],
    ) -> CertificateSigningRequest {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, organization);
        let pem = params
            .serialize_request(&KeyPair::generate().unwrap())
            .unwrap()
            .pem()
            .unwrap();
        CertificateSigningRequest {
            spec: CertificateSigningRequestSpec {
                request: ByteString(pem.into_bytes()),
                signer_name: signer.into(),
                usages: Some(usages.iter().map(|usage| (*usage).into()).collect()),
                username: Some("system:node:n1".into()),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    const KUBELET: &str = "kubernetes.io/kube-apiserver-client-kubelet";
    const CLIENT: &[&str] = &["digital signature", "client auth"];

    #[test]
    fn a_nodes_request_is_recognized_and_signed() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "ca");
        let certificate = params.self_signed(&key).unwrap().pem();
        let authority = Authority {
            certificate: &certificate,
            key: &key.serialize_pem(),
            lifetime: Duration::from_secs(3600),
        };
        let request = request("system:node:n1", "system:nodes", KUBELET, CLIENT);
        assert_eq!(recognize(&request), Some(Kind::Own));
        let signed = sign(&request, &authority, at(1_800_000_000))
            .unwrap()
            .unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(signed.as_bytes()).unwrap();
        let parsed = pem.parse_x509().unwrap();
        assert_eq!(
            parsed.subject().to_string(),
            "CN=system:node:n1, O=system:nodes"
        );
        assert_eq!(parsed.validity().not_after.timestamp(), 1_800_003_600);
        assert_eq!(parsed.issuer().to_string(), "CN=ca");
    }

    #[test]
    fn all_organizations_are_signed_or_none() {
        let subject = |organizations: &[&str]| Subject {
            common_name: "bob".into(),
            organizations: organizations.iter().map(|o| (*o).into()).collect(),
            others: vec![(vec![2, 5, 4, 11], "unit".into())],
            has_alternatives: false,
            has_server_names: false,
            has_other_names: false,
        };
        let certificate = |name| {
            let mut params = CertificateParams::default();
            params.distinguished_name = name;
            params.self_signed(&KeyPair::generate().unwrap()).unwrap()
        };
        for organizations in [&[][..], &["dev"], &["dev", "ops"]] {
            let subject = subject(organizations);
            let made = certificate(distinguished_name(&subject).unwrap());
            assert_eq!(verify(made.der(), &subject), Ok(()));
        }
        let three = subject(&["dev", "ops", "qa"]);
        assert!(distinguished_name(&three).is_err());
        let made = certificate(distinguished_name(&subject(&["dev", "ops"])).unwrap());
        assert!(verify(made.der(), &subject(&["ops"])).is_err());
    }

    #[test]
    fn what_breaks_a_signers_rules_is_refused() {
        let rules = |request: &CertificateSigningRequest| {
            let subject = Subject::of(request).unwrap();
            check(
                &request.spec.signer_name,
                &subject,
                request.spec.usages.as_ref().unwrap(),
            )
            .map(|result| result.is_ok())
        };
        assert_eq!(rules(&request("bob", "dev", KUBELET, CLIENT)), Some(false));
        assert_eq!(
            rules(&request(
                "bob",
                "dev",
                "kubernetes.io/kube-apiserver-client",
                CLIENT
            )),
            Some(true)
        );
        let serving = request(
            "system:node:n1",
            "system:nodes",
            "kubernetes.io/kubelet-serving",
            &["server auth"],
        );
        assert_eq!(rules(&serving), Some(false));
        assert_eq!(
            rules(&request("bob", "dev", "example.com/mine", CLIENT)),
            None
        );
        assert_eq!(
            recognize(&request("system:node:n2", "system:nodes", KUBELET, CLIENT)),
            Some(Kind::First)
        );
    }

    #[test]
    fn a_subject_has_one_common_name() {
        use rcgen::DnType::{CommonName, OrganizationalUnitName};
        // `DistinguishedName` keeps one value per type, so a second common name is smuggled in under
        // another type of the same length and then renamed.
        let raw = |second: DnType, rename: bool| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(CommonName, "system:node:n1");
            params
                .distinguished_name
                .push(second, "kube-apiserver-kubelet-client");
            let key = KeyPair::generate().unwrap();
            let mut der = params.serialize_request(&key).unwrap().der().to_vec();
            let unit = [0x55, 0x04, 0x0b];
            let place = der.windows(3).position(|bytes| bytes == unit);
            if rename && let Some(place) = place {
                der[place + 2] = 0x03;
            }
            let subject = |der: &[u8]| {
                let (_, parsed) =
                    x509_parser::certification_request::X509CertificationRequest::from_der(der)
                        .unwrap();
                attributes(&parsed.certification_request_info.subject)
            };
            subject(&der)
        };
        let twice = raw(OrganizationalUnitName, true).unwrap_err();
        assert_eq!(twice, "the subject has several common names");
        // Attributes that do not decide who someone is are kept.
        let other = raw(OrganizationalUnitName, false).unwrap();
        assert_eq!(other.others[0].0, [2, 5, 4, 11]);
        let plain = raw(DnType::OrganizationName, false).unwrap();
        assert_eq!(plain.common_name, "system:node:n1");
        assert_eq!(plain.organizations.len(), 1);
    }
}
