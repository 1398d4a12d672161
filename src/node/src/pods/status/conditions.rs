//! A pod's conditions.

use super::super::plan;
use super::types::{Facts, find};
use crate::kinds::*;
use crate::pods::reason::Eviction;

/// Condition by which controllers recognize a disruption.
pub(crate) const DISRUPTED: &str = "DisruptionTarget";

/// Reason of a disruption that the node caused.
pub(crate) const BY_NODE: &str = "TerminationByKubelet";

/// Message of the disruption of a pod that went for a critical one.
const PREEMPTED: &str = "Pod was preempted by Kubelet to accommodate a critical pod.";

/// Condition type of a pod all of whose containers are restarted. Only pods with such a rule have it.
const RESTARTING: &str = "AllContainersRestarting";

/// Condition types of a resize; each is present only while it is true.
pub(crate) const RESIZE: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// Returns the pod's conditions: the kubelet's first, then those of other writers unchanged.
pub(super) fn conditions(
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
    let mut wanted = vec![
        (
            "PodReadyToStartContainers",
            ConditionValue::yes(ready_to_start),
        ),
        ("Initialized", init_done(pod, phase, init, initialized)),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", ConditionValue::yes(true)),
    ];
    if plan::may_restart_all(pod) {
        wanted.push((RESTARTING, restarting(f, phase)));
    }
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
    let in_progress = f.resizing.in_progress.clone().map(|error| match error {
        Some(error) => (Some("Error".to_owned()), Some(error)),
        None => (None, None),
    });
    let pending = f.resizing.pending.clone().map(|(r, m)| (Some(r), Some(m)));
    for (type_, why) in RESIZE.into_iter().zip([pending, in_progress]) {
        let Some((reason, message)) = why else {
            continue;
        };
        let since = old
            .iter()
            .find(|c| c.type_ == type_ && c.reason == reason)
            .and_then(|c| c.last_transition_time.clone());
        all.push(PodCondition {
            type_: type_.into(),
            status: "True".into(),
            reason,
            message,
            last_transition_time: Some(since.unwrap_or_else(|| f.now.clone())),
            last_probe_time: None,
            observed_generation: pod.metadata.generation,
        });
    }
    // Keep conditions of other writers (readiness gates, disruptions).
    let foreign = |c: &&PodCondition| {
        wanted_names().all(|w| w != c.type_) && !RESIZE.contains(&c.type_.as_str())
    };
    all.extend(old.iter().filter(foreign).cloned());
    if let Some(evicted) = f.failure.filter(|_| f.is_disrupted)
        && !all.iter().any(|c| c.type_ == DISRUPTED)
    {
        all.push(PodCondition {
            type_: DISRUPTED.into(),
            status: "True".into(),
            reason: Some(BY_NODE.into()),
            message: Some(match evicted.reason.as_str() {
                Eviction::PREEMPTING => PREEMPTED.to_owned(),
                _ => evicted.message.clone(),
            }),
            last_transition_time: Some(f.now.clone()),
            last_probe_time: None,
            observed_generation: pod.metadata.generation,
        });
    }
    all
}

/// Returns the condition types that the node sets as long as they apply.
pub(crate) fn wanted_names() -> impl Iterator<Item = &'static str> {
    [
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
        RESTARTING,
    ]
    .into_iter()
}

/// Status, reason and message of a condition.
#[derive(Clone)]
struct ConditionValue {
    yes: bool,
    reason: Option<String>,
    message: Option<String>,
}

impl ConditionValue {
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

fn init_done(
    pod: &Pod,
    phase: &str,
    init: &[ContainerStatus],
    initialized: bool,
) -> ConditionValue {
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
        return ConditionValue::because(true, "PodCompleted", String::new());
    }
    // A pod that starts over stays initialized.
    let old = pod
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    let was = plan::may_restart_all(pod)
        && old
            .into_iter()
            .any(|c| c.type_ == "Initialized" && c.status == "True");
    if initialized || was {
        return ConditionValue::yes(true);
    }
    let message = describe(&[
        ("containers with unknown status", &unknown),
        ("containers with incomplete status", &incomplete),
    ]);
    if message.is_empty() {
        ConditionValue::yes(true)
    } else {
        ConditionValue::because(false, "ContainersNotInitialized", message)
    }
}

/// Returns the condition that all containers are being restarted.
fn restarting(f: &Facts<'_>, phase: &str) -> ConditionValue {
    match phase {
        "Succeeded" => ConditionValue::because(false, "PodCompleted", String::new()),
        "Failed" => ConditionValue::because(false, "PodFailed", String::new()),
        _ if plan::is_restarting_all(f.pod, f.instances, None) => ConditionValue::because(
            true,
            "RestartAllContainersStarted",
            "container exited with restart policy rule".into(),
        ),
        _ => ConditionValue::yes(false),
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
) -> ConditionValue {
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
        return ConditionValue::because(false, "PodCompleted", String::new());
    }
    if phase == "Failed" {
        return ConditionValue::because(false, "PodFailed", String::new());
    }
    let message = describe(&[
        ("containers with unknown status", &unknown),
        ("containers with unready status", &unready),
    ]);
    if message.is_empty() {
        ConditionValue::yes(true)
    } else {
        ConditionValue::because(false, "ContainersNotReady", message)
    }
}

fn ready(pod: &Pod, containers: &ConditionValue) -> ConditionValue {
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
        ConditionValue::yes(true)
    } else {
        ConditionValue::because(false, "ReadinessGatesNotReady", problems.join(", "))
    }
}
