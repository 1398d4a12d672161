//! The request pipeline: authentication, auditing, impersonation, flow control, authorization, the
//! handler, and the headers of the response.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode};
use parking_lot::Mutex;
use rkube_api::duration;
use rkube_api::status::Status;
use rkube_auth::UserInfo;
use rkube_auth::authz::{self, Attributes, Decision};
use rkube_auth::impersonation;

use crate::body::{self, Body};
use crate::call::{Call, Incoming};
use crate::route::Route;
use crate::server::Peer;
use crate::{
    ApiServer, audit, connect, discovery, dump, flowcontrol, health, metrics, openapi, respond,
    rest,
};
use rkube_request::{RequestInfo, is_read};

/// The time limit for requests that are not long-running.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
const FLOW_SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const PRIORITY_LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

impl ApiServer {
    /// Handles a request.
    ///
    /// A [`UserInfo`] extension marks a request from this process, made as that user. All other
    /// requests are authenticated by the certificate of their [`Peer`] extension or by a token.
    pub async fn call(self: &Arc<Self>, request: Request<Body>) -> Response<Body> {
        let started = Instant::now();
        let (parts, body) = request.into_parts();
        let info = RequestInfo::parse(
            &parts.method,
            parts.uri.path(),
            parts.uri.query().unwrap_or_default(),
        );
        let mut call = Call {
            info,
            user: UserInfo::default(),
            uri: parts.uri,
            audit_id: audit_id(&parts.headers),
            headers: parts.headers,
            method: parts.method,
            warnings: Mutex::default(),
            annotations: Mutex::default(),
            flow: None,
        };
        let request = Incoming {
            extensions: parts.extensions,
            body,
        };
        let mut record = None;
        // A panic in one handler must not abort other requests of the connection.
        let result =
            match AssertUnwindSafe(self.handle_with_filters(&mut call, request, &mut record))
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
        let (mut response, refused) = match result {
            Ok(response) => (response, None),
            Err(status) => (respond::status(&call, &status), Some(status)),
        };
        if let Some(record) = record {
            response = record.answered(&call, response, refused.as_ref()).await;
        }
        set_headers(&call, response.headers_mut());
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

    /// Runs the chain of filters, in upstream's order: authentication, auditing, impersonation, flow
    /// control, authorization and the time limit. Then the handler of the route serves the request.
    ///
    /// # Errors
    ///
    /// The status of the filter that refuses the request, or of the handler.
    async fn handle_with_filters(
        self: &Arc<Self>,
        call: &mut Call,
        mut request: Incoming,
        record: &mut Option<audit::Record>,
    ) -> Result<Response<Body>, Status> {
        let authenticated = self.authenticate(call, &request);
        if let Some(audit) = &self.audit {
            let peer = request.extensions.get::<Peer>();
            *record = audit.begin(call, authenticated.as_ref().ok(), peer).await;
        }
        let user = authenticated?;
        if !is_read(&call.method) {
            // Clients may rely on objects that they have just created, such as roles, webhooks and
            // service accounts. Not before authentication: a shared store has to be read for it.
            self.backend().cache.consistent().await;
        }
        let asked = attributes(&call.info, &user);
        let acting = impersonation::act(&call.headers, &user, &self.security.authorizer, &asked)?;
        if let (Some(record), Some(acting)) = (record.as_mut(), &acting) {
            record.impersonates(acting);
        }
        call.user = match acting {
            Some(acting) => acting.user,
            None => user,
        };
        // The control plane's own components are trusted to limit themselves.
        let own = request.extensions.get::<UserInfo>().is_some();
        let _permit = if own || (call.info.is_long_running() && call.info.verb != "watch") {
            None
        } else {
            call.flow = self.fairness.classify(&call.user, &call.info);
            match &call.flow {
                None => None,
                Some(flow) => {
                    let seats =
                        flowcontrol::seats_of_request(self.backend(), &call.info, &flow.level);
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
        let route = Route::of(self, &call.method, &call.info)?;
        if call.info.is_long_running() {
            return self.dispatch(call, route, request).await;
        }
        let limit = request_timeout(&call.info)?;
        // Reading the body counts: it is up to the client, and the request holds its seats.
        let served = async {
            if let (Some(record), Route::Objects(..)) = (record.as_mut(), &route) {
                record.read_request(call, &mut request).await?;
            }
            self.dispatch(call, route, request).await
        };
        match tokio::time::timeout(limit, served).await {
            Ok(result) => result,
            Err(_) => Err(Status::timeout(
                "request did not complete within the allotted timeout",
            )),
        }
    }

    /// Authenticates the request; impersonation is applied later.
    fn authenticate(&self, call: &Call, request: &Incoming) -> Result<UserInfo, Status> {
        if let Some(user) = request.extensions.get::<UserInfo>() {
            return Ok(user.clone());
        }
        let peer = request.extensions.get::<Peer>();
        let certificates = peer.map(|p| &*p.certificates).unwrap_or_default();
        match self
            .security
            .authenticators
            .authenticate(&call.headers, certificates)?
        {
            Some(user) => {
                if let Some(peer) = peer.filter(|_| user.name != rkube_auth::names::ANONYMOUS) {
                    peer.connection.admit();
                }
                Ok(user)
            }
            None => self
                .security
                .authenticators
                .anonymous(&call.info.path)
                .ok_or_else(Status::unauthorized),
        }
    }

    fn authorize(&self, call: &Call) -> Result<(), Status> {
        let attributes = attributes(&call.info, &call.user);
        if self.audit.is_none() {
            return self.security.authorizer.require(&attributes);
        }
        let decision = self.security.authorizer.authorize(&attributes);
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
        route: Route,
        request: Incoming,
    ) -> Result<Response<Body>, Status> {
        match route {
            Route::Remote(remote) => {
                Ok(Box::pin(remote.forward(self.backend(), call, request)).await)
            }
            Route::Connection => {
                let forwarded = connect::handle(&self.storage, &self.transports, call, request);
                Box::pin(forwarded).await
            }
            Route::Objects(resource, own) => rest::serve(self, call, &resource, own, request).await,
            Route::Path => self.serve_path(call).await,
            Route::Nothing => Ok(respond::nothing_here()),
        }
    }

    /// Serves a non-resource path.
    async fn serve_path(self: &Arc<Self>, call: &Call) -> Result<Response<Body>, Status> {
        let path = &*call.info.path;
        match path.split('/').nth(1) {
            // As upstream, these paths are taken to the letter.
            Some("healthz" | "livez" | "readyz" | "metrics" | "openapi")
                if path.ends_with('/') || path.starts_with("/metrics/") =>
            {
                Ok(respond::nothing_here())
            }
            Some("healthz" | "livez" | "readyz") => health::handle(self, call).await,
            Some("metrics") => Ok(metrics::handle(self)),
            Some("openapi") => openapi::handle(self, call).await,
            Some("rkube") => dump::handle(self.backend(), call),
            _ => discovery::handle(self, call).await,
        }
    }
}

/// Returns the authorizer's attributes of a request.
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
        field_selector: info.selector("fieldSelector"),
        label_selector: info.selector("labelSelector"),
        ..Attributes::resource(user, info.verb, &info.group, &info.resource)
    }
}

/// Returns the client's audit ID, or a new one if it has none that fits.
fn audit_id(headers: &HeaderMap) -> String {
    headers
        .get(AUDIT_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|value| !value.is_empty() && value.len() <= 64)
        .map_or_else(crate::uid::new_uid, str::to_owned)
}

/// Sets the headers that every response has, and the warnings for the client.
fn set_headers(call: &Call, headers: &mut HeaderMap) {
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
}

/// Returns the 429 response for a request that got no seat, with upstream's text and headers.
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

/// Returns the time limit from the parameter `timeout`, at most [`REQUEST_TIMEOUT`].
fn request_timeout(info: &RequestInfo) -> Result<Duration, Status> {
    let Some(text) = info.query.non_empty("timeout") else {
        return Ok(REQUEST_TIMEOUT);
    };
    // As upstream, a negative limit is none.
    match duration::parse(text.strip_prefix('-').unwrap_or(text)) {
        Some(limit) if limit.is_zero() || text.starts_with('-') => Ok(REQUEST_TIMEOUT),
        Some(limit) => Ok(limit.min(REQUEST_TIMEOUT)),
        None => {
            let why = match text.parse::<f64>() {
                Ok(_) => "missing unit in duration",
                Err(_) => "invalid duration",
            };
            let text = rkube_api::text::quote(text);
            Err(Status::bad_request(format!(
                "invalid timeout specified in the request URL - time: {why} {text}"
            )))
        }
    }
}
