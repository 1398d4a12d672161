//! Status and conditions of deployments.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rkube_component_helpers::conditions::find_condition;
use rkube_component_helpers::time;

use super::scale;
use super::state::{State, available, replicas, set_replicas, sum};

const AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// Returns a condition with the current time as update and transition time.
pub fn condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: impl Into<String>,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

fn find<'a>(status: Option<&'a DeploymentStatus>, kind: &str) -> Option<&'a DeploymentCondition> {
    find_condition(status?.conditions.as_deref().unwrap_or_default(), kind)
}

/// Returns the `Progressing` condition.
pub fn progressing(deployment: &Deployment) -> Option<&DeploymentCondition> {
    find(deployment.status.as_ref(), "Progressing")
}

/// Sets a condition, unless one with the same status and reason exists. Keeps the transition time
/// if the status is unchanged. As upstream, the condition comes last.
pub fn set_condition(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    if let Some(present) = find(Some(status), &condition.type_) {
        if present.status == condition.status && present.reason == condition.reason {
            return;
        }
        if present.status == condition.status {
            condition
                .last_transition_time
                .clone_from(&present.last_transition_time);
        }
    }
    remove(status, &condition.type_.clone());
    status.conditions.get_or_insert_default().push(condition);
}

fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = status.conditions.as_mut() {
        conditions.retain(|condition| condition.type_ != kind);
    }
}

fn deadline(deployment: &Deployment) -> Option<i32> {
    deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.progress_deadline_seconds)
        .filter(|deadline| *deadline != i32::MAX)
}

/// Returns whether the deployment has a progress deadline.
pub fn has_deadline(deployment: &Deployment) -> bool {
    deadline(deployment).is_some()
}

/// Updates the `Progressing` condition when the deployment is paused or resumed, so that time spent
/// paused does not count towards the deadline.
pub fn note_pause(state: &mut State, paused: bool) {
    if !has_deadline(&state.deployment) {
        return;
    }
    let reason = progressing(&state.deployment).and_then(|condition| condition.reason.clone());
    if reason.as_deref() == Some(TIMED_OUT) {
        return;
    }
    let noted = reason.as_deref() == Some(PAUSED);
    let news = match (paused, noted) {
        (true, false) => condition(
            "Progressing",
            "Unknown",
            PAUSED,
            "Deployment is paused",
            state.now,
        ),
        (false, true) => condition(
            "Progressing",
            "Unknown",
            "DeploymentResumed",
            "Deployment is resumed",
            state.now,
        ),
        _ => return,
    };
    set_condition(state.deployment.status.get_or_insert_default(), news);
}

/// Returns whether the status has reached the desired state.
fn complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = replicas(deployment);
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.observed_generation >= deployment.metadata.generation
}

/// Returns whether the observed status has reached the desired state.
pub fn is_complete(state: &State) -> bool {
    let status = state.observed.status.clone().unwrap_or_default();
    complete(&state.deployment, &status)
}

/// Computes the replica counts and the `Available` condition.
fn calculate(state: &State) -> DeploymentStatus {
    let old = state.deployment.status.clone().unwrap_or_default();
    let sum = |count: &dyn Fn(&ReplicaSet) -> i32| sum(state.sets.iter().map(count));
    let actual = |set: &ReplicaSet| set.status.as_ref().map_or(0, |status| status.replicas);
    let all_available = sum(&available);
    let terminating: Option<Vec<i32>> = state
        .sets
        .iter()
        .map(|set| {
            set.status
                .as_ref()
                .map_or(Some(0), |status| status.terminating_replicas)
        })
        .collect();
    let mut status = DeploymentStatus {
        observed_generation: state.deployment.metadata.generation,
        replicas: Some(sum(&actual)),
        updated_replicas: Some(state.new_set().map_or(0, actual)),
        ready_replicas: Some(sum(&|set| {
            set.status
                .as_ref()
                .and_then(|status| status.ready_replicas)
                .unwrap_or(0)
        })),
        available_replicas: Some(all_available),
        unavailable_replicas: Some(sum(&set_replicas).saturating_sub(all_available).max(0)),
        terminating_replicas: terminating.map(super::state::sum),
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    let minimum =
        replicas(&state.deployment).saturating_sub(scale::max_unavailable(&state.deployment));
    let news = if all_available >= minimum {
        let text = "Deployment has minimum availability.";
        condition(
            "Available",
            "True",
            "MinimumReplicasAvailable",
            text,
            state.now,
        )
    } else {
        let text = "Deployment does not have minimum availability.";
        condition(
            "Available",
            "False",
            "MinimumReplicasUnavailable",
            text,
            state.now,
        )
    };
    set_condition(&mut status, news);
    status
}

/// Returns whether two statuses are equal, with absent numbers as zero.
fn is_same_status(a: &DeploymentStatus, b: &DeploymentStatus) -> bool {
    let numbers = |s: &DeploymentStatus| {
        [
            s.replicas,
            s.updated_replicas,
            s.ready_replicas,
            s.available_replicas,
            s.unavailable_replicas,
        ]
        .map(|n| n.unwrap_or(0))
    };
    numbers(a) == numbers(b)
        && a.observed_generation == b.observed_generation
        && a.terminating_replicas == b.terminating_replicas
        && a.collision_count == b.collision_count
        && a.conditions.as_deref().unwrap_or_default()
            == b.conditions.as_deref().unwrap_or_default()
}

fn set_status(state: &mut State, status: DeploymentStatus) {
    if !is_same_status(
        &state.deployment.status.clone().unwrap_or_default(),
        &status,
    ) {
        state.deployment.status = Some(status);
    }
}

/// Updates the status without evaluating the rollout's progress.
pub fn sync(state: &mut State) {
    let status = calculate(state);
    set_status(state, status);
}

/// Updates the status and evaluates the rollout's progress.
pub fn sync_rollout(state: &mut State) {
    let mut status = calculate(state);
    let deployment = &state.deployment;
    if !has_deadline(deployment) {
        remove(&mut status, "Progressing");
    }
    let current = progressing(deployment).cloned();
    let settled = status.replicas == status.updated_replicas
        && current
            .as_ref()
            .is_some_and(|c| c.reason.as_deref() == Some(AVAILABLE));
    if has_deadline(deployment) && !settled {
        let subject = match state.new_set() {
            Some(set) => format!(
                "ReplicaSet {:?}",
                set.metadata.name.as_deref().unwrap_or_default()
            ),
            None => format!(
                "Deployment {:?}",
                deployment.metadata.name.as_deref().unwrap_or_default()
            ),
        };
        if complete(deployment, &status) {
            let text = format!("{subject} has successfully progressed.");
            set_condition(
                &mut status,
                condition("Progressing", "True", AVAILABLE, text, state.now),
            );
        } else if has_progressed(&state.observed, &status) {
            let text = format!("{subject} is progressing.");
            let mut news = condition("Progressing", "True", "ReplicaSetUpdated", text, state.now);
            // Each step renews the update time, even with an unchanged reason.
            if let Some(current) = current {
                if current.status == "True" {
                    news.last_transition_time = current.last_transition_time;
                }
                remove(&mut status, "Progressing");
            }
            set_condition(&mut status, news);
        } else if timed_out(state, &status) {
            let text = format!("{subject} has timed out progressing.");
            set_condition(
                &mut status,
                condition("Progressing", "False", TIMED_OUT, text, state.now),
            );
        }
    }
    match replica_failure(state) {
        Some(failure) => set_condition(&mut status, failure),
        None => remove(&mut status, "ReplicaFailure"),
    }
    set_status(state, status);
}

fn has_progressed(deployment: &Deployment, new: &DeploymentStatus) -> bool {
    let old = deployment.status.clone().unwrap_or_default();
    let number = |n: Option<i32>| n.unwrap_or(0);
    let outdated =
        |s: &DeploymentStatus| number(s.replicas).saturating_sub(number(s.updated_replicas));
    number(new.updated_replicas) > number(old.updated_replicas)
        || outdated(new) < outdated(&old)
        || number(new.ready_replicas) > number(old.ready_replicas)
        || number(new.available_replicas) > number(old.available_replicas)
}

fn deadline_of(deployment: &Deployment, condition: &DeploymentCondition) -> Option<Timestamp> {
    let since = condition.last_update_time.as_ref()?.0;
    Some(time::add_seconds(since, deadline(deployment)?.into()))
}

fn timed_out(state: &State, status: &DeploymentStatus) -> bool {
    let Some(condition) = find(Some(status), "Progressing") else {
        return false;
    };
    match condition.reason.as_deref() {
        Some(AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => deadline_of(&state.deployment, condition).is_some_and(|end| end < state.now),
    }
}

/// Returns the time until the progress deadline, or `None` if no rollout is in progress.
pub fn deadline_left(state: &State) -> Option<Duration> {
    let deployment = &state.deployment;
    let status = deployment.status.clone().unwrap_or_default();
    let paused = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.paused)
        .unwrap_or(false);
    let condition = progressing(deployment)?;
    if paused || complete(deployment, &status) || condition.reason.as_deref() == Some(TIMED_OUT) {
        return None;
    }
    let left = time::until_time(deadline_of(deployment, condition)?, state.now);
    // Add a second, since the condition's time has no fraction.
    Some(left.saturating_add(Duration::from_secs(1)))
}

/// Returns the `ReplicaFailure` condition of a replica set, preferably the new one's.
fn replica_failure(state: &State) -> Option<DeploymentCondition> {
    let of = |set: &ReplicaSet| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions
            .iter()
            .find(|c| c.type_ == "ReplicaFailure")
            .cloned()
    };
    let failure = state.new_set().and_then(of).or_else(|| {
        state
            .old()
            .into_iter()
            .find_map(|index| of(&state.sets[index]))
    })?;
    Some(DeploymentCondition {
        type_: failure.type_,
        status: failure.status,
        reason: failure.reason,
        message: failure.message,
        last_update_time: failure.last_transition_time.clone(),
        last_transition_time: failure.last_transition_time,
    })
}
