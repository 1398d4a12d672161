//! Requests for a number of devices or all of them, access for administrators, taints, constraints
//! and configurations.

use serde_json::{Value, json};

use super::*;

fn two() -> Value {
    slice(
        "slice-1",
        "pool-1",
        json!([device("device-1"), device("device-2")]),
    )
}

fn one(pool: &str) -> Value {
    slice("slice-1", pool, json!([device("device-1")]))
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn counted_devices() {
    let small = || memory(request("req-0", 1), "1Gi");
    let large = || memory(request("req-1", 1), "2Gi");
    let sizes = |a: &str, b: &str| {
        let size = |name: &str| sized(name, if name == "device-1" { "1Gi" } else { "2Gi" });
        slice("slice-1", "pool-1", json!([size(a), size(b)]))
    };
    let simple = || claim(json!([request("req-0", 1)]));
    let many: Vec<Value> = (0..33).map(|i| device(&format!("device-{i}"))).collect();
    let many = slice("slice-1", "pool-1", json!(many));
    let missing = with(request("req-0", 1), "deviceClassName", json!("class-c"));
    check(&[
        ("nothing", Case::of(&[], &[]), ""),
        (
            "simple",
            Case::of(&[simple()], &[one("pool-1")]),
            "req-0=pool-1/device-1",
        ),
        (
            "other node",
            Case::of(&[simple()], &[one("pool-1")]).on_node(2),
            "-",
        ),
        (
            "other driver",
            Case::of(
                &[simple()],
                &[spec(one("pool-1"), "driver", json!("driver-b"))],
            ),
            "-",
        ),
        ("no slices", Case::of(&[simple()], &[]), "-"),
        (
            "small and large",
            Case::of(
                &[claim(json!([small(), large()]))],
                &[sizes("device-1", "device-2")],
            ),
            "req-0=pool-1/device-1 req-1=pool-1/device-2",
        ),
        (
            "back-tracking over requests",
            Case::of(
                &[claim(json!([small(), large()]))],
                &[sizes("device-2", "device-1")],
            ),
            "req-0=pool-1/device-1 req-1=pool-1/device-2",
        ),
        (
            "back-tracking over claims",
            Case::of(
                &[claim(json!([small()])), claim(json!([large()]))],
                &[sizes("device-2", "device-1")],
            ),
            "req-0=pool-1/device-1 | req-1=pool-1/device-2",
        ),
        (
            "already allocated",
            Case::of(&[simple()], &[two()])
                .without("pool-1", "device-1")
                .without("pool-1", "device-2"),
            "-",
        ),
        (
            "not enough",
            Case::of(&[claim(json!([request("req-0", 3)]))], &[two()]),
            "-",
        ),
        (
            "unknown class",
            Case::of(&[claim(json!([missing]))], &[one("pool-1")]),
            "claim claim-0, request req-0: could not retrieve device class class-c: deviceclass.resource.k8s.io \"class-c\" not found",
        ),
        (
            "too many of one request",
            Case::of(&[claim(json!([request("req-0", 500)]))], &[]),
            "claim claim-0: number of requested devices 500 exceeds the claim limit of 32",
        ),
        (
            "as many as possible",
            Case::of(&[claim(json!([request("req-0", 32)]))], &[]),
            "-",
        ),
        (
            "too many of all requests",
            Case::of(
                &[claim(json!([request("req-0", 32), request("req-1", 1)]))],
                &[many],
            ),
            "claim claim-0: number of requested devices 33 exceeds the claim limit of 32",
        ),
        (
            "unknown mode",
            Case::of(
                &[claim(json!([with(
                    request("req-0", 1),
                    "allocationMode",
                    json!("Odd")
                )]))],
                &[one("pool-1")],
            ),
            "claim claim-0, request req-0: unsupported count mode Odd",
        ),
        (
            "unknown selector",
            Case::of(
                &[claim(json!([with(
                    request("req-0", 1),
                    "selectors",
                    json!([{}])
                )]))],
                &[one("pool-1")],
            ),
            "claim claim-0, request req-0: selector #0: CEL expression empty (unsupported selector type?)",
        ),
    ]);
}

#[test]
fn all_devices() {
    let wanted = || claim(json!([all("req-0")]));
    let single = || claim(json!([request("req-0", 1)]));
    check(&[
        (
            "single",
            Case::of(&[wanted()], &[one("pool-1")]),
            "req-0=pool-1/device-1",
        ),
        (
            "of several pools",
            Case::of(&[wanted()], &[one("pool-1"), one("pool-2")]),
            "req-0=pool-1/device-1 req-0=pool-2/device-1",
        ),
        (
            "none",
            Case::of(&[wanted()], &[slice("slice-1", "pool-1", json!([]))]),
            "-",
        ),
        ("no slices", Case::of(&[wanted()], &[]), "-"),
        (
            "some allocated",
            Case::of(&[wanted()], &[two()]).without("pool-1", "device-1"),
            "-",
        ),
        (
            "no solution",
            Case::of(&[single(), wanted()], &[one("pool-1")]),
            "-",
        ),
        (
            "no solution, reversed",
            Case::of(&[wanted(), single()], &[one("pool-1")]),
            "-",
        ),
        (
            "of a pool that changes",
            Case::of(&[wanted()], &[of_count(one("pool-1"), 1, 2)]),
            "claim claim-0, request req-0: asks for all devices, but resource pool driver-a/pool-1 is currently being updated",
        ),
    ]);
}

#[test]
fn administrators() {
    let admin = |request: Value| with(request, "adminAccess", json!(true));
    let single = || claim(json!([admin(request("req-0", 1))]));
    check(&[
        (
            "all, some allocated",
            Case::of(&[claim(json!([admin(all("req-0"))]))], &[two()])
                .without("pool-1", "device-1"),
            "req-0=pool-1/device-1! req-0=pool-1/device-2!",
        ),
        (
            "all, some taken by the same claim",
            Case::of(
                &[claim(json!([
                    admin(request("req-0", 1)),
                    admin(all("req-1"))
                ]))],
                &[two()],
            ),
            "-",
        ),
        (
            "a number, some allocated",
            Case::of(&[claim(json!([admin(request("req-0", 2))]))], &[two()])
                .without("pool-1", "device-1"),
            "req-0=pool-1/device-1! req-0=pool-1/device-2!",
        ),
        (
            "two claims share a device",
            Case::of(&[single(), single()], &[two()]),
            "req-0=pool-1/device-1! | req-0=pool-1/device-1!",
        ),
        (
            "beside a claim that is being allocated",
            Case::of(&[claim(json!([request("req-0", 1)])), single()], &[two()]),
            "req-0=pool-1/device-1 | req-0=pool-1/device-1!",
        ),
    ]);
}

#[test]
fn taints() {
    let taint = |effect: &str| json!({"key": "k", "value": "v", "effect": effect});
    let tainted = |name: &str, taints: Value| json!({"name": name, "taints": taints});
    let both = || {
        slice(
            "slice-1",
            "pool-1",
            json!([
                tainted("device-1", json!([taint("NoSchedule")])),
                tainted("device-2", json!([taint("NoExecute")])),
            ]),
        )
    };
    let tolerate =
        || json!([{"key": "k", "operator": "Equal", "value": "v", "effect": "NoExecute"}]);
    let tolerant = || with(request("req-0", 1), "tolerations", tolerate());
    let none = slice(
        "slice-1",
        "pool-1",
        json!([tainted("device-1", json!([taint("None")]))]),
    );
    let lists = first(
        "req-0",
        json!([
            sub("sub-0", "class-a", 1),
            with(sub("sub-1", "class-a", 1), "tolerations", tolerate()),
        ]),
    );
    check(&[
        (
            "two devices",
            Case::of(&[claim(json!([request("req-0", 1)]))], &[both()]),
            "-",
        ),
        (
            "one tolerated",
            Case::of(&[claim(json!([tolerant()]))], &[both()]),
            "req-0=pool-1/device-2",
        ),
        (
            "tolerated by the second alternative",
            Case::of(&[claim(json!([lists]))], &[both()]),
            "req-0/sub-1=pool-1/device-2",
        ),
        (
            "without effect",
            Case::of(&[claim(json!([request("req-0", 1)]))], &[none]),
            "req-0=pool-1/device-1",
        ),
        (
            "for administrators as well",
            Case::of(
                &[claim(json!([with(
                    request("req-0", 1),
                    "adminAccess",
                    json!(true)
                )]))],
                &[both()],
            ),
            "-",
        ),
    ]);
}

#[test]
fn constraints() {
    let of = |name: &str, numa: i64, text: &str, version: &str| {
        json!({"name": name, "attributes": {"numa": {"int": numa},
            "text": {"string": text}, "driver-a/version": {"version": version}}})
    };
    let three = || {
        slice(
            "slice-1",
            "pool-1",
            json!([
                of("device-1", 1, "a", "1.0.0"),
                of("device-2", 2, "b", "2.0.0"),
                of("device-3", 3, "b", "3.0.0"),
            ]),
        )
    };
    let equal = |attribute: &str| json!({"matchAttribute": format!("driver-a/{attribute}")});
    let both = || json!([request("req-0", 1), request("req-1", 1)]);
    let for_first = json!({"requests": ["req-0"], "matchAttribute": "driver-a/version"});
    let distinct = json!([{"distinctAttribute": "driver-a/text"}]);
    check(&[
        (
            "equal",
            Case::of(&[constrained(both(), json!([equal("text")]))], &[three()]),
            "req-0=pool-1/device-2 req-1=pool-1/device-3",
        ),
        (
            "different",
            Case::of(&[constrained(both(), json!([equal("numa")]))], &[three()]),
            "-",
        ),
        (
            "missing",
            Case::of(&[constrained(both(), json!([equal("odd")]))], &[three()]),
            "-",
        ),
        (
            "for a request",
            Case::of(
                &[constrained(both(), json!([for_first.clone()]))],
                &[three()],
            ),
            "req-0=pool-1/device-1 req-1=pool-1/device-2",
        ),
        (
            "for a request, with back-tracking",
            Case::of(
                &[constrained(both(), json!([for_first, equal("text")]))],
                &[three()],
            ),
            "req-0=pool-1/device-2 req-1=pool-1/device-3",
        ),
        (
            "of all devices",
            Case::of(
                &[constrained(json!([all("req-0")]), json!([equal("numa")]))],
                &[three()],
            ),
            "claim claim-0, request req-0: cannot add device driver-a/pool-1/device-2 because a claim constraint would not be satisfied",
        ),
        (
            "distinct",
            Case::of(&[constrained(both(), distinct)], &[three()]),
            "req-0=pool-1/device-1 req-1=pool-1/device-2",
        ),
        (
            "of an unknown kind",
            Case::of(&[constrained(both(), json!([{}]))], &[three()]),
            "claim claim-0, constraint #0: empty constraint (unsupported constraint type?)",
        ),
    ]);
}

#[test]
fn expressions() {
    let selected = |expression: &str| {
        let selectors = json!([{"cel": {"expression": expression}}]);
        Case::of(
            &[claim(json!([with(
                request("req-0", 1),
                "selectors",
                selectors
            )]))],
            &[slice(
                "slice-1",
                "pool-1",
                json!([{"name": "device-1",
                "attributes": {"model": {"string": "x"}, "other.io/n": {"int": 3},
                    "v": {"version": "1.2.3"}, "ok": {"bool": true}},
                "capacity": {"memory": {"value": "8Gi"}}}]),
            )],
        )
    };
    let found = "req-0=pool-1/device-1";
    for (expression, want) in [
        ("device.attributes[\"driver-a\"].model == \"x\"", found),
        ("device.attributes[\"other.io\"].n > 2", found),
        ("device.attributes[\"driver-a\"].ok", found),
        (
            "device.attributes[\"driver-a\"].v.isGreaterThan(semver(\"1.0.0\"))",
            found,
        ),
        (
            "device.capacity[\"driver-a\"].memory.compareTo(quantity(\"8Gi\")) == 0",
            found,
        ),
        // An unknown domain is empty, so that only its attributes are missing.
        ("has(device.attributes[\"no.domain\"].x)", "-"),
        ("\"no.domain\" in device.attributes", "-"),
        ("!device.allowMultipleAllocations", found),
    ] {
        assert_eq!(selected(expression).told(), want, "{expression}");
    }
    let told = selected("device.attributes[\"no.domain\"].x == 1").told();
    assert_eq!(
        told,
        "claim claim-0: selector #0: CEL runtime error: no such key: x"
    );
    let told = selected("noSuchVar").told();
    assert!(told.starts_with("claim claim-0: selector #0: CEL compile error: compilation failed: ERROR: <input>:1:1: undeclared reference"), "{told}");
    let class = class("class-c", "noSuchVar");
    let claim = claim(json!([with(
        request("req-0", 1),
        "deviceClassName",
        json!("class-c")
    )]));
    let told = Case::of(&[claim], &[one("pool-1")])
        .with_class(class)
        .told();
    assert!(
        told.starts_with("class class-c: selector #0: CEL compile error: "),
        "{told}"
    );
}

#[test]
fn configurations() {
    let opaque = |name: &str| json!({"driver": "driver-a", "parameters": {name: "value"}});
    let mut with_config = class("class-c", "true");
    with_config["spec"]["config"] = json!([{"opaque": opaque("class")}]);
    let of_class = |name: &str| with(request(name, 1), "deviceClassName", json!("class-c"));
    let mut claim = claim(json!([of_class("req-0"), of_class("req-1")]));
    claim["spec"]["devices"]["config"] = json!([{"opaque": opaque("all")},
        {"requests": ["req-1"], "opaque": opaque("one")}]);
    let results = Case::of(&[claim], &[two()])
        .with_class(with_config)
        .results();
    let results = results.unwrap().unwrap();
    let config = results[0]
        .devices
        .as_ref()
        .unwrap()
        .config
        .as_ref()
        .unwrap();
    let want = json!([
        {"source": "FromClass", "requests": ["req-0", "req-1"], "opaque": opaque("class")},
        {"source": "FromClaim", "opaque": opaque("all")},
        {"source": "FromClaim", "requests": ["req-1"], "opaque": opaque("one")},
    ]);
    assert_eq!(serde_json::to_value(config).unwrap(), want);
}
