//! Compares the ingress controller's proxy with nginx: the same backend, clients and cores.
//!
//! `cargo run --release -p rkube-bench --bin rkube-bench-ingress -- --nginx /usr/sbin/nginx`
//!
//! Rounds of the two alternate, so that both find the machine in the same state. Both keep
//! connections to the backend and write an access log.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::Parser;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::client::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::networking::v1::IngressClass;
use rkube_ingress::compile::{Objects, compile};
use rkube_ingress::proxy::Proxy;
use rkube_ingress::server::{Entrance, serve};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Compares the ingress controller's proxy with nginx
#[derive(Parser)]
struct Args {
    /// The program nginx; without it, only rkube's proxy is measured
    #[arg(long)]
    nginx: Option<PathBuf>,
    /// Number of concurrent clients, each with its own connection
    #[arg(long, default_value_t = 32)]
    clients: usize,
    /// Duration of a round, in seconds
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Number of rounds
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Size of a response in bytes
    #[arg(long, default_value_t = 1024)]
    size: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
    };
    // As in processes of their own, none steals the others' threads.
    let (behind, between, before) = (runtime()?, runtime()?, runtime()?);
    let backend = behind.block_on(backend(args.size))?;
    let rkube = between.block_on(rkube(backend))?;
    let dir = tempfile::tempdir()?;
    let nginx = match &args.nginx {
        Some(program) => Some(Nginx::start(program, dir.path(), backend)?),
        None => None,
    };
    before.block_on(async {
        let mut targets = vec![("direct", backend), ("rkube", rkube)];
        targets.extend(nginx.as_ref().map(|nginx| ("nginx", nginx.address)));
        for _ in 0..args.rounds {
            for (name, address) in &targets {
                let mut times = load(*address, &args).await?;
                times.sort_unstable();
                let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
                println!(
                    "{name:<8} {:>8.0} requests/s, p50 {:>6.2} ms, p99 {:>6.2} ms",
                    times.len() as f64 / args.seconds as f64,
                    at(0.5).as_secs_f64() * 1e3,
                    at(0.99).as_secs_f64() * 1e3,
                );
            }
        }
        Ok(())
    })
}

/// Starts the backend.
async fn backend(size: usize) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let content = Bytes::from(vec![b'x'; size]);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let content = content.clone();
            tokio::spawn(async move {
                let service = service_fn(|_| {
                    let response = Response::new(Full::new(content.clone()));
                    std::future::ready(Ok::<_, std::convert::Infallible>(response))
                });
                // Clients may go at any time.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    Ok(address)
}

/// Starts rkube's proxy.
async fn rkube(backend: SocketAddr) -> anyhow::Result<SocketAddr> {
    let class: IngressClass = serde_json::from_value(json!({
        "metadata": { "name": "rkube" }, "spec": { "controller": "rkube.dev/ingress" },
    }))?;
    let objects = Objects {
        ingresses: vec![Arc::new(serde_json::from_value(json!({
            "metadata": { "name": "i", "namespace": "default" },
            "spec": { "ingressClassName": "rkube", "rules": [{
                "host": "bench.test",
                "http": { "paths": [{ "path": "/", "pathType": "Prefix", "backend": {
                    "service": { "name": "web", "port": { "number": 80 } },
                }}]},
            }]},
        }))?)],
        classes: vec![Arc::new(class)],
        services: vec![Arc::new(serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "default" },
            "spec": { "ports": [{ "port": 80 }] },
        }))?)],
        slices: vec![Arc::new(serde_json::from_value(json!({
            "metadata": {
                "name": "web-1",
                "namespace": "default",
                "labels": { "kubernetes.io/service-name": "web" },
            },
            "addressType": "IPv4",
            "endpoints": [{ "addresses": [backend.ip()] }],
            "ports": [{ "port": backend.port() }],
        }))?)],
        ..Objects::default()
    };
    // There are no external names.
    let proxy = Proxy::new(([127, 0, 0, 1], 53).into());
    proxy.load(compile(&objects).table);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let entrance = Entrance {
        listener,
        port: 80,
        tls: None,
    };
    tokio::spawn(serve(entrance, proxy.clone(), CancellationToken::new()));
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let lines = proxy.log.take();
            // The same work as in the cluster, at a place that is no terminal.
            let _ = tokio::task::spawn_blocking(move || std::fs::write("/dev/null", lines)).await;
        }
    });
    Ok(address)
}

/// A running nginx.
struct Nginx {
    child: Child,
    address: SocketAddr,
}

impl Nginx {
    fn start(program: &Path, dir: &Path, backend: SocketAddr) -> anyhow::Result<Self> {
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = dir.join("nginx.conf");
        let folder = dir.display();
        std::fs::write(
            &config,
            format!(
                "worker_processes 2; daemon off; pid {folder}/pid; error_log {folder}/error.log;
                events {{ worker_connections 4096; }}
                http {{
                  access_log {folder}/access.log combined buffer=64k flush=1s;
                  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b;
                  fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
                  upstream web {{ server {backend}; keepalive 320; keepalive_requests 1000000; }}
                  server {{
                    listen {address}; server_name bench.test; keepalive_requests 100000000;
                    location / {{
                      proxy_pass http://web; proxy_http_version 1.1;
                      proxy_set_header Connection ''; proxy_set_header Host $host;
                      proxy_set_header X-Request-ID $request_id;
                      proxy_set_header X-Real-IP $remote_addr;
                      proxy_set_header X-Forwarded-For $remote_addr;
                      proxy_set_header X-Forwarded-Host $host;
                      proxy_set_header X-Forwarded-Port 80;
                      proxy_set_header X-Forwarded-Proto $scheme;
                    }}
                  }}
                }}\n"
            ),
        )?;
        let child = Command::new(program)
            .arg("-p")
            .arg(dir)
            .arg("-c")
            .arg(&config)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let started = Self { child, address };
        let deadline = Instant::now() + Duration::from_secs(5);
        while std::net::TcpStream::connect(address).is_err() {
            ensure!(Instant::now() < deadline, "nginx does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(started)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers see that the master has gone.
        let _ = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let _ = self.child.wait();
    }
}

/// Sends requests; returns the time that each took.
async fn load(address: SocketAddr, args: &Args) -> anyhow::Result<Vec<Duration>> {
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let clients = (0..args.clients).map(|_| {
        tokio::spawn(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let mut times = Vec::new();
            while Instant::now() < end {
                let began = Instant::now();
                let request = Request::get("/index.html?a=b")
                    .header("host", "bench.test")
                    .header("user-agent", "rkube-bench")
                    .header("accept", "*/*")
                    .body(Empty::<Bytes>::new())?;
                sender.ready().await?;
                let response = sender.send_request(request).await?;
                ensure!(response.status() == 200, "{}", response.status());
                response.into_body().collect().await?;
                times.push(began.elapsed());
            }
            Ok(times)
        })
    });
    let clients: Vec<_> = clients.collect();
    let mut all = Vec::new();
    for client in clients {
        all.extend(client.await??);
    }
    ensure!(!all.is_empty(), "no request was answered");
    Ok(all)
}
