//! Generates a pod's status (phase, conditions, container statuses) like the kubelet.

use super::instance::{Instances, latest};
use super::plan;
use super::qos;
use crate::kinds::*;

mod conditions;
mod containers;
mod patch;
mod phase;
mod types;

pub(crate) use containers::container_id;
pub(crate) use patch::patch;
pub(crate) use types::{Facts, Health, Resizing};

use conditions::conditions;
use containers::{ContainerKind, container};
use phase::phase;

/// Generates the pod's status. A final phase in the API is kept.
pub(crate) fn generate(f: &Facts<'_>) -> PodStatus {
    let pod = f.pod;
    let old = pod.status.clone().unwrap_or_default();
    let initialized = plan::initialized(pod, f.instances, None);
    let default = if pod.init_containers().is_empty() {
        "ContainerCreating"
    } else {
        "PodInitializing"
    };
    let statuses =
        |containers: &[Container], kind: ContainerKind, old: Option<&Vec<ContainerStatus>>| {
            containers
                .iter()
                .map(|c| {
                    let old = old.into_iter().flatten().find(|s| s.name == c.name);
                    container(f, c, kind, default, old)
                })
                .collect::<Vec<_>>()
        };
    let init = statuses(
        pod.init_containers(),
        ContainerKind::Init,
        old.init_container_statuses.as_ref(),
    );
    let main = statuses(
        &pod.spec().containers,
        ContainerKind::Main,
        old.container_statuses.as_ref(),
    );
    let main = with_devices(f, main, old.container_statuses.as_deref());
    let ephemeral = statuses(
        &pod.ephemeral(),
        ContainerKind::Ephemeral,
        old.ephemeral_container_statuses.as_ref(),
    );
    let phase = match pod.api_phase() {
        // A final phase never changes.
        over @ ("Succeeded" | "Failed") => over.to_owned(),
        _ if f.failure.is_some() => "Failed".to_owned(),
        _ => phase(pod, &init, &main, f.terminal, initialized).to_owned(),
    };
    let conditions = conditions(f, &phase, &init, &main, initialized);
    let some = |list: Vec<ContainerStatus>| (!list.is_empty()).then_some(list);
    PodStatus {
        phase: Some(phase),
        conditions: Some(conditions),
        init_container_statuses: some(init),
        container_statuses: some(main),
        ephemeral_container_statuses: some(ephemeral),
        host_ip: f.node_ips.first().map(ToString::to_string),
        host_ips: Some(texts(&f.node_ips).map(|ip| HostIP { ip }).collect()),
        pod_ip: f.pod_ips.first().map(ToString::to_string),
        pod_ips: (!f.pod_ips.is_empty())
            .then(|| texts(&f.pod_ips).map(|ip| PodIP { ip }).collect()),
        qos_class: Some(qos::class(pod).as_str().into()),
        start_time: old.start_time.clone().or_else(|| Some(f.now.clone())),
        reason: f.failure.map(|v| v.reason.clone()).or(old.reason),
        message: f.failure.map(|v| v.message.clone()).or(old.message),
        observed_generation: pod.metadata.generation,
        nominated_node_name: old.nominated_node_name,
        resource_claim_statuses: old.resource_claim_statuses,
        extended_resource_claim_status: old.extended_resource_claim_status,
        resize: old.resize,
        ..Default::default()
    }
}

/// Adds the health of devices to the statuses of main containers. The last one known stays when the
/// devices were given back.
fn with_devices(
    f: &Facts<'_>,
    mut statuses: Vec<ContainerStatus>,
    old: Option<&[ContainerStatus]>,
) -> Vec<ContainerStatus> {
    for status in &mut statuses {
        let health = (f.devices)(&status.name);
        status.allocated_resources_status = if health.is_empty() {
            let old = old
                .unwrap_or_default()
                .iter()
                .find(|s| s.name == status.name);
            old.and_then(|s| s.allocated_resources_status.clone())
        } else {
            Some(health)
        };
    }
    statuses
}

fn texts(ips: &[std::net::IpAddr]) -> impl Iterator<Item = String> + '_ {
    ips.iter().map(ToString::to_string)
}

/// Returns whether no init or main container is running.
pub(crate) fn all_stopped(pod: &Pod, instances: &Instances) -> bool {
    pod.init_containers()
        .iter()
        .chain(&pod.spec().containers)
        .all(|c| latest(instances, &c.name).is_none_or(|i| !i.running()))
}

#[cfg(test)]
mod tests;
