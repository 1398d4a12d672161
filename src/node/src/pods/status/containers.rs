//! Generates one container's status from its attempts and its waiting reason.

use k8s_openapi::api::core::v1::{ContainerUser, LinuxContainerUser, VolumeMountStatus};
use rkube_runtime::ContainerState as State;

use super::super::instance::Instance;
use super::super::plan;
use super::types::Facts;
use crate::kinds::*;

/// Reason and message of containers that were removed because all are restarted.
pub(super) const RESTARTING_ALL: &str = "RestartingAllContainers";
const RESTARTING_ALL_MESSAGE: &str =
    "The container is removed because RestartAllContainers in place";

/// The list of the pod's specification that contains the container.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ContainerKind {
    Init,
    Main,
    Ephemeral,
}

fn terminated(i: &Instance) -> ContainerStateTerminated {
    ContainerStateTerminated {
        container_id: Some(container_id(&i.id)),
        exit_code: i.exit_code,
        reason: Some(i.exit_reason().into()),
        message: (!i.message.is_empty()).then(|| i.message.clone()),
        started_at: i
            .started_at
            .or(Some(i.created_at))
            .map(|t| Time(seconds(t))),
        finished_at: i.finished_at.map(|t| Time(seconds(t))),
        signal: None,
    }
}

/// Returns a container ID as it appears in the API: `rkube://<id>`.
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

/// Generates a container's status.
///
/// `default` is the waiting reason of a container that was not created yet; `old` is its status in
/// the API.
pub(super) fn container(
    f: &Facts<'_>,
    c: &Container,
    kind: ContainerKind,
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
            status.last_state = match previous {
                Some(p) => Some(ContainerState {
                    terminated: Some(terminated(p)),
                    ..Default::default()
                }),
                None => removed_attempt(f, c, i, old),
            };
        }
        None if f.resets.contains_key(&c.name) && !f.terminal && f.failure.is_none() => {
            status.state = Some(waiting(RESTARTING_ALL, RESTARTING_ALL_MESSAGE));
            status.last_state = Some(reset_state());
            status.restart_count = i32::try_from(f.resets[&c.name]).unwrap_or(i32::MAX);
        }
        None => unknown_container(f, c, kind, default, old, &mut status),
    }
    if status.last_state.is_none() {
        status.last_state = Some(ContainerState::default());
    }
    overlay_waiting(f, c, kind, current, &mut status);
    let running = status.state.as_ref().is_some_and(|s| s.running.is_some());
    let health = (f.health)(&c.name);
    match kind {
        ContainerKind::Init if !is_sidecar(c) => {
            status.ready = status
                .state
                .as_ref()
                .and_then(|s| s.terminated.as_ref())
                .is_some_and(|t| t.exit_code == 0);
            status.started = Some(running);
        }
        ContainerKind::Ephemeral => {
            status.started = None;
        }
        _ => {
            status.started = Some(running && health.started);
            status.ready = running && health.started && health.ready;
        }
    }
    if let Some(i) = current.filter(|_| kind != ContainerKind::Ephemeral) {
        details(f, c, i, running, &mut status);
    } else if let Some(i) = current {
        mounts_and_user(c, i, &mut status);
    }
    status
}

/// Returns how a container ended that was removed because all are restarted.
fn reset_state() -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: 137,
            reason: Some(RESTARTING_ALL.into()),
            message: Some(RESTARTING_ALL_MESSAGE.into()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Returns how the attempt before `i` ended, which the runtime does not have any more.
fn removed_attempt(
    f: &Facts<'_>,
    c: &Container,
    i: &Instance,
    old: Option<&ContainerStatus>,
) -> Option<ContainerState> {
    if f.resets.get(&c.name) == Some(&i.attempt) {
        return Some(reset_state());
    }
    let old = old.filter(|_| i.attempt > 0)?;
    let is_same = old.container_id.as_deref() == Some(&container_id(&i.id));
    let ended = old.state.as_ref().and_then(|s| s.terminated.as_ref());
    match ended.filter(|_| !is_same) {
        Some(_) => old.state.clone(),
        None => old.last_state.clone(),
    }
}

/// Fills in the status of a container that the runtime does not have.
fn unknown_container(
    f: &Facts<'_>,
    c: &Container,
    kind: ContainerKind,
    default: &str,
    old: Option<&ContainerStatus>,
    status: &mut ContainerStatus,
) {
    let known = old.and_then(|o| Some((o, o.state.as_ref()?)));
    match known {
        // It exited and was removed.
        Some((o, s)) if s.terminated.is_some() => {
            *status = ContainerStatus {
                name: c.name.clone(),
                ..o.clone()
            };
        }
        // It was running, but its exit code is unknown.
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
            if f.terminal || f.failure.is_some() {
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
                kind == ContainerKind::Init && plan::initialized(f.pod, f.instances, None);
            if initialized_init && !is_sidecar(c) && old.is_none_or(|o| o.container_id.is_none()) {
                // It was removed after a success: otherwise the pod would not be initialized.
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
            } else if kind == ContainerKind::Ephemeral {
                status.state = Some(waiting("", ""));
            } else {
                status.state = Some(waiting(default, ""));
            }
        }
    }
}

/// Reports a container that will be restarted as waiting, with the recorded reason.
fn overlay_waiting(
    f: &Facts<'_>,
    c: &Container,
    kind: ContainerKind,
    current: Option<&Instance>,
    status: &mut ContainerStatus,
) {
    let Some(reason) = f.waiting.get(&c.name) else {
        return;
    };
    if current.is_some_and(Instance::running) || f.terminal || f.failure.is_some() {
        return;
    }
    if let Some(i) = current.filter(|i| i.exited()) {
        let again = match kind {
            ContainerKind::Init if !is_sidecar(c) => {
                i.exit_code != 0 && f.pod.restart_policy() != "Never"
            }
            ContainerKind::Init => true,
            ContainerKind::Main => plan::restarts(f.pod, c, i.exit_code),
            ContainerKind::Ephemeral => false,
        };
        if !again {
            return;
        }
        status.last_state = status.state.take();
    }
    status.state = Some(waiting(&reason.reason, &reason.message));
}

fn details(
    f: &Facts<'_>,
    c: &Container,
    i: &Instance,
    running: bool,
    status: &mut ContainerStatus,
) {
    if running {
        let granted = c.resources.as_ref();
        status.allocated_resources = granted.and_then(|r| r.requests.clone());
        let actual = (f.resources)(i).or_else(|| granted.cloned());
        status.resources = Some(ResourceRequirements {
            claims: None,
            ..actual.unwrap_or_default()
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
