//! The way of a request: limits, authentication, impersonation,
//! authorization, then the handler; and the way of its answer back.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response};
use parking_lot::Mutex;
use rkube_api::status::Status;
use rkube_auth::UserInfo;
use rkube_auth::authz::Attributes;
use rkube_auth::impersonation;
use tokio::sync::Semaphore;

use crate::body::{self, Body};
use crate::request::RequestInfo;
use crate::server::Peer;
use crate::{ApiServer, connect, discovery, handlers, health, metrics, openapi, respond};

/// Requests that only read, at once; upstream's default.
const MAX_READS: usize = 400;
/// Requests that write, at once; upstream's default.
const MAX_WRITES: usize = 200;
/// How long a request that is not long-running may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// How many requests are served at once.
pub struct Limits {
    reads: Semaphore,
    writes: Semaphore,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            reads: Semaphore::new(MAX_READS),
            writes: Semaphore::new(MAX_WRITES),
        }
    }
}

/// What handlers know of a request beside its body.
pub struct Call {
    /// What is asked for.
    pub info: RequestInfo,
    /// Who asks, after impersonation.
    pub user: UserInfo,
    /// The request's headers.
    pub headers: HeaderMap,
    /// The request's method.
    pub method: Method,
    /// Sentences for the `Warning` header.
    pub warnings: Mutex<Vec<String>>,
    /// The request's id in logs.
    pub audit_id: String,
}

impl Call {
    /// Adds sentences for the `Warning` header, each once.
    pub fn warn(&self, warnings: impl IntoIterator<Item = String>) {
        let mut all = self.warnings.lock();
        for warning in warnings {
            if !all.contains(&warning) {
                all.push(warning);
            }
        }
    }

    /// A request of the server's own.
    pub fn internal(user: &str) -> Self {
        Self {
            info: RequestInfo::default(),
            user: UserInfo::authenticated(user, &["system:masters"]),
            headers: HeaderMap::new(),
            method: Method::GET,
            warnings: Mutex::default(),
            audit_id: String::new(),
        }
    }

    /// A copy that outlives the request's handler, for streams.
    pub fn detached(&self) -> Self {
        Self {
            info: self.info.clone(),
            user: self.user.clone(),
            headers: self.headers.clone(),
            method: self.method.clone(),
            warnings: Mutex::default(),
            audit_id: self.audit_id.clone(),
        }
    }

    /// Whether the client takes gzip.
    pub fn gzip(&self) -> bool {
        body::accepts_gzip(&self.headers)
    }

    /// The name that changes are recorded under in `managedFields`: the
    /// parameter `fieldManager`, or what the user agent says before its slash.
    pub fn field_manager(&self) -> String {
        if let Some(manager) = self.info.query.non_empty("fieldManager") {
            return manager.to_owned();
        }
        let agent = self
            .headers
            .get(header::USER_AGENT)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default();
        let name = agent.split('/').next().unwrap_or_default();
        let name: String = name.chars().filter(|c| !c.is_control()).take(128).collect();
        if name.is_empty() {
            "unknown".to_owned()
        } else {
            name
        }
    }
}

impl ApiServer {
    /// Answers a request. A request that carries a [`UserInfo`] extension comes
    /// from this process and is that user's; others prove who they are by the
    /// certificate of their [`Peer`] extension or by a token.
    pub async fn call(self: &Arc<Self>, request: Request<Body>) -> Response<Body> {
        let started = Instant::now();
        let (parts, body) = request.into_parts();
        let info = RequestInfo::parse(
            &parts.method,
            parts.uri.path(),
            parts.uri.query().unwrap_or_default(),
        );
        let audit_id = parts
            .headers
            .get(AUDIT_ID)
            .and_then(|v| v.to_str().ok())
            .filter(|v| !v.is_empty() && v.len() <= 64)
            .map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
        let mut call = Call {
            info,
            user: UserInfo::default(),
            headers: parts.headers,
            method: parts.method,
            warnings: Mutex::default(),
            audit_id,
        };
        let request = Incoming {
            extensions: parts.extensions,
            body,
        };
        // A bug in one handler must not take the connection's other requests along.
        let result = match AssertUnwindSafe(self.guarded(&mut call, request))
            .catch_unwind()
            .await
        {
            Ok(result) => result,
            Err(_) => {
                tracing::error!(path = call.info.path, "a handler panicked");
                Err(Status::internal("the request handler failed unexpectedly"))
            }
        };
        let mut response = match result {
            Ok(response) => response,
            Err(status) => respond::status(&call, &status),
        };
        let headers = response.headers_mut();
        if let Ok(value) = HeaderValue::from_str(&call.audit_id) {
            headers.insert(AUDIT_ID, value);
        }
        if !headers.contains_key(header::CACHE_CONTROL) {
            headers.insert(
                header::CACHE_CONTROL,
                HeaderValue::from_static("no-cache, private"),
            );
        }
        for warning in call.warnings.lock().drain(..) {
            let escaped = warning
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace(['\r', '\n'], " ");
            if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{escaped}\"").as_bytes()) {
                headers.append(header::WARNING, value);
            }
        }
        self.metrics
            .observe(&call.info, response.status().as_u16(), started.elapsed());
        tracing::debug!(
            verb = call.info.verb,
            path = call.info.path,
            user = call.user.name,
            code = response.status().as_u16(),
            micros = started.elapsed().as_micros() as u64,
            "request"
        );
        response
    }

    async fn guarded(
        self: &Arc<Self>,
        call: &mut Call,
        request: Incoming,
    ) -> Result<Response<Body>, Status> {
        if !handlers::is_read(&call.method) {
            // A client that has made a thing may rely on it at once: a role, a
            // webhook, a service account.
            self.cache.consistent().await;
        }
        call.user = self.who(call, &request)?;
        if call.info.is_long_running() {
            self.authorize(call)?;
            return self.dispatch(call, request).await;
        }
        let _slot = if request.extensions.get::<UserInfo>().is_some() {
            // The control plane's own components are trusted to bound themselves.
            None
        } else {
            let limit = match call.info.verb {
                "get" | "list" | "head" => &self.limits.reads,
                _ => &self.limits.writes,
            };
            Some(limit.try_acquire().map_err(|_| {
                Status::too_many_requests("too many requests, please try again later", 1)
            })?)
        };
        self.authorize(call)?;
        let limit = request_timeout(&call.info)?;
        match tokio::time::timeout(limit, self.dispatch(call, request)).await {
            Ok(result) => result,
            Err(_) => Err(Status::timeout(
                "request did not complete within the allotted timeout",
            )),
        }
    }

    /// The user behind the request, after impersonation.
    fn who(&self, call: &Call, request: &Incoming) -> Result<UserInfo, Status> {
        let user = match request.extensions.get::<UserInfo>() {
            Some(user) => user.clone(),
            None => {
                let peer = request.extensions.get::<Peer>();
                let certificates = peer.map(|p| &*p.certificates).unwrap_or_default();
                match self
                    .authenticators
                    .authenticate(&call.headers, certificates)?
                {
                    Some(user) => user,
                    None => self
                        .authenticators
                        .anonymous(&call.info.path)
                        .ok_or_else(Status::unauthorized)?,
                }
            }
        };
        Ok(impersonation::impersonate(&call.headers, &user, &self.authorizer)?.unwrap_or(user))
    }

    fn authorize(&self, call: &Call) -> Result<(), Status> {
        let info = &call.info;
        let attributes = if info.is_resource {
            Attributes {
                api_version: &info.version,
                subresource: &info.subresource,
                namespace: &info.namespace,
                name: &info.name,
                path: &info.path,
                field_selector: info.query.get("fieldSelector").unwrap_or_default(),
                label_selector: info.query.get("labelSelector").unwrap_or_default(),
                ..Attributes::resource(&call.user, info.verb, &info.group, &info.resource)
            }
        } else {
            Attributes::path(&call.user, info.verb, &info.path)
        };
        self.authorizer.require(&attributes)
    }

    async fn dispatch(
        self: &Arc<Self>,
        call: &Call,
        request: Incoming,
    ) -> Result<Response<Body>, Status> {
        if call.info.is_resource {
            if connect::is_connect(&call.info) {
                return connect::handle(self, call, request).await;
            }
            return handlers::handle(self, call, request).await;
        }
        let path = call.info.path.as_str();
        match path.trim_end_matches('/').split('/').nth(1) {
            Some("healthz" | "livez" | "readyz") => return health::handle(self, call).await,
            Some("metrics") => return metrics::handle(self, call),
            Some("openapi") => return openapi::handle(self, call).await,
            _ => {}
        }
        discovery::handle(self, call).await
    }
}

/// A request's body and extensions.
pub struct Incoming {
    /// What the connection or the process attached.
    pub extensions: http::Extensions,
    /// The body, unread.
    pub body: Body,
}

/// The parameter `timeout`, up to the server's own limit.
fn request_timeout(info: &RequestInfo) -> Result<Duration, Status> {
    let Some(text) = info.query.non_empty("timeout") else {
        return Ok(REQUEST_TIMEOUT);
    };
    match parse_go_duration(text) {
        Some(limit) if limit.is_zero() => Ok(REQUEST_TIMEOUT),
        Some(limit) => Ok(limit.min(REQUEST_TIMEOUT)),
        None => Err(Status::bad_request(format!(
            "invalid timeout specified in the request URL - time: invalid duration {text:?}"
        ))),
    }
}

/// Go's duration syntax, as `1m30s` or `500ms`.
pub fn parse_go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut seconds = 0.0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit_end] {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[unit_end..];
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(seconds).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        assert_eq!(parse_go_duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_go_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_go_duration("0"), Some(Duration::ZERO));
        assert_eq!(parse_go_duration("5"), None);
        assert_eq!(parse_go_duration(""), None);
        assert_eq!(parse_go_duration("5x"), None);
        assert_eq!(parse_go_duration("-5s"), None);
    }
}
