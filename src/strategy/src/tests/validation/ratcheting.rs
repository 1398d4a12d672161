//! Objects that were stored before a rule became strict: what they have may stay, nothing like it
//! may be added.

use serde_json::{Value, json};

use super::{Case, assert_create, assert_update};

fn service(more: Value) -> Value {
    let mut service = json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}});
    super::merge(&mut service, &more);
    service
}

#[test]
fn services() {
    let old = service(json!({"spec": {
        "clusterIP": "10.0.0.010", "clusterIPs": ["10.0.0.010"],
        "externalIPs": ["192.000.002.001"],
        "loadBalancerSourceRanges": ["10.0.0.1/8", " 010.0.0.0/8 "],
    }}));
    let cases: &[Case<'_>] = &[
        (r#"{"spec": {"sessionAffinity": "None"}}"#, ""),
        (r#"{"metadata": {"labels": {"a": "b"}}}"#, ""),
        (
            r#"{"spec": {"externalIPs": ["192.0.2.7", "192.000.002.001"]}}"#,
            "",
        ),
        (
            r#"{"spec": {"externalIPs": ["192.000.002.001", "192.0.2.07"]}}"#,
            "Invalid spec.externalIPs[1]",
        ),
        (
            r#"{"spec": {"externalIPs": ["::ffff:192.0.2.1"]}}"#,
            "Invalid spec.externalIPs[0]",
        ),
        (
            r#"{"spec": {"loadBalancerSourceRanges": ["010.0.0.0/8"]}}"#,
            "",
        ),
        (
            r#"{"spec": {"loadBalancerSourceRanges": ["10.0.0.2/8"]}}"#,
            "Invalid spec.LoadBalancerSourceRanges[0]",
        ),
    ];
    assert_update("", "Service", old, cases);
}

#[test]
fn families_of_services() {
    let old = service(json!({"spec": {
        "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00:10:96::9"],
        "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"
    }}));
    let cases: &[Case<'_>] = &[
        (r#"{"spec": {"selector": {"a": "b"}}}"#, ""),
        (
            r#"{"spec": {"clusterIPs": ["10.96.0.9", "fd00:10:96::8"]}}"#,
            "Invalid spec.clusterIPs[1]",
        ),
        (
            r#"{"spec": {"ipFamilies": ["IPv6", "IPv4"]}}"#,
            "Invalid spec.ipFamilies[0], Invalid spec.clusterIPs[0], Invalid spec.clusterIPs[1]",
        ),
    ];
    assert_update("", "Service", old, cases);
    let headless = service(json!({"spec": {
        "type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"],
        "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"
    }}));
    let cases: &[Case<'_>] = &[(r#"{"spec": {"ipFamilies": ["IPv6"]}}"#, "")];
    assert_update("", "Service", headless, cases);
}

/// The annotation that gave the source ranges before the field did.
#[test]
fn annotated_source_ranges() {
    const KEY: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let annotated = |ranges: &str, kind: &str| {
        json!({"metadata": {"annotations": {KEY: ranges}}, "spec": {"type": kind}}).to_string()
    };
    let wrong = format!("Invalid metadata.annotations[{KEY}]");
    let forbidden = format!("Forbidden metadata.annotations[{KEY}]");
    let cases = [
        (
            annotated("10.0.0.0/8, 192.168.0.0/16 ", "LoadBalancer"),
            String::new(),
        ),
        (annotated("  ", "LoadBalancer"), String::new()),
        (annotated("10.0.0.0/8,", "LoadBalancer"), wrong.clone()),
        (annotated("foo bar", "LoadBalancer"), wrong.clone()),
        (annotated("10.0.0.1/8", "LoadBalancer"), wrong.clone()),
    ];
    let cases: Vec<Case<'_>> = cases
        .iter()
        .map(|(p, w)| (p.as_str(), w.as_str()))
        .collect();
    assert_create("", "Service", service(json!({})), &cases);
    let plain = json!({"spec": {"ports": [{"port": 80}]}});
    let patch = annotated("10.0.0.0/8", "ClusterIP");
    assert_create("", "Service", plain, &[(&patch, &forbidden)]);
    let old = service(json!({"metadata": {"annotations": {KEY: "10.0.0.1/8"}}}));
    let other = annotated("10.0.0.1/8,10.0.0.2/8", "LoadBalancer");
    let both = format!("{wrong}, {wrong}");
    let cases: &[Case<'_>] = &[
        (r#"{"metadata": {"labels": {"a": "b"}}}"#, ""),
        (&other, &both),
    ];
    assert_update("", "Service", old, cases);
}

#[test]
fn network_policies() {
    let group = "networking.k8s.io";
    let peer = json!({"ipBlock": {"cidr": "10.0.0.1/8", "except": ["10.1.0.5/16"]}});
    let old = json!({"spec": {"podSelector": {}, "ingress": [{"from": [peer]}]}});
    let cases: &[Case<'_>] = &[
        (
            r#"{"spec": {"podSelector": {"matchLabels": {"a": "b"}}}}"#,
            "",
        ),
        (
            r#"{"spec": {"ingress": [{"from": [{"ipBlock": {"cidr": "192.168.0.0/16"}}, {"ipBlock": {"cidr": "10.0.0.1/8"}}]}]}}"#,
            "",
        ),
        (
            r#"{"spec": {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.1/8"}}]}]}}"#,
            "",
        ),
        (
            r#"{"spec": {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.2/8"}}]}]}}"#,
            "Invalid spec.ingress[0].from[0].ipBlock.cidr",
        ),
        (
            r#"{"spec": {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.1/8", "except": ["11.1.0.5/16"]}}]}]}}"#,
            "Invalid spec.ingress[0].from[0].ipBlock.except[0], Invalid spec.ingress[0].from[0].ipBlock.except[0]",
        ),
    ];
    assert_update(group, "NetworkPolicy", old, cases);
    let block =
        |block: Value| json!({"spec": {"ingress": [{"from": [{"ipBlock": block}]}]}}).to_string();
    let at = |part: &str| format!("Invalid spec.ingress[0].from[0].ipBlock.{part}");
    let cases = [
        (
            block(json!({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]})),
            String::new(),
        ),
        (
            block(json!({"cidr": "fd00::/8", "except": ["fd01::/16"]})),
            String::new(),
        ),
        (
            block(json!({"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]})),
            at("except[0]"),
        ),
        (
            block(json!({"cidr": "10.0.0.0/8", "except": ["fd01::/16"]})),
            at("except[0]"),
        ),
        (
            block(json!({"cidr": "nonsense", "except": ["more"]})),
            at("cidr"),
        ),
        (
            block(json!({"cidr": "10.0.0.0/8", "except": ["more"]})),
            at("except[0]"),
        ),
        (block(json!({"cidr": "10.0.0.0/08"})), at("cidr")),
    ];
    let cases: Vec<Case<'_>> = cases
        .iter()
        .map(|(p, w)| (p.as_str(), w.as_str()))
        .collect();
    assert_create(
        group,
        "NetworkPolicy",
        json!({"spec": {"podSelector": {}}}),
        &cases,
    );
}

#[test]
fn nodes() {
    let old = json!({"spec": {"podCIDR": "10.0.0.5/24", "podCIDRs": ["10.0.0.5/24"]}});
    let cases: &[Case<'_>] = &[
        (r#"{"spec": {"unschedulable": true}}"#, ""),
        (r#"{"metadata": {"labels": {"a": "b"}}}"#, ""),
    ];
    assert_update("", "Node", old, cases);
    let cases: &[Case<'_>] = &[(
        r#"{"spec": {"podCIDR": "10.0.0.5/24", "podCIDRs": ["10.0.0.5/24"]}}"#,
        "Invalid spec.podCIDRs[0]",
    )];
    assert_update("", "Node", json!({"spec": {}}), cases);
}

/// A pod, or a template, with addresses in loose notation.
fn pod_spec(restart: &str) -> Value {
    json!({
        "restartPolicy": restart,
        "containers": [{"name": "c", "image": "i"}],
        "hostAliases": [{"ip": "10.0.0.01", "hostnames": ["h"]}],
        "dnsConfig": {"nameservers": ["010.0.0.1"]},
    })
}

#[test]
fn pods() {
    let pod = json!({"metadata": {"namespace": "n"}, "spec": pod_spec("Always")});
    let cases: &[Case<'_>] = &[
        (r#"{"metadata": {"labels": {"a": "b"}}}"#, ""),
        (r#"{"spec": {"activeDeadlineSeconds": 5}}"#, ""),
        (
            r#"{"spec": {"dnsConfig": {"nameservers": ["010.0.0.2"]}}}"#,
            "Invalid spec.dnsConfig.nameservers[0], Forbidden spec",
        ),
    ];
    assert_update("", "Pod", pod, cases);
}

#[test]
fn templates() {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": pod_spec("Always")});
    let workload = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "serviceName": "s", "template": template}});
    let cases: &[Case<'_>] = &[
        (r#"{"metadata": {"labels": {"a": "b"}}}"#, ""),
        (
            r#"{"spec": {"template": {"spec": {"hostAliases": [{"ip": "10.0.0.02", "hostnames": ["h"]}]}}}}"#,
            "Invalid spec.template.spec.hostAliases[0].ip",
        ),
    ];
    for kind in ["Deployment", "DaemonSet", "ReplicaSet"] {
        assert_update("apps", kind, workload.clone(), cases);
    }
    assert_update("apps", "StatefulSet", workload.clone(), &cases[..1]);
    let mut controller = workload;
    controller["spec"]["selector"] = json!({"a": "b"});
    assert_update("", "ReplicationController", controller, cases);
    let job = json!({"spec": {"template": {"spec": pod_spec("Never")}}});
    let cases: &[Case<'_>] = &[(r#"{"metadata": {"labels": {"a": "b"}}}"#, "")];
    let mut stored = job.clone();
    stored["metadata"] = json!({"uid": "u"});
    assert_update("batch", "Job", stored, cases);
    let cron_job = json!({"spec": {"schedule": "* * * * *", "jobTemplate": job}});
    assert_update("batch", "CronJob", cron_job, cases);
}

/// Addresses in the status of services and ingresses.
#[test]
fn load_balancer_addresses() {
    for (group, kind) in [("", "Service"), ("networking.k8s.io", "Ingress")] {
        let strategy = crate::strategy_for(group, kind);
        let status = |ips: &[&str]| -> Value {
            let points: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
            json!({"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": points}}})
        };
        let old = status(&["1.2.3.04"]);
        for (ips, want) in [
            (&["1.2.3.04"][..], ""),
            (&["1.2.3.4", "1.2.3.04"], ""),
            (
                &["1.2.3.04", "1.2.3.05"],
                "Invalid status.loadBalancer.ingress[1].ip",
            ),
        ] {
            let errors = strategy.validate_status_update(&status(ips), &old);
            assert_eq!(super::summary(&errors), want, "{kind} {ips:?}");
        }
    }
}
