//! The common parts of both examples: certificates, and an API server that listens on a free port.

use std::error::Error;
use std::net::Ipv4Addr;

use kube::config::{KubeConfigOptions, Kubeconfig};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rkube_apiserver::{ApiServer, Config, Pki};
use rkube_store::{EmbeddedOptions, EmbeddedStore};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A running API server without nodes.
pub struct Cluster {
    /// The API server's URL.
    pub url: String,
    kubeconfig: Kubeconfig,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<Result<(), rkube_apiserver::Error>>,
    _folder: tempfile::TempDir,
}

impl Cluster {
    /// Starts an API server whose store and certificates last as long as the program.
    pub async fn start() -> Result<Self, Box<dyn Error>> {
        let folder = tempfile::tempdir()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let url = format!("https://127.0.0.1:{port}");
        let (pki, kubeconfig) = certificates(&url)?;
        let server = ApiServer::new(Config {
            store: EmbeddedStore::open(folder.path(), EmbeddedOptions::default())?,
            pki,
            version: "v1.36.0+example".into(),
            dns_domain: "cluster.local".into(),
            service_cidrs: vec!["10.96.0.0/16".parse()?],
            node_ports: (30000, 32767),
            advertise_ip: Ipv4Addr::LOCALHOST.into(),
            advertise_port: port,
            audit: None,
        })
        .await?;
        let stop = CancellationToken::new();
        Ok(Self {
            url,
            kubeconfig,
            serving: tokio::spawn(server.serve(listener, stop.clone())),
            stop,
            _folder: folder,
        })
    }

    /// Returns a client that connects as an administrator.
    pub async fn client(&self) -> Result<kube::Client, Box<dyn Error>> {
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(self.kubeconfig.clone(), &options);
        Ok(kube::Client::try_from(config.await?)?)
    }

    /// Stops the server once its requests have ended.
    pub async fn stop(self) -> Result<(), Box<dyn Error>> {
        self.stop.cancel();
        Ok(self.serving.await??)
    }
}

/// Returns the server's certificates, and a kubeconfig with those of an administrator.
fn certificates(url: &str) -> Result<(Pki, Kubeconfig), Box<dyn Error>> {
    // The authority that signs all others.
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate()?;
    let ca = params.self_signed(&authority_key)?.pem();
    let issuer = rcgen::Issuer::from_params(&params, &authority_key);
    // The name is the user, the organization one of its groups.
    let sign = |name: &str, group: &str, purpose: ExtendedKeyUsagePurpose| {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;
        Ok::<_, rcgen::Error>((certificate.pem(), key.serialize_pem()))
    };
    let serving = sign("kube-apiserver", "", ExtendedKeyUsagePurpose::ServerAuth)?;
    let agents = sign(
        "kube-apiserver-kubelet-client",
        "",
        ExtendedKeyUsagePurpose::ClientAuth,
    )?;
    let admin = sign(
        "admin",
        "system:masters",
        ExtendedKeyUsagePurpose::ClientAuth,
    )?;
    // This key signs the tokens of service accounts.
    let tokens = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let kubeconfig = kubeconfig(url, &ca, &admin.0, &admin.1)?;
    let pki = Pki {
        ca_cert: ca.into(),
        serving_cert: serving.0.into(),
        serving_key: serving.1.into(),
        kubelet_client_cert: agents.0.into(),
        kubelet_client_key: agents.1.into(),
        service_account_key: tokens.serialize_pem().into(),
        service_account_pub: tokens.public_key_pem().into(),
        ..Pki::default()
    };
    Ok((pki, kubeconfig))
}

/// Returns the configuration of a client, as in `~/.kube/config`.
fn kubeconfig(
    url: &str,
    ca: &str,
    certificate: &str,
    key: &str,
) -> Result<Kubeconfig, serde_json::Error> {
    use base64::Engine as _;
    let encoded = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    serde_json::from_value(serde_json::json!({
        "clusters": [{"name": "c", "cluster": {"server": url, "certificate-authority-data": encoded(ca)}}],
        "users": [{"name": "admin", "user": {
            "client-certificate-data": encoded(certificate), "client-key-data": encoded(key)}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "admin"}}],
        "current-context": "c",
    }))
}
