//! The codes and words of answers to faulty requests, as upstream's server gives them.

use http::Method;
use serde_json::{Value, json};

use super::support::start;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}})
}

fn message(answer: &Value) -> &str {
    answer["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn patches_that_give_no_valid_object() {
    let t = start().await;
    t.post(MAPS, config_map("a")).await;
    let path = format!("{MAPS}/a");
    let strict = format!("{path}?fieldValidation=Strict");
    let unknown = json!({"zz": 1, "aa": [1, "x", null, true]});
    let why = r#"strict decoding error: unknown field "aa", unknown field "zz""#;

    let form = "strategic-merge-patch+json";
    let (code, answer) = t.patch(&strict, form, unknown.clone()).await;
    let shown =
        format!(" \"\" is invalid: patch: Invalid value: \"map[aa:[1 x <nil> true] zz:1]\": {why}");
    assert_eq!((code, message(&answer)), (422, shown.as_str()));

    let (code, answer) = t.patch(&strict, "merge-patch+json", unknown).await;
    assert_eq!((code, &answer["reason"]), (422, &json!("Invalid")));
    let text = message(&answer);
    let start = r#" "" is invalid: patch: Invalid value: "{\"aa\":[1,\"x\""#;
    assert!(text.starts_with(start) && text.ends_with(why), "{text}");

    let add = json!([{"op": "add", "path": "/zz", "value": 1}]);
    let (code, answer) = t.patch(&strict, "json-patch+json", add).await;
    let end = r#"": strict decoding error: unknown field "zz""#;
    assert!(code == 422 && message(&answer).ends_with(end), "{answer}");

    let repeated = r#"{"data": {"b": "1", "b": "2"}}"#;
    let (code, answer) = t
        .call(
            Method::PATCH,
            &strict,
            "application/merge-patch+json",
            repeated,
        )
        .await;
    let end = r#"": strict decoding error: duplicate field "data.b""#;
    assert!(code == 422 && message(&answer).ends_with(end), "{answer}");

    let (code, answer) = t.patch(&path, form, json!({"data": {"a": 1}})).await;
    let wrong = r#" "" is invalid: patch: Invalid value: "map[data:map[a:1]]": json: cannot unmarshal number into Go struct field ConfigMap.data of type string"#;
    assert_eq!((code, message(&answer)), (422, wrong));
}

#[tokio::test]
async fn uids_and_revisions_of_others() {
    let t = start().await;
    t.post(MAPS, config_map("a")).await;
    let path = format!("{MAPS}/a");
    let other = json!({"metadata": {"uid": "x"}});
    let (code, answer) = t.patch(&path, "merge-patch+json", other.clone()).await;
    let why = r#"ConfigMap "a" is invalid: metadata.uid: Invalid value: "x": field is immutable"#;
    assert_eq!((code, message(&answer)), (422, why));
    let mut map = config_map("a");
    map["metadata"]["uid"] = "x".into();
    let (code, _) = t.put(&path, map.clone()).await;
    assert_eq!(code, 409, "the uid of an update is a precondition");
    map["metadata"]["name"] = "n".into();
    let apply = format!("{MAPS}/n?fieldManager=m");
    let (code, answer) = t.patch(&apply, "apply-patch+yaml", map).await;
    let why = r#"Operation cannot be fulfilled on configmaps "n": uid mismatch: the provided object specified uid x, and no existing object was found"#;
    assert_eq!((code, message(&answer)), (409, why));

    let odd = json!({"metadata": {"resourceVersion": "abc"}});
    let (code, answer) = t.patch(&path, "merge-patch+json", odd).await;
    let why = r#"strconv.ParseUint: parsing "abc": invalid syntax"#;
    assert_eq!((code, message(&answer)), (500, why));
    let mut map = config_map("new");
    map["metadata"]["resourceVersion"] = "1".into();
    let (code, answer) = t.post(MAPS, map.clone()).await;
    let why = "resourceVersion should not be set on objects to be created";
    assert_eq!((code, message(&answer)), (500, why));
    // The errors of validation come first.
    map["data"] = json!({"?": "x"});
    assert_eq!(t.post(MAPS, map).await.0, 422);
}

#[tokio::test]
async fn unknown_fields_are_told_in_the_documents_order() {
    let t = start().await;
    let body = r#"{"zz": 1, "metadata": {"name": "a", "b": 2}, "aa": 3}"#;
    let path = format!("{MAPS}?fieldValidation=Strict");
    let (code, answer) = t.call(Method::POST, &path, "application/json", body).await;
    let why = r#"ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "zz", unknown field "metadata.b", unknown field "aa""#;
    assert_eq!((code, message(&answer)), (400, why));
}

#[tokio::test]
async fn methods_and_paths_that_are_not_served() {
    let t = start().await;
    t.post(MAPS, config_map("a")).await;
    let one = format!("{MAPS}/a");
    let not_allowed = "the server does not allow this method on the requested resource";
    for (method, path) in [
        (Method::POST, one.as_str()),
        (Method::PUT, MAPS),
        (Method::HEAD, MAPS),
        (Method::HEAD, &one),
        (Method::OPTIONS, MAPS),
        (Method::HEAD, "/apis"),
        (Method::HEAD, "/version"),
        (Method::POST, "/api/v1/configmaps"),
    ] {
        let (code, answer) = t.call(method.clone(), path, "", "").await;
        assert_eq!(
            (code, message(&answer)),
            (405, not_allowed),
            "{method} {path}"
        );
    }
    assert_eq!(t.call(Method::HEAD, "/healthz", "", "").await.0, 200);
    for path in [
        "/apis/none",
        "/apis/none/v1",
        "/apis/none/v1/things",
        "/none",
    ] {
        let found = t.get(path).await;
        assert_eq!(found, (404, "404 page not found\n".into()), "{path}");
    }
    for path in [
        "/api/v1/things",
        "/apis/apps/v1/things",
        "/apis/apps/v9/deployments",
    ] {
        let (code, answer) = t.get(path).await;
        let why = "the server could not find the requested resource";
        assert_eq!((code, message(&answer)), (404, why), "{path}");
    }
}

#[tokio::test]
async fn parameters_that_are_no_numbers() {
    let t = start().await;
    let log = "/api/v1/namespaces/default/pods/none/log";
    let why = r#"strconv.ParseInt: parsing "abc": invalid syntax"#;
    for path in [
        format!("{MAPS}?timeoutSeconds=abc"),
        format!("{MAPS}?limit=abc"),
        format!("{MAPS}?watch=true&timeoutSeconds=abc"),
        format!("{log}?tailLines=abc"),
    ] {
        let (code, answer) = t.get(&path).await;
        assert_eq!((code, message(&answer)), (400, why), "{path}");
    }
    // The options of a log are judged before the pod is looked for.
    for (query, code) in [("tailLines=-1", 422), ("limitBytes=0", 422), ("", 404)] {
        assert_eq!(t.get(&format!("{log}?{query}")).await.0, code, "{query}");
    }
    t.post(MAPS, config_map("a")).await;
    let body = r#"{"gracePeriodSeconds": "x"}"#;
    let path = format!("{MAPS}/a");
    let (code, answer) = t
        .call(Method::DELETE, &path, "application/json", body)
        .await;
    assert!(
        code == 400 && message(&answer).contains("gracePeriodSeconds of type int64"),
        "{answer}"
    );
}

#[tokio::test]
async fn lists_at_old_revisions_expire() {
    let t = start().await;
    for name in ["a", "b", "c"] {
        t.post(MAPS, config_map(name)).await;
    }
    let (_, page) = t.get(&format!("{MAPS}?limit=1")).await;
    let token = page["metadata"]["continue"].as_str().unwrap();
    let revision = page["metadata"]["resourceVersion"].as_str().unwrap();
    let next = format!("{MAPS}?limit=1&continue={token}");
    let exact = format!("{MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact");
    let backend = t.server.backend();
    // Other resources are written meanwhile, this one is not.
    t.post("/api/v1/namespaces", json!({"metadata": {"name": "x"}}))
        .await;
    backend.cache.consistent().await;
    backend.compaction.round(backend.cache.revision());
    assert_eq!((t.get(&next).await.0, t.get(&exact).await.0), (200, 200));
    backend.compaction.round(backend.cache.revision());
    let (code, answer) = t.get(&next).await;
    assert_eq!((code, &answer["reason"]), (410, &json!("Expired")));
    assert_eq!(t.get(&exact).await.0, 410);
    let fresh = answer["metadata"]["continue"].as_str().unwrap();
    let (code, rest) = t.get(&format!("{MAPS}?continue={fresh}")).await;
    let names: Vec<&Value> = rest["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| &o["metadata"]["name"])
        .collect();
    assert_eq!((code, names), (200, vec![&json!("b"), &json!("c")]));
}

#[tokio::test]
async fn what_is_nested_too_deeply_to_be_read_is_not_stored() {
    let t = start().await;
    let group = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definition = json!({"metadata": {"name": "things.example.com"}, "spec": {
        "group": "example.com", "scope": "Cluster", "names": {"plural": "things", "kind": "Thing"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
    }});
    let (code, made) = t.post(group, definition).await;
    assert_eq!(code, 201, "{made}");
    let path = "/apis/example.com/v1/things";
    let deep = |levels: usize| {
        let (open, close) = ("{\"a\":".repeat(levels), "}".repeat(levels));
        format!(
            r#"{{"apiVersion":"example.com/v1","kind":"Thing","metadata":{{"name":"d{levels}"}},"spec":{open}1{close}}}"#
        )
    };
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    while t.get(path).await.0 != 200 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the resource is not served"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let mut codes = Vec::new();
    for levels in 110..130 {
        let (code, answer) = t
            .call(Method::POST, path, "application/json", deep(levels))
            .await;
        assert!(matches!(code, 201 | 400 | 422), "{levels}: {answer}");
        codes.push(code);
        if code == 201 {
            let object = format!("{path}/d{levels}");
            let label = json!({"metadata": {"labels": {"a": "b"}}});
            let (code, answer) = t.patch(&object, "merge-patch+json", label).await;
            assert_eq!(code, 200, "{levels}: {answer}");
            let (code, answer) = t.delete(&object).await;
            assert_eq!(code, 200, "{levels}: {answer}");
        }
    }
    assert!(codes.contains(&201) && codes.contains(&422), "{codes:?}");
}

/// Waits until a path is served.
async fn served(t: &super::support::TestServer, path: &str) {
    while t.get(path).await.0 != 200 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn objects_of_the_cluster_lose_their_namespace() {
    let t = start().await;
    let definition = json!({"metadata": {"name": "wides.example.com"}, "spec": {
        "group": "example.com", "scope": "Cluster",
        "names": {"plural": "wides", "singular": "wide", "kind": "Wide"},
        "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    assert_eq!(t.post(definitions, definition).await.0, 201);
    for (root, version, kind) in [
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterroles",
            "rbac.authorization.k8s.io/v1",
            "ClusterRole",
        ),
        ("/apis/example.com/v1/wides", "example.com/v1", "Wide"),
    ] {
        served(&t, root).await;
        let object = json!({"apiVersion": version, "kind": kind,
            "metadata": {"name": "x", "namespace": "foo"}});
        let (code, made) = t.post(root, object.clone()).await;
        assert_eq!(code, 201, "{made}");
        let path = format!("{root}/x");
        let mut changed = object.clone();
        changed["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"].clone();
        changed["metadata"]["labels"] = json!({"a": "b"});
        let patch = json!({"metadata": {"namespace": "foo"}});
        let apply = format!("{path}?fieldManager=m");
        for (code, answer) in [
            (200, made),
            t.put(&path, changed).await,
            t.patch(&path, "merge-patch+json", patch).await,
            t.patch(&apply, "apply-patch+yaml", object).await,
            t.get(&path).await,
        ] {
            assert_eq!(code, 200, "{answer}");
            assert!(answer["metadata"].get("namespace").is_none(), "{answer}");
        }
    }
    // Custom resources name their version themselves.
    let object = r#"{"kind": "Wide", "metadata": {"name": "y"}}"#;
    let root = "/apis/example.com/v1/wides";
    let (code, answer) = t.call(Method::POST, root, "application/json", object).await;
    let why =
        "the API version in the data () does not match the expected API version (example.com/v1)";
    assert_eq!((code, message(&answer)), (400, why));
}

#[tokio::test]
async fn the_greatest_generation_can_be_deleted() {
    let t = start().await;
    let path = "/apis/apps/v1/namespaces/default/replicasets";
    let object = json!({"metadata": {"name": "a", "generation": i64::MAX, "finalizers": ["x.io/y"]},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    for (root, object) in [
        (MAPS, {
            let mut map = config_map("a");
            map["metadata"]["generation"] = i64::MAX.into();
            map["metadata"]["finalizers"] = json!(["x.io/y"]);
            map
        }),
        (path, object),
    ] {
        let (code, made) = t.post(root, object).await;
        assert_eq!(code, 201, "{made}");
        let (code, answer) = t.delete(&format!("{root}/a")).await;
        assert_eq!(code, 200, "{answer}");
        assert!(answer["metadata"]["deletionTimestamp"].is_string());
    }
}

#[tokio::test]
async fn a_body_of_whitespace_is_no_options() {
    let t = start().await;
    t.post(MAPS, config_map("a")).await;
    let path = format!("{MAPS}/a");
    let (code, answer) = t.call(Method::DELETE, &path, "application/json", " ").await;
    let why = "couldn't get version/kind; json parse error: unexpected end of JSON input";
    assert_eq!((code, message(&answer)), (400, why));
    let (code, _) = t.call(Method::DELETE, &path, "application/yaml", " ").await;
    assert_eq!(code, 200, "YAML without a value is no options");
}

#[tokio::test]
async fn a_watch_with_a_negative_timeout_ends_at_once() {
    let t = start().await;
    let mut lines = t.watch(&format!("{MAPS}?watch=1&timeoutSeconds=-1")).await;
    while lines.next().await.is_some() {}
}
