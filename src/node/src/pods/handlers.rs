//! Actions of probes and lifecycle hooks: exec, HTTP GET, TCP connect and gRPC health check.

use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body_util::{BodyExt, Full};
use k8s_openapi::api::core::v1::{GRPCAction, HTTPGetAction, TCPSocketAction};
use rkube_runtime::{Runtime, RuntimeError};

use crate::kinds::*;

/// Result of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The action succeeded, with this output.
    Success(String),
    /// The action failed, with this reason.
    Failure(String),
    /// The action could not be attempted.
    Error(String),
}

/// Maximum size of command output or of a response body, in bytes.
const MAX_OUTPUT_BYTES: usize = 10 << 10;

/// HTTP client that accepts any certificate and opens one connection per request, like the
/// kubelet's prober.
static HTTP: LazyLock<Result<reqwest::Client, String>> = LazyLock::new(|| {
    reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .pool_max_idle_per_host(0)
        .http1_only()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::custom(|attempt| {
            // Redirects to another host are not followed: its response is not a result of this pod.
            let same = attempt
                .previous()
                .first()
                .is_some_and(|first| first.host_str() == attempt.url().host_str());
            if attempt.previous().len() >= 10 || !same {
                attempt.stop()
            } else {
                attempt.follow()
            }
        }))
        .build()
        .map_err(|e| e.to_string())
});

/// Runs a command in the container; exit code 0 is a success.
pub(crate) async fn exec(
    runtime: &Runtime,
    id: &str,
    command: &[String],
    timeout: Duration,
) -> Outcome {
    match runtime.exec_sync(id, command, timeout).await {
        Ok(out) => {
            let mut text = out.stdout;
            text.extend_from_slice(&out.stderr);
            text.truncate(MAX_OUTPUT_BYTES);
            let text = String::from_utf8_lossy(&text).into_owned();
            if out.exit_code == 0 {
                Outcome::Success(text)
            } else {
                Outcome::Failure(text)
            }
        }
        Err(RuntimeError::Timeout { .. }) => {
            Outcome::Failure(format!("command {:?} timed out", command.join(" ")))
        }
        Err(e) => Outcome::Error(e.to_string()),
    }
}

fn host_of(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// Returns the URL of an HTTP GET action.
fn url(get: &HTTPGetAction, container: &Container, ip: IpAddr) -> Result<String, String> {
    let port = resolve_port(&get.port, container)?;
    let host = get
        .host
        .clone()
        .filter(|h| !h.is_empty())
        .unwrap_or_else(|| host_of(ip));
    let scheme = match get.scheme.as_deref() {
        Some("HTTPS") => "https",
        _ => "http",
    };
    let path = get.path.as_deref().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok(format!("{scheme}://{host}:{port}{slash}{path}"))
}

/// Sends an HTTP GET request; status codes from 200 to 399 are successes.
pub(crate) async fn http_get(
    get: &HTTPGetAction,
    container: &Container,
    ip: IpAddr,
    timeout: Duration,
    agent: &str,
) -> Outcome {
    let url = match url(get, container, ip) {
        Ok(url) => url,
        Err(e) => return Outcome::Error(e),
    };
    let client = match &*HTTP {
        Ok(client) => client,
        Err(e) => return Outcome::Error(e.clone()),
    };
    let mut headers = http::HeaderMap::new();
    for h in get.http_headers.iter().flatten() {
        let name = http::HeaderName::from_bytes(h.name.as_bytes());
        let value = http::HeaderValue::from_str(&h.value);
        match (name, value) {
            (Ok(name), Ok(value)) => {
                headers.append(name, value);
            }
            _ => return Outcome::Error(format!("invalid header {:?}", h.name)),
        }
    }
    // An empty value in the pod's spec removes the header, as upstream does.
    for (name, default) in [
        (http::header::USER_AGENT, agent),
        (http::header::ACCEPT, "*/*"),
    ] {
        match headers.get(&name) {
            Some(v) if v.is_empty() => {
                headers.remove(&name);
            }
            Some(_) => {}
            None => {
                if let Ok(value) = http::HeaderValue::from_str(default) {
                    headers.insert(name, value);
                }
            }
        }
    }
    headers.insert(
        http::header::CONNECTION,
        http::HeaderValue::from_static("close"),
    );
    let request = client.get(&url).headers(headers).timeout(timeout).send();
    let mut response = match request.await {
        Ok(response) => response,
        Err(e) if e.is_timeout() => {
            return Outcome::Failure(format!(
                "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
            ));
        }
        Err(e) => return Outcome::Failure(format!("Get {url:?}: {}", cause(&e, &url))),
    };
    let status = response.status();
    let mut body = Vec::new();
    while body.len() < MAX_OUTPUT_BYTES {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(_) if status.is_success() => break,
            Err(e) => return Outcome::Failure(format!("Get {url:?}: {e}")),
        }
    }
    body.truncate(MAX_OUTPUT_BYTES);
    if (200..400).contains(&status.as_u16()) {
        Outcome::Success(String::from_utf8_lossy(&body).into_owned())
    } else {
        Outcome::Failure(format!(
            "HTTP probe failed with statuscode: {}",
            status.as_u16()
        ))
    }
}

/// Returns the root cause of an error; connection errors are worded as in Go.
fn cause(error: &reqwest::Error, url: &str) -> String {
    use std::error::Error;
    let mut source: Option<&(dyn Error + 'static)> = error.source();
    let mut last = error.to_string();
    while let Some(e) = source {
        if let Some(io) = e.downcast_ref::<std::io::Error>() {
            let address = url
                .split("://")
                .nth(1)
                .and_then(|r| r.split('/').next())
                .unwrap_or_default();
            return dial_error(address, io);
        }
        last = e.to_string();
        source = e.source();
    }
    last
}

fn dial_error(address: &str, error: &std::io::Error) -> String {
    use std::io::ErrorKind::*;
    let reason = match error.kind() {
        ConnectionRefused => "connect: connection refused",
        HostUnreachable => "connect: no route to host",
        NetworkUnreachable => "connect: network is unreachable",
        ConnectionReset => return "read: connection reset by peer".into(),
        UnexpectedEof => return "EOF".into(),
        _ => return format!("dial tcp {address}: {error}"),
    };
    format!("dial tcp {address}: {reason}")
}

/// Opens a TCP connection; an established connection is a success.
pub(crate) async fn tcp(
    action: &TCPSocketAction,
    container: &Container,
    ip: IpAddr,
    timeout: Duration,
) -> Outcome {
    let port = match resolve_port(&action.port, container) {
        Ok(port) => port,
        Err(e) => return Outcome::Error(e),
    };
    let host = action
        .host
        .clone()
        .filter(|h| !h.is_empty())
        .unwrap_or_else(|| ip.to_string());
    let connect = tokio::net::TcpStream::connect((host.as_str(), port));
    match tokio::time::timeout(timeout, connect).await {
        Ok(Ok(_)) => Outcome::Success(String::new()),
        Ok(Err(e)) => Outcome::Failure(dial_error(&format!("{host}:{port}"), &e)),
        Err(_) => Outcome::Failure(format!("dial tcp {host}:{port}: i/o timeout")),
    }
}

/// Calls `grpc.health.v1.Health/Check` without TLS; `SERVING` is a success.
pub(crate) async fn grpc(
    action: &GRPCAction,
    ip: IpAddr,
    timeout: Duration,
    agent: &str,
) -> Outcome {
    let Ok(port) = u16::try_from(action.port) else {
        return Outcome::Error(format!("invalid port number: {}", action.port));
    };
    let service = action.service.clone().unwrap_or_default();
    match tokio::time::timeout(timeout, grpc_check(ip, port, &service, agent)).await {
        Ok(Ok(1)) => Outcome::Success("service healthy".into()),
        Ok(Ok(status)) => {
            let word = match status {
                0 => "UNKNOWN",
                2 => "NOT_SERVING",
                3 => "SERVICE_UNKNOWN",
                _ => "UNRECOGNIZED",
            };
            Outcome::Failure(format!("service unhealthy (responded with {word:?})"))
        }
        Ok(Err(e)) => Outcome::Failure(e),
        Err(_) => Outcome::Failure(format!(
            "timeout: failed to connect service \"{}:{port}\" within {timeout:?}: context deadline exceeded",
            host_of(ip)
        )),
    }
}

async fn grpc_check(ip: IpAddr, port: u16, service: &str, agent: &str) -> Result<u64, String> {
    let authority = format!("{}:{port}", host_of(ip));
    let stream = tokio::net::TcpStream::connect((ip, port))
        .await
        .map_err(|e| {
            format!(
                "error: failed to connect service {authority:?}: {}",
                dial_error(&authority, &e)
            )
        })?;
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io)
            .await
            .map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let mut message = Vec::new();
    if !service.is_empty() {
        // Field 1, length-delimited.
        message.push(0x0a);
        varint(&mut message, service.len() as u64);
        message.extend_from_slice(service.as_bytes());
    }
    let mut body = vec![0u8];
    body.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    body.extend_from_slice(&message);
    let request = http::Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", agent)
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| e.to_string())?;
    let result = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let headers = response.headers().clone();
        let collected = response.into_body().collect().await.map_err(|e| e.to_string())?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        let code = headers
            .get("grpc-status")
            .or(trailers.get("grpc-status"))
            .and_then(|v| v.to_str().ok())
            .unwrap_or("0")
            .to_owned();
        match code.as_str() {
            "0" => {}
            "12" => return Err("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unknown service grpc.health.v1.Health".to_owned()),
            "5" => return Ok(3),
            other => return Err(format!("error: health rpc probe failed: grpc status {other}")),
        }
        Ok(health_status(collected.to_bytes()))
    }
    .await;
    driver.abort();
    result
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Returns the status from a framed `HealthCheckResponse`; 0 if it is absent.
fn health_status(mut body: Bytes) -> u64 {
    if body.len() < 5 {
        return 0;
    }
    body.advance(5);
    let mut body = body.as_ref();
    while let Some((tag, rest)) = read_varint(body) {
        let Some((value, rest)) = read_varint(rest) else {
            return 0;
        };
        match tag {
            0x08 => return value,
            t if t & 7 == 2 => {
                let Some(rest) = usize::try_from(value).ok().and_then(|n| rest.get(n..)) else {
                    return 0;
                };
                body = rest;
            }
            t if t & 7 == 0 => body = rest,
            _ => return 0,
        }
    }
    0
}

fn read_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (i, b) in bytes.iter().take(10).enumerate() {
        value |= u64::from(b & 0x7f) << (7 * i);
        if b & 0x80 == 0 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

/// Returns the `User-Agent` of probes.
pub(crate) fn probe_agent() -> String {
    let version = rkube_config::KUBERNETES_VERSION.trim_start_matches('v');
    let mut parts = version.split('.');
    format!(
        "kube-probe/{}.{}",
        parts.next().unwrap_or("1"),
        parts.next().unwrap_or("0")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    use proptest::prelude::*;

    #[test]
    fn urls() {
        let get = HTTPGetAction {
            path: Some("healthz?x=1".into()),
            port: IntOrString::String("web".into()),
            scheme: Some("HTTPS".into()),
            ..Default::default()
        };
        let container = Container {
            ports: Some(vec![k8s_openapi::api::core::v1::ContainerPort {
                name: Some("web".into()),
                container_port: 8443,
                ..Default::default()
            }]),
            ..Default::default()
        };
        assert_eq!(
            url(&get, &container, [10, 0, 0, 1].into()).unwrap(),
            "https://10.0.0.1:8443/healthz?x=1"
        );
        assert!(url(&get, &Container::default(), [10, 0, 0, 1].into()).is_err());
    }

    proptest! {
        #[test]
        fn grpc_answers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = health_status(bytes.into());
        }
    }

    #[test]
    fn grpc_answers() {
        assert_eq!(health_status(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1])), 1);
        assert_eq!(health_status(Bytes::from_static(&[0, 0, 0, 0, 0])), 0);
        assert!(probe_agent().starts_with("kube-probe/1."));
    }

    /// Serves one connection with a fixed response; returns the port.
    async fn server(response: &'static str) -> i32 {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                // A TCP probe sends nothing.
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(response.as_bytes()).await;
            }
        });
        i32::from(port)
    }

    async fn get(port: i32) -> Outcome {
        // The test process may not have a default TLS provider yet.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let get = HTTPGetAction {
            path: Some("/healthz".into()),
            port: IntOrString::Int(port),
            ..Default::default()
        };
        let ip = [127, 0, 0, 1].into();
        let timeout = Duration::from_secs(5);
        http_get(&get, &Container::default(), ip, timeout, &probe_agent()).await
    }

    #[tokio::test]
    async fn statuses_from_200_to_399_are_successes() {
        for (response, outcome) in [
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                Outcome::Success("ok".into()),
            ),
            (
                "HTTP/1.1 304 Not Modified\r\ncontent-length: 0\r\n\r\n",
                Outcome::Success(String::new()),
            ),
            (
                "HTTP/1.1 302 Found\r\nlocation: http://other.invalid/\r\ncontent-length: 0\r\n\r\n",
                Outcome::Success(String::new()),
            ),
            (
                "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
                Outcome::Failure("HTTP probe failed with statuscode: 404".into()),
            ),
        ] {
            assert_eq!(get(server(response).await).await, outcome, "{response}");
        }
    }

    #[tokio::test]
    async fn refused_connections_are_worded_as_by_go() {
        let port = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            i32::from(listener.local_addr().unwrap().port())
        };
        assert_eq!(
            get(port).await,
            Outcome::Failure(format!(
                "Get \"http://127.0.0.1:{port}/healthz\": dial tcp 127.0.0.1:{port}: connect: connection refused"
            ))
        );
        let action = TCPSocketAction {
            port: IntOrString::Int(port),
            host: None,
        };
        let ip = [127, 0, 0, 1].into();
        let timeout = Duration::from_secs(5);
        assert_eq!(
            tcp(&action, &Container::default(), ip, timeout).await,
            Outcome::Failure(format!(
                "dial tcp 127.0.0.1:{port}: connect: connection refused"
            ))
        );
        let open = TCPSocketAction {
            port: IntOrString::Int(server("").await),
            host: None,
        };
        assert_eq!(
            tcp(&open, &Container::default(), ip, timeout).await,
            Outcome::Success(String::new())
        );
    }

    proptest! {
        #[test]
        fn varints_round_trip(value: u64, rest in proptest::collection::vec(any::<u8>(), 0..4)) {
            let mut bytes = Vec::new();
            varint(&mut bytes, value);
            bytes.extend_from_slice(&rest);
            prop_assert_eq!(read_varint(&bytes), Some((value, &rest[..])));
        }
    }
}
