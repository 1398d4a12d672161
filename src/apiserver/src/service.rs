//! The way of a request: limits, authentication, impersonation,
//! authorization, then the handler; and the way of its answer back.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use parking_lot::Mutex;
use rkube_api::status::Status;
use rkube_auth::UserInfo;
use rkube_auth::authz::{self, Attributes, Decision};
use rkube_auth::impersonation;

use crate::body::{self, Body};
use crate::fairness::Flow;
use crate::request::RequestInfo;
use crate::server::Peer;
use crate::{
    ApiServer, audit, connect, discovery, dump, fairness, handlers, health, metrics, openapi,
    respond,
};

/// How long a request that is not long-running may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
const FLOW_SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const PRIORITY_LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// What handlers know of a request beside its body.
pub struct Call {
    /// What is asked for.
    pub info: RequestInfo,
    /// Who asks, after impersonation.
    pub user: UserInfo,
    /// Path and query as they were sent.
    pub uri: Uri,
    /// The request's headers.
    pub headers: HeaderMap,
    /// The request's method.
    pub method: Method,
    /// Sentences for the `Warning` header.
    pub warnings: Mutex<Vec<String>>,
    /// The request's id in logs.
    pub audit_id: String,
    /// What goes into the audit log beside the request.
    pub annotations: Mutex<BTreeMap<String, String>>,
    /// The request's flow, once it is known.
    pub flow: Option<Arc<Flow>>,
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

    /// Adds a note for the audit log. The first one under a key stays.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        self.annotations
            .lock()
            .entry(key.into())
            .or_insert_with(|| value.into());
    }

    /// A request of the server's own.
    pub fn internal(user: &str) -> Self {
        Self {
            info: RequestInfo::default(),
            user: UserInfo::authenticated(user, &["system:masters"]),
            uri: Uri::default(),
            headers: HeaderMap::new(),
            method: Method::GET,
            warnings: Mutex::default(),
            audit_id: String::new(),
            annotations: Mutex::default(),
            flow: None,
        }
    }

    /// A copy that outlives the request's handler, for streams.
    pub fn detached(&self) -> Self {
        Self {
            info: self.info.clone(),
            user: self.user.clone(),
            uri: self.uri.clone(),
            headers: self.headers.clone(),
            method: self.method.clone(),
            warnings: Mutex::default(),
            audit_id: self.audit_id.clone(),
            annotations: Mutex::default(),
            flow: None,
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
            .map_or_else(crate::new_uid, str::to_owned);
        let mut call = Call {
            info,
            user: UserInfo::default(),
            uri: parts.uri,
            headers: parts.headers,
            method: parts.method,
            warnings: Mutex::default(),
            audit_id,
            annotations: Mutex::default(),
            flow: None,
        };
        let request = Incoming {
            extensions: parts.extensions,
            body,
        };
        let mut record = None;
        // A bug in one handler must not take the connection's other requests along.
        let result = match AssertUnwindSafe(self.guarded(&mut call, request, &mut record))
            .catch_unwind()
            .await
        {
            Ok(result) => result,
            Err(_) => {
                tracing::error!(path = call.info.path, "a handler panicked");
                if let Some(record) = &mut record {
                    record.panicked(&call);
                }
                Err(Status::internal("the request handler failed unexpectedly"))
            }
        };
        let mut response = match &result {
            Ok(_) => None,
            Err(status) => Some(respond::status(&call, status)),
        };
        let refused = match result {
            Ok(good) => {
                response = Some(good);
                None
            }
            Err(status) => Some(status),
        };
        let mut response = response.unwrap_or_else(|| Response::new(body::empty()));
        if let Some(record) = record {
            response = record.answered(&call, response, refused.as_ref()).await;
        }
        let headers = response.headers_mut();
        if let Some(flow) = &call.flow {
            headers.insert(FLOW_SCHEMA_UID, flow.schema_uid.clone());
            if let Some(uid) = flow.level.uid() {
                headers.insert(PRIORITY_LEVEL_UID, uid);
            }
        }
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
        mut request: Incoming,
        record: &mut Option<audit::Record>,
    ) -> Result<Response<Body>, Status> {
        if !handlers::is_read(&call.method) {
            // A client that has made a thing may rely on it at once: a role, a
            // webhook, a service account.
            self.cache.consistent().await;
        }
        let authenticated = self.authenticate(call, &request);
        if let Some(audit) = &self.audit {
            *record = audit
                .begin(call, authenticated.as_ref().ok(), &mut request)
                .await?;
        }
        let user = authenticated?;
        let asked = attributes(&call.info, &user);
        let acting = impersonation::act(&call.headers, &user, &self.authorizer, &asked)?;
        if let (Some(record), Some(acting)) = (record.as_mut(), &acting) {
            record.impersonates(acting);
        }
        call.user = match acting {
            Some(acting) => acting.user,
            None => user,
        };
        // The control plane's own components are trusted to bound themselves.
        let own = request.extensions.get::<UserInfo>().is_some();
        let _permit = if own || (call.info.is_long_running() && call.info.verb != "watch") {
            None
        } else {
            call.flow = self.fairness.classify(&call.user, &call.info);
            match &call.flow {
                None => None,
                Some(flow) => {
                    let seats = fairness::width(self, &call.info, &flow.level);
                    let entered = self
                        .fairness
                        .enter(flow, &call.user, &call.info, seats)
                        .await;
                    match entered {
                        Ok(permit) => Some(permit),
                        Err(why) => {
                            tracing::debug!(
                                flow = flow.name(),
                                why = why.as_str(),
                                "a request was not let in"
                            );
                            return Ok(too_many_requests());
                        }
                    }
                }
            }
        };
        self.authorize(call)?;
        if call.info.is_long_running() {
            return self.dispatch(call, request).await;
        }
        let limit = request_timeout(&call.info)?;
        match tokio::time::timeout(limit, self.dispatch(call, request)).await {
            Ok(result) => result,
            Err(_) => Err(Status::timeout(
                "request did not complete within the allotted timeout",
            )),
        }
    }

    /// The user behind the request, before impersonation.
    fn authenticate(&self, call: &Call, request: &Incoming) -> Result<UserInfo, Status> {
        if let Some(user) = request.extensions.get::<UserInfo>() {
            return Ok(user.clone());
        }
        let peer = request.extensions.get::<Peer>();
        let certificates = peer.map(|p| &*p.certificates).unwrap_or_default();
        match self
            .authenticators
            .authenticate(&call.headers, certificates)?
        {
            Some(user) => Ok(user),
            None => self
                .authenticators
                .anonymous(&call.info.path)
                .ok_or_else(Status::unauthorized),
        }
    }

    fn authorize(&self, call: &Call) -> Result<(), Status> {
        let attributes = attributes(&call.info, &call.user);
        if self.audit.is_none() {
            return self.authorizer.require(&attributes);
        }
        let decision = self.authorizer.authorize(&attributes);
        let (decided, reason) = match &decision {
            Decision::Allow(reason) => ("allow", reason),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => ("forbid", reason),
        };
        call.annotate("authorization.k8s.io/decision", decided);
        call.annotate("authorization.k8s.io/reason", reason);
        match decision {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => {
                Err(authz::forbidden(&attributes, &reason))
            }
        }
    }

    async fn dispatch(
        self: &Arc<Self>,
        call: &Call,
        request: Incoming,
    ) -> Result<Response<Body>, Status> {
        if let Some(remote) = self.aggregator.find(&call.info.path) {
            return Ok(Box::pin(remote.forward(self, call, request)).await);
        }
        if call.info.is_resource {
            if connect::is_connect(&call.info) {
                return Box::pin(connect::handle(self, call, request)).await;
            }
            return handlers::handle(self, call, request).await;
        }
        let path = call.info.path.as_str();
        match path.trim_end_matches('/').split('/').nth(1) {
            Some("healthz" | "livez" | "readyz") => return health::handle(self, call).await,
            Some("metrics") => return metrics::handle(self, call),
            Some("openapi") => return openapi::handle(self, call).await,
            Some("rkube") => return dump::handle(self, call),
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

/// What a request asks the authorizer.
fn attributes<'a>(info: &'a RequestInfo, user: &'a UserInfo) -> Attributes<'a> {
    if !info.is_resource {
        return Attributes::path(user, info.verb, &info.path);
    }
    Attributes {
        api_version: &info.version,
        subresource: &info.subresource,
        namespace: &info.namespace,
        name: &info.name,
        path: &info.path,
        field_selector: info.query.get("fieldSelector").unwrap_or_default(),
        label_selector: info.query.get("labelSelector").unwrap_or_default(),
        ..Attributes::resource(user, info.verb, &info.group, &info.resource)
    }
}

/// A request that found no seat is told so as upstream tells it.
fn too_many_requests() -> Response<Body> {
    let mut response = Response::new(body::full("Too many requests, please try again later.\n"));
    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
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
