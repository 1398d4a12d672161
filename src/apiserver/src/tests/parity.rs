//! Facts of upstream's answers that a comparison of the two servers has shown.

use http::Method;
use serde_json::{Value, json};

use super::support::start;

const NAMESPACE: &str = "/api/v1/namespaces/default";

#[tokio::test]
async fn deletions_answer_with_what_is_deleted() {
    let t = start().await;
    let pods = format!("{NAMESPACE}/pods");
    t.post(
        &format!("{NAMESPACE}/serviceaccounts"),
        json!({"metadata": {"name": "default"}}),
    )
    .await;
    let container = json!([{"name": "c", "image": "i"}]);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": container}});
    assert_eq!(t.post(&pods, pod).await.0, 201);
    // A pod without a node needs no grace period, but shows when it was deleted.
    let (code, gone) = t.delete(&format!("{pods}/p")).await;
    assert_eq!((code, &gone["kind"]), (200, &json!("Pod")));
    assert!(gone["metadata"]["deletionTimestamp"].is_string(), "{gone}");
    assert_eq!(gone["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(gone["metadata"]["generation"], 2);
    assert_eq!(t.get(&format!("{pods}/p")).await.0, 404);

    // A job's pods are kept if the request does not say what becomes of them.
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let template = json!({"spec": {"containers": container, "restartPolicy": "Never"}});
    for (name, options, kept) in [("a", "", true), ("b", "Background", false)] {
        let job = json!({"metadata": {"name": name}, "spec": {"template": template}});
        assert_eq!(t.post(jobs, job).await.0, 201);
        let path = format!("{jobs}/{name}?propagationPolicy={options}");
        let (_, answer) = t.delete(&path).await;
        let orphan = answer["metadata"]["finalizers"] == json!(["orphan"]);
        assert_eq!(orphan, kept, "{answer}");
    }

    let claims = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
    let request = json!({"name": "r", "exactly": {"deviceClassName": "c"}});
    let claim = json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": [request]}}});
    assert_eq!(t.post(claims, claim).await.0, 201);
    let (_, gone) = t.delete(&format!("{claims}/c")).await;
    assert_eq!(gone["kind"], "ResourceClaim");

    // Events have no dependents.
    let events = format!("{NAMESPACE}/events");
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "default"}});
    assert_eq!(t.post(&events, event).await.0, 201);
    let path = format!("{events}/e?propagationPolicy=Orphan");
    assert_eq!(t.delete(&path).await.1["status"], "Success");
}

#[tokio::test]
async fn paths_and_forms_that_are_not_there() {
    let t = start().await;
    let maps = format!("{NAMESPACE}/configmaps");
    for (path, accept, want) in [
        ("/apis/authentication.k8s.io/v1/tokenreviews/x", "", 404),
        ("/apis/authentication.k8s.io/v1/tokenreviews", "", 405),
        ("/healthz", "", 200),
        ("/healthz/", "", 404),
        ("/openapi/v2/", "", 404),
        ("/metrics/none", "", 404),
        ("/api/v1/pods?fieldSelector=spec.host%3Dx", "", 200),
        (&*maps, "application/*", 406),
        (
            &*maps,
            "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
            406,
        ),
        (
            &*maps,
            "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
            200,
        ),
        (
            &*maps,
            "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
            200,
        ),
        (
            "/api/v1/componentstatuses/etcd-0?resourceVersion=abc",
            "",
            200,
        ),
        ("/api/v1/componentstatuses?resourceVersion=abc", "", 200),
        ("/api/v1/componentstatuses?limit=abc", "", 400),
    ] {
        let request = http::Request::builder().uri(path);
        let request = match accept {
            "" => request,
            accept => request.header("accept", accept),
        };
        let response = t.send(request.body(crate::body::empty()).unwrap()).await;
        assert_eq!(response.status().as_u16(), want, "{path} {accept}");
    }
}

fn owners(object: &Value) -> Vec<(String, String, bool)> {
    let entries = object["metadata"]["managedFields"].as_array();
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let mut owners: Vec<_> = entries
        .into_iter()
        .flatten()
        .map(|entry| {
            let replicas = entry.pointer("/fieldsV1/f:spec/f:replicas").is_some();
            (text(entry, "manager"), text(entry, "subresource"), replicas)
        })
        .collect();
    owners.sort();
    owners
}

#[tokio::test]
async fn owners_of_scales_and_of_what_is_not_stored() {
    let t = start().await;
    let review = json!({"spec": {"token": "x"}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews?fieldManager=m";
    let (_, answer) = t.post(reviews, review).await;
    let owned = &answer["metadata"]["managedFields"][0];
    assert_eq!(owned["fieldsV1"], json!({"f:spec": {"f:token": {}}}));
    assert_eq!(owned["manager"], "m");

    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let template = json!({"metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec =
        json!({"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template});
    let deployment = json!({"metadata": {"name": "d"}, "spec": spec});
    let created = format!("{deployments}?fieldManager=one");
    assert_eq!(t.post(&created, deployment).await.0, 201);
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "spec": {"replicas": 3}});
    let path = format!("{deployments}/d/scale?fieldManager=two");
    let kind = "application/apply-patch+yaml";
    let (code, conflict) = t.call(Method::PATCH, &path, kind, scale.to_string()).await;
    let why =
        "Apply failed with 1 conflict: conflict with \"one\" using autoscaling/v1: .spec.replicas";
    assert_eq!((code, &conflict["message"]), (409, &json!(why)));
    let forced = format!("{path}&force=true");
    let (code, scaled) = t
        .call(Method::PATCH, &forced, kind, scale.to_string())
        .await;
    assert_eq!((code, &scaled["spec"]["replicas"]), (200, &json!(3)));
    let (_, deployment) = t.get(&format!("{deployments}/d")).await;
    let want = [("one", "", false), ("two", "scale", true)];
    let want = want.map(|(manager, part, owns)| (manager.to_owned(), part.to_owned(), owns));
    assert_eq!(owners(&deployment), want);
    for (patch, want) in [
        (
            json!({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 1}}),
            409,
        ),
        (
            json!({"metadata": {"name": "other"}, "spec": {"replicas": 1}}),
            400,
        ),
        (json!({"spec": {"replicas": "x"}}), 422),
        (json!({"metadata": {"namespace": "b"}}), 400),
        (json!({"kind": "Foo"}), 422),
        (json!({"apiVersion": "apps/v1"}), 422),
        (json!({"spec": {"replicas": 4, "foo": 5}}), 422),
        (json!({"metadata": {"uid": "x"}}), 409),
    ] {
        let path = format!("{deployments}/d/scale?fieldValidation=Strict");
        let (code, answer) = t.patch(&path, "merge-patch+json", patch).await;
        assert_eq!(code, want, "{answer}");
        if code == 409 && answer["details"]["kind"] == "deployments/scale" {
            let why = answer["message"].as_str().unwrap();
            assert!(why.contains("\"d\": Precondition failed: UID in precondition: x, UID"));
        }
    }
    for (metadata, kind, want) in [
        (json!({"namespace": "b"}), "Scale", 400),
        (json!({"name": "e"}), "Scale", 400),
        (json!({}), "Foo", 400),
        (json!({"managedFields": [{"manager": "x"}]}), "Scale", 400),
    ] {
        let scale = json!({"apiVersion": "autoscaling/v1", "kind": kind, "metadata": metadata,
            "spec": {"replicas": 3}});
        let applied = t.call(
            Method::PATCH,
            &path,
            "application/apply-patch+yaml",
            scale.to_string(),
        );
        let (code, answer) = applied.await;
        assert_eq!(code, want, "{answer}");
    }
    for (version, namespace, want) in [
        ("autoscaling/v1", "b", 400),
        ("autoscaling/v2", "default", 400),
        ("autoscaling/v1", "default", 200),
    ] {
        let scale = json!({"apiVersion": version, "kind": "Scale",
            "metadata": {"name": "d", "namespace": namespace}, "spec": {"replicas": 3}});
        let path = format!("{deployments}/d/scale");
        let (code, answer) = t
            .call(Method::PUT, &path, "application/json", scale.to_string())
            .await;
        assert_eq!(code, want, "{answer}");
    }
}
