//! Requests with alternatives.

use serde_json::json;

use super::*;

#[test]
fn alternatives() {
    let one = || slice("slice-1", "pool-1", json!([device("device-1")]));
    let two = || {
        slice(
            "slice-1",
            "pool-1",
            json!([device("device-1"), device("device-2")]),
        )
    };
    let sizes = || {
        [
            slice("slice-1", "pool-1", json!([sized("device-1", "8Gi")])),
            slice("slice-2", "pool-2", json!([sized("device-2", "4Gi")])),
        ]
    };
    let of_sizes = json!([
        memory(sub("sub-0", "class-a", 1), "8Gi"),
        memory(sub("sub-1", "class-a", 1), "4Gi"),
    ]);
    let all_or_one = json!([
        with(sub("sub-0", "class-a", 0), "allocationMode", json!("All")),
        sub("sub-1", "class-a", 1),
    ]);
    let b_or_a = |count: i64| json!([sub("sub-0", "class-b", count), sub("sub-1", "class-a", 1)]);
    let version = |name: &str, version: &str| json!({"name": name, "attributes": {"v": {"version": version}}});
    let versions = [slice(
        "slice-1",
        "pool-1",
        json!([version("device-1", "1.0.0"), version("device-2", "2.0.0")]),
    )];
    let same_version =
        json!([{"requests": ["req-0", "req-1/sub-0"], "matchAttribute": "driver-a/v"}]);
    let two_of_a = json!([sub("sub-0", "class-a", 1), sub("sub-1", "class-a", 1)]);
    check(&[
        (
            "the first is not available",
            Case::of(&[claim(json!([first("req-0", b_or_a(1))]))], &[one()]),
            "req-0/sub-1=pool-1/device-1",
        ),
        (
            "none is",
            Case::of(&[claim(json!([first("req-0", b_or_a(1))]))], &[]),
            "-",
        ),
        (
            "the first wants too many",
            Case::of(&[claim(json!([first("req-0", b_or_a(500))]))], &[one()]),
            "req-0/sub-1=pool-1/device-1",
        ),
        (
            "not all are free",
            Case::of(&[claim(json!([first("req-0", all_or_one)]))], &[two()])
                .without("pool-1", "device-1"),
            "req-0/sub-1=pool-1/device-2",
        ),
        (
            "back-tracking",
            Case::of(
                &[claim(json!([
                    first("req-0", of_sizes),
                    memory(request("req-1", 1), "8Gi")
                ]))],
                &sizes(),
            ),
            "req-0/sub-1=pool-2/device-2 req-1=pool-1/device-1",
        ),
        (
            "a constraint for one of them",
            Case::of(
                &[constrained(
                    json!([request("req-0", 1), first("req-1", two_of_a)]),
                    same_version,
                )],
                &versions,
            ),
            "req-0=pool-1/device-1 req-1/sub-1=pool-1/device-2",
        ),
    ]);
}
