//! `rkube image cache`, and the process that serves the cache to the nodes.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RANGE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rkube_cluster::{
    Home, ImageCache, Profile, image_cache_dir, image_cache_is_needed, io_failure,
    make_private_dir, write_private,
};
use rkube_config::registries::{AUTH_HEADER, PROFILE_HEADER, TOKEN_HEADER};
use rkube_failure::{Failure, Kind, Source};
use rkube_runtime::{Cache, ImageError, RegistryAuth, RuntimeConfig};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::cli::Output;
use crate::cli::node::parse_size;

mod listen;
#[cfg(test)]
mod tests;

/// The size to which the cache grows by default, in bytes.
const DEFAULT_LIMIT: u64 = 10 << 30;
/// The time that the process may take to listen.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(15);
/// The time that a process waits for a cluster to run, after its begin and each `rkube start`.
const GRACE: Duration = Duration::from_secs(180);
/// Maximum number of connections.
const MAX_CONNECTIONS: usize = 256;
/// The time that a client may take to begin TLS, and to send the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// The period of the checks which clusters need a listener of their own.
const LISTEN_PERIOD: Duration = Duration::from_secs(2);
/// The period of the checks whether a cluster needs the process.
const CHECK_PERIOD: Duration = Duration::from_secs(5);

#[derive(clap::Subcommand)]
pub enum Command {
    /// List the tags in the cache, and its size
    #[command(alias = "list")]
    Ls,
    /// Remove what was not used for longest
    Prune {
        /// Size to keep, such as 2g
        #[arg(long, default_value = "0", value_name = "SIZE", value_parser = parse_size)]
        keep: u64,
    },
    /// Serve the cache
    #[command(hide = true)]
    Serve,
}

/// The file that says where the cache is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Place {
    /// The TCP port, 0 if the cache was never served.
    port: u16,
    /// The secret that those of clusters are made of.
    secret: String,
    /// The certificate of the server, PEM.
    certificate: String,
    /// Its key, PEM.
    key: String,
    /// Size to which the cache grows, in bytes.
    limit: u64,
}

impl Place {
    /// Returns a place with new secrets, which is not served yet.
    fn new(limit: u64) -> Result<Self, Failure> {
        // Clients know the certificate itself, so its name has no meaning.
        let made = rcgen::generate_simple_self_signed(vec!["rkube-image-cache".to_owned()]);
        let made = made.map_err(failed)?;
        Ok(Self {
            port: 0,
            secret: token()?,
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
            limit,
        })
    }

    /// Returns what a cluster knows of the cache.
    fn of_cluster(&self, profile: &str) -> ImageCache {
        ImageCache {
            port: self.port,
            token: token_of(&self.secret, profile),
            certificate: self.certificate.clone(),
        }
    }

    /// Returns whether another place is the same, but for its size.
    fn is_at(&self, other: &Self) -> bool {
        let limit = self.limit;
        *self
            == Self {
                limit,
                ..other.clone()
            }
    }

    fn acceptor(&self) -> Result<TlsAcceptor, Failure> {
        use rustls::pki_types::pem::PemObject as _;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};

        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(failed)?;
        let config = rustls::ServerConfig::builder_with_provider(rkube_x509::provider())
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.map_err(failed)?], key)
            .map_err(failed)?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// Returns the secret of a cluster, which is of no use for the settings of another one.
fn token_of(secret: &str, profile: &str) -> String {
    use base64::Engine as _;
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let tag = ring::hmac::sign(&key, profile.as_bytes());
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(tag)
}

/// Returns whether a token is that of a cluster.
fn is_token_of(secret: &str, profile: &str, token: &str) -> bool {
    use base64::Engine as _;
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let given = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token);
    // The time that this takes tells nothing.
    given.is_ok_and(|given| ring::hmac::verify(&key, profile.as_bytes(), &given).is_ok())
}

fn place_file(home: &Home) -> PathBuf {
    image_cache_dir(home).join("place.json")
}

fn failed(why: impl std::fmt::Display) -> Failure {
    let message = format!("cannot serve the cache of images: {why}");
    Failure::new(Source::Host, Kind::Error, message)
}

/// Runs a command.
pub async fn run(home: &Home, command: Command, output: &Output) -> Result<(), Failure> {
    let dir = image_cache_dir(home);
    let open = || Cache::open(&dir, u64::MAX).map_err(failed);
    match command {
        Command::Serve => serve(home).await,
        Command::Ls if !dir.exists() => {
            let usage = rkube_runtime::CacheUsage::default();
            output.result(&usage, || "The cache is empty.".to_owned());
            Ok(())
        }
        Command::Ls => {
            let usage = open()?.usage().map_err(failed)?;
            output.result(&usage, || {
                let mut text: String = usage
                    .names
                    .iter()
                    .map(|name| format!("{}\n", name.name))
                    .collect();
                text += &format!(
                    "{} images, {:.1} MiB on disk",
                    usage.names.len(),
                    super::mib(usage.bytes)
                );
                text
            });
            Ok(())
        }
        Command::Prune { keep } => {
            let freed = match dir.exists() {
                true => open()?.shrink(keep).map_err(failed)?,
                false => 0,
            };
            output.say(&format!(
                "{:.1} MiB were removed from the cache.",
                super::mib(freed)
            ));
            Ok(())
        }
    }
}

/// Starts the process that serves the cache, unless it runs. Returns what the cluster `profile`
/// knows of it. `limit` is the size to which it grows; it stays as it is if there is none.
pub async fn ensure(home: &Home, profile: &str, limit: Option<u64>) -> Result<ImageCache, Failure> {
    let dir = image_cache_dir(home);
    make_private_dir(&dir)?;
    let path = place_file(home);
    let mut child = None;
    let deadline = Instant::now() + BEGIN_TIMEOUT;
    loop {
        let known = read_place(home)?;
        // A process that runs writes a damaged file again, with the secrets that clusters know.
        let runs = known.as_ref().is_none_or(|place| place.port != 0) && is_locked(home)?;
        match known {
            None if !runs => write_place(home, &Place::new(limit.unwrap_or(DEFAULT_LIMIT))?)?,
            None => {}
            // The process reads this again.
            Some(place) if limit.is_some_and(|limit| limit != place.limit) => {
                let limit = limit.unwrap_or(place.limit);
                write_place(home, &Place { limit, ..place })?;
            }
            Some(place) if runs => {
                renew(home)?;
                if TcpStream::connect(("127.0.0.1", place.port)).await.is_ok() {
                    return Ok(place.of_cluster(profile));
                }
            }
            Some(_) => {}
        }
        if child.is_none() && !runs {
            let words = ["image", "cache", "serve", "--skip-audit"];
            child = Some(crate::cli::detach::spawn(home, &words).map_err(failed)?);
        }
        if Instant::now() > deadline {
            return Err(failed("the process does not begin").advise(format!(
                "see why with: rkube image cache serve; its files are in {}",
                path.parent().unwrap_or(&path).display()
            )));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn read_place(home: &Home) -> Result<Option<Place>, Failure> {
    let path = place_file(home);
    match std::fs::read(&path) {
        // A damaged file is written again.
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_failure("read", &path, &e)),
    }
}

fn write_place(home: &Home, place: &Place) -> Result<(), Failure> {
    let bytes = serde_json::to_vec(place).map_err(failed)?;
    write_private(&place_file(home), &bytes)
}

/// Returns a new secret.
fn token() -> Result<String, Failure> {
    use base64::Engine as _;
    let mut bytes = [0; 24];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(failed)?;
    Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}

fn lock_file(home: &Home) -> Result<File, Failure> {
    let path = image_cache_dir(home).join("lock");
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| io_failure("open", &path, &e))
}

/// Whether a process serves the cache.
fn is_locked(home: &Home) -> Result<bool, Failure> {
    // The process makes the file, so that it belongs to the user.
    if !image_cache_dir(home).join("lock").exists() {
        return Ok(false);
    }
    match lock_file(home)?.try_lock() {
        Ok(()) => Ok(false),
        Err(std::fs::TryLockError::WouldBlock) => Ok(true),
        Err(std::fs::TryLockError::Error(e)) => Err(failed(e)),
    }
}

/// Lets a process that serves the cache wait anew for a cluster to run.
fn renew(home: &Home) -> Result<(), Failure> {
    let file = lock_file(home)?;
    file.set_modified(SystemTime::now()).map_err(failed)
}

/// Returns whether a process has waited long enough for a cluster to run.
fn is_over(lock: &File, begun: Instant) -> bool {
    let renewed = lock.metadata().and_then(|metadata| metadata.modified());
    let since = renewed.ok().and_then(|time| time.elapsed().ok());
    begun.elapsed() > GRACE && since.is_none_or(|since| since > GRACE)
}

/// The state that all requests share.
struct Server {
    home: Home,
    cache: Arc<Cache>,
    secret: String,
    acceptor: TlsAcceptor,
}

impl Server {
    /// Takes the size that the file says, and writes the file again if it is damaged.
    fn follow(&self, place: &mut Place) -> Result<(), Failure> {
        match read_place(&self.home)? {
            Some(now) if now.is_at(place) => {
                place.limit = now.limit;
                self.cache.set_limit(now.limit).map_err(failed)
            }
            _ => write_place(&self.home, place),
        }
    }
}

/// Serves the cache until no cluster needs it.
async fn serve(home: &Home) -> Result<(), Failure> {
    crate::cli::detach::leave_terminal();
    rkube_cluster::become_owner(home)?;
    make_private_dir(&image_cache_dir(home))?;
    let lock = lock_file(home)?;
    // Those who look whether a process serves it hold the lock for a moment.
    let mut attempts = 0;
    while lock.try_lock().is_err() {
        attempts += 1;
        if attempts > 20 {
            // Another process serves it.
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut place = match read_place(home)? {
        Some(place) => place,
        None => Place::new(DEFAULT_LIMIT)?,
    };
    // Clusters that run know the last port.
    let listener = match TcpListener::bind(("127.0.0.1", place.port)).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?,
    };
    place.port = listener.local_addr().map_err(failed)?.port();
    write_place(home, &place)?;
    let server = Arc::new(Server {
        home: home.clone(),
        cache: Cache::open(&image_cache_dir(home), place.limit).map_err(failed)?,
        secret: place.secret.clone(),
        acceptor: place.acceptor()?,
    });
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let begun = Instant::now();
    let mut clock = tokio::time::interval(CHECK_PERIOD);
    let mut listening = tokio::time::interval(LISTEN_PERIOD);
    listening.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut gateways = listen::Gateways::default();
    let on_loopback = listen::accept_all(&server, &listener, &connections, |_| true);
    let mut on_loopback = std::pin::pin!(on_loopback);
    loop {
        tokio::select! {
            _ = clock.tick() => {
                if let Err(e) = server.follow(&mut place) {
                    tracing::warn!("{}", e.message);
                }
                if is_over(&lock, begun)
                    && !image_cache_is_needed(home).await.unwrap_or(true)
                    && is_over(&lock, begun)
                {
                    return Ok(());
                }
            }
            _ = listening.tick() => gateways.follow(&server, place.port, &connections).await,
            () = &mut on_loopback => {}
        }
    }
}

async fn answer_all(server: Arc<Server>, connection: TcpStream) {
    // Secrets come only after the server has proved that it has the key.
    let accepted = tokio::time::timeout(HEADER_TIMEOUT, server.acceptor.accept(connection));
    let Ok(Ok(connection)) = accepted.await else {
        return;
    };
    let service = service_fn(move |request| {
        let server = server.clone();
        async move {
            let answered = answer(&server, &request).await;
            Ok::<_, std::convert::Infallible>(answered.unwrap_or_else(|e| e.response()))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(connection), service);
    if let Err(e) = served.await {
        tracing::debug!("a connection ended: {e}");
    }
}

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A request that fails.
#[derive(Debug, PartialEq, Eq)]
struct Refusal(StatusCode, &'static str, String);

impl Refusal {
    fn response(self) -> Response<Body> {
        let Self(status, code, message) = self;
        let errors = serde_json::json!({ "errors": [{ "code": code, "message": message }] });
        let mut response = Response::new(full(errors.to_string()));
        *response.status_mut() = status;
        response
    }
}

impl From<ImageError> for Refusal {
    fn from(e: ImageError) -> Self {
        let (status, code) = match &e {
            ImageError::NotFound(_) => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
            ImageError::Denied { .. } => (StatusCode::FORBIDDEN, "DENIED"),
            ImageError::InvalidReference { .. } => (StatusCode::BAD_REQUEST, "NAME_INVALID"),
            _ => (StatusCode::BAD_GATEWAY, "UNKNOWN"),
        };
        Self(status, code, e.to_string())
    }
}

fn full(bytes: impl Into<Bytes>) -> Body {
    let body = Full::new(bytes.into());
    body.map_err(|never| match never {}).boxed_unsync()
}

/// What a path asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted<'a> {
    Version,
    /// Repository and tag or digest.
    Manifest(&'a str, &'a str),
    /// Repository and digest.
    Blob(&'a str, &'a str),
}

fn wanted(path: &str) -> Option<Wanted<'_>> {
    let rest = path.strip_prefix("/v2/")?;
    if rest.is_empty() {
        return Some(Wanted::Version);
    }
    if let Some((repository, key)) = rest.rsplit_once("/manifests/") {
        return Some(Wanted::Manifest(repository, key));
    }
    let (repository, digest) = rest.rsplit_once("/blobs/")?;
    Some(Wanted::Blob(repository, digest))
}

/// Returns the registry in a query.
fn namespace(query: Option<&str>) -> Option<String> {
    let pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    let found: HashMap<&str, &str> = pairs.collect();
    let decoded = percent_encoding::percent_decode_str(found.get("ns")?).decode_utf8();
    decoded.ok().map(|text| text.into_owned())
}

async fn answer(server: &Server, request: &Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let header = |name: &str| {
        let value = request.headers().get(name)?;
        value.to_str().ok()
    };
    let profile = header(PROFILE_HEADER).unwrap_or_default();
    if !is_token_of(
        &server.secret,
        profile,
        header(TOKEN_HEADER).unwrap_or_default(),
    ) {
        let why = "only clusters of this user may use the cache".to_owned();
        return Err(Refusal(StatusCode::FORBIDDEN, "DENIED", why));
    }
    let unknown = || {
        let why = "the cache serves manifests and blobs".to_owned();
        Refusal(StatusCode::NOT_FOUND, "UNSUPPORTED", why)
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(unknown());
    }
    let wanted = wanted(request.uri().path()).ok_or_else(unknown)?;
    if wanted == Wanted::Version {
        return Ok(Response::new(full("{}")));
    }
    let registry = namespace(request.uri().query()).ok_or_else(unknown)?;
    let config = settings(server, profile)?;
    let auth: Vec<RegistryAuth> = header(AUTH_HEADER)
        .and_then(RegistryAuth::decode)
        .into_iter()
        .collect();
    match wanted {
        Wanted::Version => Err(unknown()),
        Wanted::Manifest(repository, key) => {
            let separator = if key.contains(':') { '@' } else { ':' };
            let image = format!("{registry}/{repository}{separator}{key}");
            let found = server.cache.manifest(&config, &image, &auth).await?;
            let mut response = Response::new(full(found.bytes));
            for (name, value) in [
                (CONTENT_TYPE.as_str(), found.media_type),
                ("docker-content-digest", found.digest),
            ] {
                if let (Ok(name), Ok(value)) = (
                    hyper::header::HeaderName::from_bytes(name.as_bytes()),
                    HeaderValue::from_str(&value),
                ) {
                    response.headers_mut().insert(name, value);
                }
            }
            Ok(response)
        }
        Wanted::Blob(repository, digest) => {
            let image = format!("{registry}/{repository}");
            let from = header(RANGE.as_str()).and_then(|range| {
                let number = range.strip_prefix("bytes=")?.strip_suffix('-')?;
                number.parse().ok()
            });
            let start: u64 = from.unwrap_or(0);
            let (size, stream) = server
                .cache
                .blob(&config, &image, digest, &auth, start)
                .await?;
            let frames = StreamBody::new(stream.map(|piece| piece.map(Frame::data)));
            let mut response = Response::new(frames.boxed_unsync());
            if let Some(size) = size {
                let length = HeaderValue::from(size.saturating_sub(start));
                response.headers_mut().insert(CONTENT_LENGTH, length);
            }
            if from.is_some() {
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                let total = size.map_or("*".to_owned(), |size| size.to_string());
                let last = size.map_or(start, |size| size.saturating_sub(1));
                if let Ok(range) = HeaderValue::from_str(&format!("bytes {start}-{last}/{total}")) {
                    response.headers_mut().insert(CONTENT_RANGE, range);
                }
            }
            Ok(response)
        }
    }
}

/// Returns how registries are reached for a cluster.
fn settings(server: &Server, profile: &str) -> Result<RuntimeConfig, Refusal> {
    let profile = Profile::load(&server.home, profile)
        .map_err(|e| Refusal(StatusCode::FORBIDDEN, "DENIED", e.message))?;
    // Only the access to registries is used.
    let mut config = RuntimeConfig::new("", "", "", "");
    config.insecure_registries = profile.insecure_registries;
    config.registries = profile.registries;
    Ok(config)
}
