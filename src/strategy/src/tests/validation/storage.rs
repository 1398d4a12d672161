//! Volumes, claims and storage classes.

use serde_json::json;

use super::{assert_create, assert_update};

#[test]
fn claims() {
    let claim = json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10G"}}, "storageClassName": "s"}});
    assert_create(
        "",
        "PersistentVolumeClaim",
        claim.clone(),
        &[
            (
                r#"{"spec": {"accessModes": []}}"#,
                "Required spec.accessModes",
            ),
            (
                r#"{"spec": {"accessModes": ["fakemode"]}}"#,
                "NotSupported spec.accessModes",
            ),
            (
                r#"{"spec": {"accessModes": ["ReadWriteOncePod", "ReadWriteMany"]}}"#,
                "Forbidden spec.accessModes",
            ),
            (
                r#"{"spec": {"resources": {"requests": null}}}"#,
                "Required spec.resources[storage]",
            ),
            (
                r#"{"spec": {"resources": {"requests": {"storage": "-10G"}}}}"#,
                "Invalid spec.resources[storage]",
            ),
            (
                r#"{"spec": {"resources": {"requests": {"storage": "0"}}}}"#,
                "Invalid spec.resources[storage]",
            ),
            (
                r#"{"spec": {"storageClassName": "-invalid-"}}"#,
                "Invalid spec.storageClassName",
            ),
            (r#"{"spec": {"storageClassName": ""}}"#, ""),
            (
                r#"{"spec": {"volumeMode": "fakeMode"}}"#,
                "NotSupported spec.volumeMode",
            ),
            (
                r#"{"spec": {"selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}}"#,
                "Required spec.selector.matchExpressions[0].values",
            ),
            (
                r#"{"spec": {"dataSource": {"kind": "", "name": "d"}}}"#,
                "Required spec.dataSource.kind, Invalid spec.dataSource",
            ),
            (
                r#"{"spec": {"dataSource": {"kind": "PersistentVolumeClaim", "name": ""}}}"#,
                "Required spec.dataSource.name",
            ),
        ],
    );
    assert_update(
        "",
        "PersistentVolumeClaim",
        claim,
        &[
            (r#"{"metadata": {"labels": {"a": "b"}}}"#, ""),
            (r#"{"spec": {"volumeName": "v"}}"#, ""),
            (
                r#"{"spec": {"accessModes": ["ReadWriteMany"]}}"#,
                "Forbidden spec",
            ),
            (r#"{"spec": {"storageClassName": "t"}}"#, "Forbidden spec"),
        ],
    );
}

#[test]
fn volumes() {
    let volume = json!({"spec": {"capacity": {"storage": "10G"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/foo"}}});
    assert_create(
        "",
        "PersistentVolume",
        volume.clone(),
        &[
            (
                r#"{"spec": {"accessModes": []}}"#,
                "Required spec.accessModes",
            ),
            (
                r#"{"spec": {"accessModes": ["fakemode"]}}"#,
                "NotSupported spec.accessModes",
            ),
            (
                r#"{"spec": {"capacity": null}}"#,
                "Required spec.capacity, NotSupported spec.capacity",
            ),
            (
                r#"{"spec": {"capacity": {"storage": "-10G"}}}"#,
                "Invalid spec.capacity[storage], Invalid spec.capacity[storage]",
            ),
            (
                r#"{"spec": {"capacity": {"cpu": "1"}}}"#,
                "NotSupported spec.capacity",
            ),
            (r#"{"spec": {"hostPath": null}}"#, "Required spec"),
            (
                r#"{"spec": {"nfs": {"server": "s", "path": "/p"}}}"#,
                "Forbidden spec.nfs",
            ),
            (
                r#"{"spec": {"hostPath": {"path": "/a/.."}}}"#,
                "Invalid spec.hostPath.path",
            ),
            (
                r#"{"spec": {"hostPath": {"path": "/"}, "persistentVolumeReclaimPolicy": "Recycle"}}"#,
                "Forbidden spec.persistentVolumeReclaimPolicy",
            ),
            (
                r#"{"spec": {"persistentVolumeReclaimPolicy": "Keep"}}"#,
                "NotSupported spec.persistentVolumeReclaimPolicy",
            ),
            (
                r#"{"spec": {"storageClassName": "-invalid-"}}"#,
                "Invalid spec.storageClassName",
            ),
            (
                r#"{"spec": {"volumeMode": "fake"}}"#,
                "NotSupported spec.volumeMode",
            ),
            (
                r#"{"spec": {"nodeAffinity": {}}}"#,
                "Required spec.nodeAffinity.required",
            ),
            (
                r#"{"spec": {"hostPath": null, "local": {"path": "/p"}}}"#,
                "Required spec.nodeAffinity",
            ),
            (
                r#"{"spec": {"hostPath": null, "csi": {"driver": "d.example", "volumeHandle": ""}}}"#,
                "Required spec.csi.volumeHandle",
            ),
        ],
    );
    assert_update(
        "",
        "PersistentVolume",
        volume,
        &[
            (
                r#"{"spec": {"persistentVolumeReclaimPolicy": "Delete"}}"#,
                "",
            ),
            (
                r#"{"spec": {"hostPath": {"path": "/bar"}}}"#,
                "Forbidden spec.persistentvolumesource",
            ),
            (r#"{"spec": {"volumeMode": "Block"}}"#, "Invalid volumeMode"),
        ],
    );
}

#[test]
fn storage_classes() {
    assert_create(
        "storage.k8s.io",
        "StorageClass",
        json!({"provisioner": "kubernetes.io/foo-provisioner", "parameters": {"a": "b"}}),
        &[
            (r#"{"provisioner": ""}"#, "Required provisioner"),
            (
                r#"{"provisioner": "bad provisioner"}"#,
                "Invalid provisioner",
            ),
            (r#"{"parameters": {"": "v"}}"#, "Invalid parameters"),
            (
                r#"{"reclaimPolicy": "Recycle"}"#,
                "NotSupported reclaimPolicy",
            ),
            (
                r#"{"volumeBindingMode": "Later"}"#,
                "NotSupported volumeBindingMode",
            ),
            (
                r#"{"volumeBindingMode": null}"#,
                "Required volumeBindingMode",
            ),
        ],
    );
    assert_update(
        "storage.k8s.io",
        "StorageClass",
        json!({"provisioner": "example.com/p", "parameters": {"a": "b"}}),
        &[
            (r#"{"allowVolumeExpansion": true}"#, ""),
            (r#"{"provisioner": "example.com/q"}"#, "Invalid provisioner"),
            (r#"{"parameters": {"a": "c"}}"#, "Invalid parameters"),
            (r#"{"reclaimPolicy": "Retain"}"#, "Invalid reclaimPolicy"),
            (
                r#"{"volumeBindingMode": "WaitForFirstConsumer"}"#,
                "Invalid volumeBindingMode",
            ),
        ],
    );
}
