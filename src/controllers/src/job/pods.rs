//! The pods of a job.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use crate::common::{hash, pod_control, pods};

/// Finalizer by which a pod stays until it is counted.
pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Label and annotation with a pod's completion index.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Annotation with how often pods of the index failed before.
const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";

/// Whether each pod of the job has an index.
pub fn is_indexed(job: &Job) -> bool {
    job.spec
        .as_ref()
        .and_then(|spec| spec.completion_mode.as_deref())
        == Some("Indexed")
}

/// The pod's completion index.
pub fn index(pod: &Pod) -> Option<i32> {
    pod.metadata
        .annotations
        .as_ref()?
        .get(INDEX)?
        .parse()
        .ok()
        .filter(|index| *index >= 0)
}

/// How often pods of this pod's index had failed when it was made.
pub fn index_failures(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    annotations
        .and_then(|annotations| annotations.get(INDEX_FAILURES))
        .and_then(|count| count.parse().ok())
        .unwrap_or(0)
}

/// Whether the pod still has to be counted.
pub fn is_tracked(pod: &Pod) -> bool {
    pod.metadata
        .finalizers
        .iter()
        .flatten()
        .any(|finalizer| finalizer == TRACKING)
}

/// Whether only pods that failed for certain are replaced, not those that are
/// about to go.
pub fn replaces_only_failed(job: &Job) -> bool {
    job.spec.as_ref().is_some_and(|spec| {
        spec.pod_failure_policy.is_some()
            || spec.pod_replacement_policy.as_deref() == Some("Failed")
    })
}

/// Whether the pod counts as failed.
pub fn has_failed(pod: &Pod, job: &Job) -> bool {
    let phase = pods::phase(pod);
    phase == "Failed"
        || !replaces_only_failed(job) && pods::is_deleting(pod) && phase != "Succeeded"
}

/// When the pod came to its end, as far as can be told.
pub fn finished_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    let ended = statuses
        .into_iter()
        .flatten()
        .filter_map(|container| {
            container
                .state
                .as_ref()?
                .terminated
                .as_ref()?
                .finished_at
                .as_ref()
        })
        .map(|time| time.0)
        .max();
    let ready = pods::condition(pod, "Ready").filter(|ready| ready.status == "False");
    ended
        .or_else(|| Some(ready?.last_transition_time.as_ref()?.0))
        .or_else(|| Some(pod.metadata.deletion_timestamp.as_ref()?.0))
        .or_else(|| Some(pod.metadata.creation_timestamp.as_ref()?.0))
}

/// Restarts of all containers of pods that are under way.
pub fn restarts(pod: &Pod) -> i32 {
    if !matches!(pods::phase(pod), "Running" | "Pending") {
        return 0;
    }
    let status = pod.status.as_ref();
    let regular = status.and_then(|status| status.container_statuses.as_ref());
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    regular
        .into_iter()
        .chain(init)
        .flatten()
        .map(|container| container.restart_count)
        .sum()
}

fn add_index_variable(container: &mut Container) {
    let variables = container.env.get_or_insert_default();
    if variables
        .iter()
        .any(|variable| variable.name == "JOB_COMPLETION_INDEX")
    {
        return;
    }
    variables.push(EnvVar {
        name: "JOB_COMPLETION_INDEX".into(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: None,
                field_path: format!("metadata.labels['{INDEX}']"),
            }),
            ..Default::default()
        }),
    });
}

/// A new pod of the job, for an index of which so many pods have failed.
pub fn make(job: &Job, index: Option<i32>, failures: Option<i32>) -> Pod {
    let template = job
        .spec
        .as_ref()
        .map(|spec| spec.template.clone())
        .unwrap_or_default();
    let mut pod = pod_control::from_template(job, &template);
    pod.metadata
        .finalizers
        .get_or_insert_default()
        .push(TRACKING.into());
    let Some(index) = index else { return pod };
    let name = job.metadata.name.as_deref().unwrap_or_default();
    // The whole name is a host name and a label: 63 characters with the suffix.
    let mut base = format!("{name}-{index}-");
    base.truncate(58);
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(format!("{base}{}", hash::random_suffix(5)));
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.into(), index.to_string());
    if let Some(failures) = failures {
        annotations.insert(INDEX_FAILURES.into(), failures.to_string());
    }
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(INDEX.into(), index.to_string());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(format!("{name}-{index}"));
    spec.containers.iter_mut().for_each(add_index_variable);
    spec.init_containers
        .iter_mut()
        .flatten()
        .for_each(add_index_variable);
    pod
}
