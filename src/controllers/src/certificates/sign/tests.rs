use super::super::approve::{Kind, recognize};
use super::*;
use crate::common::pods::testing::at;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
use rcgen::{BasicConstraints, CustomExtension, DnType};

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
fn what_else_a_request_asks_for_does_not_matter() {
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
    // A subject key identifier, "I am a CA", and an unknown extension; all of them
    // critical, which Go does not mind in requests.
    let extensions = [
        (&[2, 5, 29, 14][..], &[0x04, 0x02, 0xab, 0xcd][..]),
        (&[2, 5, 29, 19], &[0x30, 0x03, 0x01, 0x01, 0xff]),
        (&[1, 3, 6, 1, 4, 1, 99_999, 1], &[0x05, 0x00]),
    ];
    let mut params = CertificateParams::new(vec!["a.example.com".into(), "10.0.0.1".into()]);
    let params = params.as_mut().unwrap();
    params.distinguished_name.push(DnType::CommonName, "bob");
    params.custom_extensions = extensions
        .iter()
        .map(|(oid, content)| {
            let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
            extension.set_criticality(true);
            extension
        })
        .collect();
    let holder = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let pem = params.serialize_request(&holder).unwrap().pem().unwrap();
    let client = "kubernetes.io/kube-apiserver-client";
    let mut request = request("bob", "dev", client, CLIENT);
    request.spec.request = ByteString(pem.into_bytes());
    let signed = sign(&request, &authority, at(1_800_000_000))
        .unwrap()
        .unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(signed.as_bytes()).unwrap();
    let parsed = pem.parse_x509().unwrap();
    assert!(!parsed.is_ca());
    assert_eq!(
        parsed.public_key().raw,
        rcgen::PublicKeyData::subject_public_key_info(&holder)
    );
    for (oid, content) in extensions {
        let asked = |found: &x509_parser::extensions::X509Extension<'_>| {
            let mut parts = found.oid.iter().unwrap();
            oid.iter().all(|part| parts.next() == Some(*part)) && found.value == content
        };
        assert!(!parsed.extensions().iter().any(asked), "{oid:?}");
    }
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names.len(), 2);
    // The signature of the request counts.
    let mut der = params.serialize_request(&holder).unwrap().der().to_vec();
    *der.last_mut().unwrap() ^= 1;
    let text = rkube_x509::to_pem(&der).replace("CERTIFICATE", "CERTIFICATE REQUEST");
    request.spec.request = ByteString(text.into_bytes());
    let error = sign(&request, &authority, at(1_800_000_000))
        .unwrap()
        .unwrap_err();
    assert!(
        error.starts_with("unable to verify certificate request signature"),
        "{error}"
    );
}

#[test]
fn certificates_are_valid_as_long_as_upstreams() {
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let now = at(1_000_000);
    assert_eq!(period(now, hours(1), u64::MAX), (999_700, 1_003_600));
    assert_eq!(period(now, hours(8), u64::MAX), (999_700, 1_028_500));
    assert_eq!(period(now, hours(8), 1_000_100), (999_700, 1_000_100));
}

#[test]
fn reasons_are_those_of_upstream() {
    let subject = |organization: &str, name: &str, names: Names| Subject {
        common_name: name.into(),
        organizations: vec![organization.into()],
        others: Vec::new(),
        der: Vec::new(),
        names,
    };
    let node = |names| subject("system:nodes", "system:node:n1", names);
    let judge = |signer: &str, subject: &Subject, usages: &[&str]| {
        let usages: Vec<String> = usages.iter().map(|u| (*u).into()).collect();
        check(&format!("kubernetes.io/{signer}"), subject, &usages).unwrap()
    };
    let none = Names::default();
    let dns = Names { dns: true, ..none };
    let (kubelet, serving, client) = (
        "kube-apiserver-client-kubelet",
        "kubelet-serving",
        "kube-apiserver-client",
    );
    let serves: &[&str] = &["digital signature", "server auth"];
    for (signer, subject, usages, reason) in [
        (
            kubelet,
            subject("dev", "system:node:n", none),
            CLIENT,
            "subject organization is not system:nodes",
        ),
        (
            kubelet,
            subject("system:nodes", "n", none),
            CLIENT,
            "subject common name does not begin with system:node:",
        ),
        (
            kubelet,
            node(dns),
            CLIENT,
            "DNS subjectAltNames are not allowed",
        ),
        (
            kubelet,
            node(Names { uri: true, ..none }),
            CLIENT,
            "URI subjectAltNames are not allowed",
        ),
        (
            kubelet,
            node(none),
            serves,
            "usages did not match [client auth digital signature key encipherment]",
        ),
        (
            serving,
            node(none),
            serves,
            "DNS or IP subjectAltName is required",
        ),
        (
            serving,
            node(Names { mail: true, ..dns }),
            serves,
            "Email subjectAltNames are not allowed",
        ),
        (
            serving,
            node(dns),
            &["server auth"],
            "usages did not match [digital signature key encipherment server auth]",
        ),
        (
            client,
            node(none),
            serves,
            "invalid usage for client certificate: server auth",
        ),
        (
            client,
            node(none),
            &["digital signature"],
            "missing required usage for client certificate: client auth",
        ),
    ] {
        assert_eq!(judge(signer, &subject, usages), Err(reason.to_owned()));
    }
    let ip = Names { ip: true, ..none };
    let with_rsa = [
        "digital signature",
        "key encipherment",
        "server auth",
        "server auth",
    ];
    assert_eq!(judge(serving, &node(ip), &with_rsa), Ok(()));
    assert_eq!(judge(client, &node(none), &["client auth"]), Ok(()));
    assert_eq!(judge("legacy-unknown", &node(none), &["any"]), Ok(()));
}

#[test]
fn the_subject_is_signed_as_it_is() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap().pem();
    let authority = Authority {
        certificate: &ca,
        key: &key.serialize_pem(),
        lifetime: Duration::from_secs(3600),
    };
    // A subject with four organizations, which rcgen cannot write: the types of equal length are
    // renamed in the request, so its signature is wrong, but the parsed subject is not.
    let mut asked = request("bob", "dev", "kubernetes.io/kube-apiserver-client", CLIENT);
    let der_of = |request: &CertificateSigningRequest| Subject::of(request).unwrap().der;
    let mut subject = der_of(&asked);
    let organization = [
        &[
            0x31, 0x0c, 0x30, 0x0a, 0x06, 0x03, 0x55, 0x04, 0x0a, 0x0c, 0x03,
        ][..],
        b"ops",
    ]
    .concat();
    for _ in 0..3 {
        subject.extend_from_slice(&organization);
    }
    subject[1] += 3 * organization.len() as u8;
    let (_, name) = X509Name::from_der(&subject).unwrap();
    let read = attributes(&name).unwrap();
    assert_eq!(read.organizations, ["dev", "ops", "ops", "ops"]);
    let subject = Subject {
        common_name: read.common_name,
        organizations: read.organizations,
        others: read.others,
        der: subject.clone(),
        names: Names::default(),
    };
    asked.spec.expiration_seconds = Some(600);
    let usages: Vec<String> = CLIENT.iter().map(|usage| (*usage).into()).collect();
    let now = at(1_800_000_000);
    let made = issue(&asked, &subject, &usages, &authority, now).unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(made.as_bytes()).unwrap();
    let made = pem.parse_x509().unwrap();
    assert_eq!(made.subject().as_raw(), &subject.der[..]);
    let other = Subject {
        organizations: vec!["ops".into()],
        ..subject
    };
    assert!(verify(&pem.contents, &other).is_err());
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
