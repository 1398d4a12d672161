//! Persistent volumes and claims: binding, provisioning, protection while in use, and claims of
//! ephemeral volumes.

mod binder;
pub mod ephemeral;
pub mod expand;
mod matching;
pub mod protection;
pub mod provisioner;
mod reclaim;

pub use binder::Binder;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use rkube_api::quantity::Quantity;

/// Returns the amount of a resource in a list, or `None` if it is missing or malformed.
pub fn amount(list: Option<&BTreeMap<String, Text>>, resource: &str) -> Option<Quantity> {
    Quantity::parse(&list?.get(resource)?.0).ok()
}

/// Returns the names of the claims that a pod's volumes use, including those of ephemeral volumes.
pub fn claims_of(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    volumes
        .into_iter()
        .flatten()
        .filter_map(|volume| {
            if let Some(claim) = &volume.persistent_volume_claim {
                return Some(claim.claim_name.clone());
            }
            volume.ephemeral.as_ref()?;
            Some(format!("{}-{}", pod.metadata.name.as_deref()?, volume.name))
        })
        .collect()
}

/// Returns an annotation of a claim.
pub fn annotation<'a>(claim: &'a PersistentVolumeClaim, key: &str) -> Option<&'a str> {
    claim
        .metadata
        .annotations
        .as_ref()?
        .get(key)
        .map(String::as_str)
}
