//! Conditions of a job, and equality of its statuses.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{JobCondition, JobStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rkube_component_helpers::conditions::find_condition;

/// Returns whether the job has this condition with status true.
pub fn has_condition(status: &JobStatus, kind: &str) -> bool {
    find(status, kind).is_some_and(|condition| condition.status == "True")
}

/// Returns the condition of this type.
pub(super) fn find<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    find_condition(status.conditions.as_deref().unwrap_or_default(), kind)
}

/// Returns whether the job is complete or has failed.
pub fn is_finished(status: &JobStatus) -> bool {
    has_condition(status, "Complete") || has_condition(status, "Failed")
}

/// Returns a new condition.
pub(super) fn condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> JobCondition {
    JobCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// Sets a condition; one that does not change keeps its time.
pub(super) fn set(status: &mut JobStatus, new: JobCondition) {
    let conditions = status.conditions.get_or_insert_default();
    match conditions.iter_mut().find(|old| old.type_ == new.type_) {
        Some(old)
            if old.status == new.status
                && old.reason == new.reason
                && old.message == new.message => {}
        Some(old) => *old = new,
        None => conditions.push(new),
    }
}

/// Returns whether two statuses are equal, with absent numbers as zero.
pub fn is_same_status(a: &JobStatus, b: &JobStatus) -> bool {
    let numbers = |s: &JobStatus| {
        [s.active, s.failed, s.ready, s.succeeded, s.terminating].map(|n| n.unwrap_or(0))
    };
    let uncounted = |s: &JobStatus| {
        let pods = s.uncounted_terminated_pods.clone().unwrap_or_default();
        (
            pods.succeeded.unwrap_or_default(),
            pods.failed.unwrap_or_default(),
        )
    };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    numbers(a) == numbers(b)
        && uncounted(a) == uncounted(b)
        && text(&a.completed_indexes) == text(&b.completed_indexes)
        && text(&a.failed_indexes) == text(&b.failed_indexes)
        && a.start_time == b.start_time
        && a.completion_time == b.completion_time
        && a.conditions.as_deref().unwrap_or_default()
            == b.conditions.as_deref().unwrap_or_default()
}
