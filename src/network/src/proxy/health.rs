//! Health check node ports. Load balancers ask each node over HTTP whether it has endpoints of a
//! service with `externalTrafficPolicy: Local`.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::compile::HealthCheck;

/// Timeout of a client's connection.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum length of a request head that is read, in bytes.
const MAX_REQUEST_LENGTH: usize = 8 * 1024;

/// The HTTP servers of all health checks, one per port.
pub(super) struct HealthServer {
    /// `None` outside a tokio runtime; then no checks are served.
    runtime: Option<Handle>,
    listeners: Mutex<BTreeMap<u16, Listener>>,
}

/// A listening port. Closed when dropped.
struct Listener {
    check: Arc<Mutex<HealthCheck>>,
    task: AbortHandle,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HealthServer {
    /// Returns a server on the current tokio runtime.
    pub(super) fn new() -> Self {
        Self {
            runtime: Handle::try_current().ok(),
            listeners: Mutex::default(),
        }
    }

    /// Serves exactly these checks from now on. Retries ports that could not be opened or failed
    /// since.
    pub(super) fn update(&self, checks: &BTreeMap<u16, HealthCheck>) {
        let Some(runtime) = &self.runtime else { return };
        let mut listeners = self.listeners.lock();
        listeners
            .retain(|port, listener| checks.contains_key(port) && !listener.task.is_finished());
        for (port, check) in checks {
            if let Some(listener) = listeners.get(port) {
                *listener.check.lock() = check.clone();
                continue;
            }
            match open(runtime, *port) {
                Ok(socket) => {
                    let shared = Arc::new(Mutex::new(check.clone()));
                    let task = runtime.spawn(serve(socket, shared.clone())).abort_handle();
                    listeners.insert(
                        *port,
                        Listener {
                            check: shared,
                            task,
                        },
                    );
                }
                Err(error) => {
                    tracing::warn!(port, service = check.name, %error, "cannot serve a health check port");
                }
            }
        }
    }
}

/// Listens on a port of all IPv4 addresses.
fn open(runtime: &Handle, port: u16) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    listener.set_nonblocking(true)?;
    let _in_runtime = runtime.enter();
    TcpListener::from_std(listener)
}

/// Serves one health check port.
async fn serve(listener: TcpListener, check: Arc<Mutex<HealthCheck>>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let response = response(&check.lock());
                tokio::spawn(tokio::time::timeout(
                    REQUEST_TIMEOUT,
                    answer(stream, response),
                ));
            }
            // For example out of file descriptors: wait before the next attempt.
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}

/// Reads the head of any request and responds to it.
async fn answer(mut stream: TcpStream, response: String) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        if head.len() > MAX_REQUEST_LENGTH || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

/// Returns the response, as of kube-proxy: 200 if this node has endpoints, otherwise 503.
fn response(check: &HealthCheck) -> String {
    let count = check.local_endpoints;
    let status = if count > 0 {
        "200 OK"
    } else {
        "503 Service Unavailable"
    };
    let body = serde_json::json!({
        "service": {"namespace": check.namespace, "name": check.name},
        "localEndpoints": count,
        "serviceProxyHealthy": true,
    })
    .to_string();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n\
         X-Load-Balancing-Endpoint-Weight: {count}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
