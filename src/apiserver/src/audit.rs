//! Audit logging of requests, as far as the audit policy asks for it.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::{Response, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use rkube_api::meta;
use rkube_api::status::Status;
use rkube_audit::{Level, Log, Policy, Stage, Verdict};
use rkube_auth::UserInfo;
use rkube_auth::impersonation::Impersonation;
use serde_json::{Map, Value, json};

use crate::body::{self, Body};
use crate::call::{Call, Incoming};
use crate::config::Error;
use crate::negotiate::{self, Encoding};
use crate::server::Peer;

pub use rkube_audit::Config;

/// The audit log of a server: its policy and its file.
pub struct Audit {
    policy: Policy,
    log: Arc<Log>,
}

/// The audit event of one request in progress.
pub struct Record {
    verdict: Verdict,
    log: Arc<Log>,
    event: Map<String, Value>,
    long_running: bool,
    panicked: bool,
}

impl Audit {
    /// Reads the policy file and opens the log file.
    pub fn open(config: &Config) -> Result<Self, Error> {
        let failed =
            |path: &PathBuf, error: String| Error::Audit(format!("{}: {error}", path.display()));
        let text = std::fs::read_to_string(&config.policy)
            .map_err(|e| failed(&config.policy, e.to_string()))?;
        Ok(Self {
            policy: Policy::parse(&text).map_err(|e| failed(&config.policy, e))?,
            log: Log::open(config).map_err(|e| failed(&config.log, e.to_string()))?,
        })
    }

    /// Starts the audit event of a request. Returns `None` if the policy does not log the request.
    pub async fn begin(
        &self,
        call: &Call,
        user: Option<&UserInfo>,
        peer: Option<&Peer>,
    ) -> Option<Record> {
        let verdict = self.policy.judge(user, &call.info);
        if verdict.level == Level::None {
            return None;
        }
        let record = Record {
            event: metadata(call, user, peer, verdict.level),
            verdict,
            log: self.log.clone(),
            long_running: call.info.is_long_running(),
            panicked: false,
        };
        record.emit(call, Stage::RequestReceived).await;
        Some(record)
    }
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

fn metadata(
    call: &Call,
    user: Option<&UserInfo>,
    peer: Option<&Peer>,
    level: Level,
) -> Map<String, Value> {
    let info = &call.info;
    let header = |name: &str| {
        let value = call.headers.get(name)?;
        Some(value.to_str().ok()?.to_owned())
    };
    let mut event = Map::new();
    event.insert("kind".into(), "Event".into());
    event.insert("apiVersion".into(), "audit.k8s.io/v1".into());
    event.insert("level".into(), level.as_str().into());
    event.insert("auditID".into(), call.audit_id.as_str().into());
    let uri = call.uri.path_and_query().map_or("/", |p| p.as_str());
    event.insert("requestURI".into(), uri.into());
    event.insert("verb".into(), info.verb.into());
    event.insert(
        "user".into(),
        user.map_or_else(|| json!({}), UserInfo::to_value),
    );
    let mut sources: Vec<String> = header("x-forwarded-for")
        .iter()
        .flat_map(|v| v.split(','))
        .map(|v| v.trim().to_owned())
        .chain(header("x-real-ip"))
        .filter(|v| v.parse::<std::net::IpAddr>().is_ok())
        .collect();
    if let Some(peer) = peer {
        let ip = peer.address.ip().to_canonical().to_string();
        if sources.last() != Some(&ip) {
            sources.push(ip);
        }
    }
    if !sources.is_empty() {
        event.insert("sourceIPs".into(), json!(sources));
    }
    if let Some(agent) = header("user-agent") {
        let agent: String = agent.chars().take(1024).collect();
        event.insert("userAgent".into(), agent.into());
    }
    if info.is_resource {
        let mut object = Map::new();
        for (key, value) in [
            ("resource", &info.resource),
            ("namespace", &info.namespace),
            ("name", &info.name),
            ("apiGroup", &info.group),
            ("apiVersion", &info.version),
            ("subresource", &info.subresource),
        ] {
            if !value.is_empty() {
                object.insert(key.into(), value.as_str().into());
            }
        }
        event.insert("objectRef".into(), Value::Object(object));
    }
    event.insert(
        "requestReceivedTimestamp".into(),
        time(Timestamp::now()).into(),
    );
    event
}

/// Decodes a body; `None` if it is empty or invalid.
fn tree(bytes: &[u8], encoding: Encoding) -> Option<Value> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return None;
    }
    match encoding {
        Encoding::Json => serde_json::from_slice(bytes).ok(),
        _ => Some(crate::input::decode::parse_body(bytes, encoding).ok()?.0),
    }
}

fn drop_managed_fields(object: &mut Value) {
    if object["metadata"]["managedFields"].is_array() {
        meta::remove(object, "managedFields");
    }
    for item in object
        .get_mut("items")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        drop_managed_fields(item);
    }
}

impl Record {
    /// Buffers and records the body of an authorized write if the policy logs it.
    ///
    /// # Errors
    ///
    /// Fails if the body is too large or breaks off.
    pub async fn read_request(
        &mut self,
        call: &Call,
        incoming: &mut Incoming,
    ) -> Result<(), Status> {
        let writes = matches!(
            call.info.verb,
            "create" | "update" | "patch" | "delete" | "deletecollection"
        );
        if self.verdict.level >= Level::Request && writes {
            let bytes = std::mem::replace(&mut incoming.body, body::empty());
            let bytes = body::read(bytes).await?;
            incoming.body = body::full(bytes.clone());
            self.request(call, &bytes);
        }
        Ok(())
    }

    /// Records the user that the request impersonates.
    pub fn impersonates(&mut self, acting: &Impersonation) {
        self.event
            .insert("impersonatedUser".into(), acting.user.to_value());
        if !acting.constraint.is_empty() {
            self.event.insert(
                "authenticationMetadata".into(),
                json!({"impersonationConstraint": acting.constraint}),
            );
        }
    }

    fn body(&self, mut object: Value) -> Value {
        if self.verdict.omit_managed_fields && object.is_object() {
            drop_managed_fields(&mut object);
        }
        object
    }

    fn request(&mut self, call: &Call, bytes: &Bytes) {
        let encoding = match negotiate::media_type(&call.headers) {
            "application/apply-patch+yaml" => Encoding::Yaml,
            kind if kind.ends_with("-patch+json") => Encoding::Json,
            _ => negotiate::content_encoding(&call.headers).unwrap_or(Encoding::Json),
        };
        let Some(object) = tree(bytes, encoding) else {
            return;
        };
        if let Some(Value::Object(reference)) = self.event.get_mut("objectRef") {
            for (key, value) in [
                ("name", meta::name(&object)),
                ("namespace", meta::namespace(&object)),
                ("uid", meta::uid(&object)),
                ("resourceVersion", meta::resource_version(&object)),
            ] {
                if !value.is_empty() && !reference.contains_key(key) {
                    reference.insert(key.into(), value.into());
                }
            }
        }
        let object = self.body(object);
        self.event.insert("requestObject".into(), object);
    }

    /// Records that the handler panicked.
    pub fn panicked(&mut self, call: &Call) {
        self.panicked = true;
        self.event.insert(
            "responseStatus".into(),
            json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
                "message": "APIServer panic'd"}),
        );
        if !self.verdict.omit_stages.contains(&Stage::Panic) {
            let line = self.line(call, Stage::Panic);
            self.log.try_write(line);
        }
    }

    /// Records the response and writes the event. For long-running requests, writes
    /// `ResponseStarted` now and `ResponseComplete` when the response body ends.
    pub async fn answered(
        mut self,
        call: &Call,
        response: Response<Body>,
        refused: Option<&Status>,
    ) -> Response<Body> {
        if self.panicked {
            return response;
        }
        let code = response.status().as_u16();
        let mut status = json!({"metadata": {}, "code": code});
        if let Some(refused) = refused {
            let value = refused.to_value();
            for field in ["status", "message", "reason", "details"] {
                if let Some(value) = value.get(field) {
                    status[field] = value.clone();
                }
            }
        }
        self.event.insert("responseStatus".into(), status);
        if self.long_running && refused.is_none() {
            self.emit(call, Stage::ResponseStarted).await;
            let line = self.line(call, Stage::ResponseComplete);
            if self.verdict.omit_stages.contains(&Stage::ResponseComplete) {
                return response;
            }
            let end = AtEnd {
                log: self.log,
                line,
            };
            return response.map(|body| {
                use futures::StreamExt as _;
                let mut end = Some(end);
                let chunks = body.into_data_stream().map(move |chunk| {
                    // Moves the guard into the stream, so that the event is written when the stream
                    // is dropped.
                    let _ = &mut end;
                    chunk
                });
                body::stream(chunks)
            });
        }
        let response = if self.verdict.level >= Level::RequestResponse && call.info.is_resource {
            self.response(response).await
        } else {
            response
        };
        self.emit(call, Stage::ResponseComplete).await;
        response
    }

    /// Records the response's body unless it is a stream, and returns the response.
    async fn response(&mut self, response: Response<Body>) -> Response<Body> {
        let kind = response.headers().get(header::CONTENT_TYPE);
        let kind = kind.and_then(|v| v.to_str().ok()).unwrap_or_default();
        let encoding = match kind.split(';').next().unwrap_or_default() {
            "application/json" => Encoding::Json,
            "application/yaml" => Encoding::Yaml,
            "application/vnd.kubernetes.protobuf" => Encoding::Protobuf,
            _ => return response,
        };
        if response.body().size_hint().exact().is_none() {
            return response;
        }
        let zipped = response.headers().contains_key(header::CONTENT_ENCODING);
        let (parts, body) = response.into_parts();
        let bytes = match body.collect().await {
            Ok(collected) => collected.to_bytes(),
            // Buffered bodies do not fail.
            Err(_) => Bytes::new(),
        };
        let plain = if zipped {
            use std::io::Read as _;
            let mut plain = Vec::new();
            let read = flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain);
            read.is_ok().then(|| Bytes::from(plain))
        } else {
            Some(bytes.clone())
        };
        if let Some(object) = plain.and_then(|plain| tree(&plain, encoding)) {
            let object = self.body(object);
            self.event.insert("responseObject".into(), object);
        }
        Response::from_parts(parts, body::full(bytes))
    }

    fn line(&self, call: &Call, stage: Stage) -> Vec<u8> {
        let mut event = self.event.clone();
        event.insert("stage".into(), stage.as_str().into());
        event.insert("stageTimestamp".into(), time(Timestamp::now()).into());
        let annotations = call.annotations.lock();
        if !annotations.is_empty() {
            event.insert("annotations".into(), json!(*annotations));
        }
        Value::Object(event).to_string().into_bytes()
    }

    async fn emit(&self, call: &Call, stage: Stage) {
        if !self.verdict.omit_stages.contains(&stage) {
            self.log.write(self.line(call, stage)).await;
        }
    }
}

/// Writes its event when dropped.
struct AtEnd {
    log: Arc<Log>,
    line: Vec<u8>,
}

impl Drop for AtEnd {
    fn drop(&mut self) {
        let mut line = std::mem::take(&mut self.line);
        // The event was serialized when the response began: update its timestamp.
        if let Ok(mut event) = serde_json::from_slice::<Value>(&line) {
            event["stageTimestamp"] = time(Timestamp::now()).into();
            line = event.to_string().into_bytes();
        }
        self.log.try_write(line);
    }
}
