//! Whether workloads are as their specifications want them.

use serde_json::Value;

/// The state of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Everything is as specified.
    Ready,
    /// Something is still to come.
    Waiting(String),
    /// It will not become ready by itself.
    Failed(String),
}

/// Returns whether objects of a kind become ready or not.
pub fn is_tracked(kind: &str) -> bool {
    matches!(
        kind,
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Pod" | "Job"
    )
}

/// Returns the state of a workload of a kind. Items of lists do not name their kind themselves.
pub fn state(kind: &str, object: &Value) -> State {
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64);
    let observed = number("/status/observedGeneration").unwrap_or(0);
    if !matches!(kind, "Pod" | "Job") && observed < number("/metadata/generation").unwrap_or(0) {
        return State::Waiting("its change was not seen yet".to_owned());
    }
    let wanted = number("/spec/replicas").unwrap_or(1);
    let count = |field: &str| number(&format!("/status/{field}")).unwrap_or(0);
    match kind {
        "Deployment" => deployment(object, wanted, count),
        "StatefulSet" => stateful_set(object, wanted, count),
        "DaemonSet" => {
            if object["spec"]["updateStrategy"]["type"] == "OnDelete" {
                return State::Ready;
            }
            let wanted = count("desiredNumberScheduled");
            reached("updated", count("updatedNumberScheduled"), wanted)
                .or_else(|| reached("available", count("numberAvailable"), wanted))
                .unwrap_or(State::Ready)
        }
        "ReplicaSet" => reached("ready", count("readyReplicas"), wanted).unwrap_or(State::Ready),
        "Pod" => pod(object),
        "Job" => job(object),
        _ => State::Ready,
    }
}

fn reached(what: &str, count: i64, wanted: i64) -> Option<State> {
    (count < wanted).then(|| State::Waiting(format!("{count} of {wanted} pods are {what}")))
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions
        .iter()
        .find(|condition| condition["type"] == kind)
}

fn deployment(object: &Value, wanted: i64, count: impl Fn(&str) -> i64) -> State {
    if let Some(progress) = condition(object, "Progressing")
        && progress["reason"] == "ProgressDeadlineExceeded"
    {
        let message = progress["message"].as_str().unwrap_or_default();
        return State::Failed(format!("it exceeded its progress deadline: {message}"));
    }
    let updated = count("updatedReplicas");
    if let Some(waiting) = reached("updated", updated, wanted) {
        return waiting;
    }
    if count("replicas") > updated {
        let old = count("replicas") - updated;
        return State::Waiting(format!("{old} old pods are left"));
    }
    reached("available", count("availableReplicas"), updated).unwrap_or(State::Ready)
}

fn stateful_set(object: &Value, wanted: i64, count: impl Fn(&str) -> i64) -> State {
    if object["spec"]["updateStrategy"]["type"] == "OnDelete" {
        return State::Ready;
    }
    if let Some(waiting) = reached("ready", count("readyReplicas"), wanted) {
        return waiting;
    }
    let partition = object.pointer("/spec/updateStrategy/rollingUpdate/partition");
    let partition = partition.and_then(Value::as_i64).unwrap_or(0);
    if let Some(waiting) = reached("updated", count("updatedReplicas"), wanted - partition) {
        return waiting;
    }
    let status = &object["status"];
    if partition == 0 && status["updateRevision"] != status["currentRevision"] {
        return State::Waiting("its old revision is being replaced".to_owned());
    }
    State::Ready
}

fn pod(object: &Value) -> State {
    match object["status"]["phase"].as_str() {
        Some("Succeeded") => return State::Ready,
        Some("Failed") => {
            let message = object["status"]["message"].as_str();
            return State::Failed(message.unwrap_or("the pod has failed").to_owned());
        }
        _ => {}
    }
    match condition(object, "Ready") {
        Some(ready) if ready["status"] == "True" => State::Ready,
        _ => State::Waiting("the pod is not ready".to_owned()),
    }
}

fn job(object: &Value) -> State {
    let holds = |kind| condition(object, kind).filter(|found| found["status"] == "True");
    if holds("Complete").is_some() || object["spec"]["suspend"] == true {
        return State::Ready;
    }
    match holds("Failed") {
        Some(failed) => {
            let message = failed["message"].as_str().filter(|text| !text.is_empty());
            State::Failed(message.unwrap_or("the job has failed").to_owned())
        }
        None => State::Waiting("the job is not complete".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Checks the states of objects of a kind, which has seen its last change unless a status says
    /// otherwise.
    fn check(kind: &str, cases: &[(Value, Value, State)]) {
        for (spec, status, expected) in cases {
            let mut status = status.clone();
            if status.get("observedGeneration").is_none() {
                status["observedGeneration"] = json!(2);
            }
            let metadata = json!({"generation": 2});
            let object =
                json!({"kind": kind, "metadata": metadata, "spec": spec, "status": status});
            let kind = object["kind"].as_str().unwrap();
            let mut item = object.clone();
            item.as_object_mut().unwrap().remove("kind");
            assert_eq!(&state(kind, &item), expected, "{object}");
        }
    }

    fn waiting(text: &str) -> State {
        State::Waiting(text.to_owned())
    }

    fn failed(text: &str) -> State {
        State::Failed(text.to_owned())
    }

    #[test]
    fn deployments_become_ready_as_kubectl_says() {
        let two = || json!({"replicas": 2});
        let late = json!({"conditions": [
            {"type": "Progressing", "reason": "ProgressDeadlineExceeded", "message": "m"},
        ]});
        let status = |updated: i64, all: i64, available: i64| json!({"updatedReplicas": updated, "replicas": all, "availableReplicas": available});
        check(
            "Deployment",
            &[
                (
                    two(),
                    json!({"observedGeneration": 1}),
                    waiting("its change was not seen yet"),
                ),
                (two(), status(1, 2, 0), waiting("1 of 2 pods are updated")),
                (two(), status(2, 3, 0), waiting("1 old pods are left")),
                (two(), status(2, 2, 1), waiting("1 of 2 pods are available")),
                (json!({}), status(1, 1, 1), State::Ready),
                (json!({"replicas": 0}), json!({}), State::Ready),
                (
                    json!({}),
                    late,
                    failed("it exceeded its progress deadline: m"),
                ),
            ],
        );
    }

    #[test]
    fn sets_become_ready_as_kubectl_says() {
        let two = || json!({"replicas": 2});
        let part = json!({"replicas": 2, "updateStrategy": {"rollingUpdate": {"partition": 1}}});
        let manual = || json!({"updateStrategy": {"type": "OnDelete"}});
        let old = json!({
            "readyReplicas": 1, "updatedReplicas": 1, "updateRevision": "b", "currentRevision": "a",
        });
        let half = || json!({"readyReplicas": 2, "updatedReplicas": 1});
        check(
            "StatefulSet",
            &[
                (
                    two(),
                    json!({"readyReplicas": 1}),
                    waiting("1 of 2 pods are ready"),
                ),
                (two(), half(), waiting("1 of 2 pods are updated")),
                (part, half(), State::Ready),
                (
                    json!({}),
                    old,
                    waiting("its old revision is being replaced"),
                ),
                (manual(), json!({}), State::Ready),
            ],
        );
        let status = |available: i64| json!({"desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberAvailable": available});
        check(
            "DaemonSet",
            &[
                (json!({}), status(2), waiting("2 of 3 pods are available")),
                (json!({}), status(3), State::Ready),
                (manual(), status(0), State::Ready),
            ],
        );
        let none = json!({"readyReplicas": 0});
        check(
            "ReplicaSet",
            &[(json!({}), none, waiting("0 of 1 pods are ready"))],
        );
    }

    #[test]
    fn pods_become_ready_or_end() {
        let ready =
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        let phase = |phase: &str| json!({"phase": phase});
        check(
            "Pod",
            &[
                (json!({}), phase("Running"), waiting("the pod is not ready")),
                (json!({}), ready, State::Ready),
                (json!({}), phase("Succeeded"), State::Ready),
                (json!({}), phase("Failed"), failed("the pod has failed")),
            ],
        );
        check("ConfigMap", &[(json!({}), json!({}), State::Ready)]);
        assert!(is_tracked("Pod") && is_tracked("Job") && !is_tracked("CronJob"));
    }

    #[test]
    fn jobs_complete_or_fail() {
        let is = |kind: &str| json!({"observedGeneration": 0, "conditions": [{"type": kind, "status": "True", "message": "m"}]});
        check(
            "Job",
            &[
                (
                    json!({}),
                    json!({"active": 1}),
                    waiting("the job is not complete"),
                ),
                (json!({}), is("Complete"), State::Ready),
                (json!({}), is("Failed"), failed("m")),
                (json!({"suspend": true}), json!({}), State::Ready),
            ],
        );
    }
}
