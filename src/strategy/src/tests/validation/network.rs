//! Ingresses, network policies and endpoint slices.

use serde_json::json;

use super::{assert_create, assert_update};

#[test]
fn ingresses() {
    let ingress = json!({"spec": {"defaultBackend": {"service": {"name": "d", "port": {"number": 80}}},
        "rules": [{"host": "a.example", "http": {"paths": [{"path": "/p", "pathType": "Prefix",
            "backend": {"service": {"name": "s", "port": {"name": "http"}}}}]}}]}});
    let rule = |rule: &str| format!(r#"{{"spec": {{"rules": [{rule}]}}}}"#);
    let path =
        |path: &str| format!(r#"{{"spec": {{"rules": [{{"http": {{"paths": [{path}]}}}}]}}}}"#);
    let backend = r#""backend": {"service": {"name": "s", "port": {"number": 80}}}"#;
    let cases = [
        (
            r#"{"spec": {"defaultBackend": null, "rules": []}}"#.to_owned(),
            "Invalid spec",
        ),
        (rule(r#"{"host": "1.2.3.4"}"#), "Invalid spec.rules[0].host"),
        (rule(r#"{"host": "*.example.com"}"#), ""),
        (
            rule(r#"{"host": "*.*.example.com"}"#),
            "Invalid spec.rules[0].host",
        ),
        (rule(r#"{"host": "a:80"}"#), "Invalid spec.rules[0].host"),
        (
            rule(r#"{"http": {"paths": []}}"#),
            "Required spec.rules[0].http.paths",
        ),
        (
            path(&format!(
                r#"{{"path": "relative", "pathType": "Prefix", {backend}}}"#
            )),
            "Invalid spec.rules[0].http.paths[0].path",
        ),
        (
            path(&format!(
                r#"{{"path": "/a//b", "pathType": "Exact", {backend}}}"#
            )),
            "Invalid spec.rules[0].http.paths[0].path",
        ),
        (
            path(&format!(
                r#"{{"path": "/a/../b", "pathType": "Exact", {backend}}}"#
            )),
            "Invalid spec.rules[0].http.paths[0].path",
        ),
        (
            path(&format!(
                r#"{{"path": "/a", "pathType": "Regex", {backend}}}"#
            )),
            "NotSupported spec.rules[0].http.paths[0].pathType",
        ),
        (
            path(&format!(r#"{{"path": "/a", {backend}}}"#)),
            "Required spec.rules[0].http.paths[0].pathType",
        ),
        (
            path(
                r#"{"path": "/a", "pathType": "Exact", "backend": {"service": {"name": "", "port": {"number": 80}}}}"#,
            ),
            "Required spec.rules[0].http.paths[0].backend.service.name",
        ),
        (
            path(
                r#"{"path": "/a", "pathType": "Exact", "backend": {"service": {"name": "s", "port": {}}}}"#,
            ),
            "Required spec.rules[0].http.paths[0].backend",
        ),
        (
            path(
                r#"{"path": "/a", "pathType": "Exact", "backend": {"service": {"name": "s", "port": {"number": 66000}}}}"#,
            ),
            "Invalid spec.rules[0].http.paths[0].backend.service.port.number",
        ),
        (
            path(r#"{"path": "/a", "pathType": "Exact", "backend": {}}"#),
            "Invalid spec.rules[0].http.paths[0].backend",
        ),
        (
            r#"{"spec": {"tls": [{"hosts": ["test.*.com"]}]}}"#.to_owned(),
            "Invalid spec.tls[0].hosts[0]",
        ),
        (
            r#"{"spec": {"ingressClassName": "A"}}"#.to_owned(),
            "Invalid spec.ingressClassName",
        ),
    ];
    let cases: Vec<super::Case<'_>> = cases.iter().map(|(p, w)| (p.as_str(), *w)).collect();
    assert_create("networking.k8s.io", "Ingress", ingress, &cases);
}

#[test]
fn ingress_classes() {
    assert_create(
        "networking.k8s.io",
        "IngressClass",
        json!({"spec": {"controller": "example.com/c"}}),
        &[
            (
                r#"{"spec": {"controller": "nodomain"}}"#,
                "Invalid spec.controller",
            ),
            (
                r#"{"spec": {"controller": ""}}"#,
                "Required spec.controller",
            ),
        ],
    );
    assert_update(
        "networking.k8s.io",
        "IngressClass",
        json!({"spec": {"controller": "example.com/c"}}),
        &[(
            r#"{"spec": {"controller": "example.com/d"}}"#,
            "Invalid spec.controller",
        )],
    );
}

#[test]
fn network_policies() {
    assert_create(
        "networking.k8s.io",
        "NetworkPolicy",
        json!({"spec": {"podSelector": {"matchLabels": {"a": "b"}}, "ingress": [{"from": [{"podSelector": {}}]}]}}),
        &[
            (
                r#"{"spec": {"podSelector": {"matchLabels": {"-a": "b"}}}}"#,
                "Invalid spec.podSelector.matchLabels",
            ),
            (
                r#"{"spec": {"policyTypes": ["Ingress", "Egress", "Other"]}}"#,
                "Invalid spec.policyTypes",
            ),
            (
                r#"{"spec": {"policyTypes": ["Other"]}}"#,
                "NotSupported spec.policyTypes[0]",
            ),
            (
                r#"{"spec": {"ingress": [{"from": [{}]}]}}"#,
                "Required spec.ingress[0].from[0]",
            ),
            (
                r#"{"spec": {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}]}}"#,
                "Forbidden spec.ingress[0].from[0]",
            ),
            (
                r#"{"spec": {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}]}}"#,
                "",
            ),
            (
                r#"{"spec": {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]}}"#,
                "Invalid spec.ingress[0].from[0].ipBlock.except[0]",
            ),
            (
                r#"{"spec": {"ingress": [{"from": [{"ipBlock": {"cidr": ""}}]}]}}"#,
                "Required spec.ingress[0].from[0].ipBlock.cidr",
            ),
            (
                r#"{"spec": {"ingress": [{"from": [{"ipBlock": {"cidr": "x"}}]}]}}"#,
                "Invalid spec.ingress[0].from[0].ipBlock.cidr",
            ),
            (
                r#"{"spec": {"ingress": [{"ports": [{"port": 0, "protocol": "TCP"}]}]}}"#,
                "Invalid spec.ingress[0].ports[0].port",
            ),
            (
                r#"{"spec": {"ingress": [{"ports": [{"port": 80, "protocol": "ICMP"}]}]}}"#,
                "NotSupported spec.ingress[0].ports[0].protocol",
            ),
            (
                r#"{"spec": {"egress": [{"ports": [{"port": 80, "endPort": 90, "protocol": "TCP"}]}]}}"#,
                "",
            ),
            (
                r#"{"spec": {"egress": [{"ports": [{"port": 80, "endPort": 70, "protocol": "TCP"}]}]}}"#,
                "Invalid spec.egress[0].ports[0].endPort",
            ),
            (
                r#"{"spec": {"egress": [{"ports": [{"endPort": 70, "protocol": "TCP"}]}]}}"#,
                "Invalid spec.egress[0].ports[0].endPort",
            ),
            (
                r#"{"spec": {"egress": [{"ports": [{"port": "http", "endPort": 70, "protocol": "TCP"}]}]}}"#,
                "Invalid spec.egress[0].ports[0].endPort",
            ),
        ],
    );
}

#[test]
fn endpoint_slices() {
    assert_create(
        "discovery.k8s.io",
        "EndpointSlice",
        json!({"addressType": "IPv4", "ports": [{"name": "p", "port": 80, "protocol": "TCP"}], "endpoints": [{"addresses": ["10.0.0.1"]}]}),
        &[
            (r#"{"addressType": ""}"#, "Required addressType"),
            (r#"{"addressType": "Other"}"#, "NotSupported addressType"),
            (
                r#"{"endpoints": [{"addresses": []}]}"#,
                "Required endpoints[0].addresses",
            ),
            (
                r#"{"endpoints": [{"addresses": ["x"]}]}"#,
                "Invalid endpoints[0].addresses[0]",
            ),
            (
                r#"{"endpoints": [{"addresses": ["127.0.0.1"]}]}"#,
                "Invalid endpoints[0].addresses[0]",
            ),
            (
                r#"{"endpoints": [{"addresses": ["10.0.0.1"], "hostname": "A_"}]}"#,
                "Invalid endpoints[0].hostname",
            ),
            (
                r#"{"ports": [{"name": "p", "protocol": "ICMP"}]}"#,
                "NotSupported ports[0].protocol",
            ),
            (
                r#"{"ports": [{"name": "p", "protocol": "TCP"}, {"name": "p", "protocol": "TCP"}]}"#,
                "Duplicate ports[1].name",
            ),
        ],
    );
    assert_update(
        "discovery.k8s.io",
        "EndpointSlice",
        json!({"addressType": "IPv4", "ports": [], "endpoints": []}),
        &[(r#"{"addressType": "IPv6"}"#, "Invalid addressType")],
    );
}
