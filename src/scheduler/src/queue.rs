//! The scheduling queue: active pods by priority, and pods that wait for the end of their back-off
//! or for a relevant cluster event.
//!
//! The queue reads no clock: callers pass the current time.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rkube_component_helpers::backoff::Backoff;

use crate::model::PodInfo;
use crate::plugins::types::{Event, PluginSet};

/// Delay after a failed attempt to schedule a pod.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));
/// Maximum time that a pod stays unschedulable without an event before it is retried.
pub const UNSCHEDULABLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// A queued pod and its scheduling history.
#[derive(Clone, Debug)]
pub struct Queued {
    /// The pod.
    pub pod: Arc<PodInfo>,
    /// When the pod was first queued; orders pods of equal priority.
    pub since: Instant,
    /// Number of scheduling attempts so far.
    pub attempts: u32,
    /// The plugins that rejected the pod in the last attempt.
    pub rejected_by: PluginSet,
}

impl Queued {
    /// Returns the back-off after the most recent attempt.
    fn backoff(&self) -> Duration {
        BACKOFF.delay(self.attempts.saturating_sub(1))
    }
}

#[derive(PartialEq, Eq)]
struct Ready {
    priority: i32,
    since: Reverse<Instant>,
    sequence: Reverse<u64>,
    uid: String,
}

impl Ord for Ready {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.priority, &self.since, &self.sequence).cmp(&(
            other.priority,
            &other.since,
            &other.sequence,
        ))
    }
}

impl PartialOrd for Ready {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum QueueState {
    /// May be scheduled now. The sequence number identifies stale heap entries.
    Active(u64),
    /// In back-off until `until`. After an error, `pop` never takes the pod early.
    Backoff { until: Instant, error: bool },
    /// Waits for an event. Its back-off ends at `rested`; it entered this state at `since`.
    Unschedulable { rested: Instant, since: Instant },
    /// Held back by scheduling gates.
    Gated,
}

/// The scheduling queue.
#[derive(Default)]
pub struct Queue {
    pods: HashMap<String, (Queued, QueueState)>,
    active: BinaryHeap<Ready>,
    sequence: u64,
}

impl Queue {
    /// Returns the number of queued pods in all states.
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// Returns whether the queue has no pods.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// Adds a pod or replaces a queued one. A change that is relevant to scheduling requeues an
    /// unschedulable pod.
    pub fn set(&mut self, pod: Arc<PodInfo>, now: Instant) {
        let uid = pod.uid.clone();
        let Some((queued, place)) = self.pods.get_mut(&uid) else {
            let queued = Queued {
                pod,
                since: now,
                attempts: 0,
                rejected_by: PluginSet::default(),
            };
            let gated = queued.pod.gated;
            self.pods.insert(uid.clone(), (queued, QueueState::Gated));
            if !gated {
                self.activate(&uid);
            }
            return;
        };
        let changed = matters(&queued.pod, &pod);
        queued.pod = pod;
        match *place {
            QueueState::Gated if !queued.pod.gated => self.activate(&uid),
            QueueState::Unschedulable { rested, .. } if changed => self.wake(&uid, rested, now),
            _ if queued.pod.gated => *place = QueueState::Gated,
            _ => {}
        }
    }

    /// Removes a pod, if it is queued.
    pub fn remove(&mut self, uid: &str) {
        self.pods.remove(uid);
    }

    /// Returns whether the pod is queued and not held back by scheduling gates.
    pub fn may_run(&self, uid: &str) -> bool {
        self.pods
            .get(uid)
            .is_some_and(|(_, place)| *place != QueueState::Gated)
    }

    /// Returns whether the pod is queued.
    pub fn contains(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    fn activate(&mut self, uid: &str) {
        self.sequence += 1;
        if let Some((queued, place)) = self.pods.get_mut(uid) {
            *place = QueueState::Active(self.sequence);
            self.active.push(Ready {
                priority: queued.pod.priority,
                since: Reverse(queued.since),
                sequence: Reverse(self.sequence),
                uid: uid.to_owned(),
            });
        }
    }

    fn wake(&mut self, uid: &str, rested: Instant, now: Instant) {
        if rested <= now {
            self.activate(uid);
        } else if let Some((_, place)) = self.pods.get_mut(uid) {
            *place = QueueState::Backoff {
                until: rested,
                error: false,
            };
        }
    }

    /// Removes and returns the next pod and counts the attempt.
    ///
    /// Prefers the active pod of highest priority. If no pod is active, returns the pod whose
    /// back-off ends first, except after errors, whose back-off is always waited out.
    pub fn pop(&mut self, now: Instant) -> Option<Queued> {
        self.move_due(now);
        while let Some(ready) = self.active.pop() {
            let current = matches!(self.pods.get(&ready.uid), Some((_, QueueState::Active(n))) if *n == ready.sequence.0);
            if current && let Some((mut queued, _)) = self.pods.remove(&ready.uid) {
                queued.attempts += 1;
                return Some(queued);
            }
        }
        let next = self
            .pods
            .iter()
            .filter_map(|(uid, (_, place))| match place {
                QueueState::Backoff {
                    until,
                    error: false,
                } => Some((*until, uid)),
                _ => None,
            })
            .min()
            .map(|(_, uid)| uid.clone())?;
        let (mut queued, _) = self.pods.remove(&next)?;
        queued.attempts += 1;
        Some(queued)
    }

    /// Requeues a pod that fits no node; it waits for a relevant event.
    pub fn unschedulable(&mut self, queued: Queued, now: Instant) {
        let place = QueueState::Unschedulable {
            rested: now + queued.backoff(),
            since: now,
        };
        self.pods.insert(queued.pod.uid.clone(), (queued, place));
    }

    /// Requeues a pod after an error; it is retried after its back-off.
    pub fn failed(&mut self, queued: Queued, now: Instant) {
        let place = QueueState::Backoff {
            until: now + queued.backoff(),
            error: true,
        };
        self.pods.insert(queued.pod.uid.clone(), (queued, place));
    }

    /// Handles a cluster event: requeues the unschedulable pods that it may have made schedulable.
    pub fn on_event(&mut self, event: Event, now: Instant) {
        self.on_event_for(event, now, |_| true);
    }

    /// Handles a cluster event that concerns only some pods.
    pub fn on_event_for(
        &mut self,
        event: Event,
        now: Instant,
        concerns: impl Fn(&PodInfo) -> bool,
    ) {
        let moved: Vec<(String, Instant)> = self
            .pods
            .iter()
            .filter_map(|(uid, (queued, place))| match place {
                QueueState::Unschedulable { rested, .. }
                    if concerns(&queued.pod)
                        && queued.rejected_by.iter().any(|p| p.is_queueing_hint(event)) =>
                {
                    Some((uid.clone(), *rested))
                }
                _ => None,
            })
            .collect();
        for (uid, rested) in moved {
            self.wake(&uid, rested, now);
        }
    }

    fn move_due(&mut self, now: Instant) {
        let due: Vec<String> = self
            .pods
            .iter()
            .filter(|(_, (_, place))| match place {
                QueueState::Backoff { until, .. } => *until <= now,
                QueueState::Unschedulable { since, .. } => *since + UNSCHEDULABLE_TIMEOUT <= now,
                _ => false,
            })
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in due {
            self.activate(&uid);
        }
    }

    /// Returns the next time at which a pod becomes active without an event, or `None` if there is
    /// none.
    pub fn next_due(&self) -> Option<Instant> {
        self.pods
            .values()
            .filter_map(|(_, place)| match place {
                QueueState::Backoff { until, .. } => Some(*until),
                QueueState::Unschedulable { since, .. } => Some(*since + UNSCHEDULABLE_TIMEOUT),
                _ => None,
            })
            .min()
    }
}

/// Returns whether the update changes anything that plugins look at. Status changes are ignored.
fn matters(old: &PodInfo, new: &PodInfo) -> bool {
    old.labels != new.labels
        || old.requests != new.requests
        || old.tolerations != new.tolerations
        || old.node_selector != new.node_selector
        || old.affinity != new.affinity
        || old.priority != new.priority
        || old.device_claims != new.device_claims
        || (old.gated && !new.gated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::*;
    use crate::plugins::types::Plugin;

    fn second(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn pod_with(name: &str, priority: i32) -> Arc<PodInfo> {
        Arc::new(PodInfo {
            priority,
            ..asking(name, "1")
        })
    }

    #[test]
    fn important_ones_first_then_oldest() {
        let now = Instant::now();
        let mut q = Queue::default();
        q.set(pod_with("low", 0), now);
        q.set(pod_with("first", 5), now + second(1));
        q.set(pod_with("second", 5), now + second(2));
        let order: Vec<String> = std::iter::from_fn(|| q.pop(now + second(3)))
            .map(|p| p.pod.name.clone())
            .collect();
        assert_eq!(order, ["first", "second", "low"]);
    }

    #[test]
    fn gates_hold_back() {
        let now = Instant::now();
        let mut q = Queue::default();
        let gated = PodInfo {
            gated: true,
            ..asking("p", "1")
        };
        q.set(Arc::new(gated), now);
        assert!(q.pop(now).is_none());
        q.set(pod_with("p", 0), now);
        assert!(q.pop(now).is_some());
    }

    #[test]
    fn only_what_may_help_wakes() {
        let now = Instant::now();
        let mut q = Queue::default();
        q.set(pod_with("p", 0), now);
        let mut p = q.pop(now).unwrap();
        p.rejected_by = [Plugin::NodeResourcesFit].into_iter().collect();
        q.unschedulable(p, now);
        q.on_event(Event::NodeTaints, now + second(2));
        assert!(q.pop(now + second(2)).is_none());
        q.on_event(Event::PodRemoved, now + second(2));
        assert!(q.pop(now + second(2)).is_some());
    }

    #[test]
    fn unschedulable_ones_are_tried_after_a_while() {
        let now = Instant::now();
        let mut q = Queue::default();
        q.set(pod_with("p", 0), now);
        let p = q.pop(now).unwrap();
        q.unschedulable(p, now);
        assert_eq!(q.next_due(), Some(now + UNSCHEDULABLE_TIMEOUT));
        assert!(q.pop(now + second(200)).is_none());
        assert!(q.pop(now + UNSCHEDULABLE_TIMEOUT).is_some());
    }

    #[test]
    fn errors_back_off_longer_each_time() {
        let mut now = Instant::now();
        let mut q = Queue::default();
        q.set(pod_with("p", 0), now);
        for expected in [1, 2, 4, 8, 10, 10] {
            let p = q.pop(now).unwrap();
            q.failed(p, now);
            assert_eq!(q.next_due(), Some(now + second(expected)));
            assert!(q.pop(now).is_none(), "an error's rest is not cut short");
            now += second(expected);
        }
    }

    #[test]
    fn a_removed_pod_is_not_popped() {
        let now = Instant::now();
        let mut q = Queue::default();
        q.set(pod_with("p", 0), now);
        q.remove("p");
        assert!(q.pop(now).is_none());
        assert!(q.is_empty());
        assert_eq!(q.len(), 0);
    }
}
