//! `/healthz`, `/livez`, `/readyz` and their individual checks.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};
use rkube_api::status::Status;
use rkube_store::StoreError;

use crate::ApiServer;
use crate::body::{self, Body};
use crate::call::Call;

/// The time limit for the store's response to a check.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// The checks in the order of their output, and whether each is part of readiness only.
///
/// The names are upstream's. Its hooks run after the server has begun to serve. Here the objects,
/// caches and tasks that they stand for exist before the first request, so those checks always
/// pass.
const CHECKS: [(&str, bool); 29] = [
    ("ping", false),
    ("log", false),
    ("etcd", false),
    ("etcd-readiness", true),
    ("informer-sync", true),
    ("poststarthook/start-apiserver-admission-initializer", false),
    (
        "poststarthook/start-kube-apiserver-admission-initializer",
        false,
    ),
    ("poststarthook/generic-apiserver-start-informers", false),
    ("poststarthook/priority-and-fairness-config-consumer", false),
    ("poststarthook/priority-and-fairness-filter", false),
    ("poststarthook/start-apiextensions-informers", false),
    ("poststarthook/start-apiextensions-controllers", false),
    ("poststarthook/crd-informer-synced", false),
    ("poststarthook/start-system-namespaces-controller", false),
    (
        "poststarthook/start-cluster-authentication-info-controller",
        false,
    ),
    ("poststarthook/start-service-ip-repair-controllers", false),
    ("poststarthook/rbac/bootstrap-roles", false),
    (
        "poststarthook/scheduling/bootstrap-system-priority-classes",
        false,
    ),
    ("poststarthook/priority-and-fairness-config-producer", false),
    ("poststarthook/bootstrap-controller", false),
    ("poststarthook/start-kube-aggregator-informers", false),
    (
        "poststarthook/apiservice-status-local-available-controller",
        false,
    ),
    (
        "poststarthook/apiservice-status-remote-available-controller",
        false,
    ),
    ("poststarthook/apiservice-registration-controller", false),
    ("poststarthook/apiservice-discovery-controller", false),
    ("poststarthook/kube-apiserver-autoregistration", false),
    ("autoregister-completion", false),
    ("poststarthook/apiservice-openapi-controller", false),
    ("shutdown", true),
];

/// The state of the store, with the reasons if it cannot be used.
#[derive(Default)]
struct StoreHealth {
    /// The reason why it cannot be used at all.
    failed: Option<String>,
    /// The reason why it takes no writes at present. This state ends by itself.
    refuses: Option<String>,
}

impl ApiServer {
    /// Asks the store whether it responds and takes writes.
    async fn store_health(&self) -> StoreHealth {
        let store = &self.backend().store;
        let failed = match tokio::time::timeout(STORE_TIMEOUT, store.current()).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the store does not answer".into()),
        };
        match store.health() {
            Ok(()) => StoreHealth {
                failed,
                refuses: None,
            },
            Err(error @ StoreError::Full(_)) => StoreHealth {
                failed,
                refuses: Some(error.to_string()),
            },
            Err(error) => StoreHealth {
                failed: failed.or_else(|| Some(error.to_string())),
                refuses: None,
            },
        }
    }

    /// Returns why a check fails, or `None` if it passes.
    fn check(&self, name: &str, store: &StoreHealth) -> Option<String> {
        match name {
            "shutdown" | "etcd" | "etcd-readiness" if self.backend().shutdown.is_cancelled() => {
                Some("process is shutting down".into())
            }
            "etcd" => store.failed.clone(),
            // A restart would make no room on the disk, so a full one is no failure of liveness.
            "etcd-readiness" => store.failed.clone().or_else(|| store.refuses.clone()),
            // The cache normally follows the store within one commit; a large lag indicates a
            // failure.
            "informer-sync"
                if self.backend().cache.revision() + 10_000 < self.backend().store.revision() =>
            {
                Some("the watch cache is behind the store".into())
            }
            // The flow controller is ready as soon as its objects exist, which is before the first
            // request.
            "poststarthook/priority-and-fairness-config-consumer"
                if self.fairness.levels().is_empty() =>
            {
                Some("no priority level is configured".into())
            }
            _ => None,
        }
    }
}

/// Serves a health endpoint or one of its checks.
pub async fn handle(server: &Arc<ApiServer>, call: &Call) -> Result<Response<Body>, Status> {
    let path = call.info.path.trim_matches('/');
    let (endpoint, check) = path.split_once('/').unwrap_or((path, ""));
    let readiness = endpoint == "readyz";
    let known: Vec<&str> = CHECKS
        .iter()
        .filter(|(_, ready_only)| readiness || !ready_only)
        .map(|(name, _)| *name)
        .collect();
    let store = server.store_health().await;
    if !check.is_empty() {
        if !known.contains(&check) {
            return Err(Status::page_not_found());
        }
        return Ok(match server.check(check, &store) {
            None => text(StatusCode::OK, "ok".into()),
            Some(why) => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("internal server error: {why}"),
            ),
        });
    }
    let excluded: Vec<&str> = call.info.query.all("exclude").collect();
    let mut report = String::new();
    let mut failed = false;
    for name in known {
        if excluded.contains(&name) {
            report += &format!("[+]{name} excluded: ok\n");
            continue;
        }
        match server.check(name, &store) {
            None => report += &format!("[+]{name} ok\n"),
            Some(why) => {
                tracing::warn!(check = name, why, "a health check failed");
                failed = true;
                // As upstream, the reason is only logged, because the endpoints may be public.
                report += &format!("[-]{name} failed: reason withheld\n");
            }
        }
    }
    if failed {
        report += &format!("{endpoint} check failed\n");
        return Ok(text(StatusCode::INTERNAL_SERVER_ERROR, report));
    }
    if call.info.query.get("verbose").is_some() {
        report += &format!("{endpoint} check passed\n");
        return Ok(text(StatusCode::OK, report));
    }
    Ok(text(StatusCode::OK, "ok".into()))
}

fn text(code: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(body::full(text));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}
