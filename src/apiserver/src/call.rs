//! A request in the form that handlers take it in.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, Method, Uri, header};
use parking_lot::Mutex;
use rkube_auth::UserInfo;

use crate::body::{self, Body};
use rkube_fairness::Flow;
use rkube_request::RequestInfo;

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

/// A request's body and extensions.
pub struct Incoming {
    /// What the connection or the process attached.
    pub extensions: http::Extensions,
    /// The body, unread.
    pub body: Body,
}
