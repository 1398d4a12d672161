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
        "Forbidden spec.setHostnameAsFQDN",
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
        "NotSupported spec.os.name",
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
        "Required spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName, Required spec.containers[0].env[0].valueFrom.fileKeyRef.path, Required spec.containers[0].env[0].valueFrom.fileKeyRef.key",
    ),
    (
        r#"{"env": [{"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "A B", "path": "/a/../b", "key": "a=b"}}}]}"#,
        "Invalid spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName, Invalid spec.containers[0].env[0].valueFrom.fileKeyRef.path, Invalid spec.containers[0].env[0].valueFrom.fileKeyRef.path, Invalid spec.containers[0].env[0].valueFrom.fileKeyRef.key",
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
        "Invalid spec.containers[0].resources.requests[disk]",
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

const VOLUMES: &[Case<'_>] = &[
    (
        r#"{"spec": {"volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "hostPath": {"path": "/p", "type": "Directory"}}]}}"#,
        "",
    ),
    (
        r#"{"spec": {"volumes": [{"name": "", "emptyDir": {}}]}}"#,
        "Required spec.volumes[0].name",
    ),
    (
        r#"{"spec": {"volumes": [{"name": "a.b", "emptyDir": {}}]}}"#,
        "Invalid spec.volumes[0].name",
    ),
    (
        r#"{"spec": {"volumes": [{"name": "v", "emptyDir": {}}, {"name": "v", "emptyDir": {}}]}}"#,
        "Duplicate spec.volumes[1].name",
    ),
    (
        r#"{"spec": {"volumes": [{"name": "v"}]}}"#,
        "Required spec.volumes[0]",
    ),
    (
        r#"{"spec": {"volumes": [{"name": "v", "emptyDir": {}, "nfs": {"server": "s", "path": "/p"}}]}}"#,
        "Forbidden spec.volumes[0].nfs",
    ),
    (
        r#"{"spec": {"volumes": [{"name": "v", "hostPath": {"path": ""}}]}}"#,
        "Required spec.volumes[0].hostPath.path",
    ),
    (
        r#"{"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/a/../b"}}]}}"#,
        "Invalid spec.volumes[0].hostPath.path",
    ),
    (
        r#"{"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/a", "type": "Any"}}]}}"#,
        "NotSupported spec.volumes[0].hostPath.type",
    ),
    (
        r#"{"spec": {"volumes": [{"name": "v", "nfs": {"server": "", "path": "p"}}]}}"#,
        "Required spec.volumes[0].nfs.server, Invalid spec.volumes[0].nfs.path",
    ),
    (
        r#"{"spec": {"volumes": [{"name": "v", "secret": {"secretName": ""}}]}}"#,
        "Required spec.volumes[0].secret.secretName",
    ),
    (
        r#"{"spec": {"volumes": [{"name": "v", "secret": {"secretName": "s", "defaultMode": 512}}]}}"#,
        "Invalid spec.volumes[0].secret.defaultMode",
    ),
    (
        r#"{"spec": {"volumes": [{"name": "v", "configMap": {"name": "m", "defaultMode": 420, "items": [{"key": "", "path": "../a"}]}}]}}"#,
        "Required spec.volumes[0].configMap.items[0].key, Invalid spec.volumes[0].configMap.items[0].path",
    ),
    (
        r#"{"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": ""}}]}}"#,
        "Required spec.volumes[0].persistentVolumeClaim.claimName",
    ),
    (
        r#"{"spec": {"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "-1"}}]}}"#,
        "Forbidden spec.volumes[0].emptyDir.sizeLimit",
    ),
    (
        r#"{"spec": {"volumes": [{"name": "v", "ephemeral": {}}]}}"#,
        "Required spec.volumes[0].ephemeral.volumeClaimTemplate",
    ),
    (
        r#"{"spec": {"volumes": [{"name": "v", "iscsi": {"targetPortal": "", "iqn": "", "lun": 256}}]}}"#,
        "Required spec.volumes[0].iscsi.targetPortal, Required spec.volumes[0].iscsi.iqn, Invalid spec.volumes[0].iscsi.lun",
    ),
    (
        r#"{"spec": {"volumes": [{"name": "v", "csi": {"driver": ""}}]}}"#,
        "Required spec.volumes[0].csi.driver",
    ),
    (
        r#"{"spec": {"volumes": [{"name": "v", "image": {"reference": "", "pullPolicy": "Always"}}]}}"#,
        "Required spec.volumes[0].image.reference",
    ),
];

/// Cases of a container's mounts and devices, with the volumes `e`, an emptyDir, `p` and `q`,
/// claims, and `s`, a secret.
const MOUNTS: &[Case<'_>] = &[
    (
        r#"{"volumeMounts": [{"name": "e", "mountPath": "/e"}, {"name": "e", "mountPath": "/f", "subPath": "a/b"}]}"#,
        "",
    ),
    (
        r#"{"volumeMounts": [{"name": "e", "mountPath": "/e"}, {"name": "s", "mountPath": "/e"}]}"#,
        "Invalid spec.containers[0].volumeMounts[1].mountPath",
    ),
    (
        r#"{"volumeMounts": [{"name": "e", "mountPath": "/e", "subPath": "/a"}]}"#,
        "Invalid spec.containers[0].volumeMounts.subPath",
    ),
    (
        r#"{"volumeMounts": [{"name": "e", "mountPath": "/e", "subPath": "a/../b"}]}"#,
        "Invalid spec.containers[0].volumeMounts.subPath",
    ),
    (
        r#"{"volumeMounts": [{"name": "e", "mountPath": "/e", "subPath": "a", "subPathExpr": "../b"}]}"#,
        "Invalid spec.containers[0].volumeMounts[0].subPathExpr, Invalid spec.containers[0].volumeMounts.subPathExpr",
    ),
    (
        r#"{"volumeMounts": [{"name": "e", "mountPath": "/e", "mountPropagation": "Both"}]}"#,
        "NotSupported spec.containers[0].volumeMounts.mountPropagation",
    ),
    (
        r#"{"volumeMounts": [{"name": "e", "mountPath": "/e", "mountPropagation": "Bidirectional"}]}"#,
        "Forbidden spec.containers[0].volumeMounts.mountPropagation",
    ),
    (
        r#"{"securityContext": {"privileged": true}, "volumeMounts": [{"name": "e", "mountPath": "/e", "mountPropagation": "Bidirectional"}]}"#,
        "",
    ),
    (
        r#"{"volumeMounts": [{"name": "e", "mountPath": "/e", "readOnly": true, "recursiveReadOnly": "Enabled"}]}"#,
        "",
    ),
    (
        r#"{"volumeMounts": [{"name": "e", "mountPath": "/e", "recursiveReadOnly": "IfPossible", "mountPropagation": "HostToContainer"}]}"#,
        "Forbidden spec.containers[0].volumeMounts.recursiveReadOnly, Forbidden spec.containers[0].volumeMounts.recursiveReadOnly",
    ),
    (
        r#"{"volumeMounts": [{"name": "e", "mountPath": "/e", "recursiveReadOnly": "Yes"}]}"#,
        "NotSupported spec.containers[0].volumeMounts.recursiveReadOnly",
    ),
    (
        r#"{"volumeDevices": [{"name": "p", "devicePath": "/dev/x"}]}"#,
        "",
    ),
    (
        r#"{"volumeDevices": [{"name": "e", "devicePath": "/dev/x"}]}"#,
        "Invalid spec.containers[0].volumeDevices[0].name",
    ),
    (
        r#"{"volumeDevices": [{"name": "x", "devicePath": "/dev/x"}]}"#,
        "NotFound spec.containers[0].volumeDevices[0].name",
    ),
    (
        r#"{"volumeDevices": [{"name": "", "devicePath": ""}]}"#,
        "Required spec.containers[0].volumeDevices[0].name, NotFound spec.containers[0].volumeDevices[0].name, Required spec.containers[0].volumeDevices[0].devicePath",
    ),
    (
        r#"{"volumeDevices": [{"name": "p", "devicePath": "/dev/x"}, {"name": "q", "devicePath": "/dev/x"}]}"#,
        "Invalid spec.containers[0].volumeDevices[1].devicePath",
    ),
    (
        r#"{"volumeDevices": [{"name": "p", "devicePath": "/dev/x"}, {"name": "p", "devicePath": "/dev/y"}]}"#,
        "Invalid spec.containers[0].volumeDevices[1].name",
    ),
    (
        r#"{"volumeDevices": [{"name": "p", "devicePath": "/dev/../x"}]}"#,
        "Invalid spec.containers[0].volumeDevices[0].devicePath",
    ),
    (
        r#"{"volumeMounts": [{"name": "p", "mountPath": "/p"}], "volumeDevices": [{"name": "p", "devicePath": "/p"}]}"#,
        "Invalid spec.containers[0].volumeMounts[0].name, Invalid spec.containers[0].volumeMounts[0].mountPath, Invalid spec.containers[0].volumeDevices[0].name, Invalid spec.containers[0].volumeDevices[0].devicePath",
    ),
    (
        r#"{"env": [{"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "e", "path": "a/f.env", "key": "K", "optional": false}}}]}"#,
        "",
    ),
    (
        r#"{"env": [{"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "s", "path": "f", "key": "K"}}}]}"#,
        "Invalid spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName",
    ),
    (
        r#"{"env": [{"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "e", "path": "..f", "key": "K"}}}]}"#,
        "Invalid spec.containers[0].env[0].valueFrom.fileKeyRef.path",
    ),
    (
        r#"{"resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}, {"resourceName": "memory", "restartPolicy": "RestartContainer"}]}"#,
        "",
    ),
    (
        r#"{"resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}, {"resourceName": "cpu", "restartPolicy": ""}]}"#,
        "Duplicate spec.containers[0].resizePolicy[1], Required spec.containers[0].resizePolicy",
    ),
    (
        r#"{"resizePolicy": [{"resourceName": "disk", "restartPolicy": "Maybe"}]}"#,
        "NotSupported spec.containers[0].resizePolicy, NotSupported spec.containers[0].resizePolicy",
    ),
    (
        r#"{"resources": {"claims": [{"name": "c"}, {"name": "c", "request": "r"}]}}"#,
        "",
    ),
    (
        r#"{"resources": {"claims": [{"name": "c"}, {"name": "c"}, {"name": "x"}, {"name": ""}]}}"#,
        "Duplicate spec.containers[0].resources.claims[1], NotFound spec.containers[0].resources.claims[2], Required spec.containers[0].resources.claims[3]",
    ),
    (
        r#"{"securityContext": {"procMount": "Unmasked"}}"#,
        "Invalid spec.containers[0].securityContext.procMount",
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
    // What only pods must have.
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

const UPDATES: &[Case<'_>] = &[
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

#[test]
fn mounts_and_devices() {
    let patches: Vec<(String, &str)> = MOUNTS
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
    let mut pod = pod();
    pod["spec"]["volumes"] = json!([
        {"name": "e", "emptyDir": {}},
        {"name": "p", "persistentVolumeClaim": {"claimName": "p"}},
        {"name": "q", "persistentVolumeClaim": {"claimName": "q"}},
        {"name": "s", "secret": {"secretName": "s"}},
    ]);
    pod["spec"]["resourceClaims"] = json!([{"name": "c", "resourceClaimName": "c"}]);
    assert_create("", "Pod", pod, &cases);
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
fn volumes() {
    assert_create("", "Pod", pod(), VOLUMES);
}

#[test]
fn affinity() {
    assert_create("", "Pod", pod(), AFFINITY);
}

#[test]
fn updates() {
    assert_update("", "Pod", pod(), UPDATES);
}
