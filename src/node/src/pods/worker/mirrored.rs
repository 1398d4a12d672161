//! The mirror of a static pod, and the pod's own status.

use std::sync::Arc;

use super::state::Worker;
use super::tasks::is_older;
use crate::kinds::*;
use crate::static_pods::{is_static, mirror};

impl Worker {
    /// Takes the static pod's mirror, or that it has none. One that shows another pod does not count.
    pub(super) fn mirrored(&mut self, mirror: Option<Arc<Pod>>) {
        let mirror = mirror.filter(|m| mirror::shows(m, &self.pod));
        match (&self.mirror, &mirror) {
            (Some(known), Some(new)) if known.uid() == new.uid() => {
                if is_older(new, known) {
                    return;
                }
            }
            // A new one has no status yet, and failures of the old one do not matter.
            (_, Some(new)) => {
                self.publication.failures = 0;
                self.publication.retry_at = None;
                self.continue_from(new.status.as_ref());
            }
            (_, None) => {}
        }
        self.mirror = mirror;
    }

    /// Takes over the times of an earlier agent, which are only in the API.
    fn continue_from(&mut self, earlier: Option<&PodStatus>) {
        if let Some(earlier) = earlier {
            let mut pod = Pod::clone(&self.pod);
            keep_times(pod.status.get_or_insert_default(), earlier);
            self.pod = Arc::new(pod);
        }
    }

    /// Returns a new version of the pod with the present status, if the pod is static: nothing else
    /// has it.
    pub(super) fn with_own_status(&self, pod: Arc<Pod>) -> Arc<Pod> {
        if !is_static(&pod) {
            return pod;
        }
        let mut pod = Pod::clone(&pod);
        pod.status.clone_from(&self.pod.status);
        Arc::new(pod)
    }
}

/// Sets the start time, and the times of conditions that have not changed since.
fn keep_times(status: &mut PodStatus, earlier: &PodStatus) {
    if let Some(start) = &earlier.start_time {
        status.start_time = Some(start.clone());
    }
    let known = status.conditions.get_or_insert_default();
    for condition in earlier.conditions.iter().flatten() {
        match known.iter_mut().find(|c| c.type_ == condition.type_) {
            Some(own) if own.status == condition.status => {
                own.last_transition_time
                    .clone_from(&condition.last_transition_time);
            }
            Some(_) => {}
            None => known.push(condition.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(start: i64, conditions: &[(&str, &str, i64)]) -> PodStatus {
        let time = |second| Time(jiff::Timestamp::from_second(second).unwrap());
        let conditions = conditions
            .iter()
            .map(|(type_, status, since)| PodCondition {
                type_: (*type_).into(),
                status: (*status).into(),
                last_transition_time: Some(time(*since)),
                ..Default::default()
            });
        PodStatus {
            start_time: Some(time(start)),
            conditions: Some(conditions.collect()),
            ..Default::default()
        }
    }

    #[test]
    fn a_new_agent_keeps_the_times() {
        let mut own = status(50, &[("Ready", "True", 51), ("Initialized", "False", 51)]);
        let earlier = status(
            10,
            &[
                ("Ready", "True", 11),
                ("Initialized", "True", 11),
                ("Other", "True", 12),
            ],
        );
        keep_times(&mut own, &earlier);
        let kept = status(
            10,
            &[
                ("Ready", "True", 11),
                ("Initialized", "False", 51),
                ("Other", "True", 12),
            ],
        );
        assert_eq!(own, kept);
    }
}
