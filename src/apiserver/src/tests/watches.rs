//! Watches from every kind of start position.

use serde_json::{Value, json};

use super::support::start;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn labelled(name: &str, label: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"l": label}}})
}

fn pair(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

fn revision_of(object: &Value) -> u64 {
    let text = object["metadata"]["resourceVersion"].as_str().unwrap();
    text.parse().unwrap()
}

#[tokio::test]
async fn a_watch_follows_from_a_revision() {
    let t = start().await;
    let (_, list) = t.get(MAPS).await;
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
    t.post(MAPS, labelled("a", "x")).await;
    let mut watch = t
        .watch(&format!("{MAPS}?watch=true&resourceVersion={revision}"))
        .await;
    assert_eq!(watch.named().await, pair("ADDED", "a"));
    t.patch(
        &format!("{MAPS}/a"),
        "merge-patch+json",
        json!({"data": {"x": "y"}}),
    )
    .await;
    assert_eq!(watch.named().await, pair("MODIFIED", "a"));
    t.delete(&format!("{MAPS}/a")).await;
    let event = watch.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["data"]["x"]),
        (&json!("DELETED"), &json!("y"))
    );
    // The event has the deletion's revision; the server itself may write later ones.
    let (_, now) = t.get(MAPS).await;
    let deleted = revision_of(&event["object"]);
    assert!(revision.parse::<u64>().unwrap() + 3 <= deleted);
    assert!(deleted <= revision_of(&now));
}

#[tokio::test]
async fn a_watch_from_nowhere_sends_the_state_first() {
    let t = start().await;
    t.post(MAPS, labelled("a", "x")).await;
    for revision in ["", "&resourceVersion=0"] {
        let mut watch = t.watch(&format!("{MAPS}?watch=1{revision}")).await;
        assert_eq!(watch.named().await, pair("ADDED", "a"));
    }
}

#[tokio::test]
async fn selectors_turn_updates_into_comings_and_goings() {
    let t = start().await;
    let mut watch = t.watch(&format!("{MAPS}?watch=1&labelSelector=l=x")).await;
    t.post(MAPS, labelled("a", "x")).await;
    assert_eq!(watch.named().await, pair("ADDED", "a"));
    t.patch(
        &format!("{MAPS}/a"),
        "merge-patch+json",
        json!({"metadata": {"labels": {"l": "y"}}}),
    )
    .await;
    let event = watch.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["metadata"]["labels"]["l"]),
        (&json!("DELETED"), &json!("x"))
    );
    t.post(MAPS, labelled("b", "y")).await;
    t.patch(
        &format!("{MAPS}/a"),
        "merge-patch+json",
        json!({"metadata": {"labels": {"l": "x"}}}),
    )
    .await;
    assert_eq!(watch.named().await, pair("ADDED", "a"));
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let t = start().await;
    let (_, created) = t.post(MAPS, labelled("a", "x")).await;
    let query =
        "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = t.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(watch.named().await, pair("ADDED", "a"));
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "BOOKMARK");
    assert_eq!(
        event["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    let (_, list) = t.get(MAPS).await;
    let begin = revision_of(&created);
    assert!((begin..=revision_of(&list)).contains(&revision_of(&event["object"])));
    // Trigger the periodic bookmark, which is normally sent once per minute.
    t.post(
        "/api/v1/namespaces/kube-system/configmaps",
        labelled("z", "x"),
    )
    .await;
    t.get(MAPS).await;
    t.server.backend().bookmarks.send_replace(1);
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "BOOKMARK", "{event}");
}

#[tokio::test]
async fn a_forgotten_revision_is_gone() {
    let t = start().await;
    t.post(MAPS, labelled("a", "x")).await;
    let mut watch = t.watch(&format!("{MAPS}?watch=1&resourceVersion=1")).await;
    let event = watch.next().await.unwrap();
    // A new server's history starts at its startup.
    if event["type"] == "ERROR" {
        assert_eq!(event["object"]["code"], 410);
        assert_eq!(event["object"]["reason"], "Expired");
        assert!(watch.next().await.is_none());
    } else {
        assert_eq!(event["type"], "ADDED");
    }
}

#[tokio::test]
async fn tables_can_be_watched() {
    let t = start().await;
    let request = http::Request::builder()
        .uri(format!("{MAPS}?watch=1"))
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(crate::body::empty())
        .unwrap();
    t.post(MAPS, labelled("a", "x")).await;
    use http_body_util::BodyExt as _;
    let mut body = t.send(request).await.into_body();
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let event: Value = serde_json::from_slice(&frame).unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["kind"]),
        (&json!("ADDED"), &json!("Table"))
    );
    assert_eq!(event["object"]["rows"][0]["cells"][0], "a");
}

#[tokio::test]
async fn hundreds_of_watchers_see_every_event() {
    let t = start().await;
    let mut watches = Vec::new();
    for _ in 0..200 {
        watches.push(t.watch(&format!("{MAPS}?watch=1")).await);
    }
    for i in 0..5 {
        t.post(MAPS, labelled(&format!("m{i}"), "x")).await;
    }
    for watch in &mut watches {
        for i in 0..5 {
            assert_eq!(watch.named().await, pair("ADDED", &format!("m{i}")));
        }
    }
}

#[tokio::test]
async fn a_watch_ends_in_time() {
    let t = start().await;
    let mut watch = t.watch(&format!("{MAPS}?watch=1&timeoutSeconds=1")).await;
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_watch_that_begins_with_a_list_has_no_tables() {
    let t = start().await;
    let path = "/api/v1/secrets?watch=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&sendInitialEvents=";
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let ask = async |path: String, accept: String| {
        let request = http::Request::builder()
            .uri(path)
            .header("accept", accept)
            .body(crate::body::empty())
            .unwrap();
        t.send(request).await.status().as_u16()
    };
    let listed = ask(format!("{path}true"), table.into()).await;
    let listed_or_plain = ask(format!("{path}true"), format!("{table},application/json")).await;
    let plain = ask(format!("{path}false"), table.into()).await;
    assert_eq!((listed, listed_or_plain, plain), (406, 200, 200));
}

#[tokio::test]
async fn events_are_selected_by_the_labels_of_each_group() {
    let t = start().await;
    let event = json!({
        "metadata": {"name": "e", "namespace": "default"},
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal", "reason": "R", "action": "A",
        "reportingController": "test-controller", "reportingInstance": "i",
    });
    let (code, made) = t
        .post("/apis/events.k8s.io/v1/namespaces/default/events", event)
        .await;
    assert_eq!(code, 201, "{made}");
    let (core, events) = ("/api/v1/events", "/apis/events.k8s.io/v1/events");
    for (path, selector, found) in [
        (events, "reportingController=test-controller", 1),
        (events, "reportingController=other", 0),
        (events, "regarding.name=p,regarding.kind=Pod", 1),
        (events, "regarding.name=q", 0),
        (events, "source=test-controller", 1),
        (core, "reportingComponent=test-controller", 1),
        (core, "involvedObject.name=p", 1),
    ] {
        let (_, list) = t.get(&format!("{path}?fieldSelector={selector}")).await;
        let items = list["items"].as_array().map(Vec::len);
        assert_eq!(items, Some(found), "{selector}: {list}");
    }
    for (path, selector) in [
        (events, "involvedObject.name=p"),
        (events, "reportingComponent=x"),
        (core, "regarding.name=p"),
        (core, "reportingController=x"),
    ] {
        let (code, _) = t.get(&format!("{path}?fieldSelector={selector}")).await;
        assert_eq!(code, 400, "{selector}");
    }
}
