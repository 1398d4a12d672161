//! The server: connections and routes.

mod blobs;
mod manifests;
mod request;
mod uploads;

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{
    CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderName, HeaderValue, LINK, ORIGIN,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::auth::{Access, Auth};
use crate::error::{Code, Refusal};
use crate::store::{Collected, Store};
use request::{Query, Target};
use uploads::Uploads;

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;
/// The digest of what is answered.
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// The header with the secret of the process that controls the registry.
const CONTROL: HeaderName = HeaderName::from_static("rkube-control");
/// Maximum number of connections of a listener, so that the clients of one leave the others theirs.
const MAX_CONNECTIONS: usize = 256;
/// Passwords that are hashed at a time, so that guesses leave the processors to others.
const MAX_CHECKS: usize = 2;
/// The time that a client may take to begin a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// What is read of a request that was refused, so that the client sees the answer.
const MAX_DRAINED: usize = 16 << 20;
/// The first byte of a TLS connection: a handshake.
const HANDSHAKE: u8 = 22;

/// Limits and users of a registry.
#[derive(Debug)]
pub struct Options {
    /// Maximum size of a blob, in bytes.
    pub max_blob: u64,
    /// Maximum size of a manifest, in bytes.
    pub max_manifest: usize,
    /// The time for which a client may send nothing.
    pub idle: Duration,
    /// The users; without, everybody may do everything.
    pub auth: Option<Auth>,
    /// Allows the process that knows it to collect garbage.
    pub control: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_blob: 64 << 30,
            max_manifest: 4 << 20,
            idle: Duration::from_secs(60),
            auth: None,
            control: None,
        }
    }
}

/// A certificate and its key.
#[derive(Clone)]
pub struct Tls(tokio_rustls::TlsAcceptor);

impl Tls {
    /// Reads a certificate with its chain, and its key, in PEM.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> io::Result<Self> {
        use rustls::pki_types::pem::PemObject as _;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};

        let invalid = |e: &dyn std::fmt::Display| io::Error::other(e.to_string());
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| invalid(&e))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| invalid(&e))?
            .with_no_client_auth()
            .with_single_cert(chain.map_err(|e| invalid(&e))?, key)
            .map_err(|e| invalid(&e))?;
        Ok(Self(Arc::new(config).into()))
    }
}

/// What a listener offers to a client that it admits.
#[derive(Clone, Default)]
pub struct Admitted {
    /// With it, connections that begin with TLS are served, too.
    pub tls: Option<Tls>,
    /// Names of the registry, in lower case, besides addresses and those without a meaning in the
    /// internet.
    pub names: Arc<[String]>,
}

/// A registry of images.
#[derive(Debug)]
pub struct Registry {
    store: Arc<Store>,
    uploads: Uploads,
    options: Options,
    checks: Semaphore,
}

impl Registry {
    /// Opens the registry in a directory.
    pub fn open(directory: &Path, options: Options) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            store: Arc::new(Store::open(directory)?),
            uploads: Uploads::default(),
            options,
            checks: Semaphore::new(MAX_CHECKS),
        }))
    }

    /// Removes garbage; see [`Store::collect`].
    pub async fn collect(&self, grace: Duration, untagged: bool) -> io::Result<Collected> {
        self.uploads.forget_idle();
        let store = self.store.clone();
        blocking(move || store.collect(grace, untagged)).await
    }

    /// Serves connections from the addresses that `admits`, until the future is dropped.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        admits: impl Fn(IpAddr) -> Option<Admitted>,
    ) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = tokio::task::JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let Ok(permit) = permits.clone().acquire_owned().await else {
                return;
            };
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                // Too many open files, for example, which needs time to change.
                Err(e) => {
                    tracing::debug!("accept: {e}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Some(admitted) = admits(peer.ip().to_canonical()) else {
                continue;
            };
            let registry = self.clone();
            connections.spawn(async move {
                if let Err(e) = registry.connection(stream, admitted).await {
                    tracing::debug!("a connection ended: {e}");
                }
                drop(permit);
            });
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        Admitted { tls, names }: Admitted,
    ) -> io::Result<()> {
        // Answers are small or large, never a trickle.
        stream.set_nodelay(true)?;
        let mut first = [0];
        let begun = tokio::time::timeout(HEADER_TIMEOUT, stream.peek(&mut first));
        match (begun.await??, tls) {
            (0, _) => Ok(()),
            (_, Some(tls)) if first[0] == HANDSHAKE => {
                let accepted = tokio::time::timeout(HEADER_TIMEOUT, tls.0.accept(stream));
                self.http(accepted.await??, "https", names).await
            }
            _ => self.http(stream, "http", names).await,
        }
    }

    async fn http(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send,
        scheme: &'static str,
        names: Arc<[String]>,
    ) -> io::Result<()> {
        let service = service_fn(move |request| {
            let (registry, names) = (self.clone(), names.clone());
            async move {
                let answer = registry.answer(request, scheme, &names).await;
                Ok::<_, std::convert::Infallible>(answer)
            }
        });
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
            .await
            .map_err(io::Error::other)
    }

    /// Answers a request.
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        scheme: &str,
        names: &[String],
    ) -> Response<Body> {
        let (head, mut body) = request.into_parts();
        let method = head.method.clone();
        let waits = head.headers.contains_key(EXPECT);
        let answered = match refuse_web_pages(&head.headers, names) {
            Ok(()) => self.route(&head, &mut body, scheme).await,
            Err(refusal) => Err(refusal),
        };
        let mut response = answered.unwrap_or_else(Refusal::response);
        if !response.status().is_success() && !waits {
            self.drain(&mut body).await;
        }
        if method == Method::HEAD {
            *response.body_mut() = empty();
        }
        let version = HeaderName::from_static("docker-distribution-api-version");
        let headers = response.headers_mut();
        headers.insert(version, HeaderValue::from_static("registry/2.0"));
        let sniffing = HeaderName::from_static("x-content-type-options");
        headers.insert(sniffing, HeaderValue::from_static("nosniff"));
        response
    }

    /// Reads the rest of a request. A client that still sends when the connection is closed would not
    /// see the answer.
    async fn drain(&self, body: &mut Incoming) {
        let mut size = 0;
        while size < MAX_DRAINED {
            match tokio::time::timeout(self.options.idle, body.frame()).await {
                Ok(Some(Ok(frame))) => size += frame.data_ref().map_or(0, Bytes::len),
                _ => return,
            }
        }
    }

    async fn route(
        self: &Arc<Self>,
        head: &hyper::http::request::Parts,
        body: &mut Incoming,
        scheme: &str,
    ) -> Result<Response<Body>, Refusal> {
        let query = Query::parse(head.uri.query().unwrap_or_default());
        let path = request::decode(head.uri.path());
        match path.as_str() {
            "/rkube/collect" => return self.controlled(head, &query).await,
            "/token" => return self.token(head, &query).await,
            _ => {}
        }
        let target = request::parse(&path)?;
        self.authorize(head, &query, &target, scheme).await?;
        let only = |methods: &[Method]| allow(&head.method, methods);
        let reads = [Method::GET, Method::HEAD];
        match target {
            Target::Base => {
                only(&reads)?;
                Ok(document(StatusCode::OK, "application/json", "{}"))
            }
            Target::Catalog => {
                only(&reads)?;
                self.catalog(&query).await
            }
            Target::Tags(name) => {
                only(&reads)?;
                self.tags(name, &query).await
            }
            Target::Referrers(name, digest) => {
                only(&reads)?;
                self.referrers(name, &digest, &query).await
            }
            Target::Manifest(name, key) => match head.method {
                Method::GET | Method::HEAD => self.manifest(name, &key, &head.headers).await,
                Method::PUT => self.put_manifest(name, &key, &head.headers, body).await,
                Method::DELETE => self.delete_manifest(name, &key).await,
                _ => Err(not_allowed("GET, HEAD, PUT, DELETE")),
            },
            Target::Blob(name, digest) => match head.method {
                Method::GET => self.blob(name, &digest, &head.headers).await,
                Method::HEAD => self.has_blob(name, &digest).await,
                Method::DELETE => self.delete_blob(name, &digest).await,
                _ => Err(not_allowed("GET, HEAD, DELETE")),
            },
            Target::Uploads(name) => {
                only(&[Method::POST])?;
                self.begin_upload(name, &query, &head.headers, body).await
            }
            Target::Upload(name, id) => match head.method {
                Method::GET => self.upload_status(name, &id).await,
                Method::PATCH => self.patch_upload(name, &id, &head.headers, body).await,
                Method::PUT => {
                    let digest = query.get("digest");
                    self.put_upload(name, &id, digest, &head.headers, body)
                        .await
                }
                Method::DELETE => self.cancel_upload(name, &id).await,
                _ => Err(not_allowed("GET, PATCH, PUT, DELETE")),
            },
        }
    }

    async fn authorize(
        self: &Arc<Self>,
        head: &hyper::http::request::Parts,
        query: &Query,
        target: &Target,
        scheme: &str,
    ) -> Result<(), Refusal> {
        let _turn = self.turn(&head.headers).await;
        if self.options.auth.is_none() {
            return Ok(());
        }
        let mut wanted: Vec<Access> = target.access(&head.method).into_iter().collect();
        if let (Target::Uploads(_), Some(from)) = (target, query.get("from")) {
            wanted.push(Access {
                kind: "repository",
                name: from.to_owned(),
                action: "pull",
            });
        }
        let host = head.headers.get(HOST).and_then(|host| host.to_str().ok());
        let realm = format!("{scheme}://{}", host.unwrap_or("localhost"));
        let (registry, headers) = (self.clone(), head.headers.clone());
        blocking(move || match &registry.options.auth {
            Some(auth) => auth.check(&headers, &wanted, &realm),
            None => Ok(()),
        })
        .await
    }

    /// Waits until a password may be hashed, if the request needs that.
    async fn turn(&self, headers: &HeaderMap) -> Option<tokio::sync::SemaphorePermit<'_>> {
        match &self.options.auth {
            // The semaphore is never closed.
            Some(auth) if auth.is_slow(headers) => self.checks.acquire().await.ok(),
            _ => None,
        }
    }

    /// Gives tokens.
    async fn token(
        self: &Arc<Self>,
        head: &hyper::http::request::Parts,
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        allow(&head.method, &[Method::GET])?;
        let _turn = self.turn(&head.headers).await;
        let scopes: Vec<String> = query.all("scope").map(str::to_owned).collect();
        let (registry, headers) = (self.clone(), head.headers.clone());
        let answer = blocking(move || match &registry.options.auth {
            Some(auth) => {
                let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
                auth.token(&headers, &scopes)
            }
            None => Err(Refusal::new(Code::Unsupported, "no tokens are needed")
                .status(StatusCode::NOT_FOUND)),
        });
        Ok(document(StatusCode::OK, "application/json", answer.await?))
    }

    /// Collects garbage for the process that knows the secret.
    async fn controlled(
        &self,
        head: &hyper::http::request::Parts,
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        allow(&head.method, &[Method::POST])?;
        let given = head.headers.get(&CONTROL).map(HeaderValue::as_bytes);
        let secret = self.options.control.as_deref().map(str::as_bytes);
        if given.is_none() || given != secret {
            return Err(Refusal::new(Code::Denied, "only rkube may ask for that"));
        }
        let grace = query.get("grace").and_then(|text| text.parse().ok());
        let grace = Duration::from_secs(grace.unwrap_or(3600));
        let collected = self.collect(grace, query.get("untagged").is_some()).await?;
        let text = serde_json::to_string(&collected).map_err(io::Error::from)?;
        Ok(document(StatusCode::OK, "application/json", text))
    }
}

/// Refuses what a web page of another origin makes a browser send. Names of the internet are not names
/// of this registry, so a page cannot become of the same origin by its own name, either.
fn refuse_web_pages(headers: &HeaderMap, names: &[String]) -> Result<(), Refusal> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(HOST).unwrap_or_default();
    let foreign = text(ORIGIN)
        .is_some_and(|origin| origin.split_once("://").is_none_or(|(_, own)| own != host));
    if foreign || !request::is_local_host(host, names) {
        return Err(Refusal::new(
            Code::Denied,
            "the registry is for this machine's clusters",
        ));
    }
    Ok(())
}

fn allow(method: &Method, methods: &[Method]) -> Result<(), Refusal> {
    if methods.contains(method) {
        return Ok(());
    }
    let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
    Err(not_allowed(&names.join(", ")))
}

fn not_allowed(methods: &str) -> Refusal {
    Refusal::new(Code::Unsupported, "the operation is unsupported")
        .header(hyper::header::ALLOW, methods)
}

/// Runs what blocks.
async fn blocking<T: Send + 'static, E: From<io::Error> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(E::from(io::Error::other(e))),
    }
}

/// Returns an answer with a document.
pub fn document(status: StatusCode, media_type: &str, text: impl Into<Bytes>) -> Response<Body> {
    let text: Bytes = text.into();
    let mut response = Response::new(empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, text.len().into());
    if let Ok(value) = HeaderValue::from_str(media_type) {
        headers.insert(CONTENT_TYPE, value);
    }
    *response.body_mut() = Full::new(text)
        .map_err(|never| match never {})
        .boxed_unsync();
    response
}

/// Returns an answer without a body.
fn bare(status: StatusCode, headers: &[(HeaderName, String)]) -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = status;
    if status != StatusCode::NO_CONTENT {
        response.headers_mut().insert(CONTENT_LENGTH, 0.into());
    }
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn empty() -> Body {
    http_body_util::Empty::new()
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Names, and the header that leads to more.
type Page = (Vec<String>, Option<(HeaderName, String)>);

/// Returns one page of a sorted list, and the header that names the next one.
fn page(mut all: Vec<String>, query: &Query, path: &str) -> Result<Page, Refusal> {
    if let Some(last) = query.get("last") {
        all.retain(|name| name.as_str() > last);
    }
    let Some(count) = query.get("n") else {
        return Ok((all, None));
    };
    let count: usize = count.parse().map_err(|_| {
        Refusal::new(
            Code::PaginationInvalid,
            format!("{count:?} is no number of results"),
        )
    })?;
    let more = count > 0 && all.len() > count;
    all.truncate(count);
    let next = all.last().filter(|_| more).map(|last| {
        let last = percent_encoding::utf8_percent_encode(last, percent_encoding::NON_ALPHANUMERIC);
        (
            LINK,
            format!("<{path}?n={count}&last={last}>; rel=\"next\""),
        )
    });
    Ok((all, next))
}

/// Waits for the next piece of a body.
async fn frame(body: &mut Incoming, idle: Duration) -> Result<Option<Bytes>, Refusal> {
    loop {
        let frame = tokio::time::timeout(idle, body.frame()).await;
        let frame = frame.map_err(|_| {
            Refusal::new(Code::SizeInvalid, "the client sent nothing for too long")
                .status(StatusCode::REQUEST_TIMEOUT)
        })?;
        let Some(frame) = frame else {
            return Ok(None);
        };
        let frame = frame.map_err(|e| {
            Refusal::new(Code::SizeInvalid, format!("the request ended early: {e}"))
        })?;
        // Trailers have no meaning here.
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
}
