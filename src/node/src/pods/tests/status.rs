//! Conditions and phases (`pkg/kubelet/status/generate_test.go`).

use std::collections::HashMap;

use rkube_runtime::ContainerState::{Exited, Running};

use super::super::instance::Instances;
use super::super::instance::testing::instance;
use super::super::status::{Facts, Health, Resizing, generate};
use super::pod;
use crate::kinds::*;

/// Generates the status of a pod whose containers are written as `NAME=STATE`: `ready`, `unready`
/// or `unstarted` for a running container, or an exit code.
fn status_of(spec: &str, states: &str, change: impl FnOnce(&mut Pod)) -> PodStatus {
    let mut pod = pod(spec);
    change(&mut pod);
    let mut instances = Instances::new();
    let mut health = HashMap::new();
    for word in states.split_whitespace() {
        let (name, state) = word.split_once('=').expect(word);
        let attempt = match state {
            "ready" | "unready" | "unstarted" => instance(name, "s", Running, 0),
            code => instance(name, "s", Exited, code.parse().expect(word)),
        };
        let of_container = Health {
            started: matches!(state, "ready" | "unready"),
            ready: state == "ready",
        };
        health.insert(name.to_owned(), of_container);
        instances.insert(name.to_owned(), vec![attempt]);
    }
    let over = states
        .split_whitespace()
        .all(|s| s.ends_with(|c: char| c.is_ascii_digit()));
    generate(&Facts {
        pod: &pod,
        instances: &instances,
        waiting: &HashMap::new(),
        resets: &HashMap::new(),
        health: &|name| health.get(name).copied().unwrap_or_default(),
        node_ips: vec![[10, 0, 0, 2].into()],
        pod_ips: vec![[10, 244, 0, 5].into()],
        sandbox: Some("s"),
        terminal: over && !states.is_empty() && pod.restart_policy() == "Never",
        failure: None,
        is_disrupted: false,
        resizing: Resizing::default(),
        resources: &|_| None,
        devices: &|_| Vec::new(),
        now: Time(jiff::Timestamp::UNIX_EPOCH),
    })
}

/// Returns a condition as `STATUS`, `STATUS reason` or `STATUS reason: message`.
fn condition(status: &PodStatus, name: &str) -> String {
    let found = status.conditions.iter().flatten().find(|c| c.type_ == name);
    let c = found.unwrap_or_else(|| panic!("no condition {name}"));
    match (&c.reason, &c.message) {
        (None, _) => c.status.clone(),
        (Some(reason), None) => format!("{} {reason}", c.status),
        (Some(reason), Some(message)) => format!("{} {reason}: {message}", c.status),
    }
}

/// `TestGenerateContainersReadyCondition`.
#[test]
fn containers_ready() {
    let two = r#""containers": [{"name": "a"}, {"name": "b"}]"#;
    let sidecar = r#""initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}]"#;
    for (spec, states, want) in [
        (r#""containers": []"#, "", "True"),
        (two, "a=ready b=ready", "True"),
        (
            two,
            "a=ready b=unready",
            "False ContainersNotReady: containers with unready status: [b]",
        ),
        (
            two,
            "",
            "False ContainersNotReady: containers with unready status: [a b]",
        ),
        (
            two,
            "a=ready b=1",
            "False ContainersNotReady: containers with unready status: [b]",
        ),
        (sidecar, "s=ready a=ready", "True"),
        (
            sidecar,
            "s=unready a=ready",
            "False ContainersNotReady: containers with unready status: [s]",
        ),
        (
            sidecar,
            "s=ready",
            "False ContainersNotReady: containers with unready status: [a]",
        ),
        // Pods that have ended.
        (
            r#""restartPolicy": "Never", "containers": [{"name": "a"}]"#,
            "a=0",
            "False PodCompleted",
        ),
        (
            r#""restartPolicy": "Never", "containers": [{"name": "a"}]"#,
            "a=1",
            "False PodFailed",
        ),
    ] {
        let status = status_of(&format!("{{{spec}}}"), states, |_| {});
        assert_eq!(
            condition(&status, "ContainersReady"),
            want,
            "{spec} {states}"
        );
        assert_eq!(condition(&status, "Ready"), want, "{spec} {states}");
    }
}

/// `TestGeneratePodReadyCondition` with readiness gates: conditions of the status, as
/// `NAME=STATUS`.
#[test]
fn readiness_gates() {
    let message = |text: &str| format!("False ReadinessGatesNotReady: {text}");
    let missing = |name: &str| {
        format!("corresponding condition of pod readiness gate {name:?} does not exist.")
    };
    for (states, conditions, want) in [
        ("a=ready", "g1=True g2=True", "True".to_owned()),
        (
            "a=ready",
            "",
            message(&format!("{}, {}", missing("g1"), missing("g2"))),
        ),
        ("a=ready", "g1=True", message(&missing("g2"))),
        (
            "a=ready",
            "g1=True g2=False",
            message("the status of pod readiness gate \"g2\" is not \"True\", but False"),
        ),
        (
            "a=ready",
            "g1=Unknown g2=True",
            message("the status of pod readiness gate \"g1\" is not \"True\", but Unknown"),
        ),
        // Containers come first.
        (
            "a=unready",
            "g1=False",
            "False ContainersNotReady: containers with unready status: [a]".to_owned(),
        ),
    ] {
        let spec = r#"{"containers": [{"name": "a"}], "readinessGates": [{"conditionType": "g1"}, {"conditionType": "g2"}]}"#;
        let status = status_of(spec, states, |pod| {
            let conditions = conditions.split_whitespace().map(|word| {
                let (name, status) = word.split_once('=').expect(word);
                PodCondition {
                    type_: name.into(),
                    status: status.into(),
                    ..Default::default()
                }
            });
            pod.status = Some(PodStatus {
                conditions: Some(conditions.collect()),
                ..Default::default()
            });
        });
        assert_eq!(condition(&status, "Ready"), want, "{states} {conditions}");
    }
}

/// `TestGeneratePodInitializedCondition`.
#[test]
fn initialized() {
    let spec = r#"{"restartPolicy": "Never", "initContainers": [{"name": "i"},
        {"name": "s", "restartPolicy": "Always"}, {"name": "j"}], "containers": [{"name": "a"}]}"#;
    let incomplete = |names: &str| {
        format!("False ContainersNotInitialized: containers with incomplete status: [{names}]")
    };
    for (states, want) in [
        ("", incomplete("i s j")),
        ("i=ready", incomplete("i s j")),
        ("i=0", incomplete("s j")),
        ("i=1", incomplete("i s j")),
        // A sidecar is complete when it has started, ready or not.
        ("i=0 s=unstarted", incomplete("s j")),
        ("i=0 s=unready", incomplete("j")),
        ("i=0 s=unready j=0", "True".to_owned()),
        ("i=0 s=ready j=0 a=ready", "True".to_owned()),
        // Once the main containers have started it stays so.
        ("i=0 s=unstarted j=0 a=ready", "True".to_owned()),
        ("a=ready", "True".to_owned()),
        ("i=0 s=0 j=0 a=0", "True PodCompleted".to_owned()),
    ] {
        let status = status_of(spec, states, |_| {});
        assert_eq!(condition(&status, "Initialized"), want, "{states}");
    }
    let plain = status_of(r#"{"containers": [{"name": "a"}]}"#, "", |_| {});
    assert_eq!(condition(&plain, "Initialized"), "True");
}

/// `TestPodPhaseWithRestartNeverRestartableInitContainers` and its likes: policy of the pod, states,
/// phase. `s` is a sidecar, `i` an init container.
#[test]
fn phases() {
    for (policy, states, phase) in [
        ("Always", "", "Pending"),
        ("Always", "s=ready", "Pending"),
        ("Always", "s=ready i=ready", "Pending"),
        ("Always", "s=ready i=1", "Pending"),
        ("Always", "s=ready i=0 a=ready b=ready", "Running"),
        ("Always", "s=ready i=0 a=ready b=1", "Running"),
        ("Always", "s=ready i=0 a=0 b=0", "Running"),
        ("OnFailure", "s=ready i=0 a=0 b=1", "Running"),
        ("OnFailure", "s=ready i=1", "Pending"),
        ("Never", "s=ready i=1", "Failed"),
        ("Never", "s=ready i=0 a=ready b=1", "Running"),
        ("Never", "s=0 i=0 a=0 b=0", "Succeeded"),
        ("Never", "s=0 i=0 a=0 b=1", "Failed"),
        // The exit codes of sidecars do not decide the phase of the pod.
        ("Never", "s=137 i=0 a=0 b=0", "Succeeded"),
    ] {
        let spec = format!(
            r#"{{"restartPolicy": "{policy}", "initContainers": [{{"name": "s", "restartPolicy": "Always"}},
                {{"name": "i"}}], "containers": [{{"name": "a"}}, {{"name": "b"}}]}}"#
        );
        let status = status_of(&spec, states, |_| {});
        assert_eq!(status.phase.as_deref(), Some(phase), "{policy} {states}");
    }
}
