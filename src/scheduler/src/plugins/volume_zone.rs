//! VolumeZone: bound volumes must be in the node's zone and region.

use super::types::{Plugin, Rejection};
use super::volume_binding::Filter;
use crate::model::NodeInfo;

const KEYS: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

/// Returns the current equivalent of a deprecated label key.
fn newer(key: &str) -> &str {
    match key {
        "failure-domain.beta.kubernetes.io/zone" => KEYS[0],
        "failure-domain.beta.kubernetes.io/region" => KEYS[1],
        key => key,
    }
}

/// Rejects the node if it is in a zone or region, and its zone or region does not match the labels of a bound volume.
pub fn filter(volumes: &Filter<'_>, node: &NodeInfo) -> Result<(), Rejection> {
    // A cluster may have no zones.
    if !KEYS.iter().any(|key| node.labels.contains_key(*key)) {
        return Ok(());
    }
    for volume in volumes.bound() {
        for key in KEYS {
            let Some(zones) = volume.labels.get(key) else {
                continue;
            };
            let place = node.labels.get(key).or_else(|| node.labels.get(newer(key)));
            // A volume may list several zones, separated by `__`.
            let there = place.is_some_and(|place| zones.split("__").any(|zone| zone == place));
            if !there {
                return Err(Rejection::unresolvable(
                    Plugin::VolumeZone,
                    "node(s) had no available volume zone",
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Claim, Cluster, Volume};
    use crate::model::testing::*;
    use serde_json::json;

    #[test]
    fn zones() {
        let mut c = Cluster::default();
        let claim = Claim {
            volume: "v".into(),
            bound: true,
            ..Claim::default()
        };
        c.claims.insert(("default".into(), "data".into()), claim);
        let mut volume = Volume::default();
        volume.labels.insert(KEYS[0].into(), "a__b".into());
        c.volumes.insert("v".into(), volume);
        let p = pod(
            "p",
            json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}),
        );
        let volumes = Filter::new(&p, &c).unwrap();
        let zone = |z: &str| node_with("n", json!({"topology.kubernetes.io/zone": z}), json!({}));
        assert!(filter(&volumes, &zone("b")).is_ok());
        assert!(filter(&volumes, &zone("c")).is_err());
        assert!(filter(&volumes, &node("n")).is_ok());
    }
}
