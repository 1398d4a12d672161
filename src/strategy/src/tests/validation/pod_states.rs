//! Updates of pods through their subresources: resources, status, ephemeral containers.

use serde_json::{Value, json};

use super::{Case, patched, prepared, report, summary};
use crate::{Context, Subresource, strategy_for};

fn pod() -> Value {
    prepared(
        "",
        "Pod",
        json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {
            "initContainers": [{"name": "i", "image": "i:1", "resources": {"requests": {"cpu": "1"}}}],
            "containers": [{"name": "c", "image": "i:1", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}}],
        }}),
    )
}

/// Asserts the errors of updates through a subresource, or through `/status`.
fn assert_part(part: Option<Subresource>, base: &Value, cases: &[Case<'_>]) {
    let strategy = strategy_for("", "Pod");
    let ctx = Context::new(jiff::Timestamp::UNIX_EPOCH, "user");
    let mut differences = Vec::new();
    for (patch, want) in cases {
        let mut new = patched(base, patch);
        let errors = match part {
            Some(part) => {
                strategy.prepare_subresource_update(&ctx, part, &mut new, base);
                strategy.validate_subresource_update(part, &new, base)
            }
            None => {
                strategy.prepare_status_update(&ctx, &mut new, base);
                strategy.validate_status_update(&new, base)
            }
        };
        let got = summary(&errors);
        if got != *want {
            differences.push(format!("{patch}\n   got: {got}\n  want: {want}"));
        }
    }
    report(&differences);
}

fn container(resources: &str) -> String {
    format!(
        r#"{{"spec": {{"containers": [{{"name": "c", "image": "other", "imagePullPolicy": "Always", "terminationMessagePolicy": "File", "resources": {resources}}}]}}}}"#
    )
}

#[test]
fn resizes() {
    let more = container(
        r#"{"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"memory": "2Gi", "cpu": "4"}}"#,
    );
    let less = container(r#"{"requests": {"cpu": "1"}, "limits": {"memory": "2Gi"}}"#);
    let disk = container(
        r#"{"requests": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1"}, "limits": {"memory": "2Gi"}}"#,
    );
    let nothing = container("{}");
    assert_part(
        Some(Subresource::Resize),
        &pod(),
        &[
            (&more, ""),
            (&less, "Forbidden spec.containers[0].resources.requests"),
            (&disk, "Forbidden spec"),
            (
                &nothing,
                "Forbidden spec.containers[0].resources.requests, Forbidden spec.containers[0].resources.limits",
            ),
            (r#"{"spec": {"hostname": "ignored"}}"#, ""),
            (
                r#"{"spec": {"initContainers": [{"name": "i", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File", "resources": {"requests": {"cpu": "2"}}}]}}"#,
                "",
            ),
            (
                r#"{"spec": {"initContainers": [{"name": "j", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}]}}"#,
                "Forbidden spec.initContainers[0].name",
            ),
            (
                r#"{"spec": {"initContainers": []}}"#,
                "Forbidden spec.initContainers",
            ),
        ],
    );
    let mut mirror = pod();
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    assert_part(Some(Subresource::Resize), &mirror, &[(&more, "Forbidden ")]);
    let mut unable = pod();
    unable["status"]["containerStatuses"] = json!([{"name": "c", "state": {"running": {}}}]);
    assert_part(
        Some(Subresource::Resize),
        &unable,
        &[(&more, "Forbidden spec")],
    );
    let guaranteed = prepared(
        "",
        "Pod",
        json!({"spec": {"containers": [{"name": "c", "image": "i:1", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]}}),
    );
    assert_part(
        Some(Subresource::Resize),
        &guaranteed,
        &[(
            &container(
                r#"{"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}}"#,
            ),
            "Invalid spec",
        )],
    );
}

#[test]
fn ephemeral_containers() {
    let debug = |more: &str| {
        format!(
            r#"{{"spec": {{"ephemeralContainers": [{{"name": "e", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"{more}}}]}}}}"#
        )
    };
    let cases = [
        (debug(""), ""),
        (
            debug(r#", "ports": [], "resources": {"limits": {}}, "restartPolicy": "Always""#),
            "Forbidden spec.ephemeralContainers[0].ports, Forbidden spec.ephemeralContainers[0].resources, Forbidden spec.ephemeralContainers[0].restartPolicy",
        ),
        (
            debug(r#", "targetContainerName": "x""#),
            "NotFound spec.ephemeralContainers[0].targetContainerName",
        ),
    ];
    let cases: Vec<Case<'_>> = cases.iter().map(|(p, w)| (p.as_str(), *w)).collect();
    assert_part(Some(Subresource::EphemeralContainers), &pod(), &cases);
    let with_one = patched(&pod(), &debug(""));
    assert_part(
        Some(Subresource::EphemeralContainers),
        &with_one,
        &[
            (
                r#"{"spec": {"ephemeralContainers": []}}"#,
                "Forbidden spec.ephemeralContainers",
            ),
            (
                &debug(r#", "tty": true"#),
                "Forbidden spec.ephemeralContainers",
            ),
        ],
    );
}

#[test]
fn statuses() {
    let mut base = pod();
    base["spec"]["restartPolicy"] = json!("OnFailure");
    base["spec"]["nodeName"] = json!("n");
    base["status"]["containerStatuses"] =
        json!([{"name": "c", "state": {"terminated": {"exitCode": 0}}}]);
    assert_part(
        None,
        &base,
        &[
            (r#"{"status": {"phase": "Running"}}"#, ""),
            (
                r#"{"status": {"qosClass": "BestEffort"}}"#,
                "Invalid status.qosClass",
            ),
            (r#"{"status": {"qosClass": null}}"#, ""),
            (
                r#"{"status": {"containerStatuses": [{"name": "c", "state": {"running": {}}}]}}"#,
                "Forbidden status.containerStatuses[0].state",
            ),
            (
                r#"{"status": {"nominatedNodeName": "m"}}"#,
                "Forbidden status.nominatedNodeName",
            ),
            (
                r#"{"status": {"observedGeneration": -1, "conditions": [{"type": "a b", "observedGeneration": -1}, {"type": "Ready"}]}}"#,
                "Invalid status.conditions[0].observedGeneration, Invalid status.conditions[0].Type, Invalid status.observedGeneration",
            ),
            (
                r#"{"status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "hostIP": "1.2.3.4", "hostIPs": [{"ip": "1.2.3.4"}]}}"#,
                "",
            ),
            (
                r#"{"status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "hostIPs": [{"ip": "1.2.3.4"}]}}"#,
                "Invalid status.podIPs, Invalid status.hostIPs[0].ip",
            ),
            (
                r#"{"status": {"resourceClaimStatuses": [{"name": "x"}]}}"#,
                "Invalid status.resourceClaimStatuses[0].name",
            ),
            (
                r#"{"status": {"containerStatuses": [{"name": "c", "state": {"terminated": {}}, "user": {"linux": {"uid": -1, "gid": 0}},
                    "allocatedResourcesStatus": [{"name": "example.com/x", "resources": [{"resourceID": "a", "health": "Ill"}, {"resourceID": "a", "health": "Healthy", "message": ""}]}]}]}}"#,
                "Invalid status.containerStatuses[0].user.linux.uid, Invalid status.containerStatuses[0].allocatedResourcesStatus[0].name, NotSupported status.containerStatuses[0].allocatedResourcesStatus[0].resources[0].health, Required status.containerStatuses[0].allocatedResourcesStatus[0].resources[1].message, Duplicate status.containerStatuses[0].allocatedResourcesStatus[0].resources[1].resourceID",
            ),
        ],
    );
}

/// Observed generations that a new status leaves out stay, by type and order of conditions.
#[test]
fn observed_generations() {
    let strategy = strategy_for("", "Pod");
    let ctx = Context::new(jiff::Timestamp::UNIX_EPOCH, "user");
    let mut old = pod();
    old["status"] = json!({"observedGeneration": 3, "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}],
        "conditions": [{"type": "A", "observedGeneration": 1}, {"type": "A", "observedGeneration": 2}]});
    let mut new = old.clone();
    new["status"] = json!({"podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.1"}],
        "conditions": [{"type": "A"}, {"type": "B"}, {"type": "A"}]});
    strategy.prepare_status_update(&ctx, &mut new, &old);
    assert_eq!(new["status"]["observedGeneration"], 3);
    assert_eq!(
        new["status"]["conditions"],
        json!([{"type": "A", "observedGeneration": 1}, {"type": "B"}, {"type": "A", "observedGeneration": 2}])
    );
    // The older field wins.
    assert_eq!(new["status"]["podIPs"], json!([{"ip": "10.0.0.2"}]));
}

#[test]
fn gated_pods() {
    let terms = |expressions: &str| {
        format!(
            r#"{{"spec": {{"affinity": {{"nodeAffinity": {{"requiredDuringSchedulingIgnoredDuringExecution": {{"nodeSelectorTerms": [{{"matchExpressions": [{expressions}]}}]}}}}}}}}}}"#
        )
    };
    let first = r#"{"key": "a", "operator": "Exists"}"#;
    let second = r#"{"key": "b", "operator": "Exists"}"#;
    let mut gated = pod();
    gated["spec"]["schedulingGates"] = json!([{"name": "g"}]);
    gated["spec"]["nodeSelector"] = json!({"a": "b"});
    let gated = patched(&gated, &terms(first));
    let strategy = strategy_for("", "Pod");
    let path = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let (more, other) = (terms(&format!("{first}, {second}")), terms(second));
    let mut differences = Vec::new();
    for (patch, want) in [
        (r#"{"spec": {"schedulingGates": null}}"#, String::new()),
        (
            r#"{"spec": {"schedulingGates": [{"name": "h"}]}}"#,
            "Forbidden spec.schedulingGates[0].name".to_owned(),
        ),
        (r#"{"spec": {"nodeSelector": {"c": "d"}}}"#, String::new()),
        (
            r#"{"spec": {"nodeSelector": {"a": "c"}}}"#,
            "Invalid spec.nodeSelector".to_owned(),
        ),
        (more.as_str(), String::new()),
        (other.as_str(), format!("Invalid {path}[0]")),
        (r#"{"spec": {"affinity": null}}"#, format!("Invalid {path}")),
    ] {
        let errors = strategy.validate_update(&patched(&gated, patch), &gated);
        let got = summary(&errors);
        if got != want {
            differences.push(format!("{patch}\n   got: {got}\n  want: {want}"));
        }
    }
    report(&differences);
}
