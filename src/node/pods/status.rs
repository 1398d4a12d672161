//! A pod's status: phase, conditions and container statuses, as upstream words them.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{ContainerUser, LinuxContainerUser, VolumeMountStatus};
use rkube_runtime::ContainerState as State;

use super::instance::{Instance, Instances, latest};
use super::plan;
use super::qos;
use crate::kinds::*;

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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Init,
    Main,
    Ephemeral,
}

fn terminated(i: &Instance) -> ContainerStateTerminated {
    ContainerStateTerminated {
        container_id: Some(container_id(&i.id)),
        exit_code: i.exit_code,
        reason: Some(if !i.reason.is_empty() {
            i.reason.clone()
        } else if i.exit_code == 0 {
            "Completed".into()
        } else {
            "Error".into()
        }),
        message: (!i.message.is_empty()).then(|| i.message.clone()),
        started_at: i
            .started_at
            .or(Some(i.created_at))
            .map(|t| Time(seconds(t))),
        finished_at: i.finished_at.map(|t| Time(seconds(t))),
        signal: None,
    }
}

pub(crate) fn container_id(id: &str) -> String {
    format!("rkube://{id}")
}

fn state(i: &Instance, default: &str) -> ContainerState {
    match i.state {
        State::Running => ContainerState {
            running: Some(ContainerStateRunning {
                started_at: i.started_at.map(|t| Time(seconds(t))),
            }),
            ..Default::default()
        },
        State::Exited => ContainerState {
            terminated: Some(terminated(i)),
            ..Default::default()
        },
        State::Created => waiting(default, ""),
    }
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
            message: (!message.is_empty()).then(|| message.to_owned()),
        }),
        ..Default::default()
    }
}

fn container(
    f: &Facts<'_>,
    c: &Container,
    kind: Kind,
    default: &str,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let attempts = f
        .instances
        .get(&c.name)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let current = attempts.last();
    let previous = attempts.iter().rev().nth(1).filter(|i| i.exited());
    let mut status = ContainerStatus {
        name: c.name.clone(),
        image: c.image.clone().unwrap_or_default(),
        started: Some(false),
        ..Default::default()
    };
    match current {
        Some(i) => {
            status.state = Some(state(i, default));
            status.image = i.image.clone();
            status.image_id = i.image_ref.clone();
            status.container_id = Some(container_id(&i.id));
            status.restart_count = i32::try_from(i.attempt).unwrap_or(i32::MAX);
            status.last_state = previous.map(|p| ContainerState {
                terminated: Some(terminated(p)),
                ..Default::default()
            });
        }
        None => lost(f, c, kind, default, old, &mut status),
    }
    if status.last_state.is_none() {
        status.last_state = Some(ContainerState::default());
    }
    overlay_waiting(f, c, kind, current, &mut status);
    let running = status.state.as_ref().is_some_and(|s| s.running.is_some());
    let health = (f.health)(&c.name);
    match kind {
        Kind::Init if !is_sidecar(c) => {
            status.ready = status
                .state
                .as_ref()
                .and_then(|s| s.terminated.as_ref())
                .is_some_and(|t| t.exit_code == 0);
            status.started = Some(running);
        }
        Kind::Ephemeral => {
            status.started = None;
        }
        _ => {
            status.started = Some(running && health.started);
            status.ready = running && health.started && health.ready;
        }
    }
    if let Some(i) = current.filter(|_| kind != Kind::Ephemeral) {
        details(c, i, running, &mut status);
    } else if let Some(i) = current {
        mounts_and_user(c, i, &mut status);
    }
    status
}

/// A container of which the node has no trace.
fn lost(
    f: &Facts<'_>,
    c: &Container,
    kind: Kind,
    default: &str,
    old: Option<&ContainerStatus>,
    status: &mut ContainerStatus,
) {
    let known = old.and_then(|o| Some((o, o.state.as_ref()?)));
    match known {
        // It ended once and its remains were collected.
        Some((o, s)) if s.terminated.is_some() => {
            *status = ContainerStatus {
                name: c.name.clone(),
                ..o.clone()
            };
        }
        // It ran, but nobody knows how it ended.
        Some((o, s)) if s.running.is_some() => {
            let gone = ContainerState {
                terminated: Some(ContainerStateTerminated {
                    exit_code: 137,
                    reason: Some("ContainerStatusUnknown".into()),
                    message: Some(
                        "The container could not be located when the pod was terminated".into(),
                    ),
                    ..Default::default()
                }),
                ..Default::default()
            };
            status.restart_count = o.restart_count;
            if f.terminal || f.verdict.is_some() {
                status.state = Some(gone);
            } else {
                status.state = Some(waiting(default, ""));
                status.last_state = Some(gone);
            }
        }
        _ => {
            if let Some(o) = old {
                status.restart_count = o.restart_count;
                status.last_state = o.last_state.clone();
            }
            let initialized_init =
                kind == Kind::Init && plan::initialized(f.pod, f.instances, None);
            if initialized_init && !is_sidecar(c) && old.is_none_or(|o| o.container_id.is_none()) {
                // Collected after a clean end: the pod could not have come this far otherwise.
                status.state = Some(ContainerState {
                    terminated: Some(ContainerStateTerminated {
                        exit_code: 0,
                        reason: Some("Completed".into()),
                        message: Some(
                            "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally".into(),
                        ),
                        ..Default::default()
                    }),
                    ..Default::default()
                });
            } else if kind == Kind::Ephemeral {
                status.state = Some(waiting("", ""));
            } else {
                status.state = Some(waiting(default, ""));
            }
        }
    }
}

/// A container that will be started again waits, for the reason noted.
fn overlay_waiting(
    f: &Facts<'_>,
    c: &Container,
    kind: Kind,
    current: Option<&Instance>,
    status: &mut ContainerStatus,
) {
    let Some(reason) = f.waiting.get(&c.name) else {
        return;
    };
    if current.is_some_and(Instance::running) || f.terminal || f.verdict.is_some() {
        return;
    }
    if let Some(i) = current.filter(|i| i.exited()) {
        let again = match kind {
            Kind::Init if !is_sidecar(c) => i.exit_code != 0 && f.pod.restart_policy() != "Never",
            Kind::Init => true,
            Kind::Main => plan::restarts(f.pod, c, i.exit_code),
            Kind::Ephemeral => false,
        };
        if !again {
            return;
        }
        status.last_state = status.state.take();
    }
    status.state = Some(waiting(&reason.reason, &reason.message));
}

fn details(c: &Container, i: &Instance, running: bool, status: &mut ContainerStatus) {
    if running {
        status.allocated_resources = c.resources.as_ref().and_then(|r| r.requests.clone());
        status.resources = Some(ResourceRequirements {
            limits: c.resources.as_ref().and_then(|r| r.limits.clone()),
            requests: c.resources.as_ref().and_then(|r| r.requests.clone()),
            claims: None,
        });
    }
    mounts_and_user(c, i, status);
}

fn mounts_and_user(c: &Container, i: &Instance, status: &mut ContainerStatus) {
    let mounts: Vec<_> = c
        .volume_mounts
        .iter()
        .flatten()
        .map(|m| {
            let read_only = m.read_only.unwrap_or(false);
            VolumeMountStatus {
                mount_path: m.mount_path.clone(),
                name: m.name.clone(),
                read_only: read_only.then_some(true),
                recursive_read_only: read_only.then(|| match m.recursive_read_only.as_deref() {
                    Some("Enabled" | "IfPossible") => "Enabled".to_owned(),
                    _ => "Disabled".to_owned(),
                }),
                volume_status: None,
            }
        })
        .collect();
    status.volume_mounts = (!mounts.is_empty()).then_some(mounts);
    let mut groups: Vec<i64> = i.user.groups.iter().map(|g| i64::from(*g)).collect();
    if !groups.contains(&i64::from(i.user.gid)) {
        groups.insert(0, i64::from(i.user.gid));
    }
    status.user = Some(ContainerUser {
        linux: Some(LinuxContainerUser {
            uid: i64::from(i.user.uid),
            gid: i64::from(i.user.gid),
            supplemental_groups: Some(groups),
        }),
    });
}

fn find<'a>(statuses: &'a [ContainerStatus], name: &str) -> Option<&'a ContainerStatus> {
    statuses.iter().find(|s| s.name == name)
}

fn last_exit(s: &ContainerState, status: &ContainerStatus) -> Option<i32> {
    s.waiting.as_ref()?;
    let last = status.last_state.as_ref()?.terminated.as_ref()?;
    Some(last.exit_code)
}

/// Upstream's phase of a pod whose phase is not final yet.
fn phase(
    pod: &Pod,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    terminal: bool,
    initialized: bool,
) -> &'static str {
    let never = pod.restart_policy() == "Never";
    let (mut pending_init, mut failed_init) = (0, 0);
    let (mut unknown, mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0, 0);
    let mut pending_sidecars = 0;
    for c in pod.init_containers() {
        let status = find(init, &c.name);
        let state = status.and_then(|s| s.state.as_ref());
        let (Some(status), Some(state)) = (status, state) else {
            if is_sidecar(c) {
                unknown += 1;
            } else {
                pending_init += 1;
            }
            continue;
        };
        if is_sidecar(c) {
            if state.running.is_some() {
                running += 1;
                if status.started != Some(true) {
                    pending_sidecars += 1;
                }
            } else if state.waiting.is_some() && last_exit(state, status).is_none() {
                pending_sidecars += 1;
                waiting += 1;
            }
        } else if let Some(t) = &state.terminated {
            if t.exit_code != 0 {
                failed_init += 1;
            }
        } else if let Some(code) = last_exit(state, status) {
            if code != 0 {
                failed_init += 1;
            }
        } else {
            pending_init += 1;
        }
    }
    for c in &pod.spec().containers {
        let status = find(main, &c.name);
        let state = status.and_then(|s| s.state.as_ref());
        let (Some(status), Some(state)) = (status, state) else {
            unknown += 1;
            continue;
        };
        if state.running.is_some() {
            running += 1;
        } else if let Some(t) = &state.terminated {
            stopped += 1;
            if t.exit_code == 0 {
                succeeded += 1;
            }
        } else if last_exit(state, status).is_some() {
            stopped += 1;
        } else {
            waiting += 1;
        }
    }
    if failed_init > 0 && (never || terminal) {
        return "Failed";
    }
    if terminal && stopped > 0 && running == 0 {
        // Nothing runs any more and nothing will.
        return if stopped == succeeded && waiting == 0 && unknown == 0 {
            "Succeeded"
        } else {
            "Failed"
        };
    }
    if pending_init > 0 || (pending_sidecars > 0 && !initialized) || waiting > 0 {
        return if terminal { "Failed" } else { "Pending" };
    }
    if running > 0 && unknown == 0 {
        return "Running";
    }
    if running == 0 && stopped > 0 && unknown == 0 {
        return match pod.restart_policy() {
            "Always" => "Running",
            _ if stopped == succeeded => "Succeeded",
            "Never" => "Failed",
            _ => "Running",
        };
    }
    if terminal { "Failed" } else { "Pending" }
}

fn conditions(
    f: &Facts<'_>,
    phase: &str,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    initialized: bool,
) -> Vec<PodCondition> {
    let pod = f.pod;
    let ready_to_start = f.sandbox.is_some();
    let containers = containers_ready(pod, phase, init, main);
    let ready = ready(pod, &containers);
    let wanted = [
        ("PodReadyToStartContainers", Verdict::yes(ready_to_start)),
        ("Initialized", init_done(pod, phase, init, initialized)),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", Verdict::yes(true)),
    ];
    let old = pod
        .status
        .as_ref()
        .and_then(|s| s.conditions.as_deref())
        .unwrap_or_default();
    let mut all: Vec<PodCondition> = wanted
        .into_iter()
        .map(|(type_, v)| {
            let status = if v.yes { "True" } else { "False" };
            let since = old
                .iter()
                .find(|c| c.type_ == type_ && c.status == status)
                .and_then(|c| c.last_transition_time.clone());
            PodCondition {
                type_: type_.into(),
                status: status.into(),
                reason: v.reason,
                message: v.message,
                last_transition_time: Some(since.unwrap_or_else(|| f.now.clone())),
                last_probe_time: None,
                observed_generation: pod.metadata.generation,
            }
        })
        .collect();
    // Others' conditions (readiness gates, disruptions) are theirs.
    all.extend(
        old.iter()
            .filter(|c| wanted_names().all(|w| w != c.type_))
            .cloned(),
    );
    all
}

/// The conditions that the node owns.
pub(crate) fn wanted_names() -> impl Iterator<Item = &'static str> {
    [
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
    ]
    .into_iter()
}

#[derive(Clone)]
struct Verdict {
    yes: bool,
    reason: Option<String>,
    message: Option<String>,
}

impl Verdict {
    fn yes(yes: bool) -> Self {
        Self {
            yes,
            reason: None,
            message: None,
        }
    }
    fn because(yes: bool, reason: &str, message: String) -> Self {
        Self {
            yes,
            reason: Some(reason.into()),
            message: (!message.is_empty()).then_some(message),
        }
    }
}

fn list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn init_done(pod: &Pod, phase: &str, init: &[ContainerStatus], initialized: bool) -> Verdict {
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    for c in pod.init_containers() {
        match find(init, &c.name) {
            None => unknown.push(c.name.as_str()),
            Some(s) if is_sidecar(c) => {
                if s.started != Some(true) {
                    incomplete.push(c.name.as_str());
                }
            }
            Some(s) if !s.ready => incomplete.push(c.name.as_str()),
            Some(_) => {}
        }
    }
    if phase == "Succeeded" {
        return Verdict::because(true, "PodCompleted", String::new());
    }
    if initialized {
        return Verdict::yes(true);
    }
    let message = describe(&[
        ("containers with unknown status", &unknown),
        ("containers with incomplete status", &incomplete),
    ]);
    if message.is_empty() {
        Verdict::yes(true)
    } else {
        Verdict::because(false, "ContainersNotInitialized", message)
    }
}

fn describe(parts: &[(&str, &Vec<&str>)]) -> String {
    parts
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what}: {}", list(names)))
        .collect::<Vec<_>>()
        .join(", ")
}

fn containers_ready(
    pod: &Pod,
    phase: &str,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
) -> Verdict {
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    let sidecars = pod.init_containers().iter().filter(|c| is_sidecar(c));
    for (c, statuses) in sidecars
        .map(|c| (c, init))
        .chain(pod.spec().containers.iter().map(|c| (c, main)))
    {
        match find(statuses, &c.name) {
            None => unknown.push(c.name.as_str()),
            Some(s) if !s.ready => unready.push(c.name.as_str()),
            Some(_) => {}
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return Verdict::because(false, "PodCompleted", String::new());
    }
    if phase == "Failed" {
        return Verdict::because(false, "PodFailed", String::new());
    }
    let message = describe(&[
        ("containers with unknown status", &unknown),
        ("containers with unready status", &unready),
    ]);
    if message.is_empty() {
        Verdict::yes(true)
    } else {
        Verdict::because(false, "ContainersNotReady", message)
    }
}

fn ready(pod: &Pod, containers: &Verdict) -> Verdict {
    if !containers.yes {
        return containers.clone();
    }
    let old = pod
        .status
        .as_ref()
        .and_then(|s| s.conditions.as_deref())
        .unwrap_or_default();
    let problems: Vec<String> = pod
        .spec()
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|g| {
            let name = &g.condition_type;
            match old.iter().find(|c| c.type_ == *name) {
                None => Some(format!(
                    "corresponding condition of pod readiness gate {name:?} does not exist."
                )),
                Some(c) if c.status != "True" => Some(format!(
                    "the status of pod readiness gate {name:?} is not \"True\", but {}",
                    c.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if problems.is_empty() {
        Verdict::yes(true)
    } else {
        Verdict::because(false, "ReadinessGatesNotReady", problems.join(", "))
    }
}

/// The strategic merge patch that turns one status into another; `None` when they are equal.
pub(crate) fn patch(
    uid: &str,
    old: Option<&PodStatus>,
    new: &PodStatus,
) -> Option<serde_json::Value> {
    use serde_json::{Map, Value, json};
    let object = |s: Option<&PodStatus>| match s.map(serde_json::to_value) {
        Some(Ok(Value::Object(m))) => m,
        _ => Map::new(),
    };
    let (old, mut new) = (object(old), object(Some(new)));
    let mut changes = Map::new();
    for key in old.keys().filter(|k| !new.contains_key(*k)) {
        changes.insert(key.clone(), Value::Null);
    }
    if let (Some(Value::Array(mine)), theirs) = (new.remove("conditions"), old.get("conditions")) {
        let theirs = theirs.and_then(Value::as_array);
        let changed: Vec<Value> = mine
            .into_iter()
            .filter(|c| wanted_names().any(|w| c["type"] == w))
            .filter_map(|mut c| {
                let before = theirs
                    .into_iter()
                    .flatten()
                    .find(|o| o["type"] == c["type"]);
                if before == Some(&c) {
                    return None;
                }
                // A reason that no longer holds has to be taken away by name.
                if let (Some(before), Value::Object(fields)) =
                    (before.and_then(Value::as_object), &mut c)
                {
                    for key in before.keys() {
                        fields.entry(key.clone()).or_insert(Value::Null);
                    }
                }
                Some(c)
            })
            .collect();
        if !changed.is_empty() {
            changes.insert("conditions".into(), Value::Array(changed));
        }
    }
    for (key, value) in new {
        if old.get(&key) == Some(&value) {
            continue;
        }
        if (key == "podIPs" || key == "hostIPs") && old.contains_key(&key) {
            // Merged by address: what is gone has to be named.
            let mut list = value.as_array().cloned().unwrap_or_default();
            for gone in old[&key].as_array().into_iter().flatten() {
                if !list.contains(gone) {
                    list.push(json!({"$patch": "delete", "ip": gone["ip"]}));
                }
            }
            let list = if key == "hostIPs" {
                value
            } else {
                Value::Array(list)
            };
            changes.insert(key, list);
            continue;
        }
        changes.insert(key, value);
    }
    (!changes.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": changes}))
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
