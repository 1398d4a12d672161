//! Forwarded requests, against a node agent that the test provides.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::support::{TestServer, own_address, start};

/// The node agent: answers logs with their query, upgrades with an echo, and everything else with
/// path and relevant headers.
async fn agent(
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    if request.headers().contains_key("upgrade") {
        let upgrade = request.headers()["upgrade"].clone();
        tokio::spawn(async move {
            let mut stream = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
            stream
                .write_all(format!("{path}?{query}\n").as_bytes())
                .await
                .unwrap();
            let mut buffer = [0; 64];
            while let Ok(n) = stream.read(&mut buffer).await {
                if n == 0 {
                    break;
                }
                stream.write_all(&buffer[..n]).await.unwrap();
            }
        });
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response
            .headers_mut()
            .insert("connection", "Upgrade".parse().unwrap());
        response.headers_mut().insert("upgrade", upgrade);
        return Ok(response);
    }
    if path.ends_with("/missing") {
        let mut response = Response::new(Full::from("no such container"));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return Ok(response);
    }
    if path.ends_with("/redirect") {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::FOUND;
        response
            .headers_mut()
            .insert("location", "/elsewhere".parse().unwrap());
        return Ok(response);
    }
    let secret = request.headers().contains_key("authorization");
    let uri = request
        .headers()
        .get("x-forwarded-uri")
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    Ok(Response::new(Full::from(format!(
        "{path}?{query} secret={secret} uri={uri}"
    ))))
}

/// Starts a node agent (TLS) and a plain HTTP server behind a pod, and creates their objects.
async fn with_agent() -> TestServer {
    let t = start().await;
    let address = own_address();
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor =
        tokio_rustls::TlsAcceptor::from(Arc::new(super::support::tls_config(&t.pki.pki).unwrap()));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                assert!(
                    stream.get_ref().1.peer_certificates().is_some(),
                    "the server shows who it is"
                );
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(agent))
                    .with_upgrades()
                    .await
                    .unwrap();
            });
        }
    });
    let plain = TcpListener::bind((address, 0)).await.unwrap();
    let plain_port = plain.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = plain.accept().await.unwrap();
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(agent))
                    .with_upgrades(),
            );
        }
    });
    t.post("/api/v1/nodes", json!({"metadata": {"name": "n1"}}))
        .await;
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": address}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }});
    let (code, node) = t
        .patch("/api/v1/nodes/n1/status", "merge-patch+json", status)
        .await;
    assert_eq!(code, 200, "{node}");
    t.post(
        "/api/v1/namespaces/default/serviceaccounts",
        json!({"metadata": {"name": "default"}}),
    )
    .await;
    let (code, pod) = t
        .post(
            "/api/v1/namespaces/default/pods",
            json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [
                {"name": "c", "image": "i", "ports": [{"containerPort": plain_port}]}]}}),
        )
        .await;
    assert_eq!(code, 201, "{pod}");
    let status =
        json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}});
    let (code, pod) = t
        .patch(
            "/api/v1/namespaces/default/pods/p/status",
            "strategic-merge-patch+json",
            status,
        )
        .await;
    assert_eq!(code, 200, "{pod}");
    t
}

#[tokio::test]
async fn logs_come_from_the_agent() {
    let t = with_agent().await;
    let (code, text) = t
        .get("/api/v1/namespaces/default/pods/p/log?tailLines=5&follow=false")
        .await;
    assert_eq!(code, 200, "{text}");
    assert!(
        text.as_str()
            .unwrap()
            .starts_with("/containerLogs/default/p/c?tailLines=5 "),
        "{text}"
    );
    let (code, status) = t
        .get("/api/v1/namespaces/default/pods/p/log?container=x")
        .await;
    assert_eq!(
        (code, status["message"].as_str().unwrap()),
        (400, "container x is not valid for pod p")
    );
    let (code, _) = t
        .get("/api/v1/namespaces/default/pods/p/log?tailLines=-1")
        .await;
    assert_eq!(code, 422);
    let (code, _) = t.get("/api/v1/namespaces/default/pods/none/log").await;
    assert_eq!(code, 404);
}

#[tokio::test]
async fn nodes_pods_and_services_are_proxied() {
    let t = with_agent().await;
    let (code, text) = t.get("/api/v1/nodes/n1/proxy/stats/summary?x=1").await;
    assert_eq!(code, 200, "{text}");
    assert!(
        text.as_str()
            .unwrap()
            .starts_with("/stats/summary?x=1 secret=false"),
        "{text}"
    );
    let pod = "/api/v1/namespaces/default/pods/p/proxy";
    let (code, text) = t.get(&format!("{pod}/a%2Fb/")).await;
    assert_eq!(code, 200, "{text}");
    assert_eq!(
        text.as_str().unwrap(),
        format!("/a/b/? secret=false uri={pod}/a/b/"),
        "decoded as a whole, as by upstream"
    );
    assert_eq!(t.get(pod).await.0, 301);
    let request = Request::builder()
        .uri(format!("{pod}/redirect"))
        .body(crate::body::empty())
        .unwrap();
    let response = t.send(request).await;
    assert_eq!(
        (
            response.status().as_u16(),
            response.headers()["location"].to_str().unwrap()
        ),
        (302, &*format!("{pod}/elsewhere"))
    );
    let (code, status) = t
        .get("/api/v1/namespaces/default/services/kubernetes:nope/proxy/")
        .await;
    assert_eq!(code, 503, "{status}");
    let (code, _) = t
        .call(Method::POST, &format!("{pod}/x"), "text/plain", "hello")
        .await;
    assert_eq!(code, 200);
}

async fn endpoints(t: &TestServer, name: &str, endpoint: serde_json::Value, port: u16) {
    let namespace = "/api/v1/namespaces/default";
    let (code, made) = t
        .post(
            &format!("{namespace}/services"),
            json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80, "targetPort": port}]}}),
        )
        .await;
    assert_eq!(code, 201, "{made}");
    let slice = json!({"addressType": "IPv4",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "endpoints": [endpoint], "ports": [{"name": "", "port": port, "protocol": "TCP"}]});
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let (code, made) = t.post(slices, slice).await;
    assert_eq!(code, 201, "{made}");
}

#[tokio::test]
async fn nothing_but_nodes_and_pods_is_proxied_to() {
    let t = with_agent().await;
    let (pods, nodes) = ("/api/v1/namespaces/default/pods", "/api/v1/nodes");
    let (_, pod) = t.get(&format!("{pods}/p")).await;
    let port = pod["spec"]["containers"][0]["ports"][0]["containerPort"].as_u64();
    let port = u16::try_from(port.unwrap()).unwrap();
    let address = own_address();
    // Services lead to pods of their namespace, not to whatever address a slice has.
    let target = |name: &str| json!({"kind": "Pod", "namespace": "default", "name": name});
    let good = json!({"addresses": [address], "targetRef": target("p")});
    let stranger = json!({"addresses": [address], "targetRef": target("other")});
    let moved = json!({"addresses": ["10.9.8.7"], "targetRef": target("p")});
    let bare = json!({"addresses": [address]});
    for (name, endpoint, wanted) in [
        ("good", good, 200),
        ("stranger", stranger, 503),
        ("moved", moved, 503),
        ("bare", bare, 503),
    ] {
        endpoints(&t, name, endpoint, port).await;
        let path = format!("/api/v1/namespaces/default/services/{name}/proxy/x");
        let (code, answer) = t.get(&path).await;
        assert_eq!(code, wanted, "{name}: {answer}");
    }
    // The addresses that nodes and pods report must be global ones.
    for wrong in ["127.0.0.1", "169.254.169.254", "0.0.0.0", "::1", "fe80::1"] {
        let status = json!({"status": {"podIP": wrong, "podIPs": [{"ip": wrong}]}});
        let (code, pod) = t
            .patch(&format!("{pods}/p/status"), "merge-patch+json", status)
            .await;
        assert_eq!(code, 200, "{pod}");
        let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": wrong}]}});
        let (code, node) = t
            .patch(&format!("{nodes}/n1/status"), "merge-patch+json", status)
            .await;
        assert_eq!(code, 200, "{node}");
        for path in [
            format!("{pods}/p/proxy/x"),
            format!("{pods}/p:{port}/proxy/x"),
            format!("{nodes}/n1/proxy/pods"),
            format!("{nodes}/n1:{port}/proxy/x"),
            format!("{nodes}/https:n1:8443/proxy/api"),
        ] {
            let (code, status) = t.get(&path).await;
            assert_eq!(
                (code, &status["message"]),
                (400, &json!("address not allowed")),
                "{wrong} {path}"
            );
        }
    }
}

#[tokio::test]
async fn exec_is_joined_byte_for_byte() {
    let t = with_agent().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(
        t.server
            .clone()
            .serve(listener, tokio_util::sync::CancellationToken::new()),
    );
    let mut tls = super::basics::client_tls(&t, true);
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(tls))
        .connect(name, stream)
        .await
        .unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = Request::builder()
        .method(Method::POST)
        .uri("/api/v1/namespaces/default/pods/p/exec?command=ls&command=-l&stdin=true&stdout=true&stderr=false")
        .header("host", "x")
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1")
        .header("content-length", "0")
        .body(Full::<Bytes>::default())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 101);
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let expected = b"/exec/default/p/c?input=1&output=1&command=ls&command=-l\n";
    let mut buffer = vec![0; expected.len()];
    stream.read_exact(&mut buffer).await.unwrap();
    assert_eq!(
        String::from_utf8_lossy(&buffer),
        String::from_utf8_lossy(expected)
    );
    stream.write_all(b"ping").await.unwrap();
    let mut buffer = [0; 4];
    stream.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"ping");
    // Streams require an upgrade.
    let (code, _) = t
        .get("/api/v1/namespaces/default/pods/p/exec?command=ls")
        .await;
    assert_eq!(code, 400);
}

#[tokio::test]
async fn a_watch_over_websocket() {
    let t = start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(
        t.server
            .clone()
            .serve(listener, tokio_util::sync::CancellationToken::new()),
    );
    let mut tls = super::basics::client_tls(&t, true);
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(tls))
        .connect(name, stream)
        .await
        .unwrap();
    stream
        .write_all(
            b"GET /api/v1/namespaces?watch=1&timeoutSeconds=1&fieldSelector=metadata.name=default HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
              Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await
        .unwrap();
    // A ping with the mask 0, and what answers it.
    let ping = [0x89, 0x82, 0, 0, 0, 0, b'h', b'i'];
    let pong = [0x8a, 2, b'h', b'i'];
    // The watch ends with the close code 1000.
    let close = [0x88, 2, 0x03, 0xe8];
    stream.write_all(&ping).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(&close) {
        let n = stream.read_buf(&mut answer).await.unwrap();
        assert!(n > 0);
    }
    assert!(answer.windows(4).any(|part| part == pong));
    stream
        .write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8])
        .await
        .unwrap();
    // The end of the connection may come without TLS's notice of it.
    let rest = stream.read_to_end(&mut Vec::new()).await;
    assert!(!rest.is_ok_and(|n| n > 0));
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
    assert!(answer.contains("\"type\":\"ADDED\""), "{answer}");
}

#[tokio::test]
async fn bodies_without_end_are_cut_off() {
    let t = start().await;
    let (code, _) = t
        .call(
            Method::POST,
            "/api/v1/namespaces/default/configmaps",
            "application/json",
            vec![b' '; crate::body::MAX_REQUEST_BYTES + 1],
        )
        .await;
    assert_eq!(code, 413);
    let deep = "[".repeat(100_000);
    let (code, _) = t
        .call(
            Method::POST,
            "/api/v1/namespaces/default/configmaps",
            "application/json",
            deep,
        )
        .await;
    assert_eq!(code, 400);
}
