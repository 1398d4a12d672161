use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::{Request, Response, Version};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::harness::{Body, Running, backend, code, echo, full, objects, start};
use crate::body::Error;

fn frames(frames: Vec<Frame<Bytes>>) -> Body {
    let frames = frames.into_iter().map(Ok::<_, Error>);
    BodyExt::boxed(StreamBody::new(futures::stream::iter(frames)))
}

async fn http2_client(running: &Running) -> http2::SendRequest<Body> {
    let stream = TcpStream::connect(running.plain).await.unwrap();
    let started = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = started.unwrap();
    tokio::spawn(connection);
    sender
}

/// Answers as a gRPC server: with the messages that it got, and trailers.
async fn grpc() -> std::net::SocketAddr {
    backend(|request| async move {
        assert_eq!(request.version(), Version::HTTP_2);
        assert_eq!(request.uri().authority().unwrap(), "web.test");
        assert_eq!(request.headers()["te"], "trailers");
        let got = request.into_body().collect().await.unwrap().to_bytes();
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        Response::new(frames(vec![Frame::data(got), Frame::trailers(trailers)]))
    })
    .await
}

#[tokio::test]
async fn grpc_passes_with_its_trailers() {
    let running = start(&objects(
        &["/"],
        &[("backend-protocol", "GRPC")],
        &[grpc().await],
    ))
    .await;
    let mut client = http2_client(&running).await;
    for i in 0..3 {
        let request = Request::post("http://web.test/service/Method")
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .body(frames(vec![Frame::data(format!("message {i}").into())]))
            .unwrap();
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(collected.to_bytes(), format!("message {i}"));
    }
}

#[tokio::test]
async fn both_directions_stream_at_once() {
    // Answers each part before the next one comes.
    let echo = backend(|request| async move {
        let parts = request.into_body().into_data_stream();
        let parts = parts.map(|part| part.map(Frame::data).map_err(Error::from));
        Response::new(BodyExt::boxed(StreamBody::new(parts)))
    })
    .await;
    let running = start(&objects(&["/"], &[("backend-protocol", "GRPC")], &[echo])).await;
    let mut client = http2_client(&running).await;
    let (mut parts, body) = futures::channel::mpsc::channel::<Result<Frame<Bytes>, Error>>(1);
    let request = Request::post("http://web.test/").body(BodyExt::boxed(StreamBody::new(body)));
    let response = client.send_request(request.unwrap()).await.unwrap();
    let mut answer = response.into_body().into_data_stream();
    for i in 0..5 {
        let part = Bytes::from(format!("part {i}"));
        parts.send(Ok(Frame::data(part.clone()))).await.unwrap();
        assert_eq!(answer.next().await.unwrap().unwrap(), part);
    }
}

async fn repeat_messages(stream: TcpStream) {
    let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
    while let Some(Ok(message)) = socket.next().await {
        if message.is_text() {
            socket.send(message).await.unwrap();
        }
    }
}

#[tokio::test]
async fn websockets_pass() {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = server.accept().await.unwrap();
            tokio::spawn(repeat_messages(stream));
        }
    });
    let running = start(&objects(&["/"], &[], &[address])).await;
    let stream = TcpStream::connect(running.plain).await.unwrap();
    let (mut socket, response) = tokio_tungstenite::client_async("ws://web.test/chat", stream)
        .await
        .unwrap();
    assert_eq!(response.status(), 101);
    for text in ["one", "two"] {
        socket.send(text.into()).await.unwrap();
        assert_eq!(
            socket.next().await.unwrap().unwrap().to_text().unwrap(),
            text
        );
    }
}

#[tokio::test]
async fn bodies_pass_whole_and_wait_for_slow_readers() {
    let length = backend(|request| async move {
        let size = request
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .len();
        Response::new(full(size.to_string()))
    })
    .await;
    let running = start(&objects(&["/"], &[], &[length])).await;
    let part = "x".repeat(1 << 20);
    let mut request = "POST / HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
    for _ in 0..20 {
        request += &format!("{:x}\r\n{part}\r\n", part.len());
    }
    request += "0\r\n\r\n";
    let answer = running.raw(&request).await;
    assert!(
        code(&answer) == 200 && answer.ends_with(&(20 << 20).to_string()),
        "{answer}"
    );

    let sent = Arc::new(AtomicUsize::new(0));
    let endless = {
        let sent = sent.clone();
        backend(move |_| {
            let sent = sent.clone();
            let parts = futures::stream::repeat_with(move || {
                sent.fetch_add(64 << 10, Ordering::Relaxed);
                Ok::<_, Error>(Frame::data(Bytes::from(vec![b'x'; 64 << 10])))
            });
            let body = BodyExt::boxed(StreamBody::new(parts));
            std::future::ready(Response::new(body))
        })
        .await
    };
    let running = start(&objects(&["/"], &[], &[endless])).await;
    let mut stream = TcpStream::connect(running.plain).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: web.test\r\n\r\n")
        .await
        .unwrap();
    let mut some = vec![0; 100 << 10];
    stream.read_exact(&mut some).await.unwrap();
    // Until nothing moves.
    let mut last = 0;
    while last != sent.load(Ordering::Relaxed) {
        last = sent.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // What the buffers of two connections take.
    assert!(last < 32 << 20, "{last}");
}

#[tokio::test]
async fn large_bodies_are_refused() {
    let running = start(&objects(
        &["/"],
        &[("proxy-body-size", "1k")],
        &[echo().await],
    ))
    .await;
    let head = "POST / HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n";
    let body = "x".repeat(2000);
    for (expected, rest) in [
        (413, format!("Content-Length: 2000\r\n\r\n{body}")),
        (
            413,
            format!("Transfer-Encoding: chunked\r\n\r\n7d0\r\n{body}\r\n0\r\n\r\n"),
        ),
        (
            200,
            format!("Content-Length: 1000\r\n\r\n{}", &body[..1000]),
        ),
    ] {
        assert_eq!(
            code(&running.raw(&format!("{head}{rest}")).await),
            expected,
            "{rest}"
        );
    }
}

#[tokio::test]
async fn slow_sides_are_not_waited_for() {
    let silent = backend(|_| async { std::future::pending::<Response<Body>>().await }).await;
    let limits = [("proxy-read-timeout", "1"), ("proxy-send-timeout", "1")];
    let running = start(&objects(&["/"], &limits, &[silent])).await;
    assert_eq!(code(&running.get("/", "").await), 504);
    let running = start(&objects(&["/"], &limits, &[echo().await])).await;
    let stuck =
        "POST / HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\nContent-Length: 9\r\n\r\nabc";
    assert_eq!(code(&running.raw(stuck).await), 408);
}

#[tokio::test]
async fn open_requests_end_after_the_stop() {
    let slow = backend(|_| async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Response::new(full("done"))
    })
    .await;
    let running = start(&objects(&["/"], &[], &[slow])).await;
    let mut stream = TcpStream::connect(running.plain).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: web.test\r\n\r\n")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    running.stop.cancel();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.ends_with("done") && answer.contains("connection: close"),
        "{answer}"
    );
    running.served.await.unwrap();
    TcpStream::connect(running.plain).await.unwrap_err();
}

#[tokio::test]
async fn tls_has_certificates_by_name_and_http_is_redirected() {
    let mut objects = objects(&["/"], &[], &[echo().await]);
    let mut ingress = (*objects.ingresses[0]).clone();
    ingress.spec.as_mut().unwrap().tls = Some(vec![
        serde_json::from_value(serde_json::json!({ "hosts": ["web.test"], "secretName": "t" }))
            .unwrap(),
    ]);
    objects.ingresses = vec![ingress.into()];
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["web.test".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let mut secret = k8s_openapi::api::core::v1::Secret::default();
    secret.metadata.name = Some("t".into());
    secret.metadata.namespace = Some("default".into());
    secret.data = Some(
        [
            (
                "tls.crt".to_owned(),
                k8s_openapi::ByteString(certificate.pem().into_bytes()),
            ),
            (
                "tls.key".to_owned(),
                k8s_openapi::ByteString(key.serialize_pem().into_bytes()),
            ),
        ]
        .into(),
    );
    objects.secrets = vec![secret.into()];
    let running = start(&objects).await;

    let answer = running.get("/a?b", "").await;
    assert_eq!(code(&answer), 308);
    assert!(
        answer.contains("location: https://web.test/a?b\r\n"),
        "{answer}"
    );
    assert_eq!(
        code(&running.get("/.well-known/acme-challenge/x", "").await),
        200
    );

    for alpn in [&b"h2"[..], b"http/1.1"] {
        let mut config = crate::tls::backend_config();
        config.alpn_protocols = vec![alpn.to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = TcpStream::connect(running.secure).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("web.test").unwrap();
        let stream = connector.connect(name, stream).await.unwrap();
        let session = stream.get_ref().1;
        assert_eq!(session.peer_certificates().unwrap()[0], *certificate.der());
        assert_eq!(session.alpn_protocol().unwrap(), alpn);
        let request = Request::get("https://web.test/x").header("host", "web.test");
        let response = if alpn == b"h2" {
            let started = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
            let (mut sender, connection) = started.unwrap();
            tokio::spawn(connection);
            let request = Request::get("https://web.test/x")
                .header("cookie", "a=1")
                .header("cookie", "b=2");
            sender
                .send_request(request.body(full("")).unwrap())
                .await
                .unwrap()
        } else {
            let started = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
            let (mut sender, connection) = started.unwrap();
            tokio::spawn(connection);
            sender
                .send_request(request.header("cookie", "a=1; b=2").body(full("")).unwrap())
                .await
                .unwrap()
        };
        let text = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(text.contains("x-forwarded-proto: https\n"), "{text}");
        assert!(text.contains("x-forwarded-port: 443\n"), "{text}");
        assert!(text.contains("cookie: a=1; b=2\n"), "{text}");
    }
}

#[tokio::test]
async fn no_request_is_lost_while_endpoints_change() {
    let (first, second) = (echo().await, echo().await);
    let running = start(&objects(&["/"], &[], &[first, second])).await;
    let gone = super::harness::nobody().await;
    let stop = Arc::new(AtomicUsize::new(0));
    let load = (0..4).map(|_| {
        let (address, stop) = (running.plain, stop.clone());
        tokio::spawn(async move {
            let stream = TcpStream::connect(address).await.unwrap();
            let started = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
            let (mut sender, connection) = started.unwrap();
            tokio::spawn(connection);
            let mut count = 0;
            while stop.load(Ordering::Relaxed) == 0 {
                sender.ready().await.unwrap();
                let request = Request::post("/")
                    .header("host", "web.test")
                    .body(full("x"));
                let response = sender.send_request(request.unwrap()).await.unwrap();
                assert_eq!(response.status(), 200);
                response.into_body().collect().await.unwrap();
                count += 1;
            }
            Ok::<_, Infallible>(count)
        })
    });
    let load: Vec<_> = load.collect();
    for endpoints in [[first, gone], [second, gone], [first, second]]
        .iter()
        .cycle()
        .take(60)
    {
        let table = crate::compile::compile(&objects(&["/"], &[], endpoints)).table;
        running.proxy.load(table);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.store(1, Ordering::Relaxed);
    for task in load {
        assert!(task.await.unwrap().unwrap() > 0);
    }
}
