//! Pods and pod templates.

use serde_json::json;

use super::{Case, assert_create, assert_update};

fn pod() -> serde_json::Value {
    json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

const SPEC: &[Case<'_>] = &[
    (
        r#"{"spec": {"containers": []}}"#,
        "Required spec.containers",
    ),
    (
        r#"{"spec": {"restartPolicy": ""}}"#,
        "Required spec.restartPolicy",
    ),
    (
        r#"{"spec": {"restartPolicy": "Sometimes"}}"#,
        "NotSupported spec.restartPolicy",
    ),
    (
        r#"{"spec": {"dnsPolicy": "Unknown"}}"#,
        "NotSupported spec.dnsPolicy",
    ),
    (
        r#"{"spec": {"dnsPolicy": "None"}}"#,
        "Required spec.dnsConfig",
    ),
    (
        r#"{"spec": {"dnsPolicy": "None", "dnsConfig": {"nameservers": []}}}"#,
        "Required spec.dnsConfig.nameservers",
    ),
    (
        r#"{"spec": {"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.2.3.4"]}}}"#,
        "",
    ),
    (
        r#"{"spec": {"dnsConfig": {"nameservers": ["x"]}}}"#,
        "Invalid spec.dnsConfig.nameservers[0]",
    ),
    (
        r#"{"spec": {"dnsConfig": {"nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"]}}}"#,
        "Invalid spec.dnsConfig.nameservers",
    ),
    (r#"{"spec": {"terminationGracePeriodSeconds": -1}}"#, ""),
    (
        r#"{"spec": {"dnsConfig": {"searches": [".", "a.", "_tcp.a_b.c", "x.y"], "options": [{"name": "ndots", "value": "2"}]}}}"#,
        "",
    ),
    (
        r#"{"spec": {"dnsConfig": {"searches": ["a_", "__a", "-a", "a-", "A", "a..b", ""]}}}"#,
        "Invalid spec.dnsConfig.searches[0], Invalid spec.dnsConfig.searches[1], Invalid spec.dnsConfig.searches[2], Invalid spec.dnsConfig.searches[3], Invalid spec.dnsConfig.searches[4], Invalid spec.dnsConfig.searches[5], Invalid spec.dnsConfig.searches[6]",
    ),
    (
        r#"{"spec": {"dnsConfig": {"options": [{"name": "", "value": "2"}]}}}"#,
        "Required spec.dnsConfig.options[0]",
    ),
    (r#"{"spec": {"hostUsers": false}}"#, ""),
    (
        r#"{"spec": {"hostUsers": false, "hostNetwork": true, "hostPID": true, "hostIPC": true}}"#,
        "Forbidden spec.hostNetwork, Forbidden spec.HostPID, Forbidden spec.HostIPC",
    ),
    (r#"{"spec": {"hostUsers": true, "hostNetwork": true}}"#, ""),
    (
        r#"{"spec": {"shareProcessNamespace": true, "hostPID": true}}"#,
        "Invalid spec.securityContext.shareProcessNamespace",
    ),
    (r#"{"spec": {"hostnameOverride": "a.b-c.example"}}"#, ""),
    (
        r#"{"spec": {"hostnameOverride": "A_"}}"#,
        "Invalid spec.hostnameOverride",
    ),
    (
        r#"{"spec": {"hostnameOverride": ""}}"#,
        "Invalid spec.hostnameOverride",
    ),
    (
        r#"{"spec": {"hostnameOverride": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"}}"#,
        "TooLong spec.hostnameOverride",
    ),
    (
        r#"{"spec": {"hostnameOverride": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"}}"#,
        "",
    ),
    (
        r#"{"spec": {"hostnameOverride": "a", "setHostnameAsFQDN": true}}"#,
        "Forbidden spec.hostnameOverride",
    ),
    (
        r#"{"spec": {"hostnameOverride": "a", "hostNetwork": true}}"#,
        "Forbidden spec.hostnameOverride",
    ),
    (r#"{"spec": {"imagePullSecrets": [{"name": ""}]}}"#, ""),
    (
        r#"{"spec": {"preemptionPolicy": ""}}"#,
        "Required spec.preemptionPolicy",
    ),
    (
        r#"{"spec": {"os": {"name": "windows"}, "hostUsers": false, "hostPID": true, "shareProcessNamespace": true,
            "securityContext": {"fsGroup": 1, "runAsUser": 1}}}"#,
        "Invalid spec.securityContext.shareProcessNamespace, Forbidden spec.HostPID, Forbidden spec.hostUsers, Forbidden spec.hostPID, Forbidden spec.securityContext.fsGroup, Forbidden spec.shareProcessNamespace, Forbidden spec.securityContext.runAsUser",
    ),
    (r#"{"spec": {"os": {"name": ""}}}"#, "Required spec.os.name"),
    (
        r#"{"spec": {"os": {"name": "plan9"}}}"#,
        "NotSupported spec.os",
    ),
    (
        r#"{"spec": {"os": {"name": "linux"}, "securityContext": {"windowsOptions": {}}}}"#,
        "Forbidden spec.securityContext.windowsOptions",
    ),
    (
        r#"{"spec": {"securityContext": {"fsGroupChangePolicy": "Never", "supplementalGroupsPolicy": "", "seLinuxChangePolicy": "x"}}}"#,
        "NotSupported spec.securityContext.fsGroupChangePolicy, NotSupported spec.securityContext.supplementalGroupsPolicy, NotSupported spec.securityContext.seLinuxChangePolicy",
    ),
    (
        r#"{"spec": {"securityContext": {"seccompProfile": {"type": "Localhost"}, "appArmorProfile": {"type": "Localhost"}}}}"#,
        "Required spec.securityContext.seccompProfile.localhostProfile, Required spec.securityContext.appArmorProfile.localhostProfile",
    ),
    (
        r#"{"spec": {"securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "/a/.."}, "appArmorProfile": {"type": "Localhost", "localhostProfile": "/a/.."}}}}"#,
        "Invalid spec.securityContext.seccompProfile.localhostProfile, Invalid spec.securityContext.seccompProfile.localhostProfile",
    ),
    (
        r#"{"spec": {"securityContext": {"appArmorProfile": {"type": "Localhost", "localhostProfile": " a"}}}}"#,
        "Invalid spec.securityContext.appArmorProfile.localhostProfile",
    ),
    (
        r#"{"spec": {"securityContext": {"seccompProfile": {"type": "Unconfined", "localhostProfile": "a"}, "appArmorProfile": {"type": "Unconfined", "localhostProfile": "a"}}}}"#,
        "Invalid spec.securityContext.seccompProfile.localhostProfile, Invalid spec.securityContext.appArmorProfile.localhostProfile",
    ),
    (
        r#"{"spec": {"securityContext": {"seccompProfile": {"type": ""}, "appArmorProfile": {"type": "x"}}}}"#,
        "Required spec.securityContext.seccompProfile.type, NotSupported spec.securityContext.appArmorProfile.type",
    ),
    (
        r#"{"spec": {"activeDeadlineSeconds": 0}}"#,
        "Invalid spec.activeDeadlineSeconds",
    ),
    (
        r#"{"spec": {"activeDeadlineSeconds": 2147483648}}"#,
        "Invalid spec.activeDeadlineSeconds",
    ),
    (r#"{"spec": {"activeDeadlineSeconds": 30}}"#, ""),
    (
        r#"{"spec": {"nodeSelector": {"-k": "v"}}}"#,
        "Invalid spec.nodeSelector",
    ),
    (
        r#"{"spec": {"nodeName": "Node_1"}}"#,
        "Invalid spec.nodeName",
    ),
    (
        r#"{"spec": {"serviceAccountName": "A"}}"#,
        "Invalid spec.serviceAccountName",
    ),
    (r#"{"spec": {"hostname": "a.b"}}"#, "Invalid spec.hostname"),
    (
        r#"{"spec": {"subdomain": "a.b"}}"#,
        "Invalid spec.subdomain",
    ),
    (
        r#"{"spec": {"priorityClassName": "A"}}"#,
        "Invalid spec.priorityClassName",
    ),
    (
        r#"{"spec": {"runtimeClassName": "A"}}"#,
        "Invalid spec.runtimeClassName",
    ),
    (
        r#"{"spec": {"hostAliases": [{"ip": "x", "hostnames": ["a"]}]}}"#,
        "Invalid spec.hostAliases[0].ip",
    ),
    (
        r#"{"spec": {"hostAliases": [{"ip": "1.2.3.4", "hostnames": ["A_"]}]}}"#,
        "Invalid spec.hostAliases[0].hostnames[0]",
    ),
    (
        r#"{"spec": {"tolerations": [{"key": "a", "operator": "Equal", "value": "b", "effect": "NoSchedule"}]}}"#,
        "",
    ),
    (
        r#"{"spec": {"tolerations": [{"operator": "Equal", "value": "b"}]}}"#,
        "Invalid spec.tolerations[0].operator",
    ),
    (
        r#"{"spec": {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}}"#,
        "Invalid spec.tolerations[0].operator",
    ),
    (
        r#"{"spec": {"tolerations": [{"key": "a", "operator": "In"}]}}"#,
        "NotSupported spec.tolerations[0].operator",
    ),
    (
        r#"{"spec": {"tolerations": [{"operator": "Exists", "effect": "Never"}]}}"#,
        "NotSupported spec.tolerations[0].effect",
    ),
    (
        r#"{"spec": {"tolerations": [{"operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 5}]}}"#,
        "Invalid spec.tolerations[0].effect",
    ),
    (
        r#"{"spec": {"readinessGates": [{"conditionType": "a b"}]}}"#,
        "Invalid spec.readinessGates[0].conditionType",
    ),
    (
        r#"{"spec": {"schedulingGates": [{"name": "a"}, {"name": "a"}]}}"#,
        "Duplicate spec.schedulingGates[1]",
    ),
    (
        r#"{"spec": {"schedulingGates": [{"name": "a b"}]}}"#,
        "Invalid spec.schedulingGates[0]",
    ),
    (
        r#"{"spec": {"ephemeralContainers": [{"name": "e", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}]}}"#,
        "Forbidden spec.ephemeralContainers",
    ),
    (
        r#"{"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}]}}"#,
        "",
    ),
    (
        r#"{"spec": {"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}]}}"#,
        "Invalid spec.topologySpreadConstraints[0].maxSkew",
    ),
    (
        r#"{"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "", "whenUnsatisfiable": "DoNotSchedule"}]}}"#,
        "Required spec.topologySpreadConstraints[0].topologyKey",
    ),
    (
        r#"{"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "X"}]}}"#,
        "NotSupported spec.topologySpreadConstraints[0].whenUnsatisfiable",
    ),
];

const CLAIMS: &[Case<'_>] = &[
    (
        r#"{"spec": {"resourceClaims": [{"name": "a", "resourceClaimName": "x"}, {"name": "b", "resourceClaimTemplateName": "y"}]}}"#,
        "",
    ),
    (
        r#"{"spec": {"resourceClaims": [{"name": "", "resourceClaimName": "x"}, {"name": "A", "resourceClaimName": "x"}]}}"#,
        "Required spec.resourceClaims[0].name, Invalid spec.resourceClaims[1].name",
    ),
    (
        r#"{"spec": {"resourceClaims": [{"name": "a", "resourceClaimName": "x"}, {"name": "a", "resourceClaimName": "X"}]}}"#,
        "Duplicate spec.resourceClaims[1].name, Invalid spec.resourceClaims[1].resourceClaimName",
    ),
    (
        r#"{"spec": {"resourceClaims": [{"name": "a"}, {"name": "b", "resourceClaimName": "x", "resourceClaimTemplateName": "y"}]}}"#,
        "Invalid spec.resourceClaims[0], Invalid spec.resourceClaims[1]",
    ),
];

const HOST_NETWORK: &[Case<'_>] = &[
    (r#"{"spec": {}}"#, ""),
    (
        r#"{"spec": {"containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File",
            "ports": [{"containerPort": 80, "hostPort": 81, "protocol": "TCP"}]}]}}"#,
        "Invalid spec.containers[0].ports[0].hostPort",
    ),
    (
        r#"{"spec": {"containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File",
            "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}}"#,
        "Invalid spec.containers[0].ports[0].hostPort",
    ),
];

/// Cases that patch the only container of a template.
const TEMPLATE: &[Case<'_>] = &[
    // Fields that only pods must have.
    (
        r#"{"template": {"spec": {"hostNetwork": true, "containers": [{"name": "c", "image": " i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File",
            "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}}}"#,
        "",
    ),
    (
        r#"{"template": {"spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File",
            "ports": [{"containerPort": 80, "hostPort": 81, "protocol": "TCP"}]}]}}}"#,
        "Invalid template.spec.containers[0].ports[0].hostPort",
    ),
    (
        r#"{"template": {"spec": {"volumes": [{"name": "t", "projected": {"defaultMode": 420, "sources": [{"serviceAccountToken": {"path": "p", "expirationSeconds": 600}}]}}]}}}"#,
        "",
    ),
];

const AFFINITY: &[Case<'_>] = &[
    (
        r#"{"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}}}"#,
        "Required spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms",
    ),
    (
        r#"{"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}]}}}}}"#,
        "",
    ),
    (
        r#"{"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In"}]}]}}}}}"#,
        "Required spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values",
    ),
    (
        r#"{"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1", "2"]}]}]}}}}}"#,
        "Required spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values",
    ),
    (
        r#"{"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 199, "preference": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}]}}}}"#,
        "Invalid spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight",
    ),
    (
        r#"{"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "", "labelSelector": {"matchLabels": {"a": "b"}}}]}}}}"#,
        "Required spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey, Invalid spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey, Invalid spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey",
    ),
    (
        r#"{"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In", "values": ["a b"]}]}]},
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["a b"]}]}}]}}}}"#,
        "Invalid spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values[0]",
    ),
    (
        r#"{"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": ["n"]}, {"key": "metadata.name", "operator": "In", "values": ["n", "m"]},
            {"key": "metadata.name", "operator": "Exists"}, {"key": "metadata.uid", "operator": "NotIn", "values": ["u"]}, {"key": "metadata.name", "operator": "In", "values": ["A_"]}]}]}}}}}"#,
        "Required spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[1].values, Invalid spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[2].operator, Invalid spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[3].key, Invalid spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[4].values[0]",
    ),
    (
        r#"{"spec": {"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 0, "podAffinityTerm": {"topologyKey": "z", "namespaces": ["A"]}}]}}}}"#,
        "Invalid spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight, Invalid spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.namespace",
    ),
];

/// Rules of annotations, windows' processes, huge pages and label keys.
const MORE: &[Case<'_>] = &[
    (
        r#"{"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "+1"}}}"#,
        "Invalid metadata.annotations[controller.kubernetes.io/pod-deletion-cost]",
    ),
    (
        r#"{"metadata": {"annotations": {"seccomp.security.alpha.kubernetes.io/pod": "x", "container.apparmor.security.beta.kubernetes.io/d": "x"}}}"#,
        "Invalid metadata.annotations.seccomp.security.alpha.kubernetes.io/pod, Invalid metadata.annotations[container.apparmor.security.beta.kubernetes.io/d], Invalid metadata.annotations[container.apparmor.security.beta.kubernetes.io/d]",
    ),
    (
        r#"{"metadata": {"annotations": {"seccomp.security.alpha.kubernetes.io/pod": "unconfined"}}, "spec": {"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}}}"#,
        "Forbidden spec.securityContext.seccompProfile.type",
    ),
    (
        r#"{"spec": {"securityContext": {"windowsOptions": {"hostProcess": true, "runAsUserName": ""}}}}"#,
        "Invalid spec.securityContext.windowsOptions.runAsUserName, Invalid spec.hostNetwork",
    ),
    (
        r#"{"spec": {"overhead": {"hugepages-2Mi": "3Mi", "cpu": "-1"}}}"#,
        "Invalid spec.overhead.limits[cpu], Invalid spec.overhead.limits[hugepages-2Mi]",
    ),
    (
        r#"{"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "a b", "whenUnsatisfiable": "DoNotSchedule", "matchLabelKeys": ["k"],
            "labelSelector": {"matchLabels": {"k": "v"}, "matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}]}}]}}"#,
        "Invalid spec.topologySpreadConstraints[0][0]",
    ),
    (
        r#"{"spec": {"resources": {"limits": {"cpu": "1", "ephemeral-storage": "1"}}, "containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File", "resources": {"limits": {"cpu": "2"}}}]}}"#,
        "NotSupported spec.resources.limits[ephemeral-storage], Invalid spec.resources.containers[0][cpu].limits",
    ),
    (
        r#"{"spec": {"securityContext": {"seLinuxChangePolicy": "MountOption"}}}"#,
        "NotSupported spec.securityContext.seLinuxChangePolicy",
    ),
    (
        r#"{"spec": {"tolerations": [{"key": "a", "operator": "Lt", "value": "1"}]}}"#,
        "NotSupported spec.tolerations[0].operator",
    ),
    (
        r#"{"spec": {"runtimeClassName": ""}}"#,
        "Invalid spec.runtimeClassName",
    ),
];

#[test]
fn more_rules() {
    assert_create("", "Pod", pod(), MORE);
}

const UPDATES: &[Case<'_>] = &[
    (
        r#"{"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}"#,
        "Invalid metadata.annotations[kubernetes.io/config.mirror], Forbidden metadata.annotations[kubernetes.io/config.mirror], Invalid metadata.annotations[kubernetes.io/config.mirror]",
    ),
    (
        r#"{"spec": {"activeDeadlineSeconds": -1}}"#,
        "Invalid spec.activeDeadlineSeconds, Invalid spec.activeDeadlineSeconds",
    ),
    (
        r#"{"spec": {"initContainers": [{"name": "i", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}]}}"#,
        "Forbidden spec.initContainers",
    ),
    (
        r#"{"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}}"#,
        "",
    ),
    (r#"{"spec": {"activeDeadlineSeconds": 5}}"#, ""),
    (r#"{"spec": {"restartPolicy": "Never"}}"#, "Forbidden spec"),
    (r#"{"spec": {"nodeName": "n"}}"#, "Forbidden spec"),
    (r#"{"spec": {"hostNetwork": true}}"#, "Forbidden spec"),
    (
        r#"{"spec": {"tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute"}]}}"#,
        "",
    ),
    (
        r#"{"spec": {"terminationGracePeriodSeconds": 5}}"#,
        "Forbidden spec",
    ),
];

#[test]
fn specs() {
    assert_create("", "Pod", pod(), SPEC);
}

#[test]
fn resource_claims() {
    assert_create("", "Pod", pod(), CLAIMS);
}

#[test]
fn ports_in_the_nodes_network() {
    let mut pod = pod();
    pod["spec"]["hostNetwork"] = json!(true);
    assert_create("", "Pod", pod, HOST_NETWORK);
}

#[test]
fn users_of_its_own() {
    let mut pod = pod();
    pod["spec"]["hostUsers"] = json!(false);
    pod["spec"]["containers"][0]["securityContext"] = json!({"procMount": "Unmasked"});
    assert_create(
        "",
        "Pod",
        pod,
        &[
            (
                r#"{"spec": {"hostUsers": true}}"#,
                "Invalid spec.containers[0].securityContext.procMount",
            ),
            (
                r#"{"spec": {"hostUsers": null}}"#,
                "Invalid spec.containers[0].securityContext.procMount",
            ),
            (
                r#"{"spec": {"hostNetwork": true}}"#,
                "Forbidden spec.hostNetwork",
            ),
            (r#"{"spec": {"hostPID": true}}"#, "Forbidden spec.HostPID"),
            (r#"{"spec": {"hostIPC": true}}"#, "Forbidden spec.HostIPC"),
        ],
    );
}

#[test]
fn templates() {
    let template = json!({"template": {"metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}});
    assert_create("", "PodTemplate", template, TEMPLATE);
}

#[test]
fn tokens_need_an_account() {
    let mut pod = pod();
    pod["spec"]["serviceAccountName"] = json!("a");
    pod["spec"]["volumes"] = json!([{"name": "t", "projected": {"sources": [
        {"serviceAccountToken": {"path": "p", "expirationSeconds": 600}}]}}]);
    assert_create(
        "",
        "Pod",
        pod,
        &[(
            r#"{"spec": {"serviceAccountName": null}}"#,
            "Forbidden spec.volumes[0].projected.sources[0].serviceAccountToken",
        )],
    );
}

#[test]
fn affinity() {
    assert_create("", "Pod", pod(), AFFINITY);
}

#[test]
fn updates() {
    assert_update("", "Pod", pod(), UPDATES);
}
