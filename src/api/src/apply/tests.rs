use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema::{Schema, Structural};

fn ty(name: &str) -> Type<'static> {
    Schema::builtin()
        .definition(&format!("io.k8s.api.{name}"))
        .unwrap()
        .into()
}

fn request<'a>(ty: Type<'a>, api_version: &'a str, manager: &'a str) -> Request<'a> {
    Request {
        ty,
        api_version,
        manager,
        subresource: None,
        now: "2024-01-01T00:00:00Z",
        versions: None,
        reset_fields: &[],
    }
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec})
}

fn fields_of<'a>(object: &'a Value, manager: &str) -> Option<&'a Value> {
    meta::managed_fields(object)
        .iter()
        .find(|e| e["manager"] == manager)
        .map(|e| &e["fieldsV1"])
}

/// Returns an object in its stored form: checked, and with a uid.
fn stored(ty: Type<'_>, mut object: Value) -> Value {
    fields::check(ty, &mut object).unwrap();
    meta::set_uid(&mut object, "u");
    object
}

#[test]
fn create_owns_what_upstream_records() {
    let ty = ty("apps.v1.Deployment");
    let mut new = deployment(json!({
        "replicas": 1,
        "selector": {"matchLabels": {"app": "web"}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{
            "name": "c", "image": "i", "ports": [{"containerPort": 80}]}]}},
    }));
    fields::check(ty, &mut new).unwrap();
    let new = update(&request(ty, "apps/v1", "kubectl-create"), None, new);
    assert_eq!(
        meta::managed_fields(&new),
        [json!({
            "manager": "kubectl-create", "operation": "Update", "apiVersion": "apps/v1",
            "time": "2024-01-01T00:00:00Z", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:spec": {
                "f:replicas": {},
                "f:selector": {},
                "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}}, "f:type": {}},
                "f:template": {
                    "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                    "f:spec": {"f:containers": {r#"k:{"name":"c"}"#: {
                        ".": {}, "f:image": {}, "f:name": {}, "f:resources": {},
                        "f:ports": {".": {}, r#"k:{"containerPort":80,"protocol":"TCP"}"#: {".": {}, "f:containerPort": {}}},
                    }}},
                },
            }},
        })]
    );
}

#[test]
fn apply_conflicts_and_force() {
    let ty = ty("apps.v1.Deployment");
    let one = request(ty, "apps/v1", "one");
    let live = stored(
        ty,
        apply(
            &one,
            None,
            &deployment(json!({"replicas": 1, "minReadySeconds": 2})),
            false,
        )
        .unwrap(),
    );
    assert_eq!(
        fields_of(&live, "one"),
        Some(&json!({"f:spec": {"f:replicas": {}, "f:minReadySeconds": {}}}))
    );

    let two = request(ty, "apps/v1", "two");
    let error = apply(
        &two,
        Some(&live),
        &deployment(json!({"replicas": 3})),
        false,
    )
    .unwrap_err();
    assert_eq!(
        error.message,
        r#"Apply failed with 1 conflict: conflict with "one": .spec.replicas"#
    );
    assert_eq!(error.code, 409);
    let cause = &error.details.unwrap().causes[0];
    assert_eq!(
        (cause.reason.as_ref(), cause.field.as_str()),
        ("FieldManagerConflict", ".spec.replicas")
    );

    let forced = apply(&two, Some(&live), &deployment(json!({"replicas": 3})), true).unwrap();
    assert_eq!(forced["spec"]["replicas"], 3);
    assert_eq!(
        fields_of(&forced, "one"),
        Some(&json!({"f:spec": {"f:minReadySeconds": {}}}))
    );
    assert_eq!(
        fields_of(&forced, "two"),
        Some(&json!({"f:spec": {"f:replicas": {}}}))
    );

    // The same value may be owned together, and one leaving does not remove it.
    let shared = apply(
        &two,
        Some(&live),
        &deployment(json!({"replicas": 1})),
        false,
    )
    .unwrap();
    let left = apply(
        &one,
        Some(&shared),
        &deployment(json!({"minReadySeconds": 2})),
        false,
    )
    .unwrap();
    assert_eq!(left["spec"]["replicas"], 1);
    let gone = apply(&two, Some(&left), &deployment(json!({})), false).unwrap();
    assert_eq!(gone["spec"].get("replicas"), None);
    assert_eq!(fields_of(&gone, "two"), Some(&json!({"f:spec": {}})));
}

#[test]
fn updates_take_over_and_conflict() {
    let ty = ty("apps.v1.Deployment");
    let live = stored(
        ty,
        apply(
            &request(ty, "apps/v1", "one"),
            None,
            &deployment(json!({"replicas": 1})),
            false,
        )
        .unwrap(),
    );
    let mut changed = live.clone();
    changed["spec"]["replicas"] = json!(5);
    let scaled = update(
        &Request {
            subresource: Some("scale"),
            ..request(ty, "apps/v1", "scaler")
        },
        Some(&live),
        changed,
    );
    assert!(fields_of(&scaled, "one").is_none());
    let error = apply(
        &request(ty, "apps/v1", "one"),
        Some(&scaled),
        &deployment(json!({"replicas": 1})),
        false,
    )
    .unwrap_err();
    assert_eq!(
        error.message,
        r#"Apply failed with 1 conflict: conflict with "scaler" with subresource "scale" using apps/v1: .spec.replicas"#
    );
}

#[test]
fn list_maps_merge_by_keys_with_defaults() {
    let ty = ty("core.v1.Service");
    let service = |ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": ports}});
    let live = stored(
        ty,
        apply(
            &request(ty, "v1", "a"),
            None,
            &service(json!([{"port": 80}, {"port": 81}])),
            false,
        )
        .unwrap(),
    );
    let both = apply(
        &request(ty, "v1", "b"),
        Some(&live),
        &service(json!([{"port": 80, "protocol": "UDP"}, {"port": 80, "protocol": "TCP", "name": "http"}])),
        false,
    )
    .unwrap();
    assert_eq!(
        both["spec"]["ports"],
        json!([{"port": 80, "protocol": "UDP"}, {"port": 80, "protocol": "TCP", "name": "http", "targetPort": 0}, {"port": 81, "targetPort": 0}])
    );
    let fewer = apply(
        &request(ty, "v1", "a"),
        Some(&both),
        &service(json!([{"port": 80}])),
        false,
    )
    .unwrap();
    assert_eq!(
        fewer["spec"]["ports"],
        json!([{"port": 80, "protocol": "UDP"}, {"port": 80, "protocol": "TCP", "name": "http", "targetPort": 0}])
    );
    let error = apply(
        &request(ty, "v1", "a"),
        None,
        &service(json!([{"port": 80}, {"port": 80}])),
        false,
    )
    .unwrap_err();
    assert!(
        error
            .message
            .contains(r#".spec.ports: duplicate entries for key [port=80,protocol="TCP"]"#),
        "{error}"
    );
}

#[test]
fn items_without_some_of_their_keys_are_items_of_their_own() {
    // As upstream since structured-merge-diff 4: what has no default is left out of the key.
    let ty = ty("core.v1.Service");
    let service = |ports: &Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": ports}});
    let r = request(ty, "v1", "m");
    // Without the keys that a check would add.
    let kept = |mut object: Value| {
        meta::set_uid(&mut object, "u");
        if object["spec"]["ports"].as_array().is_none_or(Vec::is_empty) {
            object["spec"] = json!({});
        }
        object
    };
    let lists = [
        json!([]),
        json!([{}]),
        json!([{"protocol": "UDP"}]),
        json!([{"port": 1}]),
        json!([{"port": 1}, {}]),
        json!([{}, {"protocol": "UDP"}, {"port": 1, "protocol": "UDP"}]),
        json!([{"port": 2, "name": "a"}]),
    ];
    for first in &lists {
        for second in &lists {
            let live = kept(apply(&r, None, &service(first), false).unwrap());
            let changed = apply(&r, Some(&live), &service(second), false).unwrap();
            let ports = changed["spec"]
                .get("ports")
                .cloned()
                .unwrap_or_else(|| json!([]));
            assert_eq!(&ports, second, "{first} and then {second}");
            let changed = kept(changed);
            let again = apply(&r, Some(&changed), &service(second), false).unwrap();
            assert_eq!(kept(again), changed, "{second} once more");
        }
    }
    let live = apply(&r, None, &service(&json!([{"name": "a"}])), false).unwrap();
    assert_eq!(
        fields_of(&live, "m"),
        Some(&json!({"f:spec": {"f:ports": {r#"k:{"protocol":"TCP"}"#: {".": {}, "f:name": {}}}}}))
    );
    let error = apply(&r, None, &service(&json!([{}, {"protocol": "TCP"}])), false).unwrap_err();
    assert!(
        error
            .message
            .ends_with(r#": .spec.ports: duplicate entries for key [protocol="TCP"]"#),
        "{error}"
    );
    // As upstream, an item whose last field goes is gone, although it is applied.
    let emptied = apply(&r, Some(&live), &service(&json!([{}])), false).unwrap();
    assert_eq!(emptied["spec"].get("ports"), None);
    // Without any key it is refused.
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"hostAliases": [{"hostnames": ["a"]}]}});
    let error = apply(
        &request(self::ty("core.v1.Pod"), "v1", "m"),
        None,
        &pod,
        false,
    )
    .unwrap_err();
    assert!(
        error.message.ends_with(
            r#": .spec.hostAliases: element 0: associative list with keys has an element that omits all key fields ["ip"] (and doesn't have default values for any key fields)"#
        ),
        "{error}"
    );
}

#[test]
fn sets_and_unknown_fields() {
    let ty = ty("core.v1.ConfigMap");
    let map = |finalizers: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "finalizers": finalizers}});
    let live = stored(
        ty,
        apply(
            &request(ty, "v1", "a"),
            None,
            &map(json!(["x/a", "x/b"])),
            false,
        )
        .unwrap(),
    );
    assert_eq!(
        fields_of(&live, "a"),
        Some(&json!({"f:metadata": {"f:finalizers": {r#"v:"x/a""#: {}, r#"v:"x/b""#: {}}}}))
    );
    let live = apply(
        &request(ty, "v1", "b"),
        Some(&live),
        &map(json!(["x/c"])),
        false,
    )
    .unwrap();
    let live = apply(
        &request(ty, "v1", "a"),
        Some(&live),
        &map(json!(["x/a"])),
        false,
    )
    .unwrap();
    assert_eq!(live["metadata"]["finalizers"], json!(["x/a", "x/c"]));

    let mut unknown = map(json!([]));
    unknown["foo"] = json!(1);
    let error = apply(&request(ty, "v1", "a"), None, &unknown, false).unwrap_err();
    assert!(
        error
            .message
            .ends_with("(/c; /v1, Kind=ConfigMap): .foo: field not declared in schema"),
        "{error}"
    );
}

#[test]
fn first_apply_and_kubectl_upgrade() {
    let ty = ty("core.v1.ConfigMap");
    let last = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}});
    let mut live = last.clone();
    live["metadata"]["uid"] = json!("u");
    let mut config = last.clone();
    config["data"]["a"] = json!("2");
    let error = apply(&request(ty, "v1", "x"), Some(&live), &config, false).unwrap_err();
    assert_eq!(
        error.message,
        r#"Apply failed with 1 conflict: conflict with "before-first-apply" using v1: .data.a"#
    );
    live["metadata"]["annotations"] = json!({LAST_APPLIED: last.to_string()});
    let taken = apply(&request(ty, "v1", "kubectl"), Some(&live), &config, false).unwrap();
    assert_eq!(taken["data"]["a"], "2");
    let recorded: Value =
        serde_json::from_str(meta::annotation(&taken, LAST_APPLIED).unwrap()).unwrap();
    assert_eq!(recorded, config);
}

#[test]
fn many_managers_are_merged() {
    let ty = ty("core.v1.ConfigMap");
    let mut live = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
    let names: Vec<String> = (0..14).map(|i| format!("m{i:02}")).collect();
    for (i, name) in names.iter().enumerate() {
        let mut new = live.clone();
        new["data"][format!("k{i}")] = json!("v");
        let now = format!("2024-01-01T00:00:{i:02}Z");
        let request = Request {
            now: &now,
            ..request(ty, "v1", name)
        };
        live = update(&request, if i == 0 { None } else { Some(&live) }, new);
        meta::set_uid(&mut live, "u");
    }
    let managers: Vec<&str> = meta::managed_fields(&live)
        .iter()
        .map(|e| e["manager"].as_str().unwrap())
        .collect();
    assert_eq!(managers.len(), 10);
    assert_eq!(managers[0], "ancient-changes");
    assert_eq!(
        fields_of(&live, "ancient-changes").unwrap()["f:data"]
            .as_object()
            .unwrap()
            .len(),
        6
    );
}

#[test]
fn reset_and_untracked() {
    let ty = ty("core.v1.ConfigMap");
    let mut new = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "b"}});
    let mut live = update(&request(ty, "v1", "m"), None, new.clone());
    meta::set_uid(&mut live, "u");
    new["metadata"]["managedFields"] = json!([]);
    let mut reset = update(&request(ty, "v1", "m"), Some(&live), new);
    assert!(meta::managed_fields(&reset).is_empty());
    meta::set_uid(&mut reset, "u");
    let mut next = reset.clone();
    next["data"]["a"] = json!("c");
    assert!(meta::managed_fields(&update(&request(ty, "v1", "m"), Some(&reset), next)).is_empty());
}

#[test]
fn resets_own_nothing() {
    let ty = ty("core.v1.Pod");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"nodeName": "n"}, "status": {"phase": "Running"}});
    let request = Request {
        reset_fields: &[&["status"]],
        ..request(ty, "v1", "m")
    };
    let pod = update(&request, None, pod);
    assert_eq!(
        fields_of(&pod, "m"),
        Some(&json!({"f:spec": {"f:nodeName": {}}}))
    );
}

#[test]
fn custom_resources() {
    let schema = Structural::root(
        &json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "n": {"type": "integer"},
        "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
            "items": {"type": "object", "properties": {"id": {"type": "string"}, "v": {"type": "string"}}}},
        "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}),
    );
    let object = |spec: Value| json!({"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "x"}, "spec": spec});
    let a = request((&schema).into(), "x/v1", "a");
    let live = apply(
        &a,
        None,
        &object(json!({"n": 1, "list": [{"id": "1", "v": "x"}], "whole": {"a": "b"}, "free": {"x": {"y": [1]}}})),
        false,
    )
    .unwrap();
    assert_eq!(
        fields_of(&live, "a"),
        Some(&json!({"f:spec": {
            "f:n": {}, "f:whole": {}, "f:list": {r#"k:{"id":"1"}"#: {".": {}, "f:id": {}, "f:v": {}}},
            "f:free": {"f:x": {".": {}, "f:y": {}}}}}))
    );
    let less = apply(&a, Some(&live), &object(json!({"n": 1})), false).unwrap();
    assert_eq!(less["spec"], json!({"n": 1}));
}

proptest! {
    #![proptest_config(crate::testing::config())]

    #[test]
    fn applying_gives_what_was_applied(first in crate::testing::pod(), second in crate::testing::pod()) {
        let ty = ty("core.v1.Pod");
        let r = request(ty, "v1", "m");
        let live = apply(&r, None, &first, false).unwrap();
        let mut again = apply(&r, Some(&live), &second, false).unwrap();
        // A lone manager's second configuration replaces its first.
        let mut fresh = apply(&r, None, &second, false).unwrap();
        fields::check(ty, &mut again).unwrap();
        fields::check(ty, &mut fresh).unwrap();
        prop_assert_eq!(&again["spec"], &fresh["spec"]);
        prop_assert_eq!(&again["metadata"]["labels"], &fresh["metadata"]["labels"]);
        prop_assert_eq!(fields_of(&again, "m"), fields_of(&fresh, "m"));
        // And once more changes nothing.
        prop_assert_eq!(apply(&r, Some(&again), &second, false).unwrap(), again);
    }

    #[test]
    fn other_managers_keep_what_they_own(mine in crate::testing::pod(), theirs in crate::testing::pod()) {
        let ty = ty("core.v1.Pod");
        let live = apply(&request(ty, "v1", "theirs"), None, &theirs, false).unwrap();
        if let Ok(both) = apply(&request(ty, "v1", "mine"), Some(&live), &mine, false) {
            let empty = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
            let mut back = apply(&request(ty, "v1", "mine"), Some(&both), &empty, false).unwrap();
            let mut live = live;
            fields::check(ty, &mut back).unwrap();
            fields::check(ty, &mut live).unwrap();
            prop_assert_eq!(fields_of(&back, "theirs"), fields_of(&live, "theirs"));
            prop_assert_eq!(back["spec"]["containers"].as_array().map(Vec::len), live["spec"]["containers"].as_array().map(Vec::len));
        }
    }

    #[test]
    fn tracking_follows_updates(old in crate::testing::pod(), new in crate::testing::pod()) {
        let ty = ty("core.v1.Pod");
        let mut live = update(&request(ty, "v1", "a"), None, old);
        meta::set_uid(&mut live, "u");
        let next = update(&request(ty, "v1", "b"), Some(&live), new.clone());
        // All recorded fields exist, and an update without changes records nothing.
        let mut uid = next.clone();
        meta::set_uid(&mut uid, "u");
        let same = update(&request(ty, "v1", "c"), Some(&uid), uid.clone());
        prop_assert_eq!(meta::managed_fields(&same), meta::managed_fields(&uid));
        let all = typed::field_set(Some(ty), &new).with_named_fields(Some(ty));
        for entry in meta::managed_fields(&next) {
            let set = FieldSet::from_fields_v1(&entry["fieldsV1"]).unwrap();
            let beyond = set.difference(&all);
            let mut lists = true;
            beyond.for_each(&mut Vec::new(), &mut |p| {
                // Lists as such are owned by updates but are no places of a tree.
                lists &= matches!(p.last(), Some(PathElement::Field(_)));
            });
            prop_assert!(lists, "{:?}", beyond.to_fields_v1());
        }
    }

    #[test]
    fn nothing_panics(live in crate::testing::pod_like(), config in crate::testing::pod_like()) {
        let ty = ty("core.v1.Pod");
        for force in [false, true] {
            if let Ok(object) = apply(&request(ty, "v1", "m"), Some(&live), &config, force) {
                let _ = apply(&request(ty, "v1", "n"), Some(&object), &live, force);
            }
        }
        let _ = update(&request(ty, "v1", "m"), Some(&live), config);
    }
}
