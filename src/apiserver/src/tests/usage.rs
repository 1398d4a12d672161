//! The group `metrics.k8s.io`, with a node agent that the test provides.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rkube_auth::UserInfo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::support::{TestServer, own_address, start};

const GROUP: &str = "/apis/metrics.k8s.io/v1beta1";

/// Returns the agent's page after `count` earlier ones: half a second of processor time per second.
fn page(count: usize) -> String {
    let at = 1_700_000_000_000 + 20_000 * count;
    let cpu = 10 * count;
    let labels = r#"{container="c",namespace="default",pod="p"}"#;
    format!(
        "container_cpu_usage_seconds_total{labels} {cpu} {at}\n\
         container_memory_working_set_bytes{labels} 1048576 {at}\n\
         container_start_time_seconds{labels} 1600000000\n\
         node_cpu_usage_seconds_total {cpu} {at}\n\
         node_memory_working_set_bytes 2097152 {at}\n"
    )
}

/// Starts a server with a node, whose agent counts the requests for its page, and a pod.
async fn with_agent(pages: Arc<AtomicUsize>) -> TestServer {
    let t = start().await;
    let address = own_address();
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tls = super::support::tls_config(&t.pki.pki).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let stream = acceptor.accept(stream).await.unwrap();
            let pages = pages.clone();
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                assert_eq!(request.uri().path(), "/metrics/resource");
                let page = page(pages.fetch_add(1, Ordering::SeqCst));
                async {
                    Ok::<_, std::convert::Infallible>(Response::new(Full::<bytes::Bytes>::from(
                        page,
                    )))
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    let labels = json!({"role": "worker"});
    for name in ["n1", "lost"] {
        let node = json!({"metadata": {"name": name, "labels": labels}});
        t.post("/api/v1/nodes", node).await;
    }
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": address}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }});
    let path = "/api/v1/nodes/n1/status";
    assert_eq!(t.patch(path, "merge-patch+json", status).await.0, 200);
    let account = json!({"metadata": {"name": "default"}});
    t.post("/api/v1/namespaces/default/serviceaccounts", account)
        .await;
    for name in ["p", "idle"] {
        let pod = json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": {
            "nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
        let (code, pod) = t.post("/api/v1/namespaces/default/pods", pod).await;
        assert_eq!(code, 201, "{pod}");
    }
    t
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap();
    items
        .iter()
        .filter_map(|item| item["metadata"]["name"].as_str())
        .collect()
}

#[tokio::test]
async fn usage_is_computed_when_it_is_asked_for() {
    let pages = Arc::new(AtomicUsize::new(0));
    let t = with_agent(pages.clone()).await;
    assert_eq!(pages.load(Ordering::SeqCst), 0, "nobody has asked");
    let (code, nodes) = t.get(&format!("{GROUP}/nodes")).await;
    assert_eq!((code, &nodes["kind"]), (200, &json!("NodeMetricsList")));
    assert_eq!(names(&nodes), ["n1"]);
    let node = &nodes["items"][0];
    assert_eq!(node["usage"], json!({"cpu": "500m", "memory": "2Mi"}));
    assert_eq!(node["window"], "20s");
    assert_eq!(node["timestamp"], "2023-11-14T22:13:40Z");
    assert_eq!(node["metadata"]["labels"], json!({"role": "worker"}));
    assert!(
        pages.load(Ordering::SeqCst) >= 2,
        "a rate needs two samples"
    );

    let all = [
        "namespaces/default/pods",
        "pods",
        "pods?labelSelector=app=p",
        "pods?fieldSelector=metadata.name=p,metadata.namespace=default",
    ];
    for path in all {
        let (_, pods) = t.get(&format!("{GROUP}/{path}")).await;
        assert_eq!(names(&pods), ["p"], "{path}");
        let container = json!([{"name": "c", "usage": {"cpu": "500m", "memory": "1Mi"}}]);
        assert_eq!(pods["items"][0]["containers"], container);
    }
    for path in ["namespaces/other/pods", "pods?labelSelector=app!=p"] {
        let (_, pods) = t.get(&format!("{GROUP}/{path}")).await;
        assert!(names(&pods).is_empty(), "{path}");
    }
    let (code, pod) = t.get(&format!("{GROUP}/namespaces/default/pods/p")).await;
    assert_eq!((code, &pod["kind"]), (200, &json!("PodMetrics")));
    assert_eq!(pod["metadata"]["namespace"], "default");
    for (path, message) in [
        ("nodes/x", r#"nodes "x" not found"#),
        ("nodes/lost", r#"nodes.metrics.k8s.io "lost" not found"#),
        (
            "namespaces/default/pods/idle",
            r#"pods.metrics.k8s.io "default/idle" not found"#,
        ),
    ] {
        let (code, status) = t.get(&format!("{GROUP}/{path}")).await;
        assert_eq!((code, status["message"].as_str()), (404, Some(message)));
    }

    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let (_, table) = t.get_as(&format!("{GROUP}/pods"), table).await;
    assert_eq!(table["columnDefinitions"][1]["name"], "cpu");
    assert_eq!(
        table["rows"][0]["cells"],
        json!(["p", "500m", "1Mi", "20s"])
    );
}

#[tokio::test]
async fn the_group_is_discovered_and_read_by_viewers() {
    let t = start().await;
    let (_, list) = t.get(GROUP).await;
    assert_eq!(
        list["resources"],
        json!([
            {"name": "nodes", "singularName": "", "namespaced": false, "kind": "NodeMetrics", "verbs": ["get", "list"]},
            {"name": "pods", "singularName": "", "namespaced": true, "kind": "PodMetrics", "verbs": ["get", "list"]},
        ])
    );
    let (code, document) = t.get(&format!("/openapi/v3{GROUP}")).await;
    assert_eq!(code, 200, "{document}");
    let path = format!("{GROUP}/namespaces/{{namespace}}/pods/{{name}}");
    assert!(document["paths"][&path]["get"].is_object(), "{document}");
    assert!(document["paths"][&path]["put"].is_null());
    let (_, index) = t.get("/openapi/v3").await;
    assert!(index["paths"]["apis/metrics.k8s.io/v1beta1"].is_object());
    // No object is in the way of an adapter's or of metrics-server's own.
    let service = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io";
    assert_eq!(t.get(service).await.0, 404);

    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:rkube-metrics-reader";
    let (_, role) = t.get(role).await;
    for to in ["admin", "edit", "view"] {
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{to}");
        assert_eq!(role["metadata"]["labels"][&label], "true");
    }
    let mut request = Request::builder()
        .uri(format!("{GROUP}/nodes"))
        .body(crate::body::empty())
        .unwrap();
    let nobody = UserInfo::authenticated("nobody", &[]);
    request.extensions_mut().insert(nobody);
    assert_eq!(t.send(request).await.status(), 403);
    let (code, _) = t.delete(&format!("{GROUP}/nodes/n1")).await;
    assert_eq!(code, 405);
}

#[tokio::test]
async fn an_api_service_takes_the_group_over_until_it_is_deleted() {
    let t = start().await;
    let services = "/apis/apiregistration.k8s.io/v1/apiservices";
    let service = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1beta1.metrics.k8s.io", "labels": {"k8s-app": "metrics-server"}},
        "spec": {
            "group": "metrics.k8s.io", "version": "v1beta1", "insecureSkipTLSVerify": true,
            "groupPriorityMinimum": 100, "versionPriority": 100,
            "service": {"name": "metrics-server", "namespace": "kube-system"},
        },
    });
    let (code, made) = t.post(services, service).await;
    assert_eq!(code, 201, "{made}");
    let becomes = async |wanted: u16| {
        for _ in 0..1000 {
            if t.get(&format!("{GROUP}/nodes")).await.0 == wanted {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("{GROUP} is not answered with {wanted}");
    };
    // Its server does not exist.
    becomes(503).await;
    let (_, list) = t.get("/apis").await;
    let groups = list["groups"].as_array().unwrap().iter();
    assert_eq!(groups.filter(|g| g["name"] == "metrics.k8s.io").count(), 1);
    let (code, _) = t
        .delete(&format!("{services}/v1beta1.metrics.k8s.io"))
        .await;
    assert_eq!(code, 200);
    becomes(200).await;
}
