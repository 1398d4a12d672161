//! The observed state of a deployment, and the actions on it.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

/// One step of a plan.
#[derive(Clone, Debug)]
pub enum Action {
    /// Create this replica set.
    Create(Box<ReplicaSet>),
    /// Update this replica set.
    Update(Box<ReplicaSet>),
    /// Delete this replica set.
    Delete(Box<ReplicaSet>),
    /// Report an event with this reason and message.
    Event(&'static str, String),
    /// Update the deployment's status and revision annotation.
    Report,
}

/// Returns whether the strategy is `Recreate`: all old pods are deleted before new ones are
/// created.
pub fn is_recreate(deployment: &Deployment) -> bool {
    deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.strategy.as_ref())
        .is_some_and(|strategy| strategy.type_.as_deref() == Some("Recreate"))
}

/// Returns the desired number of pods of a deployment.
pub fn replicas(deployment: &Deployment) -> i32 {
    deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1)
}

/// Returns the desired number of pods of a replica set.
pub fn set_replicas(set: &ReplicaSet) -> i32 {
    set.spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1)
}

/// Returns the number of available pods of a replica set.
pub fn available(set: &ReplicaSet) -> i32 {
    set.status
        .as_ref()
        .and_then(|status| status.available_replicas)
        .unwrap_or(0)
}

/// Returns the sum of replica counts, at most `i32::MAX`.
pub fn sum(counts: impl IntoIterator<Item = i32>) -> i32 {
    counts.into_iter().fold(0, i32::saturating_add)
}

/// The observed state and its modifications while planning.
pub struct State {
    /// The deployment; planning changes its status and annotations.
    pub deployment: Deployment,
    /// The deployment as observed.
    pub observed: Deployment,
    /// Its replica sets, oldest first; planning changes their size and annotations.
    pub sets: Vec<ReplicaSet>,
    /// Index in `sets` of the replica set for the current template.
    pub new: Option<usize>,
    /// The actions planned so far.
    pub actions: Vec<Action>,
    /// The current time.
    pub now: Timestamp,
}

impl State {
    /// Returns the indexes of all sets except the new one.
    pub fn old(&self) -> Vec<usize> {
        (0..self.sets.len())
            .filter(|index| Some(*index) != self.new)
            .collect()
    }

    /// Returns the indexes of the old sets with a non-zero desired size.
    pub fn active_old(&self) -> Vec<usize> {
        let mut old = self.old();
        old.retain(|index| set_replicas(&self.sets[*index]) > 0);
        old
    }

    /// Returns the desired number of pods of all sets together.
    pub fn total(&self) -> i32 {
        sum(self.sets.iter().map(set_replicas))
    }

    /// Returns the new set.
    pub fn new_set(&self) -> Option<&ReplicaSet> {
        self.new.map(|index| &self.sets[index])
    }
}
