//! Pools: generations, missing slices, nodes, counters, preparation before pods are bound.

use serde_json::{Value, json};

use super::*;

fn simple() -> Value {
    claim(json!([request("req-0", 1)]))
}

fn one(name: &str, pool: &str) -> Value {
    slice(name, pool, json!([device("device-1")]))
}

fn node_selector(case: &Case) -> Value {
    let results = case.results().unwrap().unwrap();
    serde_json::to_value(&results[0].node_selector).unwrap()
}

#[test]
fn generations() {
    let split = |name: &str, device_name: &str| {
        of_count(slice(name, "pool-1", json!([device(device_name)])), 1, 2)
    };
    let elsewhere = |slice: Value| spec(slice, "nodeName", json!("node-2"));
    let twice = slice(
        "slice-1",
        "pool-1",
        json!([device("device-1"), device("device-1")]),
    );
    check(&[
        (
            "devices of several slices",
            Case::of(
                &[claim(json!([request("req-0", 2)]))],
                &[split("slice-1", "device-1"), split("slice-2", "device-2")],
            ),
            "req-0=pool-1/device-1 req-0=pool-1/device-2",
        ),
        (
            "an old slice",
            Case::of(
                &[simple()],
                &[
                    one("slice-1", "pool-1"),
                    of_count(
                        slice("slice-2", "pool-1", json!([device("device-2")])),
                        2,
                        1,
                    ),
                ],
            ),
            "req-0=pool-1/device-2",
        ),
        (
            "an incomplete pool",
            Case::of(&[simple()], &[of_count(one("slice-1", "pool-1"), 1, 2)]),
            "-",
        ),
        (
            "a pool of several nodes",
            Case::of(
                &[simple()],
                &[
                    split("slice-1", "device-1"),
                    elsewhere(split("slice-2", "device-2")),
                ],
            ),
            "req-0=pool-1/device-1",
        ),
        (
            "a pool that left the node",
            Case::of(
                &[simple()],
                &[
                    of_count(one("slice-1", "pool-1"), 1, 2),
                    elsewhere(of_count(one("slice-2", "pool-1"), 2, 1)),
                ],
            ),
            "-",
        ),
        (
            "an invalid pool",
            Case::of(&[simple()], std::slice::from_ref(&twice)),
            "invalid resource pools were encountered",
        ),
        (
            "an invalid pool beside a valid one",
            Case::of(&[simple()], &[twice, one("slice-2", "pool-2")]),
            "req-0=pool-2/device-1",
        ),
        (
            "all combinations of one request",
            Case::of(
                &[claim(json!([with(
                    request("req-0", 2),
                    "selectors",
                    json!([{"cel": {"expression": "device.driver == 'driver-a'"}}])
                )]))],
                &[slice(
                    "slice-1",
                    "pool-1",
                    json!([device("a"), device("b"), device("c")]),
                )],
            )
            .without("pool-1", "a"),
            "req-0=pool-1/b req-0=pool-1/c",
        ),
    ]);
}

#[test]
fn nodes() {
    let everywhere = |slice: Value| {
        let mut slice = spec(slice, "allNodes", json!(true));
        slice["spec"].as_object_mut().unwrap().remove("nodeName");
        slice
    };
    let region = || at_label(one("slice-1", "pool-1"), "region", "region-1");
    let case = Case::of(&[simple()], &[region()]);
    let of_region = json!({"key": "region", "operator": "In", "values": ["region-1"]});
    let of_planet = json!({"key": "planet", "operator": "In", "values": ["earth"]});
    let local = json!({"nodeSelectorTerms": [{"matchFields":
        [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}]});
    let want = json!({"nodeSelectorTerms": [{"matchExpressions": [of_region.clone()]}]});
    assert_eq!(node_selector(&case), want);
    assert_eq!(Case::of(&[simple()], &[region()]).on_node(2).told(), "-");
    let slices = [
        region(),
        everywhere(one("slice-1", "pool-2")),
        at_label(one("slice-1", "pool-3"), "planet", "earth"),
    ];
    let case = Case::of(&[claim(json!([request("req-0", 3)]))], &slices);
    let want = json!({"nodeSelectorTerms": [{"matchExpressions": [of_region, of_planet]}]});
    assert_eq!(node_selector(&case), want);
    let case = Case::of(
        &[claim(json!([request("req-0", 2)]))],
        &[region(), one("slice-1", "pool-2")],
    );
    assert_eq!(node_selector(&case), local);
    let case = Case::of(&[simple()], &[everywhere(one("slice-1", "pool-1"))]);
    assert_eq!(node_selector(&case), Value::Null);
    let binds = json!([{"name": "device-1", "bindsToNode": true}]);
    let case = Case::of(
        &[simple()],
        &[at_label(
            slice("slice-1", "pool-1", binds),
            "planet",
            "earth",
        )],
    );
    assert_eq!(node_selector(&case), local);
    let mut per_device = spec(
        slice(
            "slice-1",
            "pool-1",
            json!([
            {"name": "device-1", "nodeName": "node-2"}, {"name": "device-2", "nodeName": "node-1"}]),
        ),
        "perDeviceNodeSelection",
        json!(true),
    );
    per_device["spec"]
        .as_object_mut()
        .unwrap()
        .remove("nodeName");
    let case = Case::of(&[simple()], &[per_device]);
    assert_eq!(case.told(), "req-0=pool-1/device-2");
    assert_eq!(node_selector(&case), local);
}

fn counting(name: &str, memory: &str) -> Value {
    json!({"name": name, "capacity": {"memory": {"value": memory}}, "consumesCounters":
        [{"counterSet": "set-1", "counters": {"memory": {"value": memory}}}]})
}

fn partitions(devices: Value) -> [Value; 2] {
    let devices = of_count(slice("slice-1", "pool-1", devices), 1, 2);
    let mut counters = of_count(slice("slice-2", "pool-1", json!([])), 1, 2);
    counters["spec"]["sharedCounters"] = json!([{"name": "set-1",
        "counters": {"memory": {"value": "8Gi"}, "unused": {"value": "1Gi"}}}]);
    [devices, counters]
}

#[test]
fn counters() {
    let some = || {
        partitions(json!([
            counting("device-1", "5Gi"),
            counting("device-2", "4Gi"),
            counting("device-3", "4Gi")
        ]))
    };
    let list = first(
        "req-1",
        json!([
            memory(sub("sub-0", "class-a", 1), "6Gi"),
            memory(sub("sub-1", "class-a", 1), "4Gi"),
        ]),
    );
    let unknown = json!([{"name": "device-1", "consumesCounters":
        [{"counterSet": "odd", "counters": {"memory": {"value": "1"}}}]}]);
    check(&[
        (
            "a single device",
            Case::of(
                &[simple()],
                &partitions(json!([counting("device-1", "4Gi")])),
            ),
            "req-0=pool-1/device-1",
        ),
        (
            "all devices",
            Case::of(
                &[claim(json!([all("req-0")]))],
                &partitions(json!([counting("device-1", "4Gi")])),
            ),
            "req-0=pool-1/device-1",
        ),
        (
            "two that fit together",
            Case::of(&[claim(json!([request("req-0", 2)]))], &some()),
            "req-0=pool-1/device-2 req-0=pool-1/device-3",
        ),
        (
            "alternatives",
            Case::of(
                &[claim(json!([request("req-0", 1), list]))],
                &partitions(json!([
                    counting("device-1", "4Gi"),
                    counting("device-2", "6Gi"),
                    counting("device-3", "4Gi")
                ])),
            ),
            "req-0=pool-1/device-1 req-1/sub-1=pool-1/device-3",
        ),
        (
            "what claims consume",
            Case::of(&[simple()], &some()).without("pool-1", "device-1"),
            "-",
        ),
        (
            "an unknown set",
            Case::of(&[simple()], &partitions(unknown)),
            "invalid resource pools were encountered",
        ),
    ]);
    let [devices, counters] = partitions(json!([counting("device-1", "5Gi")]));
    let elsewhere = slice("slice-3", "pool-1", json!([counting("device-9", "4Gi")]));
    let elsewhere = spec(elsewhere, "nodeName", json!("node-2"));
    let slices = [devices, counters, elsewhere].map(|slice| of_count(slice, 1, 3));
    let case = Case::of(&[simple()], &slices).without("pool-1", "device-9");
    assert_eq!(
        case.told(),
        "-",
        "a device on another node consumes the counters"
    );
}

#[test]
fn devices_that_are_ready_come_first() {
    let late = json!([{"name": "device-1", "bindingConditions": ["IsPrepared"],
        "bindingFailureConditions": ["Failed"]}]);
    let slices = [slice("slice-1", "pool-1", late), one("slice-1", "pool-2")];
    assert_eq!(
        Case::of(&[simple()], &slices).told(),
        "req-0=pool-2/device-1"
    );
    let case = Case::of(&[simple()], &slices[..1]);
    let results = case.results().unwrap().unwrap();
    let device = &results[0]
        .devices
        .as_ref()
        .unwrap()
        .results
        .as_ref()
        .unwrap()[0];
    assert_eq!(
        device.binding_conditions.as_deref().unwrap(),
        ["IsPrepared"]
    );
    assert_eq!(
        device.binding_failure_conditions.as_deref().unwrap(),
        ["Failed"]
    );
}
