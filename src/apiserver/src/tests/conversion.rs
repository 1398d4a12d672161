//! Custom resources in several versions, with and without a conversion webhook.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::support::{TestServer, start};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const CRD: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/hosts.example.com";

fn hosts(version: &str) -> String {
    format!("/apis/example.com/{version}/namespaces/default/hosts")
}

/// Converts an object: `hostPort` in v1 is `host` and `port` in v2.
fn convert(object: &Value, to: &str) -> Value {
    let mut object = object.clone();
    let map = object.as_object_mut().unwrap();
    if to.ends_with("/v2") {
        if let Some(Value::String(both)) = map.remove("hostPort") {
            let (host, port) = both.split_once(':').unwrap();
            map.insert("host".into(), host.into());
            map.insert("port".into(), port.into());
        }
    } else if let (Some(host), Some(port)) = (map.remove("host"), map.remove("port")) {
        let both = format!("{}:{}", host.as_str().unwrap(), port.as_str().unwrap());
        map.insert("hostPort".into(), both.into());
    }
    object["apiVersion"] = to.into();
    object
}

/// An admission webhook that only supports v1. It sets the port of every host to 1 (of built-in
/// kinds, to 2) and returns the versions of its request as a warning.
fn admit(review: &Value) -> Value {
    use base64::Engine as _;
    let request = &review["request"];
    let object = &request["object"];
    let patch = match object["hostPort"].as_str() {
        Some(both) => {
            let (host, _) = both.split_once(':').unwrap();
            json!([{"op": "replace", "path": "/hostPort", "value": format!("{host}:1")}])
        }
        None => json!([{"op": "replace", "path": "/spec/maxReplicas", "value": 2}]),
    };
    let versions = [
        &object["apiVersion"],
        &request["kind"]["version"],
        &request["resource"]["version"],
        &request["requestKind"]["version"],
        &request["requestResource"]["version"],
    ];
    let patch = base64::engine::general_purpose::STANDARD.encode(patch.to_string());
    json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": {
        "uid": request["uid"], "allowed": true, "patchType": "JSONPatch", "patch": patch,
        "warnings": [json!(versions).to_string()]}})
}

async fn hook(
    request: Request<hyper::body::Incoming>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let path = request.uri().path().to_owned();
    let bytes = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&bytes).unwrap();
    if path == "/admit" {
        return Ok(Response::new(Full::from(admit(&review).to_string())));
    }
    let to = review["request"]["desiredAPIVersion"].as_str().unwrap();
    let mut converted: Vec<Value> = review["request"]["objects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|object| convert(object, to))
        .collect();
    let mut result = json!({"status": "Success"});
    match path.as_str() {
        "/refuse" => result = json!({"status": "Failure", "message": "no, thank you"}),
        "/fewer" => drop(converted.pop()),
        "/rename" => converted[0]["metadata"]["name"] = "other".into(),
        _ => {}
    }
    let answer = json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1",
        "response": {"uid": review["request"]["uid"], "result": result, "convertedObjects": converted}});
    Ok(Response::new(Full::from(answer.to_string())))
}

async fn serve(t: &TestServer) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tls = super::support::tls_config(&t.pki.pki).unwrap();
    tls.alpn_protocols.clear();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(hook))
                    .await;
            });
        }
    });
    port
}

fn conversion(t: &TestServer, port: u16, path: &str) -> Value {
    use base64::Engine as _;
    json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"], "clientConfig": {
        "url": format!("https://127.0.0.1:{port}{path}"),
        "caBundle": base64::engine::general_purpose::STANDARD.encode(&t.pki.pki.ca_cert),
    }}})
}

fn versions(storage: &str) -> Value {
    let text = json!({"type": "string"});
    json!([
        {"name": "v1", "served": true, "storage": storage == "v1", "subresources": {"status": {}},
         "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "hostPort": text, "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}},
        {"name": "v2", "served": true, "storage": storage == "v2", "subresources": {"status": {}},
         "additionalPrinterColumns": [{"name": "Port", "type": "string", "jsonPath": ".port"}],
         "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "host": text, "port": text, "proto": {"type": "string", "default": "tcp"},
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}},
    ])
}

async fn defined(t: &TestServer, conversion: Value) {
    let definition = json!({"metadata": {"name": "hosts.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced", "names": {"plural": "hosts", "kind": "Host"},
        "versions": versions("v1"), "conversion": conversion}});
    let (code, made) = t.post(CRDS, definition).await;
    assert_eq!(code, 201, "{made}");
    wait_until(t, |t| async move { t.get(&hosts("v1")).await.0 == 200 }).await;
}

async fn wait_until<'a, F: Future<Output = bool>>(
    t: &'a TestServer,
    ready: impl Fn(&'a TestServer) -> F,
) {
    for _ in 0..2000 {
        if ready(t).await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    panic!("what was waited for did not come");
}

async fn stored(t: &TestServer, name: &str) -> Value {
    let key = format!("/registry/example.com/hosts/default/{name}");
    let (kv, _) = t.server.backend().store.get(&key).await.unwrap();
    serde_json::from_slice(&kv.unwrap().value).unwrap()
}

#[tokio::test]
async fn objects_are_served_in_every_version_and_stored_in_one() {
    let t = start().await;
    let port = serve(&t).await;
    defined(&t, conversion(&t, port, "/convert")).await;
    let mut watch = t.watch(&format!("{}?watch=1", hosts("v2"))).await;
    let v1 = json!({"apiVersion": "example.com/v1", "kind": "Host", "metadata": {"name": "a"}, "hostPort": "localhost:8080"});
    let (code, made) = t.post(&hosts("v1"), v1).await;
    assert_eq!(
        (code, &made["hostPort"]),
        (201, &json!("localhost:8080")),
        "{made}"
    );
    let (code, a) = t.get(&format!("{}/a", hosts("v2"))).await;
    assert_eq!(
        (code, &a["apiVersion"], &a["host"], &a["port"]),
        (
            200,
            &json!("example.com/v2"),
            &json!("localhost"),
            &json!("8080")
        ),
        "{a}"
    );
    assert!(a.get("hostPort").is_none(), "{a}");
    let event = watch.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["host"]),
        (&json!("ADDED"), &json!("localhost")),
        "{event}"
    );

    // A write in v2 gets that version's defaults and is stored in the storage version.
    let v2 = json!({"apiVersion": "example.com/v2", "kind": "Host", "metadata": {"name": "b"}, "host": "h", "port": "1"});
    let (code, b) = t.post(&hosts("v2"), v2).await;
    assert_eq!(
        (code, &b["apiVersion"], &b["proto"]),
        (201, &json!("example.com/v2"), &json!("tcp")),
        "{b}"
    );
    assert_eq!(stored(&t, "b").await["apiVersion"], "example.com/v1");
    assert_eq!(stored(&t, "b").await["hostPort"], "h:1");
    assert_eq!(
        b["metadata"]["managedFields"][0]["apiVersion"],
        "example.com/v2"
    );
    let (code, b) = t
        .patch(
            &format!("{}/b", hosts("v2")),
            "merge-patch+json",
            json!({"port": "2"}),
        )
        .await;
    assert_eq!((code, &b["port"]), (200, &json!("2")), "{b}");
    assert_eq!(
        t.get(&format!("{}/b", hosts("v1"))).await.1["hostPort"],
        "h:2"
    );
    let (_, b) = t
        .patch(
            &format!("{}/b/status", hosts("v2")),
            "merge-patch+json",
            json!({"status": {"up": true}}),
        )
        .await;
    assert_eq!(b["status"]["up"], true, "{b}");
    the_storage_version_changes(&t).await;
}

/// After a change of the storage version, existing objects keep their version until written.
async fn the_storage_version_changes(t: &TestServer) {
    let (code, changed) = t
        .patch(
            CRD,
            "merge-patch+json",
            json!({"spec": {"versions": versions("v2")}}),
        )
        .await;
    assert_eq!(code, 200, "{changed}");
    assert_eq!(
        t.get(CRD).await.1["status"]["storedVersions"],
        json!(["v1", "v2"])
    );
    wait_until(t, |t| async {
        let found = t
            .server
            .backend()
            .resources
            .find("example.com", "v2", "hosts");
        found.is_some_and(|r| r.serves_storage_version())
    })
    .await;
    let v1 = json!({"apiVersion": "example.com/v1", "kind": "Host", "metadata": {"name": "c"}, "hostPort": "x:9"});
    assert_eq!(t.post(&hosts("v1"), v1).await.0, 201);
    assert_eq!(stored(t, "c").await["apiVersion"], "example.com/v2");
    assert_eq!(stored(t, "a").await["apiVersion"], "example.com/v1");
    for (version, field) in [("v1", "hostPort"), ("v2", "host")] {
        let (_, list) = t.get(&hosts(version)).await;
        let items = list["items"].as_array().unwrap();
        assert_eq!(items.len(), 3);
        for item in items {
            assert_eq!(item["apiVersion"], format!("example.com/{version}"));
            assert!(item[field].is_string(), "{item}");
        }
    }
    // A write without changes migrates an object to the storage version.
    let (_, a) = t.get(&format!("{}/a", hosts("v1"))).await;
    assert_eq!(t.put(&format!("{}/a", hosts("v1")), a).await.0, 200);
    assert_eq!(stored(t, "a").await["apiVersion"], "example.com/v2");
    // Columns are defined per version.
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let (_, table) = t.get_as(&hosts("v2"), accept).await;
    assert_eq!(table["columnDefinitions"][1]["name"], "Port");
    assert_eq!(table["rows"][0]["cells"], json!(["a", "8080"]));
    let (_, gone) = t.delete(&format!("{}/c", hosts("v1"))).await;
    assert_eq!(gone["status"], "Success");
    // A version with stored objects cannot be removed.
    let (code, refused) = t
        .call(
            http::Method::PATCH,
            CRD,
            "application/json-patch+json",
            json!([{"op": "remove", "path": "/spec/versions/0"}]).to_string(),
        )
        .await;
    assert_eq!(code, 422, "{refused}");
}

#[tokio::test]
async fn selectors_are_of_the_request_version() {
    let t = start().await;
    let port = serve(&t).await;
    let mut both = versions("v1");
    both[0]["selectableFields"] = json!([{"jsonPath": ".hostPort"}]);
    both[1]["selectableFields"] = json!([{"jsonPath": ".host"}, {"jsonPath": ".port"}]);
    let definition = json!({"metadata": {"name": "hosts.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced", "names": {"plural": "hosts", "kind": "Host"},
        "versions": both, "conversion": conversion(&t, port, "/convert")}});
    assert_eq!(t.post(CRDS, definition).await.0, 201);
    wait_until(&t, |t| async move { t.get(&hosts("v2")).await.0 == 200 }).await;
    let query = "fieldSelector=host%3Dh1,port%3D80";
    let mut watch = t.watch(&format!("{}?watch=1&{query}", hosts("v2"))).await;
    for (name, both) in [("a", "h1:80"), ("b", "h1:81"), ("c", "h2:80")] {
        let object = json!({"apiVersion": "example.com/v1", "kind": "Host", "metadata": {"name": name}, "hostPort": both});
        assert_eq!(t.post(&hosts("v1"), object).await.0, 201);
    }
    let names = |list: Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap().clone();
        let name = |i: Value| i["metadata"]["name"].as_str().unwrap().to_owned();
        items.into_iter().map(name).collect()
    };
    let list = |version: &'static str, query: &'static str| {
        let path = format!("{}?{query}", hosts(version));
        let t = &t;
        async move { t.get(&path).await.1 }
    };
    assert_eq!(names(list("v2", query).await), ["a"]);
    assert_eq!(
        names(list("v2", "fieldSelector=host%3Dh1").await),
        ["a", "b"]
    );
    let page = list("v2", "fieldSelector=host%3Dh1&limit=1").await;
    assert_eq!(names(page.clone()), ["a"]);
    let next = page["metadata"]["continue"].as_str().unwrap();
    let path = format!(
        "{}?limit=1&fieldSelector=host%3Dh1&continue={next}",
        hosts("v2")
    );
    assert_eq!(names(t.get(&path).await.1), ["b"]);
    assert_eq!(
        names(list("v1", "fieldSelector=hostPort%3Dh2:80").await),
        ["c"]
    );
    assert_eq!(watch.named().await, ("ADDED".into(), "a".into()));
    // One object leaves the selection and another one enters it.
    let moved = [("a", "82"), ("b", "80")];
    for (name, port) in moved {
        let path = format!("{}/{name}", hosts("v2"));
        let (code, said) = t
            .patch(&path, "merge-patch+json", json!({"port": port}))
            .await;
        assert_eq!(code, 200, "{said}");
    }
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "DELETED");
    assert_eq!(event["object"]["port"], "80", "{event}");
    assert_eq!(watch.named().await, ("ADDED".into(), "b".into()));
    let path = format!("{}?fieldSelector=port%3D80", hosts("v2"));
    assert_eq!(t.delete(&path).await.0, 200);
    assert_eq!(watch.named().await, ("DELETED".into(), "b".into()));
    assert_eq!(names(list("v1", "").await), ["a"]);
}

#[tokio::test]
async fn admission_webhooks_see_the_version_that_they_know() {
    use base64::Engine as _;
    let t = start().await;
    let port = serve(&t).await;
    defined(&t, conversion(&t, port, "/convert")).await;
    let configurations = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
    let configuration = |name: &str, group: &str, resource: &str, policy: &str| {
        json!({"metadata": {"name": name}, "webhooks": [{
            "name": format!("{name}.example.com"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "matchPolicy": policy,
            "clientConfig": {"url": format!("https://127.0.0.1:{port}/admit"),
                "caBundle": base64::engine::general_purpose::STANDARD.encode(&t.pki.pki.ca_cert)},
            "rules": [{"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource]}]}]})
    };
    let hosts_hook = configuration("hosts", "example.com", "hosts", "Equivalent");
    assert_eq!(t.post(configurations, hosts_hook).await.0, 201);
    let scalers_hook = configuration(
        "scalers",
        "autoscaling",
        "horizontalpodautoscalers",
        "Equivalent",
    );
    assert_eq!(t.post(configurations, scalers_hook).await.0, 201);
    let host = |name: &str| json!({"apiVersion": "example.com/v2", "kind": "Host", "metadata": {"name": name}, "host": "h", "port": "9"});
    let request = Request::post(hosts("v2"))
        .header("content-type", "application/json")
        .body(crate::body::full(host("a").to_string()))
        .unwrap();
    let answer = t.send(request).await;
    let warning = answer.headers()["warning"].to_str().unwrap().to_owned();
    assert!(
        warning.contains(r#"[\"example.com/v1\",\"v1\",\"v1\",\"v2\",\"v2\"]"#),
        "{warning}"
    );
    let (_, a) = t.get(&format!("{}/a", hosts("v2"))).await;
    assert_eq!((&a["host"], &a["port"]), (&json!("h"), &json!("1")), "{a}");
    let scalers = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let scaler = json!({"metadata": {"name": "s"}, "spec": {"maxReplicas": 5,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
    let (code, s) = t.post(scalers, scaler).await;
    assert_eq!((code, &s["spec"]["maxReplicas"]), (201, &json!(2)), "{s}");

    // `matchPolicy: Exact` only matches the listed version.
    let exact = configuration("hosts", "example.com", "hosts", "Exact");
    let path = format!("{configurations}/hosts");
    let (code, said) = t.patch(&path, "merge-patch+json", exact).await;
    assert_eq!(code, 200, "{said}");
    let (code, b) = t.post(&hosts("v2"), host("b")).await;
    assert_eq!((code, &b["port"]), (201, &json!("9")), "{b}");
}

#[tokio::test]
async fn a_webhook_that_fails_is_named() {
    let t = start().await;
    let port = serve(&t).await;
    defined(&t, conversion(&t, port, "/refuse")).await;
    let v1 = |name: &str| json!({"apiVersion": "example.com/v1", "kind": "Host", "metadata": {"name": name}, "hostPort": "a:1"});
    assert_eq!(t.post(&hosts("v1"), v1("a")).await.0, 201);
    let get = async || {
        let (code, status) = t.get(&format!("{}/a", hosts("v2"))).await;
        (
            code,
            status["message"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let failed = |why: &str| {
        (
            500,
            format!("conversion webhook for example.com/v1, Kind=Host {why}"),
        )
    };
    assert_eq!(get().await, failed("failed: no, thank you"));
    let set = async |path: &str, wait: &str| {
        let patch = json!({"spec": {"conversion": conversion(&t, port, path)}});
        assert_eq!(t.patch(CRD, "merge-patch+json", patch).await.0, 200);
        for _ in 0..2000 {
            if get().await.1.contains(wait) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        panic!("{:?} does not speak of {wait}", get().await);
    };
    set("/fewer", "returned").await;
    assert_eq!(get().await, failed("returned 0 objects, expected 1"));
    set("/rename", "same name").await;
    assert_eq!(
        get().await,
        failed("returned invalid object: must have the same name: a != other")
    );
}

#[tokio::test]
async fn ownership_is_followed_through_versions() {
    let t = start().await;
    let port = serve(&t).await;
    for strategy in [
        json!({"strategy": "None"}),
        conversion(&t, port, "/convert"),
    ] {
        let none = strategy["strategy"] == "None";
        defined(&t, strategy).await;
        let apply = async |version: &str, manager: &str, fields: Value| {
            let mut object = json!({"apiVersion": format!("example.com/{version}"), "kind": "Host", "metadata": {"name": "s"}});
            for (key, value) in fields.as_object().unwrap() {
                object[key] = value.clone();
            }
            t.call(
                http::Method::PATCH,
                &format!("{}/s?fieldManager={manager}", hosts(version)),
                "application/apply-patch+yaml",
                object.to_string(),
            )
            .await
        };
        if none {
            // Without a webhook, the versions only have metadata in common.
            let (code, made) = apply("v1", "one", json!({"hostPort": "a:1"})).await;
            assert_eq!(code, 201, "{made}");
        } else {
            let (code, made) = apply("v1", "one", json!({"hostPort": "a:1"})).await;
            assert_eq!(code, 201, "{made}");
            let (code, conflict) = apply("v2", "two", json!({"host": "b", "port": "1"})).await;
            assert_eq!(code, 409, "{conflict}");
            assert!(
                conflict["message"].as_str().unwrap().contains(".hostPort"),
                "{conflict}"
            );
            // Fields that a manager no longer applies are removed, also when it applies in another
            // version.
            let (code, gone) = apply(
                "v2",
                "one",
                json!({"host": "a", "port": "1", "proto": "udp"}),
            )
            .await;
            assert_eq!(code, 200, "{gone}");
            let managed = gone["metadata"]["managedFields"].as_array().unwrap();
            assert_eq!(managed.len(), 1, "{gone}");
            assert_eq!(managed[0]["apiVersion"], "example.com/v2");
        }
        assert_eq!(t.delete(CRD).await.0, 200);
        wait_until(&t, |t| async {
            t.get(CRD).await.0 == 404 && t.get(&hosts("v1")).await.0 == 404
        })
        .await;
    }
}

#[tokio::test]
async fn autoscalers_are_owned_across_versions() {
    let t = start().await;
    let path = |version: &str| {
        format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers/h")
    };
    let apply = async |version: &str, manager: &str, spec: Value| {
        let object = json!({"apiVersion": format!("autoscaling/{version}"), "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"}, "spec": spec});
        t.call(
            http::Method::PATCH,
            &format!("{}?fieldManager={manager}", path(version)),
            "application/apply-patch+yaml",
            object.to_string(),
        )
        .await
    };
    let reference = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
    let (code, made) = apply(
        "v1",
        "one",
        json!({"maxReplicas": 3, "targetCPUUtilizationPercentage": 50, "scaleTargetRef": reference}),
    )
    .await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(
        made["metadata"]["managedFields"][0]["apiVersion"],
        "autoscaling/v1"
    );
    let (code, conflict) = apply("v2", "two", json!({"maxReplicas": 4})).await;
    assert_eq!(code, 409, "{conflict}");
    let (code, updated) = t
        .patch(
            &path("v1"),
            "merge-patch+json",
            json!({"spec": {"minReplicas": 2}}),
        )
        .await;
    assert_eq!(code, 200, "{updated}");
    let managed = updated["metadata"]["managedFields"].as_array().unwrap();
    assert!(
        managed
            .iter()
            .any(|m| m["operation"] == "Update" && m["apiVersion"] == "autoscaling/v1"),
        "{updated}"
    );
    // The same manager applies in the new version and keeps its fields.
    let (code, moved) = apply(
        "v2",
        "one",
        json!({"maxReplicas": 3, "scaleTargetRef": reference, "metrics": [
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}),
    )
    .await;
    assert_eq!(code, 200, "{moved}");
    assert_eq!(moved["spec"]["metrics"].as_array().unwrap().len(), 1);
    let applied: Vec<&Value> = moved["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|m| m["operation"] == "Apply")
        .collect();
    assert_eq!(applied.len(), 1);
    assert_eq!(applied[0]["apiVersion"], "autoscaling/v2");
}
