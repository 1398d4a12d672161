//! Finds a container engine, connects to it and translates its errors into failures.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::SystemInfo;
use bollard::{API_DEFAULT_VERSION, ClientVersion, Docker};
use rkube_failure::{Failure, Kind, Source};
use serde::Deserialize;

/// The oldest API version with everything that nodes need (private cgroup namespaces). Docker 20.10
/// and Podman 3 support it.
pub const API_MIN: ClientVersion = ClientVersion {
    major_version: 1,
    minor_version: 41,
};
/// Timeout for connecting to the engine and reading its description.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Timeout of every other request, in seconds.
const REQUEST_LIMIT: u64 = 120;

/// The address at which an engine listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// A Windows named pipe.
    Pipe(String),
    /// Plain HTTP on the host's loopback, `host:port`.
    Http(String),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Pipe(path) => write!(f, "npipe://{path}"),
            Self::Http(host) => write!(f, "tcp://{host}"),
        }
    }
}

/// A connection to an engine that has responded.
pub struct Engine {
    /// The client, which uses the API version of the engine.
    pub docker: Docker,
    /// The address of the engine.
    pub address: Address,
    /// The engine's description of its host.
    pub info: SystemInfo,
}

impl Engine {
    /// Connects to the engine that the `docker` command would use.
    ///
    /// # Errors
    /// Fails if no engine responds, or if its API is older than [`API_MIN`].
    pub async fn connect() -> Result<Self, Failure> {
        let address = locate(&EngineEnv::from_process())?;
        let docker = client(&address)?;
        let hello = async {
            let docker = docker.negotiate_version().await?;
            let info = docker.info().await?;
            Ok::<_, Error>((docker, info))
        };
        let (docker, info) = match tokio::time::timeout(CONNECT_TIMEOUT, hello).await {
            Ok(Ok(found)) => found,
            Ok(Err(e)) => return Err(not_reached(&address, &e)),
            Err(_) => {
                return Err(Failure::new(
                    Source::Provider,
                    Kind::Unavailable,
                    format!("the container engine at {address} does not respond"),
                )
                .advise("restart it (for Docker on Linux: systemctl restart docker)"));
            }
        };
        let engine = Self {
            docker,
            address,
            info,
        };
        engine.check_version()?;
        Ok(engine)
    }

    fn check_version(&self) -> Result<(), Failure> {
        let version = self.docker.client_version();
        if version >= API_MIN {
            return Ok(());
        }
        Err(Failure::new(
            Source::Provider,
            Kind::Unsupported,
            format!(
                "the container engine {} speaks version {version} of the API, {API_MIN} is the oldest that works",
                self.info.server_version.as_deref().unwrap_or("")
            ),
        )
        .advise("update it to Docker 20.10, Podman 3 or newer"))
    }

    /// Returns the architecture of the engine's containers, in the notation of images (`amd64`).
    pub fn architecture(&self) -> &str {
        // Some engines use the kernel's notation, others that of images.
        let said = self.info.architecture.as_deref();
        crate::binary::architecture(said.unwrap_or(std::env::consts::ARCH))
    }

    /// Whether the engine runs on this host's kernel and is reached by its Unix socket. Then it can
    /// bind host files, and its bridges are network interfaces of this host.
    pub fn is_local(&self) -> bool {
        matches!(self.address, Address::Unix(_)) && self.is_this_machine()
    }

    /// Whether the engine runs on the kernel of this host, however it is reached.
    #[cfg(target_os = "linux")]
    pub fn is_this_machine(&self) -> bool {
        let Ok(uname) = nix::sys::utsname::uname() else {
            return false;
        };
        // An engine in a virtual machine (Docker Desktop, Colima) differs in at least one.
        self.info.name.as_deref() == uname.nodename().to_str()
            && self.info.kernel_version.as_deref() == uname.release().to_str()
    }

    /// Returns false: containers need a Linux kernel.
    #[cfg(not(target_os = "linux"))]
    pub fn is_this_machine(&self) -> bool {
        false
    }
}

fn client(address: &Address) -> Result<Docker, Failure> {
    let made = match address {
        #[cfg(unix)]
        Address::Unix(path) => {
            Docker::connect_with_unix(&path.to_string_lossy(), REQUEST_LIMIT, API_DEFAULT_VERSION)
        }
        #[cfg(windows)]
        Address::Pipe(path) => {
            Docker::connect_with_named_pipe(path, REQUEST_LIMIT, API_DEFAULT_VERSION)
        }
        Address::Http(host) => Docker::connect_with_http(host, REQUEST_LIMIT, API_DEFAULT_VERSION),
        #[allow(
            unreachable_patterns,
            reason = "which variants remain depends on the platform"
        )]
        other => {
            return Err(Failure::new(
                Source::Provider,
                Kind::Unsupported,
                format!("{other} cannot be reached from this platform"),
            ));
        }
    };
    made.map_err(|e| not_reached(address, &e))
}

/// Advice if no engine responds.
const START: &str = if cfg!(target_os = "linux") {
    "start it (for Docker on Linux: systemctl start docker), or name another one with DOCKER_HOST"
} else {
    "start it (Docker Desktop, podman machine start, colima start), or name another one with DOCKER_HOST"
};

fn not_reached(address: &Address, e: &Error) -> Failure {
    let text = chain(e);
    // The messages of Unix and of Windows.
    let denied = text.contains("ermission denied") || text.contains("ccess is denied");
    let failure = Failure::new(
        Source::Provider,
        if denied {
            Kind::Permission
        } else {
            Kind::NotRunning
        },
        format!("no container engine answers at {address}: {text}"),
    );
    if denied {
        return failure.advise(if cfg!(windows) {
            "join the group that may use it (docker-users), then log in again"
        } else {
            "join the group that may use it: sudo usermod -aG docker $USER, then log in again"
        });
    }
    failure.advise(START)
}

/// Formats an error with all its causes.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(e) = cause {
        let more = e.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = e.source();
    }
    text
}

/// Converts an engine's error into a failure with advice. `doing` describes the failed action.
pub fn failure(doing: impl std::fmt::Display, e: &Error) -> Failure {
    let (status, message) = match e {
        Error::DockerResponseServerError {
            status_code,
            message,
        } => (Some(*status_code), message.clone()),
        Error::DockerStreamError { error } => (None, error.clone()),
        other => (None, chain(other)),
    };
    let text = format!("{doing}: {message}");
    let has = |needle: &str| message.to_ascii_lowercase().contains(needle);
    if has("no space left") {
        return Failure::new(Source::Resource, Kind::Error, text)
            .advise("free some space where the engine keeps its data: docker system df, docker system prune");
    }
    if has("port is already allocated")
        || has("address already in use")
        || has("ports are not available")
    {
        return Failure::new(Source::LocalNetwork, Kind::Conflict, text)
            .advise("stop the program that listens on that port, or stop the cluster and start it again, which chooses other ports for the API server and SSH");
    }
    if has("pool overlaps") || has("subnet") && has("already") {
        return Failure::new(Source::LocalNetwork, Kind::Conflict, text).advise(
            "choose another address range with --subnet; that of an existing cluster cannot be changed",
        );
    }
    match (status, e) {
        (Some(404), _) => Failure::new(Source::Provider, Kind::NotFound, text),
        (Some(409), _) => Failure::new(Source::Provider, Kind::Conflict, text),
        (Some(401 | 403), _) => Failure::new(Source::Provider, Kind::Permission, text),
        (_, Error::RequestTimeoutError) => Failure::new(Source::Provider, Kind::Timeout, text)
            .advise("see whether the engine is busy or hangs: docker info"),
        (Some(_), _) | (_, Error::DockerStreamError { .. } | Error::JsonDataError { .. }) => {
            Failure::new(Source::Provider, Kind::Error, text)
        }
        _ => Failure::new(Source::Provider, Kind::NotRunning, text)
            .advise("see whether the container engine runs: docker info"),
    }
}

/// Whether the engine reports that the object does not exist.
pub fn is_missing(e: &Error) -> bool {
    matches!(
        e,
        Error::DockerResponseServerError {
            status_code: 404,
            ..
        }
    )
}

/// The environment that selects the container engine.
struct EngineEnv {
    docker_host: Option<String>,
    docker_context: Option<String>,
    /// `$DOCKER_CONFIG`, `~/.docker` by default.
    config_dir: Option<PathBuf>,
    /// Sockets to try, best first.
    sockets: Vec<PathBuf>,
}

impl EngineEnv {
    fn from_process() -> Self {
        let var = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let home = dirs::home_dir();
        let below_home = |path: &str| home.as_ref().map(|h| h.join(path));
        let runtime = var("XDG_RUNTIME_DIR").map(PathBuf::from);
        let below_runtime = |path: &str| runtime.as_ref().map(|r| r.join(path));
        let sockets = [
            Some(PathBuf::from("/var/run/docker.sock")),
            below_home(".docker/run/docker.sock"),
            below_home(".docker/desktop/docker.sock"),
            below_runtime("docker.sock"),
            Some(PathBuf::from("/run/podman/podman.sock")),
            below_runtime("podman/podman.sock"),
            below_home(".colima/default/docker.sock"),
            below_home(".colima/docker.sock"),
            below_home(".orbstack/run/docker.sock"),
            below_home(".rd/docker.sock"),
        ];
        Self {
            // After `rkube docker-env`, it names the images of a cluster, which are no engine.
            docker_host: match var("RKUBE_ACTIVE_DOCKERD") {
                Some(_) => var("RKUBE_EXISTING_DOCKER_HOST"),
                None => var("DOCKER_HOST"),
            },
            docker_context: var("DOCKER_CONTEXT"),
            config_dir: var("DOCKER_CONFIG")
                .map(PathBuf::from)
                .or_else(|| below_home(".docker")),
            sockets: sockets.into_iter().flatten().collect(),
        }
    }
}

/// Named pipes of engines on Windows: Docker, Docker Desktop, Podman.
const PIPES: [&str; 3] = [
    "//./pipe/docker_engine",
    "//./pipe/dockerDesktopLinuxEngine",
    "//./pipe/podman-machine-default",
];

/// Finds the engine's address: `DOCKER_HOST`, else the current context, else the first of the usual
/// sockets that accepts connections.
fn locate(env: &EngineEnv) -> Result<Address, Failure> {
    if let Some(host) = &env.docker_host {
        return parse(host).map_err(|f| f.context("DOCKER_HOST"));
    }
    if let Some(host) = context_host(env)? {
        return parse(&host);
    }
    if cfg!(windows) {
        let there = PIPES.iter().find(|pipe| Path::new(pipe).exists());
        return Ok(Address::Pipe(there.unwrap_or(&PIPES[0]).to_string()));
    }
    let there: Vec<&PathBuf> = env.sockets.iter().filter(|s| s.exists()).collect();
    #[cfg(unix)]
    let listening = there
        .iter()
        .find(|s| std::os::unix::net::UnixStream::connect(s).is_ok());
    #[cfg(not(unix))]
    let listening: Option<&&PathBuf> = None;
    match listening.or(there.first()) {
        Some(socket) => Ok(Address::Unix((*socket).clone())),
        None => Err(Failure::new(
            Source::Provider,
            Kind::NotFound,
            "no container engine is there (neither Docker's nor Podman's nor Colima's socket)",
        )
        .advise("install Docker or Podman and start it, or name an engine with DOCKER_HOST")),
    }
}

fn parse(host: &str) -> Result<Address, Failure> {
    let unsupported = |why: &str| {
        Failure::new(
            Source::Provider,
            Kind::Unsupported,
            format!("the container engine {host} cannot be used: {why}"),
        )
        .advise("run rkube on the engine's own machine")
    };
    if let Some(path) = host.strip_prefix("unix://") {
        return Ok(Address::Unix(PathBuf::from(path)));
    }
    if let Some(path) = host.strip_prefix("npipe://") {
        return Ok(Address::Pipe(path.to_owned()));
    }
    let Some(address) = host
        .strip_prefix("tcp://")
        .or_else(|| host.strip_prefix("http://"))
    else {
        return Err(unsupported(
            "only unix://, npipe:// and tcp:// on the loopback are",
        ));
    };
    let address = address.trim_end_matches('/');
    let name = address.rsplit_once(':').map_or(address, |(name, _)| name);
    let name = name.trim_matches(['[', ']']);
    let loopback = name == "localhost"
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback());
    if !loopback {
        // Nodes publish ports on the loopback of the engine's host, which this host cannot reach.
        return Err(unsupported("it is on another machine"));
    }
    Ok(Address::Http(address.to_owned()))
}

#[derive(Deserialize)]
struct CliConfig {
    #[serde(rename = "currentContext")]
    current_context: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContextMeta {
    endpoints: std::collections::BTreeMap<String, ContextEndpoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContextEndpoint {
    host: Option<String>,
}

/// Returns the endpoint of the `docker` command's current context, `None` for the default context.
fn context_host(env: &EngineEnv) -> Result<Option<String>, Failure> {
    let Some(dir) = &env.config_dir else {
        return Ok(None);
    };
    let name = match &env.docker_context {
        Some(name) => Some(name.clone()),
        None => read_json::<CliConfig>(&dir.join("config.json"))?.and_then(|c| c.current_context),
    };
    let Some(name) = name.filter(|n| !n.is_empty() && n != "default") else {
        return Ok(None);
    };
    let digest = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
    let path = dir
        .join("contexts/meta")
        .join(hex::encode(digest.as_ref()))
        .join("meta.json");
    let host =
        read_json::<ContextMeta>(&path)?.and_then(|mut meta| meta.endpoints.remove("docker")?.host);
    match host {
        Some(host) => Ok(Some(host)),
        None => Err(Failure::new(
            Source::Provider,
            Kind::Config,
            format!(
                "the docker context '{name}' names no engine ({})",
                path.display()
            ),
        )
        .advise("choose another one: docker context ls, docker context use default")),
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Failure> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => {
            return Err(Failure::new(
                Source::Provider,
                Kind::Config,
                format!("cannot read {}: {e}", path.display()),
            ));
        }
    };
    serde_json::from_slice(&text).map(Some).map_err(|e| {
        Failure::new(
            Source::Provider,
            Kind::Config,
            format!("{} is damaged: {e}", path.display()),
        )
        .advise("repair the file, or name an engine with DOCKER_HOST")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare(dir: &Path) -> EngineEnv {
        EngineEnv {
            docker_host: None,
            docker_context: None,
            config_dir: Some(dir.to_path_buf()),
            sockets: Vec::new(),
        }
    }

    #[test]
    fn the_environment_comes_before_the_context_and_that_before_sockets() {
        let dir = tempfile::tempdir().unwrap();
        let mut env = bare(dir.path());
        assert_eq!(locate(&env).unwrap_err().exit_code(), 65);
        let socket = dir.path().join("d.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let stale = dir.path().join("stale.sock");
        std::fs::write(&stale, "").unwrap();
        env.sockets = vec![stale, socket.clone()];
        assert_eq!(locate(&env).unwrap(), Address::Unix(socket));
        std::fs::write(
            dir.path().join("config.json"),
            r#"{"currentContext":"colima"}"#,
        )
        .unwrap();
        assert_eq!(locate(&env).unwrap_err().exit_code(), 68);
        let id = hex::encode(ring::digest::digest(&ring::digest::SHA256, b"colima").as_ref());
        let meta = dir.path().join("contexts/meta").join(id);
        std::fs::create_dir_all(&meta).unwrap();
        std::fs::write(
            meta.join("meta.json"),
            r#"{"Name":"colima","Metadata":{},"Endpoints":{"docker":{"Host":"unix:///c.sock","SkipTLSVerify":false}}}"#,
        )
        .unwrap();
        assert_eq!(locate(&env).unwrap(), Address::Unix("/c.sock".into()));
        env.docker_host = Some("tcp://localhost:2375".into());
        assert_eq!(
            locate(&env).unwrap(),
            Address::Http("localhost:2375".into())
        );
    }

    #[test]
    fn engines_elsewhere_are_refused() {
        for host in [
            "tcp://10.0.0.1:2375",
            "ssh://me@there",
            "fd://x",
            "tcp://[2001:db8::1]:1",
        ] {
            assert_eq!(parse(host).unwrap_err().exit_code(), 66, "{host}");
        }
        parse("tcp://[::1]:2375").unwrap();
    }

    #[test]
    fn engines_errors_say_where_the_problem_lies() {
        let says = |status_code, message: &str| {
            let e = Error::DockerResponseServerError {
                status_code,
                message: message.into(),
            };
            failure("x", &e).exit_code()
        };
        assert_eq!(says(500, "write /x: no space left on device"), 20);
        assert_eq!(
            says(
                500,
                "Bind for 127.0.0.1:80 failed: port is already allocated"
            ),
            71
        );
        assert_eq!(
            says(403, "Pool overlaps with other one on this address space"),
            71
        );
        assert_eq!(says(404, "No such container"), 65);
        assert_eq!(says(409, "name is in use"), 61);
    }
}
