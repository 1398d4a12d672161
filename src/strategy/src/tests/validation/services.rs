//! Services.

use serde_json::json;

use super::{Case, assert_create, assert_update};
use crate::{Context, strategy_for};

fn service() -> serde_json::Value {
    json!({"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
        "selector": {"a": "b"}, "ports": [{"name": "p", "port": 8675}]}})
}

const CREATE: &[Case<'_>] = &[
    (r#"{"spec": {"ports": []}}"#, "Required spec.ports"),
    (
        r#"{"spec": {"selector": {"a.b/c": "d e"}}}"#,
        "Invalid spec.selector",
    ),
    (
        r#"{"spec": {"sessionAffinity": ""}}"#,
        "Required spec.sessionAffinity",
    ),
    (
        r#"{"spec": {"sessionAffinity": "Cookie"}}"#,
        "NotSupported spec.sessionAffinity",
    ),
    (
        r#"{"spec": {"sessionAffinity": "ClientIP"}}"#,
        "Required spec.sessionAffinityConfig",
    ),
    (
        r#"{"spec": {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"x": 1}}}"#,
        "Required spec.sessionAffinityConfig.clientIP",
    ),
    (
        r#"{"spec": {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"x": 1}}}}"#,
        "Required spec.sessionAffinityConfig.clientIP.timeoutSeconds",
    ),
    (
        r#"{"spec": {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}}"#,
        "Invalid spec.sessionAffinityConfig.clientIP.timeoutSeconds",
    ),
    (
        r#"{"spec": {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}}"#,
        "",
    ),
    (
        r#"{"spec": {"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}}"#,
        "Forbidden spec.sessionAffinityConfig",
    ),
    (r#"{"spec": {"type": ""}}"#, "Required spec.type"),
    (r#"{"spec": {"type": "Other"}}"#, "NotSupported spec.type"),
    (
        r#"{"spec": {"ports": [{"name": "p", "port": 0, "protocol": "TCP", "targetPort": 1}]}}"#,
        "Invalid spec.ports[0].port",
    ),
    (
        r#"{"spec": {"ports": [{"name": "p", "port": 65536, "protocol": "TCP", "targetPort": 1}]}}"#,
        "Invalid spec.ports[0].port",
    ),
    (
        r#"{"spec": {"ports": [{"name": "p", "port": 1, "protocol": "", "targetPort": 1}]}}"#,
        "Required spec.ports[0].protocol",
    ),
    (
        r#"{"spec": {"ports": [{"name": "p", "port": 1, "protocol": "ICMP", "targetPort": 1}]}}"#,
        "NotSupported spec.ports[0].protocol",
    ),
    (
        r#"{"spec": {"ports": [{"name": "p", "port": 1, "protocol": "TCP", "targetPort": 0}]}}"#,
        "Invalid spec.ports[0].targetPort",
    ),
    (
        r#"{"spec": {"ports": [{"name": "p", "port": 1, "protocol": "TCP", "targetPort": "http-port"}]}}"#,
        "",
    ),
    (
        r#"{"spec": {"ports": [{"name": "p", "port": 1, "protocol": "TCP", "targetPort": "bad port"}]}}"#,
        "Invalid spec.ports[0].targetPort",
    ),
    (
        r#"{"spec": {"ports": [{"name": "INVALID", "port": 1, "protocol": "TCP", "targetPort": 1}]}}"#,
        "Invalid spec.ports[0].name",
    ),
    (
        r#"{"spec": {"ports": [{"name": "", "port": 1, "protocol": "TCP", "targetPort": 1}, {"name": "q", "port": 2, "protocol": "TCP", "targetPort": 1}]}}"#,
        "Required spec.ports[0].name",
    ),
    (
        r#"{"spec": {"ports": [{"name": "p", "port": 1, "protocol": "TCP", "targetPort": 1}, {"name": "p", "port": 2, "protocol": "TCP", "targetPort": 1}]}}"#,
        "Duplicate spec.ports[1].name",
    ),
    (
        r#"{"spec": {"ports": [{"name": "p", "port": 1, "protocol": "TCP", "targetPort": 1}, {"name": "q", "port": 1, "protocol": "TCP", "targetPort": 1}]}}"#,
        "Duplicate spec.ports[1]",
    ),
    (
        r#"{"spec": {"ports": [{"name": "p", "port": 1, "protocol": "TCP", "targetPort": 1}, {"name": "q", "port": 1, "protocol": "UDP", "targetPort": 1}]}}"#,
        "",
    ),
    (
        r#"{"spec": {"ports": [{"name": "p", "port": 1, "protocol": "TCP", "targetPort": 1, "nodePort": 30000}]}}"#,
        "Forbidden spec.ports[0].nodePort",
    ),
    (
        r#"{"spec": {"ports": [{"name": "p", "port": 1, "protocol": "TCP", "targetPort": 1, "appProtocol": "kubernetes.io/h2c"}]}}"#,
        "",
    ),
    (
        r#"{"spec": {"ports": [{"name": "p", "port": 1, "protocol": "TCP", "targetPort": 1, "appProtocol": "a b"}]}}"#,
        "Invalid spec.ports[0].appProtocol",
    ),
    (
        r#"{"spec": {"clusterIPs": ["None"], "clusterIP": "None"}}"#,
        "",
    ),
    (
        r#"{"spec": {"clusterIPs": ["x"], "clusterIP": "x"}}"#,
        "Invalid spec.clusterIPs[0]",
    ),
    (
        r#"{"spec": {"clusterIPs": ["None"], "clusterIP": "None", "ports": []}}"#,
        "",
    ),
    (
        r#"{"spec": {"type": "NodePort", "clusterIPs": ["None"], "clusterIP": "None", "externalTrafficPolicy": "Cluster"}}"#,
        "Invalid spec.clusterIPs[0]",
    ),
    (
        r#"{"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": true, "clusterIPs": ["None"], "clusterIP": "None", "externalTrafficPolicy": "Cluster"}}"#,
        "Invalid spec.clusterIPs[0]",
    ),
    (
        r#"{"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": true, "externalTrafficPolicy": "Cluster", "ports": [{"name": "p", "port": 10250, "protocol": "TCP", "targetPort": 1}]}}"#,
        "",
    ),
    (
        r#"{"spec": {"externalIPs": ["1.2.3.4"]}}"#,
        "Required spec.externalTrafficPolicy",
    ),
    (
        r#"{"spec": {"externalIPs": ["1.2.3.4"], "externalTrafficPolicy": "Cluster"}}"#,
        "",
    ),
    (
        r#"{"spec": {"externalIPs": ["0.0.0.0"], "externalTrafficPolicy": "Cluster"}}"#,
        "Invalid spec.externalIPs[0]",
    ),
    (
        r#"{"spec": {"externalIPs": ["127.0.0.1"], "externalTrafficPolicy": "Cluster"}}"#,
        "Invalid spec.externalIPs[0]",
    ),
    (
        r#"{"spec": {"externalIPs": ["169.254.1.1"], "externalTrafficPolicy": "Cluster"}}"#,
        "Invalid spec.externalIPs[0]",
    ),
    (
        r#"{"spec": {"externalIPs": ["224.0.0.1"], "externalTrafficPolicy": "Cluster"}}"#,
        "Invalid spec.externalIPs[0]",
    ),
    (
        r#"{"spec": {"externalIPs": ["myhost.mydomain"], "externalTrafficPolicy": "Cluster"}}"#,
        "Invalid spec.externalIPs[0]",
    ),
    (
        r#"{"spec": {"externalTrafficPolicy": "Local"}}"#,
        "Invalid spec.externalTrafficPolicy",
    ),
    (
        r#"{"spec": {"type": "NodePort", "externalTrafficPolicy": "Other"}}"#,
        "NotSupported spec.externalTrafficPolicy",
    ),
    (
        r#"{"spec": {"internalTrafficPolicy": null}}"#,
        "Required spec.internalTrafficPolicy",
    ),
    (
        r#"{"spec": {"internalTrafficPolicy": "Other"}}"#,
        "NotSupported spec.internalTrafficPolicy",
    ),
    (r#"{"spec": {"trafficDistribution": "PreferClose"}}"#, ""),
    (
        r#"{"spec": {"trafficDistribution": "Anywhere"}}"#,
        "NotSupported spec.trafficDistribution",
    ),
    (
        r#"{"spec": {"loadBalancerSourceRanges": ["1.2.3.0/24"]}}"#,
        "Forbidden spec.LoadBalancerSourceRanges",
    ),
    (
        r#"{"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": true, "externalTrafficPolicy": "Cluster", "loadBalancerSourceRanges": ["1.2.3.0/24", "5.6.7.8"]}}"#,
        "Invalid spec.LoadBalancerSourceRanges[1]",
    ),
    (
        r#"{"spec": {"loadBalancerClass": "a/b"}}"#,
        "Forbidden spec.loadBalancerClass",
    ),
    (
        r#"{"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": true, "externalTrafficPolicy": "Cluster", "loadBalancerClass": "Bad LB class"}}"#,
        "Invalid spec.loadBalancerClass",
    ),
    (
        r#"{"spec": {"allocateLoadBalancerNodePorts": true}}"#,
        "Forbidden spec.allocateLoadBalancerNodePorts",
    ),
    (
        r#"{"spec": {"healthCheckNodePort": 31100}}"#,
        "Invalid spec.healthCheckNodePort",
    ),
    (
        r#"{"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": true, "externalTrafficPolicy": "Local", "healthCheckNodePort": 31100}}"#,
        "",
    ),
    (
        r#"{"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": true, "externalTrafficPolicy": "Local", "healthCheckNodePort": -1}}"#,
        "Invalid spec.healthCheckNodePort",
    ),
];

const EXTERNAL_NAME: &[Case<'_>] = &[
    (r#"{"spec": {"externalName": "foo.bar."}}"#, ""),
    (
        r#"{"spec": {"externalName": ""}}"#,
        "Required spec.externalName",
    ),
    (
        r#"{"spec": {"externalName": "-123"}}"#,
        "Invalid spec.externalName",
    ),
    (
        r#"{"spec": {"clusterIP": "1.2.3.4", "clusterIPs": ["1.2.3.4"]}}"#,
        "Forbidden spec.clusterIPs",
    ),
    (
        r#"{"spec": {"ipFamilyPolicy": "SingleStack"}}"#,
        "Forbidden spec.ipFamilyPolicy",
    ),
    (
        r#"{"spec": {"ipFamilies": ["IPv4"]}}"#,
        "Forbidden spec.ipFamilies",
    ),
];

const UPDATE: &[Case<'_>] = &[
    (r#"{"spec": {"selector": {"new": "l"}}}"#, ""),
    (
        r#"{"spec": {"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.2"]}}"#,
        "Invalid spec.clusterIPs[0]",
    ),
    (
        r#"{"spec": {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}}}}"#,
        "",
    ),
];

#[test]
fn new_services() {
    assert_create("", "Service", service(), CREATE);
}

#[test]
fn external_names() {
    let service = json!({"spec": {"type": "ExternalName", "externalName": "a.example"}});
    assert_create("", "Service", service, EXTERNAL_NAME);
}

#[test]
fn changed_services() {
    assert_update("", "Service", service(), UPDATE);
}

/// The health check's port of a service is that of its load balancer, and stays.
const LOAD_BALANCER: &[Case<'_>] = &[
    (r#"{"spec": {"selector": {"new": "l"}}}"#, ""),
    (
        r#"{"spec": {"healthCheckNodePort": 31101}}"#,
        "Forbidden spec.healthCheckNodePort",
    ),
    (
        r#"{"spec": {"loadBalancerClass": "example.com/other"}}"#,
        "Invalid spec.loadBalancerClass",
    ),
    (
        r#"{"spec": {"loadBalancerClass": null}}"#,
        "Invalid spec.loadBalancerClass",
    ),
];

#[test]
fn changed_load_balancers() {
    let mut service = service();
    service["spec"]["type"] = json!("LoadBalancer");
    service["spec"]["externalTrafficPolicy"] = json!("Local");
    service["spec"]["healthCheckNodePort"] = json!(31100);
    service["spec"]["loadBalancerClass"] = json!("example.com/one");
    assert_update("", "Service", service.clone(), LOAD_BALANCER);
    service["spec"]["loadBalancerClass"] = json!(null);
    assert_update(
        "",
        "Service",
        service,
        &[(
            r#"{"spec": {"loadBalancerClass": "example.com/late"}}"#,
            "Invalid spec.loadBalancerClass",
        )],
    );
}

#[test]
fn node_ports_go_with_the_type_all_or_none() {
    // Types before and after; the ports' node ports before, in the update, and after it.
    for (before, after, old, new, left) in [
        (
            "NodePort",
            "ClusterIP",
            [30001, 30002],
            [30001, 30002],
            [0, 0],
        ),
        (
            "LoadBalancer",
            "ClusterIP",
            [30001, 30002],
            [30001, 0],
            [0, 0],
        ),
        (
            "NodePort",
            "ClusterIP",
            [30001, 30002],
            [30002, 30001],
            [0, 0],
        ),
        (
            "NodePort",
            "ExternalName",
            [30001, 30002],
            [30001, 30002],
            [0, 0],
        ),
        // A new one shows that they are meant.
        (
            "NodePort",
            "ClusterIP",
            [30001, 30002],
            [30001, 30003],
            [30001, 30003],
        ),
        ("ClusterIP", "ClusterIP", [0, 0], [30001, 0], [30001, 0]),
        (
            "NodePort",
            "LoadBalancer",
            [30001, 30002],
            [30001, 30002],
            [30001, 30002],
        ),
        (
            "LoadBalancer",
            "NodePort",
            [30001, 30002],
            [0, 0],
            [30001, 30002],
        ),
    ] {
        let make = |kind: &str, node_ports: [i64; 2]| {
            json!({"metadata": {"name": "s"}, "spec": {"type": kind, "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
                "ports": [{"name": "a", "port": 1, "protocol": "TCP", "nodePort": node_ports[0]},
                          {"name": "b", "port": 2, "protocol": "TCP", "nodePort": node_ports[1]}]}})
        };
        let strategy = strategy_for("", "Service");
        let ctx = Context::new(jiff::Timestamp::UNIX_EPOCH, "user");
        let mut updated = make(after, new);
        strategy.prepare_update(&ctx, &mut updated, &make(before, old));
        let got = [0, 1].map(|i| {
            updated["spec"]["ports"][i]["nodePort"]
                .as_i64()
                .unwrap_or(0)
        });
        assert_eq!(got, left, "{before} to {after}: {old:?}, {new:?}");
    }
}
