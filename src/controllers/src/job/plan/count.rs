//! Counts terminated pods, in three steps: their UIDs are written to the status, then their
//! finalizers are removed, then the counters are incremented.
//!
//! This way no pod is missed or counted twice, even if the process is restarted between the steps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::JobStatus;
use k8s_openapi::api::core::v1::Pod;

use super::{BURST, Backoff, Sync, has_condition};
use crate::common::pods;
use crate::job::failure::{Verdict, judge};
use crate::job::{indexes, pods as job_pods};

/// The job's terminated pods.
#[derive(Default)]
pub(super) struct Ended {
    /// Number of succeeded and failed pods, including those that the status does not count yet.
    pub succeeded: i32,
    pub failed: i32,
    pub succeeded_indexes: BTreeSet<i32>,
    pub failed_indexes: BTreeSet<i32>,
    /// The last failed pod of each index that has no new pod yet. It keeps its finalizer until then,
    /// since the new pod inherits its number of failures.
    pub awaiting: BTreeMap<i32, Arc<Pod>>,
    pub fail_job: Option<String>,
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

/// Returns a counter with the pods that it does not include yet.
fn sum(counted: Option<i32>, others: usize) -> i32 {
    let others = i32::try_from(others).unwrap_or(i32::MAX);
    counted.unwrap_or(0).saturating_add(others)
}

/// Increments the counters by the uncounted pods whose finalizers are removed.
fn settle(status: &mut JobStatus, owned: &[Arc<Pod>]) {
    let tracked: BTreeSet<String> = owned
        .iter()
        .filter(|pod| job_pods::is_tracked(pod))
        .map(|pod| uid(pod))
        .collect();
    let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
    let counts = [
        (&mut uncounted.succeeded, &mut status.succeeded),
        (&mut uncounted.failed, &mut status.failed),
    ];
    for (list, number) in counts {
        let uids = list.get_or_insert_default();
        let before = uids.len();
        uids.retain(|uid| tracked.contains(uid));
        let gone = (before - uids.len()) as i32;
        *number = Some(number.unwrap_or(0).saturating_add(gone));
        if uids.is_empty() {
            *list = None;
        }
    }
}

impl Sync<'_> {
    /// Returns the pod's completion index, if it is one of the job's.
    fn index_of(&self, pod: &Pod) -> Option<i32> {
        let limit = self.spec.completions.unwrap_or(0);
        job_pods::index(pod).filter(|index| *index < limit)
    }

    /// Returns whether a terminated pod counts: it has a finalizer, and one of the job's indexes if
    /// the job has them.
    fn counts(&self, pod: &Pod) -> bool {
        job_pods::is_tracked(pod) && (!self.indexed || self.index_of(pod).is_some())
    }

    fn verdict(&self, pod: &Pod) -> Verdict {
        judge(self.spec.pod_failure_policy.as_ref(), pod)
    }

    /// Finds out what the terminated pods mean for the job.
    pub(super) fn survey(&mut self, owned: &[Arc<Pod>], backoff: &mut Backoff) -> Ended {
        settle(&mut self.plan.status, owned);
        let status = &self.plan.status;
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let succeeded = uncounted.succeeded.unwrap_or_default();
        let failed = uncounted.failed.unwrap_or_default();
        let limit = self.spec.completions.unwrap_or(0);
        let known =
            |text: &Option<String>| indexes::parse(text.as_deref().unwrap_or_default(), limit);
        let mut ended = Ended {
            succeeded: sum(status.succeeded, succeeded.len()),
            failed: sum(status.failed, failed.len()),
            succeeded_indexes: known(&status.completed_indexes),
            failed_indexes: known(&status.failed_indexes),
            ..Default::default()
        };
        let mut news: Vec<(Option<Timestamp>, bool)> = Vec::new();
        for pod in owned {
            if pods::phase(pod) == "Succeeded" {
                if self.counts(pod) && !succeeded.contains(&uid(pod)) {
                    ended.succeeded = ended.succeeded.saturating_add(1);
                    news.push((job_pods::finished_at(pod), true));
                    ended.succeeded_indexes.extend(self.index_of(pod));
                }
                continue;
            }
            if !job_pods::has_failed(pod, self.job) {
                continue;
            }
            let verdict = self.verdict(pod);
            if let Verdict::FailJob(message) = &verdict {
                ended.fail_job.get_or_insert_with(|| message.clone());
            }
            if !self.counts(pod) {
                continue;
            }
            if !failed.contains(&uid(pod)) {
                news.push((job_pods::finished_at(pod), false));
                let counts = i32::from(verdict != Verdict::Ignore);
                ended.failed = ended.failed.saturating_add(counts);
            }
            if let (Some(limit), Some(index)) =
                (self.spec.backoff_limit_per_index, self.index_of(pod))
                && (verdict == Verdict::FailIndex
                    || verdict != Verdict::Ignore && job_pods::failures(pod).0 >= limit)
            {
                ended.failed_indexes.insert(index);
            }
        }
        backoff.note(news);
        if self.indexed {
            ended.succeeded = ended.succeeded_indexes.len() as i32;
            if self.spec.backoff_limit_per_index.is_some() {
                self.await_new_pods(owned, &mut ended);
            }
        }
        ended
    }

    /// Finds the failed pods whose finalizers stay until their indexes have new pods.
    fn await_new_pods(&self, owned: &[Arc<Pod>], ended: &mut Ended) {
        let active: BTreeSet<i32> = owned
            .iter()
            .filter(|pod| pods::is_active(pod))
            .filter_map(|pod| job_pods::index(pod))
            .collect();
        let failed = owned
            .iter()
            .filter(|pod| self.counts(pod) && job_pods::has_failed(pod, self.job));
        for pod in failed {
            let Some(index) = self.index_of(pod) else {
                continue;
            };
            if ended.succeeded_indexes.contains(&index)
                || ended.failed_indexes.contains(&index)
                || active.contains(&index)
            {
                continue;
            }
            let rank = |pod: &Pod| {
                let (counted, ignored) = job_pods::failures(pod);
                (counted.saturating_add(ignored), job_pods::finished_at(pod))
            };
            let last = ended.awaiting.entry(index).or_insert_with(|| pod.clone());
            if rank(last) <= rank(pod) {
                *last = pod.clone();
            }
        }
    }

    /// Notes in the status which pods have terminated, and plans to remove their finalizers.
    ///
    /// Once the job's end is decided, its other pods are deleted without waiting for them: they
    /// count as failed, unless the job has succeeded.
    pub(super) fn track(&mut self, owned: &[Arc<Pod>], ended: &Ended) {
        let failing = has_condition(&self.plan.status, "FailureTarget");
        let over = failing || has_condition(&self.plan.status, "SuccessCriteriaMet");
        let mut uncounted = self
            .plan
            .status
            .uncounted_terminated_pods
            .take()
            .unwrap_or_default();
        let mut succeeded = uncounted.succeeded.take().unwrap_or_default();
        let mut failed = uncounted.failed.take().unwrap_or_default();
        for pod in owned.iter().filter(|pod| job_pods::is_tracked(pod)) {
            let success = pods::phase(pod) == "Succeeded";
            let has_failed = !success && job_pods::has_failed(pod, self.job);
            let waits = self
                .index_of(pod)
                .and_then(|index| ended.awaiting.get(&index))
                .is_some_and(|last| Arc::ptr_eq(last, pod));
            if !over && !success && (!has_failed || waits) {
                continue;
            }
            let id = uid(pod);
            if success {
                if !self.indexed && !succeeded.contains(&id) {
                    succeeded.push(id);
                }
            } else if (has_failed || failing)
                && self.counts(pod)
                && !failed.contains(&id)
                && self.verdict(pod) != Verdict::Ignore
            {
                failed.push(id);
            }
            self.plan.release.push(pod.clone());
            if self.plan.release.len() == BURST {
                break;
            }
        }
        uncounted.succeeded = (!succeeded.is_empty()).then_some(succeeded);
        uncounted.failed = (!failed.is_empty()).then_some(failed);
        let status = &mut self.plan.status;
        status.uncounted_terminated_pods = Some(uncounted);
        if self.indexed {
            status.succeeded = Some(ended.succeeded);
            status.completed_indexes =
                Some(indexes::format(&ended.succeeded_indexes)).filter(|text| !text.is_empty());
            if self.spec.backoff_limit_per_index.is_some() {
                status.failed_indexes = Some(indexes::format(&ended.failed_indexes));
            }
        }
    }
}
