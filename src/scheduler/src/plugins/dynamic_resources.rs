//! DynamicResources: pods wait for the allocation of their resource claims.
//!
//! rkube neither allocates devices nor reserves claims for pods. What another allocator has allocated
//! and reserved for a pod restricts its nodes.

use rkube_component_helpers::node_affinity::NodeTerm;

use super::types::{Plugin, Rejection};
use crate::cluster::Cluster;
use crate::model::{DeviceClaimRef, NodeInfo, PodInfo};

/// How many users a claim can be reserved for.
const MAX_USERS: usize = 256;

/// Filter state that is computed once per pod.
pub struct Filter<'a> {
    /// Whether a claim has no devices yet, or not for this pod.
    waits: bool,
    /// The nodes of each allocation that is not available on all.
    places: Vec<&'a [NodeTerm]>,
}

impl<'a> Filter<'a> {
    /// Looks up the pod's resource claims.
    ///
    /// # Errors
    ///
    /// Rejects the pod on all nodes if a claim does not exist, is being deleted, is in use or is
    /// of another pod.
    pub fn new(pod: &PodInfo, cluster: &'a Cluster) -> Result<Self, Rejection> {
        let mut filter = Self {
            waits: false,
            places: Vec::new(),
        };
        let of_pod = format!("{}/{}", pod.namespace, pod.name);
        let refuse = |why: String| Rejection::unresolvable(Plugin::DynamicResources, why);
        for wanted in &pod.device_claims {
            let (name, generated) = match wanted {
                DeviceClaimRef::NotNeeded => continue,
                DeviceClaimRef::NotCreated => {
                    let why = format!("pod {of_pod:?}: ResourceClaim not created yet");
                    return Err(refuse(why));
                }
                DeviceClaimRef::Named(name) => (name, false),
                DeviceClaimRef::Generated(name) => (name, true),
            };
            let key = (pod.namespace.clone(), name.clone());
            let full = format!("{}/{name}", pod.namespace);
            let Some(claim) = cluster.device_claims.get(&key) else {
                return Err(refuse(format!("could not find ResourceClaim {full:?}")));
            };
            if claim.deleting {
                return Err(refuse(format!("resourceclaim {name:?} is being deleted")));
            }
            if generated && claim.owner.as_ref() != Some(&pod.uid) {
                return Err(refuse(format!(
                    "ResourceClaim {full} was not created for Pod {of_pod} (Pod is not owner)"
                )));
            }
            let is_reserved = claim.reserved_for.contains(&pod.uid);
            if claim.allocated && !is_reserved && claim.reserved_for.len() >= MAX_USERS {
                return Err(refuse("resourceclaim in use".to_owned()));
            }
            filter.waits |= !(claim.allocated && is_reserved);
            filter.places.extend(claim.nodes.as_deref());
        }
        Ok(filter)
    }

    /// Rejects nodes where the allocated devices are not, and every node if a claim has none.
    pub fn filter(&self, node: &NodeInfo) -> Result<(), Rejection> {
        let here = |terms: &[NodeTerm]| terms.iter().any(|t| t.matches(&node.name, &node.labels));
        let why = if !self.places.iter().all(|terms| here(terms)) {
            "resourceclaim not available on the node"
        } else if self.waits {
            "cannot allocate all claims"
        } else {
            return Ok(());
        };
        Err(Rejection::unresolvable(Plugin::DynamicResources, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::DeviceClaim;
    use crate::model::testing::*;
    use serde_json::json;

    #[test]
    fn pods_wait_for_their_devices() {
        let spec = json!({"resourceClaims": [{"name": "d", "resourceClaimName": "c"}],
            "containers": [{"name": "c", "image": "i"}]});
        let from_template = json!({"resourceClaims": [{"name": "d", "resourceClaimTemplateName": "t"}],
            "containers": [{"name": "c", "image": "i"}]});
        let (named, templated) = (pod("p", spec), pod("p", from_template));
        let known = |claim: DeviceClaim| {
            let mut cluster = Cluster::default();
            let key = (named.namespace.clone(), "c".to_owned());
            cluster.device_claims.insert(key, claim);
            cluster
        };
        let of_pod = format!("{}/p", named.namespace);
        let missing = format!("could not find ResourceClaim \"{}/c\"", named.namespace);
        let not_created = format!("pod \"{of_pod}\": ResourceClaim not created yet");
        for (pod, cluster, want) in [
            (&named, Cluster::default(), Some(&*missing)),
            (&templated, Cluster::default(), Some(&*not_created)),
            (
                &named,
                known(DeviceClaim {
                    deleting: true,
                    ..DeviceClaim::default()
                }),
                Some("resourceclaim \"c\" is being deleted"),
            ),
            (
                &named,
                known(DeviceClaim::default()),
                Some("cannot allocate all claims"),
            ),
            (
                &named,
                known(DeviceClaim {
                    allocated: true,
                    reserved_for: vec![named.uid.clone()],
                    ..DeviceClaim::default()
                }),
                None,
            ),
            (
                &named,
                known(DeviceClaim {
                    allocated: true,
                    reserved_for: vec!["another".to_owned()],
                    ..DeviceClaim::default()
                }),
                Some("cannot allocate all claims"),
            ),
            (
                &named,
                known(DeviceClaim {
                    allocated: true,
                    reserved_for: vec!["another".to_owned(); MAX_USERS],
                    ..DeviceClaim::default()
                }),
                Some("resourceclaim in use"),
            ),
            (
                &named,
                known(DeviceClaim {
                    allocated: true,
                    nodes: Some(Vec::new()),
                    ..DeviceClaim::default()
                }),
                Some("resourceclaim not available on the node"),
            ),
        ] {
            let found = Filter::new(pod, &cluster).and_then(|f| f.filter(&node("n")));
            let found = found.err().map(|rejection| rejection.reasons.join(""));
            assert_eq!(found.as_deref(), want);
        }
    }
}
