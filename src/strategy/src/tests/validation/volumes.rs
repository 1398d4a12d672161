//! Storage classes, CSI drivers and nodes, volume attachments and attributes.

use serde_json::{Value, json};

use super::{Case, assert_create, assert_item, assert_update};

const GROUP: &str = "storage.k8s.io";

#[test]
fn storage_classes() {
    let cases: &[Case<'_>] = &[
        (r#"{"provisioner": "Example.COM/Disk"}"#, ""),
        (r#"{"parameters": {"a": "", "B c": "d"}}"#, ""),
        (
            r#"{"reclaimPolicy": "Recycle"}"#,
            "NotSupported reclaimPolicy",
        ),
        (
            r#"{"volumeBindingMode": null}"#,
            "Required volumeBindingMode",
        ),
        (
            r#"{"allowVolumeExpansion": true, "mountOptions": ["ro", "soft"]}"#,
            "",
        ),
    ];
    let class = json!({"provisioner": "example.com/p"});
    assert_create(GROUP, "StorageClass", class.clone(), cases);
    let many: serde_json::Map<String, Value> =
        (0..513).map(|i| (format!("k{i}"), json!("v"))).collect();
    let cases = [
        (
            json!({"parameters": many}).to_string(),
            "TooLong parameters",
        ),
        (
            json!({"parameters": {"k": "v".repeat(256 << 10)}}).to_string(),
            "TooLong parameters",
        ),
        (
            json!({"parameters": {"k": "v".repeat((256 << 10) - 1)}}).to_string(),
            "",
        ),
    ];
    let cases: Vec<Case<'_>> = cases.iter().map(|(p, w)| (p.as_str(), *w)).collect();
    assert_create(GROUP, "StorageClass", class, &cases);
}

#[test]
fn topologies_of_storage_classes() {
    let term = json!({"matchLabelExpressions": [{"key": "zone", "values": ["a"]}]});
    let wrap = |term| json!({"allowedTopologies": [term]});
    let cases: &[Case<'_>] = &[
        ("{}", ""),
        (
            r#"{"matchLabelExpressions": [{"key": "zone", "values": ["a"]}, {"key": "region", "values": ["r", "s"]}]}"#,
            "",
        ),
        (
            r#"{"matchLabelExpressions": [{"key": "zone", "values": ["a"]}, {"key": "zone", "values": ["b"]}]}"#,
            "Duplicate @.matchLabelExpressions[1].key",
        ),
        (
            r#"{"matchLabelExpressions": [{"key": "zone", "values": ["a", "a"]}]}"#,
            "Duplicate @.matchLabelExpressions[0].values[1]",
        ),
        (
            r#"{"matchLabelExpressions": [{"key": "a b", "values": ["a"]}]}"#,
            "Invalid @.matchLabelExpressions[0].key",
        ),
        (
            r#"{"matchLabelExpressions": [{"key": "zone"}]}"#,
            "Required @.matchLabelExpressions[0].values",
        ),
        (
            r#"{"matchLabelExpressions": []}"#,
            "Duplicate @.matchLabelExpressions",
        ),
    ];
    let class = json!({"provisioner": "example.com/p"});
    let item = (term, "allowedTopologies[0]");
    assert_item((GROUP, "StorageClass"), class.clone(), item, wrap, cases);
    // The order of values does not distinguish terms; that of keys does not either.
    let wrap = |term| {
        let first = json!({"matchLabelExpressions": [
            {"key": "zone", "values": ["a", "b"]}, {"key": "region", "values": ["r"]}]});
        json!({"allowedTopologies": [first, term]})
    };
    let cases: &[Case<'_>] = &[
        (
            r#"{"matchLabelExpressions": [{"key": "region", "values": ["r"]}, {"key": "zone", "values": ["b", "a"]}]}"#,
            "Duplicate @.matchLabelExpressions",
        ),
        (
            r#"{"matchLabelExpressions": [{"key": "region", "values": ["r"]}, {"key": "zone", "values": ["a"]}]}"#,
            "",
        ),
    ];
    let item = (json!({}), "allowedTopologies[1]");
    assert_item((GROUP, "StorageClass"), class, item, wrap, cases);
}

#[test]
fn csi_drivers() {
    let cases: &[Case<'_>] = &[
        (
            r#"{"spec": {"attachRequired": null}}"#,
            "Required spec.attachedRequired",
        ),
        (
            r#"{"spec": {"podInfoOnMount": null}}"#,
            "Required spec.podInfoOnMount",
        ),
        (
            r#"{"spec": {"storageCapacity": null}}"#,
            "Required spec.storageCapacity",
        ),
        (
            r#"{"spec": {"seLinuxMount": null}}"#,
            "Required spec.seLinuxMount",
        ),
        (r#"{"spec": {"fsGroupPolicy": null}}"#, ""),
        (r#"{"spec": {"fsGroupPolicy": "None"}}"#, ""),
        (r#"{"spec": {"fsGroupPolicy": "File"}}"#, ""),
        (
            r#"{"spec": {"fsGroupPolicy": "Some"}}"#,
            "NotSupported spec.fsGroupPolicy",
        ),
        (r#"{"spec": {"volumeLifecycleModes": []}}"#, ""),
        (r#"{"spec": {"volumeLifecycleModes": ["Ephemeral"]}}"#, ""),
        (
            r#"{"spec": {"volumeLifecycleModes": ["Persistent", "Short", "Ephemeral"]}}"#,
            "NotSupported spec.volumeLifecycleModes",
        ),
        (
            r#"{"spec": {"tokenRequests": [{"audience": "a", "expirationSeconds": 600}, {"audience": ""}]}}"#,
            "",
        ),
        (
            r#"{"spec": {"tokenRequests": [{"audience": "a"}, {"audience": "a", "expirationSeconds": 1}]}}"#,
            "Duplicate spec.tokenRequests[1].audience",
        ),
        (
            r#"{"spec": {"tokenRequests": [{"audience": ""}, {"audience": ""}]}}"#,
            "Duplicate spec.tokenRequests[1].audience",
        ),
        (
            r#"{"spec": {"tokenRequests": [{"audience": "a", "expirationSeconds": 599}]}}"#,
            "Invalid spec.tokenRequests[0].expirationSeconds",
        ),
        (
            r#"{"spec": {"tokenRequests": [{"audience": "a", "expirationSeconds": 4294967297}]}}"#,
            "Invalid spec.tokenRequests[0].expirationSeconds",
        ),
        (
            r#"{"spec": {"nodeAllocatableUpdatePeriodSeconds": 10}}"#,
            "",
        ),
        (
            r#"{"spec": {"nodeAllocatableUpdatePeriodSeconds": 9}}"#,
            "Invalid spec.nodeAllocatableUpdatePeriodSeconds",
        ),
    ];
    assert_create(GROUP, "CSIDriver", json!({"spec": {}}), cases);
    let cases: &[Case<'_>] = &[
        (
            r#"{"spec": {"podInfoOnMount": true, "storageCapacity": true}}"#,
            "",
        ),
        (
            r#"{"spec": {"fsGroupPolicy": "File", "requiresRepublish": true}}"#,
            "",
        ),
        (
            r#"{"spec": {"attachRequired": false}}"#,
            "Invalid spec.attachedRequired",
        ),
        (
            r#"{"spec": {"volumeLifecycleModes": ["Ephemeral"]}}"#,
            "Invalid spec.volumeLifecycleModes",
        ),
    ];
    assert_update(GROUP, "CSIDriver", json!({"spec": {}}), cases);
}

#[test]
fn csi_nodes() {
    let long = |n: usize| json!({"nodeID": "n".repeat(n)}).to_string();
    let (longest, longer) = (long(256), long(257));
    let name = |n: usize| json!({"name": "n".repeat(n)}).to_string();
    let (longest_name, longer_name) = (name(63), name(64));
    let cases: &[Case<'_>] = &[
        ("{}", ""),
        (r#"{"name": "Driver.Example.COM"}"#, ""),
        (r#"{"name": ""}"#, "Required @.name"),
        (r#"{"name": "a_b"}"#, "Invalid @.name"),
        (&longest_name, ""),
        (&longer_name, "TooLong @.name"),
        (r#"{"nodeID": ""}"#, "Required @.nodeID"),
        (&longest, ""),
        (&longer, "Invalid @.nodeID"),
        (r#"{"allocatable": {"count": 0}}"#, ""),
        (r#"{"allocatable": {}}"#, ""),
        (
            r#"{"allocatable": {"count": -1}}"#,
            "Invalid @.allocatable.count",
        ),
        (r#"{"topologyKeys": []}"#, ""),
        (r#"{"topologyKeys": ["a", "a"]}"#, "Duplicate @"),
        (
            r#"{"topologyKeys": [""]}"#,
            "Required @, Invalid @, Invalid @",
        ),
        (r#"{"topologyKeys": ["a b"]}"#, "Invalid @"),
    ];
    let driver = json!({"name": "d.example.com", "nodeID": "n", "topologyKeys": ["zone"]});
    let wrap = |driver| json!({"spec": {"drivers": [driver]}});
    let node = wrap(driver.clone());
    let item = (driver, "spec.drivers[0]");
    assert_item((GROUP, "CSINode"), node.clone(), item, wrap, cases);
    let twice =
        json!({"spec": {"drivers": [node["spec"]["drivers"][0], node["spec"]["drivers"][0]]}});
    assert_create(
        GROUP,
        "CSINode",
        node.clone(),
        &[(&twice.to_string(), "Duplicate spec.drivers[1].name")],
    );
    let driver = |more: Value| {
        let mut driver = node["spec"]["drivers"][0].clone();
        super::merge(&mut driver, &more);
        json!({"spec": {"drivers": [driver]}}).to_string()
    };
    assert_update(
        GROUP,
        "CSINode",
        node.clone(),
        &[
            (r#"{"spec": {"drivers": []}}"#, ""),
            (&driver(json!({"allocatable": {"count": 3}})), ""),
            (&driver(json!({"name": "other"})), ""),
            (&driver(json!({"nodeID": "m"})), "Invalid spec.drivers"),
            (&driver(json!({"topologyKeys": []})), "Invalid spec.drivers"),
        ],
    );
}

#[test]
fn volume_attachments() {
    let attachment = json!({"spec": {"attacher": "a.b", "nodeName": "n", "source": {"persistentVolumeName": "v"}}});
    let cases: &[Case<'_>] = &[
        (r#"{"spec": {"attacher": ""}}"#, "Required spec.attacher"),
        (r#"{"spec": {"attacher": "A_b"}}"#, "Invalid spec.attacher"),
        (r#"{"spec": {"nodeName": ""}}"#, "Invalid spec.nodeName"),
        (r#"{"spec": {"nodeName": "N"}}"#, "Invalid spec.nodeName"),
        (
            r#"{"spec": {"source": {"persistentVolumeName": ""}}}"#,
            "Required spec.source.persistentVolumeName, Invalid spec.source.persistentVolumeName",
        ),
        (
            r#"{"spec": {"source": {"persistentVolumeName": "a/b"}}}"#,
            "Invalid spec.source.persistentVolumeName",
        ),
        (
            r#"{"spec": {"source": {"inlineVolumeSpec": {}}}}"#,
            "Forbidden spec.source",
        ),
        (
            r#"{"spec": {"source": {"persistentVolumeName": null, "inlineVolumeSpec": {"accessModes": ["ReadWriteOnce"], "csi": {"driver": "d", "volumeHandle": "h"}}}}}"#,
            "",
        ),
        (
            r#"{"spec": {"source": {"persistentVolumeName": null, "inlineVolumeSpec": {"capacity": {"storage": "1"}, "claimRef": {"name": "c"}}}}}"#,
            "Forbidden spec.source.inlineVolumeSpec.claimRef, Forbidden spec.source.inlineVolumeSpec.capacity, Required spec.source.inlineVolumeSpec.csi, Required spec.source.inlineVolumeSpec.accessModes",
        ),
    ];
    assert_create(GROUP, "VolumeAttachment", attachment.clone(), cases);
    assert_update(
        GROUP,
        "VolumeAttachment",
        attachment,
        &[
            (r#"{"metadata": {"labels": {"a": "b"}}}"#, ""),
            (r#"{"spec": {"nodeName": "m"}}"#, "Invalid spec"),
        ],
    );
}

#[test]
fn volume_attributes_classes() {
    let class = json!({"driverName": "d.example.com", "parameters": {"iops": "5"}});
    let cases: &[Case<'_>] = &[
        (r#"{"driverName": "Example.com/Driver"}"#, ""),
        (r#"{"driverName": ""}"#, "Required driverName"),
        (r#"{"driverName": "a/b/c"}"#, "Invalid driverName"),
        (r#"{"parameters": null}"#, "Required parameters"),
        (r#"{"parameters": {"": "x"}}"#, "Invalid parameters"),
    ];
    assert_create(GROUP, "VolumeAttributesClass", class.clone(), cases);
    assert_update(
        GROUP,
        "VolumeAttributesClass",
        class,
        &[
            (r#"{"parameters": {"iops": "6"}}"#, "Forbidden parameters"),
            (r#"{"driverName": "e"}"#, "Forbidden driverName"),
        ],
    );
}

#[test]
fn storage_capacities() {
    let capacity = json!({"storageClassName": "fast", "capacity": "1Gi"});
    let cases: &[Case<'_>] = &[
        (r#"{"capacity": null}"#, ""),
        (r#"{"capacity": "0"}"#, ""),
        (r#"{"capacity": "-1"}"#, "Invalid capacity"),
        (r#"{"storageClassName": "A"}"#, "Invalid storageClassName"),
        (r#"{"storageClassName": ""}"#, "Invalid storageClassName"),
        (r#"{"nodeTopology": {"matchLabels": {"zone": "a"}}}"#, ""),
        (
            r#"{"nodeTopology": {"matchExpressions": [{"key": "zone", "operator": "In"}]}}"#,
            "Required nodeTopology.matchExpressions[0].values",
        ),
    ];
    assert_create(GROUP, "CSIStorageCapacity", capacity.clone(), cases);
    assert_update(
        GROUP,
        "CSIStorageCapacity",
        capacity,
        &[
            (r#"{"capacity": "2Gi"}"#, ""),
            (
                r#"{"storageClassName": "slow"}"#,
                "Invalid storageClassName",
            ),
            (
                r#"{"nodeTopology": {"matchLabels": {"a": "b"}}}"#,
                "Invalid nodeTopology",
            ),
        ],
    );
}
