//! The health of a pod's devices in its status (`allocatedResourcesStatus`).

use k8s_openapi::api::core::v1::{ResourceHealth, ResourceStatus};

use super::{Plugins, claims};
use crate::kinds::*;

impl Plugins {
    /// Returns the health of the devices of a main container.
    pub(crate) fn resource_statuses(&self, pod: &Pod, container: &str) -> Vec<ResourceStatus> {
        let mut all = Vec::new();
        for health in self.devices.health(pod.uid(), container) {
            let resource = |(id, healthy): (String, bool)| ResourceHealth {
                resource_id: id,
                health: Some(if healthy { "Healthy" } else { "Unhealthy" }.into()),
                message: None,
            };
            all.push(ResourceStatus {
                name: health.resource,
                resources: Some(health.devices.into_iter().map(resource).collect()),
            });
        }
        if claims::has_claims(pod) {
            all.extend(self.claim_statuses(pod, container));
        }
        all
    }

    fn claim_statuses(&self, pod: &Pod, container: &str) -> Vec<ResourceStatus> {
        let main = pod.spec().containers.iter().find(|c| c.name == container);
        let resources = main.and_then(|c| c.resources.as_ref());
        let mut statuses: Vec<ResourceStatus> = Vec::new();
        for used in resources
            .into_iter()
            .flat_map(|r| r.claims.iter().flatten())
        {
            let Some(claim) = claims::name_of(pod, &used.name) else {
                continue;
            };
            let request = used.request.as_deref().unwrap_or_default();
            let health = self.claims.health(pod.namespace(), &claim, request);
            let name = match request {
                "" => format!("claim:{}", used.name),
                request => format!("claim:{}/{request}", used.name),
            };
            if health.is_empty() || statuses.iter().any(|s| s.name == name) {
                continue;
            }
            let resource = |device: rkube_plugins::claims::DeviceHealth| ResourceHealth {
                resource_id: device.id,
                health: Some(device.health.as_str().into()),
                message: Some(device.message).filter(|m| !m.is_empty()),
            };
            statuses.push(ResourceStatus {
                name,
                resources: Some(health.into_iter().map(resource).collect()),
            });
        }
        statuses
    }
}
