//! Decides the actions for a deployment from the observed state.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;

use super::state::{Action, State, is_recreate, replicas, set_replicas};
use super::{revision, scale, status};
use crate::common::pods;

/// The actions for a deployment.
#[derive(Debug)]
pub struct Plan {
    /// The deployment to be written by [`Action::Report`].
    pub deployment: Deployment,
    /// The steps, in order.
    pub actions: Vec<Action>,
    /// When to sync again even without changes.
    pub requeue: Option<Duration>,
}

/// Decides the actions for `deployment`, which owns `sets`. `pods_of` returns the pods of a replica
/// set.
pub fn plan(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    pods_of: &dyn Fn(&ReplicaSet) -> Vec<Arc<Pod>>,
    now: Timestamp,
) -> Plan {
    let mut state = State {
        deployment: deployment.clone(),
        observed: deployment.clone(),
        sets: sets.iter().map(|set| ReplicaSet::clone(set)).collect(),
        new: None,
        actions: Vec::new(),
        now,
    };
    state.sets.sort_by_key(|set| {
        let meta = &set.metadata;
        (
            meta.creation_timestamp.as_ref().map(|time| time.0),
            meta.name.clone(),
        )
    });
    state.new = revision::find_new(&state.deployment, &state.sets);
    let paused = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.paused)
        .unwrap_or(false);

    if deployment.metadata.deletion_timestamp.is_some() {
        revision::sync(&mut state, false);
        status::sync(&mut state);
    } else {
        status::note_pause(&mut state, paused);
        if paused || scale::is_scaling(&state) {
            revision::sync(&mut state, false);
            scale::proportionally(&mut state);
            if paused {
                clean_up(&mut state);
            }
            status::sync(&mut state);
        } else if is_recreate(deployment) {
            recreate(&mut state, pods_of);
            status::sync_rollout(&mut state);
        } else {
            roll(&mut state);
            status::sync_rollout(&mut state);
        }
    }
    finish(state)
}

fn finish(mut state: State) -> Plan {
    let changed = state.deployment.status != state.observed.status
        || state.deployment.metadata.annotations != state.observed.metadata.annotations;
    if changed {
        state.actions.push(Action::Report);
    }
    let requeue = status::deadline_left(&state);
    Plan {
        deployment: state.deployment,
        actions: state.actions,
        requeue,
    }
}

/// Plans a rolling update: scales up the new set, or else scales down old ones, within their
/// bounds.
fn roll(state: &mut State) {
    revision::sync(state, true);
    let Some(new) = state.new else { return };
    if scale::grow_new(state, new) || scale::shrink_old(state, new) {
        return;
    }
    if status::is_complete(state) {
        clean_up(state);
    }
}

/// Plans a `Recreate` update: scales up the new set only after all old pods are gone.
fn recreate(state: &mut State, pods_of: &dyn Fn(&ReplicaSet) -> Vec<Arc<Pod>>) {
    revision::sync(state, false);
    let mut shrunk = false;
    for index in state.active_old() {
        shrunk |= scale::to(state, index, 0);
    }
    if shrunk || old_pods_run(state, pods_of) {
        return;
    }
    if state.new.is_none() {
        revision::sync(state, true);
    }
    let Some(new) = state.new else { return };
    let wanted = replicas(&state.deployment);
    scale::to(state, new, wanted);
    if status::is_complete(state) {
        clean_up(state);
    }
}

fn old_pods_run(state: &State, pods_of: &dyn Fn(&ReplicaSet) -> Vec<Arc<Pod>>) -> bool {
    state.old().into_iter().any(|index| {
        let set = &state.sets[index];
        set.status
            .as_ref()
            .is_some_and(|status| status.replicas > 0)
            || pods_of(set).iter().any(|pod| !pods::is_terminal(pod))
    })
}

/// Deletes the oldest unused replica sets beyond `revisionHistoryLimit`.
fn clean_up(state: &mut State) {
    let limit = state
        .deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.revision_history_limit)
        .unwrap_or(10);
    if limit == i32::MAX {
        return; // unlimited history
    }
    let mut old = state.old();
    old.retain(|index| state.sets[*index].metadata.deletion_timestamp.is_none());
    let surplus = old
        .len()
        .saturating_sub(usize::try_from(limit).unwrap_or(0));
    old.sort_by_key(|index| revision::revision_of(&state.sets[*index].metadata));
    for index in old.into_iter().take(surplus) {
        let set = &state.sets[index];
        let status = set.status.clone().unwrap_or_default();
        let idle = status.replicas == 0
            && set_replicas(set) == 0
            && set.metadata.generation.unwrap_or(0) <= status.observed_generation.unwrap_or(0);
        if idle {
            state.actions.push(Action::Delete(Box::new(set.clone())));
        }
    }
}

#[cfg(test)]
mod tests;
