//! Signs approved requests with the cluster's CA, subject to the rules of upstream's built-in
//! signers.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use rcgen::{
    CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use ring::rand::SecureRandom;
use x509_parser::prelude::FromDer;

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

/// The subject and alternative names of a signing request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The common name (the user).
    pub common_name: String,
    /// The organizations (the user's groups).
    pub organizations: Vec<String>,
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

impl Subject {
    /// Parses the subject of a request.
    pub fn of(request: &CertificateSigningRequest) -> Result<Self, String> {
        use x509_parser::extensions::{GeneralName, ParsedExtension};
        let der = der(request)?;
        let (_, parsed) =
            x509_parser::certification_request::X509CertificationRequest::from_der(&der)
                .map_err(|error| error.to_string())?;
        let subject = &parsed.certification_request_info.subject;
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            attribute.as_str().unwrap_or_default().to_owned()
        };
        let mut found = Self {
            common_name: subject
                .iter_common_name()
                .next()
                .map(text)
                .unwrap_or_default(),
            organizations: subject.iter_organization().map(text).collect(),
            has_alternatives: false,
            has_server_names: false,
            has_other_names: false,
        };
        for extension in parsed.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                for name in &names.general_names {
                    found.has_alternatives = true;
                    match name {
                        GeneralName::DNSName(_) | GeneralName::IPAddress(_) => {
                            found.has_server_names = true
                        }
                        _ => found.has_other_names = true,
                    }
                }
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
    let usages = request.spec.usages.clone().unwrap_or_default();
    let subject = match Subject::of(request) {
        Ok(subject) => subject,
        Err(reason) => return Some(Err(format!("unable to parse the request: {reason}"))),
    };
    if let Err(reason) = check(&request.spec.signer_name, &subject, &usages)? {
        return Some(Err(reason.to_owned()));
    }
    Some(issue(request, &usages, authority, now))
}

fn issue(
    request: &CertificateSigningRequest,
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
    Ok(parsed.signed_by(&issuer).map_err(text)?.pem())
}

#[cfg(test)]
mod tests {
    use super::super::approve::{Kind, recognize};
    use super::*;
    use crate::common::pods::testing::at;
    use k8s_openapi::ByteString;
    use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
    use rcgen::{BasicConstraints, CertificateParams, DnType};

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
}
