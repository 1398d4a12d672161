//! Matches volumes with claims.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};

use rkube_component_helpers::{label_selector, node_affinity};

use super::amount;

/// Returns the storage class that a claim requests, or `None` if it leaves the choice to the
/// default.
pub fn class_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotations = claim.metadata.annotations.as_ref();
    annotations
        .and_then(|annotations| annotations.get("volume.beta.kubernetes.io/storage-class"))
        .or(claim.spec.as_ref()?.storage_class_name.as_ref())
        .map(String::as_str)
}

fn volume_class(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.storage_class_name.as_deref())
        .unwrap_or_default()
}

/// Returns whether the volume is reserved for this claim.
pub fn is_reserved_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.claim_ref.as_ref())
    else {
        return false;
    };
    reference.name == claim.metadata.name
        && reference.namespace == claim.metadata.namespace
        && reference
            .uid
            .as_ref()
            .is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_ref())
}

/// Returns whether the volume satisfies the claim's requirements.
pub fn suits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(offer), Some(wish)) = (volume.spec.as_ref(), claim.spec.as_ref()) else {
        return false;
    };
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".into());
    let wanted = amount(
        wish.resources
            .as_ref()
            .and_then(|resources| resources.requests.as_ref()),
        "storage",
    );
    let offered = amount(offer.capacity.as_ref(), "storage");
    let modes = offer.access_modes.as_deref().unwrap_or_default();
    volume_class(volume) == class_of(claim).unwrap_or_default()
        && mode(&offer.volume_mode) == mode(&wish.volume_mode)
        && wish
            .access_modes
            .iter()
            .flatten()
            .all(|mode| modes.contains(mode))
        && offer
            .volume_attributes_class_name
            .as_deref()
            .unwrap_or_default()
            == wish
                .volume_attributes_class_name
                .as_deref()
                .unwrap_or_default()
        && wanted.is_none_or(|wanted| offered.is_some_and(|offered| offered >= wanted))
        && wish.selector.as_ref().is_none_or(|wanted| {
            label_selector::matches(
                wanted,
                label_selector::labels_or_empty(volume.metadata.labels.as_ref()),
            )
        })
}

/// Returns why a volume that a claim names does not satisfy it, if it does not. A claim that names
/// its volume may have any selector.
pub fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    let (offer, wish) = (volume.spec.as_ref()?, claim.spec.as_ref()?);
    if volume.metadata.deletion_timestamp.is_some() {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        return Some(format!("the volume is marked for deletion {name:?}"));
    }
    let requests = wish.resources.as_ref().and_then(|r| r.requests.as_ref());
    let wanted = amount(requests, "storage");
    let offered = amount(offer.capacity.as_ref(), "storage");
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".into());
    let modes = offer.access_modes.as_deref().unwrap_or_default();
    let mut wanted_modes = wish.access_modes.iter().flatten();
    if wanted.is_some_and(|wanted| offered.is_none_or(|offered| offered < wanted)) {
        Some("requested PV is too small".into())
    } else if volume_class(volume) != class_of(claim).unwrap_or_default() {
        Some("storageClassName does not match".into())
    } else if mode(&offer.volume_mode) != mode(&wish.volume_mode) {
        Some("incompatible volumeMode".into())
    } else if !wanted_modes.all(|mode| modes.contains(mode)) {
        Some("incompatible accessMode".into())
    } else {
        None
    }
}

fn is_reachable(volume: &PersistentVolume, node: &Node) -> bool {
    let affinity = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.node_affinity.as_ref());
    affinity
        .and_then(|affinity| affinity.required.as_ref())
        .is_none_or(|required| {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let labels = label_selector::labels_or_empty(node.metadata.labels.as_ref());
            let mut terms = required.node_selector_terms.iter();
            terms.any(|term| node_affinity::term_matches(term, name, labels))
        })
}

/// Returns the volume for a claim: one reserved for it, or else the smallest suitable free volume.
/// The latter must be accessible from `node`, if given.
pub fn choose(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    node: Option<&Node>,
) -> Option<Arc<PersistentVolume>> {
    if let Some(reserved) = volumes
        .iter()
        .find(|volume| is_reserved_for(volume, claim) && suits(volume, claim))
    {
        return Some(reserved.clone());
    }
    volumes
        .iter()
        .filter(|volume| {
            volume
                .spec
                .as_ref()
                .is_some_and(|spec| spec.claim_ref.is_none())
        })
        .filter(|volume| volume.metadata.deletion_timestamp.is_none())
        .filter(|volume| suits(volume, claim) && node.is_none_or(|node| is_reachable(volume, node)))
        .min_by_key(|volume| {
            amount(
                volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()),
                "storage",
            )
        })
        .cloned()
}

#[cfg(test)]
pub mod testing {
    //! Volumes and claims for tests.

    use super::*;
    use k8s_openapi::api::core::v1::{
        PersistentVolumeClaimSpec, PersistentVolumeSpec, VolumeResourceRequirements,
    };
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn storage(size: &str) -> std::collections::BTreeMap<String, Quantity> {
        [("storage".to_owned(), Quantity(size.into()))].into()
    }

    /// Returns a volume of this size and class.
    pub fn volume(name: &str, size: &str, class: &str) -> Arc<PersistentVolume> {
        Arc::new(PersistentVolume {
            metadata: ObjectMeta {
                name: Some(name.into()),
                uid: Some(name.into()),
                ..Default::default()
            },
            spec: Some(PersistentVolumeSpec {
                capacity: Some(storage(size)),
                access_modes: Some(vec!["ReadWriteOnce".into()]),
                storage_class_name: Some(class.into()),
                ..Default::default()
            }),
            status: None,
        })
    }

    /// Returns a claim `ns/name` of this size and class.
    pub fn claim(name: &str, size: &str, class: &str) -> PersistentVolumeClaim {
        PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("ns".into()),
                uid: Some(name.into()),
                ..Default::default()
            },
            spec: Some(PersistentVolumeClaimSpec {
                access_modes: Some(vec!["ReadWriteOnce".into()]),
                storage_class_name: Some(class.into()),
                resources: Some(VolumeResourceRequirements {
                    requests: Some(storage(size)),
                    limits: None,
                }),
                ..Default::default()
            }),
            status: None,
        }
    }
}

#[cfg(test)]
mod mismatches {
    use super::testing::{claim, volume};
    use super::*;

    #[test]
    fn a_named_volume_must_satisfy_the_claim() {
        let why = |size: &str, class: &str, change: fn(&mut PersistentVolumeClaim)| {
            let mut claim = claim("c", size, class);
            change(&mut claim);
            mismatch(&volume("v", "2Gi", "fast"), &claim)
        };
        let same = |_: &mut PersistentVolumeClaim| {};
        assert_eq!(why("1Gi", "fast", same), None);
        let small = "requested PV is too small";
        assert_eq!(why("3Gi", "fast", same).as_deref(), Some(small));
        let class = "storageClassName does not match";
        assert_eq!(why("1Gi", "slow", same).as_deref(), Some(class));
        let block = why("1Gi", "fast", |claim| {
            claim.spec.as_mut().unwrap().volume_mode = Some("Block".into());
        });
        assert_eq!(block.as_deref(), Some("incompatible volumeMode"));
        let many = why("1Gi", "fast", |claim| {
            claim.spec.as_mut().unwrap().access_modes = Some(vec!["ReadWriteMany".into()]);
        });
        assert_eq!(many.as_deref(), Some("incompatible accessMode"));
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{claim, volume};
    use super::*;
    use k8s_openapi::api::core::v1::ObjectReference;

    #[test]
    fn the_smallest_that_suits() {
        let volumes = [
            volume("big", "10Gi", "slow"),
            volume("fit", "1024Mi", "slow"),
            volume("other", "1Gi", "fast"),
            volume("small", "100Mi", "slow"),
        ];
        let chosen = |claim: &PersistentVolumeClaim| {
            choose(claim, &volumes, None).and_then(|v| v.metadata.name.clone())
        };
        assert_eq!(chosen(&claim("c", "1Gi", "slow")).as_deref(), Some("fit"));
        assert_eq!(chosen(&claim("c", "2Gi", "slow")).as_deref(), Some("big"));
        assert_eq!(chosen(&claim("c", "2Gi", "fast")), None);
    }

    #[test]
    fn a_reserved_volume_comes_first_and_is_nobody_elses() {
        let mut reserved = PersistentVolume::clone(&volume("big", "10Gi", "slow"));
        reserved.spec.as_mut().unwrap().claim_ref = Some(ObjectReference {
            namespace: Some("ns".into()),
            name: Some("mine".into()),
            ..Default::default()
        });
        let volumes = [Arc::new(reserved), volume("fit", "1Gi", "slow")];
        let chosen = |name: &str| {
            choose(&claim(name, "1Gi", "slow"), &volumes, None)
                .unwrap()
                .metadata
                .name
                .clone()
        };
        assert_eq!(chosen("mine").as_deref(), Some("big"));
        assert_eq!(chosen("yours").as_deref(), Some("fit"));
    }
}
