//! Blobs and their uploads.

use std::time::Duration;

use reqwest::StatusCode;
use rkube_registry::{Algorithm, Digest, Options};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::server::{Server, sha256};

#[tokio::test]
async fn blobs_are_pushed_and_pulled() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), Options::default()).await;
    let base = server.get("/v2/").await.expect(200);
    assert_eq!(
        base.header("docker-distribution-api-version"),
        "registry/2.0"
    );
    let content = b"0123456789";
    let digest = server.push("team/app", content).await;
    let path = format!("/v2/team/app/blobs/{digest}");
    let whole = server.get(&path).await.expect(200);
    assert_eq!(whole.body, content);
    assert_eq!(whole.header("docker-content-digest"), digest.to_string());
    assert_eq!(whole.header("content-type"), "application/octet-stream");
    let head = server.send("HEAD", &path, &[], b"").await.expect(200);
    assert_eq!((head.header("content-length"), head.body.len()), ("10", 0));
    for (range, status, body, header) in [
        ("bytes=2-4", 206, &b"234"[..], "bytes 2-4/10"),
        ("bytes=-1", 206, b"9", "bytes 9-9/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=0-1,3-4", 200, content, ""),
    ] {
        let part = server
            .send("GET", &path, &[("range", range)], b"")
            .await
            .expect(status);
        assert_eq!(
            (&*part.body, part.header("content-range")),
            (body, header),
            "{range}"
        );
    }
    let beyond = server
        .send("GET", &path, &[("range", "bytes=10-")], b"")
        .await;
    assert_eq!(
        beyond.refused(416, "RANGE_INVALID").header("content-range"),
        "bytes */10"
    );
    let tag = format!("\"{digest}\"");
    server
        .send("GET", &path, &[("if-none-match", &tag)], b"")
        .await
        .expect(304);
    // Other repositories do not have it; nobody has another one.
    let elsewhere = format!("/v2/team/blobs/{digest}");
    server.get(&elsewhere).await.refused(404, "BLOB_UNKNOWN");
    let other = sha256(b"other");
    server
        .get(&format!("/v2/team/app/blobs/{other}"))
        .await
        .refused(404, "BLOB_UNKNOWN");
    server.send("HEAD", &elsewhere, &[], b"").await.expect(404);
    server
        .get("/v2/a/blobs/sha256:x")
        .await
        .refused(400, "DIGEST_INVALID");

    server.send("DELETE", &path, &[], b"").await.expect(202);
    server.get(&path).await.refused(404, "BLOB_UNKNOWN");
    server
        .send("DELETE", &path, &[], b"")
        .await
        .refused(404, "BLOB_UNKNOWN");
    server
        .send("POST", &path, &[], b"")
        .await
        .refused(405, "UNSUPPORTED");
}

#[tokio::test]
async fn uploads_in_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), Options::default()).await;
    let begun = server
        .send("POST", "/v2/a/blobs/uploads/", &[], b"")
        .await
        .expect(202);
    let upload = begun.header("location").to_owned();
    assert!(!begun.header("docker-upload-uuid").is_empty());
    let patch = async |range: &str, body: &[u8]| {
        server
            .send("PATCH", &upload, &[("content-range", range)], body)
            .await
    };
    let first = patch("0-2", b"abc").await.expect(202);
    assert_eq!(
        (first.header("range"), first.header("location")),
        ("0-2", &*upload)
    );
    // Out of order, twice, and of another length.
    let refused = patch("7-8", b"hi").await.refused(416, "RANGE_INVALID");
    assert_eq!(refused.header("range"), "0-2");
    patch("0-2", b"abc").await.refused(416, "RANGE_INVALID");
    patch("3-9", b"def").await.refused(400, "SIZE_INVALID");
    patch("bytes 3-5/6", b"def")
        .await
        .refused(400, "RANGE_INVALID");
    let status = server.get(&upload).await.expect(204);
    assert_eq!(
        (status.header("range"), status.header("location")),
        ("0-2", &*upload)
    );
    // Without a range, as Docker streams.
    let more = server.send("PATCH", &upload, &[], b"def").await.expect(202);
    assert_eq!(more.header("range"), "0-5");
    let digest = sha256(b"abcdefgh");
    let last = format!("{upload}?digest={digest}");
    server
        .send("PUT", &upload, &[], b"")
        .await
        .refused(400, "DIGEST_INVALID");
    server
        .send("PUT", &last, &[("content-range", "6-7")], b"gh")
        .await
        .expect(201);
    assert_eq!(
        server.get(&format!("/v2/a/blobs/{digest}")).await.body,
        b"abcdefgh"
    );
    // It has ended.
    server
        .get(&upload)
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
    server
        .send("PUT", &last, &[], b"")
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");

    let begun = server
        .send("POST", "/v2/a/blobs/uploads/", &[], b"")
        .await
        .expect(202);
    let upload = begun.header("location").to_owned();
    let id = upload.rsplit('/').next().unwrap();
    // It is of one repository.
    server
        .get(&format!("/v2/b/blobs/uploads/{id}"))
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
    server.send("DELETE", &upload, &[], b"").await.expect(204);
    server
        .send("PATCH", &upload, &[], b"x")
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
    let path = format!("/v2/a/blobs/uploads/?digest={digest}");
    server
        .send("POST", &path, &[], b"wrong")
        .await
        .refused(400, "DIGEST_INVALID");
    let long = Digest::of(Algorithm::Sha512, b"abc");
    let path = format!("/v2/a/blobs/uploads/?digest={long}");
    server.send("POST", &path, &[], b"abc").await.expect(201);
    assert_eq!(
        server.get(&format!("/v2/a/blobs/{long}")).await.body,
        b"abc"
    );
}

#[tokio::test]
async fn an_upload_goes_on_after_a_lost_connection_and_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), Options::default()).await;
    let begun = server
        .send("POST", "/v2/a/blobs/uploads/", &[], b"")
        .await
        .expect(202);
    let upload = begun.header("location").to_owned();
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let request =
        format!("PATCH {upload} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nabcd");
    stream.write_all(request.as_bytes()).await.unwrap();
    // While it sends, nobody else may.
    loop {
        let status = server.get(&upload).await;
        if status.status == StatusCode::CONFLICT {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(stream);
    let arrived = loop {
        let status = server.get(&upload).await;
        if status.status == StatusCode::NO_CONTENT {
            break status.header("range").to_owned();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(arrived, "0-3");
    drop(server);
    let server = Server::start(dir.path(), Options::default()).await;
    assert_eq!(server.get(&upload).await.expect(204).header("range"), "0-3");
    let digest = sha256(b"abcdef");
    let last = format!("{upload}?digest={digest}");
    server.send("PUT", &last, &[], b"ef").await.expect(201);
    assert_eq!(
        server.get(&format!("/v2/a/blobs/{digest}")).await.body,
        b"abcdef"
    );
}

#[tokio::test]
async fn blobs_are_mounted() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), Options::default()).await;
    let digest = server.push("from", b"x").await;
    let mount = format!("/v2/to/blobs/uploads/?mount={digest}&from=from");
    let answer = server.send("POST", &mount, &[], b"").await.expect(201);
    assert_eq!(answer.header("location"), format!("/v2/to/blobs/{digest}"));
    assert_eq!(
        server.get(&format!("/v2/to/blobs/{digest}")).await.body,
        b"x"
    );
    // What cannot be mounted is sent.
    let other = sha256(b"other");
    for path in [
        format!("/v2/to/blobs/uploads/?mount={other}&from=from"),
        format!("/v2/to/blobs/uploads/?mount={digest}&from=none"),
        format!("/v2/to/blobs/uploads/?mount={digest}&from=../x"),
        format!("/v2/to/blobs/uploads/?mount={other}"),
    ] {
        let answer = server.send("POST", &path, &[], b"").await.expect(202);
        assert!(answer.header("location").contains("/uploads/"));
    }
}
