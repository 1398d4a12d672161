//! The proxy's own endpoints, at the addresses of kube-proxy: its health on port 10256 of all
//! addresses, its mode and metrics on port 10249 of the loopback.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::http;

/// Port of the health endpoint.
const HEALTH_PORT: u16 = 10256;
/// Address of mode and metrics.
const STATUS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);
/// A proxy is unhealthy if rules could not be written for this time: twice kube-proxy's period of
/// synchronization.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(60);

/// The servers of both addresses.
pub(super) struct StatusServer {
    /// `None` outside a tokio runtime; then nothing is served.
    runtime: Option<Handle>,
    progress: Arc<Mutex<Progress>>,
    servers: Mutex<[Server; 2]>,
}

/// The facts that the endpoints report.
#[derive(Default)]
struct Progress {
    /// Time of the last write of rules.
    updated: Option<Timestamp>,
    /// Since when rules could not be written.
    failing: Option<Instant>,
    /// Whether the node is about to be deleted.
    leaving: bool,
}

/// A server, and its task once it listens. Ends when dropped.
struct Server {
    address: SocketAddr,
    respond: fn(&Progress, &str) -> http::Response,
    task: Option<AbortHandle>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl StatusServer {
    /// Returns a server on the current tokio runtime. Its health is reported on `any`, which stands
    /// for all addresses of the node.
    pub(super) fn new(any: IpAddr) -> Self {
        Self::at(SocketAddr::new(any, HEALTH_PORT), STATUS)
    }

    fn at(health: SocketAddr, status: SocketAddr) -> Self {
        let server = |address, respond| Server {
            address,
            respond,
            task: None,
        };
        Self {
            runtime: Handle::try_current().ok(),
            progress: Arc::default(),
            servers: Mutex::new([
                server(health, health_response as fn(&Progress, &str) -> _),
                server(status, status_response),
            ]),
        }
    }

    /// Records whether rules were written just now. Opens the ports that are not open.
    pub(super) fn synced(&self, done: bool) {
        {
            let mut progress = self.progress.lock();
            if done {
                progress.updated = Some(Timestamp::now());
                progress.failing = None;
            } else {
                progress.failing.get_or_insert_with(Instant::now);
            }
        }
        let Some(runtime) = &self.runtime else { return };
        for server in self.servers.lock().iter_mut() {
            if server.task.as_ref().is_some_and(|task| !task.is_finished()) {
                continue;
            }
            match http::open(runtime, server.address) {
                Ok(listener) => {
                    let (progress, respond) = (self.progress.clone(), server.respond);
                    let serve =
                        http::serve(listener, move |path: &str| respond(&progress.lock(), path));
                    server.task = Some(runtime.spawn(serve).abort_handle());
                }
                Err(error) => {
                    tracing::warn!(address = %server.address, %error, "cannot serve the proxy's status");
                }
            }
        }
    }

    /// Records whether the node is about to be deleted. Load balancers then leave it out.
    pub(super) fn set_leaving(&self, leaving: bool) {
        self.progress.lock().leaving = leaving;
    }
}

impl Progress {
    fn is_healthy(&self) -> bool {
        self.failing
            .is_none_or(|since| since.elapsed() < HEALTH_TIMEOUT)
    }
}

/// Responds on the port of the health endpoint. `/livez` does not regard the node.
fn health_response(progress: &Progress, path: &str) -> http::Response {
    let healthy = match path {
        "/healthz" => progress.is_healthy() && !progress.leaving,
        "/livez" => progress.is_healthy(),
        _ => return http::Response::not_found(),
    };
    let now = Timestamp::now();
    // As upstream: the time of the last update is recent if the proxy is healthy.
    let updated = if healthy {
        now
    } else {
        progress.updated.unwrap_or(Timestamp::UNIX_EPOCH)
    };
    let text = |time: Timestamp| time.strftime("%Y-%m-%d %H:%M:%S.%f +0000 UTC").to_string();
    let node = match path {
        "/healthz" => format!(", \"nodeEligible\": {}", !progress.leaving),
        _ => String::new(),
    };
    http::Response {
        status: if healthy {
            "200 OK"
        } else {
            "503 Service Unavailable"
        },
        content_type: "application/json",
        headers: String::new(),
        body: format!(
            "{{\"lastUpdated\": \"{}\",\"currentTime\": \"{}\"{node}}}",
            text(updated),
            text(now)
        ),
    }
}

/// Responds on the port of mode and metrics.
fn status_response(progress: &Progress, path: &str) -> http::Response {
    let body = match path {
        "/healthz" => "ok".to_owned(),
        "/proxyMode" => "nftables".to_owned(),
        "/metrics" => {
            let time = progress.updated.map_or(0, Timestamp::as_second);
            let name = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";
            format!(
                "# HELP {name} [ALPHA] The last time proxy rules were successfully synced\n\
                 # TYPE {name} gauge\n{name} {time}\n"
            )
        }
        _ => return http::Response::not_found(),
    };
    http::Response {
        status: "200 OK",
        content_type: "text/plain; charset=utf-8",
        headers: String::new(),
        body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[test]
    fn health_follows_the_rules_and_the_node() {
        let mut progress = Progress::default();
        let status = |progress: &Progress, path| health_response(progress, path).status;
        assert_eq!(status(&progress, "/healthz"), "200 OK");
        // A failure of just now is no reason yet.
        progress.failing = Some(Instant::now());
        assert_eq!(status(&progress, "/healthz"), "200 OK");
        let Some(long_ago) = Instant::now().checked_sub(HEALTH_TIMEOUT) else {
            rkube_testing::not_applicable("the machine has just started");
            return;
        };
        progress.failing = Some(long_ago);
        assert_eq!(status(&progress, "/healthz"), "503 Service Unavailable");
        assert_eq!(status(&progress, "/livez"), "503 Service Unavailable");
        progress.failing = None;
        progress.leaving = true;
        assert_eq!(status(&progress, "/livez"), "200 OK");
        let response = health_response(&progress, "/healthz");
        assert_eq!(response.status, "503 Service Unavailable");
        let body: serde_json::Value = serde_json::from_str(&response.body).unwrap();
        assert_eq!(body["nodeEligible"], false);
        assert!(
            body["lastUpdated"]
                .as_str()
                .unwrap()
                .ends_with(" +0000 UTC")
        );
        assert_eq!(status(&progress, "/"), "404 Not Found");
    }

    #[tokio::test]
    async fn both_ports_are_served_after_the_first_sync() {
        let free = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let (health, status) = (free(), free());
        let server = StatusServer::at(health, status);
        server.synced(true);
        for (address, path, expected) in [
            (health, "/healthz", "\"nodeEligible\": true"),
            (health, "/livez?verbose", "currentTime"),
            (status, "/proxyMode", "\r\n\r\nnftables"),
            (status, "/healthz", "\r\n\r\nok"),
            (status, "/metrics", "_last_timestamp_seconds 1"),
        ] {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(answer.contains(expected), "{path}: {answer}");
        }
    }
}
