use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::{Certificate, Error, Identity, Renewable, Roots, Usage, to_pem, verify};

mod handshakes;

/// 2030-01-01.
const NOW: i64 = 1_893_456_000;

/// A certificate and what it signs with.
struct Issued {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Issued {
    fn parsed(&self) -> Certificate {
        Certificate::parse(self.certificate.der()).unwrap()
    }

    fn roots(&self) -> Roots {
        Roots::from_pem(self.certificate.pem().as_bytes()).unwrap()
    }
}

type Change = fn(&mut CertificateParams);
/// Says whether an outcome is the expected one.
type Judge = fn(Result<(), Error>) -> bool;

fn params(names: &[&str], name: &str, change: Change) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2040, 1, 1);
    change(&mut params);
    params
}

fn is_ca(params: &mut CertificateParams) {
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
}

fn root(change: Change) -> Issued {
    let mut params = params(&[], "root", is_ca);
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    Issued {
        certificate: params.self_signed(&key).unwrap(),
        issuer: Issuer::new(params, key),
    }
}

fn below(parent: &Issued, name: &str, names: &[&str], change: Change) -> Issued {
    let params = params(names, name, change);
    let key = KeyPair::generate().unwrap();
    Issued {
        certificate: params.signed_by(&key, &parent.issuer).unwrap(),
        issuer: Issuer::new(params, key),
    }
}

const NAMES: &[&str] = &["svc", "*.wild.example", "10.0.0.1"];

fn unchanged(_: &mut CertificateParams) {}

fn outcome(roots: &Roots, leaf: &Certificate, others: &[Certificate]) -> Result<(), Error> {
    verify(roots, leaf, others, NOW, Usage::Server, Some("svc"))
}

#[test]
fn leaves_are_judged_as_by_go() {
    let ca = root(unchanged);
    let cases: &[(&str, Change, Result<(), Error>)] = &[
        ("plain", unchanged, Ok(())),
        ("a CA as server", is_ca, Ok(())),
        (
            "expired",
            |p| p.not_after = date_time_ymd(2029, 1, 1),
            Err(Error::Expired(
                "2030-01-01T00:00:00Z is after 2029-01-01T00:00:00Z".into(),
            )),
        ),
        (
            "not yet valid",
            |p| p.not_before = date_time_ymd(2031, 1, 1),
            Err(Error::Expired(
                "2030-01-01T00:00:00Z is before 2031-01-01T00:00:00Z".into(),
            )),
        ),
        (
            "for clients",
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            Err(Error::IncompatibleUsage),
        ),
        (
            "for any use",
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any],
            Ok(()),
        ),
        (
            "no key usage of servers",
            |p| p.key_usages = vec![KeyUsagePurpose::CrlSign],
            Ok(()),
        ),
        (
            "unknown critical extension",
            |p| {
                let mut extension = CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0]);
                extension.set_criticality(true);
                p.custom_extensions.push(extension);
            },
            Err(Error::UnhandledCriticalExtension),
        ),
        (
            "unknown extension",
            |p| {
                let extension = CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0]);
                p.custom_extensions.push(extension);
            },
            Ok(()),
        ),
    ];
    for (what, change, expected) in cases {
        let leaf = below(&ca, "leaf", NAMES, *change);
        assert_eq!(
            outcome(&ca.roots(), &leaf.parsed(), &[]),
            *expected,
            "{what}"
        );
        // The same of a self-signed certificate that is its own bundle.
        let key = KeyPair::generate().unwrap();
        let own = params(NAMES, "own", *change).self_signed(&key).unwrap();
        let (roots, own) = (
            Roots::from_pem(own.pem().as_bytes()).unwrap(),
            Certificate::parse(own.der()).unwrap(),
        );
        assert_eq!(outcome(&roots, &own, &[]), *expected, "{what}, self-signed");
    }
}

#[test]
fn issuers_are_judged_as_by_go() {
    let unknown = |found: Result<(), Error>| matches!(found, Err(Error::UnknownAuthority(_)));
    let cases: &[(&str, Change, Judge)] = &[
        ("plain", unchanged, |f| f == Ok(())),
        (
            "expired",
            |p| p.not_after = date_time_ymd(2029, 1, 1),
            |f| matches!(f, Err(Error::Expired(_))),
        ),
        (
            "no CA",
            |p| p.is_ca = IsCa::NoCa,
            |f| matches!(f, Err(Error::UnknownAuthority(_))),
        ),
        (
            "explicitly no CA",
            |p| p.is_ca = IsCa::ExplicitNoCa,
            |f| matches!(f, Err(Error::UnknownAuthority(_))),
        ),
        (
            "may not sign",
            |p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature],
            |f| matches!(f, Err(Error::UnknownAuthority(_))),
        ),
        (
            "may sign",
            |p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign],
            |f| f == Ok(()),
        ),
        (
            "for clients",
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            |f| f == Err(Error::IncompatibleUsage),
        ),
        (
            "other names",
            |p| {
                p.name_constraints = Some(NameConstraints {
                    permitted_subtrees: vec![GeneralSubtree::DnsName("example.com".into())],
                    excluded_subtrees: vec![],
                });
            },
            |f| matches!(f, Err(Error::NameNotPermitted(_))),
        ),
    ];
    for (what, change, expected) in cases {
        let ca = root(*change);
        let leaf = below(&ca, "leaf", NAMES, unchanged);
        let found = outcome(&ca.roots(), &leaf.parsed(), &[]);
        assert!(expected(found.clone()), "{what}: {found:?}");
    }
    let (ca, other) = (root(unchanged), root(unchanged));
    let leaf = below(&ca, "leaf", NAMES, unchanged).parsed();
    // The same name and another key.
    assert!(unknown(outcome(&other.roots(), &leaf, &[])));
    assert!(unknown(outcome(&Roots::default(), &leaf, &[])));
    // The right one is found behind the wrong one.
    let bundle = format!("{}text\n{}", other.certificate.pem(), ca.certificate.pem());
    let roots = Roots::from_pem(bundle.replace('\n', "\r\n").as_bytes()).unwrap();
    assert_eq!(outcome(&roots, &leaf, &[]), Ok(()));
}

#[test]
fn chains_lead_over_intermediates() {
    let ca = root(|p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(1)));
    let first = below(&ca, "first", &[], is_ca);
    let second = below(&first, "second", &[], is_ca);
    let leaf = below(&first, "leaf", NAMES, unchanged).parsed();
    let deep = below(&second, "leaf", NAMES, unchanged).parsed();
    let chain = [second.parsed(), first.parsed()];
    assert_eq!(outcome(&ca.roots(), &leaf, &chain), Ok(()));
    assert_eq!(
        outcome(&ca.roots(), &deep, &chain),
        Err(Error::TooManyIntermediates)
    );
    // Any certificate of the bundle is trusted, not only self-signed ones.
    assert_eq!(outcome(&first.roots(), &deep, &chain), Ok(()));
    assert!(matches!(
        outcome(&ca.roots(), &leaf, &[]),
        Err(Error::UnknownAuthority(_))
    ));
    let no_ca = below(&ca, "no-ca", &[], unchanged);
    let leaf = below(&no_ca, "leaf", NAMES, unchanged).parsed();
    let found = outcome(&ca.roots(), &leaf, &[no_ca.parsed()]);
    assert!(
        matches!(found, Err(Error::UnknownAuthority(_))),
        "{found:?}"
    );
}

#[test]
fn loops_and_crowds_of_intermediates_end() {
    let ca = root(unchanged);
    let crowd: Vec<_> = (0..150)
        .map(|_| below(&ca, "same", &[], is_ca).parsed())
        .collect();
    let stranger = root(|p| p.distinguished_name.push(DnType::CommonName, "same"));
    let leaf = below(&stranger, "leaf", NAMES, unchanged).parsed();
    assert!(outcome(&ca.roots(), &leaf, &crowd).is_err());
    let own = stranger.parsed();
    assert!(outcome(&ca.roots(), &leaf, &[own.clone(), own]).is_err());
}

#[test]
fn hosts_are_matched_as_by_go() {
    let ca = root(unchanged);
    let leaf = below(&ca, "svc", NAMES, unchanged).parsed();
    let unnamed = below(&ca, "svc", &[], unchanged).parsed();
    let mine = |leaf: &Certificate, host: &str| {
        let found = verify(&ca.roots(), leaf, &[], NOW, Usage::Server, Some(host));
        found.map_err(|e| e.to_string())
    };
    for host in ["svc", "SVC", "svc.", "a.wild.example", "10.0.0.1"] {
        assert_eq!(mine(&leaf, host), Ok(()), "{host}");
    }
    for (host, error) in [
        (
            "wild.example",
            "certificate is valid for svc, *.wild.example, not wild.example",
        ),
        (
            "a.b.wild.example",
            "certificate is valid for svc, *.wild.example, not a.b.wild.example",
        ),
        (
            "10.0.0.2",
            "certificate is valid for 10.0.0.1, not 10.0.0.2",
        ),
        ("::1", "certificate is valid for 10.0.0.1, not ::1"),
    ] {
        assert_eq!(mine(&leaf, host), Err(format!("x509: {error}")));
    }
    for (host, error) in [
        (
            "svc",
            "certificate relies on legacy Common Name field, use SANs instead",
        ),
        (
            "other",
            "certificate is not valid for any names, but wanted to match other",
        ),
        (
            "10.0.0.1",
            "cannot validate certificate for 10.0.0.1 because it doesn't contain any IP SANs",
        ),
    ] {
        assert_eq!(mine(&unnamed, host), Err(format!("x509: {error}")));
    }
    let wrong = below(
        &ca,
        "x",
        &["*", "a*.example", "x.*.example", "under_score.example"],
        unchanged,
    );
    let wrong = wrong.parsed();
    assert!(mine(&wrong, "ab.example").is_err());
    assert!(mine(&wrong, "x.y.example").is_err());
    assert!(mine(&wrong, "anything").is_err());
    assert_eq!(mine(&wrong, "under_score.example"), Ok(()));
}

#[test]
fn constraints_are_about_all_kinds_of_names() {
    fn dns(name: &str) -> GeneralSubtree {
        GeneralSubtree::DnsName(name.into())
    }
    let cases: &[(Change, &[&str], bool)] = &[
        (permit_example, &["example.com"], true),
        (permit_example, &["a.EXAMPLE.com"], true),
        (permit_example, &["anexample.com"], false),
        (permit_example, &["example.com", "else"], false),
        (permit_example, &["10.1.2.3"], true),
        (permit_example, &["11.1.2.3"], false),
        (exclude_example, &["else", "10.1.2.3"], true),
        (exclude_example, &["a.bad.example.com"], false),
        // The wildcard covers the excluded name.
        (exclude_example, &["*.example.com"], false),
        (exclude_example, &["192.168.0.1"], false),
    ];
    fn permit_example(p: &mut CertificateParams) {
        p.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![
                dns("example.com"),
                GeneralSubtree::IpAddress(CidrSubnet::V4([10, 0, 0, 0], [255, 0, 0, 0])),
            ],
            excluded_subtrees: vec![],
        });
    }
    fn exclude_example(p: &mut CertificateParams) {
        p.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![],
            excluded_subtrees: vec![
                dns("bad.example.com"),
                GeneralSubtree::IpAddress(CidrSubnet::V4([192, 168, 0, 0], [255, 255, 0, 0])),
            ],
        });
    }
    for (change, names, fits) in cases {
        let ca = root(*change);
        let leaf = below(&ca, "leaf", names, unchanged).parsed();
        let found = verify(&ca.roots(), &leaf, &[], NOW, Usage::Server, None);
        assert_eq!(found.is_ok(), *fits, "{names:?}: {found:?}");
    }
}

fn file(name: &str) -> Vec<u8> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/testdata");
    std::fs::read(format!("{dir}/{name}.pem")).unwrap()
}

fn stored(name: &str) -> Certificate {
    Certificate::parse(&CertificateDer::from_pem_slice(&file(name)).unwrap()).unwrap()
}

/// Judges a stored certificate by the bundle of another.
fn judge(leaf: &str, bundle: &str, usage: Usage, host: Option<&str>) -> Result<(), Error> {
    let roots = Roots::from_pem(&file(bundle)).unwrap();
    let now = stored(bundle).not_before() + 86_400;
    verify(&roots, &stored(leaf), &[], now, usage, host)
}

#[test]
fn keys_and_versions_that_openssl_makes_are_accepted() {
    for name in [
        "rsa1024",
        "rsa1536-sha384",
        "rsa2048",
        "p521-sha256",
        "p521-sha512",
        "p256-sha512",
        "pss1024",
        "pss2048",
        "sha1",
    ] {
        for host in ["svc", "10.0.0.1"] {
            let found = judge(name, name, Usage::Server, Some(host));
            assert_eq!(found, Ok(()), "{name}");
        }
    }
    // The signature of a trusted certificate itself does not count; here they do.
    for (leaf, ca) in [
        ("v1-of-rsa1024", "rsa1024"),
        ("v1-of-pss1024", "pss1024"),
        ("v1-of-p521", "p521-sha512"),
        ("v1-of-rsa1536", "rsa1536-sha384"),
    ] {
        assert_eq!(judge(leaf, ca, Usage::Client, None), Ok(()), "{leaf}");
        let other = judge(leaf, "rsa2048", Usage::Client, None);
        assert!(matches!(other, Err(Error::UnknownAuthority(_))), "{leaf}");
    }
    let found = judge("leaf-of-v1ca", "v1ca", Usage::Server, Some("svc"));
    assert_eq!(found, Ok(()));
    let found = judge("sha1-of-rsa2048", "rsa2048", Usage::Client, None);
    assert!(
        matches!(found, Err(Error::UnknownAuthority(_))),
        "{found:?}"
    );
}

#[test]
fn self_signatures_of_all_algorithms_verify() {
    for name in [
        "rsa1024",
        "rsa1536-sha384",
        "rsa2048",
        "p521-sha256",
        "p521-sha512",
        "p256-sha512",
        "pss1024",
        "pss2048",
    ] {
        let certificate = stored(name);
        let (key, algorithm) = (certificate.key.unwrap(), certificate.algorithm.unwrap());
        let check = |message: &[u8], signature: &[u8]| key.verify(algorithm, message, signature);
        let (message, signature) = (&certificate.signed, &certificate.signature);
        assert_eq!(check(message, signature), Ok(()), "{name}");
        assert!(check(&message[1..], signature).is_err(), "{name}");
        assert!(check(message, &signature[1..]).is_err(), "{name}");
        let mut changed = signature.clone();
        changed[40] ^= 1;
        assert!(check(message, &changed).is_err(), "{name}");
    }
    assert!(stored("sha1").algorithm.is_none());
    assert!(stored("rsa512").key.is_none());
}

#[test]
fn what_is_no_certificate_is_left_out_of_bundles() {
    assert_eq!(Roots::from_pem(b"").unwrap_err(), Error::EmptyBundle);
    let broken = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    assert_eq!(Roots::from_pem(broken).unwrap_err(), Error::EmptyBundle);
    let both = [&broken[..], &file("rsa2048")].concat();
    assert!(!Roots::from_pem(&both).unwrap().is_empty());
    let der = CertificateDer::from_pem_slice(&file("rsa2048")).unwrap();
    for end in 0..der.len() {
        assert!(Certificate::parse(&der[..end]).is_err());
    }
    assert!(Certificate::parse(&[&der[..], &[0]].concat()).is_err());
}

#[test]
fn certificates_are_renewed_as_they_are() {
    let ca = root(unchanged);
    let key = ca.issuer.key().serialize_pem();
    let issuer = crate::Issuer::from_pem(ca.certificate.pem().as_bytes(), key.as_bytes()).unwrap();
    let leaf = below(&ca, "leaf", NAMES, |p| {
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        p.not_after = date_time_ymd(2030, 1, 2);
    });
    let old = leaf.parsed();
    // Ten years of validity, of which first two days, then all, then half a year are left.
    assert!(old.is_due(NOW) && old.is_due(old.not_before()));
    assert!(old.is_due(old.not_after() - 180 * 86_400));
    let year = issuer.renew(&old, NOW, crate::LIFETIME).unwrap();
    let year = Certificate::parse(&year).unwrap();
    assert!(!year.is_due(NOW) && !year.is_due(NOW + 240 * 86_400));
    assert!(year.is_due(NOW + 250 * 86_400) && year.is_due(NOW + crate::LIFETIME + 1));
    for lifetime in [365 * 86_400, i64::MAX] {
        let new = issuer.renew(&old, NOW, lifetime).unwrap();
        let new = Certificate::parse(&new).unwrap();
        let later = NOW + 300 * 86_400;
        let judge = |certificate: &Certificate, usage| {
            verify(&ca.roots(), certificate, &[], later, usage, Some("svc"))
        };
        assert!(matches!(judge(&old, Usage::Server), Err(Error::Expired(_))));
        assert_eq!(judge(&new, Usage::Server), Ok(()));
        assert_eq!(judge(&new, Usage::Client), Err(Error::IncompatibleUsage));
        assert_eq!((&new.spki, &new.subject), (&old.spki, &old.subject));
        assert!(new.not_after() <= issuer.certificate().not_after());
        assert!(lifetime == i64::MAX || new.not_after() == NOW + lifetime);
        let text = to_pem(&new.der);
        assert_eq!(
            CertificateDer::from_pem_slice(text.as_bytes()).unwrap(),
            new.der
        );
        // The old certificate's key goes on with the new one.
        let held = Identity::from_pem(
            leaf.certificate.pem().as_bytes(),
            leaf.issuer.key().serialize_pem().as_bytes(),
        );
        let held = Renewable::new(held.unwrap()).unwrap();
        held.replace(new.der.clone()).unwrap();
        assert_eq!(held.certificate(), new.der);
        assert!(held.replace(ca.certificate.der().clone()).is_err());
    }
    let renamed = issuer.rename(&old, &ca.parsed().subject).unwrap();
    let renamed = Certificate::parse(&renamed).unwrap();
    assert_eq!(renamed.common_name(), "root");
    assert_eq!(
        (renamed.not_before(), renamed.not_after()),
        (old.not_before(), old.not_after())
    );
    let other = KeyPair::generate().unwrap().serialize_pem();
    assert!(crate::Issuer::from_pem(ca.certificate.pem().as_bytes(), other.as_bytes()).is_err());
}

#[test]
fn what_the_signature_does_not_cover_is_strict_too() {
    let made = root(unchanged);
    let right = made.certificate.der().to_vec();
    // The tag of the outer sequence, and the unused bits of the signature: the last element, of
    // less than 128 bytes.
    let bits = right.len() - made.parsed().signature.len() - 1;
    for (at, value) in [(0, 0x10), (bits, 1)] {
        let mut der = right.clone();
        der[at] = value;
        let refused = Certificate::parse(&der);
        assert!(matches!(refused, Err(Error::Malformed(_))), "byte {at}");
    }
}
