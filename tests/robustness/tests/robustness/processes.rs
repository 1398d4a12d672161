//! API servers and etcd as processes that can be killed.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rkube_apiserver::{ApiServer, Config, Pki};
use rkube_store::{EmbeddedOptions, EmbeddedStore, EtcdOptions, EtcdStore, Store};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

/// The variable that names the settings of an API server's process.
const SETTINGS: &str = "RKUBE_ROBUSTNESS_SERVER";

/// Keys and certificates, in PEM, of servers and of an administrator.
#[derive(Clone, Serialize, Deserialize)]
pub struct Certificates {
    /// The certificate of the authority.
    pub ca: String,
    /// The administrator's certificate and key.
    pub admin: (String, String),
    serving: (String, String),
    kubelet: (String, String),
    tokens: (String, String),
}

impl Certificates {
    /// Makes an authority and signs all others.
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).expect("an authority").pem();
        let issuer = rcgen::Issuer::from_params(&params, &key);
        let sign = |name: &str, group: &str, usage: ExtendedKeyUsagePurpose| {
            let mut params =
                CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
            let subject = &mut params.distinguished_name;
            subject.push(DnType::CommonName, name);
            subject.push(DnType::OrganizationName, group);
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate().expect("a key");
            let signed = params.signed_by(&key, &issuer).expect("a certificate");
            (signed.pem(), key.serialize_pem())
        };
        let tokens = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        Self {
            serving: sign("kube-apiserver", "", ExtendedKeyUsagePurpose::ServerAuth),
            kubelet: sign("kubelet-client", "", ExtendedKeyUsagePurpose::ClientAuth),
            admin: sign(
                "admin",
                "system:masters",
                ExtendedKeyUsagePurpose::ClientAuth,
            ),
            tokens: (tokens.public_key_pem(), tokens.serialize_pem()),
            ca,
        }
    }

    fn pki(self) -> Pki {
        Pki {
            ca_cert: self.ca.into(),
            serving_cert: self.serving.0.into(),
            serving_key: self.serving.1.into(),
            kubelet_client_cert: self.kubelet.0.into(),
            kubelet_client_key: self.kubelet.1.into(),
            service_account_pub: self.tokens.0.into(),
            service_account_key: self.tokens.1.into(),
            ..Pki::default()
        }
    }
}

/// Where the objects are.
#[derive(Clone, Serialize, Deserialize)]
pub enum Backing {
    /// In the embedded store of this directory.
    Embedded(PathBuf),
    /// In the etcd at this URL.
    Etcd(String),
}

/// What an API server's process reads when it starts.
#[derive(Clone, Serialize, Deserialize)]
pub struct Settings {
    /// The port on the loopback.
    pub port: u16,
    /// The store, which several servers may share if it is etcd.
    pub backing: Backing,
    /// The same for all servers of a run.
    pub certificates: Certificates,
}

/// Returns a port that nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("its number").port()
}

/// Serves until the process is killed, if this process was started as a server.
pub fn serve_if_server() {
    let Some(file) = std::env::var_os(SETTINGS) else {
        return;
    };
    // The tests' own process may be killed as well; nothing of it stays.
    // SAFETY: the call changes a property of this process and reads no memory.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let text = std::fs::read(file).expect("the settings");
    let settings: Settings = serde_json::from_slice(&text).expect("settings");
    tokio::runtime::Runtime::new()
        .expect("a runtime")
        .block_on(serve(settings));
}

async fn serve(settings: Settings) {
    let store: Arc<dyn Store> = match settings.backing {
        Backing::Embedded(directory) => {
            EmbeddedStore::open(&directory, EmbeddedOptions::default()).expect("the store")
        }
        Backing::Etcd(url) => {
            let options = EtcdOptions {
                endpoints: vec![url],
                root: "/rkube/robustness".into(),
                ..EtcdOptions::default()
            };
            EtcdStore::open(options).await.expect("etcd")
        }
    };
    let config = Config {
        store,
        pki: settings.certificates.pki(),
        version: "v1.36.0+robustness".into(),
        dns_domain: "cluster.local".into(),
        service_cidrs: vec!["10.96.0.0/16".parse().expect("a range")],
        node_ports: (30000, 32767),
        advertise_ip: Ipv4Addr::LOCALHOST.into(),
        advertise_port: settings.port,
        audit: None,
    };
    let server = ApiServer::new(config).await.expect("an API server");
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, settings.port))
        .await
        .expect("the port");
    let served = server.serve(listener, CancellationToken::new()).await;
    panic!("an API server ended: {served:?}");
}

/// A process that is started again on the same data after it was killed.
pub struct Process {
    command: Box<dyn Fn() -> Command + Send>,
    child: Child,
}

impl Process {
    /// Starts an API server; its settings are kept in `folder`.
    pub fn server(folder: &Path, settings: &Settings) -> Self {
        let file = folder.join(format!("server-{}.json", settings.port));
        std::fs::write(&file, serde_json::to_vec(settings).expect("JSON")).expect("a file");
        Self::new(Box::new(move || {
            let mut command = Command::new(std::env::current_exe().expect("this program"));
            command.args(["--exact", crate::SERVER, "--nocapture"]);
            command.env(SETTINGS, &file);
            command
        }))
    }

    /// Starts an etcd without TLS that listens on two ports of the loopback.
    pub fn etcd(folder: &Path, client: u16, peer: u16) -> Self {
        let data = folder.join("etcd");
        Self::new(Box::new(move || {
            let mut command = Command::new("etcd");
            let (client, peer) = (url(client), url(peer));
            command.arg("--data-dir").arg(&data).args([
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster=default={peer}"),
            ]);
            command
        }))
    }

    fn new(command: Box<dyn Fn() -> Command + Send>) -> Self {
        let child = start(&mut command());
        Self { command, child }
    }

    /// Kills the process as a crash would, and starts it again.
    pub fn crash(&mut self) {
        self.kill();
        self.child = start(&mut (self.command)());
    }

    fn kill(&mut self) {
        // An error means that it has ended by itself, as a server does whose etcd is away when
        // it starts.
        let _ = self.child.kill();
        self.child.wait().expect("the end of a process");
    }

    /// Starts the process again if it has ended.
    pub fn keep_up(&mut self) {
        if self.child.try_wait().expect("a status").is_some() {
            self.child = start(&mut (self.command)());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn start(command: &mut Command) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a process")
}

/// Returns the URL of a port of the loopback.
pub fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}
