//! Manifests, tags, the catalogue and referrers.

use rkube_registry::Options;
use serde_json::json;

use crate::server::{INDEX, MANIFEST, Server, image, sha256};

#[tokio::test]
async fn manifests() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), Options::default()).await;
    let digest = server.image("app", "v1").await;
    for key in ["v1".to_owned(), digest.to_string()] {
        let path = format!("/v2/app/manifests/{key}");
        let found = server.get(&path).await.expect(200);
        assert_eq!(found.header("content-type"), MANIFEST);
        assert_eq!(sha256(&found.body), digest);
        let head = server.send("HEAD", &path, &[], b"").await.expect(200);
        assert_eq!(head.header("docker-content-digest"), digest.to_string());
        assert_eq!(head.header("content-length"), found.body.len().to_string());
    }
    for (key, status, code) in [
        ("v2", 404, "MANIFEST_UNKNOWN"),
        (".INVALID_MANIFEST_NAME", 404, "MANIFEST_UNKNOWN"),
        ("sha256:x", 400, "DIGEST_INVALID"),
    ] {
        server
            .get(&format!("/v2/app/manifests/{key}"))
            .await
            .refused(status, code);
    }
    server
        .get("/v2/none/manifests/v1")
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    let blob = sha256(b"{}");
    let unknown = sha256(b"unknown");
    let wrong = sha256(b"wrong").to_string();
    for (key, document, code) in [
        ("v1", image(&unknown), "MANIFEST_BLOB_UNKNOWN"),
        ("v1", json!({"schemaVersion": 2}), "MANIFEST_INVALID"),
        ("v1", json!("text"), "MANIFEST_INVALID"),
        (".x", image(&blob), "TAG_INVALID"),
        (&wrong, image(&blob), "DIGEST_INVALID"),
        ("sha256:x", image(&blob), "DIGEST_INVALID"),
    ] {
        server
            .put("app", key, MANIFEST, &document)
            .await
            .refused(400, code);
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        {"mediaType": MANIFEST, "digest": unknown.to_string(), "size": 1}]});
    server
        .put("app", "v1", INDEX, &index)
        .await
        .refused(400, "MANIFEST_BLOB_UNKNOWN");
}

#[tokio::test]
async fn tags_and_the_catalogue() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), Options::default()).await;
    let digest = server.image("app", "v1").await;
    let blob = sha256(b"{}");
    for tag in ["b", "a", "c", "_d", "B"] {
        server
            .put("app", tag, MANIFEST, &image(&blob))
            .await
            .expect(201);
    }
    let tags = async |query: &str| {
        let answer = server
            .get(&format!("/v2/app/tags/list{query}"))
            .await
            .expect(200);
        let link = answer.header("link").to_owned();
        (answer.json()["tags"].to_string(), link)
    };
    assert_eq!(tags("").await.0, r#"["B","_d","a","b","c","v1"]"#);
    let (page, link) = tags("?n=2").await;
    assert_eq!(
        (&*page, &*link),
        (
            r#"["B","_d"]"#,
            r#"</v2/app/tags/list?n=2&last=%5Fd>; rel="next""#
        )
    );
    assert_eq!(tags("?n=2&last=%5Fd").await.0, r#"["a","b"]"#);
    assert_eq!(
        tags("?n=9&last=bx").await,
        (r#"["c","v1"]"#.to_owned(), String::new())
    );
    assert_eq!(tags("?n=0").await, ("[]".to_owned(), String::new()));
    server
        .get("/v2/app/tags/list?n=x")
        .await
        .refused(400, "PAGINATION_NUMBER_INVALID");
    server
        .get("/v2/none/tags/list")
        .await
        .refused(404, "NAME_UNKNOWN");
    server.image("other", "v1").await;
    let catalog = server.get("/v2/_catalog?n=1").await.expect(200);
    assert_eq!(catalog.json(), json!({"repositories": ["app"]}));
    assert_eq!(
        catalog.header("link"),
        r#"</v2/_catalog?n=1&last=app>; rel="next""#
    );

    server
        .send("DELETE", "/v2/app/manifests/a", &[], b"")
        .await
        .expect(202);
    server
        .get("/v2/app/manifests/a")
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    server.get("/v2/app/manifests/b").await.expect(200);
    let path = format!("/v2/app/manifests/{digest}");
    server.send("DELETE", &path, &[], b"").await.expect(202);
    server.get(&path).await.refused(404, "MANIFEST_UNKNOWN");
    assert_eq!(tags("").await.0, "[]");
    server
        .send("DELETE", &path, &[], b"")
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    assert_eq!(
        server.get("/v2/_catalog").await.json(),
        json!({"repositories": ["other"]})
    );
}

#[tokio::test]
async fn referrers() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), Options::default()).await;
    let blob = server.push("app", b"{}").await;
    // The subject need not be there yet.
    let subject = sha256(image(&blob).to_string().as_bytes());
    let mut digests = Vec::new();
    for (kind, annotation) in [("application/sbom", "1"), ("application/signature", "2")] {
        let mut document = image(&blob);
        document["artifactType"] = kind.into();
        document["annotations"] = json!({"n": annotation});
        document["subject"] =
            json!({"mediaType": MANIFEST, "digest": subject.to_string(), "size": 1});
        let digest = sha256(document.to_string().as_bytes());
        let answer = server
            .put("app", &digest.to_string(), MANIFEST, &document)
            .await
            .expect(201);
        assert_eq!(answer.header("oci-subject"), subject.to_string());
        digests.push(digest);
    }
    let path = format!("/v2/app/referrers/{subject}");
    let all = server.get(&path).await.expect(200);
    assert_eq!(all.header("content-type"), INDEX);
    assert_eq!(all.json()["manifests"].as_array().unwrap().len(), 2);
    assert_eq!(all.header("oci-filters-applied"), "");
    let some = server
        .get(&format!("{path}?artifactType=application%2Fsbom"))
        .await
        .expect(200);
    assert_eq!(some.header("oci-filters-applied"), "artifactType");
    let found = &some.json()["manifests"];
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_eq!(found[0]["digest"], digests[0].to_string());
    assert_eq!(found[0]["annotations"]["n"], "1");
    let gone = format!("/v2/app/manifests/{}", digests[0]);
    server.send("DELETE", &gone, &[], b"").await.expect(202);
    assert_eq!(
        server.get(&path).await.json()["manifests"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let none = server
        .get(&format!("/v2/none/referrers/{subject}"))
        .await
        .expect(200);
    assert_eq!(none.json()["manifests"], json!([]));
    server
        .get("/v2/app/referrers/x")
        .await
        .refused(400, "DIGEST_INVALID");
}
