//! A pod's status: phase, conditions and container statuses, as upstream words them.

use std::collections::HashMap;

use super::instance::{Instance, Instances, latest};
use super::plan;
use super::qos;
use crate::kinds::*;

mod conditions;
mod containers;
mod patch;
mod phase;

pub(crate) use containers::container_id;
pub(crate) use patch::patch;

use conditions::conditions;
use containers::{Kind, container};
use phase::phase;

/// Why a container does not start, as its status tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub reason: String,
    pub message: String,
}

/// What probes say of a container, for its status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Health {
    pub started: bool,
    pub ready: bool,
}

/// Where a pod's change of resources stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resizing {
    /// Reason and message of one that the node has not granted.
    pub pending: Option<(String, String)>,
    /// One that was granted and is not in effect everywhere; with what went wrong.
    pub in_progress: Option<Option<String>>,
}

pub(crate) struct Facts<'a> {
    pub pod: &'a Pod,
    pub instances: &'a Instances,
    /// Why containers wait, by name.
    pub waiting: &'a HashMap<String, Waiting>,
    pub health: &'a dyn Fn(&str) -> Health,
    pub node_ip: std::net::IpAddr,
    pub pod_ip: Option<std::net::IpAddr>,
    /// The current sandbox, once its network is there.
    pub sandbox: Option<&'a str>,
    /// All containers have stopped and none starts again.
    pub terminal: bool,
    /// Reason and message of a pod that the node refused or evicted.
    pub verdict: Option<&'a Waiting>,
    pub resizing: Resizing,
    /// What a container runs with.
    pub resources: &'a dyn Fn(&Instance) -> Option<ResourceRequirements>,
    pub now: Time,
}

/// The whole status.
pub(crate) fn generate(f: &Facts<'_>) -> PodStatus {
    let pod = f.pod;
    let old = pod.status.clone().unwrap_or_default();
    let initialized = plan::initialized(pod, f.instances, None);
    let default = if pod.init_containers().is_empty() {
        "ContainerCreating"
    } else {
        "PodInitializing"
    };
    let statuses = |containers: &[Container], kind: Kind, old: Option<&Vec<ContainerStatus>>| {
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
        Kind::Init,
        old.init_container_statuses.as_ref(),
    );
    let main = statuses(
        &pod.spec().containers,
        Kind::Main,
        old.container_statuses.as_ref(),
    );
    let ephemeral = statuses(
        &pod.ephemeral(),
        Kind::Ephemeral,
        old.ephemeral_container_statuses.as_ref(),
    );
    let phase = match pod.api_phase() {
        // A pod that is over stays so.
        over @ ("Succeeded" | "Failed") => over.to_owned(),
        _ if f.verdict.is_some() => "Failed".to_owned(),
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
        host_ip: Some(f.node_ip.to_string()),
        host_ips: Some(vec![HostIP {
            ip: f.node_ip.to_string(),
        }]),
        pod_ip: f.pod_ip.map(|ip| ip.to_string()),
        pod_ips: f.pod_ip.map(|ip| vec![PodIP { ip: ip.to_string() }]),
        qos_class: Some(qos::class(pod).as_str().into()),
        start_time: old.start_time.clone().or_else(|| Some(f.now.clone())),
        reason: f.verdict.map(|v| v.reason.clone()).or(old.reason),
        message: f.verdict.map(|v| v.message.clone()).or(old.message),
        observed_generation: pod.metadata.generation,
        nominated_node_name: old.nominated_node_name,
        resource_claim_statuses: old.resource_claim_statuses,
        resize: old.resize,
        ..Default::default()
    }
}

fn find<'a>(statuses: &'a [ContainerStatus], name: &str) -> Option<&'a ContainerStatus> {
    statuses.iter().find(|s| s.name == name)
}

/// Whether the latest attempt of each container has ended.
pub(crate) fn all_stopped(pod: &Pod, instances: &Instances) -> bool {
    pod.init_containers()
        .iter()
        .chain(&pod.spec().containers)
        .all(|c| latest(instances, &c.name).is_none_or(|i| !i.running()))
}

#[cfg(test)]
mod tests;
