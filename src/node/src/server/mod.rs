//! The node's HTTPS endpoint: the API that the kubelet serves on port 10250.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::Context as _;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use rkube_config::ports;
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

mod answer;
mod forward;
mod identity;
pub(crate) mod logs;
mod metrics;
mod query;
mod remote;
mod stats;

use crate::agent::Agent;
use crate::client::Pki;
use crate::pods::{Snapshot, instance};
use answer::{Answer, full, json, no_pod, not_found, text};
use identity::Identity;
use query::Query;

/// The endpoint, with its port taken.
pub(crate) struct Server {
    agent: Arc<Agent>,
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Server {
    pub(crate) async fn bind(agent: Arc<Agent>, pki: &Pki) -> anyhow::Result<Self> {
        // Who shows no certificate is told so in HTTP, not by a failed handshake.
        let verifier = WebPkiClientVerifier::builder(pki.roots()?)
            .allow_unauthenticated()
            .build()
            .context("the cluster's authority")?;
        let mut config = rustls::ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(pki.chain.clone(), pki.key())
            .context("the agent's certificate and key")?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let address = (std::net::Ipv4Addr::UNSPECIFIED, ports::KUBELET);
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listening on port {}", ports::KUBELET))?;
        Ok(Self {
            agent,
            listener,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        })
    }

    /// Serves until the future is dropped.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        loop {
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(e) => {
                    warn!("accepting on port {}: {e}", ports::KUBELET);
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            if let Err(e) = stream.set_nodelay(true) {
                debug!("nodelay: {e}");
            }
            let (agent, acceptor) = (self.agent.clone(), self.acceptor.clone());
            tokio::spawn(async move {
                let handshake = acceptor.accept(stream);
                let limit = std::time::Duration::from_secs(10);
                let stream = match tokio::time::timeout(limit, handshake).await {
                    Ok(Ok(stream)) => stream,
                    Ok(Err(e)) => {
                        debug!("TLS with {peer}: {e}");
                        return;
                    }
                    Err(_) => return,
                };
                let identity = Identity::of(stream.get_ref().1.peer_certificates());
                let service = hyper::service::service_fn(move |request| {
                    let (agent, identity) = (agent.clone(), identity.clone());
                    async move { Ok::<_, Infallible>(handle(agent, identity, request).await) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades();
                if let Err(e) = connection.await {
                    debug!("connection of {peer}: {e}");
                }
            });
        }
    }
}

async fn handle(agent: Arc<Agent>, identity: Identity, request: Request<Incoming>) -> Answer {
    match identity {
        Identity::Nobody => return text(StatusCode::UNAUTHORIZED, "Unauthorized"),
        Identity::Stranger(name) => {
            return text(
                StatusCode::FORBIDDEN,
                format!(
                    "Forbidden (user={name}, verb={}, resource=nodes, subresource=proxy)",
                    request.method().as_str().to_lowercase()
                ),
            );
        }
        Identity::Trusted => {}
    }
    let path = request.uri().path().to_owned();
    let parts: Vec<String> = path
        .split('/')
        .filter(|p| !p.is_empty())
        .map(query::decode)
        .collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let get = request.method() == Method::GET;
    match parts.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => text(StatusCode::OK, "ok"),
        ["pods"] if get => pods(&agent, false),
        ["runningpods"] if get => pods(&agent, true),
        ["containerLogs", namespace, pod, container] if get => {
            logs::serve(&agent, namespace, pod, container, &query).await
        }
        [kind @ ("exec" | "attach"), namespace, pod, rest @ ..] => {
            let (uid, container) = match rest {
                [container] => (None, *container),
                [uid, container] => (Some(*uid), *container),
                _ => return not_found(),
            };
            let id = match running(&agent, namespace, pod, uid, container) {
                Ok(id) => id,
                Err(e) => return text(StatusCode::NOT_FOUND, e),
            };
            remote::serve(
                agent.runtime.clone(),
                *kind == "attach",
                id,
                &query,
                request,
            )
        }
        ["run", namespace, pod, rest @ ..] => {
            let (uid, container) = match rest {
                [container] => (None, *container),
                [uid, container] => (Some(*uid), *container),
                _ => return not_found(),
            };
            match running(&agent, namespace, pod, uid, container) {
                Ok(id) => run(&agent, &id, &query).await,
                Err(e) => text(StatusCode::NOT_FOUND, e),
            }
        }
        ["portForward", namespace, pod, rest @ ..] => {
            let Some(found) = agent.pods.find(namespace, pod, rest.first().copied()) else {
                return no_pod(namespace, pod);
            };
            forward::serve(agent.runtime.clone(), &found, &query, request)
        }
        ["stats", "summary"] => stats::summary(&agent).await,
        ["metrics"] => metrics::own(&agent),
        ["metrics", "resource"] => metrics::resource(&agent).await,
        ["metrics", "cadvisor"] => metrics::cadvisor(&agent).await,
        ["metrics", "probes"] => text(StatusCode::OK, ""),
        ["configz"] => configz(&agent),
        ["logs", rest @ ..] => log_files(rest).await,
        ["checkpoint", ..] => text(
            StatusCode::NOT_FOUND,
            "rkube does not checkpoint containers\n",
        ),
        _ => not_found(),
    }
}

/// The ID of a running container, or why there is none.
fn running(
    agent: &Agent,
    namespace: &str,
    pod: &str,
    uid: Option<&str>,
    container: &str,
) -> Result<String, String> {
    let found = agent
        .pods
        .find(namespace, pod, uid)
        .ok_or_else(|| format!("pod does not exist: {namespace}/{pod}"))?;
    instance::latest(&found.instances, container)
        .filter(|i| i.running())
        .map(|i| i.id.clone())
        .ok_or_else(|| format!("container not found (\"{container}\")"))
}

fn pods(agent: &Agent, only_running: bool) -> Answer {
    let items: Vec<_> = agent
        .pods
        .all()
        .into_iter()
        .filter(|s| !only_running || any_running(s))
        .map(|s| {
            let mut value = serde_json::to_value(&*s.pod).unwrap_or_default();
            if let Some(map) = value.as_object_mut() {
                map.remove("kind");
                map.remove("apiVersion");
            }
            value
        })
        .collect();
    json(&serde_json::json!({
        "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items,
    }))
}

fn any_running(snapshot: &Snapshot) -> bool {
    snapshot
        .instances
        .values()
        .filter_map(|a| a.last())
        .any(instance::Instance::running)
}

async fn run(agent: &Agent, id: &str, query: &Query) -> Answer {
    let mut command: Vec<String> = query.all("command").map(str::to_owned).collect();
    if command.is_empty()
        && let Some(cmd) = query.get("cmd")
    {
        command = cmd.split(' ').map(str::to_owned).collect();
    }
    match agent
        .runtime
        .exec_sync(id, &command, std::time::Duration::ZERO)
        .await
    {
        Ok(out) => {
            let mut bytes = out.stdout;
            bytes.extend_from_slice(&out.stderr);
            let mut response = Response::new(full(bytes));
            if out.exit_code != 0 {
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
            response
        }
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    }
}

/// What this agent does where the kubelet has settings.
fn configz(agent: &Agent) -> Answer {
    let config = &agent.config;
    json(&serde_json::json!({"kubeletconfig": {
        "enableServer": true,
        "port": ports::KUBELET,
        "readOnlyPort": 0,
        "address": "0.0.0.0",
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": false}},
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": true,
        "clusterDomain": config.cluster.dns_domain,
        "clusterDNS": [config.cluster.dns_ip.to_string()],
        "containerLogMaxSize": "10Mi",
        "containerLogMaxFiles": 5,
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "imagefs.available": "1Gi",
            "memory.available": "100Mi",
            "nodefs.available": "1Gi",
            "nodefs.inodesFree": "1%",
        },
        "maxPods": config.max_pods,
        "nodeLeaseDurationSeconds": 40,
        "nodeStatusReportFrequency": "5m0s",
        "nodeStatusUpdateFrequency": "10s",
        "podCIDR": config.pod_cidr.to_string(),
        "resolvConf": "/etc/resolv.conf",
        "seccompDefault": true,
        "serializeImagePulls": false,
        "staticPodPath": "",
        "syncFrequency": "1m0s",
    }}))
}

/// Files below `/var/log`, as the kubelet serves them.
async fn log_files(parts: &[&str]) -> Answer {
    let root = std::path::Path::new("/var/log");
    if parts
        .iter()
        .any(|p| *p == ".." || *p == "." || p.contains('/'))
    {
        return text(StatusCode::BAD_REQUEST, "invalid path");
    }
    let path = parts.iter().fold(root.to_owned(), |p, part| p.join(part));
    // Links may lead anywhere on the node; only what lies below is a log.
    let Ok(real) = tokio::fs::canonicalize(&path).await else {
        return not_found();
    };
    if !real.starts_with(root) {
        return text(StatusCode::FORBIDDEN, "not below /var/log");
    }
    if real.is_dir() {
        let mut names: Vec<String> = std::fs::read_dir(&real)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| {
                let slash = if e.path().is_dir() { "/" } else { "" };
                format!("{}{slash}", e.file_name().to_string_lossy())
            })
            .collect();
        names.sort();
        return text(StatusCode::OK, names.join("\n") + "\n");
    }
    match tokio::fs::read(&real).await {
        Ok(bytes) => Response::new(full(bytes)),
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    }
}
