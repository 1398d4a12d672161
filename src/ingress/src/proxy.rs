//! The way of a request through the proxy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::header::{HOST, REFERER, SET_COOKIE, USER_AGENT};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parking_lot::RwLock;
use tokio_util::task::TaskTracker;

use crate::access::{AccessLog, Record};
use crate::body::{Download, Progress, Upload};
use crate::cors;
use crate::headers::{self, Origin};
use crate::pool::{Failure, Pool};
use crate::request::{Answer, address, admit, check, host_of, rewrite, too_large};
use crate::server::Open;
use crate::stream;
use crate::table::{Affinity, Backend, Route, Table, Target, normalize};

/// The greatest number of endpoints that are tried for a request.
const ATTEMPTS: usize = 3;
/// The time limit of a connection as long as there are other endpoints.
const IMPATIENCE: Duration = Duration::from_secs(2);

/// A proxy: its table, connections and log.
pub struct Proxy {
    table: RwLock<Arc<Table>>,
    pool: Arc<Pool>,
    /// The access log and the metrics.
    pub log: Arc<AccessLog>,
    /// Connections that changed their protocol.
    pub tunnels: TaskTracker,
}

/// A request on its way.
struct Passage<'a> {
    route: &'a Route,
    parts: &'a Parts,
    progress: Arc<Progress>,
    /// What affinity depends on.
    client: std::net::IpAddr,
    cookie: Option<&'a str>,
}

impl Proxy {
    /// Creates a proxy with an empty table. `dns` is the server that knows external names.
    pub fn new(dns: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            table: RwLock::default(),
            pool: Pool::new(dns),
            log: Arc::default(),
            tunnels: TaskTracker::new(),
        })
    }

    /// Returns the current table.
    pub fn table(&self) -> Arc<Table> {
        self.table.read().clone()
    }

    /// Replaces the table. Requests on their way keep theirs.
    pub fn load(&self, table: Table) {
        *self.table.write() = Arc::new(table);
        self.log.metrics.tables.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes the log and closes idle connections, until the future is dropped.
    pub async fn maintain(&self) {
        tokio::join!(self.log.clone().run(), self.pool.clone().clean());
    }

    /// Answers a request.
    pub async fn handle(&self, origin: Origin, request: Request<Incoming>) -> Response<Download> {
        let began = Instant::now();
        let (host, host_value) = match host_of(&request) {
            Ok(found) => found,
            Err(why) => {
                let answer = Answer::new(StatusCode::BAD_REQUEST, why);
                let record = self.record(&origin, began, &request, String::new());
                return finish(answer.into_response(request.method()), record);
            }
        };
        let method = request.method().clone();
        let mut record = self.record(&origin, began, &request, host);
        let answered = self
            .route(origin, request, &host_value, &mut record)
            .await
            .unwrap_or_else(|answer| answer.into_response(&method));
        finish(answered, record)
    }

    fn record(
        &self,
        origin: &Origin,
        began: Instant,
        request: &Request<Incoming>,
        host: String,
    ) -> Box<Record> {
        Box::new(Record {
            log: self.log.clone(),
            client: origin.client,
            began,
            method: request.method().clone(),
            uri: request.uri().clone(),
            host,
            version: request.version(),
            referer: request.headers().get(REFERER).cloned(),
            agent: request.headers().get(USER_AGENT).cloned(),
            status: StatusCode::OK,
            sent: 0,
            backend: None,
            endpoint: None,
            id: None,
        })
    }

    async fn route(
        &self,
        origin: Origin,
        request: Request<Incoming>,
        host: &HeaderValue,
        record: &mut Record,
    ) -> Result<Response<Download>, Answer> {
        check(&request)?;
        if self.log.metrics.tables.load(Ordering::Relaxed) == 0 {
            let text = "the rules are not loaded yet";
            return Err(Answer::new(StatusCode::SERVICE_UNAVAILABLE, text));
        }
        let path = normalize(request.uri().path());
        let invalid = || Answer::new(StatusCode::BAD_REQUEST, "invalid path");
        let path = path.ok_or_else(invalid)?;
        let table = self.table();
        let found = table.find(&record.host, &path);
        let found = found.ok_or_else(|| {
            let text = format!("no Ingress has a rule for {}{path}", record.host);
            Answer::new(StatusCode::NOT_FOUND, text)
        })?;
        // What a server could take for another path must not lead around its rules.
        if table.is_ambiguous(&record.host, &path, &found) {
            return Err(invalid());
        }
        record.backend = Some(found.route.backend.name.clone());
        admit(
            found.route,
            found.tls,
            &origin,
            &request,
            &path,
            &record.host,
        )?;
        let rewritten = rewrite(found.route, request.uri(), &path)?;
        let settings = &found.route.settings;
        let requested = settings
            .cors
            .as_ref()
            .map(|cors| (cors, cors::origin(&request)));
        let route = found.route.clone();
        let mut response = self
            .forward(&route, origin, request, host, rewritten, record)
            .await?;
        if let Some((cors, origin)) = requested {
            cors::allow(cors, origin.as_ref(), response.headers_mut());
        }
        Ok(response)
    }

    async fn forward(
        &self,
        route: &Route,
        origin: Origin,
        mut request: Request<Incoming>,
        host: &HeaderValue,
        target: Option<PathAndQuery>,
        record: &mut Record,
    ) -> Result<Response<Download>, Answer> {
        let settings = &route.settings;
        let protocol = headers::upgrade(request.headers())
            .filter(|_| request.version() == Version::HTTP_11)
            .filter(|_| !route.backend.protocol.http2());
        let client = protocol.as_ref().map(|_| hyper::upgrade::on(&mut request));
        let (mut parts, incoming) = request.into_parts();
        let open = parts.extensions.remove::<Arc<Open>>();
        parts.extensions.clear();
        record.id = Some(headers::prepare(&mut parts.headers, host, &origin));
        if let Some(protocol) = &protocol {
            let upgrade = HeaderValue::from_static("upgrade");
            parts.headers.insert(http::header::CONNECTION, upgrade);
            parts
                .headers
                .insert(http::header::UPGRADE, protocol.clone());
        }
        if let Some(prefix) = &settings.forwarded_prefix {
            parts.headers.insert("x-forwarded-prefix", prefix.clone());
        }
        if let Some(host) = &settings.upstream_host {
            parts.headers.insert(HOST, host.clone());
        }
        address(&mut parts, route, target)?;

        let progress = Arc::new(Progress::default());
        let body = Upload::new(
            incoming,
            settings.max_body,
            settings.send_timeout,
            &progress,
        );
        let mut new_cookie = None;
        let cookie = match &route.backend.affinity {
            Affinity::Cookie(name) => {
                let known = headers::cookie(&parts.headers, name).map(ToOwned::to_owned);
                Some(known.unwrap_or_else(|| {
                    let value = format!("{:016x}", rand::random::<u64>());
                    new_cookie = Some(format!("{name}={value}; Path=/; HttpOnly"));
                    value
                }))
            }
            _ => None,
        };
        let passage = Passage {
            route,
            parts: &parts,
            progress,
            client: origin.client,
            cookie: cookie.as_deref(),
        };
        let mut response = self.exchange(&passage, body, record).await?;
        let to = match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => Some(hyper::upgrade::on(&mut response)),
            _ => None,
        };
        let (mut head, body) = response.into_parts();
        let changed = headers::upgrade(&head.headers);
        headers::remove_hop_by_hop(&mut head.headers);
        head.extensions.clear();
        head.version = Version::HTTP_11;
        if let Some(to) = to {
            let (Some(client), Some(changed)) = (client, changed) else {
                let text = "the backend changed the protocol unasked";
                return Err(Answer::new(StatusCode::BAD_GATEWAY, text));
            };
            head.headers.insert(
                http::header::CONNECTION,
                HeaderValue::from_static("upgrade"),
            );
            head.headers.insert(http::header::UPGRADE, changed);
            let idle = settings.read_timeout;
            self.tunnels.spawn(async move {
                tunnel(client, to, idle).await;
                drop(open);
            });
            return Ok(Response::from_parts(head, Download::text("")));
        }
        if let Some(cookie) = new_cookie.and_then(|c| HeaderValue::try_from(c).ok()) {
            head.headers.append(SET_COOKIE, cookie);
        }
        let body = Download::stream(body, settings.read_timeout);
        Ok(Response::from_parts(head, body))
    }

    /// Sends a request to an endpoint, and to others as long as none has received it, or it may be
    /// repeated.
    async fn exchange(
        &self,
        passage: &Passage<'_>,
        body: Upload,
        record: &mut Record,
    ) -> Result<Response<Incoming>, Answer> {
        let backend = &passage.route.backend;
        let repeatable = body.is_empty() && is_idempotent(&passage.parts.method);
        let order = self.order(backend, passage);
        let mut body = Some(body);
        let mut last = String::new();
        for (i, target) in order.iter().enumerate() {
            let mut timeout = passage.route.settings.connect_timeout;
            if i + 1 < order.len() {
                timeout = timeout.min(IMPATIENCE);
            }
            let content = body.take().unwrap_or(Upload::Empty);
            let request = Request::from_parts(passage.parts.clone(), content);
            record.endpoint = Some((*target).clone());
            let sending = self.pool.send(target, backend.protocol, request, timeout);
            let result = waited(sending, passage).await?;
            let again = match result {
                Ok(response) => return Ok(response),
                Err(Failure::NotSent(request, why)) => {
                    self.pool.failed(target);
                    body = Some(request.into_body());
                    last = why;
                    true
                }
                Err(Failure::Lost(why)) => {
                    last = why;
                    repeatable
                }
            };
            self.log.metrics.failures.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%target, why = %last, "an endpoint did not answer");
            if let Some(answer) = fault_of_client(passage) {
                return Err(answer);
            }
            if !again {
                break;
            }
            self.log.metrics.retries.fetch_add(1, Ordering::Relaxed);
        }
        if order.is_empty() {
            let text = format!("no endpoint of {} is ready", backend.name);
            return Err(Answer::new(StatusCode::SERVICE_UNAVAILABLE, text));
        }
        tracing::warn!(backend = %backend.name, why = %last, "no endpoint answered");
        let text = format!("no endpoint of {} answered", backend.name);
        Err(Answer::new(StatusCode::BAD_GATEWAY, text))
    }

    /// Returns the endpoints to try, in their order. Those that could not be reached are last.
    fn order<'a>(&self, backend: &'a Backend, passage: &Passage<'_>) -> Vec<&'a Target> {
        let all = &backend.endpoints;
        if let [only] = &all[..] {
            // Once more, because it may have just restarted.
            return vec![only, only];
        }
        let first = backend.first(passage.client, passage.cookie);
        let turned = || {
            all[first.min(all.len())..]
                .iter()
                .chain(&all[..first.min(all.len())])
        };
        let mut order: Vec<&Target> = turned()
            .filter(|t| !self.pool.is_dead(t))
            .take(ATTEMPTS)
            .collect();
        if order.len() < ATTEMPTS {
            let dead = turned().filter(|t| self.pool.is_dead(t));
            order.extend(dead.take(ATTEMPTS - order.len()));
        }
        order
    }
}

/// Waits for a response. The time limit begins when the request's body is complete.
async fn waited(
    sending: impl Future<Output = Result<Response<Incoming>, Failure>>,
    passage: &Passage<'_>,
) -> Result<Result<Response<Incoming>, Failure>, Answer> {
    let settings = &passage.route.settings;
    let progress = &passage.progress;
    let mut sending = std::pin::pin!(sending);
    let mut seen = 0;
    loop {
        let sent = progress.done.load(Ordering::Relaxed);
        let limit = match sent {
            true => settings.read_timeout,
            false => settings.send_timeout,
        };
        if let Ok(result) = tokio::time::timeout(limit, sending.as_mut()).await {
            return Ok(result);
        }
        let parts = progress.parts.load(Ordering::Relaxed);
        // The client is still sending, which has its own time limit.
        if parts != seen || (!sent && progress.waiting.load(Ordering::Relaxed)) {
            seen = parts;
            continue;
        }
        let text = format!("{} did not answer in time", passage.route.backend.name);
        return Err(Answer::new(StatusCode::GATEWAY_TIMEOUT, text));
    }
}

/// Returns the answer if the client's body is the reason of a failure.
fn fault_of_client(passage: &Passage<'_>) -> Option<Answer> {
    if passage.progress.too_large.load(Ordering::Relaxed) {
        return Some(too_large(&passage.route.settings));
    }
    let stalled = passage.progress.stalled.load(Ordering::Relaxed);
    stalled.then(|| {
        Answer::new(
            StatusCode::REQUEST_TIMEOUT,
            "the body did not arrive in time",
        )
    })
}

/// Methods that may be sent twice (RFC 9110, section 9.2.2).
fn is_idempotent(method: &Method) -> bool {
    [
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::PUT,
        Method::DELETE,
    ]
    .contains(method)
}

/// Connects two sides that have left HTTP.
async fn tunnel(client: OnUpgrade, backend: OnUpgrade, idle: Duration) {
    let (client, backend) = match tokio::try_join!(client, backend) {
        Ok(both) => both,
        Err(error) => return tracing::debug!(%error, "an upgrade failed"),
    };
    stream::join(TokioIo::new(client), TokioIo::new(backend), idle).await;
}

fn finish(mut response: Response<Download>, mut record: Box<Record>) -> Response<Download> {
    record.status = response.status();
    response.body_mut().record(record);
    response
}
