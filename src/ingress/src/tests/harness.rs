//! A proxy with one Ingress, its backends and clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::matching::{class, ingress, object};
use crate::body::Error;
use crate::compile::{Objects, compile};
use crate::proxy::Proxy;
use crate::server::{Entrance, serve};

pub type Body = BoxBody<Bytes, Error>;

/// Returns a body of one part.
pub fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into())
        .map_err(|never| match never {})
        .boxed()
}

/// Starts a backend; `answer` gets each request.
pub async fn backend<F, A>(answer: A) -> SocketAddr
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer_all(stream, answer.clone()));
        }
    });
    address
}

async fn answer_all<F, A>(stream: TcpStream, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answer = answer(request);
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await
        .ok();
}

/// Starts a backend that answers with method, target, headers and body of each request.
pub async fn echo() -> SocketAddr {
    backend(|request| async move {
        let (parts, body) = request.into_parts();
        let mut text = format!("{} {}\n", parts.method, parts.uri);
        for (name, value) in &parts.headers {
            text += &format!("{name}: {}\n", value.to_str().unwrap());
        }
        let body = body
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes);
        text += "\n";
        text += &String::from_utf8_lossy(&body.unwrap_or_default());
        Response::new(full(text))
    })
    .await
}

/// Returns an address at which nobody listens.
pub async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// A running proxy.
pub struct Running {
    pub proxy: Arc<Proxy>,
    pub plain: SocketAddr,
    pub secure: SocketAddr,
    pub stop: CancellationToken,
    pub served: tokio::task::JoinHandle<()>,
}

/// The objects of an Ingress for `web.test` with these paths, annotations and endpoints.
pub fn objects(paths: &[&str], annotations: &[(&str, &str)], endpoints: &[SocketAddr]) -> Objects {
    let rules: Vec<_> = paths
        .iter()
        .map(|path| ("web.test", "ImplementationSpecific", *path, "web"))
        .collect();
    let mut ingress = ingress("i", 0, &rules);
    let annotations: serde_json::Map<String, Value> = annotations
        .iter()
        .map(|(name, value)| (format!("{}{name}", crate::settings::PREFIX), json!(value)))
        .collect();
    ingress["metadata"]["annotations"] = Value::Object(annotations);
    let slices = endpoints.iter().enumerate().map(|(i, endpoint)| {
        object(json!({
            "metadata": {
                "name": format!("web-{i}"),
                "namespace": "default",
                "labels": { "kubernetes.io/service-name": "web" },
            },
            "addressType": "IPv4",
            "endpoints": [{ "addresses": [endpoint.ip()] }],
            "ports": [{ "port": endpoint.port() }],
        }))
    });
    Objects {
        ingresses: vec![object(ingress)],
        classes: vec![class()],
        services: vec![object(json!({
            "metadata": { "name": "web", "namespace": "default" },
            "spec": { "ports": [{ "port": 80 }] },
        }))],
        slices: slices.collect(),
        fallback: Some(crate::certificates::self_signed().unwrap()),
        ..Objects::default()
    }
}

/// Starts a proxy with these objects.
pub async fn start(objects: &Objects) -> Running {
    let proxy = Proxy::new(nobody().await);
    proxy.load(compile(objects).table);
    let stop = CancellationToken::new();
    let listen = || async { TcpListener::bind("127.0.0.1:0").await.unwrap() };
    let (plain, secure) = (listen().await, listen().await);
    let tls = crate::tls::client_side(&proxy).unwrap();
    let addresses = (plain.local_addr().unwrap(), secure.local_addr().unwrap());
    let entrances = [
        Entrance {
            listener: plain,
            port: 80,
            tls: None,
        },
        Entrance {
            listener: secure,
            port: 443,
            tls: Some(tls),
        },
    ];
    let [plain, secure] = entrances.map(|entrance| serve(entrance, proxy.clone(), stop.clone()));
    let served = tokio::spawn(async move {
        tokio::join!(plain, secure);
    });
    Running {
        proxy,
        plain: addresses.0,
        secure: addresses.1,
        stop,
        served,
    }
}

impl Running {
    /// Sends bytes and returns what comes back until the end, which `Connection: close` asks for.
    pub async fn raw(&self, text: &str) -> String {
        let mut stream = TcpStream::connect(self.plain).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        // Whoever is refused may be reset.
        let _ = tokio::time::timeout(Duration::from_secs(20), read)
            .await
            .expect("an answer");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Sends a request for a path of `web.test`.
    pub async fn get(&self, path: &str, headers: &str) -> String {
        self.raw(&format!(
            "GET {path} HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n{headers}\r\n"
        ))
        .await
    }
}

/// Returns the code of a response.
pub fn code(response: &str) -> u16 {
    let code = response
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok());
    code.unwrap_or_else(|| panic!("{response:?}"))
}
