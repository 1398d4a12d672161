//! VolumeRestrictions: disks that cannot be mounted twice, and `ReadWriteOncePod` claims.

use super::types::{Plugin, Rejection};
use crate::cluster::View;
use crate::model::{NodeInfo, PodInfo};

const IN_USE: &str = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";

/// Filter state that is computed once per pod.
pub struct Filter<'a> {
    pod: &'a PodInfo,
    /// `ReadWriteOncePod` claims of the pod that another pod uses; preempting that pod may help.
    exclusive: Vec<&'a str>,
}

impl<'a> Filter<'a> {
    /// Looks up the pod's `ReadWriteOncePod` claims and their users.
    ///
    /// # Errors
    ///
    /// Rejects the pod on all nodes if a claim that it names is missing.
    pub fn new(pod: &'a PodInfo, view: View<'a>) -> Result<Self, Rejection> {
        let mut named = pod.claims.iter().filter(|claim| !claim.ephemeral);
        let missing = named.find(|claim| {
            let key = (pod.namespace.clone(), claim.name.clone());
            !view.cluster.claims.contains_key(&key)
        });
        if let Some(claim) = missing {
            return Err(Rejection::unresolvable(
                Plugin::VolumeRestrictions,
                format!("persistentvolumeclaim {:?} not found", claim.name),
            ));
        }
        let exclusive = pod
            .claims
            .iter()
            .filter(|c| {
                view.cluster
                    .claims
                    .get(&(pod.namespace.clone(), c.name.clone()))
                    .is_some_and(|claim| claim.modes.iter().any(|m| m == "ReadWriteOncePod"))
            })
            .map(|c| c.name.as_str())
            .collect::<Vec<_>>();
        let used = |name: &str| {
            view.nodes().flat_map(|n| &n.pods).any(|other| {
                other.namespace == pod.namespace
                    && other.uid != pod.uid
                    && other.claims.iter().any(|c| c.name == name)
            })
        };
        Ok(Filter {
            pod,
            exclusive: exclusive.into_iter().filter(|name| used(name)).collect(),
        })
    }

    /// Rejects the node if a pod on it mounts the same disk. Rejects every node if another pod uses
    /// a `ReadWriteOncePod` claim of this pod.
    pub fn filter(&self, node: &NodeInfo) -> Result<(), Rejection> {
        let clash = node.pods.iter().flat_map(|p| &p.disks).any(|used| {
            self.pod.disks.iter().any(|wanted| {
                wanted.identity == used.identity && !(wanted.read_only && used.read_only)
            })
        });
        if clash {
            return Err(Rejection::new(
                Plugin::VolumeRestrictions,
                "node(s) had no available disk",
            ));
        }
        if !self.exclusive.is_empty() {
            return Err(Rejection::new(Plugin::VolumeRestrictions, IN_USE));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Claim, Cluster};
    use crate::model::testing::*;
    use serde_json::json;

    #[test]
    fn one_pod_alone() {
        let mut c = Cluster::default();
        c.set_node(node("n"));
        let claim = Claim {
            modes: vec!["ReadWriteOncePod".into()],
            ..Claim::default()
        };
        c.claims.insert(("default".into(), "data".into()), claim);
        let with = |name: &str| {
            pod(
                name,
                json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}),
            )
        };
        let (a, b) = (with("a"), with("b"));
        assert!(
            Filter::new(&a, View::of(&c))
                .unwrap()
                .filter(&c.nodes["n"])
                .is_ok()
        );
        c.assume(&a, "n");
        let no = Filter::new(&b, View::of(&c)).unwrap();
        let no = no.filter(&c.nodes["n"]).unwrap_err();
        assert_eq!(no.reasons, [IN_USE]);
        c.claims.clear();
        let no = Filter::new(&b, View::of(&c)).err().unwrap();
        assert_eq!(no.reasons, ["persistentvolumeclaim \"data\" not found"]);
    }

    #[test]
    fn disks() {
        let mut c = Cluster::default();
        c.set_node(node("n"));
        let with = |name: &str, ro: bool| {
            pod(
                name,
                json!({"volumes": [{"name": "v", "gcePersistentDisk": {"pdName": "d", "readOnly": ro}}]}),
            )
        };
        c.assume(&with("a", true), "n");
        let check = |p: &PodInfo| {
            Filter::new(p, View::of(&c))
                .unwrap()
                .filter(&c.nodes["n"])
                .is_ok()
        };
        assert!(check(&with("b", true)));
        assert!(!check(&with("b", false)));
    }
}
