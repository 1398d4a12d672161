//! The ingress controller: it serves the Ingresses of a cluster with a proxy of its own.
//!
//! The objects are compiled by a pure function ([`compile`]) to an immutable [`table::Table`], which
//! replaces the previous one. Requests ([`proxy`]) never wait for the cluster: as long as the API
//! server is away, the last table counts.

#![warn(missing_docs)]

pub mod access;
pub mod body;
pub mod cache;
pub mod certificates;
pub mod compile;
mod cors;
mod endpoints;
mod feed;
pub mod headers;
mod names;
pub mod pool;
pub mod proxy;
mod request;
mod resolve;
pub mod server;
pub mod settings;
pub mod status;
pub mod stream;
pub mod table;
#[cfg(test)]
mod tests;
pub mod tls;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http::Response;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rkube_client::events::{Recorder, Settings, Style};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use proxy::Proxy;
use server::{Entrance, serve};

/// The port of metrics and health, on the node's loopback.
const METRICS_PORT: u16 = 10254;
/// The time that open requests have at the stop.
const DRAIN: Duration = Duration::from_secs(2);
/// The size in bytes above which the log is rotated.
const LOG_LIMIT: u64 = 10 << 20;
/// The period of the checks of the log's size.
const LOG_PERIOD: Duration = Duration::from_secs(5);

/// The settings of the controller.
pub struct Config {
    /// The address of the API server.
    pub api_server: SocketAddr,
    /// The certificate of its authority, PEM.
    pub ca: Vec<u8>,
    /// The file with the token of the controller's account. It is read again when it has changed.
    pub token: PathBuf,
    /// The node's name.
    pub node: String,
    /// The node's address.
    pub ip: IpAddr,
    /// The cluster's DNS server, for services of type ExternalName.
    pub dns: SocketAddr,
    /// The file that standard output and error are written to, if it is one.
    pub log: Option<PathBuf>,
}

/// Serves until `stop`, and then ends open requests.
///
/// # Errors
///
/// Fails if a port is taken or the identity cannot be read.
pub async fn run(config: Config, stop: CancellationToken) -> anyhow::Result<()> {
    raise_file_limit();
    let proxy = Proxy::new(config.dns);
    let tls = tls::client_side(&proxy)?;
    let plain = listen(80)?;
    let secure = listen(443)?;
    let metrics = TcpListener::bind((Ipv4Addr::LOCALHOST, METRICS_PORT)).await;
    let metrics = metrics.with_context(|| format!("cannot listen on port {METRICS_PORT}"))?;
    let client = connect(&config)?;
    let settings = Settings {
        style: Style::Counted,
        field_manager: status::MANAGER,
        host: None,
        instance: String::new(),
    };
    let (recorder, writer) = Recorder::new(client.clone(), settings);
    let (wanted, served) = watch::channel(None);
    let feed = feed::Feed::new(client.clone());
    let fallback = certificates::self_signed()?;
    let addresses = status::Addresses {
        client,
        node: config.node,
        ip: config.ip,
    };
    let background = {
        let (proxy, loaded) = (proxy.clone(), served.clone());
        async move {
            tokio::join!(
                feed.run(proxy.clone(), fallback, recorder, wanted),
                writer,
                addresses.run(served),
                proxy.maintain(),
                report(metrics, proxy.clone(), loaded),
                rotate(config.log),
            );
        }
    };
    let entrance = |listener, port, tls| Entrance {
        listener,
        port,
        tls,
    };
    let serving = async {
        tokio::join!(
            serve(entrance(plain, 80, None), proxy.clone(), stop.clone()),
            serve(
                entrance(secure, 443, Some(tls)),
                proxy.clone(),
                stop.clone()
            ),
        );
    };
    tracing::info!("serving on the ports 80 and 443");
    let drained = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        () = background => anyhow::bail!("a part of the ingress controller ended"),
        () = serving => {}
        () = drained => {}
    }
    proxy.log.flush();
    Ok(())
}

/// Each connection of a client needs another one to a backend.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Listens on all addresses of both families, or of IPv4 where there is no IPv6.
fn listen(port: u16) -> anyhow::Result<TcpListener> {
    let bind = |ip: IpAddr| -> std::io::Result<TcpListener> {
        let socket = if ip.is_ipv6() {
            TcpSocket::new_v6()?
        } else {
            TcpSocket::new_v4()?
        };
        socket.set_reuseaddr(true)?;
        socket.bind((ip, port).into())?;
        socket.listen(4096)
    };
    let both = bind(Ipv6Addr::UNSPECIFIED.into());
    match both {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(error),
        Err(_) => bind(Ipv4Addr::UNSPECIFIED.into()),
        Ok(listener) => Ok(listener),
    }
    .with_context(|| {
        format!("cannot listen on port {port}; is another program of the node using it?")
    })
}

fn connect(config: &Config) -> anyhow::Result<kube::Client> {
    let url: http::Uri = format!("https://{}", config.api_server).parse()?;
    let mut settings = kube::Config::new(url);
    let authorities = CertificateDer::pem_slice_iter(&config.ca).collect::<Result<Vec<_>, _>>();
    let authorities = authorities.context("the cluster's authority")?;
    settings.root_cert = Some(authorities.iter().map(|c| c.to_vec()).collect());
    settings.auth_info.token_file = Some(config.token.display().to_string());
    kube::Client::try_from(settings).context("the client of the API server")
}

/// Serves metrics and health.
async fn report(
    listener: TcpListener,
    proxy: Arc<Proxy>,
    loaded: watch::Receiver<Option<status::Wanted>>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (proxy, loaded) = (proxy.clone(), loaded.clone());
        tokio::spawn(async move {
            let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
                let answer = match request.uri().path() {
                    "/metrics" => (200, proxy.log.metrics.text()),
                    "/healthz" if loaded.borrow().is_some() => (200, "ok".to_owned()),
                    "/healthz" => (503, "no table is loaded".to_owned()),
                    _ => (404, "not found".to_owned()),
                };
                let response = Response::builder()
                    .status(answer.0)
                    .body(http_body_util::Full::<bytes::Bytes>::from(answer.1));
                std::future::ready(response)
            });
            // Whoever asks may go at any time.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// Begins a new log when the present one is large. The node's init does so only at a start.
async fn rotate(log: Option<PathBuf>) {
    let Some(log) = log else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(LOG_PERIOD).await;
        if std::fs::metadata(&log).is_ok_and(|m| m.len() > LOG_LIMIT)
            && let Err(error) = begin_log(&log)
        {
            tracing::warn!(%error, "cannot rotate the log");
        }
    }
}

fn begin_log(log: &std::path::Path) -> std::io::Result<()> {
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut old = log.as_os_str().to_owned();
    old.push(".1");
    std::fs::rename(log, old)?;
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(log)?;
    for standard in [1, 2] {
        nix::unistd::dup2(file.as_raw_fd(), standard)?;
    }
    Ok(())
}
