//! Removes fields of features that are off by default in Kubernetes v1.36 (upstream:
//! `DropDisabledPodFields`). Upstream keeps them where the old object has them; here none has.

use serde_json::Value;

use crate::tree::{at, at_mut, list_mut, remove};

/// Removes the fields from a pod spec.
pub(crate) fn from_spec(spec: &mut Value) {
    // Groups of pods that are scheduled together.
    remove(spec, "schedulingGroup");
    for volume in list_mut(spec, "volumes") {
        for source in list_mut(volume, "projected.sources") {
            remove(source, "clusterTrustBundle");
            remove(source, "podCertificate");
        }
    }
    for key in ["containers", "initContainers", "ephemeralContainers"] {
        for container in list_mut(spec, key) {
            if remove(container, "lifecycle.stopSignal").is_some()
                && at(container, "lifecycle") == &Value::Object(serde_json::Map::new())
            {
                remove(container, "lifecycle");
            }
        }
    }
}

/// Removes the fields from a pod template.
pub(crate) fn from_template(template: &mut Value) {
    if let Some(spec) = at_mut(template, "spec") {
        from_spec(spec);
    }
}

/// Removes the fields from the status of a pod.
pub(crate) fn from_status(pod: &mut Value) {
    remove(pod, "status.nodeAllocatableResourceClaimStatuses");
    for key in [
        "status.containerStatuses",
        "status.initContainerStatuses",
        "status.ephemeralContainerStatuses",
    ] {
        for status in list_mut(pod, key) {
            for mount in list_mut(status, "volumeMounts") {
                remove(mount, "volumeStatus");
            }
        }
    }
}
