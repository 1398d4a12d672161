//! Requests do exactly what was authorized: every form of path, against every resource, by a user
//! who may do everything in one namespace and nothing elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt as _;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use rkube_auth::UserInfo;
use serde_json::{Value, json};

use super::support::{TestServer, start};
use crate::body;
use crate::resources::Resource;

/// Occurs in every object outside of the user's namespace.
const OUTSIDE: &str = "outside-marker";
const METHODS: [Method; 5] = [
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
];

/// Sends a request as `user`. Returns the status code and what the body holds at once.
async fn ask(t: &TestServer, user: &UserInfo, method: &Method, path: &str) -> (u16, String) {
    let kind = match *method {
        Method::PATCH => "application/merge-patch+json",
        _ => "application/json",
    };
    let payload = match *method {
        Method::GET | Method::DELETE => String::new(),
        _ => json!({"metadata": {"name": "x", "namespace": "other", "labels": {"by": "dev"}}})
            .to_string(),
    };
    send(t, user, method, path, kind, payload).await
}

async fn send(
    t: &TestServer,
    user: &UserInfo,
    method: &Method,
    path: &str,
    kind: &str,
    payload: String,
) -> (u16, String) {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .body(body::full(payload))
        .unwrap();
    request.extensions_mut().insert(user.clone());
    let response = t.server.call(request).await;
    let code = response.status().as_u16();
    let mut body = response.into_body();
    let mut text = String::new();
    // Watches do not end: their first events are there at once.
    while let Some(Some(Ok(frame))) = body.frame().now_or_never() {
        if let Ok(data) = frame.into_data() {
            text.push_str(&String::from_utf8_lossy(&data));
        }
    }
    (code, text)
}

async fn make(t: &TestServer, path: &str, object: Value) {
    let (code, made) = t.post(path, object).await;
    assert_eq!(code, 201, "{path}: {made}");
}

fn definition(plural: &str, kind: &str, scope: &str) -> Value {
    json!({"metadata": {"name": format!("{plural}.example.com")}, "spec": {
        "group": "example.com", "scope": scope,
        "names": {"plural": plural, "singular": plural, "kind": kind},
        "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}})
}

/// Starts a server with the namespaces `team` and `other`, objects outside of `team`, and the user
/// `dev`, who is administrator of `team`.
async fn world() -> (TestServer, UserInfo) {
    let t = start().await;
    for name in ["team", "other"] {
        make(
            &t,
            "/api/v1/namespaces",
            json!({"metadata": {"name": name}}),
        )
        .await;
    }
    let outside = |name: &str| json!({"name": name, "annotations": {"a": OUTSIDE}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    make(&t, definitions, definition("wides", "Wide", "Cluster")).await;
    make(
        &t,
        definitions,
        definition("narrows", "Narrow", "Namespaced"),
    )
    .await;
    let known = |plural: &str| {
        let resources = &t.server.backend().resources;
        resources.find("example.com", "v1", plural).is_some()
    };
    while !(known("wides") && known("narrows")) {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    for (path, mut object) in [
        ("/api/v1/nodes", json!({})),
        (
            "/api/v1/persistentvolumes",
            json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
                "hostPath": {"path": "/x"}}}),
        ),
        (
            "/apis/example.com/v1/wides",
            json!({"apiVersion": "example.com/v1", "kind": "Wide"}),
        ),
        (
            "/apis/example.com/v1/namespaces/other/narrows",
            json!({"apiVersion": "example.com/v1", "kind": "Narrow"}),
        ),
        ("/api/v1/namespaces/other/configmaps", json!({})),
        ("/api/v1/namespaces/other/secrets", json!({})),
    ] {
        object["metadata"] = outside("x");
        make(&t, path, object).await;
    }
    make(
        &t,
        "/apis/rbac.authorization.k8s.io/v1/namespaces/team/rolebindings",
        json!({"metadata": {"name": "own"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "dev"}]}),
    )
    .await;
    cached(&t).await;
    (t, UserInfo::authenticated("dev", &[]))
}

/// Waits until the authorizer sees everything that was written.
async fn cached(t: &TestServer) {
    t.server.backend().cache.consistent().await;
}

/// Returns the revision of every stored object of other users.
async fn outside(t: &TestServer) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for prefix in [
        "/registry/core/",
        "/registry/example.com/",
        "/registry/rbac.authorization.k8s.io/clusterroles/",
    ] {
        let page = t
            .server
            .backend()
            .store
            .list(prefix, rkube_store::ListOptions::default())
            .await
            .unwrap();
        for kv in page.items.iter().filter(|kv| !kv.key.contains("/team/")) {
            all.insert(kv.key.to_string(), kv.mod_revision);
        }
    }
    assert!(all.contains_key("/registry/core/secrets/other/x"));
    all
}

fn root(resource: &Resource) -> String {
    match &*resource.group {
        "" => format!("/api/{}", resource.version),
        group => format!("/apis/{group}/{}", resource.version),
    }
}

/// Returns the paths below `collection`: itself, an object, and the object's subresources.
fn paths_below(resource: &Resource, collection: &str) -> Vec<String> {
    let mut paths = vec![
        collection.to_owned(),
        format!("{collection}/x"),
        format!("{collection}/x/none"),
        format!("{collection}/x/proxy/y"),
    ];
    for sub in &resource.subresources {
        paths.push(format!("{collection}/x/{}", sub.name));
        paths.push(format!("{collection}/x/{}/y", sub.name));
    }
    paths
}

/// Returns the paths that lead from the user's namespace to a cluster-scoped resource, if anything
/// led there.
fn detours(resource: &Resource) -> Vec<String> {
    let (root, plural) = (root(resource), &*resource.plural);
    let mut paths = Vec::new();
    for collection in [
        format!("{root}/namespaces/team/{plural}"),
        format!("{root}/watch/namespaces/team/{plural}"),
        format!("{root}/namespaces%2Fteam/{plural}"),
        format!("{root}/namespaces/team%2f{plural}"),
    ] {
        paths.extend(paths_below(resource, &collection));
        paths.push(format!("{collection}?watch=1"));
        paths.push(format!("{collection}%2Fx"));
        paths.push(format!("{collection}/x%2Fstatus"));
    }
    paths
}

async fn cluster_scoped(t: &TestServer, dev: &UserInfo, resource: &Resource) {
    let admin = UserInfo::authenticated("admin", &["system:masters"]);
    for path in detours(resource) {
        for method in &METHODS {
            for user in [dev, &admin] {
                let (code, text) = ask(t, user, method, &path).await;
                assert_eq!(code, 404, "{method} {path} as {}: {text}", user.name);
            }
        }
    }
    let collection = format!("{}/{}", root(resource), resource.plural);
    for path in paths_below(resource, &collection) {
        for method in &METHODS {
            let (code, text) = ask(t, dev, method, &path).await;
            // All users may ask for reviews of their own rights, though not under a name.
            let review = !resource.is_stored() && *method == Method::POST;
            match path == format!("{collection}/x") {
                _ if review && path == collection => {}
                true if review => assert!(matches!(code, 403 | 404), "POST {path}: {text}"),
                _ => assert_eq!(code, 403, "{method} {path}: {text}"),
            }
        }
    }
}

async fn namespaced(t: &TestServer, dev: &UserInfo, resource: &Resource) {
    let admin = UserInfo::authenticated("admin", &["system:masters"]);
    let (root, plural) = (root(resource), &*resource.plural);
    // Without a namespace there are lists only.
    for path in paths_below(resource, &format!("{root}/{plural}")) {
        for method in &METHODS {
            let (code, text) = ask(t, dev, method, &path).await;
            assert_eq!(code, 403, "{method} {path}: {text}");
            let (code, text) = ask(t, &admin, method, &path).await;
            let collection = path == format!("{root}/{plural}");
            match (collection && resource.has_verb("list"), method) {
                (true, &Method::GET) => assert_eq!(code, 200, "{method} {path}: {text}"),
                (true, _) => assert_eq!(code, 405, "{method} {path}: {text}"),
                (false, _) => assert_eq!(code, 404, "{method} {path}: {text}"),
            }
        }
    }
    let elsewhere = [
        format!("{root}/namespaces/other/{plural}"),
        format!("{root}/watch/namespaces/other/{plural}"),
        format!("{root}/namespaces%2Fother%2F{plural}"),
        format!("{root}/namespaces//{plural}"),
        format!("{root}/watch/{plural}"),
    ];
    for path in elsewhere.iter().flat_map(|c| paths_below(resource, c)) {
        for method in &METHODS {
            let (code, text) = ask(t, dev, method, &path).await;
            assert_eq!(code, 403, "{method} {path}: {text}");
        }
    }
    for path in [
        format!("{root}/namespaces/team%2F..%2Fother/{plural}/x"),
        format!("{root}/namespaces/team/../other/{plural}/x"),
        format!("{root}/namespaces/team/{plural}/..%2F..%2Fother%2F{plural}%2Fx"),
        format!("{root}/namespaces/team/{plural}//status"),
        format!("{root}/watch/namespaces/team/{plural}/x/status"),
        format!("/{root}/namespaces/team/{plural}"),
    ] {
        for method in &METHODS {
            let (code, text) = ask(t, dev, method, &path).await;
            assert_eq!(code, 404, "{method} {path}: {text}");
        }
    }
    check_namespace_user(t, dev, resource).await;
}

/// Uses the paths of the user's own namespace.
async fn check_namespace_user(t: &TestServer, dev: &UserInfo, resource: &Resource) {
    let root = root(resource);
    let own = format!("{root}/namespaces/team/{}", resource.plural);
    let watched = format!("{root}/watch/namespaces/team/{}", resource.plural);
    let stored = resource.is_stored();
    for (path, name, verb) in [
        (&own, "", "list"),
        (&watched, "", "watch"),
        (&watched, "/x", "watch"),
    ] {
        // What cannot be watched has no such path.
        let wanted = match resource.has_verb(verb) {
            true => 200,
            false if verb == "watch" => 404,
            false => 405,
        };
        let (code, text) = ask(t, dev, &Method::GET, &format!("{path}{name}")).await;
        assert_eq!(code, wanted, "{path}{name}: {text}");
        assert!(!text.contains(OUTSIDE), "{path}{name}: {text}");
    }
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        let (code, text) = ask(t, dev, &method, &watched).await;
        let wanted = if resource.has_verb("watch") { 405 } else { 404 };
        assert_eq!(code, wanted, "{method} {watched}: {text}");
    }
    let (code, text) = ask(t, dev, &Method::POST, &format!("{own}/x")).await;
    let wanted = if resource.has_verb("get") { 405 } else { 404 };
    assert_eq!(code, wanted, "POST {own}/x: {text}");
    for method in [Method::PUT, Method::PATCH] {
        let (code, text) = ask(t, dev, &method, &own).await;
        assert_eq!(code, 405, "{method} {own}: {text}");
    }
    // An object of another namespace cannot be made through the own one.
    let (code, text) = ask(t, dev, &Method::POST, &own).await;
    assert!((400..500).contains(&code), "POST {own}: {code} {text}");
    for path in paths_below(resource, &own).iter().skip(1) {
        for method in &METHODS {
            let (code, text) = ask(t, dev, method, path).await;
            assert!((400..500).contains(&code), "{method} {path}: {code} {text}");
        }
    }
    // Deleting all role bindings would end the user's rights.
    if stored && &*resource.plural != "rolebindings" {
        let (code, text) = ask(t, dev, &Method::DELETE, &own).await;
        let wanted = if resource.has_verb("deletecollection") {
            200
        } else {
            405
        };
        assert_eq!(code, wanted, "DELETE {own}: {text}");
    }
}

#[tokio::test]
async fn no_path_leads_out_of_a_namespace() {
    let (t, dev) = world().await;
    let before = outside(&t).await;
    let all: Vec<Arc<Resource>> = t.server.backend().resources.snapshot().all.clone();
    assert!(all.len() > 60, "{}", all.len());
    for resource in &all {
        if resource.namespaced {
            namespaced(&t, &dev, resource).await;
        } else {
            cluster_scoped(&t, &dev, resource).await;
        }
    }
    assert_eq!(before, outside(&t).await);
    // The user's own namespace is no cluster-scoped object to RBAC, but others are.
    for (path, wanted) in [
        ("/api/v1/namespaces/team", 200),
        ("/api/v1/namespaces/team/status", 200),
        ("/api/v1/namespaces/other", 403),
        ("/api/v1/namespaces/other/status", 403),
        ("/api/v1/namespaces/other/finalize", 403),
        ("/api/v1/namespaces", 403),
    ] {
        assert_eq!(ask(&t, &dev, &Method::GET, path).await.0, wanted, "{path}");
    }
}

async fn role(t: &TestServer, user: &str, rules: Value) -> UserInfo {
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    make(
        t,
        &format!("{rbac}/roles"),
        json!({"metadata": {"name": user}, "rules": rules}),
    )
    .await;
    make(
        t,
        &format!("{rbac}/rolebindings"),
        json!({"metadata": {"name": user},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
            "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}]}),
    )
    .await;
    cached(t).await;
    UserInfo::authenticated(user, &[])
}

#[tokio::test]
async fn a_named_watch_shows_that_name_only() {
    let t = start().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    for name in ["allowed", "hidden"] {
        make(&t, secrets, json!({"metadata": {"name": name}})).await;
    }
    let user = role(
        &t,
        "one",
        json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["allowed"],
            "verbs": ["get", "list", "watch", "deletecollection"]}]),
    )
    .await;
    let watch = "/api/v1/watch/namespaces/default/secrets";
    let own = "fieldSelector=metadata.name%3Dallowed";
    for path in [
        format!("{secrets}/allowed"),
        // As upstream, this is a plain get.
        format!("{secrets}/allowed?watch=1&fieldSelector=metadata.namespace%3Ddefault"),
        format!("{watch}/allowed"),
        format!("{watch}/allowed?{own}"),
        format!("{secrets}?{own}"),
        format!("{secrets}?watch=1&{own}"),
        format!("{secrets}?watch=1&{own},metadata.namespace%3Ddefault"),
    ] {
        let (code, text) = ask(&t, &user, &Method::GET, &path).await;
        assert_eq!(code, 200, "{path}: {text}");
        assert!(
            text.contains("allowed") && !text.contains("hidden"),
            "{path}: {text}"
        );
    }
    for (path, wanted) in [
        (
            format!("{watch}/allowed?fieldSelector=metadata.namespace%3Ddefault"),
            400,
        ),
        (
            format!("{watch}/allowed?fieldSelector=metadata.name%3Dhidden"),
            400,
        ),
        (
            format!("{watch}/allowed?fieldSelector=metadata.name!%3Dallowed"),
            400,
        ),
        (format!("{watch}?{own}"), 403),
        (format!("{watch}/hidden?{own}"), 403),
        (
            format!("{secrets}?watch=1&fieldSelector=metadata.name!%3Dallowed"),
            403,
        ),
        (format!("{secrets}?watch=1"), 403),
    ] {
        let (code, text) = ask(&t, &user, &Method::GET, &path).await;
        assert_eq!(code, wanted, "{path}: {text}");
        if wanted == 400 {
            let status: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(
                status["message"],
                "fieldSelector metadata.name doesn't match requested name"
            );
        }
    }
    // As upstream, a collection is never deleted by the name in a selector.
    let (code, _) = ask(&t, &user, &Method::DELETE, &format!("{secrets}?{own}")).await;
    assert_eq!(code, 403);
}

#[tokio::test]
async fn creating_needs_the_verb_create() {
    let t = start().await;
    let rules = |verbs: Value| {
        json!([{"apiGroups": ["", "coordination.k8s.io"], "resources": ["configmaps", "leases"],
            "verbs": verbs}])
    };
    let changer = role(&t, "changer", rules(json!(["get", "patch", "update"]))).await;
    let creator = role(
        &t,
        "creator",
        rules(json!(["get", "patch", "update", "create"])),
    )
    .await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "new"}, "data": {"a": "b"}})
        .to_string();
    let lease = json!({"metadata": {"name": "new"}, "spec": {"holderIdentity": "a"}}).to_string();
    let apply = async |user: &UserInfo, name: &str| {
        let path = format!("{maps}/{name}?fieldManager=m");
        let kind = "application/apply-patch+yaml";
        send(&t, user, &Method::PATCH, &path, kind, map.clone()).await
    };
    let put = async |user: &UserInfo| {
        let path = format!("{leases}/new");
        send(
            &t,
            user,
            &Method::PUT,
            &path,
            "application/json",
            lease.clone(),
        )
        .await
    };
    for ((code, text), what) in [
        (apply(&changer, "new").await, "configmaps \"new\""),
        (put(&changer).await, "leases.coordination.k8s.io \"new\""),
    ] {
        assert_eq!(code, 403, "{text}");
        let status: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(status["message"], format!("{what} is forbidden: "));
    }
    assert_eq!(t.get(&format!("{maps}/new")).await.0, 404);
    assert_eq!(t.get(&format!("{leases}/new")).await.0, 404);
    assert_eq!(apply(&creator, "new").await.0, 201);
    assert_eq!(put(&creator).await.0, 201);
    // An existing object may be changed without it.
    assert_eq!(apply(&changer, "new").await.0, 200);
}
