//! Reads, writes, discovery and errors.

use http::{Method, Request};
use http_body_util::BodyExt as _;
use rkube_auth::UserInfo;
use serde_json::{Value, json};

use super::support::{config, start};
use crate::{ApiServer, body};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}})
}

#[tokio::test]
async fn a_cluster_is_born_with_its_objects() {
    let t = start().await;
    let (code, list) = t.get("/api/v1/namespaces").await;
    assert_eq!(code, 200);
    let names: Vec<&str> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["default", "kube-node-lease", "kube-public", "kube-system"]
    );
    let (_, service) = t
        .get("/api/v1/namespaces/default/services/kubernetes")
        .await;
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    let (_, slice) = t
        .get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes")
        .await;
    assert_eq!(slice["endpoints"][0]["addresses"][0], "192.168.49.2");
    let (code, _) = t
        .get("/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin")
        .await;
    assert_eq!(code, 200);
}

#[tokio::test]
async fn objects_come_change_and_go() {
    let t = start().await;
    let (code, made) = t.post(MAPS, config_map("a")).await;
    assert_eq!(code, 201, "{made}");
    assert!(made["metadata"]["uid"].is_string() && made["metadata"]["resourceVersion"].is_string());
    assert_eq!(made["metadata"]["namespace"], "default");
    assert_eq!(made["metadata"]["managedFields"][0]["manager"], "test");
    let (code, again) = t.post(MAPS, config_map("a")).await;
    assert_eq!(
        (code, again["message"].as_str().unwrap()),
        (409, "configmaps \"a\" already exists")
    );

    let mut changed = made.clone();
    changed["data"]["a"] = "c".into();
    let (code, updated) = t.put(&format!("{MAPS}/a"), changed.clone()).await;
    assert_eq!((code, &updated["data"]["a"]), (200, &json!("c")));
    assert_ne!(
        updated["metadata"]["resourceVersion"],
        made["metadata"]["resourceVersion"]
    );
    let (code, stale) = t.put(&format!("{MAPS}/a"), changed).await;
    assert_eq!(code, 409, "{stale}");
    assert!(
        stale["message"]
            .as_str()
            .unwrap()
            .contains("the object has been modified"),
        "{stale}"
    );
    // An update that changes nothing is not stored.
    let (_, same) = t.put(&format!("{MAPS}/a"), updated.clone()).await;
    assert_eq!(
        same["metadata"]["resourceVersion"],
        updated["metadata"]["resourceVersion"]
    );

    let (code, gone) = t.delete(&format!("{MAPS}/a")).await;
    assert_eq!(
        (code, &gone["status"], &gone["details"]["name"]),
        (200, &json!("Success"), &json!("a"))
    );
    let (code, missing) = t.get(&format!("{MAPS}/a")).await;
    assert_eq!(
        (code, missing["message"].as_str().unwrap()),
        (404, "configmaps \"a\" not found")
    );
}

#[tokio::test]
async fn generated_names_and_dry_runs() {
    let t = start().await;
    let mut map = config_map("");
    map["metadata"] = json!({"generateName": "x-"});
    let (code, made) = t.post(&format!("{MAPS}?dryRun=All"), map.clone()).await;
    assert_eq!(code, 201, "{made}");
    let (_, list) = t.get(MAPS).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 0);
    let (_, made) = t.post(MAPS, map).await;
    assert!(made["metadata"]["name"].as_str().unwrap().starts_with("x-"));
    let (code, _) = t
        .post(&format!("{MAPS}?dryRun=Some"), config_map("z"))
        .await;
    assert_eq!(code, 422);
}

#[tokio::test]
async fn patches_of_every_form() {
    let t = start().await;
    t.post(MAPS, config_map("a")).await;
    let path = format!("{MAPS}/a");
    let (code, object) = t
        .patch(
            &path,
            "merge-patch+json",
            json!({"data": {"a": null, "m": "1"}}),
        )
        .await;
    assert_eq!(
        (code, &object["data"]),
        (200, &json!({"m": "1"})),
        "{object}"
    );
    let (code, object) = t
        .patch(
            &path,
            "json-patch+json",
            json!([{"op": "add", "path": "/data/j", "value": "2"}]),
        )
        .await;
    assert_eq!((code, &object["data"]["j"]), (200, &json!("2")), "{object}");
    let (code, object) = t
        .patch(
            &path,
            "strategic-merge-patch+json",
            json!({"data": {"s": "3"}}),
        )
        .await;
    assert_eq!((code, &object["data"]["s"]), (200, &json!("3")), "{object}");
    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}, "data": {"x": "y"}});
    let (code, object) = t
        .patch(
            &format!("{MAPS}/b?fieldManager=me"),
            "apply-patch+yaml",
            applied.clone(),
        )
        .await;
    assert_eq!((code, &object["data"]["x"]), (201, &json!("y")), "{object}");
    let (code, object) = t
        .patch(
            &format!("{MAPS}/b?fieldManager=me"),
            "apply-patch+yaml",
            applied,
        )
        .await;
    assert_eq!(code, 200, "{object}");
    let (code, _) = t
        .patch(
            &path,
            "apply-patch+yaml",
            json!({"apiVersion": "v1", "kind": "ConfigMap"}),
        )
        .await;
    assert_eq!(code, 422);
    let (code, _) = t.patch(&path, "unknown", json!({})).await;
    assert_eq!(code, 415);
}

#[tokio::test]
async fn unknown_fields_are_told() {
    let t = start().await;
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"foo": 1, "containers": [{"name": "c", "image": "i"}]}});
    let (code, status) = t
        .post(
            "/api/v1/namespaces/default/pods?fieldValidation=Strict&dryRun=All",
            pod.clone(),
        )
        .await;
    assert_eq!(code, 400);
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains("strict decoding error: unknown field \"spec.foo\""),
        "{message}"
    );
    pod["kind"] = "Service".into();
    let (code, _) = t.post("/api/v1/namespaces/default/pods", pod).await;
    assert_eq!(code, 400);
}

#[tokio::test]
async fn lists_are_paged_and_selected() {
    let t = start().await;
    for name in ["a", "b", "c"] {
        let mut map = config_map(name);
        map["metadata"]["labels"] = json!({"n": name});
        t.post(MAPS, map).await;
    }
    let names = |list: &Value| -> Vec<String> {
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["metadata"]["name"].as_str().unwrap().into())
            .collect()
    };
    let (_, first) = t.get(&format!("{MAPS}?limit=2")).await;
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    let token = first["metadata"]["continue"].as_str().unwrap();
    // An object created between two pages is not on the second.
    t.post(MAPS, config_map("d")).await;
    let (code, second) = t.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!(code, 200, "{second}");
    assert_eq!(names(&second), ["c"]);
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    let (_, selected) = t.get(&format!("{MAPS}?labelSelector=n+in+(a,c)")).await;
    assert_eq!(names(&selected), ["a", "c"]);
    let (_, selected) = t
        .get(&format!("{MAPS}?fieldSelector=metadata.name!=a"))
        .await;
    assert_eq!(names(&selected), ["b", "c", "d"]);
    let (code, _) = t.get(&format!("{MAPS}?fieldSelector=spec.x=a")).await;
    assert_eq!(code, 400);
    let (code, _) = t.get(&format!("{MAPS}?resourceVersion=999999")).await;
    assert_eq!(code, 504);
    let (_, past) = t
        .get(&format!(
            "{MAPS}?resourceVersionMatch=Exact&resourceVersion={}",
            first["metadata"]["resourceVersion"].as_str().unwrap()
        ))
        .await;
    assert_eq!(names(&past), ["a", "b", "c"]);
    t.call(Method::DELETE, &format!("{MAPS}?labelSelector=n"), "", "")
        .await;
    let (_, left) = t.get(MAPS).await;
    assert_eq!(names(&left), ["d"]);
}

#[tokio::test]
async fn views_and_encodings() {
    let t = start().await;
    t.post(MAPS, config_map("a")).await;
    let (_, table) = t
        .get_as(
            MAPS,
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
        )
        .await;
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let (_, list) = t
        .get_as(
            MAPS,
            "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json",
        )
        .await;
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert!(list["items"][0].get("data").is_none());
    let (_, yaml) = t.get_as(&format!("{MAPS}/a"), "application/yaml").await;
    assert!(yaml.as_str().unwrap().contains("kind: ConfigMap"));
    let (code, _) = t.get_as(MAPS, "application/cbor").await;
    assert_eq!(code, 406);
    let (code, _) = t
        .call(Method::POST, MAPS, "application/cbor", "k8s\0")
        .await;
    assert_eq!(code, 415);
    let (code, made) = t
        .call(
            Method::POST,
            MAPS,
            "application/yaml",
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: z\n",
        )
        .await;
    assert_eq!(code, 201, "{made}");
}

#[tokio::test]
async fn discovery_tells_what_is_served() {
    let t = start().await;
    let (_, version) = t.get("/version").await;
    assert_eq!(
        (&version["major"], &version["minor"]),
        (&json!("1"), &json!("36"))
    );
    let (_, core) = t.get("/api/v1").await;
    assert!(
        core["resources"]
            .as_array()
            .unwrap()
            .iter()
            .any(|r| r["name"] == "pods/log")
    );
    let (_, groups) = t.get("/apis").await;
    assert!(
        groups["groups"]
            .as_array()
            .unwrap()
            .iter()
            .any(|g| g["name"] == "apps")
    );
    let accept =
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let (_, all) = t.get_as("/apis", accept).await;
    assert_eq!(all["kind"], "APIGroupDiscoveryList");
    let (code, health) = t.get("/readyz?verbose").await;
    assert_eq!(code, 200);
    assert!(health.as_str().unwrap().ends_with("readyz check passed\n"));
    let (code, range) = t
        .get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes")
        .await;
    assert_eq!(
        (code, &range["spec"]["cidrs"][0]),
        (200, &json!("10.96.0.0/16"))
    );
    let (code, components) = t.get("/api/v1/componentstatuses").await;
    assert_eq!(
        (code, components["items"].as_array().unwrap().len()),
        (200, 3)
    );
    for (selector, count) in [
        ("labelSelector=a%3Db", 0),
        ("labelSelector=!a", 3),
        ("fieldSelector=metadata.name%3Detcd-0", 1),
    ] {
        let (_, some) = t
            .get(&format!("/api/v1/componentstatuses?{selector}"))
            .await;
        assert_eq!(some["items"].as_array().unwrap().len(), count, "{selector}");
    }
    let (code, _) = t.get("/nope").await;
    assert_eq!(code, 404);
    let (code, _) = t.get("/api/v1/nopes").await;
    assert_eq!(code, 404);
    let (code, metrics) = t.get("/metrics").await;
    assert_eq!(code, 200);
    assert!(
        metrics
            .as_str()
            .unwrap()
            .contains("apiserver_request_total")
    );
}

#[tokio::test]
async fn the_store_is_for_administrators() {
    let t = start().await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"a": "b"}});
    t.post("/api/v1/namespaces/default/secrets", secret).await;
    let get = |user: UserInfo| {
        let path = "/rkube/v1/store";
        let mut request = Request::builder().uri(path).body(body::empty()).unwrap();
        request.extensions_mut().insert(user);
        t.send(request)
    };
    let admin = UserInfo::authenticated("admin", &["system:masters"]);
    let body = get(admin).await.into_body();
    let dump = body.collect().await.unwrap().to_bytes();
    let entries: Vec<_> = rkube_store::dump::Entries::new(&dump[..])
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert!(
        entries
            .iter()
            .any(|e| e.key == "/registry/core/secrets/default/s")
    );
    assert!(entries.iter().all(|e| e.key.starts_with("/registry/")));
    for path in ["/rkube", "/rkube/v1", "/rkube/v1/store/x"] {
        assert_eq!(t.get(path).await.0, 404, "{path}");
    }
    let joe = UserInfo::authenticated("joe", &[]);
    assert_eq!(get(joe).await.status(), 403);
}

#[tokio::test]
async fn strangers_are_turned_away() {
    let t = start().await;
    let send = |path: &str, user: Option<UserInfo>| {
        let mut request = Request::builder().uri(path).body(body::empty()).unwrap();
        if let Some(user) = user {
            request.extensions_mut().insert(user);
        }
        let server = t.server.clone();
        async move {
            let response = server.call(request).await;
            let code = response.status().as_u16();
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            (
                code,
                serde_json::from_slice::<Value>(&bytes).unwrap_or_default(),
            )
        }
    };
    let (code, status) = send("/api/v1/pods", None).await;
    assert_eq!((code, &status["message"]), (401, &json!("Unauthorized")));
    assert_eq!(send("/readyz", None).await.0, 200);
    let joe = UserInfo::authenticated("joe", &[]);
    let (code, status) = send("/api/v1/namespaces/default/pods", Some(joe.clone())).await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "pods is forbidden: User \"joe\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    assert_eq!(send("/version", Some(joe)).await.0, 200);
}

#[tokio::test]
async fn state_survives_a_restart() {
    let mut t = start().await;
    let (_, made) = t.post(MAPS, config_map("a")).await;
    let pki = t.pki.pki.clone();
    // The store must be released before it is opened again.
    t.server.backend().shutdown.cancel();
    let other = tempfile::tempdir().unwrap();
    let old = std::mem::replace(
        &mut t.server,
        ApiServer::new(config(other.path(), pki.clone()))
            .await
            .unwrap(),
    );
    let weak = std::sync::Arc::downgrade(&old);
    drop(old);
    while weak.strong_count() > 0 {
        tokio::task::yield_now().await;
    }
    let mut store = None;
    for _ in 0..1000 {
        match rkube_store::EmbeddedStore::open(
            t.folder.path(),
            rkube_store::EmbeddedOptions::default(),
        ) {
            Ok(opened) => {
                store = Some(opened);
                break;
            }
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
        }
    }
    let mut again = config(other.path().join("x").as_path(), pki);
    again.store = store.expect("the store opens again");
    t.server = ApiServer::new(again).await.unwrap();
    let (code, found) = t.get(&format!("{MAPS}/a")).await;
    assert_eq!((code, &found), (200, &made));
}

#[tokio::test]
async fn services_get_addresses_and_ports() {
    let t = start().await;
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
    let ports = json!([{"port": 80}]);
    let (code, made) = t
        .post(
            services,
            service("a", json!({"type": "NodePort", "ports": ports})),
        )
        .await;
    assert_eq!(code, 201, "{made}");
    let address = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(address.starts_with("10.96."), "{address}");
    assert_eq!(made["spec"]["clusterIPs"], json!([address]));
    let port = made["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert!((30000..=32767).contains(&port));
    let (code, taken) = t
        .post(
            services,
            service("b", json!({"clusterIP": address, "ports": ports})),
        )
        .await;
    assert_eq!(code, 422, "{taken}");
    assert!(
        taken["message"]
            .as_str()
            .unwrap()
            .contains("already allocated"),
        "{taken}"
    );
    t.delete(&format!("{services}/a")).await;
    let (code, made) = t
        .post(
            services,
            service("b", json!({"clusterIP": address, "ports": ports})),
        )
        .await;
    assert_eq!(code, 201, "{made}");
    let (_, headless) = t
        .post(
            services,
            service("c", json!({"clusterIP": "None", "ports": ports})),
        )
        .await;
    assert_eq!(
        headless["spec"]["clusterIPs"],
        json!(["None"]),
        "{headless}"
    );
    // The service `kubernetes` is recreated when deleted.
    t.delete(&format!("{services}/kubernetes")).await;
    for _ in 0..1000 {
        if t.get(&format!("{services}/kubernetes")).await.0 == 200 {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("the service kubernetes has not come back");
}

#[tokio::test]
async fn any_grace_period_can_be_deleted() {
    let t = start().await;
    t.post(
        "/api/v1/namespaces/default/serviceaccounts",
        json!({"metadata": {"name": "default"}}),
    )
    .await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1",
        "terminationGracePeriodSeconds": i64::MAX, "containers": [{"name": "c", "image": "i"}]}});
    let (code, made) = t.post(pods, pod).await;
    assert_eq!(code, 201, "{made}");
    let (code, _) = t
        .patch(
            &format!("{pods}/p/status"),
            "strategic-merge-patch+json",
            json!({"status": {"phase": "Running"}}),
        )
        .await;
    assert_eq!(code, 200);
    let (code, going) = t.delete(&format!("{pods}/p")).await;
    assert_eq!(code, 200, "{going}");
    // Shortened, with the others of its namespace.
    let (code, gone) = t.delete(&format!("{pods}?gracePeriodSeconds=1")).await;
    assert_eq!(code, 200, "{gone}");
    let (_, going) = t.get(&format!("{pods}/p")).await;
    assert_eq!(
        going["metadata"]["deletionGracePeriodSeconds"], 1,
        "{going}"
    );
}

#[tokio::test]
async fn pods_are_bound_and_deleted_gracefully() {
    let t = start().await;
    let pods = "/api/v1/namespaces/default/pods";
    // A pod needs its service account, which a controller creates in a real cluster.
    t.post(
        "/api/v1/namespaces/default/serviceaccounts",
        json!({"metadata": {"name": "default"}}),
    )
    .await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let (code, made) = t.post(pods, pod.clone()).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["status"]["phase"], "Pending");
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "n1"}});
    let (code, bound) = t.post(&format!("{pods}/p/binding"), binding.clone()).await;
    assert_eq!(code, 201, "{bound}");
    let (code, _) = t.post(&format!("{pods}/p/binding"), binding).await;
    assert_eq!(code, 409);
    let (_, list) = t
        .get(&format!("{pods}?fieldSelector=spec.nodeName=n1"))
        .await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);

    let (code, status) = t
        .patch(
            &format!("{pods}/p/status"),
            "strategic-merge-patch+json",
            json!({"status": {"phase": "Running"}}),
        )
        .await;
    assert_eq!(
        (code, &status["status"]["phase"]),
        (200, &json!("Running")),
        "{status}"
    );
    let (code, going) = t.delete(&format!("{pods}/p")).await;
    assert_eq!(
        (code, &going["metadata"]["deletionGracePeriodSeconds"]),
        (200, &json!(30)),
        "{going}"
    );
    let (_, going) = t.get(&format!("{pods}/p")).await;
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    let now = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
    let (code, _) = t
        .call(
            Method::DELETE,
            &format!("{pods}/p"),
            "application/json",
            now.to_string(),
        )
        .await;
    assert_eq!(code, 200);
    assert_eq!(t.get(&format!("{pods}/p")).await.0, 404);

    // A pod that is not bound to a node is removed immediately.
    t.post(pods, pod).await;
    t.delete(&format!("{pods}/p")).await;
    assert_eq!(t.get(&format!("{pods}/p")).await.0, 404);
}

#[tokio::test]
async fn finalizers_hold_and_let_go() {
    let t = start().await;
    let mut map = config_map("a");
    map["metadata"]["finalizers"] = json!(["example.com/x"]);
    t.post(MAPS, map).await;
    let (code, going) = t.delete(&format!("{MAPS}/a")).await;
    assert_eq!(code, 200);
    assert!(
        going["metadata"]["deletionTimestamp"].is_string(),
        "{going}"
    );
    let (code, _) = t
        .patch(
            &format!("{MAPS}/a"),
            "merge-patch+json",
            json!({"metadata": {"finalizers": null}}),
        )
        .await;
    assert_eq!(code, 200);
    assert_eq!(t.get(&format!("{MAPS}/a")).await.0, 404);
    t.post(MAPS, config_map("b")).await;
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground",
        "preconditions": {"uid": "wrong"}});
    let (code, refused) = t
        .call(
            Method::DELETE,
            &format!("{MAPS}/b"),
            "application/json",
            options.to_string(),
        )
        .await;
    assert_eq!(code, 409);
    assert_eq!(
        refused["details"],
        json!({"name": "b", "kind": "ConfigMap"})
    );
    let (_, b) = t.get(&format!("{MAPS}/b")).await;
    let why = format!(
        "Operation cannot be fulfilled on ConfigMap \"b\": the UID in the precondition (wrong) does not match the UID in record ({}). The object might have been deleted and then recreated",
        b["metadata"]["uid"].as_str().unwrap()
    );
    assert_eq!(refused["message"], why);
    let options =
        json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"});
    let (_, going) = t
        .call(
            Method::DELETE,
            &format!("{MAPS}/b"),
            "application/json",
            options.to_string(),
        )
        .await;
    assert_eq!(
        going["metadata"]["finalizers"],
        json!(["foregroundDeletion"])
    );
}

#[tokio::test]
async fn scale_shows_and_changes_replicas() {
    let t = start().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let (code, made) = t.post(path, deployment).await;
    assert_eq!(
        (code, &made["spec"]["replicas"]),
        (201, &json!(1)),
        "{made}"
    );
    let (code, scale) = t.get(&format!("{path}/d/scale")).await;
    assert_eq!(
        (code, &scale["spec"]["replicas"]),
        (200, &json!(1)),
        "{scale}"
    );
    let (code, scale) = t
        .patch(
            &format!("{path}/d/scale"),
            "merge-patch+json",
            json!({"spec": {"replicas": 3}}),
        )
        .await;
    assert_eq!(
        (code, &scale["spec"]["replicas"]),
        (200, &json!(3)),
        "{scale}"
    );
    let (_, deployment) = t.get(&format!("{path}/d")).await;
    assert_eq!(
        (
            &deployment["spec"]["replicas"],
            &deployment["metadata"]["generation"]
        ),
        (&json!(3), &json!(2))
    );
}

#[tokio::test]
async fn reviews_answer() {
    let t = start().await;
    let (code, me) = t
        .post(
            "/apis/authentication.k8s.io/v1/selfsubjectreviews",
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}),
        )
        .await;
    assert_eq!(
        (code, &me["status"]["userInfo"]["username"]),
        (201, &json!("admin")),
        "{me}"
    );
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}}});
    let (code, answer) = t
        .post(
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            review,
        )
        .await;
    assert_eq!(
        (code, &answer["status"]["allowed"]),
        (201, &json!(true)),
        "{answer}"
    );
}

#[tokio::test]
async fn a_kube_client_works_in_process() {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::{Api, ListParams, PostParams};
    let t = start().await;
    let maps: Api<ConfigMap> =
        Api::default_namespaced(t.server.client("admin", &["system:masters"]));
    let map: ConfigMap = serde_json::from_value(config_map("k")).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();
    assert_eq!(
        maps.list(&ListParams::default()).await.unwrap().items.len(),
        1
    );
    assert!(maps.get("nope").await.is_err());
}

#[tokio::test]
async fn https_takes_certificates() {
    let t = start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let serving = tokio::spawn(t.server.clone().serve(listener, stop.clone()));
    for (identity, code) in [(true, 200), (false, 401)] {
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(client_tls(&t, identity))
            .https_only()
            .enable_all_versions()
            .build();
        let client =
            hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
                .build(connector);
        let request = Request::builder()
            .uri(format!("https://{address}/api/v1/namespaces"))
            .body(body::empty())
            .unwrap();
        let response = client.request(request).await.unwrap();
        assert_eq!(response.status().as_u16(), code);
        assert_eq!(response.version(), http::Version::HTTP_2);
        assert!(response.headers().contains_key("audit-id"));
    }
    stop.cancel();
    serving.await.unwrap().unwrap();
}

/// Returns a TLS configuration that trusts the test's CA; with `identity`, it has an
/// administrator's certificate.
pub fn client_tls(t: &super::support::TestServer, identity: bool) -> rustls::ClientConfig {
    use rustls_pki_types::pem::PemObject as _;
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(rustls_pki_types::CertificateDer::from_pem_slice(&t.pki.pki.ca_cert).unwrap())
        .unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    if identity {
        let cert =
            rustls_pki_types::CertificateDer::from_pem_slice(t.pki.admin_cert.as_bytes()).unwrap();
        let key =
            rustls_pki_types::PrivateKeyDer::from_pem_slice(t.pki.admin_key.as_bytes()).unwrap();
        builder.with_client_auth_cert(vec![cert], key).unwrap()
    } else {
        builder.with_no_client_auth()
    }
}

#[tokio::test]
async fn items_of_typed_lists_have_no_type() {
    let t = start().await;
    t.post(MAPS, config_map("a")).await;
    for (query, accept) in [
        ("", "application/json"),
        ("?pretty=true", "application/json"),
    ] {
        let (_, list) = t.get_as(&format!("{MAPS}{query}"), accept).await;
        assert_eq!(list["kind"], "ConfigMapList");
        let item = list["items"][0].as_object().unwrap();
        let members: Vec<&str> = item.keys().map(String::as_str).collect();
        assert_eq!(members, ["data", "metadata"]);
        assert!(item["metadata"]["resourceVersion"].is_string());
    }
    let (_, list) = t.get_as(MAPS, "application/yaml").await;
    assert!(
        !list.as_str().unwrap().contains("kind: ConfigMap\n"),
        "{list}"
    );
    let (_, one) = t.get(&format!("{MAPS}/a")).await;
    assert_eq!(
        (&one["kind"], &one["apiVersion"]),
        (&json!("ConfigMap"), &json!("v1"))
    );
}

#[tokio::test]
async fn health_names_upstreams_checks() {
    let t = start().await;
    for (path, more) in [
        ("healthz", &[][..]),
        ("livez", &[]),
        ("readyz", &["informer-sync", "shutdown"]),
    ] {
        let (code, text) = t.get(&format!("/{path}?verbose=1")).await;
        assert_eq!(code, 200, "{text}");
        let lines: Vec<&str> = text.as_str().unwrap().lines().collect();
        let hooks = [
            "start-kube-apiserver-admission-initializer",
            "generic-apiserver-start-informers",
            "start-apiextensions-informers",
            "start-system-namespaces-controller",
            "start-cluster-authentication-info-controller",
            "start-kube-aggregator-informers",
            "apiservice-status-local-available-controller",
            "kube-apiserver-autoregistration",
            "apiservice-openapi-controller",
        ]
        .map(|hook| format!("poststarthook/{hook}"));
        let plain = ["ping", "log", "etcd", "autoregister-completion"];
        let names = hooks
            .iter()
            .map(String::as_str)
            .chain(plain)
            .chain(more.iter().copied());
        for name in names {
            let line = format!("[+]{name} ok");
            assert!(lines.contains(&line.as_str()), "{path}: {name}");
        }
        assert_eq!(lines.last(), Some(&format!("{path} check passed").as_str()));
    }
}
