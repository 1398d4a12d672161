//! Checks that API servers answer linearizably while they and their store are killed.
//!
//! Several clients create, read, list, update and delete the same few objects at once, over
//! HTTP, while processes are killed with SIGKILL and started again. Then each object's history is
//! checked: there must be an order of all operations that explains every answer. A watch that goes
//! on after each crash must have seen every acknowledged write, in order.
//!
//! `RKUBE_ROBUSTNESS_SECONDS` sets how long, `RKUBE_ROBUSTNESS_SEED` repeats the choices of a run
//! (not its timing).

mod clients;
mod linearizable;
mod processes;
mod watching;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use futures::future::join_all;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rkube_testing::skip;
use tokio_util::sync::CancellationToken;

use clients::{History, Worker};
use processes::{Backing, Certificates, Process, Settings, free_port, url};

/// The test that serves, in a process that was started as a server.
const SERVER: &str = "embedded_store";
/// Clients of each server.
const CLIENTS: usize = 4;
/// What must have happened before a run ends, however slow the machine is.
const MIN_OPERATIONS: usize = 200;
const MIN_CRASHES: usize = 4;
/// For how long is waited for anything.
const PATIENCE: Duration = Duration::from_secs(120);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

async fn connect(port: u16, certificates: &Certificates) -> Client {
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let (certificate, key) = &certificates.admin;
    let config: Kubeconfig = serde_json::from_value(serde_json::json!({
        "clusters": [{"name": "c", "cluster": {
            "server": format!("https://127.0.0.1:{port}"),
            "certificate-authority-data": encode(&certificates.ca)}}],
        "users": [{"name": "admin", "user": {
            "client-certificate-data": encode(certificate), "client-key-data": encode(key)}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "admin"}}],
        "current-context": "c",
    }))
    .expect("a kubeconfig");
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(config, &options).await;
    Client::try_from(config.expect("a configuration")).expect("a client")
}

/// Waits until all servers answer from their store. One that has ended, because it did not find etcd
/// or its port was taken for a moment, is started again.
async fn wait_for(servers: &mut [Process], clients: &[Client]) {
    let deadline = Instant::now() + PATIENCE;
    for client in clients {
        loop {
            let answer = tokio::time::timeout(Duration::from_secs(1), clients::list(client));
            if let Ok(Ok(_)) = answer.await {
                break;
            }
            servers.iter_mut().for_each(Process::keep_up);
            assert!(Instant::now() < deadline, "an API server does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Runs all clients against all servers while processes are killed, and checks what they saw.
async fn run(folder: &std::path::Path, mut etcd: Option<Process>, settings: Vec<Settings>) {
    let seed = number("RKUBE_ROBUSTNESS_SEED").unwrap_or_else(rand::random);
    println!("repeat with RKUBE_ROBUSTNESS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut servers: Vec<_> = settings
        .iter()
        .map(|s| Process::server(folder, s))
        .collect();
    let connecting = settings.iter().map(|s| connect(s.port, &s.certificates));
    let clients = join_all(connecting).await;
    wait_for(&mut servers, &clients).await;

    let history = History::new();
    let seconds = number("RKUBE_ROBUSTNESS_SECONDS").unwrap_or(6);
    let began = Instant::now();
    let done = CancellationToken::new();
    let workers: Vec<_> = clients
        .iter()
        .cycle()
        .take(CLIENTS * clients.len())
        .map(|client| Worker::new(client.clone(), &history, random.random()))
        .collect();
    let work = join_all(workers.into_iter().map(|worker| worker.run(&done)));
    let crashes = async {
        let mut count = 0;
        let is_enough = |count: usize| {
            began.elapsed() > Duration::from_secs(seconds)
                && count >= MIN_CRASHES
                && history.len() >= MIN_OPERATIONS
        };
        while !is_enough(count) {
            let limit = Duration::from_secs(seconds) + PATIENCE;
            assert!(began.elapsed() < limit, "too little happens");
            let pause = Duration::from_millis(random.random_range(200..1000));
            tokio::time::sleep(pause).await;
            servers.iter_mut().for_each(Process::keep_up);
            let victim = random.random_range(0..servers.len() + usize::from(etcd.is_some()));
            match (servers.get_mut(victim), &mut etcd) {
                (Some(server), _) => server.crash(),
                (None, Some(etcd)) => etcd.crash(),
                (None, None) => unreachable!("there are only servers"),
            }
            count += 1;
        }
        done.cancel();
        wait_for(&mut servers, &clients).await;
        for client in &clients {
            Worker::new(client.clone(), &history, 0).read_all().await;
        }
        clients::end(&clients[0]).await;
        count
    };
    let watching = join_all(clients.iter().map(watching::watch));
    let watching = tokio::time::timeout(Duration::from_secs(seconds) + 3 * PATIENCE, watching);
    let (_, crashes, watched) = tokio::join!(work, crashes, watching);
    let watched = watched.expect("the watches reach the last write");
    check(&history, &watched, crashes);
}

fn check(history: &History, watched: &[watching::Seen], crashes: usize) {
    let entries = history.entries();
    let count: usize = entries.values().map(Vec::len).sum();
    let unknown = entries.values().flatten().filter(|e| e.answered.is_none());
    println!(
        "{count} operations, {} without an answer, {crashes} crashes",
        unknown.count()
    );
    for (name, entries) in entries {
        if let Err(error) = linearizable::check(&entries) {
            panic!("{name} is not linearizable: {error}");
        }
    }
    let writes = history.writes();
    let mut covered = 0;
    for seen in watched {
        println!(
            "a watch saw {} writes, with {} lists",
            seen.writes.len(),
            seen.gaps.len()
        );
        for (revision, write) in &writes {
            if seen.covers(*revision) {
                let found = seen.writes.get(revision);
                assert_eq!(found, Some(write), "a watch at revision {revision}");
                covered += 1;
            }
        }
    }
    assert!(covered > 0, "the watches saw nothing");
}

fn block_on(future: impl Future<Output = ()>) {
    // Fails if another test of this process was first, which is the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Runtime::new()
        .expect("a runtime")
        .block_on(future);
}

#[test]
fn embedded_store() {
    processes::serve_if_server();
    let folder = tempfile::tempdir().expect("a folder");
    let settings = Settings {
        port: free_port(),
        backing: Backing::Embedded(folder.path().join("store")),
        certificates: Certificates::new(),
    };
    block_on(run(folder.path(), None, vec![settings]));
}

/// Two servers share an etcd, which is killed as well.
#[test]
fn two_servers_with_etcd() {
    let found = Command::new("etcd")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if found.is_err() {
        skip!("no etcd");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (client, peer) = (free_port(), free_port());
    let etcd = Process::etcd(folder.path(), client, peer);
    let certificates = Certificates::new();
    let settings = || Settings {
        port: free_port(),
        backing: Backing::Etcd(url(client)),
        certificates: certificates.clone(),
    };
    block_on(run(folder.path(), Some(etcd), vec![settings(), settings()]));
}
