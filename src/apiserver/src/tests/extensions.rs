//! Custom resources, webhooks, evictions, tokens and the expiry of events.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::support::{TestServer, start};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const TABS: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";

fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {
            "group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "listKind": "CronTabList", "shortNames": ["ct"]},
            "versions": [
                {"name": "v1", "served": true, "storage": true,
                 "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
                 "selectableFields": [{"jsonPath": ".spec.color"}],
                 "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                     "spec": {"type": "object", "required": ["cronSpec"], "properties": {
                         "cronSpec": {"type": "string"}, "color": {"type": "string"},
                         "replicas": {"type": "integer", "minimum": 1, "default": 2}}},
                     "status": {"type": "object", "properties": {"replicas": {"type": "integer"}}}}}}},
                {"name": "v2", "served": true, "storage": false,
                 "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}},
            ],
        },
    })
}

async fn established(t: &TestServer) {
    establish(t, definition()).await;
}

async fn establish(t: &TestServer, definition: Value) {
    let (code, made) = t.post(CRDS, definition).await;
    assert_eq!(code, 201, "{made}");
    for _ in 0..2000 {
        if t.get(TABS).await.0 == 200 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    panic!(
        "the custom resource is not served: {}",
        t.get(&format!("{CRDS}/crontabs.stable.example.com"))
            .await
            .1
    );
}

fn tab(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn an_apply_to_a_scale_owns_the_count_where_the_definition_has_it() {
    let t = start().await;
    let mut definition = definition();
    let version = &mut definition["spec"]["versions"][0];
    version["subresources"]["scale"]["specReplicasPath"] = ".spec.size".into();
    version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["size"] =
        json!({"type": "integer"});
    establish(&t, definition).await;
    let made = t
        .post(
            &format!("{TABS}?fieldManager=one"),
            tab("a", json!({"cronSpec": "* *", "size": 1})),
        )
        .await;
    assert_eq!(made.0, 201);
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "spec": {"replicas": 3}});
    let path = format!("{TABS}/a/scale?fieldManager=two");
    let kind = "application/apply-patch+yaml";
    let (code, conflict) = t.call(Method::PATCH, &path, kind, scale.to_string()).await;
    assert_eq!(code, 409, "{conflict}");
    let forced = format!("{path}&force=true");
    let (code, scaled) = t
        .call(Method::PATCH, &forced, kind, scale.to_string())
        .await;
    assert_eq!(code, 200, "{scaled}");
    let (_, object) = t.get(&format!("{TABS}/a")).await;
    assert_eq!(object["spec"]["size"], 3);
    let owners = &object["metadata"]["managedFields"];
    assert_eq!(owners[0]["manager"], "two");
    assert_eq!(owners[0]["fieldsV1"], json!({"f:spec": {"f:size": {}}}));
    let rest = &owners[1]["fieldsV1"]["f:spec"];
    assert!(rest.get("f:cronSpec").is_some() && rest.get("f:size").is_none());
}

#[tokio::test]
async fn custom_resources_live_like_others() {
    let t = start().await;
    established(&t).await;
    let (code, made) = t
        .post(
            TABS,
            tab("a", json!({"cronSpec": "* *", "nope": 1, "color": "red"})),
        )
        .await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(
        made["spec"],
        json!({"cronSpec": "* *", "replicas": 2, "color": "red"}),
        "pruned and defaulted"
    );
    assert_eq!(made["metadata"]["generation"], 1);
    let (code, bad) = t.post(TABS, tab("b", json!({"replicas": 0}))).await;
    assert_eq!(code, 422);
    let message = bad["message"].as_str().unwrap();
    assert!(
        message.contains("spec.cronSpec: Required value"),
        "{message}"
    );
    assert!(
        message.contains("spec.replicas in body should be greater than or equal to 1"),
        "{message}"
    );
    let (code, _) = t
        .post(
            &format!("{TABS}?fieldValidation=Strict"),
            tab("b", json!({"cronSpec": "", "nope": 1})),
        )
        .await;
    assert_eq!(code, 400);
    let (code, scaled) = t
        .patch(
            &format!("{TABS}/a/scale"),
            "merge-patch+json",
            json!({"spec": {"replicas": 5}}),
        )
        .await;
    assert_eq!(
        (code, &scaled["spec"]["replicas"]),
        (200, &json!(5)),
        "{scaled}"
    );
    let (code, object) = t
        .patch(
            &format!("{TABS}/a/status"),
            "merge-patch+json",
            json!({"spec": {"replicas": 9}, "status": {"replicas": 4}}),
        )
        .await;
    assert_eq!(
        (
            code,
            &object["status"]["replicas"],
            &object["spec"]["replicas"]
        ),
        (200, &json!(4), &json!(5)),
        "{object}"
    );
    assert_eq!(object["metadata"]["generation"], 2);
    let (_, red) = t.get(&format!("{TABS}?fieldSelector=spec.color=red")).await;
    assert_eq!(red["items"].as_array().unwrap().len(), 1);
    let (_, blue) = t
        .get(&format!("{TABS}?fieldSelector=spec.color=blue"))
        .await;
    assert_eq!(blue["items"].as_array().unwrap().len(), 0);
    let (_, other) = t.get(&TABS.replace("/v1/", "/v2/")).await;
    assert_eq!(other["items"][0]["apiVersion"], "stable.example.com/v2");
    let (_, groups) = t.get("/apis/stable.example.com").await;
    assert_eq!(groups["preferredVersion"]["version"], "v2");
    let (code, _) = t
        .patch(
            &format!("{TABS}/a"),
            "strategic-merge-patch+json",
            json!({}),
        )
        .await;
    assert_eq!(code, 415);

    // The definition is deleted together with its objects.
    let mut watch = t.watch(&format!("{TABS}?watch=1")).await;
    assert_eq!(watch.named().await.0, "ADDED");
    let (code, _) = t
        .delete(&format!("{CRDS}/crontabs.stable.example.com"))
        .await;
    assert_eq!(code, 200);
    assert_eq!(watch.named().await.0, "DELETED");
    for _ in 0..2000 {
        if t.get(TABS).await.0 == 404 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    panic!("the custom resource is still served");
}

/// A webhook that labels allowed objects and denies those named `bad`.
async fn hook(
    request: Request<hyper::body::Incoming>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    use base64::Engine as _;
    let mutating = request.uri().path() == "/mutate";
    let bytes = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&bytes).unwrap();
    let mut response =
        json!({"uid": review["request"]["uid"], "allowed": true, "warnings": ["seen"]});
    if mutating {
        let patch = r#"[{"op": "add", "path": "/metadata/labels", "value": {"hooked": "yes"}}]"#;
        response["patchType"] = "JSONPatch".into();
        response["patch"] = base64::engine::general_purpose::STANDARD
            .encode(patch)
            .into();
    } else if review["request"]["name"] == "bad" {
        response["allowed"] = false.into();
        response["status"] = json!({"message": "bad name", "code": 403});
    }
    let answer = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response});
    Ok(Response::new(Full::from(answer.to_string())))
}

/// Serves [`hook`] with the API server's certificate.
async fn serve_hooks(t: &TestServer) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tls = super::support::tls_config(&t.pki.pki).unwrap();
    tls.alpn_protocols.clear();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(hook))
                    .await;
                drop(served);
            });
        }
    });
    address
}

#[tokio::test]
async fn webhooks_change_and_refuse() {
    use base64::Engine as _;
    let t = start().await;
    let address = serve_hooks(&t).await;
    let configuration = |kind: &str, path: &str, policy: &str, port: u16| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": format!("h{}", path.trim_start_matches('/'))},
            "webhooks": [{
                "name": "hook.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "failurePolicy": policy,
                "clientConfig": {
                    "url": format!("https://127.0.0.1:{port}{path}"),
                    "caBundle": base64::engine::general_purpose::STANDARD.encode(&t.pki.pki.ca_cert),
                },
                "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
            }],
        })
    };
    let base = "/apis/admissionregistration.k8s.io/v1";
    let mutating = configuration(
        "MutatingWebhookConfiguration",
        "/mutate",
        "Fail",
        address.port(),
    );
    let (code, made) = t
        .post(&format!("{base}/mutatingwebhookconfigurations"), mutating)
        .await;
    assert_eq!(code, 201, "{made}");
    let validating = configuration(
        "ValidatingWebhookConfiguration",
        "/validate",
        "Fail",
        address.port(),
    );
    let (code, made) = t
        .post(
            &format!("{base}/validatingwebhookconfigurations"),
            validating,
        )
        .await;
    assert_eq!(code, 201, "{made}");
    t.get("/api/v1/namespaces").await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let (code, made) = t.post(maps, json!({"metadata": {"name": "good"}})).await;
    assert_eq!(
        (code, &made["metadata"]["labels"]["hooked"]),
        (201, &json!("yes")),
        "{made}"
    );
    let (code, refused) = t.post(maps, json!({"metadata": {"name": "bad"}})).await;
    assert_eq!(
        (code, refused["message"].as_str().unwrap()),
        (
            403,
            "admission webhook \"hook.example.com\" denied the request: bad name"
        )
    );
    // No server listens at this address any more.
    let gone = configuration("ValidatingWebhookConfiguration", "/x", "Fail", 1);
    t.post(&format!("{base}/validatingwebhookconfigurations"), gone)
        .await;
    t.get("/api/v1/namespaces").await;
    let (code, failed) = t.post(maps, json!({"metadata": {"name": "other"}})).await;
    assert_eq!(code, 500, "{failed}");
    t.patch(
        &format!("{base}/validatingwebhookconfigurations/hx"),
        "json-patch+json",
        json!([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]),
    )
    .await;
    t.get("/api/v1/namespaces").await;
    let (code, made) = t.post(maps, json!({"metadata": {"name": "other"}})).await;
    assert_eq!(code, 201, "{made}");
}

#[tokio::test]
async fn webhooks_are_asked_about_connections_and_bindings() {
    use base64::Engine as _;
    let t = start().await;
    let address = serve_hooks(&t).await;
    let (code, made) = t
        .post(
            "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
            json!({
                "metadata": {"name": "h"},
                "webhooks": [{
                    "name": "hook.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                    "clientConfig": {
                        "url": format!("https://{address}/validate"),
                        "caBundle": base64::engine::general_purpose::STANDARD.encode(&t.pki.pki.ca_cert),
                    },
                    "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"],
                               "resources": ["pods/attach", "pods/binding", "serviceaccounts/token"]}],
                }],
            }),
        )
        .await;
    assert_eq!(code, 201, "{made}");
    t.get("/api/v1/namespaces").await;
    let base = "/api/v1/namespaces/default";
    for (path, body) in [
        ("pods/bad/attach", json!({})),
        (
            "pods/bad/binding",
            json!({"metadata": {"name": "bad"}, "target": {"kind": "Node", "name": "n"}}),
        ),
        ("serviceaccounts/bad/token", json!({"spec": {}})),
    ] {
        let (code, refused) = t.post(&format!("{base}/{path}"), body).await;
        assert_eq!(
            (code, refused["message"].as_str().unwrap_or_default()),
            (
                403,
                "admission webhook \"hook.example.com\" denied the request: bad name"
            ),
            "{path}: {refused}"
        );
    }
}

#[tokio::test]
async fn a_pod_waits_for_its_namespaces_account_and_gets_its_nodes_place() {
    let t = Arc::new(start().await);
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p", "labels": {"own": "kept"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let early = {
        let t = t.clone();
        tokio::spawn(async move { t.post(pods, pod).await })
    };
    tokio::task::yield_now().await;
    t.post(
        "/api/v1/namespaces/default/serviceaccounts",
        json!({"metadata": {"name": "default"}}),
    )
    .await;
    let (code, made) = early.await.unwrap();
    assert_eq!(code, 201, "{made}");

    let place = json!({"topology.kubernetes.io/zone": "z", "kubernetes.io/hostname": "n"});
    let node = json!({"metadata": {"name": "n", "labels": place}});
    assert_eq!(t.post("/api/v1/nodes", node).await.0, 201);
    let binding = json!({
        "metadata": {"name": "p", "annotations": {"said": "by the scheduler"}, "resourceVersion": "1"},
        "target": {"kind": "Node", "name": "n"},
    });
    let bind = format!("{pods}/p/binding");
    assert_eq!(t.post(&bind, binding.clone()).await.0, 409);
    let mut binding = binding;
    binding["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"].clone();
    binding["metadata"]["namespace"] = json!("other");
    assert_eq!(t.post(&bind, binding.clone()).await.0, 400);
    binding["metadata"]["namespace"] = json!("default");
    let (code, bound) = t.post(&bind, binding).await;
    assert_eq!(code, 201, "{bound}");
    let (_, pod) = t.get(&format!("{pods}/p")).await;
    assert_eq!(
        pod["metadata"]["labels"],
        json!({"own": "kept", "topology.kubernetes.io/zone": "z"})
    );
    assert_eq!(
        pod["metadata"]["annotations"],
        json!({"said": "by the scheduler"})
    );

    use rkube_auth::ObjectReader as _;
    let reader = crate::reader::CacheReader(t.server.backend().cache.clone());
    assert_eq!(reader.pods_on_node("n", "default").len(), 1);
    assert_eq!(reader.pods_on_node("m", "default").len(), 0);
    assert_eq!(reader.pods_on_node("n", "kube-system").len(), 0);
}

#[tokio::test]
async fn budgets_hold_evictions_back() {
    let t = start().await;
    t.post(
        "/api/v1/namespaces/default/serviceaccounts",
        json!({"metadata": {"name": "default"}}),
    )
    .await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    t.post(pods, pod).await;
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    t.patch(&format!("{pods}/p/status"), "merge-patch+json", status)
        .await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let (code, made) = t.post(budgets, json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}})).await;
    assert_eq!(code, 201, "{made}");
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let set = |allowed: i64| json!({"status": {"observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
    t.patch(&format!("{budgets}/b/status"), "merge-patch+json", set(0))
        .await;
    let (code, refused) = t
        .post(&format!("{pods}/p/eviction"), eviction.clone())
        .await;
    assert_eq!(code, 429, "{refused}");
    t.patch(&format!("{budgets}/b/status"), "merge-patch+json", set(1))
        .await;
    let (code, done) = t.post(&format!("{pods}/p/eviction"), eviction).await;
    assert_eq!(code, 201, "{done}");
    let (_, budget) = t.get(&format!("{budgets}/b")).await;
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
    let (_, pod) = t.get(&format!("{pods}/p")).await;
    assert!(pod["metadata"]["deletionTimestamp"].is_string());
    // Controllers distinguish an eviction from a failure of the pod by this condition.
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    let disrupted = conditions.iter().find(|c| c["type"] == "DisruptionTarget");
    assert_eq!(disrupted.unwrap()["reason"], "EvictionByEvictionAPI");
    assert!(conditions.iter().any(|c| c["type"] == "Ready"));
}

#[tokio::test]
async fn tokens_are_made_and_let_in() {
    let t = start().await;
    let (_, account) = t
        .post(
            "/api/v1/namespaces/default/serviceaccounts",
            json!({"metadata": {"name": "me"}}),
        )
        .await;
    assert!(account["metadata"]["uid"].is_string());
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}});
    let (code, answer) = t
        .post(
            "/api/v1/namespaces/default/serviceaccounts/me/token",
            request,
        )
        .await;
    assert_eq!(code, 201, "{answer}");
    let token = answer["status"]["token"].as_str().unwrap();
    let request = Request::builder()
        .uri("/version")
        .header("authorization", format!("Bearer {token}"))
        .body(crate::body::empty())
        .unwrap();
    assert_eq!(t.server.call(request).await.status(), 200);
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let (code, review) = t
        .post("/apis/authentication.k8s.io/v1/tokenreviews", review)
        .await;
    assert_eq!(
        (code, &review["status"]["user"]["username"]),
        (201, &json!("system:serviceaccount:default:me")),
        "{review}"
    );
    let (code, keys) = t.get("/openid/v1/jwks").await;
    assert_eq!((code, keys["keys"].as_array().unwrap().len()), (200, 1));
}

#[tokio::test]
async fn events_are_one_object_in_two_groups_and_age() {
    let t = start().await;
    let event = json!({
        "metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
        "reason": "Tested", "message": "hello", "type": "Normal", "source": {"component": "test"},
        "firstTimestamp": "2020-01-01T00:00:00Z", "lastTimestamp": "2020-01-01T00:00:00Z", "count": 1,
    });
    let (code, made) = t.post("/api/v1/namespaces/default/events", event).await;
    assert_eq!(code, 201, "{made}");
    let (code, other) = t
        .get("/apis/events.k8s.io/v1/namespaces/default/events/e")
        .await;
    assert_eq!(
        (code, &other["note"], &other["regarding"]["name"]),
        (200, &json!("hello"), &json!("p")),
        "{other}"
    );
    let made = jiff::Timestamp::now();
    crate::events::sweep(t.server.backend(), made).await;
    assert_eq!(
        t.get("/api/v1/namespaces/default/events/e").await.0,
        200,
        "young by its own creation"
    );
    crate::events::sweep(
        t.server.backend(),
        made + jiff::SignedDuration::from_hours(2),
    )
    .await;
    assert_eq!(t.get("/api/v1/namespaces/default/events/e").await.0, 404);
}

#[tokio::test]
async fn autoscalers_are_served_in_both_versions() {
    let t = start().await;
    let path = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    let hpa = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"}, "spec": {
        "maxReplicas": 3, "targetCPUUtilizationPercentage": 50,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
    let (code, made) = t.post(path, hpa).await;
    assert_eq!(
        (code, &made["spec"]["targetCPUUtilizationPercentage"]),
        (201, &json!(50)),
        "{made}"
    );
    let (code, new) = t.get(&format!("{}/h", path.replace("/v1/", "/v2/"))).await;
    assert_eq!(
        (
            code,
            &new["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"]
        ),
        (200, &json!(50)),
        "{new}"
    );
}
