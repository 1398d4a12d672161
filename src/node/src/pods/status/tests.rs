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
        health: &|_| Health {
            started: true,
            ready: true,
        },
        node_ip: [10, 0, 0, 2].into(),
        pod_ip: Some([10, 244, 0, 5].into()),
        sandbox: Some("s"),
        terminal,
        failure: None,
        resizing,
        resources: &|i| i.resources.clone(),
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

    // The API has them now; the next status has not.
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
