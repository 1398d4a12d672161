//! Pods of jobs.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use rkube_component_helpers::time;

use crate::common::{pod_control, pods};

/// Finalizer that keeps a pod until it is counted.
pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Label and annotation with a pod's completion index.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// The longest `generateName` that the API server does not cut.
const LONGEST_PREFIX: usize = 58;
/// Annotation with the number of earlier failures of the pod's index.
const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// Annotation with the number of earlier failures that the pod failure policy ignores.
const INDEX_IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// Returns whether the job's pods have completion indexes.
pub fn is_indexed(job: &Job) -> bool {
    job.spec
        .as_ref()
        .and_then(|spec| spec.completion_mode.as_deref())
        == Some("Indexed")
}

/// Returns the pod's completion index.
pub fn index(pod: &Pod) -> Option<i32> {
    pod.metadata
        .annotations
        .as_ref()?
        .get(INDEX)?
        .parse()
        .ok()
        .filter(|index| *index >= 0)
}

/// Returns the numbers of counted and of ignored failures of the pod's index before the pod was
/// created.
pub fn failures(pod: &Pod) -> (i32, i32) {
    let annotations = pod.metadata.annotations.as_ref();
    let number = |key: &str| {
        annotations
            .and_then(|annotations| annotations.get(key))
            .and_then(|count| count.parse().ok())
            .filter(|count| *count >= 0)
            .unwrap_or(0)
    };
    (number(INDEX_FAILURES), number(INDEX_IGNORED))
}

/// Returns whether the pod still has to be counted.
pub fn is_tracked(pod: &Pod) -> bool {
    pod.metadata
        .finalizers
        .iter()
        .flatten()
        .any(|finalizer| finalizer == TRACKING)
}

/// Returns whether pods are replaced only after they have failed, not already while they are
/// terminating.
pub fn replaces_only_failed(job: &Job) -> bool {
    job.spec.as_ref().is_some_and(|spec| {
        spec.pod_failure_policy.is_some()
            || spec.pod_replacement_policy.as_deref() == Some("Failed")
    })
}

/// Returns whether the pod counts as failed.
pub fn has_failed(pod: &Pod, job: &Job) -> bool {
    let phase = pods::phase(pod);
    phase == "Failed"
        || !replaces_only_failed(job) && pods::is_deleting(pod) && phase != "Succeeded"
}

/// Returns when the pod terminated: when its last container did, or the best available estimate.
pub fn finished_at(pod: &Pod) -> Option<Timestamp> {
    let ready = pods::condition(pod, "Ready").filter(|ready| ready.status == "False");
    ended_at(pod)
        .or_else(|| Some(ready?.last_transition_time.as_ref()?.0))
        .or_else(|| {
            let at = pod.metadata.deletion_timestamp.as_ref()?.0;
            let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
            Some(time::sub_seconds(at, grace))
        })
        .or_else(|| Some(pod.metadata.creation_timestamp.as_ref()?.0))
}

/// Returns when the last container or sidecar terminated, `None` if one has not.
fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let inits = pod.spec.iter().flat_map(|spec| &spec.init_containers);
    let sidecars: Vec<&str> = inits
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"))
        .map(|container| container.name.as_str())
        .collect();
    let sidecars = status
        .init_container_statuses
        .iter()
        .flatten()
        .filter(|container| sidecars.contains(&container.name.as_str()));
    let all = status.container_statuses.iter().flatten().chain(sidecars);
    let ends: Option<Vec<Timestamp>> = all
        .map(|container| {
            let ended = container.state.as_ref()?.terminated.as_ref()?;
            Some(ended.finished_at.as_ref()?.0)
        })
        .collect();
    ends?.into_iter().max()
}

/// Returns the sum of container restarts of a pending or running pod, otherwise 0.
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
        .fold(0, |sum: i32, container| {
            sum.saturating_add(container.restart_count)
        })
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

/// Returns the prefix of the names of an index's pods. Long names of jobs are cut, so that the API
/// server's suffix does not cut off the index.
fn generate_name(job: &str, index: i32) -> String {
    let end = format!("-{index}-");
    let room = LONGEST_PREFIX.saturating_sub(end.len());
    let start = job.get(..room).unwrap_or(job);
    format!("{start}{end}")
}

/// Returns a new pod of the job with this completion index. `failures` are the numbers of counted and
/// ignored failures of the index, if they are to be noted.
pub fn make(job: &Job, index: Option<i32>, failures: Option<(i32, i32)>) -> Pod {
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
    pod.metadata.generate_name = Some(generate_name(name, index));
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.into(), index.to_string());
    if let Some((counted, ignored)) = failures {
        annotations.insert(INDEX_FAILURES.into(), counted.to_string());
        if ignored > 0 {
            annotations.insert(INDEX_IGNORED.into(), ignored.to_string());
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_never_cut_off() {
        assert_eq!(generate_name("ji", 0), "ji-0-");
        let long = "x".repeat(63);
        let name = generate_name(&long, 123);
        assert_eq!(name, format!("{}-123-", "x".repeat(53)));
        assert_eq!(name.len(), LONGEST_PREFIX);
    }
}
