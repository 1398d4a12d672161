//! Certificates and keys of a profile, created once and kept.
//!
//! Each profile has one certificate authority that signs all certificates. A second one is for the
//! front proxy: by it, aggregated API servers recognize requests that the API server forwards.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use jiff::ToSpan;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rkube_failure::{Failure, Kind, Source};

use crate::files::{io_failure, make_private_dir, write_private};
use crate::profile::{Node, Profile};

/// Validity of a CA certificate, in years.
const CA_YEARS: i64 = 10;
/// Validity of all other certificates, in years.
const LEAF_YEARS: i64 = 10;

/// The profile's `pki` directory.
pub struct Pki {
    dir: PathBuf,
    ca: Issuer<'static, KeyPair>,
    front_proxy_ca: Issuer<'static, KeyPair>,
}

/// The subject and the usages of a certificate.
struct Subject<'a> {
    common_name: &'a str,
    organization: Option<&'a str>,
    names: Vec<String>,
    addresses: Vec<Ipv4Addr>,
    server: bool,
    client: bool,
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
        make_private_dir(dir)?;
        let ca = authority(dir, "ca", "rkube-ca")?;
        let front_proxy_ca = authority(dir, "front-proxy-ca", "rkube-front-proxy-ca")?;
        let pki = Self {
            dir: dir.to_path_buf(),
            ca,
            front_proxy_ca,
        };
        if !dir.join("sa.key").exists() {
            let key = KeyPair::generate().map_err(failed("the service-account key"))?;
            write_private(&dir.join("sa.pub"), key.public_key_pem().as_bytes())?;
            write_private(&dir.join("sa.key"), key.serialize_pem().as_bytes())?;
        }
        pki.issue(
            "admin",
            &pki.ca,
            Subject {
                common_name: "kubernetes-admin",
                organization: Some("system:masters"),
                names: Vec::new(),
                addresses: Vec::new(),
                server: false,
                client: true,
            },
        )?;
        Ok(pki)
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
                addresses: vec![node.ip, Ipv4Addr::LOCALHOST],
                server: true,
                client: true,
            },
        )?;
        self.issue(
            "service-proxy",
            &self.ca,
            Subject {
                common_name: "system:kube-proxy",
                organization: Some("system:node-proxier"),
                names: Vec::new(),
                addresses: Vec::new(),
                server: false,
                client: true,
            },
        )?;
        self.issue(
            "network-policy",
            &self.ca,
            Subject {
                common_name: "rkube:network-policy",
                organization: None,
                names: Vec::new(),
                addresses: Vec::new(),
                server: false,
                client: true,
            },
        )?;
        let mut files = vec![
            ("ca.crt".to_owned(), "ca.crt"),
            (format!("{agent}.crt"), "agent.crt"),
            (format!("{agent}.key"), "agent.key"),
            ("service-proxy.crt".to_owned(), "service-proxy.crt"),
            ("service-proxy.key".to_owned(), "service-proxy.key"),
            ("network-policy.crt".to_owned(), "network-policy.crt"),
            ("network-policy.key".to_owned(), "network-policy.key"),
        ];
        if node.control_plane {
            self.issue("apiserver", &self.ca, api_server(profile, node))?;
            self.issue(
                "apiserver-kubelet-client",
                &self.ca,
                Subject {
                    // Node agents know the API server by this name. It is in no group, so that
                    // the certificate gives no rights at the API server itself.
                    common_name: "kube-apiserver-kubelet-client",
                    organization: None,
                    names: Vec::new(),
                    addresses: Vec::new(),
                    server: false,
                    client: true,
                },
            )?;
            self.issue(
                "front-proxy-client",
                &self.front_proxy_ca,
                Subject {
                    common_name: "front-proxy-client",
                    organization: None,
                    names: Vec::new(),
                    addresses: Vec::new(),
                    server: false,
                    client: true,
                },
            )?;
            files.extend(
                [
                    "ca.key",
                    "apiserver.crt",
                    "apiserver.key",
                    "apiserver-kubelet-client.crt",
                    "apiserver-kubelet-client.key",
                    "front-proxy-ca.crt",
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

    /// Deletes the certificate of a deleted node.
    pub fn forget(&self, node: &str) {
        for suffix in ["crt", "key"] {
            let _ = std::fs::remove_file(self.dir.join(format!("agent-{node}.{suffix}")));
        }
    }

    fn read(&self, name: &str) -> Result<String, Failure> {
        let path = self.dir.join(name);
        std::fs::read_to_string(&path).map_err(|e| io_failure("read", &path, &e))
    }

    /// Issues a certificate unless it exists.
    fn issue(
        &self,
        name: &str,
        issuer: &Issuer<'_, KeyPair>,
        subject: Subject<'_>,
    ) -> Result<(), Failure> {
        let (certificate_path, key_path) = (
            self.dir.join(format!("{name}.crt")),
            self.dir.join(format!("{name}.key")),
        );
        if certificate_path.exists() && key_path.exists() {
            return Ok(());
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
        params.subject_alt_names.extend(
            subject
                .addresses
                .into_iter()
                .map(|ip| SanType::IpAddress(IpAddr::V4(ip))),
        );
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
        let certificate = params.signed_by(&key, issuer).map_err(&fail)?;
        write_private(&key_path, key.serialize_pem().as_bytes())?;
        write_private(&certificate_path, certificate.pem().as_bytes())
    }
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
    Subject {
        common_name: "kube-apiserver",
        organization: None,
        names,
        addresses: vec![profile.kubernetes_ip(), node.ip, Ipv4Addr::LOCALHOST],
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

fn authority(
    dir: &Path,
    name: &str,
    common_name: &str,
) -> Result<Issuer<'static, KeyPair>, Failure> {
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
    let damaged = |path: &Path, e: rcgen::Error| {
        Failure::new(
            Source::Program,
            Kind::Config,
            format!("{} is damaged: {e}", path.display()),
        )
        .advise("delete the cluster, and start it again")
    };
    let key = KeyPair::from_pem(&read(&key_path)?).map_err(|e| damaged(&key_path, e))?;
    Issuer::from_ca_cert_pem(&read(&certificate_path)?, key)
        .map_err(|e| damaged(&certificate_path, e))
}
