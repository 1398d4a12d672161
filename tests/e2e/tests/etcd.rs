//! A cluster that stores its objects in an etcd on this machine.

use rkube_testing::require_machine;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rkube_testing::{Cluster, eventually};

/// An etcd on the loopback with TLS and client certificates, killed on drop.
struct Etcd {
    child: Child,
    folder: PathBuf,
    client: u16,
    peer: u16,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("its number").port()
}

fn openssl(folder: &Path, args: &str) {
    let done = Command::new("openssl")
        .args(args.split(' '))
        .current_dir(folder)
        .output()
        .expect("openssl");
    let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "openssl {args}: {stderr}");
}

/// Creates a certificate authority, and a certificate for `127.0.0.1` that serves as server
/// and client certificate.
fn certificates(folder: &Path) {
    std::fs::write(
        folder.join("leaf.ext"),
        "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n",
    )
    .expect("leaf.ext");
    const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(
        folder,
        &format!("req -x509 {KEY} -keyout ca.key -out ca.crt -days 2 -subj /CN=etcd-ca"),
    );
    openssl(
        folder,
        &format!("req {KEY} -keyout leaf.key -out leaf.csr -subj /CN=etcd"),
    );
    openssl(
        folder,
        "x509 -req -in leaf.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out leaf.crt -days 2 -extfile leaf.ext",
    );
}

impl Etcd {
    fn start(folder: PathBuf) -> Self {
        std::fs::create_dir_all(&folder).expect("a folder");
        certificates(&folder);
        let (client, peer) = (free_port(), free_port());
        Self {
            child: spawn(&folder, client, peer),
            folder,
            client,
            peer,
        }
    }

    fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.client)
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn kill(&mut self) {
        self.child.kill().expect("kill etcd");
        self.child.wait().expect("etcd's end");
    }

    fn again(&mut self) {
        self.child = spawn(&self.folder, self.client, self.peer);
    }

    /// Returns the keys below a prefix.
    fn keys(&self, prefix: &str) -> String {
        let done = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.url(), "--cacert", &self.file("ca.crt")])
            .args([
                "--cert",
                &self.file("leaf.crt"),
                "--key",
                &self.file("leaf.key"),
            ])
            .args(["get", "--prefix", "--keys-only", prefix])
            .output()
            .expect("etcdctl");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }
}

/// Returns who leads the controllers, and who the scheduler.
fn holders(cluster: &Cluster) -> (String, String) {
    let holder = |component: &str| {
        let holder = "jsonpath={.spec.holderIdentity}";
        let get = ["get", "lease", "-n", "kube-system", component, "-o", holder];
        eventually("a leader", || {
            let got = cluster.kubectl(&get);
            (got.code == 0 && !got.stdout.is_empty()).then_some(got.stdout)
        })
    };
    (holder("kube-controller-manager"), holder("kube-scheduler"))
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &Path, client: u16, peer: u16) -> Child {
    let file = |name: &str| folder.join(name);
    Command::new("etcd")
        .arg("--data-dir")
        .arg(file("data"))
        .arg(format!("--listen-client-urls=https://127.0.0.1:{client}"))
        .arg(format!(
            "--advertise-client-urls=https://127.0.0.1:{client}"
        ))
        .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer}"))
        .arg(format!(
            "--initial-advertise-peer-urls=http://127.0.0.1:{peer}"
        ))
        .arg(format!("--initial-cluster=default=http://127.0.0.1:{peer}"))
        .arg("--client-cert-auth")
        .arg("--trusted-ca-file")
        .arg(file("ca.crt"))
        .arg("--cert-file")
        .arg(file("leaf.crt"))
        .arg("--key-file")
        .arg(file("leaf.key"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd")
}

fn installed(program: &str) -> bool {
    Command::new(program)
        .arg("version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

#[test]
fn objects_are_in_etcd_and_outlive_its_absence() {
    require_machine!();
    // Nodes of the other drivers do not reach this machine's loopback.
    if !rkube_testing::is_native("an etcd on the loopback") {
        return;
    }
    for program in ["etcd", "etcdctl", "openssl"] {
        if !installed(program) {
            rkube_testing::skip!(
                "no {program} (Debian's etcd-server, etcd-client, openssl have it)"
            );
        }
    }
    let cluster = Cluster::plan("etcd");
    let mut etcd = Etcd::start(cluster.path("etcd"));
    let store = format!("etcd={}", etcd.url());
    let (ca, cert, key) = (
        etcd.file("ca.crt"),
        etcd.file("leaf.crt"),
        etcd.file("leaf.key"),
    );
    let flags = [
        "start",
        "--store",
        &store,
        "--store-ca",
        &ca,
        "--store-cert",
        &cert,
        "--store-key",
        &key,
    ];

    etcd.kill();
    let refused = cluster.rkube(&flags);
    assert_ne!(refused.code, 0);
    assert!(
        refused.stderr.contains("etcd cannot be reached"),
        "{}",
        refused.stderr
    );
    etcd.again();
    eventually("etcd", || {
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, etcd.client)).ok()
    });
    cluster.rkube(&flags).ok();

    cluster.kubectl(&["create", "configmap", "kept"]).ok();
    let root = format!("/rkube/{}/", cluster.profile);
    let keys = etcd.keys(&root);
    assert!(
        keys.contains(&format!("{root}registry/core/configmaps/default/kept")),
        "{keys}"
    );

    // Control planes that share the store take turns.
    let holders = holders(&cluster);
    assert!(holders.0.starts_with(&cluster.profile), "{holders:?}");
    assert_eq!(holders.0, holders.1);

    etcd.kill();
    assert_ne!(
        cluster
            .kubectl(&["create", "configmap", "lost", "--request-timeout=20s"])
            .code,
        0
    );
    etcd.again();
    eventually("the API server to write again", || {
        (cluster.kubectl(&["create", "configmap", "later"]).code == 0).then_some(())
    });
    let names = cluster.kubectl(&["get", "configmaps", "-o", "name"]).ok();
    assert!(names.contains("configmap/kept") && names.contains("configmap/later"));

    cluster.rkube(&["stop"]).ok();
    cluster.rkube(&["start"]).ok();
    cluster.kubectl(&["get", "configmap", "kept"]).ok();
    assert_eq!(self::holders(&cluster), holders);
    cluster
        .kubectl(&["create", "deployment", "app", "--image=rkube/kubia"])
        .ok();
    cluster
        .kubectl(&["rollout", "status", "deployment/app", "--timeout=60s"])
        .ok();

    cluster.rkube(&["delete"]).ok();
    assert_eq!(etcd.keys(&root).trim(), "", "nothing is left in etcd");
}
