//! Hostile clients on the level of connections: too many of them, silent ones, and abuse of
//! HTTP/2. Others are served all the while.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::basics::client_tls;
use super::support::{TestServer, start};
use crate::connections::Limits;

/// The time limit for expected events.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);
/// The preface of an HTTP/2 client, and its empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Types of HTTP/2 frames (RFC 9113, section 6).
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
/// Flags of `HEADERS`: the request has no body, and no more headers.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

async fn listen(t: &TestServer, limits: Limits) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = t.server.certificates.serving.clone();
    let tls = crate::server::tls_config(&t.pki.pki, serving).unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(crate::server::serve(
        t.server.clone(),
        listener,
        tls,
        stop,
        limits,
    ));
    address
}

/// Opens a TLS connection; with `identity`, as the administrator.
async fn connect(
    t: &TestServer,
    address: SocketAddr,
    identity: bool,
    protocol: &str,
) -> TlsStream<TcpStream> {
    let mut tls = client_tls(t, identity);
    tls.alpn_protocols = vec![protocol.into()];
    let stream = TcpStream::connect(address).await.unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(tls))
        .connect("127.0.0.1".try_into().unwrap(), stream)
        .await
        .unwrap()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// Returns the header block of `GET path`: indexed fields and literals (RFC 7541).
fn get(path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x87, 0x01, 1, b'x', 0x04];
    block.push(u8::try_from(path.len()).unwrap());
    block.extend(path.as_bytes());
    block
}

/// Reads frames until the server closes the connection. Returns their types.
async fn frames(stream: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let read = async {
        let mut kinds = Vec::new();
        let mut head = [0; 9];
        // A connection that is reset ends as well.
        while stream.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            kinds.push(head[3]);
            if stream.read_exact(&mut payload).await.is_err() {
                break;
            }
        }
        kinds
    };
    tokio::time::timeout(WAIT_TIMEOUT, read)
        .await
        .expect("the server closes the connection")
}

/// Waits until the server closes a connection.
async fn closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    // A connection that is reset ends as well.
    let _ = tokio::time::timeout(WAIT_TIMEOUT, stream.read_to_end(&mut rest))
        .await
        .expect("the server closes the connection");
}

/// Checks that an administrator is served, on a connection from another address.
async fn serves_others(t: &TestServer, address: SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let stream = socket.connect(address).await.unwrap();
    let tls = Arc::new(client_tls(t, true));
    let mut stream = tokio_rustls::TlsConnector::from(tls)
        .connect("127.0.0.1".try_into().unwrap(), stream)
        .await
        .unwrap();
    stream
        .write_all(b"GET /api/v1/nodes HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn strangers_take_nobodys_place() {
    let t = start().await;
    let limits = Limits {
        all: 8,
        per_address: 4,
        reserved: 0,
        strangers: 6,
        strangers_per_address: 3,
        ..Limits::of_process()
    };
    let address = listen(&t, limits).await;
    // As many bare connections as strangers may have. The oldest one makes room.
    let mut bare = Vec::new();
    for last in 2..8 {
        let socket = TcpSocket::new_v4().unwrap();
        let from = SocketAddr::from(([127, 0, 0, last], 0));
        socket.bind(from).unwrap();
        bare.push(socket.connect(address).await.unwrap());
    }
    serves_others(&t, address).await;
    serves_others(&t, address).await;
    drop(bare);
    // Without a word, during the handshake, and after it without a credential.
    let silent = TcpStream::connect(address).await.unwrap();
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(b"\x16\x03\x01\x02\0\x01").await.unwrap();
    let nobody = connect(&t, address, false, "http/1.1").await;
    serves_others(&t, address).await;
    drop((silent, half, nobody));
    // An authenticated client does not count among the others.
    let mut known = Vec::new();
    while known.len() < 4 {
        let mut stream = connect(&t, address, true, "http/1.1").await;
        stream
            .write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        // The server may still count the connections that were just dropped.
        let mut answer = [0; 12];
        match stream.read_exact(&mut answer).await {
            Ok(_) => known.push(stream),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    let mut one_more = TcpStream::connect(address).await.unwrap();
    closed(&mut one_more).await;
    serves_others(&t, address).await;
}

#[tokio::test]
async fn silent_clients_are_disconnected() {
    let t = start().await;
    let limits = Limits {
        idle: Duration::from_millis(50),
        ..Limits::of_process()
    };
    let address = listen(&t, limits).await;
    // Bytes after which the server still waits for the protocol, the settings, or a request.
    for (protocol, sent) in [
        ("http/1.1", &b""[..]),
        ("http/1.1", b"GET /ver"),
        ("http/1.1", b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("h2", b"PRI * HT"),
        ("h2", PREFACE),
        (
            "h2",
            &[PREFACE, &[0, 1, 0, HEADERS, 0, 0, 0, 0, 1]].concat(),
        ),
    ] {
        let mut stream = connect(&t, address, true, protocol).await;
        stream.write_all(sent).await.unwrap();
        closed(&mut stream).await;
    }
    serves_others(&t, address).await;
}

#[tokio::test]
async fn a_client_that_nobody_knows_gets_one_answer() {
    let t = start().await;
    let address = listen(&t, Limits::of_process()).await;
    for path in ["/api/v1/secrets", "/livez"] {
        let mut stream = connect(&t, address, false, "h2").await;
        let request = frame(HEADERS, END_STREAM | END_HEADERS, 1, &get(path));
        stream
            .write_all(&[PREFACE, &request].concat())
            .await
            .unwrap();
        let kinds = frames(&mut stream).await;
        assert!(kinds.contains(&HEADERS), "{path}: {kinds:?}");
        assert!(kinds.contains(&GOAWAY), "{path}: {kinds:?}");
    }
    let mut stream = connect(&t, address, false, "http/1.1").await;
    let request = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(request).await.unwrap();
    closed(&mut stream).await;
    // One that asks on and on is cut off.
    let mut stream = connect(&t, address, false, "h2").await;
    stream.write_all(PREFACE).await.unwrap();
    let (mut from, mut to) = tokio::io::split(stream);
    let asking = tokio::spawn(async move {
        for stream in (1..).step_by(2) {
            let request = frame(HEADERS, END_STREAM | END_HEADERS, stream, &get("/livez"));
            if to.write_all(&request).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    closed(&mut from).await;
    drop(from);
    tokio::time::timeout(WAIT_TIMEOUT, asking)
        .await
        .unwrap()
        .unwrap();
}

/// CVE-2023-44487: requests that are cancelled at once are in no limit of concurrent ones.
#[tokio::test]
async fn cancelled_requests_end_a_connection() {
    let t = start().await;
    let address = listen(&t, Limits::of_process()).await;
    let mut stream = connect(&t, address, true, "h2").await;
    stream.write_all(PREFACE).await.unwrap();
    let (mut from, mut to) = tokio::io::split(stream);
    let sending = tokio::spawn(async move {
        for stream in (1..).step_by(2) {
            // The server waits for that revision until the request is cancelled.
            let path = "/api/v1/pods?resourceVersion=999999999";
            let request = frame(HEADERS, END_STREAM | END_HEADERS, stream, &get(path));
            let reset = frame(RST_STREAM, 0, stream, &8u32.to_be_bytes());
            if to.write_all(&request).await.is_err() || to.flush().await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            if to.write_all(&reset).await.is_err() {
                return;
            }
        }
    });
    closed(&mut from).await;
    drop(from);
    tokio::time::timeout(WAIT_TIMEOUT, sending)
        .await
        .unwrap()
        .unwrap();
    serves_others(&t, address).await;
}

/// CVE-2023-45288 and its kin: headers without an end.
#[tokio::test]
async fn endless_headers_end_a_connection() {
    let t = start().await;
    let address = listen(&t, Limits::of_process()).await;
    let mut stream = connect(&t, address, false, "h2").await;
    let first = frame(HEADERS, END_STREAM, 1, &get("/livez"));
    stream.write_all(&[PREFACE, &first].concat()).await.unwrap();
    // A literal field that is not indexed: its name has one byte, its value 100.
    let field = [&[0, 1, b'a', 100][..], &[b'x'; 100]].concat();
    let more = frame(CONTINUATION, 0, 1, &field.repeat(100));
    let mut sent = 0;
    while stream.write_all(&more).await.is_ok() && stream.flush().await.is_ok() {
        sent += more.len();
        assert!(sent < 64 << 20, "the server reads on");
    }
    serves_others(&t, address).await;
}

/// Asks as the administrator for a watch of namespaces that takes a second, with `headers`.
async fn watch(t: &TestServer, address: SocketAddr, headers: &str) -> TlsStream<TcpStream> {
    let mut stream = connect(t, address, true, "http/1.1").await;
    let path = "/api/v1/namespaces?watch=1&timeoutSeconds=1";
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_watch_is_no_idleness() {
    let t = start().await;
    let limits = Limits {
        idle: Duration::from_millis(50),
        ..Limits::of_process()
    };
    let address = listen(&t, limits).await;
    let began = std::time::Instant::now();
    let mut stream = watch(&t, address, "").await;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(WAIT_TIMEOUT, read).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(900));
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.ends_with("0\r\n\r\n"), "the watch ends: {answer}");
}

#[tokio::test]
async fn a_connection_counts_after_an_upgrade() {
    let t = start().await;
    let limits = Limits {
        per_address: 1,
        ..Limits::of_process()
    };
    let address = listen(&t, limits).await;
    let headers = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mut stream = watch(&t, address, headers).await;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");
    let mut one_more = TcpStream::connect(address).await.unwrap();
    closed(&mut one_more).await;
    serves_others(&t, address).await;
}
