//! Volumes of pods, and their mounts.

use serde_json::json;

use super::{Case, assert_create};

fn pod() -> serde_json::Value {
    json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

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
        "",
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
        r#"{"resources": {"claims": [{"name": "c", "request": "r"}, {"name": "c", "request": "s"}]}}"#,
        "",
    ),
    (
        r#"{"resources": {"claims": [{"name": "c"}, {"name": "c", "request": "r"}]}}"#,
        "Duplicate spec.containers[0].resources.claims[1]",
    ),
    (
        r#"{"resources": {"claims": [{"name": "c", "request": "r"}, {"name": "c"}]}}"#,
        "Duplicate spec.containers[0].resources.claims[1]",
    ),
    (
        r#"{"resources": {"claims": [{"name": "c", "request": "R"}]}}"#,
        "Invalid spec.containers[0].resources.claims[0].request",
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

/// Volumes of each type, with what is wrong in upstream's order.
const SOURCES: &[Case<'_>] = &[
    (
        r#"{"nfs": {"server": "", "path": ""}}"#,
        "Required @.nfs.server, Required @.nfs.path, Invalid @.nfs.path",
    ),
    (
        r#"{"gcePersistentDisk": {"pdName": "", "partition": 256}}"#,
        "Required @.persistentDisk.pdName, Invalid @.persistentDisk.partition",
    ),
    (
        r#"{"gitRepo": {"repository": "r", "directory": "/../a"}}"#,
        "Invalid @.gitRepo.directory, Invalid @.gitRepo.directory",
    ),
    (
        r#"{"iscsi": {"targetPortal": "", "iqn": "x", "lun": 256, "chapAuthSession": true, "initiatorName": "iqn"}}"#,
        "Required @.iscsi.targetPortal, Invalid @.iscsi.iqn, Invalid @.iscsi.lun, Required @.iscsi.secretRef, Invalid @.iscsi.initiatorname",
    ),
    (
        r#"{"flocker": {"datasetName": "a/b", "datasetUUID": "u"}}"#,
        "Invalid @.flocker, Invalid @.flocker.datasetName",
    ),
    (
        r#"{"quobyte": {"registry": "a,b:1", "volume": ""}}"#,
        "Invalid @.quobyte.registry, Required @.quobyte.volume",
    ),
    (
        r#"{"fc": {"targetWWNs": ["w"], "wwids": ["w"]}}"#,
        "Invalid @.fc.targetWWNs, Required @.fc.lun",
    ),
    (
        r#"{"flexVolume": {"driver": "", "options": {"k8s.io/a": "b"}}}"#,
        "Required @.flexVolume.driver, Invalid @.flexVolume.options[k8s.io/a]",
    ),
    (
        r#"{"azureDisk": {"diskName": "d", "diskURI": "u", "kind": "Managed", "cachingMode": "x"}}"#,
        "NotSupported @.azureDisk.cachingMode, NotSupported @.azureDisk.diskURI",
    ),
    (
        r#"{"storageos": {"volumeName": "A", "secretRef": {}}}"#,
        "Invalid @.storageos.volumeName, Required @.storageos.secretRef.name",
    ),
    (
        r#"{"scaleIO": {}}"#,
        "Required @.scaleIO.gateway, Required @.scaleIO.system, Required @.scaleIO.volumeName",
    ),
    (
        r#"{"csi": {"driver": "a_b", "nodePublishSecretRef": {"name": "A"}}}"#,
        "Invalid @.csi.driver, Invalid @.csi.name",
    ),
    (
        r#"{"emptyDir": {}, "cephfs": {}, "downwardAPI": {}}"#,
        "Forbidden @.cephFS, Forbidden @.downwarAPI",
    ),
    (
        r#"{"downwardAPI": {"items": [{"path": "..a"}]}}"#,
        "Invalid @.downwardAPI.path, Required @.downwardAPI",
    ),
    (
        r#"{"projected": {"sources": [{"secret": {"name": "s", "items": [{"key": "k", "path": "a"}]}, "configMap": {"name": "m", "items": [{"key": "k", "path": "a"}]}}]}}"#,
        "Invalid @.projected, Forbidden @.projected.sources[0]",
    ),
    (r#"{"projected": {"sources": [{}]}}"#, ""),
    (
        r#"{"ephemeral": {"volumeClaimTemplate": {"metadata": {"name": "x", "uid": "u", "ownerReferences": []}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1"}}}}}}"#,
        "Forbidden @.ephemeral.volumeClaimTemplate.metadata.name, Forbidden @.ephemeral.volumeClaimTemplate.metadata.uID, Forbidden @.ephemeral.volumeClaimTemplate.metadata.ownerReferences",
    ),
    (
        r#"{"image": {"reference": "", "pullPolicy": ""}}"#,
        "Required @.image.reference, Required @.image.pullPolicy",
    ),
];

#[test]
fn sources_of_volumes() {
    super::assert_item(
        ("", "Pod"),
        pod(),
        (json!({"name": "v"}), "spec.volumes[0]"),
        |volume| json!({"spec": {"volumes": [volume]}}),
        SOURCES,
    );
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
fn volumes() {
    assert_create("", "Pod", pod(), VOLUMES);
}
