//! What pods tell: whose they are, what runs in them, and what is wrong with them.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// An object that makes pods, or a pod that nothing has made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Workload {
    /// The kind, such as `Deployment`.
    pub kind: String,
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// Returns the object of the manifests that a pod comes from, as its names tell: pods of deployments
/// and cron jobs belong to replica sets and jobs, whose names begin with those of their owners.
pub fn origins(pod: &Pod) -> Vec<Workload> {
    let metadata = &pod.metadata;
    let namespace = metadata.namespace.clone().unwrap_or_default();
    let workload = |kind: &str, name: &str| Workload {
        kind: kind.to_owned(),
        namespace: namespace.clone(),
        name: name.to_owned(),
    };
    let owners = metadata.owner_references.iter().flatten();
    let Some(owner) = owners.clone().find(|owner| owner.controller == Some(true)) else {
        return vec![workload(
            "Pod",
            metadata.name.as_deref().unwrap_or_default(),
        )];
    };
    let mut found = vec![workload(&owner.kind, &owner.name)];
    let above = match owner.kind.as_str() {
        "ReplicaSet" => Some("Deployment"),
        "Job" => Some("CronJob"),
        _ => None,
    };
    if let (Some(kind), Some((name, _))) = (above, owner.name.rsplit_once('-')) {
        found.push(workload(kind, name));
    }
    found
}

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The name in the pod.
    pub name: String,
    /// The name of the image, as the pod has it.
    pub image: String,
    /// The ID in the runtime, once it was started.
    pub id: Option<String>,
    /// Whether it runs.
    pub running: bool,
    /// How often it was started again.
    pub restarts: i32,
}

/// Returns the containers of a pod, also those for its initialization.
pub fn containers(pod: &Pod) -> Vec<Container> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let status = pod.status.as_ref();
    let statuses =
        |of: fn(&k8s_openapi::api::core::v1::PodStatus) -> &Option<Vec<ContainerStatus>>| {
            status
                .into_iter()
                .flat_map(move |status| of(status).iter().flatten())
        };
    let all: Vec<&ContainerStatus> = statuses(|s| &s.init_container_statuses)
        .chain(statuses(|s| &s.container_statuses))
        .collect();
    let initial = spec.init_containers.iter().flatten();
    let listed = initial.chain(&spec.containers);
    listed
        .map(|container| {
            let status = all.iter().find(|status| status.name == container.name);
            let id = status.and_then(|status| status.container_id.as_deref());
            let state = status.and_then(|status| status.state.as_ref());
            Container {
                name: container.name.clone(),
                image: container.image.clone().unwrap_or_default(),
                id: id.map(|id| id.split_once("://").map_or(id, |(_, id)| id).to_owned()),
                running: state.is_some_and(|state| state.running.is_some()),
                restarts: status.map_or(0, |status| status.restart_count),
            }
        })
        .collect()
}

/// Reasons of waiting containers that are part of every start.
const USUAL: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// Returns what is wrong with a pod: why containers do not start or have failed, and why it has no
/// node.
pub fn troubles(pod: &Pod) -> Vec<String> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    if pod.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let mut found = Vec::new();
    let unscheduled = status.conditions.iter().flatten();
    let unscheduled = unscheduled.filter(|condition| {
        condition.type_ == "PodScheduled" && condition.reason.as_deref() == Some("Unschedulable")
    });
    found.extend(unscheduled.filter_map(|condition| condition.message.clone()));
    let all = [&status.init_container_statuses, &status.container_statuses];
    for status in all.into_iter().flat_map(|list| list.iter().flatten()) {
        let Some(state) = &status.state else {
            continue;
        };
        if let Some(waiting) = &state.waiting
            && let Some(reason) = &waiting.reason
            && !USUAL.contains(&reason.as_str())
        {
            found.push(described(&status.name, reason, waiting.message.as_deref()));
        }
        if let Some(ended) = &state.terminated
            && ended.exit_code != 0
        {
            let reason = ended.reason.as_deref().unwrap_or("Error");
            let reason = format!("{reason} (exit code {})", ended.exit_code);
            found.push(described(&status.name, &reason, ended.message.as_deref()));
        }
    }
    found
}

fn described(container: &str, reason: &str, message: Option<&str>) -> String {
    match message.filter(|message| !message.is_empty()) {
        Some(message) => format!("container {container}: {reason}: {message}"),
        None => format!("container {container}: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn pods_belong_to_what_has_made_them() {
        for (owner, expected) in [
            (json!(null), "Pod p"),
            (
                json!({"kind": "ReplicaSet", "name": "web-5f"}),
                "ReplicaSet web-5f, Deployment web",
            ),
            (
                json!({"kind": "Job", "name": "a-b-293"}),
                "Job a-b-293, CronJob a-b",
            ),
            (
                json!({"kind": "StatefulSet", "name": "db"}),
                "StatefulSet db",
            ),
        ] {
            let mut value = json!({"metadata": {"name": "p", "namespace": "n"}});
            if let Some(owner) = owner.as_object() {
                let mut owner = owner.clone();
                for (key, field) in [("uid", "u"), ("apiVersion", "v")] {
                    owner.insert(key.into(), field.into());
                }
                owner.insert("controller".into(), true.into());
                value["metadata"]["ownerReferences"] = json!([owner]);
            }
            let found = origins(&pod(value));
            assert!(found.iter().all(|workload| workload.namespace == "n"));
            let found: Vec<_> = found
                .iter()
                .map(|w| format!("{} {}", w.kind, w.name))
                .collect();
            assert_eq!(found.join(", "), expected);
        }
    }

    #[test]
    fn containers_have_their_states() {
        let pod = pod(json!({
            "metadata": {"name": "p"},
            "spec": {"initContainers": [{"name": "i", "image": "x"}], "containers": [{"name": "a", "image": "y:1"}]},
            "status": {"containerStatuses": [{
                "name": "a", "image": "docker.io/library/y:1", "imageID": "", "ready": true, "restartCount": 2,
                "containerID": "rkube://abc", "state": {"running": {}},
            }]},
        }));
        let found = containers(&pod);
        assert_eq!((found[0].name.as_str(), found[0].running), ("i", false));
        let a = &found[1];
        assert_eq!((a.image.as_str(), a.id.as_deref()), ("y:1", Some("abc")));
        assert_eq!((a.running, a.restarts), (true, 2));
        assert!(troubles(&pod).is_empty());
    }

    #[test]
    fn troubles_have_reasons() {
        let status = |state: Value| {
            let status = json!({"name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
            pod(json!({"metadata": {"name": "p"}, "status": {"containerStatuses": [status]}}))
        };
        for (state, expected) in [
            (json!({"waiting": {"reason": "ContainerCreating"}}), None),
            (
                json!({"waiting": {"reason": "ErrImagePull", "message": "gone"}}),
                Some("container a: ErrImagePull: gone"),
            ),
            (
                json!({"terminated": {"exitCode": 3, "reason": "Error"}}),
                Some("container a: Error (exit code 3)"),
            ),
            (
                json!({"terminated": {"exitCode": 0, "reason": "Completed"}}),
                None,
            ),
        ] {
            let found = troubles(&status(state));
            assert_eq!(found.first().map(String::as_str), expected);
        }
        let pending = pod(json!({"metadata": {"name": "p"}, "status": {"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"},
        ]}}));
        assert_eq!(troubles(&pending), ["0/1 nodes"]);
    }
}
