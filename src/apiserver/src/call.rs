//! The parsed request as handlers receive it.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, Method, Uri, header};
use parking_lot::Mutex;
use rkube_auth::UserInfo;

use crate::body::{self, Body};
use rkube_fairness::Flow;
use rkube_request::RequestInfo;

/// A request without its body.
pub struct Call {
    /// The request's attributes: verb, resource, name and query.
    pub info: RequestInfo,
    /// The authenticated user, after impersonation.
    pub user: UserInfo,
    /// Path and query as received.
    pub uri: Uri,
    /// The request's headers.
    pub headers: HeaderMap,
    /// The request's method.
    pub method: Method,
    /// Messages for the `Warning` response header.
    pub warnings: Mutex<Vec<String>>,
    /// The request's id in the audit log and the response headers.
    pub audit_id: String,
    /// Annotations of the request's audit event.
    pub annotations: Mutex<BTreeMap<String, String>>,
    /// The request's flow, once it has been classified.
    pub flow: Option<Arc<Flow>>,
}

impl Call {
    /// Adds messages for the `Warning` header; duplicates are dropped.
    pub fn warn(&self, warnings: impl IntoIterator<Item = String>) {
        let mut all = self.warnings.lock();
        for warning in warnings {
            if !all.contains(&warning) {
                all.push(warning);
            }
        }
    }

    /// Adds an annotation to the audit event. An existing value of `key` is kept.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        self.annotations
            .lock()
            .entry(key.into())
            .or_insert_with(|| value.into());
    }

    /// Creates a call that the server makes itself, as `user` in the group `system:masters`.
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

    /// Returns a copy without warnings and annotations, for streams that outlive the handler.
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

    /// Returns whether the client accepts gzip.
    pub fn gzip(&self) -> bool {
        body::accepts_gzip(&self.headers)
    }

    /// Returns the manager name to record in `managedFields`: the parameter `fieldManager`, or else
    /// the user agent up to its first slash.
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

/// The body and the extensions of a request.
pub struct Incoming {
    /// Extensions set by the connection or by an in-process client.
    pub extensions: http::Extensions,
    /// The unread body.
    pub body: Body,
}
