//! Certificates and keys of a profile. Keys are created once and kept; certificates are renewed when
//! less than a third of their validity is left.
//!
//! Each profile has one certificate authority that signs all certificates. A second one is for the
//! front proxy: by it, aggregated API servers recognize requests that the API server forwards.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use jiff::ToSpan;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rkube_failure::{Failure, Kind, Source};
use rkube_x509::{Certificate, LIFETIME, to_pem};

use crate::files::{io_failure, make_private_dir, write_private};
use crate::profile::{Node, Profile};

/// Validity of a CA certificate, in years.
const CA_YEARS: i64 = 10;
/// Validity of all other certificates, in years.
const LEAF_YEARS: i64 = 1;

/// The profile's `pki` directory.
pub struct Pki {
    dir: PathBuf,
    ca: Authority,
    front_proxy_ca: Authority,
    /// Renews all certificates, whatever is left of their validity.
    all: bool,
    /// The certificates that were renewed.
    renewed: RefCell<BTreeSet<String>>,
}

/// A CA that signs new certificates and renews present ones.
struct Authority {
    new: Issuer<'static, KeyPair>,
    renewal: rkube_x509::Issuer,
}

/// The subject and the usages of a certificate.
struct Subject<'a> {
    common_name: &'a str,
    organization: Option<&'a str>,
    names: Vec<String>,
    addresses: Vec<IpAddr>,
    server: bool,
    client: bool,
}

/// The subject of a certificate with which a program of rkube's is a client.
fn client<'a>(common_name: &'a str, organization: Option<&'a str>) -> Subject<'a> {
    Subject {
        common_name,
        organization,
        names: Vec::new(),
        addresses: Vec::new(),
        server: false,
        client: true,
    }
}

fn failed(what: &str) -> impl Fn(rcgen::Error) -> Failure + '_ {
    move |e| {
        Failure::new(
            Source::Program,
            Kind::Error,
            format!("cannot create {what}: {e}"),
        )
    }
}

/// The cluster administrator's client credentials, PEM.
pub struct Credentials {
    /// The certificate of the CA.
    pub ca: String,
    /// The client's certificate.
    pub certificate: String,
    /// The key of `certificate`.
    pub key: String,
}

/// Reads the administrator's credentials from a `pki` directory.
pub fn credentials(dir: &Path) -> Result<Credentials, Failure> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read_to_string(&path).map_err(|e| io_failure("read", &path, &e))
    };
    Ok(Credentials {
        ca: read("ca.crt")?,
        certificate: read("admin.crt")?,
        key: read("admin.key")?,
    })
}

impl Pki {
    /// Opens the profile's authorities. Creates them and the administrator's certificate if
    /// they do not exist. The caller must hold the profile's lock; code that only reads
    /// uses [`credentials`].
    pub fn open(dir: &Path) -> Result<Self, Failure> {
        Self::open_with(dir, false)
    }

    /// Opens the profile's authorities, and renews the certificates that are opened or provisioned
    /// whatever is left of their validity.
    pub fn open_renewing(dir: &Path) -> Result<Self, Failure> {
        Self::open_with(dir, true)
    }

    /// Returns the names of the certificates that were renewed, sorted.
    pub fn renewed(&self) -> Vec<String> {
        self.renewed.borrow().iter().cloned().collect()
    }

    fn open_with(dir: &Path, all: bool) -> Result<Self, Failure> {
        make_private_dir(dir)?;
        let ca = authority(dir, "ca", "rkube-ca")?;
        let front_proxy_ca = authority(dir, "front-proxy-ca", "rkube-front-proxy-ca")?;
        let pki = Self {
            dir: dir.to_path_buf(),
            ca,
            front_proxy_ca,
            all,
            renewed: RefCell::default(),
        };
        if !dir.join("sa.key").exists() {
            let key = KeyPair::generate().map_err(failed("the service-account key"))?;
            write_private(&dir.join("sa.pub"), key.public_key_pem().as_bytes())?;
            write_private(&dir.join("sa.key"), key.serialize_pem().as_bytes())?;
        }
        pki.issue(
            "admin",
            &pki.ca,
            client("kubernetes-admin", Some("system:masters")),
        )?;
        Ok(pki)
    }

    /// Writes the certificate with which the registry serves TLS in the cluster's network.
    pub fn issue_registry(&self, address: Ipv4Addr, names: &[String]) -> Result<(), Failure> {
        let subject = Subject {
            common_name: "rkube-registry",
            organization: None,
            names: names.to_vec(),
            addresses: vec![address.into()],
            server: true,
            client: false,
        };
        self.issue("registry", &self.ca, subject)
    }

    /// Writes all certificates and keys that `node` needs to `etc/pki`.
    pub fn provision(&self, profile: &Profile, node: &Node, etc: &Path) -> Result<(), Failure> {
        let target = etc.join("pki");
        make_private_dir(&target)?;
        let agent = format!("agent-{}", node.name);
        self.issue(
            &agent,
            &self.ca,
            Subject {
                common_name: &format!("system:node:{}", node.name),
                organization: Some("system:nodes"),
                names: vec![node.name.clone(), "localhost".into()],
                addresses: addresses(profile, node, Vec::new()),
                server: true,
                client: true,
            },
        )?;
        let proxy = format!("service-proxy-{}", node.name);
        self.issue(
            &proxy,
            &self.ca,
            client("system:kube-proxy", Some("system:node-proxier")),
        )?;
        let policies = format!("network-policy-{}", node.name);
        self.issue(&policies, &self.ca, client("rkube:network-policy", None))?;
        // Earlier versions had one for all nodes.
        self.remove("service-proxy");
        let mut files = vec![
            ("ca.crt".to_owned(), "ca.crt"),
            (format!("{agent}.crt"), "agent.crt"),
            (format!("{agent}.key"), "agent.key"),
            (format!("{proxy}.crt"), "service-proxy.crt"),
            (format!("{proxy}.key"), "service-proxy.key"),
            (format!("{policies}.crt"), "network-policy.crt"),
            (format!("{policies}.key"), "network-policy.key"),
        ];
        if node.control_plane {
            self.issue("apiserver", &self.ca, api_server(profile, node))?;
            self.issue(
                "apiserver-kubelet-client",
                &self.ca,
                // Node agents know the API server by this name. It is in no group, so that
                // the certificate gives no rights at the API server itself.
                client("kube-apiserver-kubelet-client", None),
            )?;
            self.issue(
                "front-proxy-client",
                &self.front_proxy_ca,
                client("front-proxy-client", None),
            )?;
            files.extend(
                [
                    "ca.key",
                    "apiserver.crt",
                    "apiserver.key",
                    "apiserver-kubelet-client.crt",
                    "apiserver-kubelet-client.key",
                    "front-proxy-ca.crt",
                    "front-proxy-ca.key",
                    "front-proxy-client.crt",
                    "front-proxy-client.key",
                    "sa.key",
                    "sa.pub",
                ]
                .map(|f| (f.to_owned(), f)),
            );
        }
        if node.control_plane && profile.store.is_some() {
            let etcd = ["etcd-ca.crt", "etcd-client.crt", "etcd-client.key"];
            let given = etcd.into_iter().filter(|f| self.dir.join(f).exists());
            files.extend(given.map(|f| (f.to_owned(), f)));
        }
        for (source, name) in files {
            write_private(&target.join(name), self.read(&source)?.as_bytes())?;
        }
        Ok(())
    }

    /// Deletes the certificates of a deleted node.
    pub fn forget(&self, node: &str) {
        self.remove(&format!("agent-{node}"));
        self.remove(&format!("service-proxy-{node}"));
    }

    fn remove(&self, name: &str) {
        for suffix in ["crt", "key"] {
            let _ = std::fs::remove_file(self.dir.join(format!("{name}.{suffix}")));
        }
    }

    fn read(&self, name: &str) -> Result<String, Failure> {
        let path = self.dir.join(name);
        std::fs::read_to_string(&path).map_err(|e| io_failure("read", &path, &e))
    }

    /// Issues a certificate, or renews it if it exists and is due.
    fn issue(&self, name: &str, issuer: &Authority, subject: Subject<'_>) -> Result<(), Failure> {
        let (certificate_path, key_path) = (
            self.dir.join(format!("{name}.crt")),
            self.dir.join(format!("{name}.key")),
        );
        if certificate_path.exists() && key_path.exists() {
            return self.renew(name, &certificate_path, &issuer.renewal);
        }
        let fail = failed("a certificate");
        let mut params = CertificateParams::new(subject.names).map_err(&fail)?;
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, subject.common_name);
        if let Some(organization) = subject.organization {
            params
                .distinguished_name
                .push(DnType::OrganizationName, organization);
        }
        params
            .subject_alt_names
            .extend(subject.addresses.into_iter().map(SanType::IpAddress));
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        if subject.server {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if subject.client {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, LEAF_YEARS);
        let key = KeyPair::generate().map_err(&fail)?;
        let certificate = params.signed_by(&key, &issuer.new).map_err(&fail)?;
        write_private(&key_path, key.serialize_pem().as_bytes())?;
        write_private(&certificate_path, certificate.pem().as_bytes())
    }

    /// Renews a certificate if it is due. Its key stays.
    fn renew(&self, name: &str, path: &Path, issuer: &rkube_x509::Issuer) -> Result<(), Failure> {
        let old = parse(path)?;
        let now = jiff::Timestamp::now().as_second();
        if !self.all && !old.is_due(now) || self.renewed.borrow().contains(name) {
            return Ok(());
        }
        let renewed = issuer.renew(&old, now, LIFETIME).map_err(|e| {
            let text = format!("cannot renew the certificate {name}: {e}");
            Failure::new(Source::Program, Kind::Error, text)
        })?;
        self.renewed.borrow_mut().insert(name.to_owned());
        write_private(path, to_pem(&renewed).as_bytes())
    }
}

/// Deletes the serving certificates of a node, so that they are issued for its present names and
/// addresses.
pub fn forget_servers(dir: &Path, node: &str) {
    for name in ["apiserver".to_owned(), format!("agent-{node}")] {
        for suffix in ["crt", "key"] {
            // Without it, there is none to forget.
            let _ = std::fs::remove_file(dir.join(format!("{name}.{suffix}")));
        }
    }
}

/// Returns the addresses of a server on the node, `first` before those of the node. A cluster of IPv6
/// alone is managed by the nodes' IPv4 addresses as well.
fn addresses(profile: &Profile, node: &Node, first: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut all = first;
    let own = profile.node_ips(node).into_iter().chain([node.ip.into()]);
    for ip in own.chain([Ipv4Addr::LOCALHOST.into()]) {
        if !all.contains(&ip) {
            all.push(ip);
        }
    }
    if profile.ipv6.is_some() {
        all.push(Ipv6Addr::LOCALHOST.into());
    }
    all
}

/// Returns the subject of the serving certificate, with all names and addresses of the
/// API server.
fn api_server<'a>(profile: &Profile, node: &Node) -> Subject<'a> {
    let mut names = vec![
        node.name.clone(),
        "localhost".into(),
        "control-plane.rkube.internal".into(),
        "kubernetes".into(),
        "kubernetes.default".into(),
        "kubernetes.default.svc".into(),
    ];
    names.push(format!("kubernetes.default.svc.{}", profile.dns_domain));
    // Addresses among them are recognized.
    names.extend(profile.api_names.iter().cloned());
    Subject {
        common_name: "kube-apiserver",
        organization: None,
        names,
        addresses: addresses(profile, node, profile.kubernetes_ips()),
        server: true,
        client: false,
    }
}

fn set_validity(params: &mut CertificateParams, years: i64) {
    // One day in the past, because the clock of a virtual machine may lag.
    let from = jiff::Zoned::now().date().saturating_sub(1.day());
    let to = from.saturating_add(years.years());
    let date = |d: jiff::civil::Date| {
        rcgen::date_time_ymd(d.year().into(), d.month() as u8, d.day() as u8)
    };
    params.not_before = date(from);
    params.not_after = date(to);
}

fn authority(dir: &Path, name: &str, common_name: &str) -> Result<Authority, Failure> {
    let (certificate_path, key_path) = (
        dir.join(format!("{name}.crt")),
        dir.join(format!("{name}.key")),
    );
    let fail = failed("the certificate authority");
    if !certificate_path.exists() || !key_path.exists() {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        set_validity(&mut params, CA_YEARS);
        let key = KeyPair::generate().map_err(&fail)?;
        let certificate = params.self_signed(&key).map_err(&fail)?;
        write_private(&key_path, key.serialize_pem().as_bytes())?;
        write_private(&certificate_path, certificate.pem().as_bytes())?;
    }
    let read =
        |path: &Path| std::fs::read_to_string(path).map_err(|e| io_failure("read", path, &e));
    let (certificate, secret) = (read(&certificate_path)?, read(&key_path)?);
    let renewal = rkube_x509::Issuer::from_pem(certificate.as_bytes(), secret.as_bytes())
        .map_err(|e| damaged(&certificate_path, &e))?;
    let key = KeyPair::from_pem(&secret).map_err(|e| damaged(&key_path, &e))?;
    let new =
        Issuer::from_ca_cert_pem(&certificate, key).map_err(|e| damaged(&certificate_path, &e))?;
    Ok(Authority { new, renewal })
}

/// Returns the failure of a file that cannot be used.
fn damaged(path: &Path, e: &dyn std::fmt::Display) -> Failure {
    Failure::new(
        Source::Program,
        Kind::Config,
        format!("{} is damaged: {e}", path.display()),
    )
    .advise("delete the cluster, and start it again")
}

/// Reads a certificate.
fn parse(path: &Path) -> Result<Certificate, Failure> {
    let text = std::fs::read(path).map_err(|e| io_failure("read", path, &e))?;
    Certificate::from_pem(&text).map_err(|e| damaged(path, &e))
}

/// A certificate of a profile.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// The name of its file without `.crt`.
    pub name: String,
    /// The common name of its subject.
    pub subject: String,
    /// The end of its validity, in RFC 3339.
    pub expires: String,
    /// Seconds until then; negative after it.
    pub seconds_left: i64,
    /// Whether it is that of a CA.
    pub authority: bool,
    /// Whether the next start of the cluster renews it. CAs are not renewed.
    pub due: bool,
}

/// Returns the certificates in a `pki` directory, sorted by name.
pub fn certificates(dir: &Path) -> Result<Vec<CertificateStatus>, Failure> {
    let now = jiff::Timestamp::now().as_second();
    let entries = std::fs::read_dir(dir).map_err(|e| io_failure("read", dir, &e))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| io_failure("read", dir, &e))?.path();
        let name = path.file_stem().and_then(|name| name.to_str());
        let (Some(name), Some("crt")) = (name, path.extension().and_then(|e| e.to_str())) else {
            continue;
        };
        let certificate = parse(&path)?;
        let authority = name.ends_with("ca");
        let expires = jiff::Timestamp::from_second(certificate.not_after());
        found.push(CertificateStatus {
            name: name.to_owned(),
            subject: certificate.common_name().to_owned(),
            expires: expires.map_or_else(|e| e.to_string(), |time| time.to_string()),
            seconds_left: certificate.not_after() - now,
            authority,
            // Those for etcd are the user's.
            due: !authority && !name.starts_with("etcd-") && certificate.is_due(now),
        });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600;

    fn text(dir: &Path, name: &str) -> String {
        std::fs::read_to_string(dir.join(name)).unwrap()
    }

    /// Replaces a certificate by one that has `left` seconds of `validity` left.
    fn age(pki: &Pki, name: &str, left: i64, validity: i64) {
        let path = pki.dir.join(name);
        let old = parse(&path).unwrap();
        let begin = jiff::Timestamp::now().as_second() + left - validity;
        let aged = pki.ca.renewal.renew(&old, begin, validity).unwrap();
        write_private(&path, to_pem(&aged).as_bytes()).unwrap();
    }

    #[test]
    fn certificates_are_renewed_when_they_are_due() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let pki = Pki::open(dir).unwrap();
        assert!(pki.renewed().is_empty());
        let (certificate, key) = (text(dir, "admin.crt"), text(dir, "admin.key"));
        let new = parse(&dir.join("admin.crt")).unwrap();
        assert!(new.not_after() - new.not_before() <= 367 * DAY);
        // A fresh certificate stays, an old one, an expired one and one of ten years do not.
        assert!(Pki::open(dir).unwrap().renewed().is_empty());
        assert_eq!(text(dir, "admin.crt"), certificate);
        for (left, validity) in [
            (100 * DAY, 365 * DAY),
            (-1, 365 * DAY),
            (9 * 365 * DAY, 9 * 365 * DAY + 1),
        ] {
            age(&pki, "admin.crt", left, validity);
            let status = certificates(dir).unwrap();
            let admin = status.iter().find(|c| c.name == "admin").unwrap();
            assert!(admin.due && !admin.authority, "{admin:?}");
            assert_eq!(admin.subject, "kubernetes-admin");
            assert!((admin.seconds_left - left).abs() < 60);
            assert_eq!(Pki::open(dir).unwrap().renewed(), ["admin"]);
            let renewed = parse(&dir.join("admin.crt")).unwrap();
            let left = renewed.not_after() - jiff::Timestamp::now().as_second();
            assert!((364 * DAY..=365 * DAY).contains(&left), "{left}");
        }
        assert_eq!(text(dir, "admin.key"), key);
        assert_eq!(Pki::open_renewing(dir).unwrap().renewed(), ["admin"]);
        let status = certificates(dir).unwrap();
        let names: Vec<&str> = status.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["admin", "ca", "front-proxy-ca"]);
        assert!(status.iter().all(|c| !c.due));
    }
}
