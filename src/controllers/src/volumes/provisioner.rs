//! The built-in provisioner: each volume is a directory on one node.

use std::path::Path;

use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference,
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;

use crate::context::{Context, Result};
use crate::controller::{Controller, Watches};
use crate::queue::Queue;

/// The provisioner's name in storage classes.
pub const NAME: &str = "rkube.io/hostpath";
/// Annotation on the class for claims that request none.
pub const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// Annotation with the provisioner that created a volume.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Finalizer of volumes whose data are deleted before them.
pub const DELETION_PROTECTION: &str = "external-provisioner.volume.kubernetes.io/finalizer";
/// Label of nodes by which volumes are tied to theirs.
pub const HOSTNAME: &str = "kubernetes.io/hostname";

/// Returns the storage class that every cluster starts with.
pub fn default_class() -> StorageClass {
    StorageClass {
        metadata: ObjectMeta {
            name: Some("standard".into()),
            annotations: Some([(DEFAULT_CLASS.to_owned(), "true".to_owned())].into()),
            ..Default::default()
        },
        provisioner: NAME.into(),
        reclaim_policy: Some("Delete".into()),
        volume_binding_mode: Some("WaitForFirstConsumer".into()),
        ..Default::default()
    }
}

/// The controller that creates the storage class `standard` once, if no class exists.
pub struct DefaultClassController {
    ctx: Context,
    queue: Queue<()>,
}

impl DefaultClassController {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
        }
    }
}

impl Controller for DefaultClassController {
    type Item = ();

    fn name(&self) -> &'static str {
        "default-storage-class-controller"
    }

    fn workers(&self) -> usize {
        1
    }

    fn queue(&self) -> &Queue<()> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<()>) {
        watches.reads(&self.ctx.informers.storage_classes);
    }

    async fn prepare(&self) {
        self.queue.add(());
    }

    async fn reconcile(&self, (): ()) -> Result<()> {
        let store = &self.ctx.informers.storage_classes;
        if !self.ctx.config.default_storage_class || !store.is_empty() {
            return Ok(());
        }
        match self.ctx.create(store, &default_class()).await {
            Err(error) if !error.is_already_exists() => Err(error),
            _ => Ok(()),
        }
    }
}

/// Returns the provisioner that created a volume, `None` if it was made by hand.
pub fn provisioner_of(volume: &PersistentVolume) -> Option<&str> {
    let annotations = volume.metadata.annotations.as_ref()?;
    annotations.get(PROVISIONED_BY).map(String::as_str)
}

/// Returns the name of the volume provisioned for a claim.
pub fn volume_name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default())
}

/// Returns why a volume cannot be provisioned for a claim, if it cannot.
pub fn unsupported(claim: &PersistentVolumeClaim) -> Option<&'static str> {
    let spec = claim.spec.as_ref()?;
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Some("rkube's provisioner cannot fill a volume from a data source");
    }
    (spec.volume_mode.as_deref() == Some("Block"))
        .then_some("rkube's provisioner does not make block volumes")
}

/// Returns the reference to a claim in its volume.
pub fn reference_to(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference {
        resource_version: claim.metadata.resource_version.clone(),
        ..claim.object_ref(&())
    }
}

/// Returns the volume for a claim: a directory below `root` on this node.
pub fn volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    node: &str,
    root: &Path,
) -> PersistentVolume {
    let name = volume_name(claim);
    let spec = claim.spec.clone().unwrap_or_default();
    let policy = class.reclaim_policy.clone();
    let policy = policy.unwrap_or_else(|| "Delete".into());
    let finalizers = (policy == "Delete").then(|| vec![DELETION_PROTECTION.to_owned()]);
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            finalizers,
            annotations: Some([(PROVISIONED_BY.to_owned(), NAME.to_owned())].into()),
            ..Default::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: spec.resources.and_then(|resources| resources.requests),
            claim_ref: Some(reference_to(claim)),
            host_path: Some(HostPathVolumeSource {
                path: root.join(&name).display().to_string(),
                type_: Some("DirectoryOrCreate".into()),
            }),
            mount_options: class.mount_options.clone(),
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector {
                    node_selector_terms: vec![NodeSelectorTerm {
                        match_expressions: Some(vec![NodeSelectorRequirement {
                            key: HOSTNAME.into(),
                            operator: "In".into(),
                            values: Some(vec![node.to_owned()]),
                        }]),
                        match_fields: None,
                    }],
                }),
            }),
            persistent_volume_reclaim_policy: Some(policy),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: spec.volume_mode.or_else(|| Some("Filesystem".into())),
            ..Default::default()
        }),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_provisioner_cannot_do_is_refused() {
        for (spec, refused) in [
            (json!({}), false),
            (json!({"volumeMode": "Filesystem"}), false),
            (json!({"volumeMode": "Block"}), true),
            (
                json!({"dataSource": {"kind": "PersistentVolumeClaim", "name": "a"}}),
                true,
            ),
            (
                json!({"dataSourceRef": {"apiGroup": "x", "kind": "Y", "name": "a"}}),
                true,
            ),
        ] {
            let claim = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
            assert_eq!(unsupported(&claim).is_some(), refused, "{spec}");
        }
    }
}
