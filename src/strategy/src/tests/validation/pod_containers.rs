//! Containers of pods.

use serde_json::json;

use super::{Case, assert_create};

fn pod() -> serde_json::Value {
    json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

const CONTAINERS: &[Case<'_>] = &[
    (
        r#"{"spec": {"containers": [{"name": "", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}]}}"#,
        "Required spec.containers[0].name",
    ),
    (
        r#"{"spec": {"containers": [{"name": "A", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}]}}"#,
        "Invalid spec.containers[0].name",
    ),
    (
        r#"{"spec": {"containers": [{"name": "c", "image": "", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}]}}"#,
        "Required spec.containers[0].image",
    ),
    (
        r#"{"spec": {"containers": [{"name": "c", "image": " i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}]}}"#,
        "Invalid spec.containers[0].image",
    ),
    (
        r#"{"spec": {"containers": [{"name": "c", "image": "i", "imagePullPolicy": "Often", "terminationMessagePolicy": "File"}]}}"#,
        "NotSupported spec.containers[0].imagePullPolicy",
    ),
    (
        r#"{"spec": {"containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "Log"}]}}"#,
        "NotSupported spec.containers[0].terminationMessagePolicy",
    ),
    (
        r#"{"spec": {"containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"},
            {"name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}]}}"#,
        "Duplicate spec.containers[1].name",
    ),
    (
        r#"{"spec": {"initContainers": [{"name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}]}}"#,
        "Duplicate spec.initContainers[0].name",
    ),
    (
        r#"{"spec": {"initContainers": [{"name": "i", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File",
            "livenessProbe": {"exec": {"command": ["a"]}, "periodSeconds": 1, "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 1}}]}}"#,
        "Forbidden spec.initContainers[0].livenessProbe",
    ),
];

/// Cases that patch the pod's only container.
const CONTAINER: &[Case<'_>] = &[
    (
        r#"{"ports": [{"containerPort": 80, "protocol": "TCP"}]}"#,
        "",
    ),
    (
        r#"{"ports": [{"containerPort": 0, "protocol": "TCP"}]}"#,
        "Required spec.containers[0].ports[0].containerPort",
    ),
    (
        r#"{"ports": [{"containerPort": 65536, "protocol": "TCP"}]}"#,
        "Invalid spec.containers[0].ports[0].containerPort",
    ),
    (
        r#"{"ports": [{"containerPort": 80, "hostPort": 65536, "protocol": "TCP"}]}"#,
        "Invalid spec.containers[0].ports[0].hostPort",
    ),
    (
        r#"{"ports": [{"containerPort": 80, "protocol": "tcp"}]}"#,
        "NotSupported spec.containers[0].ports[0].protocol",
    ),
    (
        r#"{"ports": [{"containerPort": 80, "protocol": ""}]}"#,
        "Required spec.containers[0].ports[0].protocol",
    ),
    (
        r#"{"ports": [{"containerPort": 80, "protocol": "TCP", "name": "a-name-that-is-too-long"}]}"#,
        "Invalid spec.containers[0].ports[0].name",
    ),
    (
        r#"{"ports": [{"containerPort": 80, "protocol": "TCP", "name": "a"}, {"containerPort": 81, "protocol": "TCP", "name": "a"}]}"#,
        "Duplicate spec.containers[0].ports[1].name",
    ),
    (
        r#"{"ports": [{"containerPort": 80, "hostPort": 9, "protocol": "TCP"}, {"containerPort": 81, "hostPort": 9, "protocol": "TCP"}]}"#,
        "Duplicate spec.containers[0].ports[1].hostPort",
    ),
    (
        r#"{"ports": [{"containerPort": 80, "hostPort": 9, "protocol": "TCP"}, {"containerPort": 80, "hostPort": 9, "protocol": "UDP"}]}"#,
        "",
    ),
    (
        r#"{"env": [{"name": "A", "value": "v"}, {"name": "a.b-c", "value": ""}]}"#,
        "",
    ),
    (
        r#"{"env": [{"name": ""}]}"#,
        "Required spec.containers[0].env[0].name",
    ),
    (
        r#"{"env": [{"name": "a=b"}]}"#,
        "Invalid spec.containers[0].env[0].name",
    ),
    (
        r#"{"env": [{"name": "A", "valueFrom": {}}]}"#,
        "Invalid spec.containers[0].env[0].valueFrom",
    ),
    (
        r#"{"env": [{"name": "A", "value": "v", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}]}"#,
        "Invalid spec.containers[0].env[0].valueFrom",
    ),
    (
        r#"{"env": [{"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}]}"#,
        "",
    ),
    (
        r#"{"env": [{"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.whoops"}}}]}"#,
        "Invalid spec.containers[0].env[0].valueFrom.fieldRef.fieldPath",
    ),
    (
        r#"{"env": [{"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels"}}}]}"#,
        "NotSupported spec.containers[0].env[0].valueFrom.fieldRef.fieldPath",
    ),
    (
        r#"{"env": [{"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": ""}}}]}"#,
        "Required spec.containers[0].env[0].valueFrom.fieldRef.fieldPath",
    ),
    (
        r#"{"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "", "key": ""}}}]}"#,
        "Invalid spec.containers[0].env[0].valueFrom.secretKeyRef.name, Required spec.containers[0].env[0].valueFrom.secretKeyRef.key",
    ),
    (
        r#"{"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "a/b"}}}]}"#,
        "Invalid spec.containers[0].env[0].valueFrom.configMapKeyRef.key",
    ),
    (
        r#"{"env": [{"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels['a b']"}}}]}"#,
        "Invalid spec.containers[0].env[0].valueFrom.fieldRef",
    ),
    (
        r#"{"env": [{"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.annotations['Foo.bar/Key']"}}},
            {"name": "B", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels['Key']"}}}]}"#,
        "",
    ),
    (
        r#"{"env": [{"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name['a']"}}}]}"#,
        "Invalid spec.containers[0].env[0].valueFrom.fieldRef.fieldPath",
    ),
    (
        r#"{"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1k"}}},
            {"name": "B", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
            {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "requests.memory", "divisor": "1m"}}},
            {"name": "D", "valueFrom": {"resourceFieldRef": {"resource": "requests.ephemeral-storage", "divisor": "2"}}},
            {"name": "E", "valueFrom": {"resourceFieldRef": {"resource": "limits.hugepages-1Gi", "divisor": "3"}}},
            {"name": "F", "valueFrom": {"resourceFieldRef": {"resource": "limits.disk", "divisor": "3"}}},
            {"name": "G", "valueFrom": {"resourceFieldRef": {"resource": "", "divisor": "0"}}}]}"#,
        "Invalid spec.containers[0].env[0].valueFrom.resourceFieldRef.divisor, Invalid spec.containers[0].env[2].valueFrom.resourceFieldRef.divisor, Invalid spec.containers[0].env[3].valueFrom.resourceFieldRef.divisor, Invalid spec.containers[0].env[4].valueFrom.resourceFieldRef.divisor, NotSupported spec.containers[0].env[5].valueFrom.resourceFieldRef.resource, Required spec.containers[0].env[6].valueFrom.resourceFieldRef.resource",
    ),
    (
        r#"{"env": [{"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "nowhere", "path": "f", "key": "K"}}}]}"#,
        "NotFound spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName",
    ),
    (
        r#"{"env": [{"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "", "path": "", "key": ""}}}]}"#,
        "Required spec.containers[0].env[0].valueFrom.fileKeyRef.key, Required spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName, Required spec.containers[0].env[0].valueFrom.fileKeyRef.path, NotFound spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName",
    ),
    (
        r#"{"env": [{"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "A B", "path": "/a/../b", "key": "a=b"}}}]}"#,
        "Invalid spec.containers[0].env[0].valueFrom.fileKeyRef.key, Invalid spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName, Invalid spec.containers[0].env[0].valueFrom.fileKeyRef.path, NotFound spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName",
    ),
    (
        r#"{"envFrom": [{"configMapRef": {"name": "A"}}, {"secretRef": {"name": ""}}, {"secretRef": {"name": "a-"}}]}"#,
        "Invalid spec.containers[0].envFrom[0].configMapRef.name, Required spec.containers[0].envFrom[1].secretRef.name",
    ),
    (r#"{"envFrom": [{}]}"#, "Invalid spec.containers[0].envFrom"),
    (
        r#"{"envFrom": [{"prefix": "a=", "configMapRef": {"name": "m"}}]}"#,
        "Invalid spec.containers[0].envFrom[0].prefix",
    ),
    (
        r#"{"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}}"#,
        "",
    ),
    (
        r#"{"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}"#,
        "Invalid spec.containers[0].resources.requests",
    ),
    (
        r#"{"resources": {"requests": {"cpu": "-1"}}}"#,
        "Invalid spec.containers[0].resources.requests[cpu]",
    ),
    (
        r#"{"resources": {"requests": {"disk": "1"}}}"#,
        "Invalid spec.containers[0].resources.requests[disk], Invalid spec.containers[0].resources.requests[disk]",
    ),
    (
        r#"{"resources": {"requests": {"example.com/gpu": "1"}, "limits": {"example.com/gpu": "1"}}}"#,
        "",
    ),
    (
        r#"{"resources": {"requests": {"example.com/gpu": "1"}}}"#,
        "Required spec.containers[0].resources.limits",
    ),
    (
        r#"{"resources": {"requests": {"example.com/gpu": "500m"}, "limits": {"example.com/gpu": "500m"}}}"#,
        "Invalid spec.containers[0].resources.limits[example.com/gpu], Invalid spec.containers[0].resources.requests[example.com/gpu]",
    ),
    (
        r#"{"resources": {"limits": {"hugepages-2Mi": "4Mi"}}}"#,
        "Forbidden spec.containers[0].resources",
    ),
    (
        r#"{"volumeMounts": [{"name": "v", "mountPath": "/v"}]}"#,
        "NotFound spec.containers[0].volumeMounts[0].name",
    ),
    (
        r#"{"volumeMounts": [{"name": "", "mountPath": ""}]}"#,
        "Required spec.containers[0].volumeMounts[0].name, NotFound spec.containers[0].volumeMounts[0].name, Required spec.containers[0].volumeMounts[0].mountPath",
    ),
    (
        r#"{"workingDir": "/w", "command": ["a"], "args": ["b"]}"#,
        "",
    ),
    (
        r#"{"lifecycle": {"postStart": {}}}"#,
        "Required spec.containers[0].lifecycle.postStart",
    ),
    (
        r#"{"lifecycle": {"preStop": {"exec": {"command": []}}}}"#,
        "Required spec.containers[0].lifecycle.preStop.exec.command",
    ),
    (
        r#"{"lifecycle": {"preStop": {"exec": {"command": ["a"]}}}}"#,
        "",
    ),
    (
        r#"{"livenessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1, "timeoutSeconds": 1, "successThreshold": 2, "failureThreshold": 1}}"#,
        "Invalid spec.containers[0].livenessProbe.successThreshold",
    ),
    (
        r#"{"readinessProbe": {"periodSeconds": 1, "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 1}}"#,
        "Required spec.containers[0].readinessProbe",
    ),
    (
        r#"{"readinessProbe": {"tcpSocket": {"port": 80}, "exec": {"command": ["a"]}, "periodSeconds": 1, "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 1}}"#,
        "Forbidden spec.containers[0].readinessProbe.tcpSocket",
    ),
    (
        r#"{"readinessProbe": {"httpGet": {"path": "/", "port": 80, "scheme": "FTP"}, "periodSeconds": 1, "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 1}}"#,
        "NotSupported spec.containers[0].readinessProbe.httpGet.scheme",
    ),
    (
        r#"{"readinessProbe": {"tcpSocket": {"port": 0}, "initialDelaySeconds": -1, "periodSeconds": 1, "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 1}}"#,
        "Invalid spec.containers[0].readinessProbe.tcpSocket.port, Invalid spec.containers[0].readinessProbe.initialDelaySeconds",
    ),
    (
        r#"{"securityContext": {"privileged": true, "allowPrivilegeEscalation": false}}"#,
        "Invalid spec.containers[0].securityContext",
    ),
    (
        r#"{"securityContext": {"runAsUser": -1}}"#,
        "Invalid spec.containers[0].securityContext.runAsUser",
    ),
    (
        r#"{"securityContext": {"procMount": "Other"}}"#,
        "NotSupported spec.containers[0].securityContext.procMount",
    ),
    (
        r#"{"securityContext": {"seccompProfile": {"type": "Localhost"}}}"#,
        "Required spec.containers[0].securityContext.seccompProfile.localhostProfile",
    ),
];

#[test]
fn containers() {
    assert_create("", "Pod", pod(), CONTAINERS);
}

#[test]
fn fields_of_a_container() {
    let patches: Vec<(String, &str)> = CONTAINER
        .iter()
        .map(|(fields, want)| {
            let rest = fields.trim_start().trim_start_matches('{');
            let container = format!(
                r#"{{"name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File", {rest}"#
            );
            (format!(r#"{{"spec": {{"containers": [{container}]}}}}"#), *want)
        })
        .collect();
    let cases: Vec<(&str, &str)> = patches.iter().map(|(p, w)| (p.as_str(), *w)).collect();
    assert_create("", "Pod", pod(), &cases);
}
