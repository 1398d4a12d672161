//! The server and its routes.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rkube_cluster::Home;
use rkube_failure::{Failure, Kind, Source};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::debug;

use crate::answer::{self, Body};
use crate::clusters::{Clusters, status_of};
use crate::commands::{Action, Commands};
use crate::forwards::{ForwardRequest, Forwards};
use crate::guard::{Admission, Guard};
#[cfg(unix)]
use crate::shell;
#[cfg(not(unix))]
use crate::shell_elsewhere as shell;
use crate::streams::split_profile;
use crate::{assets, proxy, socket, streams};

/// Maximum size of a request to the dashboard itself, in bytes.
const MAX_BODY_BYTES: usize = 3 << 20;

/// The options of a dashboard.
pub struct Options {
    /// The directory of the profiles.
    pub home: Home,
    /// The profile that the page shows first.
    pub profile: String,
    /// The port to listen on; 0 for a free one.
    pub port: u16,
    /// The binary of `rkube`, which runs the page's commands.
    pub binary: PathBuf,
}

/// A dashboard that listens, and serves in [`Dashboard::run`].
pub struct Dashboard {
    listener: TcpListener,
    address: SocketAddr,
    state: Arc<AppState>,
}

/// The state that all requests share.
struct AppState {
    profile: String,
    port: u16,
    guard: Guard,
    clusters: Arc<Clusters>,
    forwards: Forwards,
    commands: Commands,
}

impl Dashboard {
    /// Listens on the port, without serving requests yet.
    pub async fn bind(options: Options) -> Result<Self, Failure> {
        let failed = |e: std::io::Error| {
            Failure::new(
                Source::Host,
                if e.kind() == std::io::ErrorKind::AddrInUse {
                    Kind::Conflict
                } else {
                    Kind::Error
                },
                format!("cannot listen on 127.0.0.1:{}: {e}", options.port),
            )
            .advise("choose another port with --port, or none for a free one")
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port))
            .await
            .map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self {
            listener,
            address,
            state: Arc::new(AppState {
                profile: options.profile,
                port: address.port(),
                guard: Guard::new(),
                clusters: Arc::new(Clusters::new(options.home)),
                forwards: Forwards::default(),
                commands: Commands::new(options.binary),
            }),
        })
    }

    /// Returns a new address, which opens the page in one browser.
    pub fn link(&self) -> String {
        format!(
            "http://{}/?token={}",
            self.address,
            self.state.guard.token()
        )
    }

    /// Returns the address of the listener.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Checks that the profile's API server responds. The failure has advice for the user.
    pub async fn check(&self) -> Result<(), Failure> {
        let name = &self.state.profile;
        let client = self.state.clusters.client(name).await?;
        client.apiserver_version().await.map(drop).map_err(|e| {
            debug!("{e}");
            Failure::new(
                Source::Guest,
                Kind::NotRunning,
                format!("the cluster '{name}' does not run"),
            )
            .advise(format!("start it with: rkube start -p {name}"))
        })
    }

    /// Serves requests until `stop` resolves, then closes connections and the tunnel.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = &mut stop => break,
                accepted = self.listener.accept() => match accepted {
                    Ok((connection, _)) => {
                        // Small messages must not be delayed by Nagle's algorithm.
                        let _ = connection.set_nodelay(true);
                        let state = self.state.clone();
                        connections.spawn(serve(connection, state));
                    }
                    // Too many open files, for example, which needs time to change.
                    Err(e) => {
                        debug!("accept: {e}");
                        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
        connections.shutdown().await;
        self.state.commands.close_tunnel().await;
    }
}

async fn serve(connection: tokio::net::TcpStream, state: Arc<AppState>) {
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { Ok::<_, std::convert::Infallible>(state.handle(request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(connection), service)
        .with_upgrades()
        .await;
    if let Err(e) = served {
        debug!("a connection ended: {e}");
    }
}

impl AppState {
    async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let admission = match self.guard.admit(&parts) {
            Ok(admission) => admission,
            Err(refusal) => {
                let mut response = answer::text(refusal.status, refusal.message);
                set_security_headers(response.headers_mut(), None);
                return response;
            }
        };
        let host = parts.headers.get(header::HOST).cloned();
        let request = Request::from_parts(parts, body);
        let asset = matches!(*request.method(), Method::GET | Method::HEAD)
            .then(|| assets::find(request.uri().path()))
            .flatten();
        let page = asset.is_some();
        let mut response = match asset {
            Some(asset) => assets::serve(asset, request.headers()),
            None => self.route(request).await,
        };
        if let Admission::Link(cookie) = admission {
            response.headers_mut().insert(header::SET_COOKIE, cookie);
        }
        set_security_headers(response.headers_mut(), host.as_ref().filter(|_| page));
        response
    }

    async fn route(self: &Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().map(str::to_owned);
        if let Some((profile, rest)) = split_profile(&path) {
            if let Some(own) = rest.strip_prefix("/rkube/") {
                return self
                    .route_profile(profile, own, query.as_deref(), request)
                    .await;
            }
            let client = match self.clusters.client(profile).await {
                Ok(client) => client,
                Err(e) => return answer::failure(status_of(&e), e.message),
            };
            let response = proxy::forward_request(&client, rest, query.as_deref(), request).await;
            if response.status() == StatusCode::BAD_GATEWAY {
                self.clusters.forget(profile);
            }
            return response;
        }
        match (request.method().clone(), path.as_str()) {
            (Method::GET, "/rkube/session") => self.session(),
            (Method::GET, "/rkube/profiles") => {
                self.commands
                    .run_json(&self.profile, &["profile", "list", "--rows"])
                    .await
            }
            (Method::GET, "/rkube/streams") => {
                let clusters = self.clusters.clone();
                socket::accept(request, None, |socket| streams::serve(clusters, socket))
            }
            (Method::POST, "/rkube/yaml") => match read_body(request).await {
                Ok(bytes) => parse_yaml(&bytes),
                Err(response) => response,
            },
            _ => answer::failure(StatusCode::NOT_FOUND, "there is nothing at this path"),
        }
    }

    /// Responds with the data that the page needs to start.
    fn session(&self) -> Response<Body> {
        match self.clusters.home().profile_names() {
            Ok(profiles) => answer::json(&serde_json::json!({
                "profile": self.profile,
                "profiles": profiles,
                "version": rkube_config::version(),
                "port": self.port,
            })),
            Err(e) => answer::failure(status_of(&e), e.message),
        }
    }

    /// Handles paths of a profile that the dashboard itself serves.
    async fn route_profile(
        self: &Arc<Self>,
        name: &str,
        path: &str,
        query: Option<&str>,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let profile = match self.clusters.profile(name) {
            Ok(profile) => profile,
            Err(e) => return answer::failure(status_of(&e), e.message),
        };
        let node = query.and_then(|q| q.split('&').find_map(|p| p.strip_prefix("node=")));
        let node = match node.map(|n| profile.node(Some(n))).transpose() {
            Ok(node) => node.map(|n| n.name.clone()),
            Err(e) => return answer::failure(status_of(&e), e.message),
        };
        match (request.method().clone(), path) {
            (Method::GET, "status") => {
                self.commands
                    .run_json(name, &["status", "--layout", "profile"])
                    .await
            }
            (Method::GET, "images") => {
                let node = node.unwrap_or_else(|| profile.control_plane().name.clone());
                self.commands
                    .run_json(name, &["image", "ls", "-n", &node])
                    .await
            }
            (Method::PUT, "images") => self.commands.load_images(name, request).await,
            (Method::GET, "addons") => self.commands.run_json(name, &["addons", "list"]).await,
            (Method::GET, "snapshots") => self.commands.run_json(name, &["snapshot", "list"]).await,
            (Method::GET, "logs") => {
                let mut arguments = vec!["logs", "--length", "400"];
                if let Some(node) = &node {
                    arguments.extend(["--node", node]);
                }
                self.commands.run_text(name, &arguments).await
            }
            (Method::GET, "tunnel") => answer::json(&serde_json::json!({
                "open": rkube_cluster::tunnel_is_open(self.clusters.home(), &profile),
                "own": self.commands.tunnel_of().as_deref() == Some(name),
                "needed": rkube_cluster::tunnel_is_needed(self.clusters.home(), &profile).unwrap_or(true),
                "range": profile.load_balancer_range().to_string(),
            })),
            (Method::POST, "tunnel") => {
                let home = self.clusters.home();
                if !rkube_cluster::tunnel_is_needed(home, &profile).unwrap_or(true) {
                    let why = "load balancers of this cluster have addresses without a tunnel";
                    return answer::failure(StatusCode::CONFLICT, why);
                }
                let is_open = || rkube_cluster::tunnel_is_open(home, &profile);
                match self.commands.open_tunnel(name, is_open).await {
                    Ok(()) => answer::json(&serde_json::json!({})),
                    Err(e) => answer::failure(status_of(&e), e.message),
                }
            }
            (Method::DELETE, "tunnel") => {
                self.commands.close_tunnel().await;
                answer::json(&serde_json::json!({}))
            }
            (Method::POST, "run") => match read_json::<Action>(request).await {
                Ok(action) => match action.arguments() {
                    Ok(arguments) => self.commands.run_events(name, &arguments),
                    Err(e) => answer::failure(status_of(&e), e.message),
                },
                Err(response) => response,
            },
            (Method::GET, "forwards") => answer::json(&self.forwards.list(name)),
            (Method::POST, "forwards") => match read_json::<ForwardRequest>(request).await {
                Ok(request) => match self.forward(name, request).await {
                    Ok(forward) => answer::json(&forward),
                    Err(e) => answer::failure(status_of(&e), e.message),
                },
                Err(response) => response,
            },
            (Method::GET, "shell") => {
                let Some(node) = node else {
                    return answer::failure(StatusCode::BAD_REQUEST, "a shell needs a node");
                };
                let mut command = self.commands.command(name);
                command.args(["ssh", "-n", &node]);
                socket::accept(request, Some(shell::PROTOCOL), move |socket| {
                    shell::serve(command, socket)
                })
            }
            (Method::DELETE, path) => {
                let id = path.strip_prefix("forwards/").and_then(|i| i.parse().ok());
                if id.is_some_and(|id| self.forwards.remove(id)) {
                    return answer::json(&serde_json::json!({}));
                }
                answer::failure(StatusCode::NOT_FOUND, "there is no such port-forward")
            }
            _ => answer::failure(StatusCode::NOT_FOUND, "there is nothing at this path"),
        }
    }

    async fn forward(
        &self,
        profile: &str,
        request: ForwardRequest,
    ) -> Result<crate::forwards::Forward, Failure> {
        let client = self.clusters.client(profile).await?;
        self.forwards.add(client, profile, request).await
    }
}

/// Sets the security headers of a response. `page` is the requested host if the response
/// is a file of the page.
fn set_security_headers(headers: &mut http::HeaderMap, page: Option<&HeaderValue>) {
    let policy = match page.and_then(|h| h.to_str().ok()) {
        // In older browsers, 'self' does not include WebSockets.
        Some(host) => format!(
            "default-src 'none'; script-src 'self' {}; style-src 'self'; img-src 'self'; \
             connect-src 'self' ws://{host}; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
            crate::assets::inline_source()
        ),
        None => "default-src 'none'; sandbox; frame-ancestors 'none'".to_owned(),
    };
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    let fixed = [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        (
            "permissions-policy",
            "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        ),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
}

/// Reads the body of a request.
async fn read_body(request: Request<Incoming>) -> Result<bytes::Bytes, Response<Body>> {
    Limited::new(request.into_body(), MAX_BODY_BYTES)
        .collect()
        .await
        .map(|body| body.to_bytes())
        .map_err(|e| answer::failure(StatusCode::PAYLOAD_TOO_LARGE, e.to_string()))
}

async fn read_json<T: for<'de> Deserialize<'de>>(
    request: Request<Incoming>,
) -> Result<T, Response<Body>> {
    serde_json::from_slice(&read_body(request).await?)
        .map_err(|e| answer::failure(StatusCode::BAD_REQUEST, e.to_string()))
}

/// Responds with YAML documents as JSON, or with the position of a syntax error.
fn parse_yaml(bytes: &[u8]) -> Response<Body> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => return answer::json(&serde_json::json!({ "error": e.to_string() })),
    };
    let mut documents = Vec::new();
    for document in rkube_cluster::yaml::documents(text) {
        match document {
            // A document with comments only.
            Ok(serde_json::Value::Null) => {}
            Ok(value) => documents.push(value),
            Err(e) => {
                let place = e.location();
                return answer::json(&serde_json::json!({
                    "error": e.to_string(),
                    "line": place.as_ref().map(serde_yaml::Location::line),
                    "column": place.as_ref().map(serde_yaml::Location::column),
                }));
            }
        }
    }
    answer::json(&serde_json::json!({ "documents": documents }))
}
