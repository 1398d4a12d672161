use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::Object;
use crate::schema::{Schema, Structural, TypeRef};

fn builtin(name: &str) -> TypeRef {
    Schema::builtin()
        .definition(&format!("io.k8s.api.{name}"))
        .unwrap()
}

#[test]
fn repeated_keys_of_yaml_have_a_place() {
    let text = b"a: 1\nspec:\n  foo: bar\n  x: [{y: 1}]\n  foo: baz\n";
    assert_eq!(
        yaml_duplicate(text).unwrap(),
        "error converting YAML to JSON: yaml: unmarshal errors:\n  line 5: key \"foo\" already set in map"
    );
    assert_eq!(yaml_duplicate(b"a: 1\nb: [1.5, true, null, x]\n"), None);
}

#[test]
fn reports_duplicates() {
    let (object, messages) =
        parse_json(br#"{"a":1,"spec":{"containers":[{"image":"x","image":"y"}]},"a":2}"#).unwrap();
    assert_eq!(
        object,
        json!({"a": 2, "spec": {"containers": [{"image": "y"}]}})
    );
    assert_eq!(
        messages,
        [
            r#"duplicate field "spec.containers[0].image""#,
            r#"duplicate field "a""#
        ]
    );
}

#[test]
fn what_is_no_text_is_replaced() {
    for (json, text) in [
        (&br#"["a\ud800b"]"#[..], "a\u{fffd}b"),
        (br#"["\udc00\ud83d\ude00"]"#, "\u{fffd}\u{1f600}"),
        (br#"["\ud800\u0041"]"#, "\u{fffd}A"),
        (br#"["\\ud800"]"#, r"\ud800"),
        (b"[\"a\xffb\"]", "a\u{fffd}b"),
    ] {
        assert_eq!(parse_json(json).unwrap().0, json!([text]), "{text}");
    }
    assert!(parse_json(br#"["\ud800" x]"#).is_err());
    assert!(parse_json(br#"["\ud80"]"#).is_err());
    assert!(parse_json(b"[\"\\").is_err());
}

#[test]
fn yaml_is_bounded() {
    let (object, _) = parse_yaml(b"a: 1\nb: [x, {c: null}]\n2: z\n").unwrap();
    assert_eq!(object, json!({"a": 1, "b": ["x", {"c": null}], "2": "z"}));
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..12 {
        let item = format!("*a{},", i - 1).repeat(10);
        bomb.push_str(&format!("a{i}: &a{i} [{}]\n", item.trim_end_matches(',')));
    }
    assert!(parse_yaml(bomb.as_bytes()).is_err());
    let big = format!("a: &a {}\nb: [{}]", "x".repeat(10_000), "*a,".repeat(5000));
    assert!(parse_yaml(big.as_bytes()).is_err());
}

#[test]
fn depth_is_bounded() {
    let deep = "[".repeat(100_000);
    assert!(parse_json(deep.as_bytes()).is_err());
    assert!(parse_yaml(&deep.as_bytes()[..5000]).is_err());
    let fine = format!("{}{}", "[".repeat(100), "]".repeat(100));
    assert!(parse_json(fine.as_bytes()).is_ok());
}

#[test]
fn drops_unknown_fields() {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "x", "labels": {}, "creationTimestamp": null},
        "spec": {"foo": 1, "containers": [{"name": "c", "bar": {"x": 1}, "resources": {"limits": {"cpu": "1000m"}}}]},
    });
    let messages = check(builtin("core.v1.Pod"), &mut pod).unwrap();
    assert_eq!(
        messages,
        [
            r#"unknown field "spec.containers[0].bar""#,
            r#"unknown field "spec.foo""#
        ]
    );
    assert_eq!(
        pod,
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "status": {},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}}]},
        })
    );
    let strict = Validation::Strict.judge(&pod, messages).unwrap_err();
    assert_eq!(
        strict.message,
        r#"Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.containers[0].bar", unknown field "spec.foo""#
    );
}

#[test]
fn words_type_errors_as_go() {
    let error = |kind: &str, object: serde_json::Value| {
        let mut object = object;
        check(builtin(kind), &mut object).unwrap_err().message
    };
    assert_eq!(
        error(
            "apps.v1.Deployment",
            json!({"kind": "Deployment", "apiVersion": "apps/v1", "spec": {"replicas": "3"}})
        ),
        r#"Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"#
    );
    assert_eq!(
        error(
            "core.v1.Pod",
            json!({"spec": {"containers": [{"env": [{"name": "a", "value": 1}]}]}})
        ),
        "json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string"
    );
    assert_eq!(
        error("core.v1.Pod", json!({"spec": {"containers": {}}})),
        "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container"
    );
    assert_eq!(
        error("core.v1.Secret", json!({"data": {"a": "!"}})),
        "illegal base64 data at input byte 0"
    );
    assert_eq!(
        error("core.v1.Pod", json!([])),
        "json: cannot unmarshal array into Go value of type v1.Pod"
    );
}

#[test]
fn times_are_normalised_or_refused() {
    // Of an optional time, a required one, and one with microseconds.
    let pod = |time: &str| json!({"status": {"startTime": time}});
    let event = |time: &str| json!({"eventTime": time});
    let token = |time: &str| json!({"status": {"expirationTimestamp": time, "token": "t"}});
    let checked = |kind: &str, mut object: Object| match check(builtin(kind), &mut object) {
        Ok(_) => {
            let mut again = object.clone();
            assert_eq!(
                check(builtin(kind), &mut again).unwrap(),
                Vec::<String>::new()
            );
            assert_eq!(again, object, "{kind}");
            object
        }
        Err(status) => status.message.into(),
    };
    let at = |object: Object, pointer: &str| object.pointer(pointer).cloned().unwrap_or(object);
    for (text, time) in [
        ("2024-02-29T04:05:06.7+01:00", json!("2024-02-29T03:05:06Z")),
        ("9999-12-31T23:59:59Z", json!("9999-12-31T23:59:59Z")),
    ] {
        assert_eq!(
            at(checked("core.v1.Pod", pod(text)), "/status/startTime"),
            time
        );
        let token = checked("authentication.v1.TokenRequest", token(text));
        assert_eq!(at(token, "/status/expirationTimestamp"), time);
    }
    for text in ["0001-01-01T00:00:00Z", "0001-01-01T01:00:00.5+01:00"] {
        let pod = checked("core.v1.Pod", pod(text));
        assert_eq!(pod["status"], json!({}));
        let token = checked("authentication.v1.TokenRequest", token(text));
        assert_eq!(
            token["status"],
            json!({"token": "t", "expirationTimestamp": null})
        );
    }
    assert_eq!(
        checked("core.v1.Event", event("2024-02-29T04:05:06.123456Z"))["eventTime"],
        "2024-02-29T04:05:06.123456Z"
    );
    for (object, message) in [
        (
            checked("core.v1.Pod", pod("")),
            r#"parsing time "" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "2006""#,
        ),
        (
            checked("authentication.v1.TokenRequest", token("")),
            r#"parsing time "" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "2006""#,
        ),
        (
            checked("core.v1.Event", event("2024-02-29T04:05:06Z")),
            r#"parsing time "2024-02-29T04:05:06Z" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "Z" as ".000000""#,
        ),
        (
            checked("core.v1.Pod", pod("0000-01-01T00:00:00+01:00")),
            r#"parsing time "0000-01-01T00:00:00+01:00": year out of range"#,
        ),
    ] {
        assert_eq!(object, json!(message));
    }
}

#[test]
fn bytes_are_written_as_go_writes_them() {
    for (text, want) in [
        ("", Some("")),
        ("YQ==", Some("YQ==")),
        // Unused bits are set, and lines are broken.
        ("YR==", Some("YQ==")),
        ("YW\r\nJj\n", Some("YWJj")),
        ("YQ", None),
        ("YQ=", None),
        ("Y-_=", None),
    ] {
        let mut secret = json!({"data": {"a": text}});
        match check(builtin("core.v1.Secret"), &mut secret) {
            Ok(_) => assert_eq!(Some(&secret["data"]["a"]), want.map(|w| json!(w)).as_ref()),
            Err(_) => assert_eq!(want, None, "{text}"),
        }
    }
}

#[test]
fn numbers_are_read_exactly() {
    // Each lies so close to the middle of two doubles that a fast parser errs.
    for text in [
        "1.7976931348623157e308",
        "2.2250738585072014e-308",
        "9007199254740993.1",
        "1.448997445238699",
        "100000000000000016777215.5",
        "5e-324",
        "0.1e-6",
        "-123456789012345678901234567890",
    ] {
        let expected: f64 = text.parse().unwrap();
        let (json, _) = parse_json(text.as_bytes()).unwrap();
        assert_eq!(
            json.as_f64().map(f64::to_bits),
            Some(expected.to_bits()),
            "{text}"
        );
        let (yaml, _) = parse_yaml(text.as_bytes()).unwrap();
        assert_eq!(
            yaml.as_f64().map(f64::to_bits),
            Some(expected.to_bits()),
            "{text}"
        );
    }
}

#[test]
fn empty_objects_are_gos() {
    let empty = empty(builtin("apps.v1.Deployment"));
    assert_eq!(
        empty,
        json!({"metadata": {}, "status": {}, "spec": {"selector": null, "strategy": {},
            "template": {"metadata": {}, "spec": {"containers": null}}}})
    );
}

/// Each pair is what is sent and what upstream's server stores, as it was observed.
#[test]
fn scalars_are_kept_or_dropped_as_go_holds_them() {
    let container = |c: Object| json!({"spec": {"containers": [c]}});
    let cases = [
        (
            "core.v1.Pod",
            json!({"metadata": {"generateName": "", "generation": 0}, "spec": {
                "hostNetwork": false, "hostPID": false, "hostIPC": false, "hostname": "", "subdomain": "",
                "nodeName": "", "priorityClassName": "", "containers": null,
                "automountServiceAccountToken": false, "enableServiceLinks": false,
                "terminationGracePeriodSeconds": 0, "activeDeadlineSeconds": 0, "priority": 0,
                "securityContext": {"runAsUser": 0, "runAsNonRoot": false}}}),
            json!({"metadata": {}, "status": {}, "spec": {
                "containers": null,
                "automountServiceAccountToken": false, "enableServiceLinks": false,
                "terminationGracePeriodSeconds": 0, "activeDeadlineSeconds": 0, "priority": 0,
                "securityContext": {"runAsUser": 0, "runAsNonRoot": false}}}),
        ),
        (
            "core.v1.Pod",
            container(
                json!({"name": "", "stdin": false, "tty": false, "workingDir": "",
                "env": [{"name": "A", "value": ""}], "command": [], "args": [],
                "ports": [{"containerPort": 80, "hostPort": 0, "hostIP": "", "name": ""}],
                "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": false, "subPath": ""}],
                "livenessProbe": {"initialDelaySeconds": 0, "httpGet": {"host": "", "path": "/"}}}),
            ),
            json!({"metadata": {}, "status": {}, "spec": {"containers": [{"name": "",
                "env": [{"name": "A"}], "ports": [{"containerPort": 80}], "resources": {},
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                "livenessProbe": {"httpGet": {"path": "/", "port": 0}}}]}}),
        ),
        (
            "core.v1.Service",
            json!({"spec": {"clusterIP": "", "externalName": "", "loadBalancerIP": "",
                "publishNotReadyAddresses": false, "externalTrafficPolicy": "", "healthCheckNodePort": 0,
                "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80, "nodePort": 0, "name": ""}]}}),
            json!({"metadata": {}, "status": {"loadBalancer": {}},
                "spec": {"allocateLoadBalancerNodePorts": false, "ports": [{"port": 80, "targetPort": 0}]}}),
        ),
        (
            "batch.v1.Job",
            json!({"spec": {"parallelism": 0, "suspend": false}, "status": {"active": 0, "failed": 0, "ready": 0}}),
            json!({"metadata": {}, "status": {"ready": 0}, "spec": {"parallelism": 0, "suspend": false,
                "template": {"metadata": {}, "spec": {"containers": null}}}}),
        ),
        (
            "apps.v1.ReplicaSet",
            json!({"spec": {"replicas": 0, "minReadySeconds": 0}, "status": {"replicas": 0, "readyReplicas": 0}}),
            json!({"metadata": {}, "status": {"replicas": 0}, "spec": {"replicas": 0, "selector": null,
                "template": {"metadata": {}, "spec": {"containers": null}}}}),
        ),
        (
            "core.v1.Node",
            json!({"spec": {"unschedulable": false, "podCIDR": ""}}),
            json!({"metadata": {}, "spec": {}, "status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
                "nodeInfo": {"machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "", "osImage": "",
                    "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "",
                    "operatingSystem": "", "architecture": ""}}}),
        ),
    ];
    for (kind, mut sent, stored) in cases {
        check(builtin(kind), &mut sent).unwrap();
        assert_eq!(sent, stored, "{kind}");
    }
}

#[test]
fn what_go_always_writes_is_there() {
    let no_container = json!({"metadata": {}, "spec": {"containers": null}, "status": {}});
    for (kind, mut sent, stored) in [
        (
            "rbac.v1.Role",
            json!({"rules": []}),
            json!({"metadata": {}, "rules": null}),
        ),
        (
            "rbac.v1.ClusterRole",
            json!({"rules": [{"resources": ["pods"]}]}),
            json!({"metadata": {}, "rules": [{"resources": ["pods"], "verbs": null}]}),
        ),
        (
            "scheduling.v1.PriorityClass",
            json!({"globalDefault": false, "description": ""}),
            json!({"metadata": {}, "value": 0}),
        ),
        (
            "policy.v1.PodDisruptionBudget",
            json!({"spec": {}}),
            json!({"metadata": {}, "spec": {}, "status": {"currentHealthy": 0, "desiredHealthy": 0,
                "disruptionsAllowed": 0, "expectedPods": 0}}),
        ),
        (
            "discovery.v1.EndpointSlice",
            json!({"addressType": "IPv4", "endpoints": []}),
            json!({"metadata": {}, "addressType": "IPv4", "endpoints": null, "ports": null}),
        ),
        (
            "core.v1.LimitRange",
            json!({}),
            json!({"metadata": {}, "spec": {"limits": null}}),
        ),
        (
            "storage.v1.CSINode",
            json!({"spec": {"drivers": []}}),
            json!({"metadata": {}, "spec": {"drivers": null}}),
        ),
        (
            "core.v1.Pod",
            json!({"spec": {"containers": [], "volumes": [{"name": "v", "projected": {}}]},
                "status": {"conditions": [{"type": "Ready", "status": "True", "lastProbeTime": null}]}}),
            json!({"metadata": {}, "spec": {"containers": null, "volumes": [{"name": "v", "projected": {"sources": null}}]},
                "status": {"conditions": [{"type": "Ready", "status": "True", "lastProbeTime": null, "lastTransitionTime": null}]}}),
        ),
        ("core.v1.Pod", json!({"spec": null}), no_container),
        (
            "apps.v1.ControllerRevision",
            json!({"data": null}),
            json!({"metadata": {}, "data": null, "revision": 0}),
        ),
    ] {
        check(builtin(kind), &mut sent).unwrap();
        assert_eq!(sent, stored, "{kind}");
        let mut again = sent.clone();
        check(builtin(kind), &mut again).unwrap();
        assert_eq!(again, sent, "{kind}");
        complete(builtin(kind), &mut again);
        assert_eq!(again, sent, "{kind}");
    }
    let mut budget = json!({"metadata": {"name": "b"}, "spec": {}, "status": {"expectedPods": 2}});
    complete(builtin("policy.v1.PodDisruptionBudget"), &mut budget);
    assert_eq!(
        budget["status"],
        json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 2})
    );
}

/// Definitions are stored as JSON, in which an empty list is not null.
#[test]
fn definitions_keep_empty_lists() {
    let ty = Schema::builtin()
        .definition(
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
        )
        .unwrap();
    let mut object = json!({
        "spec": {"preserveUnknownFields": false, "names": {"plural": "as", "kind": "A", "singular": ""},
            "versions": [{"name": "v1", "served": true, "storage": false, "deprecated": false,
                "schema": {"openAPIV3Schema": {"type": "object", "description": "", "nullable": false,
                    "properties": {"a": {"type": "string", "minLength": 0, "x-kubernetes-int-or-string": false}}}}}]},
        "status": {"conditions": []}});
    check(ty, &mut object).unwrap();
    assert_eq!(
        object,
        json!({"metadata": {},
            "spec": {"group": "", "scope": "", "names": {"plural": "as", "kind": "A"},
                "versions": [{"name": "v1", "served": true, "storage": false,
                    "schema": {"openAPIV3Schema": {"type": "object",
                        "properties": {"a": {"type": "string", "minLength": 0}}}}}]},
            "status": {"acceptedNames": {"plural": "", "kind": ""}, "conditions": [], "storedVersions": null}})
    );
}

#[test]
fn prunes_custom_resources() {
    let schema = Structural::root(
        &json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "n": {"type": "integer"}, "maybe": {"type": "string", "nullable": true},
        "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}}}}}}),
    );
    let mut object = json!({"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "n", "zzz": 1},
        "spec": {"n": 1.0, "maybe": null, "open": {"x": {"y": null}}, "list": [{"a": "b", "c": 1}], "un": 1}, "status": {}});
    let messages = check(&schema, &mut object).unwrap();
    assert_eq!(
        messages,
        [
            r#"unknown field "metadata.zzz""#,
            r#"unknown field "spec.list[0].c""#,
            r#"unknown field "spec.un""#,
            r#"unknown field "status""#
        ]
    );
    assert_eq!(
        object["spec"],
        json!({"n": 1, "maybe": null, "open": {"x": {"y": null}}, "list": [{"a": "b"}]})
    );
}

#[test]
fn whole_numbers_have_no_point() {
    let schema = Structural::root(
        &json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "n": {"type": "number"}, "i": {"type": "integer"},
        "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}),
    );
    let mut object = json!({"spec": {"n": 1.0, "i": 1e3, "any": {"a": [2.0, 2.5, 1e300]}}});
    check(&schema, &mut object).unwrap();
    assert_eq!(
        object["spec"].to_string(),
        r#"{"any":{"a":[2,2.5,1e+300]},"i":1000,"n":1}"#
    );
    let ty = Schema::builtin()
        .definition("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps")
        .unwrap();
    let mut schema = json!({"default": 1.0, "enum": [1e3, "x"], "example": {"a": 1.5}});
    check(ty, &mut schema).unwrap();
    assert_eq!(
        schema.to_string(),
        r#"{"default":1,"enum":[1000,"x"],"example":{"a":1.5}}"#
    );
}

#[test]
fn wrong_types_of_custom_resources_are_left_to_validation() {
    let schema = Structural::root(
        &json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "n": {"type": "integer", "format": "int32"}, "s": {"type": "string", "format": "byte"},
        "l": {"type": "array", "items": {"type": "boolean"}}}}}}),
    );
    let spec = json!({"n": "x", "s": "!", "l": {"a": 1}});
    let mut object =
        json!({"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "n"}, "spec": spec});
    assert_eq!(check(&schema, &mut object).unwrap(), Vec::<String>::new());
    assert_eq!(object["spec"], spec);
    object["metadata"]["name"] = json!(1);
    assert!(check(&schema, &mut object).is_err());
}

proptest! {
    #![proptest_config(crate::testing::config())]

    #[test]
    fn parsers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[\\[\\]{}:,&*a\" \n0-9-]{0,80}") {
        let _ = parse_json(&bytes);
        let _ = parse_yaml(&bytes);
        let _ = parse_json(text.as_bytes());
        let _ = parse_yaml(text.as_bytes());
    }

    #[test]
    fn doubles_survive_json_and_yaml(bits in any::<u64>()) {
        let number = f64::from_bits(bits);
        if let Some(number) = serde_json::Number::from_f64(number) {
            let object = serde_json::Value::Number(number);
            prop_assert_eq!(parse_json(&crate::codec::to_json(&object)).unwrap().0, object.clone());
            // As upstream, what has no fraction becomes an integer.
            let read = parse_yaml(crate::codec::to_yaml(&object).as_bytes()).unwrap().0;
            prop_assert_eq!(read.as_f64(), object.as_f64());
        }
    }

    #[test]
    fn check_is_idempotent_and_never_panics(object in crate::testing::pod_like()) {
        let ty = builtin("core.v1.Pod");
        let mut once = object;
        if check(ty, &mut once).is_ok() {
            let mut twice = once.clone();
            prop_assert_eq!(check(ty, &mut twice).unwrap(), Vec::<String>::new());
            prop_assert_eq!(once, twice);
        }
    }
}
