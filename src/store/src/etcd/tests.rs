//! The store against a real etcd, where one is installed.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::client::prefix_end;
use super::options::parse_endpoint;
use super::store::reports_progress;
use super::{EtcdOptions, EtcdStore};
use crate::contract;
use crate::types::{Expect, ListOptions, Store, StoreError, Watch, WatchBatch};

/// An etcd on the loopback, which is killed when dropped.
struct Etcd {
    child: Child,
    folder: TempDir,
    client: u16,
    peer: u16,
    tls: bool,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

impl Etcd {
    /// Starts an etcd; `None`, with a message, if it is not installed.
    fn start(tls: bool) -> Option<Self> {
        if Command::new("etcd")
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .is_err()
        {
            rkube_testing::skipped("etcd is not installed (Debian's etcd-server has it)");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        if tls {
            certificates(&folder);
        }
        let (client, peer) = (free_port(), free_port());
        let child = spawn(&folder, client, peer, tls);
        Some(Self {
            child,
            folder,
            client,
            peer,
            tls,
        })
    }

    fn options(&self, root: &str) -> EtcdOptions {
        let scheme = if self.tls { "https" } else { "http" };
        let file = |name: &str| self.tls.then(|| self.folder.path().join(name));
        EtcdOptions {
            endpoints: vec![format!("{scheme}://127.0.0.1:{}", self.client)],
            root: root.into(),
            ca: file("ca.crt"),
            cert: file("client.crt"),
            key: file("client.key"),
            loopback: None,
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn again(&mut self) {
        self.child = spawn(&self.folder, self.client, self.peer, self.tls);
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &TempDir, client: u16, peer: u16, tls: bool) -> Child {
    let scheme = if tls { "https" } else { "http" };
    let mut command = Command::new("etcd");
    command
        .arg("--data-dir")
        .arg(folder.path().join("data"))
        .arg(format!(
            "--listen-client-urls={scheme}://127.0.0.1:{client}"
        ))
        .arg(format!(
            "--advertise-client-urls={scheme}://127.0.0.1:{client}"
        ))
        .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer}"))
        .arg(format!(
            "--initial-advertise-peer-urls=http://127.0.0.1:{peer}"
        ))
        .arg(format!("--initial-cluster=default=http://127.0.0.1:{peer}"))
        // A test's data need not outlive the machine.
        .arg("--unsafe-no-fsync")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if tls {
        let file = |name: &str| folder.path().join(name);
        command
            .arg("--client-cert-auth")
            .arg("--trusted-ca-file")
            .arg(file("ca.crt"))
            .arg("--cert-file")
            .arg(file("server.crt"))
            .arg("--key-file")
            .arg(file("server.key"));
    }
    command.spawn().unwrap()
}

fn certificates(folder: &TempDir) {
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    };
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
    write("ca.crt", ca_cert.pem());
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let cert = params.signed_by(&key, &issuer).unwrap();
        write(&format!("{name}.crt"), cert.pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
}

async fn open(options: EtcdOptions) -> Arc<EtcdStore> {
    EtcdStore::open(options).await.unwrap()
}

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// The next batch that carries changes.
/// Waits until the watch has reported progress to `revision`, and no changes.
async fn reaches(watch: &mut Watch, revision: crate::types::Revision) {
    loop {
        let batch = watch.recv().await.unwrap().unwrap();
        assert!(batch.changes.is_empty());
        if batch.revision >= revision {
            return;
        }
    }
}

async fn next(watch: &mut Watch) -> WatchBatch {
    loop {
        let batch = tokio::time::timeout(Duration::from_secs(60), watch.recv())
            .await
            .expect("the watch delivers in a minute")
            .expect("the watch goes on")
            .unwrap();
        if !batch.changes.is_empty() {
            return batch;
        }
    }
}

#[tokio::test]
async fn keeps_the_contract() {
    let Some(etcd) = Etcd::start(false) else {
        return;
    };
    // Roots that begin alike must not see each other.
    let next = AtomicUsize::new(1);
    contract::run(async || {
        let root = "/t".to_owned() + &"1".repeat(next.fetch_add(1, Ordering::Relaxed));
        open(etcd.options(&root)).await as Arc<dyn Store>
    })
    .await;
}

#[tokio::test]
async fn speaks_tls_with_client_certificates() {
    let Some(etcd) = Etcd::start(true) else {
        return;
    };
    let store = open(etcd.options("/tls")).await;
    let written = store.put("/a", value("1"), Expect::Absent).await.unwrap();
    assert_eq!(store.get("/a").await.unwrap().0, Some(written));

    let nobody = EtcdOptions {
        cert: None,
        key: None,
        ..etcd.options("/tls")
    };
    assert!(EtcdStore::open(nobody).await.is_err());
    let trusting = EtcdOptions {
        ca: None,
        ..etcd.options("/tls")
    };
    let error = EtcdStore::open(trusting).await.err().unwrap().to_string();
    assert!(error.contains("--store-ca"), "{error}");
}

#[tokio::test]
async fn stores_that_share_an_etcd_see_each_other() {
    let Some(etcd) = Etcd::start(false) else {
        return;
    };
    let (one, other) = (
        open(etcd.options("/s")).await,
        open(etcd.options("/s")).await,
    );
    let stranger = open(etcd.options("/stranger")).await;
    let mut watch = other.watch("/", other.revision()).await.unwrap();
    let written = one.put("/a", value("1"), Expect::Absent).await.unwrap();
    assert!(other.current().await.unwrap() >= written.mod_revision);
    assert_eq!(next(&mut watch).await.revision, written.mod_revision);
    assert!(matches!(
        other.put("/a", value("2"), Expect::Absent).await,
        Err(StoreError::Conflict { found: Some(_) })
    ));
    stranger.put("/y", value("1"), Expect::Any).await.unwrap();
    // Writes below another root advance the revision, and the watch reports it.
    stranger.put("/x", value("1"), Expect::Any).await.unwrap();
    let narrow = other.watch("/k/", other.revision()).await.unwrap();
    one.put("/b", value("1"), Expect::Any).await.unwrap();
    let current = other.current().await.unwrap();
    assert_eq!(next(&mut watch).await.changes.len(), 1);
    for mut watch in [watch, narrow] {
        let progress = reaches(&mut watch, current);
        let progress = tokio::time::timeout(Duration::from_secs(60), progress);
        progress.await.expect("progress is reported");
    }
    let page = one.list("/", ListOptions::default()).await.unwrap();
    let keys: Vec<_> = page.items.iter().map(|item| &*item.key).collect();
    assert_eq!(keys, ["/a", "/b"], "internal keys are not listed");
}

#[tokio::test]
async fn a_watch_survives_an_outage() {
    let Some(mut etcd) = Etcd::start(false) else {
        return;
    };
    let store = open(etcd.options("/o")).await;
    let mut watch = store.watch("/", store.revision()).await.unwrap();
    let before = store.put("/a", value("1"), Expect::Any).await.unwrap();
    assert_eq!(next(&mut watch).await.revision, before.mod_revision);
    etcd.kill();
    let away = store.get("/a").await.unwrap_err();
    assert!(matches!(away, StoreError::Unavailable(_)), "{away}");
    etcd.again();
    let mut tries = 0;
    let after = loop {
        match store.put("/a", value("2"), Expect::Any).await {
            Ok(written) => break written,
            Err(error) => {
                tries += 1;
                assert!(tries < 30, "{error}");
            }
        }
    };
    let batch = next(&mut watch).await;
    assert_eq!(batch.changes.last().unwrap().revision(), after.mod_revision);
}

#[tokio::test]
async fn a_root_is_wiped_alone() {
    let Some(etcd) = Etcd::start(false) else {
        return;
    };
    let (one, other) = (
        open(etcd.options("/w")).await,
        open(etcd.options("/wx")).await,
    );
    one.put("/a", value("1"), Expect::Any).await.unwrap();
    other.put("/a", value("1"), Expect::Any).await.unwrap();
    one.wipe().await.unwrap();
    assert_eq!(one.get("/a").await.unwrap().0, None);
    assert!(other.get("/a").await.unwrap().0.is_some());
}

#[tokio::test]
async fn nobody_there_is_said() {
    let options = EtcdOptions {
        endpoints: vec![format!("http://127.0.0.1:{}", free_port())],
        ..EtcdOptions::default()
    };
    let error = EtcdStore::open(options).await.err().unwrap().to_string();
    assert!(
        error.contains("127.0.0.1") && error.contains("refused"),
        "{error}"
    );
}

#[test]
fn endpoints_are_urls() {
    let (endpoint, secure) = parse_endpoint("https://[::1]:1234/").unwrap();
    assert!(secure);
    assert_eq!(endpoint.to_string(), "[::1]:1234");
    assert_eq!(parse_endpoint("http://etcd").unwrap().0.port, 2379);
    for wrong in ["etcd:2379", "ftp://x", "http://", "https://:1"] {
        assert!(parse_endpoint(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn only_new_servers_report_progress() {
    for (version, tells) in [
        ("3.4.23", false),
        ("3.4.31", true),
        ("3.5.12", false),
        ("3.5.13", true),
        ("3.6.0-rc.1", true),
        ("4.0.0", true),
    ] {
        assert_eq!(reports_progress(version), tells, "{version}");
    }
}

#[test]
fn prefixes_end_before_what_follows() {
    assert_eq!(prefix_end(b"/a/"), b"/a0");
    assert_eq!(prefix_end(b"a\xff"), b"b");
    assert_eq!(prefix_end(b"\xff"), [0]);
}
