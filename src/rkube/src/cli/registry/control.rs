//! Requests to the process of the registry.

use std::net::Ipv4Addr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rkube_cluster::{Home, RegistrySettings};
use rkube_failure::{Failure, Kind, Source};
use rkube_registry::Collected;
use tokio::net::TcpStream;

use super::super::Output;
use super::process::size;

/// The time for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// What is read of it.
const MAX_ANSWER: u64 = 4096;

/// Removes garbage.
pub async fn collect(
    home: &Home,
    older_than: Duration,
    untagged: bool,
    output: &Output,
) -> Result<(), Failure> {
    let settings = RegistrySettings::load(home)?.ok_or_else(rkube_cluster::no_registry)?;
    let mut path = format!("/rkube/collect?grace={}", older_than.as_secs());
    if untagged {
        path.push_str("&untagged");
    }
    let collected = post(&settings, &path).await.map_err(|e| {
        let why = format!("the registry does not answer: {e}");
        Failure::new(Source::Host, Kind::Unavailable, why)
            .advise("start it again with: rkube registry create")
    })?;
    output.result(&collected, || {
        format!(
            "{} freed: {} blobs, {} images without a tag, {} uploads.",
            size(collected.bytes),
            collected.blobs,
            collected.manifests,
            collected.uploads
        )
    });
    Ok(())
}

/// Whether the registry answers at an address.
pub async fn answers(address: Ipv4Addr, port: u16) -> bool {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let ask = async {
        let mut stream = TcpStream::connect((address, port)).await?;
        let request = b"GET /v2/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    match tokio::time::timeout(ANSWER_TIMEOUT, ask).await {
        Ok(Ok(answer)) => answer.contains("docker-distribution-api-version"),
        _ => false,
    }
}

async fn post(settings: &RegistrySettings, path: &str) -> std::io::Result<Collected> {
    let other = std::io::Error::other::<hyper::Error>;
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, settings.port)).await?;
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
        .await
        .map_err(other)?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, "localhost")
        .header("rkube-control", &settings.control)
        .body(Empty::<Bytes>::new())
        .map_err(std::io::Error::other)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(other)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(other)?;
        match status.is_success() {
            true => Ok(serde_json::from_slice(&body.to_bytes())?),
            false => Err(std::io::Error::other(format!("status {status}"))),
        }
    };
    tokio::select! {
        answer = answer => answer,
        ended = connection => Err(match ended {
            Ok(()) => std::io::Error::from(std::io::ErrorKind::UnexpectedEof),
            Err(e) => other(e),
        }),
    }
}
