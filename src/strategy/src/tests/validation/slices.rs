//! Endpoint slices, service CIDRs, addresses and ingress classes.

use serde_json::{Value, json};

use super::{Case, assert_create, assert_item, assert_update};

const SLICE: (&str, &str) = ("discovery.k8s.io", "EndpointSlice");
const GROUP: &str = "networking.k8s.io";

fn slice() -> Value {
    json!({
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 80}],
        "endpoints": [{"addresses": ["10.1.2.3"]}],
    })
}

#[test]
fn endpoints_of_slices() {
    let many: Vec<String> = (0..101).map(|i| format!("10.0.0.{i}")).collect();
    let many = json!({"addresses": many}).to_string();
    let zones = |n: usize| -> Value { (0..n).map(|i| json!({"name": format!("z{i}")})).collect() };
    let eight = json!({"hints": {"forZones": zones(8), "forNodes": zones(8)}}).to_string();
    let nine_zones = json!({"hints": {"forZones": zones(9)}}).to_string();
    let nine_nodes = json!({"hints": {"forNodes": zones(9)}}).to_string();
    let labels: serde_json::Map<String, Value> =
        (0..17).map(|i| (format!("k{i}"), json!("v"))).collect();
    let labels = json!({"deprecatedTopology": labels}).to_string();
    let cases: &[Case<'_>] = &[
        ("{}", ""),
        (r#"{"addresses": []}"#, "Required @.addresses"),
        (&many, "TooMany @.addresses"),
        (r#"{"addresses": ["10.1.2.3", "10.1.2.4"]}"#, ""),
        (r#"{"addresses": ["10.1.2.03"]}"#, "Invalid @.addresses[0]"),
        (
            r#"{"addresses": ["::ffff:1.2.3.4"]}"#,
            "Invalid @.addresses[0]",
        ),
        (r#"{"addresses": ["2001:db8::1"]}"#, "Invalid @.addresses"),
        (
            r#"{"addresses": ["host.example.com"]}"#,
            "Invalid @.addresses[0]",
        ),
        (r#"{"addresses": [""]}"#, "Invalid @.addresses[0]"),
        (r#"{"addresses": ["0.0.0.0"]}"#, "Invalid @.addresses[0]"),
        (
            r#"{"addresses": ["169.254.1.1"]}"#,
            "Invalid @.addresses[0]",
        ),
        (r#"{"nodeName": "node.example.com"}"#, ""),
        (r#"{"nodeName": "INVALID_NODE"}"#, "Invalid @.nodeName"),
        (r#"{"hostname": "h-1"}"#, ""),
        (r#"{"hostname": "a.b"}"#, "Invalid @.hostname"),
        (r#"{"hostname": ""}"#, "Invalid @.hostname"),
        (r#"{"conditions": {"ready": false, "serving": true}}"#, ""),
        (r#"{"deprecatedTopology": {"a": "b"}}"#, ""),
        (
            r#"{"deprecatedTopology": {"--": "b"}}"#,
            "Invalid @.deprecatedTopology",
        ),
        (&labels, "TooMany @.deprecatedTopology"),
        (&eight, ""),
        (&nine_zones, "TooMany @.hints.forZones"),
        (&nine_nodes, "TooMany @.hints.forNodes"),
        (
            r#"{"hints": {"forZones": [{"name": "a"}, {"name": "b"}, {"name": "a"}]}}"#,
            "Duplicate @.hints.forZones[2].name",
        ),
        (
            r#"{"hints": {"forZones": [{"name": "inv@lid"}]}}"#,
            "Invalid @.hints.forZones[0].name",
        ),
        (
            r#"{"hints": {"forNodes": [{"name": "n"}, {"name": "n"}]}}"#,
            "Duplicate @.hints.forNodes[1].name",
        ),
        (
            r#"{"hints": {"forNodes": [{"name": "N"}]}}"#,
            "Invalid @.hints.forNodes[0].name",
        ),
    ];
    let wrap = |endpoint| json!({"endpoints": [endpoint]});
    let item = (json!({"addresses": ["10.1.2.3"]}), "endpoints[0]");
    assert_item(SLICE, slice(), item, wrap, cases);
    let wrap = |endpoint| json!({"addressType": "IPv6", "endpoints": [endpoint]});
    let cases: &[Case<'_>] = &[
        (
            r#"{"addresses": ["2001:db8::1", "2001:DB8:0::2"]}"#,
            "Invalid @.addresses[1]",
        ),
        (r#"{"addresses": ["10.1.2.3"]}"#, "Invalid @.addresses"),
        (r#"{"addresses": ["::1"]}"#, "Invalid @.addresses[0]"),
        (r#"{"addresses": ["fe80::1"]}"#, "Invalid @.addresses[0]"),
        (r#"{"addresses": ["::"]}"#, "Invalid @.addresses[0]"),
        (
            r#"{"addresses": ["::ffff:1.2.3.4"]}"#,
            "Invalid @.addresses[0]",
        ),
        (
            r#"{"addresses": ["2001:db8::1%eth0"]}"#,
            "Invalid @.addresses[0]",
        ),
    ];
    assert_item(SLICE, slice(), (json!({}), "endpoints[0]"), wrap, cases);
    let wrap = |endpoint| json!({"addressType": "FQDN", "endpoints": [endpoint]});
    let cases: &[Case<'_>] = &[
        (r#"{"addresses": ["example.com", "example.com."]}"#, ""),
        (r#"{"addresses": [""]}"#, "Required @.addresses[0]"),
        (r#"{"addresses": ["foo.*"]}"#, "Invalid @.addresses[0]"),
        (r#"{"addresses": ["localhost"]}"#, "Invalid @.addresses[0]"),
        (
            r#"{"addresses": ["underscore_underscore.com"]}"#,
            "Invalid @.addresses[0]",
        ),
    ];
    assert_item(SLICE, slice(), (json!({}), "endpoints[0]"), wrap, cases);
}

#[test]
fn ports_of_slices() {
    let cases: &[Case<'_>] = &[
        (r#"{"ports": []}"#, ""),
        (r#"{"ports": null}"#, ""),
        (r#"{"ports": [{"name": "", "protocol": "SCTP"}]}"#, ""),
        (
            r#"{"ports": [{"name": "a", "protocol": "TCP", "appProtocol": "example.com/p"}]}"#,
            "",
        ),
        (
            r#"{"ports": [{"name": "a", "protocol": "TCP", "appProtocol": "--"}]}"#,
            "Invalid ports[0].appProtocol",
        ),
        (
            r#"{"ports": [{"name": "", "protocol": "TCP"}, {"name": "", "protocol": "UDP"}]}"#,
            "Duplicate ports[1].name",
        ),
        (
            r#"{"ports": [{"name": "a"}]}"#,
            "Required ports[0].protocol",
        ),
        (r#"{"addressType": null}"#, "Required addressType"),
        (r#"{"addressType": "IP"}"#, "NotSupported addressType"),
    ];
    assert_create(SLICE.0, SLICE.1, slice(), cases);
}

/// Endpoints of before are not validated again unless they change.
#[test]
fn loose_endpoints_stay() {
    let mut old = slice();
    old["endpoints"] = json!([{"addresses": ["010.1.2.3"]}]);
    assert_update(
        SLICE.0,
        SLICE.1,
        old,
        &[
            (r#"{"metadata": {"labels": {"a": "b"}}}"#, ""),
            (r#"{"ports": []}"#, ""),
            (
                r#"{"endpoints": [{"addresses": ["010.1.2.3"], "hostname": "h"}]}"#,
                "Invalid endpoints[0].addresses[0]",
            ),
            (r#"{"endpoints": [{"addresses": ["10.1.2.3"]}]}"#, ""),
            (r#"{"addressType": "FQDN"}"#, "Invalid addressType"),
        ],
    );
    assert_update(
        "",
        "Endpoints",
        json!({"subsets": [{"addresses": [{"ip": "010.1.2.3"}], "ports": [{"port": 80}]}]}),
        &[
            (r#"{"metadata": {"labels": {"a": "b"}}}"#, ""),
            (
                r#"{"subsets": [{"addresses": [{"ip": "010.1.2.3"}]}]}"#,
                "Invalid subsets[0].addresses[0].ip",
            ),
        ],
    );
}

#[test]
fn service_cidrs() {
    let cases: &[Case<'_>] = &[
        (r#"{"spec": {"cidrs": ["2001:db8::/64"]}}"#, ""),
        (
            r#"{"spec": {"cidrs": ["2001:db8::/64", "10.0.0.0/16"]}}"#,
            "",
        ),
        (r#"{"spec": {"cidrs": []}}"#, "Required spec.cidrs"),
        (
            r#"{"spec": {"cidrs": ["10.0.0.0/24", "10.0.1.0/24"]}}"#,
            "Invalid spec.cidrs",
        ),
        (
            r#"{"spec": {"cidrs": ["2001:db8::/64", "2001:db9::/64"]}}"#,
            "Invalid spec.cidrs",
        ),
        (
            r#"{"spec": {"cidrs": ["10.0.0.0/24", "nonsense"]}}"#,
            "Invalid spec.cidrs[1]",
        ),
        (
            r#"{"spec": {"cidrs": ["10.0.0.0/24", "2001:db8::/64", "10.1.0.0/24"]}}"#,
            "Invalid spec.cidrs",
        ),
        (
            r#"{"spec": {"cidrs": ["10.0.0.0"]}}"#,
            "Invalid spec.cidrs[0]",
        ),
        (
            r#"{"spec": {"cidrs": ["10.0.0.1/24"]}}"#,
            "Invalid spec.cidrs[0]",
        ),
        (
            r#"{"spec": {"cidrs": ["010.0.0.0/24"]}}"#,
            "Invalid spec.cidrs[0]",
        ),
        (
            r#"{"spec": {"cidrs": ["2001:DB8::/64"]}}"#,
            "Invalid spec.cidrs[0]",
        ),
    ];
    let object = json!({"spec": {"cidrs": ["192.168.0.0/24"]}});
    assert_create(GROUP, "ServiceCIDR", object.clone(), cases);
    assert_update(
        GROUP,
        "ServiceCIDR",
        object,
        &[
            (r#"{"metadata": {"labels": {"a": "b"}}}"#, ""),
            (
                r#"{"spec": {"cidrs": ["192.168.0.0/24", "2001:db8::/64"]}}"#,
                "",
            ),
            (
                r#"{"spec": {"cidrs": ["192.168.1.0/24", "2001:db8::/64"]}}"#,
                "Invalid spec.cidrs[0]",
            ),
            (
                r#"{"spec": {"cidrs": ["2001:db8::/64"]}}"#,
                "Invalid spec.cidrs[0]",
            ),
            (r#"{"spec": {"cidrs": null}}"#, "Invalid spec.cidrs"),
        ],
    );
}

#[test]
fn addresses() {
    let parent = json!({"group": "", "resource": "services", "name": "s", "namespace": "n"});
    let object = json!({"metadata": {"name": "192.168.1.1"}, "spec": {"parentRef": parent}});
    let cases: &[Case<'_>] = &[
        (r#"{"metadata": {"name": "2001:db8::1"}}"#, ""),
        (
            r#"{"metadata": {"name": "2001:DB8::1"}}"#,
            "Invalid metadata.name",
        ),
        (
            r#"{"metadata": {"name": "2001:db8:0:0::1"}}"#,
            "Invalid metadata.name",
        ),
        (
            r#"{"metadata": {"name": "192.168.01.1"}}"#,
            "Invalid metadata.name",
        ),
        (
            r#"{"metadata": {"name": "::ffff:1.2.3.4"}}"#,
            "Invalid metadata.name",
        ),
        (r#"{"spec": {"parentRef": {"namespace": ""}}}"#, ""),
        (
            r#"{"spec": {"parentRef": {"group": "gateway.example"}}}"#,
            "",
        ),
        (
            r#"{"spec": {"parentRef": {"group": "a b"}}}"#,
            "Invalid spec.parentRef.group",
        ),
        (
            r#"{"spec": {"parentRef": {"resource": "a/b", "name": "..", "namespace": "%"}}}"#,
            "Invalid spec.parentRef.resource, Invalid spec.parentRef.name, Invalid spec.parentRef.namespace",
        ),
    ];
    assert_create(GROUP, "IPAddress", object.clone(), cases);
    assert_update(
        GROUP,
        "IPAddress",
        object,
        &[
            (r#"{"metadata": {"labels": {"a": "b"}}}"#, ""),
            (
                r#"{"spec": {"parentRef": {"name": "t"}}}"#,
                "Invalid spec.parentRef",
            ),
        ],
    );
}

#[test]
fn ingress_classes() {
    let parameters = json!({"apiGroup": "g.example", "kind": "K", "name": "n"});
    let object = json!({"spec": {"controller": "a.b/c", "parameters": parameters}});
    let long = json!({"spec": {"controller": format!("a.b/{}", "c".repeat(247))}}).to_string();
    let cases: &[Case<'_>] = &[
        (r#"{"spec": {"parameters": null}}"#, ""),
        (r#"{"spec": {"parameters": {"apiGroup": null}}}"#, ""),
        (
            r#"{"spec": {"parameters": {"apiGroup": "G"}}}"#,
            "Invalid spec.parameters.apiGroup",
        ),
        (
            r#"{"spec": {"parameters": {"kind": "", "name": ""}}}"#,
            "Required spec.parameters.kind, Required spec.parameters.name",
        ),
        (
            r#"{"spec": {"parameters": {"kind": "a/b", "name": "%"}}}"#,
            "Invalid spec.parameters.kind, Invalid spec.parameters.name",
        ),
        (
            r#"{"spec": {"parameters": {"scope": null}}}"#,
            "Required spec.parameters.scope",
        ),
        (
            r#"{"spec": {"parameters": {"scope": "Galaxy"}}}"#,
            "NotSupported spec.parameters.scope",
        ),
        (
            r#"{"spec": {"parameters": {"namespace": "n"}}}"#,
            "Forbidden spec.parameters.namespace",
        ),
        (
            r#"{"spec": {"parameters": {"scope": "Namespace"}}}"#,
            "Required spec.parameters.namespace",
        ),
        (
            r#"{"spec": {"parameters": {"scope": "Namespace", "namespace": "n"}}}"#,
            "",
        ),
        (
            r#"{"spec": {"parameters": {"scope": "Namespace", "namespace": "a.b"}}}"#,
            "Invalid spec.parameters.namespace",
        ),
        (
            r#"{"spec": {"controller": ""}}"#,
            "Required spec.controller",
        ),
        (
            r#"{"spec": {"controller": "plain"}}"#,
            "Invalid spec.controller",
        ),
        (&long, "TooLong spec.controller"),
    ];
    assert_create(GROUP, "IngressClass", object, cases);
}
