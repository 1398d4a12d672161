//! The registry over HTTP, as the distribution specification and its clients expect it.

mod blobs;
mod manifests;
mod server;

use std::time::Duration;

use rkube_registry::{Auth, Options, Scheme};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use server::{MANIFEST, Server, image, sha256};

#[tokio::test]
async fn hostile_requests_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        max_blob: 1000,
        max_manifest: 1000,
        idle: Duration::from_millis(200),
        ..Options::default()
    };
    let server = Server::start(dir.path(), options).await;
    for path in [
        "/v2/a%2F..%2Fb/manifests/x",
        "/v2/_uploads/tags/list",
        "/v2/A/tags/list",
        "/v2/a//b/tags/list",
    ] {
        server.get(path).await.refused(400, "NAME_INVALID");
    }
    server
        .get("/v2/a/blobs/uploads/..%2f..%2fx")
        .await
        .refused(404, "NAME_UNKNOWN");
    server.get("/etc/passwd").await.refused(404, "NAME_UNKNOWN");
    // Too large: at once, and in chunks.
    let large = vec![b' '; 1001];
    server
        .send("PUT", "/v2/a/manifests/x", &[], &large)
        .await
        .refused(413, "SIZE_INVALID");
    let begun = server
        .send("POST", "/v2/a/blobs/uploads/", &[], b"")
        .await
        .expect(202);
    let upload = begun.header("location").to_owned();
    server
        .send("PATCH", &upload, &[], &large[..600])
        .await
        .expect(202);
    server
        .send("PATCH", &upload, &[], &large[..600])
        .await
        .refused(413, "SIZE_INVALID");
    assert_eq!(
        server.get(&upload).await.expect(204).header("range"),
        "0-599"
    );
    // A client that sends nothing is not waited for.
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let request =
        format!("PATCH {upload} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 408"));
    // Web pages.
    for headers in [
        ("origin", "https://evil.example"),
        ("host", "evil.example"),
        ("origin", "null"),
        ("host", "registry.other.example:80"),
    ] {
        server
            .send("POST", "/v2/a/blobs/uploads/", &[headers], b"")
            .await
            .refused(403, "DENIED");
    }
    for host in ["registry.kube-system:80", "Registry.Kube-System."] {
        server
            .send("GET", "/v2/", &[("host", host)], b"")
            .await
            .expect(200);
    }
    // Text that a strict reader would not accept.
    server
        .send("PUT", "/v2/a/manifests/x", &[], b"{\"x\":\"\xff\"}")
        .await
        .refused(400, "MANIFEST_INVALID");
    server
        .send("POST", "/rkube/collect", &[], b"")
        .await
        .refused(403, "DENIED");
}

#[tokio::test]
async fn two_pushes_of_one_tag_leave_one_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), Options::default()).await;
    let blob = server.push("app", b"{}").await;
    let documents: Vec<Value> = (0..8)
        .map(|number| {
            let mut document = image(&blob);
            document["annotations"] = json!({"n": number.to_string()});
            document
        })
        .collect();
    let pushes = documents
        .iter()
        .map(|document| server.put("app", "v1", MANIFEST, document));
    for answer in futures::future::join_all(pushes).await {
        answer.expect(201);
    }
    let found = server.get("/v2/app/manifests/v1").await.expect(200);
    assert!(
        documents
            .iter()
            .any(|document| document.to_string().as_bytes() == found.body)
    );
}

#[tokio::test]
async fn users_and_tokens() {
    use base64::Engine as _;
    let hash = bcrypt::hash("secret", 4).unwrap();
    let encode = |text: &str| {
        let text = base64::engine::general_purpose::STANDARD.encode(text);
        format!("Basic {text}")
    };
    for scheme in [Scheme::Basic, Scheme::Token] {
        let dir = tempfile::tempdir().unwrap();
        let auth = Auth::parse(&format!("me:{hash}"), scheme).unwrap();
        let options = Options {
            auth: Some(auth),
            ..Options::default()
        };
        let server = Server::start(dir.path(), options).await;
        let refused = server
            .get("/v2/app/tags/list")
            .await
            .refused(401, "UNAUTHORIZED");
        let challenge = refused.header("www-authenticate").to_owned();
        match scheme {
            Scheme::Basic => assert_eq!(challenge, "Basic realm=\"rkube registry\""),
            Scheme::Token => assert_eq!(
                challenge,
                format!(
                    "Bearer realm=\"http://{0}/token\",service=\"{0}\",scope=\"repository:app:pull\"",
                    server.address
                )
            ),
        }
        let right = encode("me:secret");
        let wrong = encode("me:guess");
        server
            .send("GET", "/v2/", &[("authorization", &wrong)], b"")
            .await
            .expect(401);
        server
            .send("GET", "/v2/", &[("authorization", &right)], b"")
            .await
            .expect(200);
        let token = "/token?service=x&scope=repository:app:pull,push";
        server
            .send("GET", token, &[("authorization", &wrong)], b"")
            .await
            .expect(401);
        let answer = server
            .send("GET", token, &[("authorization", &right)], b"")
            .await
            .expect(200);
        let bearer = format!("Bearer {}", answer.json()["token"].as_str().unwrap());
        let bearer = [("authorization", &*bearer)];
        server
            .send("POST", "/v2/app/blobs/uploads/", &bearer, b"")
            .await
            .expect(202);
        server
            .send("GET", "/v2/app/tags/list", &bearer, b"")
            .await
            .expect(404);
        server
            .send("POST", "/v2/other/blobs/uploads/", &bearer, b"")
            .await
            .expect(401);
        server
            .send("DELETE", "/v2/app/manifests/v1", &bearer, b"")
            .await
            .expect(401);
        server
            .send("GET", "/v2/_catalog", &bearer, b"")
            .await
            .expect(401);
        // A mount reads another repository.
        let digest = sha256(b"x");
        let mount = format!("/v2/app/blobs/uploads/?mount={digest}&from=other");
        server.send("POST", &mount, &bearer, b"").await.expect(401);
    }
}
