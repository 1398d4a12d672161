//! Scales the replica sets of a deployment in relation to each other.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::revision;
use super::state::{Action, State, available, is_recreate, replicas, set_replicas, sum};
use crate::common::intstr;

/// Returns `maxSurge` and `maxUnavailable` as numbers of pods.
///
/// The surge is rounded up and the other down. If both are 0, `maxUnavailable` becomes 1, since the
/// rollout could not progress otherwise.
fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    let rolling = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.strategy.as_ref())
        .and_then(|strategy| strategy.rolling_update.as_ref());
    let zero = IntOrString::Int(0);
    let of = |value: Option<&IntOrString>, up| {
        intstr::scaled(value.unwrap_or(&zero), replicas(deployment), up)
    };
    let surge = of(rolling.and_then(|rolling| rolling.max_surge.as_ref()), true);
    let unavailable = of(
        rolling.and_then(|rolling| rolling.max_unavailable.as_ref()),
        false,
    );
    if surge == 0 && unavailable == 0 {
        (0, 1)
    } else {
        (surge, unavailable)
    }
}

/// Returns the maximum number of pods beyond the desired ones.
pub fn max_surge(deployment: &Deployment) -> i32 {
    if is_recreate(deployment) {
        0
    } else {
        fenceposts(deployment).0
    }
}

/// Returns how many of the desired pods may be unavailable.
pub fn max_unavailable(deployment: &Deployment) -> i32 {
    if is_recreate(deployment) || replicas(deployment) == 0 {
        return 0;
    }
    fenceposts(deployment).1.min(replicas(deployment))
}

/// Returns the size that the new set may have now, given that it has `present` of `total` pods.
pub fn room_for_new(deployment: &Deployment, total: i32, present: i32) -> i32 {
    let wanted = replicas(deployment);
    if is_recreate(deployment) {
        return wanted;
    }
    let most = wanted.saturating_add(max_surge(deployment));
    if total >= most {
        return present;
    }
    let room = most.saturating_sub(total);
    present.saturating_add(room.min(wanted.saturating_sub(present)))
}

/// Plans scaling of a set to `size`. Returns whether its size changed.
pub fn to(state: &mut State, index: usize, size: i32) -> bool {
    let desired = replicas(&state.deployment);
    let maximum = desired.saturating_add(max_surge(&state.deployment));
    let set = &mut state.sets[index];
    let old = set_replicas(set);
    let annotations = set.metadata.annotations.get_or_insert_default();
    let annotated = revision::size_annotations(annotations, desired, maximum);
    if old == size && !annotated {
        return false;
    }
    if let Some(spec) = set.spec.as_mut() {
        spec.replicas = Some(size);
    }
    let name = set.metadata.name.clone().unwrap_or_default();
    // Write each set only once: a later change replaces an earlier one.
    let uid = &set.metadata.uid;
    state.actions.retain(
        |action| !matches!(action, Action::Update(earlier) if earlier.metadata.uid == *uid),
    );
    state.actions.push(Action::Update(Box::new(set.clone())));
    if old != size {
        let way = if size > old { "up" } else { "down" };
        let message = format!("Scaled {way} replica set {name} from {old} to {size}");
        state
            .actions
            .push(Action::Event("ScalingReplicaSet", message));
    }
    old != size
}

/// Scales the new set up as far as the surge allows, or down to the desired size. Returns whether
/// it changed.
pub fn grow_new(state: &mut State, new: usize) -> bool {
    let present = set_replicas(&state.sets[new]);
    let wanted = replicas(&state.deployment);
    let size = match present.cmp(&wanted) {
        std::cmp::Ordering::Equal => return false,
        std::cmp::Ordering::Greater => wanted,
        std::cmp::Ordering::Less => room_for_new(&state.deployment, state.total(), present),
    };
    to(state, new, size)
}

/// Scales old sets down as far as availability allows, unhealthy pods first. Returns whether any
/// changed.
pub fn shrink_old(state: &mut State, new: usize) -> bool {
    let old = state.active_old();
    if old.is_empty() {
        return false;
    }
    let minimum = replicas(&state.deployment).saturating_sub(max_unavailable(&state.deployment));
    let new_unavailable =
        set_replicas(&state.sets[new]).saturating_sub(available(&state.sets[new]));
    let most = state
        .total()
        .saturating_sub(minimum)
        .saturating_sub(new_unavailable);
    if most <= 0 {
        return false;
    }
    let mut shrunk = false;
    let mut removed = 0;
    for &index in &old {
        let size = set_replicas(&state.sets[index]);
        let broken = size.saturating_sub(available(&state.sets[index]));
        let count = broken.min(most.saturating_sub(removed));
        if count > 0 {
            removed = removed.saturating_add(count);
            shrunk |= to(state, index, size.saturating_sub(count));
        }
    }
    let all_available = sum(old
        .iter()
        .chain([&new])
        .map(|index| available(&state.sets[*index])));
    let mut spare = all_available.saturating_sub(minimum);
    for &index in &old {
        let size = set_replicas(&state.sets[index]);
        let count = size.min(spare);
        if count > 0 {
            spare = spare.saturating_sub(count);
            shrunk |= to(state, index, size.saturating_sub(count));
        }
    }
    shrunk
}

fn desired_annotation(set: &ReplicaSet, key: &str) -> Option<i32> {
    set.metadata.annotations.as_ref()?.get(key)?.parse().ok()
}

/// Returns whether the deployment's size changed since its sets were last scaled.
pub fn is_scaling(state: &State) -> bool {
    state
        .sets
        .iter()
        .filter(|set| set_replicas(set) > 0)
        .filter_map(|set| desired_annotation(set, revision::DESIRED))
        .any(|desired| desired != replicas(&state.deployment))
}

/// Returns whether the new set has the desired size and all its pods are available.
fn is_saturated(state: &State) -> bool {
    let wanted = replicas(&state.deployment);
    state.new_set().is_some_and(|set| {
        set_replicas(set) == wanted
            && desired_annotation(set, revision::DESIRED) == Some(wanted)
            && available(set) == wanted
    })
}

/// Scales without rolling out: the only active set, or all active sets in proportion to their
/// sizes.
pub fn proportionally(state: &mut State) {
    let wanted = replicas(&state.deployment);
    let mut active: Vec<usize> = (0..state.sets.len())
        .filter(|index| set_replicas(&state.sets[*index]) > 0)
        .collect();
    let only = match active.as_slice() {
        [] => state.new.or_else(|| state.old().last().copied()),
        [only] => Some(*only),
        _ => None,
    };
    if let Some(only) = only {
        if set_replicas(&state.sets[only]) != wanted {
            to(state, only, wanted);
        }
        return;
    }
    if active.is_empty() {
        return;
    }
    if is_saturated(state) {
        for index in state.active_old() {
            to(state, index, 0);
        }
        return;
    }
    if is_recreate(&state.deployment) {
        return;
    }
    let present = sum(active.iter().map(|index| set_replicas(&state.sets[*index])));
    let allowed = if wanted > 0 {
        wanted.saturating_add(max_surge(&state.deployment))
    } else {
        0
    };
    let to_add = allowed.saturating_sub(present);
    // Largest first; among equals the newest when scaling up, the oldest when scaling down.
    active.sort_by(|&a, &b| {
        let by_size = set_replicas(&state.sets[b]).cmp(&set_replicas(&state.sets[a]));
        let by_age = if to_add > 0 { b.cmp(&a) } else { a.cmp(&b) };
        by_size.then(by_age)
    });
    let mut added = 0;
    let mut sizes: Vec<i32> = Vec::with_capacity(active.len());
    for &index in &active {
        let set = &state.sets[index];
        let share = if to_add == 0 {
            0
        } else {
            proportion(state, set, to_add, added)
        };
        added = added.saturating_add(share);
        sizes.push(set_replicas(set).saturating_add(share));
    }
    if let Some(first) = sizes.first_mut() {
        *first = first.saturating_add(to_add).saturating_sub(added).max(0);
    }
    for (index, size) in active.into_iter().zip(sizes) {
        to(state, index, size);
    }
}

fn proportion(state: &State, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    if set_replicas(set) == 0 || to_add == added {
        return 0;
    }
    let share = fraction(state, set);
    let allowed = to_add.saturating_sub(added);
    if to_add > 0 {
        share.min(allowed)
    } else {
        share.max(allowed)
    }
}

fn fraction(state: &State, set: &ReplicaSet) -> i32 {
    let size = set_replicas(set);
    let wanted = replicas(&state.deployment);
    if wanted == 0 {
        return size.saturating_neg();
    }
    let most = wanted.saturating_add(max_surge(&state.deployment));
    let before = desired_annotation(set, revision::MAXIMUM)
        .filter(|before| *before != 0)
        .unwrap_or_else(|| {
            state
                .deployment
                .status
                .as_ref()
                .and_then(|s| s.replicas)
                .unwrap_or(0)
        });
    if before == 0 {
        return 0;
    }
    let scaled = f64::from(size) * f64::from(most) / f64::from(before);
    (scaled.round() as i32).saturating_sub(size)
}
