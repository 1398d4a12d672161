//! DefaultStorageClass, StorageObjectInUseProtection and PersistentVolumeClaimResize.

use std::cmp::Reverse;
use std::sync::Arc;

use rkube_api::status::Status;
use rkube_api::{Object, meta};

use crate::types::{Operation, Request};
use rkube_auth::{ObjectReader, tree};
use rkube_component_helpers::resource::ResourceList;

/// The annotation that set the class before the field existed.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const IS_DEFAULT: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];

/// Returns the newest object with one of the annotations set to `"true"`. Of objects that were
/// created in the same second, returns the first by name.
pub(super) fn newest_marked<'a>(
    objects: &'a [Arc<Object>],
    annotations: &[&str],
) -> Option<&'a Arc<Object>> {
    let is_marked = |object: &&Arc<Object>| {
        annotations
            .iter()
            .any(|a| meta::annotation(object, a) == Some("true"))
    };
    let marked = objects.iter().filter(is_marked);
    marked.min_by_key(|o| {
        (
            Reverse(meta::creation_timestamp(o).to_owned()),
            tree::name(o).to_owned(),
        )
    })
}

/// Returns the class of a claim; `None` if it is not set.
fn class_of(claim: &Object) -> Option<&str> {
    let old = meta::annotation(claim, OLD_CLASS);
    old.or_else(|| tree::at(claim, &["spec", "storageClassName"]).and_then(Object::as_str))
}

/// DefaultStorageClass: sets the default class on a claim without a class.
pub(super) fn default_class(reader: &dyn ObjectReader, request: &mut Request<'_>) {
    if request.operation != Operation::Create || !request.is_whole("", "persistentvolumeclaims") {
        return;
    }
    let Some(claim) = request.object.as_deref_mut() else {
        return;
    };
    if class_of(claim).is_some() {
        return;
    }
    let classes = reader.list("storage.k8s.io", "storageclasses", None);
    if let Some(class) = newest_marked(&classes, &IS_DEFAULT) {
        let name: Object = tree::name(class).into();
        tree::make_map(claim, &["spec"]).insert("storageClassName".into(), name);
    }
}

/// StorageObjectInUseProtection: adds a finalizer to new volumes, claims and volume attributes
/// classes. A controller removes it when the object is deleted and no longer in use.
pub(super) fn protect_in_use(request: &mut Request<'_>) {
    if request.operation != Operation::Create || !request.subresource.is_empty() {
        return;
    }
    let finalizer = match (request.group, request.resource) {
        ("", "persistentvolumes") => "kubernetes.io/pv-protection",
        ("", "persistentvolumeclaims") => "kubernetes.io/pvc-protection",
        ("storage.k8s.io", "volumeattributesclasses") => "kubernetes.io/vac-protection",
        _ => return,
    };
    let Some(object) = request.object.as_deref_mut() else {
        return;
    };
    if !meta::finalizers(object).any(|f| f == finalizer) {
        tree::make_array(object, &["metadata", "finalizers"]).push(finalizer.into());
    }
}

/// PersistentVolumeClaimResize: allows expansion only of bound claims whose class allows it.
pub(super) fn validate_resize(
    reader: &dyn ObjectReader,
    request: &Request<'_>,
) -> Result<(), Status> {
    if request.operation != Operation::Update || !request.is_whole("", "persistentvolumeclaims") {
        return Ok(());
    }
    let (new, old) = (request.new_object(), request.old_object());
    let size = |claim| {
        ResourceList::from_object(tree::at(claim, &["spec", "resources", "requests"]))
            .get("storage")
    };
    if size(new) <= size(old) {
        return Ok(());
    }
    if tree::text(old, &["status", "phase"]) != "Bound" {
        return Err(request.forbidden("Only bound persistent volume claims can be expanded"));
    }
    let class = class_of(new).filter(|class| !class.is_empty() && class_of(old) == Some(class));
    let class = class.and_then(|class| reader.get("storage.k8s.io", "storageclasses", "", class));
    match class.and_then(|class| tree::flag(&class, &["allowVolumeExpansion"])) {
        Some(true) => Ok(()),
        _ => Err(request.forbidden(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        )),
    }
}
