//! Protobuf, as Go clients request it.

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt as _;
use rkube_api::protobuf;
use rkube_store::Expect;
use serde_json::{Value, json};

use super::support::{TestServer, start};
use crate::body;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const GO: &str = "application/vnd.kubernetes.protobuf,application/json";
const ONLY: &str = "application/vnd.kubernetes.protobuf";

async fn ask(
    t: &TestServer,
    method: Method,
    path: &str,
    accept: &str,
    payload: impl Into<Bytes>,
) -> (u16, HeaderMap, Bytes) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("accept", accept)
        .header("content-type", ONLY)
        .body(body::full(payload))
        .unwrap();
    let response = t.send(request).await;
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), parts.headers, bytes)
}

fn encoded(object: &Value) -> Vec<u8> {
    protobuf::encode(object).unwrap().body
}

#[tokio::test]
async fn objects_and_lists() {
    let t = start().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    let (code, headers, made) = ask(&t, Method::POST, MAPS, GO, encoded(&map)).await;
    assert_eq!(
        (code, &headers["content-type"]),
        (201, &ONLY.parse().unwrap())
    );
    let made = protobuf::decode(&made).unwrap();
    let (_, _, read) = ask(&t, Method::GET, &format!("{MAPS}/a"), GO, "").await;
    assert_eq!(protobuf::decode(&read).unwrap(), made);
    let (_, as_json) = t.get(&format!("{MAPS}/a")).await;
    assert_eq!(as_json, made, "both encodings show the same");
    let (_, _, list) = ask(&t, Method::GET, MAPS, GO, "").await;
    let list = protobuf::decode(&list).unwrap();
    assert_eq!(list["kind"], "ConfigMapList");
    assert_eq!(list["items"][0]["data"]["k"], "v");
    let (_, _, empty) = ask(&t, Method::GET, "/apis/apps/v1/deployments", GO, "").await;
    assert_eq!(protobuf::decode(&empty).unwrap()["kind"], "DeploymentList");

    let (code, _, missing) = ask(&t, Method::GET, &format!("{MAPS}/none"), GO, "").await;
    assert_eq!(code, 404);
    let status = protobuf::decode(&missing).unwrap();
    assert_eq!(
        (&status["kind"], &status["reason"], &status["code"]),
        (&json!("Status"), &json!("NotFound"), &json!(404))
    );

    let options =
        json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "other"}});
    let path = format!("{MAPS}/a");
    let (code, _, _) = ask(&t, Method::DELETE, &path, GO, encoded(&options)).await;
    assert_eq!(code, 409);
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
    let (code, _, done) = ask(&t, Method::DELETE, &path, GO, encoded(&options)).await;
    assert_eq!(code, 200);
    assert_eq!(protobuf::decode(&done).unwrap()["status"], "Success");
    let (_, _, groups) = ask(&t, Method::GET, "/apis", GO, "").await;
    assert_eq!(protobuf::decode(&groups).unwrap()["kind"], "APIGroupList");
    let (_, _, resources) = ask(&t, Method::GET, "/api/v1", GO, "").await;
    let resources = protobuf::decode(&resources).unwrap();
    assert!(resources["resources"][0]["verbs"].is_array());
}

#[tokio::test]
async fn views() {
    let t = start().await;
    t.post(
        MAPS,
        json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "data": {"k": "v"}}),
    )
    .await;
    for version in ["v1", "v1beta1"] {
        let accept = format!("{ONLY};as=PartialObjectMetadataList;g=meta.k8s.io;v={version}");
        let (code, _, list) = ask(&t, Method::GET, MAPS, &accept, "").await;
        assert_eq!(code, 200);
        let list = protobuf::decode(&list).unwrap();
        assert_eq!(list["kind"], "PartialObjectMetadataList");
        let item = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|i| i["metadata"]["name"] == "a")
            .unwrap();
        assert_eq!(item["metadata"]["labels"]["x"], "y");
    }
    let table = format!("{ONLY};as=Table;g=meta.k8s.io;v=v1");
    assert_eq!(ask(&t, Method::GET, MAPS, &table, "").await.0, 406);
    let both = format!("{table},application/json;as=Table;g=meta.k8s.io;v=v1");
    let (_, headers, _) = ask(&t, Method::GET, MAPS, &both, "").await;
    assert_eq!(headers["content-type"], "application/json");
}

/// Starts a watch in protobuf.
async fn watch(t: &TestServer, query: &str) -> body::Body {
    let request = Request::builder()
        .uri(format!("{MAPS}?watch=1&{query}"))
        .header("accept", format!("{ONLY};stream=watch,{ONLY}"))
        .body(body::empty())
        .unwrap();
    let response = t.send(request).await;
    assert_eq!(
        response.headers()["content-type"],
        "application/vnd.kubernetes.protobuf;stream=watch"
    );
    response.into_body()
}

/// Returns the types of a watch's next events and the names of their objects.
async fn events(stream: &mut body::Body, count: usize) -> Vec<(String, String)> {
    let mut buffer = BytesMut::new();
    let mut seen = Vec::new();
    while seen.len() < count {
        let frame = stream.frame().await.unwrap().unwrap().into_data().unwrap();
        buffer.extend_from_slice(&frame);
        while buffer.len() >= 4 {
            let length = u32::from_be_bytes(buffer[..4].try_into().unwrap()) as usize;
            if buffer.len() < 4 + length {
                break;
            }
            buffer.advance(4);
            let event = buffer.split_to(length);
            // Field 1 is the event type; field 2 is a RawExtension whose field 1 is the body.
            let kind = event[2..2 + usize::from(event[1])].to_vec();
            let at = event.windows(4).position(|w| w == b"k8s\0").unwrap();
            let object = protobuf::decode(&event[at..]).unwrap();
            seen.push((
                String::from_utf8(kind).unwrap(),
                object["metadata"]["name"].as_str().unwrap().to_owned(),
            ));
        }
    }
    seen
}

fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
    pairs.map(|(k, n)| (k.to_owned(), n.to_owned())).into()
}

#[tokio::test]
async fn watches_are_framed() {
    let t = start().await;
    let (_, list) = t.get(MAPS).await;
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut stream = watch(&t, &format!("resourceVersion={revision}")).await;
    t.post(MAPS, json!({"metadata": {"name": "w"}})).await;
    t.delete(&format!("{MAPS}/w")).await;
    let seen = events(&mut stream, 2).await;
    assert_eq!(seen, pairs([("ADDED", "w"), ("DELETED", "w")]));
}

#[tokio::test]
async fn what_has_no_protobuf_form_anymore_leaves_a_watch() {
    let t = start().await;
    for name in ["a", "b"] {
        t.post(MAPS, json!({"metadata": {"name": name}})).await;
    }
    let mut stream = watch(&t, "fieldSelector=metadata.namespace=default").await;
    assert_eq!(
        events(&mut stream, 2).await,
        pairs([("ADDED", "a"), ("ADDED", "b")])
    );
    // As another program, or an earlier version, may have written it.
    let write = async |name: &str, data: Value| {
        let object = json!({"apiVersion": "v1", "data": data, "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}});
        let key = format!("/registry/core/configmaps/default/{name}");
        let store = &t.server.backend().store;
        let written = store.put(&key, object.to_string().into(), Expect::Any);
        written.await.unwrap();
    };
    write("a", json!({"x": 1})).await;
    write("never", json!({"x": 1})).await;
    t.delete(&format!("{MAPS}/b")).await;
    write("a", json!({"x": "1"})).await;
    assert_eq!(
        events(&mut stream, 3).await,
        pairs([("DELETED", "a"), ("DELETED", "b"), ("MODIFIED", "a")])
    );
}

#[tokio::test]
async fn custom_resources_have_no_protobuf_form() {
    let t = start().await;
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com", "scope": "Cluster",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}],
        },
    });
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let (code, _, _) = ask(&t, Method::POST, path, GO, encoded(&crd)).await;
    assert_eq!(code, 201);
    const THINGS: &str = "/apis/example.com/v1/things";
    for _ in 0..2000 {
        if t.get(THINGS).await.0 == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let (code, headers, _) = ask(&t, Method::GET, THINGS, GO, "").await;
    assert_eq!(
        (code, &headers["content-type"]),
        (200, &"application/json".parse().unwrap())
    );
    assert_eq!(ask(&t, Method::GET, THINGS, ONLY, "").await.0, 406);
    let metadata = format!("{ONLY};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    let (code, _, list) = ask(&t, Method::GET, THINGS, &metadata, "").await;
    assert_eq!(code, 200);
    assert_eq!(
        protobuf::decode(&list).unwrap()["kind"],
        "PartialObjectMetadataList"
    );
}

#[tokio::test]
async fn openapi_v2_in_protobuf_has_an_etag() {
    let t = start().await;
    const FORM: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let (code, headers, document) = ask(&t, Method::GET, "/openapi/v2", FORM, "").await;
    assert_eq!(code, 200);
    assert_eq!(headers["content-type"], protobuf::openapi::MEDIA_TYPE);
    assert!(document.len() > 1_000_000);
    let request = Request::builder()
        .uri("/openapi/v2")
        .header("accept", FORM)
        .header("if-none-match", &headers["etag"])
        .body(body::empty())
        .unwrap();
    assert_eq!(t.send(request).await.status(), 304);
}
