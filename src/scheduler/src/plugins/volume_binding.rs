//! VolumeBinding: bound volumes must be accessible from the node. Claims whose class waits for the
//! first consumer are bound or provisioned for the chosen node.

use super::types::{Plugin, Rejection};
use crate::cluster::{Claim, Cluster, Volume};
use crate::model::{Key, NodeInfo, PodInfo};

/// Provisioner of classes whose volumes are created manually.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// An action required for a claim before its pod can be bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Bind the claim to an existing volume.
    Bind {
        /// The claim.
        claim: Key,
        /// UID of the claim.
        uid: String,
        /// Name of the volume.
        volume: String,
    },
    /// Request provisioning of a volume for the chosen node.
    Provision {
        /// The claim.
        claim: Key,
    },
}

/// Filter state that is computed once per pod.
pub struct Filter<'a> {
    cluster: &'a Cluster,
    bound: Vec<&'a Volume>,
    waiting: Vec<(Key, &'a Claim)>,
}

impl<'a> Filter<'a> {
    /// Looks up the pod's claims.
    ///
    /// # Errors
    ///
    /// Rejects the pod on all nodes if a claim is missing, lost, being deleted, owned by another
    /// pod, or unbound with immediate binding, or if its volume is missing.
    pub fn new(pod: &'a PodInfo, cluster: &'a Cluster) -> Result<Self, Rejection> {
        let no = |reason: String| Rejection::unresolvable(Plugin::VolumeBinding, reason);
        let mut filter = Filter {
            cluster,
            bound: Vec::new(),
            waiting: Vec::new(),
        };
        let mut unbound = false;
        let mut missing = None;
        for reference in &pod.claims {
            let name = &reference.name;
            let key = (pod.namespace.clone(), name.clone());
            let Some(claim) = cluster.claims.get(&key) else {
                return Err(no(if reference.ephemeral {
                    format!(
                        "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
                    )
                } else {
                    format!("persistentvolumeclaim {name:?} not found")
                }));
            };
            if claim.lost {
                return Err(no(format!(
                    "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {:?}",
                    claim.volume
                )));
            }
            if claim.deleting {
                return Err(no(format!(
                    "persistentvolumeclaim {name:?} is being deleted"
                )));
            }
            if reference.ephemeral && claim.owner.as_deref() != Some(&pod.uid) {
                return Err(no(format!(
                    "PVC {}/{name} was not created for pod {}/{} (pod is not owner)",
                    pod.namespace, pod.namespace, pod.name
                )));
            }
            if claim.bound && !claim.volume.is_empty() {
                match cluster.volumes.get(&claim.volume) {
                    Some(volume) => filter.bound.push(volume),
                    None => missing = missing.or(Some(&claim.volume)),
                }
                continue;
            }
            let waits = claim
                .class
                .as_ref()
                .and_then(|class| cluster.classes.get(class))
                .is_some_and(|class| class.waits);
            if waits && claim.volume.is_empty() {
                filter.waiting.push((key, claim));
            } else {
                unbound = true;
            }
        }
        if unbound {
            return Err(no(
                "pod has unbound immediate PersistentVolumeClaims".to_owned()
            ));
        }
        // Upstream's VolumeZone finds that out, before any node is tried.
        if let Some(volume) = missing {
            return Err(Rejection::unresolvable(
                Plugin::VolumeZone,
                format!("persistentvolume {volume:?} not found"),
            ));
        }
        Ok(filter)
    }

    /// Returns the volumes that the pod's claims are bound to.
    pub fn bound(&self) -> &[&'a Volume] {
        &self.bound
    }

    /// Rejects the node if a bound volume is not accessible from it or an unbound claim cannot be
    /// satisfied there.
    pub fn filter(&self, node: &NodeInfo) -> Result<(), Rejection> {
        let mut reasons = Vec::new();
        if !self.bound.iter().all(|v| reaches(v, node)) {
            reasons.push("node(s) didn't match PersistentVolume's node affinity".into());
        }
        if self.decide(node).is_none() {
            reasons.push("node(s) didn't find available persistent volumes to bind".into());
        }
        if reasons.is_empty() {
            return Ok(());
        }
        Err(Rejection {
            plugin: Plugin::VolumeBinding,
            reasons,
            unresolvable: true,
            fatal: false,
        })
    }

    /// Returns the actions for the unbound claims if the node is chosen, or `None` if the node
    /// cannot satisfy them.
    pub fn decide(&self, node: &NodeInfo) -> Option<Vec<Decision>> {
        let mut taken: Vec<&str> = Vec::new();
        let mut decisions = Vec::new();
        // Small claims first, so that they do not take large volumes.
        let mut waiting: Vec<&(Key, &Claim)> = self.waiting.iter().collect();
        waiting.sort_by_key(|(_, claim)| claim.size);
        for (key, claim) in waiting {
            if let Some(node_name) = &claim.selected_node {
                // Provisioning for this node is already in progress.
                if *node_name != node.name {
                    return None;
                }
                decisions.push(Decision::Provision { claim: key.clone() });
                continue;
            }
            let found = self
                .cluster
                .volumes
                .iter()
                .filter(|(name, v)| {
                    !taken.contains(&name.as_str()) && suits(v, key, claim) && reaches(v, node)
                })
                // Prefer a volume reserved for the claim, then the smallest one.
                .min_by_key(|(_, v)| (v.claim.is_none(), v.size));
            if let Some((name, _)) = found {
                taken.push(name);
                decisions.push(Decision::Bind {
                    claim: key.clone(),
                    uid: claim.uid.clone(),
                    volume: name.clone(),
                });
                continue;
            }
            let class = claim
                .class
                .as_ref()
                .and_then(|c| self.cluster.classes.get(c))?;
            let possible = !class.provisioner.is_empty()
                && class.provisioner != NO_PROVISIONER
                && (class.topologies.is_empty()
                    || class
                        .topologies
                        .iter()
                        .any(|t| t.matches(&node.name, &node.labels)));
            if !possible {
                return None;
            }
            decisions.push(Decision::Provision { claim: key.clone() });
        }
        Some(decisions)
    }
}

/// Returns whether the volume's node affinity allows the node.
fn reaches(volume: &Volume, node: &NodeInfo) -> bool {
    volume
        .node
        .as_ref()
        .is_none_or(|terms| terms.iter().any(|t| t.matches(&node.name, &node.labels)))
}

/// Returns whether the claim may be bound to the volume.
fn suits(volume: &Volume, key: &Key, claim: &Claim) -> bool {
    let meant = match &volume.claim {
        None => volume.phase == "Available",
        Some(own) => {
            own == key
                && volume
                    .claim_uid
                    .as_ref()
                    .is_none_or(|uid| *uid == claim.uid)
        }
    };
    meant
        && !volume.deleting
        && volume.size >= claim.size
        && volume.mode == claim.mode
        && volume.class == claim.class.as_deref().unwrap_or("")
        && claim.modes.iter().all(|m| volume.modes.contains(m))
        && claim.selector.matches(&volume.labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Class;
    use crate::model::testing::*;
    use rkube_component_helpers::node_affinity::NodeTerm;
    use serde_json::json;

    fn cluster(provisioner: &str, waits: bool) -> Cluster {
        let mut c = Cluster::default();
        c.classes.insert(
            "s".into(),
            Class {
                waits,
                provisioner: provisioner.into(),
                topologies: vec![],
            },
        );
        let claim = Claim {
            class: Some("s".into()),
            size: 10,
            mode: "Filesystem".into(),
            modes: vec!["ReadWriteOnce".into()],
            ..Claim::default()
        };
        c.claims.insert(key(), claim);
        c
    }

    fn key() -> Key {
        ("default".into(), "data".into())
    }

    fn using() -> PodInfo {
        pod(
            "p",
            json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}),
        )
    }

    fn local(size: i64, node: &str) -> Volume {
        let term = serde_json::from_value(
            json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}),
        )
        .unwrap();
        Volume {
            node: Some(vec![NodeTerm::new(&term)]),
            class: "s".into(),
            size,
            mode: "Filesystem".into(),
            modes: vec!["ReadWriteOnce".into()],
            phase: "Available".into(),
            ..Volume::default()
        }
    }

    #[test]
    fn claims_must_be_there_and_bound() {
        let p = using();
        let c = Cluster::default();
        let no = Filter::new(&p, &c).err().unwrap();
        assert_eq!(no.reasons, ["persistentvolumeclaim \"data\" not found"]);
        let c = cluster("x", false);
        let no = Filter::new(&p, &c).err().unwrap();
        assert_eq!(
            no.reasons,
            ["pod has unbound immediate PersistentVolumeClaims"]
        );
    }

    #[test]
    fn volumes_are_made_for_the_node() {
        let (p, c) = (using(), cluster("rkube.io/local", true));
        let f = Filter::new(&p, &c).unwrap();
        assert_eq!(
            f.decide(&node("n")),
            Some(vec![Decision::Provision { claim: key() }])
        );
        assert!(f.filter(&node("n")).is_ok());
    }

    #[test]
    fn the_smallest_volume_that_suits() {
        let (p, mut c) = (using(), cluster(NO_PROVISIONER, true));
        c.volumes.insert("big".into(), local(100, "a"));
        c.volumes.insert("fit".into(), local(20, "a"));
        c.volumes.insert("small".into(), local(5, "a"));
        let f = Filter::new(&p, &c).unwrap();
        let Some([Decision::Bind { volume, .. }]) = f
            .decide(&node("a"))
            .as_deref()
            .map(|d| <&[Decision; 1]>::try_from(d).unwrap())
            .cloned()
        else {
            panic!("a volume to bind")
        };
        assert_eq!(volume, "fit");
        assert_eq!(
            f.filter(&node("b")).unwrap_err().reasons,
            ["node(s) didn't find available persistent volumes to bind"]
        );
    }

    #[test]
    fn bound_volumes_pin_the_pod() {
        let (p, mut c) = (using(), cluster("x", true));
        let claim = c.claims.get_mut(&key()).unwrap();
        claim.volume = "v".into();
        claim.bound = true;
        c.volumes.insert("v".into(), local(10, "a"));
        let f = Filter::new(&p, &c).unwrap();
        assert!(f.filter(&node("a")).is_ok());
        assert_eq!(
            f.filter(&node("b")).unwrap_err().reasons,
            ["node(s) didn't match PersistentVolume's node affinity"]
        );
        c.volumes.clear();
        let no = Filter::new(&p, &c).err().unwrap();
        assert_eq!(no.reasons, ["persistentvolume \"v\" not found"]);
    }
}
