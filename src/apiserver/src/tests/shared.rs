//! Two servers on one etcd, if one is installed.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rkube_store::{EtcdOptions, EtcdStore};
use serde_json::json;

use super::support::{TestServer, config, make_pki};
use crate::ApiServer;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// An etcd process, killed on drop.
struct Etcd(Child);

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn etcd(folder: &std::path::Path) -> Option<(Etcd, String)> {
    let (client, peer) = (free_port(), free_port());
    let url = format!("http://127.0.0.1:{client}");
    let child = Command::new("etcd")
        .arg("--data-dir")
        .arg(folder)
        .arg(format!("--listen-client-urls={url}"))
        .arg(format!("--advertise-client-urls={url}"))
        .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer}"))
        .arg(format!(
            "--initial-advertise-peer-urls=http://127.0.0.1:{peer}"
        ))
        .arg(format!("--initial-cluster=default=http://127.0.0.1:{peer}"))
        .arg("--unsafe-no-fsync")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match child {
        Ok(child) => Some((Etcd(child), url)),
        Err(_) => {
            rkube_testing::skipped("etcd is not installed (Debian's etcd-server has it)");
            None
        }
    }
}

#[tokio::test]
async fn servers_on_one_etcd_show_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_etcd, url)) = etcd(&folder.path().join("etcd")) else {
        return;
    };
    let keys = make_pki();
    let open = async || {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path(), keys.pki.clone());
        config.store = EtcdStore::open(EtcdOptions {
            endpoints: vec![url.clone()],
            root: "/shared".into(),
            ..EtcdOptions::default()
        })
        .await
        .unwrap();
        TestServer {
            server: ApiServer::new(config).await.unwrap(),
            pki: make_pki(),
            folder,
        }
    };
    let (one, other) = (open().await, open().await);
    let (code, list) = other.get(MAPS).await;
    assert_eq!(code, 200, "{list}");
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = other
        .watch(&format!("{MAPS}?watch=1&resourceVersion={revision}"))
        .await;
    for i in 0..20 {
        let name = format!("m{i}");
        let (code, made) = one.post(MAPS, json!({"metadata": {"name": name}})).await;
        assert_eq!(code, 201, "{made}");
        // A read that starts after a write observes it, on any server.
        let (code, read) = other.get(&format!("{MAPS}/{name}")).await;
        assert_eq!(code, 200);
        assert_eq!(read, made);
        // An update on one server must observe the other's write.
        let mut stale = made.clone();
        stale["data"] = json!({"by": "other"});
        let (code, changed) = other.put(&format!("{MAPS}/{name}"), stale.clone()).await;
        assert_eq!(code, 200, "{changed}");
        let (code, _) = one.put(&format!("{MAPS}/{name}"), stale).await;
        assert_eq!(code, 409, "an update of an old state is refused");
    }
    for i in 0..20 {
        for kind in ["ADDED", "MODIFIED"] {
            let event = tokio::time::timeout(Duration::from_secs(60), watch.named())
                .await
                .expect("the watch tells in a minute");
            assert_eq!(event, (kind.to_owned(), format!("m{i}")));
        }
    }
    // A continue token of one server is valid on the other.
    let (_, page) = one.get(&format!("{MAPS}?limit=7")).await;
    let token = page["metadata"]["continue"].as_str().unwrap();
    let (code, next) = other.get(&format!("{MAPS}?limit=7&continue={token}")).await;
    assert_eq!(code, 200, "{next}");
    assert_eq!(
        next["metadata"]["resourceVersion"],
        page["metadata"]["resourceVersion"]
    );
}
