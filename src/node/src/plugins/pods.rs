//! The pods of the node, for the socket of pod resources.

use std::sync::Arc;

use rkube_plugins::pod_resources::{Pod as ListedPod, PodContainer, Pods};

use super::claims;
use crate::kinds::*;
use crate::pods::table::PodTable;

/// The pods of the table.
pub(super) struct OfTable(pub Arc<PodTable>);

impl Pods for OfTable {
    fn active(&self) -> Vec<ListedPod> {
        let all = self.0.all();
        let active = all
            .iter()
            .filter(|s| !s.cleaned && !matches!(s.pod.api_phase(), "Succeeded" | "Failed"));
        active.map(|snapshot| listed(&snapshot.pod)).collect()
    }

    fn find(&self, namespace: &str, name: &str) -> Option<ListedPod> {
        let found = self.0.find(namespace, name, None)?;
        Some(listed(&found.pod))
    }
}

fn listed(pod: &Pod) -> ListedPod {
    let sidecars = pod.init_containers().iter().filter(|c| is_sidecar(c));
    let containers = sidecars
        .chain(&pod.spec().containers)
        .map(|container| PodContainer {
            name: container.name.clone(),
            // A claim that is not known yet has no devices either.
            claims: claims::of_container(pod, container)
                .unwrap_or_default()
                .into_keys()
                .collect(),
            is_sidecar: is_sidecar(container),
            cpus: Vec::new(),
        });
    ListedPod {
        uid: pod.uid().to_owned(),
        name: pod.name().to_owned(),
        namespace: pod.namespace().to_owned(),
        containers: containers.collect(),
    }
}
