//! The server and its routes.

use std::rc::Rc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rkube_cluster::{DockerSocket, Home, Node, Profile, io_failure};
use rkube_failure::Failure;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::LocalSet;

use super::reply::{self, Body, Error};
use super::request::{self, Query};
use super::{build, containers, images, system, transfer};

/// The period of the checks whether clients still find the process.
const CHECK_PERIOD: Duration = Duration::from_secs(1);

/// The state that all requests share.
pub struct Endpoint {
    pub home: Home,
    /// The name of the profile, whose nodes may change.
    name: String,
}

impl Endpoint {
    /// Returns the cluster as it is now.
    pub fn profile(&self) -> Result<Profile, Failure> {
        Profile::load(&self.home, &self.name)
    }

    /// Returns the node whose images are shown, and which builds and pushes.
    pub fn node(profile: &Profile) -> Result<&Node, Failure> {
        profile.node(None)
    }
}

/// Serves the socket of a profile until it is removed.
pub async fn run(home: &Home, profile: &Profile) -> Result<(), Failure> {
    let Some((socket, listener)) = DockerSocket::listen(home, profile).await? else {
        return Ok(());
    };
    let path = rkube_cluster::docker_socket(home, &profile.name);
    let failed = |e: std::io::Error| io_failure("listen on", &path, &e);
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = UnixListener::from_std(listener).map_err(failed)?;
    let endpoint = Rc::new(Endpoint {
        home: home.clone(),
        name: profile.name.clone(),
    });
    LocalSet::new()
        .run_until(accept(endpoint, socket, listener))
        .await;
    Ok(())
}

async fn accept(endpoint: Rc<Endpoint>, socket: DockerSocket, listener: UnixListener) {
    let mut clock = tokio::time::interval(CHECK_PERIOD);
    loop {
        tokio::select! {
            _ = clock.tick() => if !socket.is_there() {
                return;
            },
            accepted = listener.accept() => match accepted {
                Ok((connection, _)) => {
                    tokio::task::spawn_local(serve(endpoint.clone(), connection));
                }
                // Too many open files, for example, which needs time to change.
                Err(e) => {
                    tracing::debug!("accept: {e}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
}

async fn serve(endpoint: Rc<Endpoint>, connection: UnixStream) {
    let service = service_fn(move |request| {
        let endpoint = endpoint.clone();
        async move { Ok::<_, std::convert::Infallible>(handle(endpoint, request).await) }
    });
    let served = http1::Builder::new().serve_connection(TokioIo::new(connection), service);
    if let Err(e) = served.await {
        tracing::debug!("a connection ended: {e}");
    }
}

/// Reads the rest of a request. A client that still sends when the answer comes and the connection is
/// closed would not see the answer.
async fn drain(request: &mut Request<Incoming>) {
    while let Some(Ok(_)) = request.body_mut().frame().await {}
}

async fn handle(endpoint: Rc<Endpoint>, mut request: Request<Incoming>) -> Response<Body> {
    let answered = match request::path(request.uri().path()) {
        Ok(path) => route(endpoint, &path, request).await,
        Err(e) => {
            drain(&mut request).await;
            Err(e)
        }
    };
    let mut response = answered.unwrap_or_else(|e| e.response());
    for (name, value) in [
        ("api-version", request::version(request::NEWEST)),
        ("ostype", "linux".to_owned()),
        // The classic builder; clients that would use BuildKit ask for it.
        ("builder-version", "1".to_owned()),
        ("docker-experimental", "false".to_owned()),
        ("server", format!("rkube/{}", rkube_config::VERSION)),
    ] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

async fn route(
    endpoint: Rc<Endpoint>,
    path: &str,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Error> {
    // These keep what is sent.
    if !matches!(path, "/build" | "/images/load") {
        drain(&mut request).await;
    }
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let method = request.method().clone();
    let get = method == Method::GET;
    let post = method == Method::POST;
    match path {
        "/_ping" if get || method == Method::HEAD => return Ok(reply::text("OK")),
        "/version" if get => return Ok(system::version()),
        "/info" if get => return system::info(&endpoint).await,
        "/containers/json" if get => return containers::list(&endpoint, &query).await,
        "/images/json" if get => return images::list(&endpoint, &query).await,
        "/images/get" if get => return transfer::save(&endpoint, query.all("names")).await,
        "/images/load" if post => return transfer::load(&endpoint, &query, request).await,
        "/images/create" if post => return transfer::pull(endpoint, &query, &request),
        "/images/prune" if post => return images::prune(&endpoint, &query).await,
        "/build" if post => return build::run(endpoint, query, request).await,
        "/build/prune" if post => return build::prune(&endpoint).await,
        _ => {}
    }
    if let (true, Some(name)) = (get, path.strip_prefix("/containers/"))
        && let Some(name) = name.strip_suffix("/json")
    {
        return containers::inspect(&endpoint, name).await;
    }
    if let Some(name) = path.strip_prefix("/images/") {
        if method == Method::DELETE {
            return images::remove(&endpoint, name, &query).await;
        }
        if let (true, Some((name, verb))) = (get || post, name.rsplit_once('/')) {
            match (get, verb) {
                (true, "json") => return images::inspect(&endpoint, name).await,
                (true, "history") => return images::history(&endpoint, name).await,
                (true, "get") => return transfer::save(&endpoint, [name].into_iter()).await,
                (false, "tag") => return images::tag(&endpoint, name, &query).await,
                (false, "push") => return transfer::push(endpoint, name, &query, &request),
                _ => {}
            }
        }
    }
    Err(missing(get, path))
}

/// Returns the error of a path that is not served.
fn missing(get: bool, path: &str) -> Error {
    let mut words = path.trim_start_matches('/').split('/');
    let (subject, name) = (words.next().unwrap_or_default(), words.next());
    // `docker inspect` asks for objects of each kind, until one is there.
    let kind = match subject {
        "networks" => Some("network"),
        "volumes" => Some("volume"),
        "services" => Some("service"),
        "nodes" => Some("node"),
        "tasks" => Some("task"),
        "secrets" => Some("secret"),
        "configs" => Some("config"),
        "plugins" => Some("plugin"),
        _ => None,
    };
    if let (true, Some(kind), Some(name)) = (get, kind, name) {
        return Error::new(StatusCode::NOT_FOUND, format!("No such {kind}: {name}"));
    }
    let why = match subject {
        "containers" | "exec" => {
            "rkube's endpoint for Docker's clients runs no containers: use kubectl run, logs, exec"
        }
        "grpc" | "session" => {
            "rkube's endpoint for Docker's clients has no BuildKit: build with DOCKER_BUILDKIT=0, or with rkube image build"
        }
        "auth" => {
            "rkube's endpoint for Docker's clients checks no credentials: log in without it, as with env -u DOCKER_HOST docker login"
        }
        "networks" | "volumes" | "swarm" | "nodes" | "services" | "tasks" | "secrets"
        | "configs" | "plugins" | "events" | "system" | "distribution" | "commit" | "images"
        | "build" | "info" => {
            "rkube's endpoint for Docker's clients has only images, the classic builder and the list of containers"
        }
        _ => return Error::new(StatusCode::NOT_FOUND, "page not found"),
    };
    Error::unsupported(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unserved_requests_are_answered_with_advice() {
        for (path, status, words) in [
            ("/networks/a", 404, "No such network: a"),
            ("/plugins/a/json", 404, "No such plugin: a"),
            ("/containers/a/logs", 501, "kubectl run"),
            ("/exec/1/start", 501, "kubectl run"),
            ("/grpc", 501, "DOCKER_BUILDKIT=0"),
            ("/session", 501, "rkube image build"),
            ("/auth", 501, "docker login"),
            ("/networks", 501, "only images"),
            ("/nonsense", 404, "page not found"),
        ] {
            let error = missing(true, path);
            assert_eq!(error.status.as_u16(), status, "{path}");
            assert!(error.message.contains(words), "{path}: {}", error.message);
        }
    }
}
