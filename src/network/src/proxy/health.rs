//! Health check node ports. Load balancers ask each node over HTTP whether it has endpoints of a
//! service with `externalTrafficPolicy: Local`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::compile::HealthCheck;
use super::http;

/// The HTTP servers of all health checks, one per port.
pub(super) struct HealthServer {
    /// `None` outside a tokio runtime; then no checks are served.
    runtime: Option<Handle>,
    /// The address that stands for all addresses of the node.
    any: IpAddr,
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
    /// Returns a server on the current tokio runtime, which listens on `any`.
    pub(super) fn new(any: IpAddr) -> Self {
        Self {
            any,
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
            match http::open(runtime, SocketAddr::new(self.any, *port)) {
                Ok(socket) => {
                    let shared = Arc::new(Mutex::new(check.clone()));
                    let seen = shared.clone();
                    let serve = http::serve(socket, move |_: &str| response(&seen.lock()));
                    let task = runtime.spawn(serve).abort_handle();
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

/// Returns the response, as of kube-proxy: 200 if this node has endpoints, otherwise 503.
fn response(check: &HealthCheck) -> http::Response {
    let count = check.local_endpoints;
    let body = serde_json::json!({
        "service": {"namespace": check.namespace, "name": check.name},
        "localEndpoints": count,
        "serviceProxyHealthy": true,
    });
    http::Response {
        status: if count > 0 {
            "200 OK"
        } else {
            "503 Service Unavailable"
        },
        content_type: "application/json",
        headers: format!("X-Load-Balancing-Endpoint-Weight: {count}\r\n"),
        body: body.to_string(),
    }
}
