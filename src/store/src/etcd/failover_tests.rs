//! The connection to several servers, some of which do not serve.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use super::grpc::{Channel, Endpoint, Failure};
use super::wire;

/// Counts of the requests to a server.
#[derive(Default)]
struct RequestCounts {
    calls: AtomicUsize,
    require_leader: AtomicUsize,
}

/// Starts a server that answers every call, with a message or without a leader.
async fn server(serves: bool) -> (Endpoint, Arc<RequestCounts>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint {
        host: "127.0.0.1".into(),
        port: listener.local_addr().unwrap().port(),
        address: None,
    };
    let seen = Arc::new(RequestCounts::default());
    let state = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let state = state.clone();
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                state.calls.fetch_add(1, Ordering::Relaxed);
                if request
                    .headers()
                    .get("hasleader")
                    .is_some_and(|v| v == "true")
                {
                    state.require_leader.fetch_add(1, Ordering::Relaxed);
                }
                std::future::ready(Ok::<_, Infallible>(answer(serves)))
            });
            tokio::spawn(
                http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    (endpoint, seen)
}

fn answer(serves: bool) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    if !serves {
        // Headers alone carry an error without a message.
        return Response::builder()
            .header("grpc-status", "14")
            .header("grpc-message", "etcdserver: no leader")
            .body(Full::default().boxed_unsync())
            .unwrap();
    }
    let trailers = HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    let body = Full::new(wire::frame(b"served"))
        .with_trailers(std::future::ready(Some(Ok(trailers))))
        .boxed_unsync();
    Response::new(body)
}

#[tokio::test]
async fn a_server_without_a_leader_is_left() {
    let (lost, lost_seen) = server(false).await;
    let (good, good_seen) = server(true).await;
    let channel = Channel::new(vec![lost, good], None);
    let first = channel.call("/etcdserverpb.KV/Txn", b"").await;
    assert!(
        matches!(first, Err(Failure::Status { code: 14, .. })),
        "a write is not repeated: {first:?}"
    );
    for _ in 0..3 {
        let served = channel.call("/etcdserverpb.KV/Txn", b"").await.unwrap();
        assert_eq!(served, "served");
    }
    assert_eq!(lost_seen.calls.load(Ordering::Relaxed), 1);
    assert_eq!(good_seen.calls.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_stream_needs_a_leader_and_leaves_a_server_without_one() {
    let (lost, lost_seen) = server(false).await;
    let (good, good_seen) = server(true).await;
    let channel = Channel::new(vec![lost, good.clone()], None);
    let open = || channel.stream("/etcdserverpb.Watch/Watch", b"", Duration::ZERO);
    assert!(open().await.is_err());
    let (_requests, mut answers) = open().await.unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap(), "served");
    assert_eq!(answers.server(), good.to_string());
    assert_eq!(lost_seen.require_leader.load(Ordering::Relaxed), 1);
    assert_eq!(good_seen.require_leader.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn the_only_server_is_not_left() {
    let (lost, seen) = server(false).await;
    let channel = Channel::new(vec![lost], None);
    for _ in 0..2 {
        assert!(channel.call("/etcdserverpb.KV/Range", b"").await.is_err());
    }
    assert_eq!(seen.calls.load(Ordering::Relaxed), 2);
}
