//! Unauthorized and malicious clients, over TLS: none gains access and none crashes the server.

use std::net::SocketAddr;
use std::sync::Arc;

use http::Method;
use jiff::{SignedDuration, Timestamp};
use rkube_auth::token::TokenSpec;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;

use super::support::{TestPki, TestServer, make_pki, start};

async fn listen(t: &TestServer) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    tokio::spawn(t.server.clone().serve(listener, stop));
    address
}

/// Opens a connection, with the administrator's certificate of `identity` if given.
async fn connect(
    t: &TestServer,
    address: SocketAddr,
    identity: Option<&TestPki>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(&t.pki.pki.ca_cert).unwrap())
        .unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let tls = match identity {
        Some(pki) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(pki.admin_cert.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(pki.admin_key.as_bytes()).unwrap(),
            )
            .unwrap(),
        None => builder.with_no_client_auth(),
    };
    let stream = TcpStream::connect(address).await?;
    tokio_rustls::TlsConnector::from(Arc::new(tls))
        .connect("127.0.0.1".try_into().unwrap(), stream)
        .await
}

/// Sends head and body of a request and returns the response's code; 0 if the server closed the
/// connection without a response.
async fn ask(
    t: &TestServer,
    address: SocketAddr,
    identity: Option<&TestPki>,
    head: &str,
    body: &[u8],
) -> u16 {
    let Ok(mut stream) = connect(t, address, identity).await else {
        return 0;
    };
    let request = format!(
        "{head}\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    // The server may respond and close the connection before it has read the whole body.
    if stream.write_all(request.as_bytes()).await.is_ok() {
        let _ = stream.write_all(body).await;
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    code(&answer)
}

fn code(answer: &[u8]) -> u16 {
    let head = String::from_utf8_lossy(&answer[..answer.len().min(16)]).into_owned();
    let mut parts = head.split(' ');
    parts.nth(1).and_then(|c| c.parse().ok()).unwrap_or(0)
}

/// Returns every path that discovery lists, and some that do not exist.
async fn paths(t: &TestServer) -> Vec<String> {
    let (_, root) = t.get("/").await;
    let mut paths: Vec<String> = root["paths"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p.as_str().unwrap().to_owned())
        .collect();
    for resource in &t.server.backend().resources.snapshot().all {
        let group = if resource.group.is_empty() {
            format!("/api/{}", resource.version)
        } else {
            format!("/apis/{}/{}", resource.group, resource.version)
        };
        let plural = &resource.plural;
        paths.push(format!("{group}/{plural}"));
        paths.push(format!("{group}/{plural}?watch=1"));
        paths.push(format!("{group}/namespaces/kube-system/{plural}"));
        for sub in &resource.subresources {
            paths.push(format!("{group}/namespaces/a/{plural}/x/{}", sub.name));
        }
    }
    paths.extend(
        [
            "/nothing",
            "/apis/none.example.com/v1/things",
            "/api/v1/namespaces/kube-system/secrets/../../../nodes",
            "/%2e%2e/api/v1/secrets",
            "//api/v1/secrets",
            "/api/v1/nodes/n/proxy/exec",
            "/debug/pprof",
            "/logs/",
        ]
        .map(String::from),
    );
    paths
}

const OPEN: [&str; 3] = ["/healthz", "/livez", "/readyz"];

#[tokio::test]
async fn nobody_gets_in_without_credentials() {
    let t = start().await;
    let address = listen(&t).await;
    let stranger = make_pki();
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(super::basics::client_tls(&t, false))
        .https_only()
        .enable_http1()
        .build();
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .build(connector);
    let mut refused = 0;
    for path in paths(&t).await {
        for method in ["GET", "POST", "DELETE"] {
            let request = http::Request::builder()
                .method(method)
                .uri(format!("https://{address}{path}"))
                .body(crate::body::empty())
                .unwrap();
            let response = client.request(request).await.unwrap();
            let got = response.status().as_u16();
            // Read the body to its end, so that the connection can be reused.
            use http_body_util::BodyExt as _;
            response.into_body().collect().await.unwrap();
            if OPEN.contains(&path.as_str()) && method == "GET" {
                assert_eq!(got, 200, "{path}");
            } else {
                assert!(matches!(got, 401 | 403), "{method} {path}: {got}");
                refused += 1;
            }
        }
    }
    assert!(refused > 500, "{refused}");
    // The certificate of another CA's administrator is no credential, not even on health paths.
    for path in ["/api/v1/secrets", "/healthz", "/version"] {
        let get = format!("GET {path} HTTP/1.1");
        let code = ask(&t, address, Some(&stranger), &get, b"").await;
        assert_eq!(code, 401, "{path}");
    }
    let get = "GET /api/v1/secrets HTTP/1.1";
    assert_eq!(ask(&t, address, Some(&t.pki), get, b"").await, 200);
}

#[tokio::test]
async fn tokens_are_good_for_what_they_are_good_for() {
    let t = start().await;
    let address = listen(&t).await;
    let (_, account) = t
        .post(
            "/api/v1/namespaces/default/serviceaccounts",
            json!({"metadata": {"name": "me"}}),
        )
        .await;
    let issue = |seconds: i64, audience: &str, now: Timestamp| {
        let spec = TokenSpec {
            service_account: &account,
            pod: None,
            secret: None,
            node: None,
            audiences: &[audience.to_owned()],
            expiration_seconds: seconds,
            warn_after_seconds: None,
        };
        t.server.security.signer.issue(&spec, now).unwrap().token
    };
    let now = Timestamp::now();
    let issuer = t.server.security.signer.issuer().to_owned();
    let good = issue(3600, &issuer, now);
    let request = async |token: &str, path: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nAuthorization: Bearer {token}");
        ask(&t, address, None, &head, b"").await
    };
    assert_eq!(request(&good, "/version").await, 200);
    // The token only grants what its roles allow, in its own namespace and in others.
    for path in [
        "/api/v1/namespaces/default/secrets",
        "/api/v1/namespaces/kube-system/secrets",
        "/api/v1/nodes",
    ] {
        assert_eq!(request(&good, path).await, 403, "{path}");
    }
    let role = json!({"metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}]});
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    assert_eq!(t.post(&format!("{rbac}/roles"), role).await.0, 201);
    let binding = json!({"metadata": {"name": "b"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "ServiceAccount", "name": "me", "namespace": "default"}]});
    assert_eq!(
        t.post(&format!("{rbac}/rolebindings"), binding).await.0,
        201
    );
    assert_eq!(
        request(&good, "/api/v1/namespaces/default/secrets").await,
        200
    );
    assert_eq!(
        request(&good, "/api/v1/namespaces/kube-system/secrets").await,
        403
    );
    let expired = issue(600, &issuer, now - SignedDuration::from_hours(2));
    let elsewhere = issue(3600, "someone.else", now);
    let mut forged = good.clone();
    let last = if forged.ends_with('A') { 'B' } else { 'A' };
    let middle = forged.rfind('.').unwrap() + 5;
    forged.replace_range(middle..=middle, &last.to_string());
    let parts: Vec<&str> = good.split('.').collect();
    let unsigned = format!("eyJhbGciOiJub25lIn0.{}.", parts[1]);
    for (what, token) in [
        ("expired", &expired),
        ("for another audience", &elsewhere),
        ("forged", &forged),
        ("unsigned", &unsigned),
        ("nonsense", &"abc".to_owned()),
    ] {
        assert_eq!(request(token, "/version").await, 401, "{what}");
    }
    // A token is rejected as soon as its service account is deleted.
    t.delete("/api/v1/namespaces/default/serviceaccounts/me")
        .await;
    assert_eq!(request(&good, "/version").await, 401);
}

/// Returns a YAML document that would have 10⁹ nodes if its aliases were expanded.
fn yaml_bomb() -> String {
    let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for i in 1..10 {
        let items = vec![format!("*a{}", i - 1); 10].join(",");
        text += &format!("a{i}: &a{i} [{items}]\n");
    }
    text
}

#[tokio::test]
async fn hostile_bodies_are_refused() {
    let t = start().await;
    let address = listen(&t).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let big = vec![b' '; (3 << 20) + 1];
    let deep_json = format!(
        "{{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{{\"name\":\"a\"}},\"data\":{}{}}}",
        "[".repeat(200_000),
        "]".repeat(200_000)
    );
    let deep_yaml = format!("kind: ConfigMap\ndata: {}", "[".repeat(200_000));
    let deep_objects = "{\"a\":".repeat(200_000);
    let bomb = yaml_bomb();
    for (what, method, path, kind, body) in [
        ("too big", "POST", maps, "application/json", big.as_slice()),
        (
            "too big to patch",
            "PATCH",
            "/api/v1/namespaces/default",
            "application/merge-patch+json",
            &big,
        ),
        (
            "deep JSON",
            "POST",
            maps,
            "application/json",
            deep_json.as_bytes(),
        ),
        (
            "deep objects",
            "POST",
            maps,
            "application/json",
            deep_objects.as_bytes(),
        ),
        (
            "deep YAML",
            "POST",
            maps,
            "application/yaml",
            deep_yaml.as_bytes(),
        ),
        (
            "a YAML bomb",
            "POST",
            maps,
            "application/yaml",
            bomb.as_bytes(),
        ),
        (
            "an applied bomb",
            "PATCH",
            "/api/v1/namespaces/default/configmaps/x?fieldManager=m",
            "application/apply-patch+yaml",
            bomb.as_bytes(),
        ),
        (
            "a deep patch",
            "PATCH",
            "/api/v1/namespaces/default",
            "application/merge-patch+json",
            deep_objects.as_bytes(),
        ),
        (
            "nonsense as protobuf",
            "POST",
            maps,
            "application/vnd.kubernetes.protobuf",
            b"k8s\0\xff\xff\xff\xff\xff\xff",
        ),
        ("no text", "POST", maps, "application/json", b"\xff\xfe\x00"),
    ] {
        let head = format!("{method} {path} HTTP/1.1\r\nContent-Type: {kind}");
        let got = ask(&t, address, Some(&t.pki), &head, body).await;
        assert!(
            (400..500).contains(&got) || got == 0 && body.len() > 1 << 20,
            "{what}: {got}"
        );
        let get = "GET /api/v1/namespaces/default HTTP/1.1";
        assert_eq!(
            ask(&t, address, Some(&t.pki), get, b"").await,
            200,
            "{what}"
        );
    }
}

#[tokio::test]
async fn hostile_heads_and_slow_senders_are_refused() {
    let t = start().await;
    let address = listen(&t).await;
    for head in [
        format!("GET /api/v1/pods HTTP/1.1\r\nX: {}", "x".repeat(200 << 10)),
        format!("GET /{} HTTP/1.1", "y".repeat(200 << 10)),
        "GET /api/v1/pods?labelSelector=%20,,==( HTTP/1.1".to_owned(),
        "GET /api/v1/pods?limit=x HTTP/1.1".to_owned(),
        "GET /api/v1/pods?continue=AAAA HTTP/1.1".to_owned(),
        "GET /api/v1/pods?resourceVersion=-1 HTTP/1.1".to_owned(),
        "NONSENSE".to_owned(),
        "PATCH /api/v1/pods HTTP/1.1".to_owned(),
    ] {
        let got = ask(&t, address, Some(&t.pki), &head, b"").await;
        let start = &head[..head.len().min(60)];
        assert!(got == 0 || (400..500).contains(&got), "{start}: {got}");
    }
    // The server waits for an unfinished body until the request's timeout.
    let mut stream = connect(&t, address, Some(&t.pki)).await.unwrap();
    stream
        .write_all(
            b"POST /api/v1/namespaces/default/configmaps?timeout=1s HTTP/1.1\r\nHost: x\r\n\
              Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{",
        )
        .await
        .unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(code(&answer), 504);
    // Many slow connections do not block other clients.
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut stream = connect(&t, address, Some(&t.pki)).await.unwrap();
        stream.write_all(b"POST /api/v1/namesp").await.unwrap();
        slow.push(stream);
    }
    let get = "GET /api/v1/namespaces/default HTTP/1.1";
    assert_eq!(ask(&t, address, Some(&t.pki), get, b"").await, 200);
}

#[tokio::test]
async fn requests_are_in_flows() {
    use http_body_util::BodyExt as _;
    let t = start().await;
    let address = listen(&t).await;
    let mut stream = connect(&t, address, Some(&t.pki)).await.unwrap();
    stream
        .write_all(b"GET /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let flows = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let uid = async |path: &str| {
        let (_, object) = t.get(&format!("{flows}/{path}")).await;
        object["metadata"]["uid"].as_str().unwrap().to_owned()
    };
    let (schema, level) = (
        uid("flowschemas/exempt").await,
        uid("prioritylevelconfigurations/exempt").await,
    );
    assert!(
        answer.contains(&format!("x-kubernetes-pf-flowschema-uid: {schema}")),
        "{answer}"
    );
    assert!(
        answer.contains(&format!("x-kubernetes-pf-prioritylevel-uid: {level}")),
        "{answer}"
    );
    for _ in 0..2000 {
        let (_, schema) = t.get(&format!("{flows}/flowschemas/catch-all")).await;
        if schema["status"]["conditions"][0]["status"] == "False" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let (_, schema) = t.get(&format!("{flows}/flowschemas/catch-all")).await;
    assert_eq!(schema["status"]["conditions"][0]["type"], "Dangling");
    let request = http::Request::builder()
        .uri("/metrics")
        .body(crate::body::empty())
        .unwrap();
    let body = t.send(request).await.into_body();
    let metrics = body.collect().await.unwrap().to_bytes();
    let metrics = String::from_utf8_lossy(&metrics);
    assert!(
        metrics.contains(
            "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"workload-low\"} 245"
        ),
        "{metrics}"
    );
    let (_, parts) = t.get("/api/v1/componentstatuses").await;
    let healthy = |name: &str| -> Value {
        let items = parts["items"].as_array().unwrap().iter();
        let mut found = items.filter(|i| i["metadata"]["name"] == name);
        found.next().unwrap()["conditions"][0]["status"].clone()
    };
    assert_eq!(
        (healthy("etcd-0"), healthy("scheduler")),
        (json!("True"), json!("False")),
        "no scheduler runs here"
    );
}

/// Starts a server with an audit log. Returns it and the log's path.
async fn audited() -> (TestServer, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (policy, log) = (
        folder.path().join("policy.yaml"),
        folder.path().join("log/audit.log"),
    );
    std::fs::write(
        &policy,
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitManagedFields: true\nrules:\n\
         - {level: None, nonResourceURLs: ['/healthz*']}\n\
         - {level: Metadata, omitStages: [RequestReceived], resources: [{group: '', resources: [secrets]}]}\n\
         - {level: RequestResponse, omitStages: [RequestReceived], verbs: [create, update, patch]}\n\
         - {level: Metadata, omitStages: [RequestReceived]}\n",
    )
    .unwrap();
    let pki = make_pki();
    let mut config = super::support::config(&folder.path().join("store"), pki.pki.clone());
    config.audit = Some(crate::audit::Config::new(policy, log.clone()));
    let server = crate::ApiServer::new(config).await.unwrap();
    let t = TestServer {
        server,
        pki,
        folder,
    };
    (t, log)
}

/// Returns the audit events, once the last one is written: the end of a watch.
async fn audit_events(log: &std::path::Path) -> Vec<Value> {
    for _ in 0..2000 {
        let events: Vec<Value> = std::fs::read_to_string(log)
            .unwrap_or_default()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let ended = |e: &Value| e["verb"] == "watch" && e["stage"] == "ResponseComplete";
        if events.iter().any(ended) {
            return events;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    panic!("the watch's end is not in the log");
}

#[tokio::test]
async fn what_is_done_is_written_down() {
    let (t, log) = audited().await;
    let address = listen(&t).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let head = format!(
        "POST {maps} HTTP/1.1\r\nContent-Type: application/json\r\nUser-Agent: tester/1\r\nAudit-ID: the-id\r\nImpersonate-User: jane\r\nImpersonate-Group: system:masters"
    );
    let body = br#"{"metadata":{"name":"a"},"data":{"k":"v"}}"#;
    assert_eq!(ask(&t, address, Some(&t.pki), &head, body).await, 201);
    let secret = br#"{"metadata":{"name":"s"},"stringData":{"k":"hush"}}"#;
    let head = "POST /api/v1/namespaces/default/secrets HTTP/1.1\r\nContent-Type: application/json";
    assert_eq!(ask(&t, address, Some(&t.pki), head, secret).await, 201);
    let endless = vec![b' '; crate::body::MAX_REQUEST_BYTES + 1];
    let (code, _) = t
        .call(Method::POST, maps, "application/json", endless)
        .await;
    assert_eq!(code, 413);
    let head = format!("POST {maps} HTTP/1.1\r\nImpersonate-User: nobody");
    assert_eq!(ask(&t, address, Some(&t.pki), &head, body).await, 403);
    assert_eq!(
        ask(&t, address, None, "GET /healthz HTTP/1.1", b"").await,
        200
    );
    assert_eq!(
        ask(&t, address, None, "GET /api/v1/nodes HTTP/1.1", b"").await,
        401
    );
    let mut stream = connect(&t, address, Some(&t.pki)).await.unwrap();
    let watch = format!(
        "GET {maps}?watch=1&timeoutSeconds=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(watch.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let events = audit_events(&log).await;
    let find = |resource: &str, verb: &str, stage: &str| -> &Value {
        let mut found = events.iter().filter(|e| {
            e["objectRef"]["resource"] == resource && e["verb"] == verb && e["stage"] == stage
        });
        found
            .next()
            .unwrap_or_else(|| panic!("no {verb} of {resource} at {stage} in {events:#?}"))
    };
    let made = find("configmaps", "create", "ResponseComplete");
    assert_eq!(made["auditID"], "the-id");
    assert_eq!(made["level"], "RequestResponse");
    assert_eq!(made["user"]["username"], "admin");
    assert_eq!(made["impersonatedUser"]["username"], "jane");
    assert_eq!(
        made["authenticationMetadata"]["impersonationConstraint"],
        "impersonate:user-info"
    );
    assert_eq!(made["sourceIPs"], json!(["127.0.0.1"]));
    assert_eq!(made["userAgent"], "tester/1");
    assert_eq!(made["objectRef"]["name"], "a");
    assert_eq!(made["responseStatus"]["code"], 201);
    assert_eq!(made["requestObject"]["data"]["k"], "v");
    assert_eq!(made["responseObject"]["metadata"]["name"], "a");
    assert!(made["responseObject"]["metadata"]["managedFields"].is_null());
    assert_eq!(
        made["annotations"]["authorization.k8s.io/decision"],
        "allow"
    );
    let with_code = |code: u16| {
        let answered = |e: &&Value| e["responseStatus"]["code"] == code;
        events.iter().find(answered).unwrap()
    };
    assert_eq!(with_code(413)["objectRef"]["resource"], "configmaps");
    assert!(
        with_code(403)["requestObject"].is_null(),
        "the body of a forbidden request is not read"
    );
    let secret = find("secrets", "create", "ResponseComplete");
    assert!(secret["requestObject"].is_null() && !secret.to_string().contains("hush"));
    let refused = find("nodes", "list", "ResponseComplete");
    assert_eq!(refused["responseStatus"]["code"], 401);
    assert_eq!(refused["user"], json!({}));
    find("configmaps", "watch", "ResponseStarted");
    assert!(!events.iter().any(|e| e["requestURI"] == "/healthz"));
    assert!(!events.iter().any(|e| e["stage"] == "RequestReceived"));
}
