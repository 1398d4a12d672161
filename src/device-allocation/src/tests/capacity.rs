//! Devices that claims share.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use serde_json::{Value, json};

use super::*;

fn shared(name: &str, capacity: Value) -> Value {
    json!({"name": name, "allowMultipleAllocations": true, "capacity": {"capacity-0": capacity}})
}

fn range(value: &str) -> Value {
    json!({"value": value, "requestPolicy": {"default": "2",
        "validRange": {"min": "2", "step": "2", "max": "4"}}})
}

fn values(value: &str, default: &str, valid: &[&str]) -> Value {
    json!({"value": value, "requestPolicy": {"default": default, "validValues": valid}})
}

fn wants(amount: &str) -> Value {
    let capacity = json!({"requests": {"capacity-0": amount}});
    claim(json!([with(request("req-0", 1), "capacity", capacity)]))
}

fn anything() -> Value {
    claim(json!([request("req-0", 1)]))
}

fn on(devices: Value) -> [Value; 1] {
    [slice("slice-1", "pool-1", devices)]
}

fn consumed(mut case: Case, amount: &str) -> Case {
    let id = DeviceId::new("driver-a", "pool-1", "device-1");
    let amount = Text(amount.to_owned());
    case.allocated.consume(id, [("capacity-0", &amount)]);
    case
}

#[test]
fn consumable_capacity() {
    let plain = |value: &str| json!({"value": value});
    let one = |capacity: Value| on(json!([shared("device-1", capacity)]));
    let both = "req-0=pool-1/device-1:2 | req-0=pool-1/device-1:2";
    let other = with(
        request("req-0", 1),
        "capacity",
        json!({"requests": {"capacity-1": "1"}}),
    );
    check(&[
        (
            "all of it without a request",
            Case::of(&[anything(), anything()], &one(plain("2"))),
            "-",
        ),
        (
            "by request",
            Case::of(&[wants("1"), wants("1")], &one(plain("2"))),
            "req-0=pool-1/device-1:1 | req-0=pool-1/device-1:1",
        ),
        (
            "by default",
            Case::of(&[anything(), anything()], &one(range("4"))),
            both,
        ),
        (
            "rounded up to the minimum",
            Case::of(&[wants("1"), wants("1")], &one(range("4"))),
            both,
        ),
        (
            "rounded up by steps",
            Case::of(&[wants("3")], &one(range("4"))),
            "req-0=pool-1/device-1:4",
        ),
        (
            "over the maximum",
            Case::of(&[wants("5")], &one(range("8"))),
            "-",
        ),
        (
            "zero by default",
            Case::of(&[anything(), anything()], &one(values("1", "0", &["0"]))),
            "req-0=pool-1/device-1:0 | req-0=pool-1/device-1:0",
        ),
        (
            "a value that is not valid",
            Case::of(&[wants("1")], &one(values("1", "0", &["0"]))),
            "-",
        ),
        (
            "rounded up to a valid value",
            Case::of(&[wants("3")], &one(values("8", "1", &["1", "4"]))),
            "req-0=pool-1/device-1:4",
        ),
        (
            "more than there is",
            Case::of(&[wants("5")], &one(plain("4"))),
            "-",
        ),
        (
            "the rest",
            consumed(Case::of(&[wants("2")], &one(range("4"))), "2"),
            "req-0=pool-1/device-1:2",
        ),
        (
            "the next device",
            consumed(
                Case::of(
                    &[wants("2")],
                    &on(json!([
                        shared("device-1", range("2")),
                        shared("device-2", range("2"))
                    ])),
                ),
                "2",
            ),
            "req-0=pool-1/device-2:2",
        ),
        (
            "a capacity that the device lacks",
            Case::of(&[claim(json!([other]))], &one(plain("4"))),
            "-",
        ),
        (
            "of a device that is not shared",
            Case::of(
                &[wants("1")],
                &on(json!([{"name": "device-1", "capacity": {"capacity-0": {"value": "2"}}}])),
            ),
            "req-0=pool-1/device-1",
        ),
        (
            "a dedicated device that became shared",
            Case::of(&[wants("1")], &one(plain("2"))).without("pool-1", "device-1"),
            "-",
        ),
    ]);
}
