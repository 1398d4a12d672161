use rkube_runtime::ContainerState as State;

use std::collections::HashMap;

use super::super::instance::Instance;
use super::super::reason::Reason;
use super::*;

fn pod(policy: &str) -> Pod {
    Pod {
        metadata: ObjectMeta {
            uid: Some("u".into()),
            generation: Some(1),
            ..Default::default()
        },
        spec: Some(PodSpec {
            restart_policy: Some(policy.into()),
            containers: vec![Container {
                name: "c".into(),
                image: Some("img".into()),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn instance(state: State, exit_code: i32, attempt: u32) -> Instance {
    Instance {
        id: format!("id{attempt}"),
        sandbox_id: "s".into(),
        name: "c".into(),
        attempt,
        state,
        image: "img:latest".into(),
        image_ref: "img@sha256:1".into(),
        hash: None,
        resources: None,
        created_at: jiff::Timestamp::UNIX_EPOCH,
        started_at: Some(jiff::Timestamp::UNIX_EPOCH),
        finished_at: Some(jiff::Timestamp::UNIX_EPOCH),
        ended: None,
        exit_code,
        reason: String::new(),
        message: String::new(),
        user: Default::default(),
    }
}

fn status(
    pod: &Pod,
    attempts: Vec<Instance>,
    waiting: &[(&str, &str)],
    terminal: bool,
) -> PodStatus {
    status_of(pod, attempts, waiting, terminal, Resizing::default())
}

fn status_of(
    pod: &Pod,
    attempts: Vec<Instance>,
    waiting: &[(&str, &str)],
    terminal: bool,
    resizing: Resizing,
) -> PodStatus {
    let mut instances = Instances::new();
    if !attempts.is_empty() {
        instances.insert("c".into(), attempts);
    }
    let waiting = waiting
        .iter()
        .map(|(reason, message)| ("c".to_owned(), Reason::new(*reason, *message)))
        .collect::<HashMap<_, _>>();
    generate(&Facts {
        pod,
        instances: &instances,
        waiting: &waiting,
        resets: &HashMap::new(),
        health: &|_| Health {
            started: true,
            ready: true,
        },
        node_ips: vec![[10, 0, 0, 2].into()],
        pod_ips: vec![[10, 244, 0, 5].into()],
        sandbox: Some("s"),
        terminal,
        failure: None,
        is_disrupted: false,
        resizing,
        resources: &|i| i.resources.clone(),
        devices: &|_| Vec::new(),
        now: Time(jiff::Timestamp::UNIX_EPOCH),
    })
}

fn condition<'a>(s: &'a PodStatus, type_: &str) -> &'a PodCondition {
    s.conditions
        .as_ref()
        .unwrap()
        .iter()
        .find(|c| c.type_ == type_)
        .unwrap()
}

#[test]
fn from_pending_to_running() {
    let p = pod("Always");
    let s = status(&p, vec![], &[], false);
    assert_eq!(s.phase.as_deref(), Some("Pending"));
    let c = &s.container_statuses.as_ref().unwrap()[0];
    let waiting = c.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("ContainerCreating"));
    assert_eq!(
        condition(&s, "Ready").message.as_deref(),
        Some("containers with unready status: [c]")
    );
    let s = status(&p, vec![instance(State::Running, 0, 0)], &[], false);
    assert_eq!(s.phase.as_deref(), Some("Running"));
    assert_eq!(condition(&s, "Ready").status, "True");
    let c = &s.container_statuses.as_ref().unwrap()[0];
    assert!(c.ready && c.started == Some(true));
    assert_eq!(c.container_id.as_deref(), Some("rkube://id0"));
}

#[test]
fn a_crash_loop_shows_the_last_end() {
    let s = status(
        &pod("Always"),
        vec![instance(State::Exited, 1, 3)],
        &[("CrashLoopBackOff", "back-off 10s …")],
        false,
    );
    assert_eq!(s.phase.as_deref(), Some("Running"));
    let c = &s.container_statuses.as_ref().unwrap()[0];
    assert_eq!(c.restart_count, 3);
    assert!(c.state.as_ref().unwrap().waiting.is_some());
    let last = c.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (1, Some("Error")));
}

#[test]
fn final_phases() {
    for (policy, code, terminal, phase) in [
        ("Never", 0, false, "Succeeded"),
        ("Never", 1, false, "Failed"),
        ("OnFailure", 1, false, "Running"),
        ("Always", 0, false, "Running"),
        ("Always", 0, true, "Succeeded"),
        ("Always", 137, true, "Failed"),
    ] {
        let s = status(
            &pod(policy),
            vec![instance(State::Exited, code, 0)],
            &[],
            terminal,
        );
        assert_eq!(
            s.phase.as_deref(),
            Some(phase),
            "{policy} {code} {terminal}"
        );
    }
    let s = status(
        &pod("Never"),
        vec![instance(State::Exited, 0, 0)],
        &[],
        true,
    );
    assert_eq!(
        condition(&s, "Ready").reason.as_deref(),
        Some("PodCompleted")
    );
    assert_eq!(condition(&s, "Initialized").status, "True");
}

#[test]
fn readiness_gates_hold_the_pod_back() {
    let mut p = pod("Always");
    p.spec.as_mut().unwrap().readiness_gates =
        Some(vec![k8s_openapi::api::core::v1::PodReadinessGate {
            condition_type: "x/y".into(),
        }]);
    let s = status(&p, vec![instance(State::Running, 0, 0)], &[], false);
    let ready = condition(&s, "Ready");
    assert_eq!(ready.reason.as_deref(), Some("ReadinessGatesNotReady"));
    assert_eq!(
        ready.message.as_deref(),
        Some("corresponding condition of pod readiness gate \"x/y\" does not exist.")
    );
    assert_eq!(condition(&s, "ContainersReady").status, "True");
}

#[test]
fn patches_say_only_what_changed() {
    let p = pod("Always");
    let pending = status(&p, vec![], &[], false);
    let running = status(&p, vec![instance(State::Running, 0, 0)], &[], false);
    assert!(patch("u", Some(&running), &running).is_none());
    let change = patch("u", Some(&pending), &running).unwrap();
    assert_eq!(change["metadata"]["uid"], "u");
    assert_eq!(change["status"]["phase"], "Running");
    assert!(change["status"].get("hostIP").is_none());
    let ready = change["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["type"] == "Ready")
        .unwrap();
    assert!(ready["reason"].is_null() && ready.get("reason").is_some());
    let mut moved = running.clone();
    moved.pod_ips = Some(vec![PodIP {
        ip: "10.244.0.9".into(),
    }]);
    let change = patch("u", Some(&running), &moved).unwrap();
    assert_eq!(
        change["status"]["podIPs"],
        serde_json::json!([{"ip": "10.244.0.9"}, {"$patch": "delete", "ip": "10.244.0.5"}])
    );
}

#[test]
fn a_change_of_resources_is_told_and_forgotten() {
    let of = |cpu: &str| ResourceRequirements {
        requests: Some([("cpu".to_owned(), Quantity(cpu.into()))].into()),
        ..Default::default()
    };
    let mut p = pod("Always");
    p.spec.as_mut().unwrap().containers[0].resources = Some(of("2"));
    let mut c = instance(State::Running, 0, 0);
    c.resources = Some(of("1"));
    let shown = |resizing: Resizing| status_of(&p, vec![c.clone()], &[], false, resizing);
    let calm = shown(Resizing::default());
    let told = &calm.container_statuses.as_ref().unwrap()[0];
    assert_eq!(told.allocated_resources, of("2").requests);
    assert_eq!(told.resources.as_ref(), Some(&of("1")), "what it runs with");

    let under_way = shown(Resizing {
        pending: Some(("Deferred".into(), "later".into())),
        in_progress: Some(Some("busy".into())),
    });
    let pending = condition(&under_way, "PodResizePending");
    assert_eq!(pending.reason.as_deref(), Some("Deferred"));
    let progress = condition(&under_way, "PodResizeInProgress");
    assert_eq!(progress.reason.as_deref(), Some("Error"));
    assert_eq!(progress.message.as_deref(), Some("busy"));
    let change = patch("u", Some(&calm), &under_way).unwrap();
    assert_eq!(
        change["status"]["conditions"].as_array().map(Vec::len),
        Some(2)
    );

    // The API already has them; the next status must not.
    let mut known = p.clone();
    known.status = Some(under_way.clone());
    let over = status_of(&known, vec![c.clone()], &[], false, Resizing::default());
    let change = patch("u", Some(&under_way), &over).unwrap();
    assert_eq!(
        change["status"]["conditions"],
        serde_json::json!([
            {"$patch": "delete", "type": "PodResizePending"},
            {"$patch": "delete", "type": "PodResizeInProgress"},
        ])
    );
}

/// Returns the status of a pod that the node failed.
fn failed(pod: &Pod, attempts: Vec<Instance>, failure: &Reason) -> PodStatus {
    generate(&Facts {
        pod,
        instances: &[("c".to_owned(), attempts)].into(),
        waiting: &HashMap::new(),
        resets: &HashMap::new(),
        health: &|_| Health::default(),
        node_ips: vec![[10, 0, 0, 2].into()],
        pod_ips: vec![],
        sandbox: None,
        terminal: true,
        failure: Some(failure),
        is_disrupted: failure.reason == "Evicted",
        resizing: Resizing::default(),
        resources: &|_| None,
        devices: &|_| Vec::new(),
        now: Time(jiff::Timestamp::UNIX_EPOCH),
    })
}

#[test]
fn an_evicted_pod_has_failed_by_a_disruption() {
    let evicted = Reason::new("Evicted", "The node was low on resource: memory. ");
    let s = failed(
        &pod("Always"),
        vec![instance(State::Exited, 137, 0)],
        &evicted,
    );
    assert_eq!(s.phase.as_deref(), Some("Failed"));
    assert_eq!(s.reason.as_deref(), Some("Evicted"));
    let disrupted = condition(&s, "DisruptionTarget");
    assert_eq!(disrupted.status, "True");
    assert_eq!(disrupted.reason.as_deref(), Some("TerminationByKubelet"));
    assert_eq!(disrupted.message, s.message);
    assert_eq!(condition(&s, "PodReadyToStartContainers").status, "False");
    assert_eq!(condition(&s, "Ready").reason.as_deref(), Some("PodFailed"));
    let patched = patch("u", None, &s).unwrap();
    let types: Vec<&str> = patched["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|c| c["type"].as_str())
        .collect();
    assert!(types.contains(&"DisruptionTarget"), "{types:?}");
}

#[test]
fn a_rejected_pod_is_not_disrupted() {
    let rejected = Reason::new("OutOfcpu", "Pod was rejected: no CPU");
    let s = failed(&pod("Always"), vec![], &rejected);
    assert_eq!(s.phase.as_deref(), Some("Failed"));
    assert_eq!(s.message.as_deref(), Some("Pod was rejected: no CPU"));
    let conditions = s.conditions.unwrap();
    assert!(conditions.iter().all(|c| c.type_ != "DisruptionTarget"));
}

#[test]
fn a_final_phase_stays() {
    let mut p = pod("Always");
    p.status = Some(PodStatus {
        phase: Some("Succeeded".into()),
        ..Default::default()
    });
    let s = status(&p, vec![instance(State::Running, 0, 0)], &[], false);
    assert_eq!(s.phase.as_deref(), Some("Succeeded"));
}

/// Returns a pod whose container has this state in the API.
fn known_as(state: ContainerState) -> Pod {
    let mut p = pod("Always");
    p.status = Some(PodStatus {
        container_statuses: Some(vec![ContainerStatus {
            name: "c".into(),
            restart_count: 4,
            container_id: Some("rkube://old".into()),
            state: Some(state),
            ..Default::default()
        }]),
        ..Default::default()
    });
    p
}

#[test]
fn a_container_without_trace_is_unknown() {
    let p = known_as(ContainerState {
        running: Some(ContainerStateRunning::default()),
        ..Default::default()
    });
    let s = status(&p, vec![], &[], false);
    let c = &s.container_statuses.as_ref().unwrap()[0];
    assert_eq!(c.restart_count, 4);
    assert!(c.state.as_ref().unwrap().waiting.is_some());
    let last = c.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!(last.exit_code, 137);
    assert_eq!(last.reason.as_deref(), Some("ContainerStatusUnknown"));
    let over = status(&p, vec![], &[], true);
    let c = &over.container_statuses.as_ref().unwrap()[0];
    assert!(c.state.as_ref().unwrap().terminated.is_some());
}

#[test]
fn the_end_of_a_removed_container_is_kept() {
    let ended = ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: 3,
            ..Default::default()
        }),
        ..Default::default()
    };
    let s = status(&known_as(ended.clone()), vec![], &[], false);
    let c = &s.container_statuses.as_ref().unwrap()[0];
    assert_eq!(c.state.as_ref(), Some(&ended));
    assert_eq!(c.container_id.as_deref(), Some("rkube://old"));
}

#[test]
fn ends_have_reasons_and_messages() {
    let end = |exit_code, reason: &str, message: &str| {
        let i = Instance {
            reason: reason.into(),
            message: message.into(),
            ..instance(State::Exited, exit_code, 0)
        };
        let s = status(&pod("Never"), vec![i], &[], false);
        let state = s.container_statuses.unwrap().remove(0).state.unwrap();
        let t = state.terminated.unwrap();
        (t.reason.unwrap(), t.message)
    };
    assert_eq!(end(0, "", ""), ("Completed".into(), None));
    assert_eq!(end(1, "", "m"), ("Error".into(), Some("m".into())));
    assert_eq!(end(137, "OOMKilled", ""), ("OOMKilled".into(), None));
}

#[test]
fn earlier_attempts_are_the_last_state() {
    let attempts = vec![
        instance(State::Exited, 1, 0),
        instance(State::Running, 0, 1),
    ];
    let s = status(&pod("Always"), attempts, &[], false);
    let c = &s.container_statuses.as_ref().unwrap()[0];
    assert_eq!(c.restart_count, 1);
    let last = c.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!(last.container_id.as_deref(), Some("rkube://id0"));
}

#[test]
fn init_containers_are_incomplete_until_they_succeed() {
    let mut p = pod("Always");
    p.spec.as_mut().unwrap().init_containers = Some(vec![Container {
        name: "i".into(),
        ..Default::default()
    }]);
    let s = status(&p, vec![], &[], false);
    let c = &s.container_statuses.as_ref().unwrap()[0];
    let waiting = c.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("PodInitializing"));
    let initialized = condition(&s, "Initialized");
    assert_eq!(initialized.status, "False");
    assert_eq!(
        initialized.message.as_deref(),
        Some("containers with incomplete status: [i]")
    );
    // Initialization is complete, though the init container was removed.
    let s = status(&p, vec![instance(State::Running, 0, 0)], &[], false);
    assert_eq!(condition(&s, "Initialized").status, "True");
    let i = &s.init_container_statuses.as_ref().unwrap()[0];
    let end = i.state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!(
        (end.exit_code, end.reason.as_deref()),
        (0, Some("Completed"))
    );
}

#[test]
fn a_transition_keeps_its_time() {
    let mut p = pod("Always");
    let mut old = status(&p, vec![instance(State::Running, 0, 0)], &[], false);
    for c in old.conditions.iter_mut().flatten() {
        c.last_transition_time = Some(Time(jiff::Timestamp::from_second(-5).unwrap()));
    }
    p.status = Some(old);
    let s = status(&p, vec![instance(State::Exited, 1, 0)], &[], false);
    let second = |type_: &str| {
        let c = condition(&s, type_);
        c.last_transition_time.as_ref().unwrap().0.as_second()
    };
    assert_eq!(second("Initialized"), -5);
    assert_eq!(second("Ready"), 0);
}

#[test]
fn conditions_of_others_are_kept() {
    let mut p = pod("Always");
    p.status = Some(PodStatus {
        conditions: Some(vec![PodCondition {
            type_: "x/gate".into(),
            status: "True".into(),
            ..Default::default()
        }]),
        ..Default::default()
    });
    let s = status(&p, vec![], &[], false);
    assert_eq!(condition(&s, "x/gate").status, "True");
    let change = patch("u", p.status.as_ref(), &s).unwrap();
    let conditions = change["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().all(|c| c["type"] != "x/gate"), "{change}");
}

#[test]
fn mounts_and_users_are_shown() {
    let mut p = pod("Always");
    p.spec.as_mut().unwrap().containers[0].volume_mounts = Some(vec![
        VolumeMount {
            name: "a".into(),
            mount_path: "/a".into(),
            read_only: Some(true),
            recursive_read_only: Some("IfPossible".into()),
            ..Default::default()
        },
        VolumeMount {
            name: "b".into(),
            mount_path: "/b".into(),
            ..Default::default()
        },
    ]);
    let mut i = instance(State::Running, 0, 0);
    i.user.uid = 7;
    i.user.gid = 8;
    i.user.groups = vec![9];
    let s = status(&p, vec![i], &[], false);
    let c = &s.container_statuses.as_ref().unwrap()[0];
    let mounts = c.volume_mounts.as_ref().unwrap();
    assert_eq!(mounts[0].recursive_read_only.as_deref(), Some("Enabled"));
    assert_eq!(mounts[1].read_only, None);
    let user = c.user.as_ref().unwrap().linux.as_ref().unwrap();
    assert_eq!((user.uid, user.gid), (7, 8));
    assert_eq!(user.supplemental_groups, Some(vec![8, 9]));
}

#[test]
fn pods_that_start_over_say_so() {
    use k8s_openapi::api::core::v1::{ContainerRestartRule, ContainerRestartRuleOnExitCodes};
    let mut pod = Pod {
        spec: Some(PodSpec {
            restart_policy: Some("Never".into()),
            containers: vec![Container {
                name: "c".into(),
                restart_policy: Some("Never".into()),
                restart_policy_rules: Some(vec![ContainerRestartRule {
                    action: "RestartAllContainers".into(),
                    exit_codes: Some(ContainerRestartRuleOnExitCodes {
                        operator: "In".into(),
                        values: Some(vec![42]),
                    }),
                }]),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    };
    let facts = |pod: &Pod, instances: &Instances, resets: &HashMap<String, u32>| {
        generate(&Facts {
            pod,
            instances,
            waiting: &HashMap::new(),
            resets,
            health: &|_| Health::default(),
            node_ips: vec![[1, 2, 3, 4].into()],
            pod_ips: vec![],
            sandbox: Some("s"),
            terminal: false,
            failure: None,
            is_disrupted: false,
            resizing: Resizing::default(),
            resources: &|_| None,
            devices: &|_| Vec::new(),
            now: now(),
        })
    };
    let restarting = |status: &PodStatus| {
        let conditions = status.conditions.as_ref().unwrap();
        let found = conditions
            .iter()
            .find(|c| c.type_ == "AllContainersRestarting");
        found.map(|c| (c.status.clone(), c.reason.clone()))
    };
    let one = |instance: Instance| Instances::from([("c".to_owned(), vec![instance])]);
    let exited = one(instance(State::Exited, 42, 0));
    let status = facts(&pod, &exited, &HashMap::new());
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(
        restarting(&status),
        Some(("True".into(), Some("RestartAllContainersStarted".into())))
    );
    // Removed, not yet created again.
    pod.status = Some(status);
    let resets = HashMap::from([("c".to_owned(), 1)]);
    let status = facts(&pod, &Instances::new(), &resets);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(restarting(&status), Some(("False".into(), None)));
    let a = &status.container_statuses.as_ref().unwrap()[0];
    let waiting = a.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("RestartingAllContainers"));
    let last = |status: &ContainerStatus| {
        let last = status.last_state.as_ref().unwrap().terminated.clone();
        last.map(|t| (t.exit_code, t.reason.unwrap_or_default()))
    };
    let ended = Some((137, "RestartingAllContainers".to_owned()));
    assert_eq!((a.restart_count, last(a)), (1, ended.clone()));
    // Created again; also if the agent was restarted meanwhile.
    pod.status = Some(status);
    let again = one(instance(State::Running, 0, 1));
    for resets in [resets, HashMap::new()] {
        let status = facts(&pod, &again, &resets);
        let a = &status.container_statuses.as_ref().unwrap()[0];
        assert_eq!((a.restart_count, last(a)), (1, ended.clone()));
    }
}
