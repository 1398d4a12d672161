use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::schema::{Schema, TypeRef};

fn ty(name: &str) -> TypeRef {
    Schema::builtin()
        .definition(&format!("io.k8s.api.{name}"))
        .unwrap()
}

fn pod(spec: Value) -> Value {
    json!({"spec": spec})
}

#[track_caller]
fn strategic(original: Value, patch: Value, expected: Value) {
    let merged = strategic_merge(ty("core.v1.Pod"), &pod(original), &pod(patch)).unwrap();
    assert_eq!(merged, pod(expected));
}

#[test]
fn json_patch_operations() {
    let object = json!({"a": {"b": [1, 2, 3]}, "x/y": 1});
    let patched = |patch: Value| json_patch(&object, &patch);
    assert_eq!(
        patched(json!([
            {"op": "test", "path": "/a/b/0", "value": 1.0},
            {"op": "add", "path": "/a/b/-", "value": 4},
            {"op": "add", "path": "/a/b/1", "value": 9},
            {"op": "remove", "path": "/a/b/0"},
            {"op": "replace", "path": "/x~1y", "value": 2},
            {"op": "copy", "from": "/a/b", "path": "/c"},
            {"op": "move", "from": "/x~1y", "path": "/d"},
            {"op": "replace", "path": "/c/-1", "value": 0},
            {"op": "test", "path": "/nope", "value": null},
            // A missing value can be replaced, and the start of a path does not count.
            {"op": "replace", "path": "/a/new", "value": 5},
            {"op": "add", "path": "x/e", "value": 6},
        ]))
        .unwrap(),
        json!({"a": {"b": [9, 2, 3, 4], "new": 5}, "c": [9, 2, 3, 0], "d": 2, "e": 6})
    );
    for patch in [
        json!([{"op": "remove", "path": "/nope"}]),
        json!([{"op": "replace", "path": "/n/o", "value": 1}]),
        json!([{"op": "replace", "path": "/a/b/9", "value": 1}]),
        json!([{"op": "add", "path": "nope", "value": 1}]),
        json!([{"op": "add", "path": "/a/b/9", "value": 1}]),
        json!([{"op": "add", "path": "/n/o", "value": 1}]),
        json!([{"op": "test", "path": "/a", "value": 1}]),
        json!([{"op": "frob", "path": "/a"}]),
        json!([{"path": "/a"}]),
        json!([{"op": "move", "from": "/a", "path": "/a/b"}]),
    ] {
        let error = patched(patch).unwrap_err();
        assert_eq!((error.code, error.reason.as_ref()), (422, "Invalid"));
        assert_eq!(
            error.message,
            "the server rejected our request due to an error in our request"
        );
    }
    assert_eq!(patched(json!({})).unwrap_err().code, 400);
    assert_eq!(patched(json!([1])).unwrap_err().code, 400);
    let many = vec![json!({"op": "test", "path": "", "value": 1}); MAX_OPERATIONS + 1];
    assert_eq!(patched(many.into()).unwrap_err().code, 413);
    // One that nests a document in itself.
    let nest = vec![json!({"op": "copy", "from": "", "path": "/a"}); 200];
    assert!(patched(nest.into()).is_err());
    // A patch that doubles a document thirty times.
    let bomb: Vec<Value> = (0..30)
        .map(|i| json!({"op": "copy", "from": "/a", "path": format!("/a/n{i}")}))
        .collect();
    assert!(patched(bomb.into()).is_err());
}

#[test]
fn merge_patch_follows_the_rfc() {
    for (object, patch, expected) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (
            json!({"a": "b", "b": "c"}),
            json!({"a": null}),
            json!({"b": "c"}),
        ),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (
            json!({"a": {"b": "c"}}),
            json!({"a": {"b": "d", "c": null}}),
            json!({"a": {"b": "d"}}),
        ),
        (
            json!({"a": [{"b": "c"}]}),
            json!({"a": [1]}),
            json!({"a": [1]}),
        ),
        (
            json!({}),
            json!({"a": {"bb": {"ccc": null}}}),
            json!({"a": {"bb": {}}}),
        ),
    ] {
        assert_eq!(merge_patch(&object, &patch).unwrap(), expected);
    }
    assert_eq!(merge_patch(&json!({}), &json!([])).unwrap_err().code, 400);
}

#[test]
fn lists_of_maps_merge_by_key() {
    strategic(
        json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}),
        json!({"containers": [{"name": "b", "image": "2"}, {"name": "c", "image": "3"}]}),
        json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c", "image": "3"}]}),
    );
    strategic(
        json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}),
        json!({"containers": [{"name": "a", "$patch": "delete"}]}),
        json!({"containers": [{"name": "b", "image": "1"}]}),
    );
    strategic(
        json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}),
        json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
        json!({"containers": [{"name": "c"}]}),
    );
    let error = strategic_merge(
        ty("core.v1.Pod"),
        &pod(json!({"containers": [{"name": "a"}]})),
        &pod(json!({"containers": [{"image": "x"}]})),
    )
    .unwrap_err();
    assert_eq!(
        error.message,
        "map: map[image:x] does not contain declared merge key: name"
    );
    // Without a strategy a list is replaced.
    strategic(
        json!({"tolerations": [{"key": "a"}]}),
        json!({"tolerations": [{"key": "b"}]}),
        json!({"tolerations": [{"key": "b"}]}),
    );
}

#[test]
fn element_order() {
    strategic(
        json!({"containers": [{"name": "a"}, {"name": "s"}, {"name": "b"}]}),
        json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}], "containers": [{"name": "c", "image": "x"}]}),
        json!({"containers": [{"name": "c", "image": "x"}, {"name": "s"}, {"name": "b"}, {"name": "a"}]}),
    );
    strategic(
        json!({"containers": [{"name": "a"}, {"name": "b"}]}),
        json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
        json!({"containers": [{"name": "b"}, {"name": "a"}]}),
    );
    let error = strategic_merge(
        ty("core.v1.Pod"),
        &pod(json!({})),
        &pod(
            json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b"}]}),
        ),
    )
    .unwrap_err();
    assert_eq!(error.code, 500);
    let order = "The order in patch list:\n[map[name:b]]\n doesn't match $setElementOrder list:\n[map[name:a]]\n";
    assert_eq!(error.message, order);
}

#[test]
fn retain_keys_and_maps() {
    strategic(
        json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
        json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}),
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
    );
    strategic(
        json!({"nodeSelector": {"a": "b"}, "securityContext": {"runAsUser": 1}}),
        json!({"nodeSelector": {"$patch": "replace", "c": "d"}, "securityContext": {"$patch": "delete"}}),
        json!({"nodeSelector": {"c": "d"}, "securityContext": {}}),
    );
    let deployment = |strategy: Value| json!({"spec": {"strategy": strategy}});
    assert_eq!(
        strategic_merge(
            ty("apps.v1.Deployment"),
            &deployment(json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}})),
            &deployment(json!({"$retainKeys": ["type"], "type": "Recreate"})),
        )
        .unwrap(),
        deployment(json!({"type": "Recreate"}))
    );
    let bad = deployment(json!({"$retainKeys": ["type"], "rollingUpdate": {}}));
    assert_eq!(
        strategic_merge(ty("apps.v1.Deployment"), &json!({}), &bad).map(|_| ()),
        Ok(())
    );
    assert_eq!(
        strategic_merge(ty("apps.v1.Deployment"), &deployment(json!({})), &bad)
            .unwrap_err()
            .message,
        "invalid patch format of retainKeys"
    );
    let budget = |selector: Value| json!({"spec": {"selector": selector}});
    assert_eq!(
        strategic_merge(
            ty("policy.v1.PodDisruptionBudget"),
            &budget(json!({"matchLabels": {"a": "b"}})),
            &budget(json!({"matchLabels": {"c": "d"}})),
        )
        .unwrap(),
        budget(json!({"matchLabels": {"c": "d"}}))
    );
}

#[test]
fn primitive_lists() {
    let object = |finalizers: Value| json!({"metadata": {"finalizers": finalizers}});
    let merged = |patch: Value| {
        strategic_merge(
            ty("core.v1.Pod"),
            &object(json!(["a", "b"])),
            &json!({"metadata": patch}),
        )
        .unwrap()
    };
    assert_eq!(
        merged(json!({"finalizers": ["b", "c"]})),
        object(json!(["a", "b", "c"]))
    );
    assert_eq!(
        merged(json!({"$deleteFromPrimitiveList/finalizers": ["a"]})),
        object(json!(["b"]))
    );
    assert_eq!(
        merged(
            json!({"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["c", "b"], "finalizers": ["c"]})
        ),
        object(json!(["c", "b"]))
    );
    assert_eq!(merged(json!({"finalizers": null})), json!({"metadata": {}}));
}

/// The merge patch that makes `b` of `a`.
fn diff(a: &Value, b: &Value) -> Value {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let mut patch = Map::new();
            for (key, value) in b {
                match a.get(key) {
                    Some(old) if old == value => {}
                    Some(old) => {
                        patch.insert(key.clone(), diff(old, value));
                    }
                    None => {
                        patch.insert(key.clone(), value.clone());
                    }
                }
            }
            for key in a.keys().filter(|k| !b.contains_key(*k)) {
                patch.insert(key.clone(), Value::Null);
            }
            Value::Object(patch)
        }
        (_, b) => b.clone(),
    }
}

proptest! {
    #![proptest_config(crate::testing::config())]

    #[test]
    fn merge_patches_reach_their_goal(a in crate::testing::pod(), b in crate::testing::pod()) {
        prop_assert_eq!(merge_patch(&a, &diff(&a, &b)).unwrap(), b);
    }

    #[test]
    fn strategic_merge_of_itself_changes_nothing(a in crate::testing::pod()) {
        prop_assert_eq!(strategic_merge(ty("core.v1.Pod"), &a, &a).unwrap(), a);
    }

    #[test]
    fn strategic_merge_keeps_items_by_key(a in crate::testing::pod(), b in crate::testing::pod()) {
        let merged = strategic_merge(ty("core.v1.Pod"), &a, &b).unwrap();
        let names = |o: &Value| -> std::collections::BTreeSet<String> {
            let list = o["spec"]["containers"].as_array().cloned().unwrap_or_default();
            list.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
        };
        let mut model = names(&a);
        model.extend(names(&b));
        prop_assert_eq!(names(&merged), model);
        // Once more changes nothing.
        prop_assert_eq!(strategic_merge(ty("core.v1.Pod"), &merged, &b).unwrap(), merged);
    }

    #[test]
    fn nothing_panics(a in crate::testing::pod_like(), b in crate::testing::pod_like(), c in crate::testing::any_json()) {
        let _ = strategic_merge(ty("core.v1.Pod"), &a, &b);
        let _ = merge_patch(&a, &b);
        let _ = json_patch(&a, &c);
    }

    #[test]
    fn json_patches_never_panic(op in "add|remove|replace|move|copy|test|x", path in "(/[a-c0-1~-]{0,2}){0,3}", from in "(/[a-c0-1~-]{0,2}){0,3}", object in crate::testing::any_json(), value in crate::testing::any_json()) {
        let _ = json_patch(&object, &json!([{"op": op, "path": path, "from": from, "value": value}]));
    }
}
