//! Decides for a job which pods to create, delete and count, and computes the job's status.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rkube_component_helpers::time;

mod backoff;
mod conditions;
mod count;

pub use backoff::Backoff;
pub use conditions::{has_condition, is_finished, is_same_status};

use backoff::wait;
use conditions::{condition, find, set};
use count::Ended;

use super::failure::{Verdict, judge};
use super::{indexes, pods as job_pods};
use crate::common::pods;

/// Maximum number of pods created, deleted or counted per sync.
const BURST: usize = 500;

/// The actions for a job.
#[derive(Debug, Default)]
pub struct Plan {
    /// Pods to create.
    pub create: Vec<Pod>,
    /// Pods to delete without counting them as failed.
    pub discard: Vec<Arc<Pod>>,
    /// Pods to delete that count as failed.
    pub delete: Vec<Arc<Pod>>,
    /// The status to write.
    pub status: JobStatus,
    /// Pods whose finalizer can be removed after the status was written, as they are recorded in
    /// it.
    pub release: Vec<Arc<Pod>>,
    /// Events to report: whether it is a warning, reason and message.
    pub events: Vec<(bool, String, String)>,
    /// When to sync again even without changes.
    pub requeue: Option<Duration>,
}

struct Sync<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    indexed: bool,
    now: Timestamp,
    plan: Plan,
}

/// Decides the actions for `job`, which owns these pods.
pub fn plan(job: &Job, owned: &[Arc<Pod>], backoff: &mut Backoff, now: Timestamp) -> Plan {
    let Some(spec) = job.spec.as_ref() else {
        return Plan::default();
    };
    let mut sync = Sync {
        job,
        spec,
        indexed: job_pods::is_indexed(job),
        now,
        plan: Plan {
            status: job.status.clone().unwrap_or_default(),
            ..Default::default()
        },
    };
    let deleting = job.metadata.deletion_timestamp.is_some();
    if deleting || is_finished(&sync.plan.status) {
        // The pods of a job that is being deleted are not counted. They may outlive it.
        let ended = |pod: &&Arc<Pod>| {
            job_pods::is_tracked(pod)
                && (deleting || pods::is_terminal(pod) || pods::is_deleting(pod))
        };
        sync.plan.release = owned.iter().filter(ended).cloned().collect();
        return sync.plan;
    }
    sync.run(owned, backoff);
    sync.plan
}

impl Sync<'_> {
    fn parallelism(&self) -> i32 {
        self.spec.parallelism.unwrap_or(1)
    }

    fn run(&mut self, owned: &[Arc<Pod>], backoff: &mut Backoff) {
        let suspended = self.spec.suspend == Some(true);
        if self.plan.status.start_time.is_none() && !suspended {
            self.plan.status.start_time = Some(Time(self.now));
        }
        let ended = self.survey(owned, backoff);
        let active: Vec<Arc<Pod>> = owned
            .iter()
            .filter(|pod| pods::is_active(pod))
            .cloned()
            .collect();
        let terminating = owned.iter().filter(|pod| pods::is_terminating(pod)).count() as i32;
        let mut running = active.len() as i32;

        self.judge(&ended, &active);
        let failing = has_condition(&self.plan.status, "FailureTarget");
        let succeeding = has_condition(&self.plan.status, "SuccessCriteriaMet");
        if failing || succeeding {
            self.plan.delete.extend(active.iter().take(BURST).cloned());
            running -= self.plan.delete.len() as i32;
        } else {
            self.suspend(suspended);
            running = self.manage(&ended, &active, owned, suspended, backoff);
            self.complete(&ended, running);
        }
        self.track(owned, &ended);
        let doomed = |pod: &Arc<Pod>| {
            let mut doomed = self.plan.delete.iter().chain(&self.plan.discard);
            doomed.any(|other| Arc::ptr_eq(other, pod))
        };
        let ready = active
            .iter()
            .filter(|pod| pods::is_ready(pod) && !doomed(pod))
            .count();
        let deleted = (self.plan.delete.len() + self.plan.discard.len()) as i32;
        let status = &mut self.plan.status;
        status.active = Some(running);
        status.ready = Some(ready as i32);
        status.terminating = Some(terminating + deleted);
        self.finish(running, terminating + deleted);
        self.mind_deadline(suspended);
    }

    fn fail(&mut self, reason: &str, message: &str) {
        if !has_condition(&self.plan.status, "FailureTarget")
            && !has_condition(&self.plan.status, "SuccessCriteriaMet")
        {
            set(
                &mut self.plan.status,
                condition("FailureTarget", "True", reason, message, self.now),
            );
        }
    }

    /// Decides whether the job has failed, or succeeded by its success policy.
    fn judge(&mut self, ended: &Ended, active: &[Arc<Pod>]) {
        let limit = self.spec.backoff_limit.unwrap_or(6);
        if let Some(message) = &ended.fail_job {
            self.fail("PodFailurePolicy", &message.clone());
        } else if ended.failed > limit || self.restarts_exceed(limit, active) {
            self.fail(
                "BackoffLimitExceeded",
                "Job has reached the specified backoff limit",
            );
        } else if self.is_past_deadline() {
            self.fail(
                "DeadlineExceeded",
                "Job was active longer than specified deadline",
            );
        }
        if !self.indexed || has_condition(&self.plan.status, "FailureTarget") {
            return;
        }
        let completions = self.spec.completions.unwrap_or(0);
        if self.spec.backoff_limit_per_index.is_some() {
            let failed = ended.failed_indexes.len() as i32;
            if self
                .spec
                .max_failed_indexes
                .is_some_and(|most| failed > most)
            {
                let text = "Job has exceeded the specified maximal number of failed indexes";
                self.fail("MaxFailedIndexesExceeded", text);
            } else if failed > 0 && failed.saturating_add(ended.succeeded) >= completions {
                self.fail("FailedIndexes", "Job has failed indexes");
            }
        }
        if let Some(policy) = &self.spec.success_policy
            && !ended.succeeded_indexes.is_empty()
            && !has_condition(&self.plan.status, "SuccessCriteriaMet")
        {
            for (number, rule) in policy.rules.iter().enumerate() {
                let wanted = rule
                    .succeeded_indexes
                    .as_deref()
                    .map(|text| indexes::ranges(text, completions));
                let hits = match &wanted {
                    Some(wanted) => indexes::count_in(&ended.succeeded_indexes, wanted),
                    None => ended.succeeded_indexes.len(),
                };
                let needed = match (rule.succeeded_count, &wanted) {
                    (Some(count), _) => usize::try_from(count).unwrap_or(0),
                    (None, Some(wanted)) if !wanted.is_empty() => indexes::size(wanted),
                    (None, _) => continue,
                };
                if hits >= needed && !has_condition(&self.plan.status, "FailureTarget") {
                    let message = format!("Matched rules at index {number}");
                    set(
                        &mut self.plan.status,
                        condition(
                            "SuccessCriteriaMet",
                            "True",
                            "SuccessPolicy",
                            &message,
                            self.now,
                        ),
                    );
                    return;
                }
            }
        }
    }

    /// Returns whether container restarts exceed the limit. With the policy `OnFailure`, containers
    /// are restarted in place, so restarts count instead of failed pods.
    fn restarts_exceed(&self, limit: i32, active: &[Arc<Pod>]) -> bool {
        let policy = self
            .spec
            .template
            .spec
            .as_ref()
            .and_then(|spec| spec.restart_policy.as_deref());
        if policy != Some("OnFailure") {
            return false;
        }
        let restarts = active
            .iter()
            .fold(0i32, |sum, pod| sum.saturating_add(job_pods::restarts(pod)));
        if limit == 0 {
            restarts > 0
        } else {
            restarts >= limit
        }
    }

    fn deadline(&self) -> Option<Timestamp> {
        let start = self.plan.status.start_time.as_ref()?.0;
        Some(time::add_seconds(start, self.spec.active_deadline_seconds?))
    }

    fn is_past_deadline(&self) -> bool {
        self.spec.suspend != Some(true)
            && self.deadline().is_some_and(|deadline| deadline <= self.now)
    }

    fn mind_deadline(&mut self, suspended: bool) {
        if suspended || is_finished(&self.plan.status) {
            return;
        }
        if let Some(deadline) = self.deadline()
            && deadline > self.now
        {
            self.requeue(time::until_time(deadline, self.now));
        }
    }

    fn requeue(&mut self, after: Duration) {
        self.plan.requeue = Some(self.plan.requeue.map_or(after, |other| other.min(after)));
    }

    /// Updates the `Suspended` condition.
    fn suspend(&mut self, suspended: bool) {
        let was = find(&self.plan.status, "Suspended").map(|condition| condition.status == "True");
        if suspended && was != Some(true) {
            set(
                &mut self.plan.status,
                condition(
                    "Suspended",
                    "True",
                    "JobSuspended",
                    "Job suspended",
                    self.now,
                ),
            );
            self.plan.status.start_time = None;
            self.plan
                .events
                .push((false, "Suspended".into(), "Job suspended".into()));
        } else if !suspended && was == Some(true) {
            set(
                &mut self.plan.status,
                condition("Suspended", "False", "JobResumed", "Job resumed", self.now),
            );
            self.plan.status.start_time = Some(Time(self.now));
            self.plan
                .events
                .push((false, "Resumed".into(), "Job resumed".into()));
        }
    }

    /// Plans pods to create and discard. Returns the number of active pods to report: as upstream's,
    /// it is 0 while new pods wait for the end of a back-off.
    fn manage(
        &mut self,
        ended: &Ended,
        active: &[Arc<Pod>],
        owned: &[Arc<Pod>],
        suspended: bool,
        backoff: &Backoff,
    ) -> i32 {
        let running = active.len() as i32;
        if suspended {
            self.plan.discard.extend(active.iter().take(BURST).cloned());
            return running - self.plan.discard.len() as i32;
        }
        let wanted = match self.spec.completions {
            None if ended.succeeded > 0 => running,
            None => self.parallelism(),
            Some(completions) => completions
                .saturating_sub(ended.succeeded)
                .min(self.parallelism())
                .max(0),
        };
        let mut doomed = self.misplaced(ended, active);
        let surplus = usize::try_from(running.saturating_sub(wanted))
            .unwrap_or(0)
            .saturating_sub(doomed.len());
        if surplus > 0 {
            let mut rest: Vec<&Arc<Pod>> = active
                .iter()
                .filter(|pod| !doomed.iter().any(|other| Arc::ptr_eq(other, pod)))
                .collect();
            rest.sort_by(|a, b| pods::deletion_order((a, 0), (b, 0), self.now));
            doomed.extend(rest.into_iter().take(surplus).cloned());
        }
        doomed.truncate(BURST);
        if !doomed.is_empty() {
            let left = running - doomed.len() as i32;
            self.plan.discard = doomed;
            return left;
        }
        let held: Vec<&Arc<Pod>> = owned
            .iter()
            .filter(|pod| job_pods::replaces_only_failed(self.job) && pods::is_terminating(pod))
            .collect();
        let missing = wanted
            .saturating_sub(running)
            .saturating_sub(held.len() as i32);
        let count = usize::try_from(missing).unwrap_or(0).min(BURST);
        if count == 0 {
            return running;
        }
        if self.spec.backoff_limit_per_index.is_none() {
            let left = backoff.left(self.now);
            if !left.is_zero() {
                self.requeue(left);
                return 0;
            }
        }
        if self.indexed {
            let busy = active.iter().chain(held);
            if !self.make_indexed(ended, busy, count) {
                return 0;
            }
        } else {
            self.plan.create = (0..count)
                .map(|_| job_pods::make(self.job, None, None))
                .collect();
        }
        running + self.plan.create.len() as i32
    }

    /// Returns the unneeded pods of an indexed job: those without an index, with a finished index,
    /// or with an index that an older pod has.
    fn misplaced(&self, ended: &Ended, active: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        if !self.indexed {
            return Vec::new();
        }
        let completions = self.spec.completions.unwrap_or(0);
        let mut ordered: Vec<&Arc<Pod>> = active.iter().collect();
        ordered.sort_by(|a, b| pods::deletion_order((b, 0), (a, 0), self.now));
        let mut seen = BTreeSet::new();
        ordered
            .into_iter()
            .filter(|pod| match job_pods::index(pod) {
                Some(index) => {
                    index >= completions
                        || ended.succeeded_indexes.contains(&index)
                        || ended.failed_indexes.contains(&index)
                        || !seen.insert(index)
                }
                None => true,
            })
            .cloned()
            .collect()
    }

    /// Plans pods of the first indexes without one. Those that are in a back-off are left out; others
    /// do not take their place. Returns false if all of them are.
    fn make_indexed<'a>(
        &mut self,
        ended: &Ended,
        busy: impl Iterator<Item = &'a Arc<Pod>>,
        count: usize,
    ) -> bool {
        let busy: BTreeSet<i32> = busy.filter_map(|pod| job_pods::index(pod)).collect();
        let open: Vec<i32> = (0..self.spec.completions.unwrap_or(0))
            .filter(|index| {
                !busy.contains(index)
                    && !ended.succeeded_indexes.contains(index)
                    && !ended.failed_indexes.contains(index)
            })
            .take(count)
            .collect();
        let per_index = self.spec.backoff_limit_per_index.is_some();
        let mut soonest: Option<Duration> = None;
        for index in open {
            let last = ended.awaiting.get(&index);
            let (failed, ignored) = last.map_or((0, 0), |last| job_pods::failures(last));
            if let Some(last) = last {
                let failures = failed.saturating_add(ignored).saturating_add(1);
                let failures = u32::try_from(failures).unwrap_or(0);
                let left = wait(failures, job_pods::finished_at(last), self.now);
                if !left.is_zero() {
                    soonest = Some(soonest.map_or(left, |other| other.min(left)));
                    continue;
                }
            }
            let before = per_index.then(|| match last {
                Some(last) => self.with_another_failure(last),
                None => (0, 0),
            });
            let pod = job_pods::make(self.job, Some(index), before);
            self.plan.create.push(pod);
        }
        match soonest {
            Some(soonest) if self.plan.create.is_empty() => {
                self.requeue(soonest);
                false
            }
            _ => true,
        }
    }

    /// Returns the numbers of counted and of ignored failures of an index, this one included.
    fn with_another_failure(&self, pod: &Pod) -> (i32, i32) {
        let (counted, ignored) = job_pods::failures(pod);
        match judge(self.spec.pod_failure_policy.as_ref(), pod) {
            Verdict::Ignore => (counted, ignored.saturating_add(1)),
            _ => (counted.saturating_add(1), ignored),
        }
    }

    /// Sets the condition `SuccessCriteriaMet` if the desired number of pods has succeeded.
    fn complete(&mut self, ended: &Ended, running: i32) {
        let complete = match self.spec.completions {
            None => ended.succeeded > 0 && running == 0,
            Some(completions) => ended.succeeded >= completions && running == 0,
        };
        if complete {
            let text = "Reached expected number of succeeded pods";
            set(
                &mut self.plan.status,
                condition(
                    "SuccessCriteriaMet",
                    "True",
                    "CompletionsReached",
                    text,
                    self.now,
                ),
            );
        }
    }

    /// Sets the final condition once all pods are terminated and counted.
    fn finish(&mut self, running: i32, terminating: i32) {
        let status = &self.plan.status;
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let all_counted = uncounted.succeeded.is_none() && uncounted.failed.is_none();
        if running > 0 || terminating > 0 || !all_counted || !self.plan.create.is_empty() {
            return;
        }
        if !self.plan.release.is_empty() {
            return; // counted by index, but their finalizers are not removed yet
        }
        for (interim, last) in [
            ("FailureTarget", "Failed"),
            ("SuccessCriteriaMet", "Complete"),
        ] {
            let Some(cause) = find(&self.plan.status, interim)
                .filter(|cause| cause.status == "True")
                .cloned()
            else {
                continue;
            };
            let (reason, message) = (
                cause.reason.unwrap_or_default(),
                cause.message.unwrap_or_default(),
            );
            set(
                &mut self.plan.status,
                condition(last, "True", &reason, &message, self.now),
            );
            if last == "Complete" {
                self.plan.status.completion_time = Some(Time(self.now));
                let succeeded = self.plan.status.succeeded.unwrap_or(0);
                if self
                    .spec
                    .completions
                    .is_some_and(|wanted| succeeded > wanted)
                {
                    let text = "Too many succeeded pods running after completion count reached";
                    self.plan
                        .events
                        .push((true, "TooManySucceededPods".into(), text.into()));
                }
                self.plan
                    .events
                    .push((false, "Completed".into(), "Job completed".into()));
            } else {
                self.plan.events.push((true, reason, message));
            }
            return;
        }
    }
}

#[cfg(test)]
mod tests;
