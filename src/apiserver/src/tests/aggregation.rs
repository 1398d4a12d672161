//! Aggregation: a second API server behind an `APIService`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rkube_store::Expect;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::support::{TestServer, start};
use crate::Pki;

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const NAME: &str = "v1alpha1.wardle.example.com";
const GROUP_VERSION: &str = "/apis/wardle.example.com/v1alpha1";

/// Returns the second server's response, with the forwarded user. If `old`, the server has no
/// OpenAPI v3.
fn answer(request: &Request<hyper::body::Incoming>, old: bool) -> (u16, &'static str, Value) {
    const JSON: &str = "application/json";
    let header = |name: &str| {
        let values = request.headers().get_all(name).iter();
        let values: Vec<&str> = values.filter_map(|v| v.to_str().ok()).collect();
        values.join(",")
    };
    match request.uri().path() {
        "/apis" => (404, JSON, json!({})),
        path if old && path.starts_with("/openapi/v3") => (404, JSON, json!({})),
        GROUP_VERSION => (
            200,
            JSON,
            json!({"kind": "APIResourceList", "groupVersion": "wardle.example.com/v1alpha1", "resources": [
                {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["list", "create"]},
            ]}),
        ),
        "/openapi/v3" => (
            200,
            JSON,
            json!({"paths": {"apis/wardle.example.com/v1alpha1": {"serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=X"}, "version": {}}}),
        ),
        "/openapi/v3/apis/wardle.example.com/v1alpha1" => (200, JSON, json!({"openapi": "3.0.0"})),
        "/openapi/v2" => (
            200,
            JSON,
            json!({"swagger": "2.0",
                "paths": {"/apis/wardle.example.com/v1alpha1/": {"get": {"schema": {"$ref": "#/definitions/wardle.Flunder"}}}, "/version/": {}},
                "definitions": {"wardle.Flunder": {"type": "object"}, "other": {}}}),
        ),
        path => (
            418,
            JSON,
            json!({
                "path": path, "query": request.uri().query(), "method": request.method().as_str(),
                "user": header("x-remote-user"), "groups": header("x-remote-group"),
                "authorization": header("authorization"), "audit": header("audit-id"),
            }),
        ),
    }
}

/// Answers a request of the front proxy; echoes what is sent after an upgrade.
async fn respond(
    mut request: Request<hyper::body::Incoming>,
    old: bool,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    if request.uri().path().ends_with("/stream") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let stream = TokioIo::new(upgrade.await.unwrap());
            let (mut reader, mut writer) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        });
        let response = Response::builder()
            .status(101)
            .header("connection", "Upgrade")
            .header("upgrade", "echo")
            .body(Full::default());
        return response.map_err(std::io::Error::other);
    }
    let (code, kind, value) = answer(&request, old);
    Response::builder()
        .status(code)
        .header("content-type", kind)
        .body(Full::from(value.to_string()))
        .map_err(std::io::Error::other)
}

/// Starts a server on its own port that only accepts clients of the test's CA.
async fn extension(t: &TestServer) -> u16 {
    extension_of_age(t, false).await
}

async fn extension_of_age(t: &TestServer, old: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let pki = Pki {
        serving_cert: t.pki.extension_cert.clone().into(),
        serving_key: t.pki.extension_key.clone().into(),
        ..t.pki.pki.clone()
    };
    let mut tls = super::support::tls_config(&pki).unwrap();
    tls.alpn_protocols.clear();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let shown = stream.get_ref().1.peer_certificates().is_some();
                assert!(shown, "the front proxy shows its certificate");
                let service = service_fn(move |request| respond(request, old));
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades()
                    .await;
            });
        }
    });
    port
}

async fn condition(t: &TestServer, reason: &str) -> Value {
    let mut last = Value::Null;
    for _ in 0..2000 {
        let (_, found) = t.get(&format!("{SERVICES}/{NAME}")).await;
        last = found["status"]["conditions"][0].clone();
        if last["reason"] == reason {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("no {reason}, but {last}");
}

async fn put(t: &TestServer, key: &str, value: Value) {
    let bytes = serde_json::to_vec(&value).unwrap();
    t.server
        .backend()
        .store
        .put(key, bytes.into(), Expect::Any)
        .await
        .unwrap();
}

fn slice(port: u16, address: &str) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "ext", "namespace": "default", "labels": {"kubernetes.io/service-name": "ext"}},
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        "ports": [{"name": "", "port": port, "protocol": "TCP"}]})
}

async fn registered(t: &TestServer, port: u16) {
    use base64::Engine as _;
    let bundle = base64::engine::general_purpose::STANDARD.encode(&t.pki.pki.ca_cert);
    let (code, made) = t
        .post(
            SERVICES,
            json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": NAME}, "spec": {
                "group": "wardle.example.com", "version": "v1alpha1", "groupPriorityMinimum": 2000, "versionPriority": 200,
                "caBundle": bundle, "service": {"namespace": "default", "name": "ext", "port": port}}}),
        )
        .await;
    assert_eq!(code, 201, "{made}");
}

const SLICE: &str = "/registry/discovery.k8s.io/endpointslices/default/ext";

#[tokio::test]
async fn another_server_is_found_asked_and_lost() {
    let t = start().await;
    registered(&t, 7443).await;
    let missing = condition(&t, "ServiceNotFound").await;
    assert_eq!(
        missing["message"],
        "service/ext in \"default\" is not present"
    );
    let flunders = format!("{GROUP_VERSION}/namespaces/default/flunders?limit=5&x=a%2Fb");
    let (code, text) = t.get(&flunders).await;
    assert_eq!((code, text), (503, json!("service unavailable\n")));

    let service = |port: u16| json!({"metadata": {"name": "ext"}, "spec": {"ports": [{"port": port, "targetPort": 443}]}});
    let services = "/api/v1/namespaces/default/services";
    assert_eq!(t.post(services, service(1)).await.0, 201);
    let missing = condition(&t, "ServicePortError").await;
    assert_eq!(
        missing["message"],
        "service/ext in \"default\" is not listening on port 7443"
    );
    t.delete(&format!("{services}/ext")).await;
    assert_eq!(t.post(services, service(7443)).await.0, 201);
    condition(&t, "EndpointsNotFound").await;
    let mut none = slice(1, "127.0.0.1");
    none["endpoints"][0]["conditions"]["ready"] = false.into();
    put(&t, SLICE, none).await;
    condition(&t, "MissingEndpoints").await;
    // No server listens at this address.
    put(&t, SLICE, slice(1, "127.0.0.1")).await;
    let failed = condition(&t, "FailedDiscoveryCheck").await;
    assert_eq!(
        failed["message"],
        "failing or missing response from https://127.0.0.1:1/apis/wardle.example.com/v1alpha1: \
         Get \"https://127.0.0.1:1/apis/wardle.example.com/v1alpha1\": dial tcp 127.0.0.1:1: connect: connection refused"
    );
    let (_, list) = t.get_as("/apis", AGGREGATED).await;
    assert_eq!(
        group(&list)["versions"],
        json!([{"version": "v1alpha1", "freshness": "Stale"}])
    );

    let port = extension(&t).await;
    put(&t, SLICE, slice(port, "127.0.0.1")).await;
    let passed = condition(&t, "Passed").await;
    assert_eq!(
        (&passed["status"], &passed["message"]),
        (&json!("True"), &json!("all checks passed"))
    );

    // Requests are forwarded with the user's name, but without the user's credentials.
    let request = Request::builder()
        .method("POST")
        .uri(&flunders)
        .header("authorization", "Bearer secret")
        .header("x-remote-user", "root")
        .header("audit-id", "my-audit")
        .body(crate::body::full("{}"))
        .unwrap();
    let response = t.send(request).await;
    assert_eq!(response.status(), 418);
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let got: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(
        got,
        json!({
            "path": "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders",
            "query": "limit=5&x=a%2Fb", "method": "POST", "user": "admin",
            "groups": "system:masters,system:authenticated", "authorization": "", "audit": "my-audit",
        })
    );

    is_in_all_documents(&t).await;

    // The server is removed with its APIService.
    assert_eq!(t.delete(&format!("{SERVICES}/{NAME}")).await.0, 200);
    for _ in 0..2000 {
        if t.get(GROUP_VERSION).await.0 == 404 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(t.get(&flunders).await.0, 404);
    assert_eq!(t.get("/apis/wardle.example.com").await.0, 404);
}

/// Accepts aggregated discovery.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Returns the group of the extension in aggregated discovery.
fn group(list: &Value) -> Value {
    let items = list["items"].as_array().unwrap().iter();
    let mut found = items.filter(|g| g["metadata"]["name"] == "wardle.example.com");
    found.next().unwrap().clone()
}

/// Waits until discovery and OpenAPI include the server, and checks what they show.
async fn is_in_all_documents(t: &TestServer) {
    for _ in 0..2000 {
        let (_, list) = t.get_as("/apis", AGGREGATED).await;
        if group(&list)["versions"][0]["freshness"] == "Current" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (_, list) = t.get_as("/apis", AGGREGATED).await;
    let version = &group(&list)["versions"][0];
    assert_eq!(version["freshness"], "Current");
    assert_eq!(version["resources"][0]["resource"], "flunders");
    let (_, list) = t.get("/apis").await;
    let names: Vec<&str> = list["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|g| g["name"].as_str().unwrap())
        .collect();
    assert_eq!(names.first(), Some(&"apiregistration.k8s.io"));
    assert_eq!(
        names[names.len() - 2..],
        ["wardle.example.com", "metrics.k8s.io"]
    );
    assert_eq!(
        t.get("/apis/wardle.example.com").await.1["preferredVersion"]["version"],
        "v1alpha1"
    );
    assert_eq!(
        t.get(GROUP_VERSION).await.1["resources"][0]["name"],
        "flunders"
    );
    let (_, index) = t.get("/openapi/v3").await;
    assert!(index["paths"]["apis/wardle.example.com/v1alpha1"]["serverRelativeURL"].is_string());
    assert_eq!(
        t.get("/openapi/v3/apis/wardle.example.com/v1alpha1?hash=X")
            .await
            .1["openapi"],
        "3.0.0"
    );
    let (_, document) = t.get("/openapi/v2").await;
    assert!(document["definitions"]["wardle.Flunder"].is_object());
    assert!(document["definitions"]["other"].is_null());
    assert!(document["paths"]["/apis/wardle.example.com/v1alpha1/"].is_object());
    assert!(document["paths"]["/apis/apps/v1/"].is_object());
}

#[tokio::test]
async fn a_server_without_openapi_v3_has_its_v2_converted() {
    let t = start().await;
    let port = extension_of_age(&t, true).await;
    outside(&t, port).await;
    condition(&t, "Passed").await;
    let path = "apis/wardle.example.com/v1alpha1";
    let mut url = Value::Null;
    for _ in 0..2000 {
        let (_, index) = t.get("/openapi/v3").await;
        url = index["paths"][path]["serverRelativeURL"].clone();
        if url.is_string() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let url = url.as_str().expect("it is in the index").to_owned();
    let (code, document) = t.get(&url).await;
    assert_eq!(code, 200);
    assert_eq!(document["openapi"], "3.0.0");
    assert!(document["components"]["schemas"]["wardle.Flunder"].is_object());
    assert!(document["components"]["schemas"]["other"].is_null());
    assert!(document["paths"]["/apis/wardle.example.com/v1alpha1/"]["get"].is_object());
    // A request with an outdated hash is redirected to the current document.
    let (code, _) = t.get(&format!("/openapi/v3/{path}?hash=X")).await;
    assert_eq!(code, 301);
}

/// Registers a server outside the cluster.
async fn outside(t: &TestServer, port: u16) {
    let service = json!({"metadata": {"name": "ext"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
    let services = "/api/v1/namespaces/default/services";
    assert_eq!(t.post(services, service).await.0, 201);
    registered(t, port).await;
}

#[tokio::test]
async fn a_server_outside_is_found_by_name() {
    let t = start().await;
    let port = extension(&t).await;
    outside(&t, port).await;
    condition(&t, "Passed").await;
    assert_eq!(t.get(GROUP_VERSION).await.0, 200);
}

#[tokio::test]
async fn a_server_of_another_authority_is_not_trusted() {
    use base64::Engine as _;
    let t = start().await;
    let port = extension(&t).await;
    let services = "/api/v1/namespaces/default/services";
    t.post(
        services,
        json!({"metadata": {"name": "ext"}, "spec": {"ports": [{"port": 7443}]}}),
    )
    .await;
    put(&t, SLICE, slice(port, "127.0.0.1")).await;
    registered(&t, 7443).await;
    condition(&t, "Passed").await;
    let other = super::support::make_pki();
    let bundle = base64::engine::general_purpose::STANDARD.encode(&other.pki.ca_cert);
    let path = format!("{SERVICES}/{NAME}");
    t.patch(
        &path,
        "merge-patch+json",
        json!({"spec": {"caBundle": bundle}}),
    )
    .await;
    condition(&t, "FailedDiscoveryCheck").await;
    t.patch(
        &path,
        "merge-patch+json",
        json!({"spec": {"caBundle": null, "insecureSkipTLSVerify": true}}),
    )
    .await;
    condition(&t, "Passed").await;
}

#[tokio::test]
async fn upgrades_are_joined() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let t = start().await;
    let port = extension(&t).await;
    t.post(
        "/api/v1/namespaces/default/services",
        json!({"metadata": {"name": "ext"}, "spec": {"ports": [{"port": 7443}]}}),
    )
    .await;
    put(&t, SLICE, slice(port, "127.0.0.1")).await;
    registered(&t, 7443).await;
    condition(&t, "Passed").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    tokio::spawn(t.server.clone().serve(listener, stop.clone()));
    let mut tls = super::basics::client_tls(&t, true);
    tls.alpn_protocols.clear();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(tls))
        .connect("127.0.0.1".try_into().unwrap(), stream)
        .await
        .unwrap();
    let head = format!(
        "GET {GROUP_VERSION}/namespaces/default/flunders/a/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{answer:?}");
    stream.write_all(b"hello").await.unwrap();
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"hello");
    stop.cancel();
}

#[tokio::test]
async fn what_is_served_here_has_its_api_services() {
    let t = start().await;
    let (_, apps) = t.get(&format!("{SERVICES}/v1.apps")).await;
    assert_eq!(apps["spec"]["groupPriorityMinimum"], 17800);
    assert_eq!(apps["status"]["conditions"][0]["reason"], "Local");
    assert_eq!(t.get(&format!("{SERVICES}/v1.")).await.0, 200);
    // Aggregated API servers read the CAs for client certificates here.
    let (code, map) = t
        .get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication")
        .await;
    assert_eq!(code, 200);
    assert!(
        map["data"]["client-ca-file"]
            .as_str()
            .unwrap()
            .contains("BEGIN CERTIFICATE")
    );
    let definition = json!({"metadata": {"name": "foos.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "foos", "kind": "Foo"}, "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    assert_eq!(t.post(crds, definition).await.0, 201);
    let mine = format!("{SERVICES}/v1.example.com");
    let until = async |code: u16| {
        for _ in 0..2000 {
            if t.get(&mine).await.0 == code {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{mine} does not become {code}");
    };
    until(200).await;
    assert_eq!(
        t.get(&mine).await.1["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"],
        "true"
    );
    t.delete(&format!("{crds}/foos.example.com")).await;
    until(404).await;
}
