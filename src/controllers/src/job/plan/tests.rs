use super::*;
use crate::common::extremes;
use crate::common::pods::testing::{at, pod};
use k8s_openapi::api::batch::v1::{SuccessPolicy, SuccessPolicyRule};
use k8s_openapi::api::core::v1::ContainerStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

fn job(completions: Option<i32>, parallelism: i32, mode: &str) -> Job {
    Job {
        metadata: ObjectMeta {
            name: Some("work".into()),
            namespace: Some("ns".into()),
            uid: Some("job".into()),
            ..Default::default()
        },
        spec: Some(JobSpec {
            completions,
            parallelism: Some(parallelism),
            completion_mode: Some(mode.into()),
            backoff_limit: Some(2),
            ..Default::default()
        }),
        status: None,
    }
}

/// A simulated job with its pods, which carries out plans.
struct SimulatedJob {
    job: Job,
    pods: Vec<Arc<Pod>>,
    backoff: Backoff,
    now: i64,
    made: usize,
    events: Vec<String>,
}

impl SimulatedJob {
    fn new(job: Job) -> Self {
        Self {
            job,
            pods: Vec::new(),
            backoff: Backoff::default(),
            now: 1000,
            made: 0,
            events: Vec::new(),
        }
    }

    fn step(&mut self) -> Plan {
        let plan = plan(&self.job, &self.pods, &mut self.backoff, at(self.now));
        for pod in &plan.create {
            let mut pod = pod.clone();
            self.made += 1;
            pod.metadata.uid = Some(format!("pod-{}", self.made));
            pod.metadata.creation_timestamp = Some(Time(at(self.now)));
            pod.status =
                super::super::super::common::pods::testing::pod("x", "n", "Running", None).status;
            self.pods.push(Arc::new(pod));
        }
        let gone = |pod: &Arc<Pod>| {
            let hit = |list: &[Arc<Pod>]| {
                list.iter()
                    .any(|other| other.metadata.uid == pod.metadata.uid)
            };
            hit(&plan.discard) || hit(&plan.delete)
        };
        self.pods.retain(|pod| !gone(pod));
        self.job.status = Some(plan.status.clone());
        for pod in &mut self.pods {
            if plan
                .release
                .iter()
                .any(|other| other.metadata.uid == pod.metadata.uid)
            {
                Arc::make_mut(pod).metadata.finalizers = None;
            }
        }
        self.events
            .extend(plan.events.iter().map(|(_, reason, _)| reason.clone()));
        plan
    }

    fn settle(&mut self) {
        for _ in 0..10 {
            let before = (self.job.status.clone(), self.made);
            let plan = self.step();
            if plan.release.is_empty() && (self.job.status.clone(), self.made) == before {
                return;
            }
        }
        panic!("never settles: {:?}", self.job.status);
    }

    fn end(&mut self, which: impl Fn(&Pod) -> bool, phase: &str) {
        let state = pod("x", "n", phase, None).status;
        for pod in &mut self.pods {
            if pods::is_active(pod) && which(pod) {
                Arc::make_mut(pod).status.clone_from(&state);
            }
        }
    }

    fn status(&self) -> JobStatus {
        self.job.status.clone().unwrap()
    }

    fn active(&self) -> usize {
        self.pods.iter().filter(|pod| pods::is_active(pod)).count()
    }
}

#[test]
fn a_job_runs_its_pods_and_completes() {
    let mut world = SimulatedJob::new(job(Some(3), 2, "NonIndexed"));
    world.settle();
    assert_eq!((world.active(), world.status().active), (2, Some(2)));
    world.end(|_| true, "Succeeded");
    world.settle();
    assert_eq!((world.active(), world.status().succeeded), (1, Some(2)));
    world.end(|_| true, "Succeeded");
    world.settle();
    let status = world.status();
    assert_eq!(status.succeeded, Some(3));
    assert!(has_condition(&status, "Complete") && has_condition(&status, "SuccessCriteriaMet"));
    assert!(status.completion_time.is_some());
    assert_eq!(world.events, ["Completed"]);
    assert!(world.pods.iter().all(|pod| !job_pods::is_tracked(pod)));
}

#[test]
fn a_pod_is_counted_once_whenever_the_controller_dies() {
    let mut world = SimulatedJob::new(job(Some(2), 2, "NonIndexed"));
    world.settle();
    world.end(|_| true, "Succeeded");
    // The status is written, but the finalizers are not removed yet.
    let first = plan(&world.job, &world.pods, &mut world.backoff, at(world.now));
    world.job.status = Some(first.status);
    world.settle();
    assert_eq!(world.status().succeeded, Some(2));
}

#[test]
fn failures_wait_and_then_end_the_job() {
    let mut world = SimulatedJob::new(job(Some(1), 1, "NonIndexed"));
    world.settle();
    for failures in 1..=2 {
        world.end(|_| true, "Failed");
        for pod in &mut world.pods {
            let pod = Arc::make_mut(pod);
            pod.metadata
                .creation_timestamp
                .get_or_insert(Time(at(world.now)));
        }
        world.settle();
        assert_eq!(world.status().failed, Some(failures));
        assert_eq!(world.active(), 0);
        world.now += 60;
        world.settle();
        assert_eq!(world.active(), 1);
    }
    world.end(|_| true, "Failed");
    world.settle();
    let status = world.status();
    assert_eq!(status.failed, Some(3));
    let failed = find(&status, "Failed").unwrap();
    assert_eq!(failed.reason.as_deref(), Some("BackoffLimitExceeded"));
}

#[test]
fn a_suspended_job_has_no_pods() {
    let mut world = SimulatedJob::new(job(Some(2), 2, "NonIndexed"));
    world.settle();
    world.job.spec.as_mut().unwrap().suspend = Some(true);
    world.settle();
    assert_eq!(world.active(), 0);
    assert!(has_condition(&world.status(), "Suspended"));
    assert_eq!(world.status().start_time, None);
    assert_eq!(world.status().failed.unwrap_or(0), 0);
    world.job.spec.as_mut().unwrap().suspend = Some(false);
    world.settle();
    assert_eq!(world.active(), 2);
    assert_eq!(world.events, ["Suspended", "Resumed"]);
}

#[test]
fn the_deadline_ends_the_job() {
    let mut world = SimulatedJob::new(job(Some(1), 1, "NonIndexed"));
    world.job.spec.as_mut().unwrap().active_deadline_seconds = Some(30);
    let plan = world.step();
    assert_eq!(plan.requeue, Some(Duration::from_secs(30)));
    world.settle();
    world.now += 31;
    world.settle();
    let status = world.status();
    assert_eq!(
        find(&status, "Failed").unwrap().reason.as_deref(),
        Some("DeadlineExceeded")
    );
    assert_eq!(world.active(), 0);
}

#[test]
fn each_index_completes_once() {
    let mut world = SimulatedJob::new(job(Some(3), 3, "Indexed"));
    world.settle();
    let mut seen: Vec<_> = world
        .pods
        .iter()
        .filter_map(|pod| job_pods::index(pod))
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2]);
    world.end(|pod| job_pods::index(pod) != Some(1), "Succeeded");
    world.settle();
    assert_eq!(world.status().completed_indexes.as_deref(), Some("0,2"));
    world.end(|_| true, "Succeeded");
    world.settle();
    assert_eq!(world.status().completed_indexes.as_deref(), Some("0-2"));
    assert!(has_condition(&world.status(), "Complete"));
}

#[test]
fn an_index_may_fail_alone() {
    let mut world = SimulatedJob::new(job(Some(2), 2, "Indexed"));
    world.job.spec.as_mut().unwrap().backoff_limit_per_index = Some(0);
    world.job.spec.as_mut().unwrap().backoff_limit = Some(i32::MAX);
    world.settle();
    world.end(|pod| job_pods::index(pod) == Some(0), "Failed");
    world.settle();
    assert_eq!(world.status().failed_indexes.as_deref(), Some("0"));
    assert_eq!(world.active(), 1);
    world.end(|_| true, "Succeeded");
    world.settle();
    let status = world.status();
    assert_eq!(
        find(&status, "Failed").unwrap().reason.as_deref(),
        Some("FailedIndexes")
    );
}

#[test]
fn a_success_policy_ends_the_job_early() {
    let mut world = SimulatedJob::new(job(Some(3), 3, "Indexed"));
    world.job.spec.as_mut().unwrap().success_policy = Some(SuccessPolicy {
        rules: vec![SuccessPolicyRule {
            succeeded_indexes: Some("0".into()),
            succeeded_count: None,
        }],
    });
    world.settle();
    world.end(|pod| job_pods::index(pod) == Some(0), "Succeeded");
    world.settle();
    let status = world.status();
    assert_eq!(
        find(&status, "Complete").unwrap().reason.as_deref(),
        Some("SuccessPolicy")
    );
    assert_eq!(world.active(), 0);
}

#[test]
fn a_work_queue_ends_with_its_first_success() {
    let mut world = SimulatedJob::new(job(None, 3, "NonIndexed"));
    world.settle();
    assert_eq!(world.active(), 3);
    let first = world.pods[0].metadata.uid.clone();
    world.end(|pod| pod.metadata.uid == first, "Succeeded");
    world.settle();
    assert_eq!(world.active(), 2);
    assert!(!has_condition(&world.status(), "Complete"));
    world.end(|_| true, "Succeeded");
    world.settle();
    assert!(has_condition(&world.status(), "Complete"));
    assert_eq!(world.status().succeeded, Some(3));
}

#[test]
fn waits_double() {
    let after = |failures| wait(failures, Some(at(0)), at(0)).as_secs();
    assert_eq!([0, 1, 2, 3, 20].map(after), [0, 10, 20, 40, 600]);
}

#[test]
fn any_numbers_can_be_planned_with() {
    let job = |mode: &str, policy: &str| {
        json!({
            "metadata": {"name": "work", "namespace": "ns", "uid": "job"},
            "spec": {
                "parallelism": 1, "completions": 3, "activeDeadlineSeconds": 1, "backoffLimit": 1,
                "backoffLimitPerIndex": 1, "maxFailedIndexes": 1, "ttlSecondsAfterFinished": 1,
                "completionMode": mode,
                "successPolicy": {"rules": [
                    {"succeededIndexes": "1,3-2147483646"},
                    {"succeededIndexes": "0-2147483647", "succeededCount": 1},
                ]},
                "template": {"spec": {"containers": [], "restartPolicy": policy}},
            },
            "status": {
                "startTime": "1970-01-01T00:00:10Z", "active": 1, "failed": 1, "succeeded": 1,
                "ready": 1, "terminating": 1, "completedIndexes": "0", "failedIndexes": "1",
                "uncountedTerminatedPods": {"failed": ["gone"], "succeeded": ["also"]},
                "conditions": [{"type": "Complete", "status": "False",
                    "lastTransitionTime": "1970-01-01T00:00:10Z"}],
            },
        })
    };
    let mut failed = pod("f", "n", "Failed", None);
    failed.metadata.finalizers = Some(vec![job_pods::TRACKING.into()]);
    failed.metadata.annotations = Some(
        [
            ("batch.kubernetes.io/job-completion-index", "1"),
            ("batch.kubernetes.io/job-index-failure-count", "2147483647"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into(),
    );
    let mut restarted = pod("r", "n", "Running", Some(1));
    restarted.status.as_mut().unwrap().container_statuses = Some(
        [i32::MAX, i32::MAX]
            .map(|restart_count| ContainerStatus {
                restart_count,
                ..Default::default()
            })
            .into(),
    );
    let owned = [Arc::new(failed), Arc::new(restarted)];
    for (mode, policy) in [("Indexed", "Never"), ("NonIndexed", "OnFailure")] {
        extremes::each(&job(mode, policy), |job: &Job| {
            for owned in [&owned[..], &[]] {
                for failures in [0, u32::MAX] {
                    let last = Some(at(1));
                    let mut backoff = Backoff { failures, last };
                    plan(job, owned, &mut backoff, at(100));
                }
            }
            crate::job::ttl::time_to_deletion(job, at(100));
        });
    }
}

#[test]
fn pods_that_a_success_policy_makes_needless_are_no_failures() {
    let mut job = job(Some(3), 3, "Indexed");
    job.spec.as_mut().unwrap().success_policy = Some(SuccessPolicy {
        rules: vec![SuccessPolicyRule {
            succeeded_count: Some(1),
            succeeded_indexes: None,
        }],
    });
    let mut world = SimulatedJob::new(job);
    world.settle();
    world.end(|pod| job_pods::index(pod) == Some(1), "Succeeded");
    let plan = world.step();
    // The finalizers of the others are removed at once, so that they are not counted later.
    assert_eq!((plan.delete.len(), plan.release.len()), (2, 3));
    world.settle();
    let status = world.status();
    assert!(has_condition(&status, "Complete"));
    assert_eq!((status.succeeded, status.failed), (Some(1), Some(0)));
}

#[test]
fn pods_that_a_failure_makes_needless_are_failures() {
    let mut world = SimulatedJob::new(job(Some(3), 3, "NonIndexed"));
    world.job.spec.as_mut().unwrap().backoff_limit = Some(0);
    world.settle();
    let first = world.pods[0].metadata.uid.clone();
    world.end(|pod| pod.metadata.uid == first, "Failed");
    world.settle();
    let status = world.status();
    assert!(has_condition(&status, "Failed"));
    assert_eq!(status.failed, Some(3));
}

#[test]
fn an_index_waits_for_its_turn_with_its_failed_pod() {
    let mut job = job(Some(3), 1, "Indexed");
    job.spec.as_mut().unwrap().backoff_limit_per_index = Some(1);
    let mut world = SimulatedJob::new(job);
    world.settle();
    world.end(|_| true, "Failed");
    world.settle();
    // Index 0 is next, and no other index takes its place. Its failure counts when it is replaced.
    assert_eq!((world.made, world.active()), (1, 0));
    assert_eq!(world.status().failed, Some(0));
    assert!(job_pods::is_tracked(&world.pods[0]));
    world.now += 2000;
    world.settle();
    assert_eq!((world.made, world.status().failed), (2, Some(1)));
    assert!(!job_pods::is_tracked(&world.pods[0]));
    assert_eq!(job_pods::failures(&world.pods[1]), (1, 0));
}

#[test]
fn ignored_failures_are_waited_for_and_noted() {
    let mut job = job(Some(1), 1, "Indexed");
    let spec = job.spec.as_mut().unwrap();
    spec.backoff_limit_per_index = Some(0);
    spec.pod_failure_policy = Some(
        serde_json::from_value(json!({"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
        ]}))
        .unwrap(),
    );
    let mut world = SimulatedJob::new(job);
    world.settle();
    world.end(|_| true, "Failed");
    let disrupted = json!([{"type": "DisruptionTarget", "status": "True"}]);
    Arc::make_mut(&mut world.pods[0])
        .status
        .as_mut()
        .unwrap()
        .conditions = serde_json::from_value(disrupted).unwrap();
    world.settle();
    assert_eq!(world.made, 1);
    world.now += 2000;
    world.settle();
    assert_eq!((world.made, world.status().failed), (2, Some(0)));
    assert_eq!(job_pods::failures(&world.pods[1]), (0, 1));
}

#[test]
fn nobody_is_active_in_a_back_off() {
    let mut world = SimulatedJob::new(job(Some(4), 2, "NonIndexed"));
    world.settle();
    let first = world.pods[0].metadata.uid.clone();
    world.end(|pod| pod.metadata.uid == first, "Failed");
    world.settle();
    assert_eq!((world.active(), world.status().active), (1, Some(0)));
}

#[test]
fn the_pods_of_a_deleted_job_are_let_go() {
    let mut world = SimulatedJob::new(job(Some(1), 1, "NonIndexed"));
    world.settle();
    world.job.metadata.deletion_timestamp = Some(Time(at(1001)));
    assert_eq!(world.step().release.len(), 1);
}
