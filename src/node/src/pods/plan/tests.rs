use std::collections::HashSet;

use rkube_runtime::ContainerState as State;

use super::super::instance::Instances;
use super::super::instance::testing::instance;
use super::*;

#[derive(Default)]
struct Probes {
    not_started: Vec<&'static str>,
    failed: Vec<(&'static str, &'static str)>,
}

impl ProbeView for Probes {
    fn started(&self, container: &str) -> bool {
        !self.not_started.contains(&container)
    }
    fn failed(&self, container: &str) -> Option<&'static str> {
        self.failed
            .iter()
            .find(|(c, _)| *c == container)
            .map(|(_, p)| *p)
    }
}

fn container(name: &str) -> Container {
    Container {
        name: name.into(),
        ..Default::default()
    }
}

fn pod(policy: &str, init: &[Container], main: &[&str]) -> Pod {
    Pod {
        spec: Some(PodSpec {
            restart_policy: Some(policy.into()),
            init_containers: Some(init.to_vec()),
            containers: main.iter().map(|n| container(n)).collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn instances(list: &[(&str, State, i32)]) -> Instances {
    let mut all = Instances::new();
    for (name, state, code) in list {
        all.entry((*name).into())
            .or_default()
            .push(instance(name, "s", *state, *code));
    }
    all
}

fn sandbox() -> SandboxView {
    SandboxView {
        id: "s".into(),
        attempt: 0,
        ready: true,
    }
}

fn run(pod: &Pod, sandbox: Option<&SandboxView>, instances: &Instances, probes: &Probes) -> Plan {
    plan(&Observed {
        pod,
        sandbox,
        instances,
        probes,
        busy: &HashSet::new(),
        resize: &HashSet::new(),
    })
}

fn calm(pod: &Pod, list: &[(&str, State, i32)]) -> Plan {
    run(pod, Some(&sandbox()), &instances(list), &Probes::default())
}

use State::{Exited, Running};

#[test]
fn a_new_pod_gets_a_sandbox_then_its_containers() {
    let p = pod("Always", &[], &["a", "b"]);
    assert_eq!(
        run(&p, None, &Instances::new(), &Probes::default()).create_sandbox,
        Some(0)
    );
    assert_eq!(calm(&p, &[]).start, ["a", "b"]);
    assert_eq!(calm(&p, &[("a", Running, 0)]).start, ["b"]);
    assert_eq!(
        calm(&p, &[("a", Running, 0), ("b", Running, 0)]),
        Plan::default()
    );
}

#[test]
fn restart_policies() {
    for (policy, code, again) in [
        ("Always", 0, true),
        ("OnFailure", 0, false),
        ("OnFailure", 1, true),
        ("Never", 1, false),
    ] {
        let plan = calm(&pod(policy, &[], &["a"]), &[("a", Exited, code)]);
        assert_eq!(plan.finished, !again, "{policy} {code}");
        assert_eq!(!plan.start.is_empty(), again, "{policy} {code}");
    }
    // The pod continues while one container is still running.
    let p = pod("Never", &[], &["a", "b"]);
    assert_eq!(
        calm(&p, &[("a", Exited, 0), ("b", Running, 0)]),
        Plan::default()
    );
}

#[test]
fn a_containers_own_rules_come_first() {
    let mut p = pod("Never", &[], &["a"]);
    let c = &mut p.spec.as_mut().unwrap().containers[0];
    c.restart_policy = Some("Never".into());
    c.restart_policy_rules = Some(vec![k8s_openapi::api::core::v1::ContainerRestartRule {
        action: "Restart".into(),
        exit_codes: Some(
            k8s_openapi::api::core::v1::ContainerRestartRuleOnExitCodes {
                operator: "In".into(),
                values: Some(vec![42]),
            },
        ),
    }]);
    assert_eq!(calm(&p, &[("a", Exited, 42)]).start, ["a"]);
    assert!(calm(&p, &[("a", Exited, 1)]).finished);
}

#[test]
fn init_containers_run_one_after_the_other() {
    let p = pod("Always", &[container("i"), container("j")], &["a"]);
    assert_eq!(calm(&p, &[]).start, ["i"]);
    assert_eq!(calm(&p, &[("i", Running, 0)]), Plan::default());
    assert_eq!(calm(&p, &[("i", Exited, 0)]).start, ["j"]);
    assert_eq!(calm(&p, &[("i", Exited, 3)]).start, ["i"]);
    assert_eq!(calm(&p, &[("i", Exited, 0), ("j", Exited, 0)]).start, ["a"]);
    let never = pod("Never", &[container("i")], &["a"]);
    assert!(calm(&never, &[("i", Exited, 3)]).finished);
    // Once the main containers have started, init containers are ignored, even if removed.
    assert_eq!(calm(&p, &[("a", Running, 0)]), Plan::default());
}

#[test]
fn sidecars_start_in_order_and_stay() {
    let mut side = container("s1");
    side.restart_policy = Some("Always".into());
    let p = pod("Never", &[side, container("i")], &["a"]);
    let waiting = Probes {
        not_started: vec!["s1"],
        ..Default::default()
    };
    let s = sandbox();
    let running = instances(&[("s1", Running, 0)]);
    assert_eq!(run(&p, Some(&s), &running, &waiting), Plan::default());
    assert_eq!(calm(&p, &[("s1", Running, 0)]).start, ["i"]);
    // A sidecar that exits is restarted regardless of the pod's restart policy.
    assert_eq!(
        calm(
            &p,
            &[("s1", Exited, 1), ("i", Exited, 0), ("a", Running, 0)]
        )
        .start,
        ["s1"]
    );
    // Sidecars end with the main containers.
    assert!(
        calm(
            &p,
            &[("s1", Running, 0), ("i", Exited, 0), ("a", Exited, 0)]
        )
        .finished
    );
}

#[test]
fn failed_probes_and_changed_images_stop_containers() {
    let p = pod("Always", &[], &["a"]);
    let probes = Probes {
        failed: vec![("a", "liveness")],
        ..Default::default()
    };
    let s = sandbox();
    let plan = run(&p, Some(&s), &instances(&[("a", Running, 0)]), &probes);
    assert_eq!(
        plan.kill[0].message,
        "Container a failed liveness probe, will be restarted"
    );
    let mut changed = instances(&[("a", Running, 0)]);
    changed.get_mut("a").unwrap()[0].hash = Some("other".into());
    let plan = run(&p, Some(&s), &changed, &Probes::default());
    assert_eq!(
        plan.kill[0].message,
        "Container a definition changed, will be restarted"
    );
}

#[test]
fn a_lost_sandbox_is_made_again_unless_the_pod_is_over() {
    let lost = SandboxView {
        ready: false,
        ..sandbox()
    };
    let again = |policy: &str, state, code| {
        run(
            &pod(policy, &[], &["a"]),
            Some(&lost),
            &instances(&[("a", state, code)]),
            &Probes::default(),
        )
    };
    assert_eq!(again("Always", Exited, 0).create_sandbox, Some(1));
    assert!(again("Never", Exited, 0).finished);
    assert!(again("OnFailure", Exited, 0).finished);
    assert_eq!(again("OnFailure", Exited, 1).create_sandbox, Some(1));
    assert_eq!(
        run(
            &pod("Never", &[], &["a"]),
            Some(&lost),
            &Instances::new(),
            &Probes::default()
        )
        .create_sandbox,
        Some(1)
    );
}

#[test]
fn ephemeral_containers_run_once() {
    let mut p = pod("Always", &[], &["a"]);
    p.spec.as_mut().unwrap().ephemeral_containers = Some(vec![EphemeralContainer {
        name: "debug".into(),
        ..Default::default()
    }]);
    assert_eq!(calm(&p, &[("a", Running, 0)]).start, ["debug"]);
    assert_eq!(
        calm(&p, &[("a", Running, 0), ("debug", Exited, 0)]),
        Plan::default()
    );
}

#[test]
fn a_resize_may_take_a_restart() {
    let p = pod("Always", &[], &["a", "b"]);
    let plan = plan(&Observed {
        pod: &p,
        sandbox: Some(&sandbox()),
        instances: &instances(&[("a", Running, 0), ("b", Running, 0)]),
        probes: &Probes::default(),
        busy: &HashSet::new(),
        resize: &["b".to_owned()].into(),
    });
    let messages: Vec<&str> = plan.kill.iter().map(|k| k.message.as_str()).collect();
    assert_eq!(messages, ["Container b resize requires restart"]);
}

#[test]
fn hashes_name_the_definition() {
    let image = |name: &str, image: &str| Container {
        image: Some(image.into()),
        ..container(name)
    };
    let base = hash(&image("a", "nginx"));
    assert_eq!(base, hash(&image("a", "nginx")));
    assert_ne!(base, hash(&image("a", "nginx:1")));
    assert_ne!(base, hash(&image("b", "nginx")));
    // Name and image are hashed with a separator.
    assert_ne!(hash(&image("ab", "c")), hash(&image("a", "bc")));
}

#[test]
fn busy_containers_are_left_alone() {
    let p = pod("Never", &[], &["a"]);
    let plan = plan(&Observed {
        pod: &p,
        sandbox: Some(&sandbox()),
        instances: &instances(&[("a", Exited, 0)]),
        probes: &Probes::default(),
        busy: &["a".to_owned()].into(),
        resize: &HashSet::new(),
    });
    assert_eq!(plan, Plan::default());
}

#[test]
fn a_busy_init_container_holds_the_others_back() {
    let p = pod("Always", &[container("i"), container("j")], &["a"]);
    let plan = plan(&Observed {
        pod: &p,
        sandbox: Some(&sandbox()),
        instances: &Instances::new(),
        probes: &Probes::default(),
        busy: &["i".to_owned()].into(),
        resize: &HashSet::new(),
    });
    assert_eq!(plan, Plan::default());
}

#[test]
fn rules_may_exclude_exit_codes() {
    let mut c = container("a");
    c.restart_policy = Some("Never".into());
    c.restart_policy_rules = Some(vec![k8s_openapi::api::core::v1::ContainerRestartRule {
        action: "Restart".into(),
        exit_codes: Some(
            k8s_openapi::api::core::v1::ContainerRestartRuleOnExitCodes {
                operator: "NotIn".into(),
                values: Some(vec![0, 2]),
            },
        ),
    }]);
    let p = pod("Always", &[], &[]);
    for (code, again) in [(0, false), (1, true), (2, false), (137, true)] {
        assert_eq!(restarts(&p, &c, code), again, "{code}");
    }
}

#[test]
fn probes_of_a_pod_that_never_restarts() {
    let p = pod("Never", &[], &["a"]);
    let probes = Probes {
        failed: vec![("a", "startup")],
        ..Default::default()
    };
    let plan = run(
        &p,
        Some(&sandbox()),
        &instances(&[("a", Running, 0)]),
        &probes,
    );
    assert_eq!(plan.kill[0].message, "Container a failed startup probe");
    assert_eq!(plan.kill[0].probe, Some("startup"));
}

#[test]
fn containers_of_an_old_sandbox_start_again() {
    let p = pod("OnFailure", &[], &["done", "failed", "running"]);
    let mut old = Instances::new();
    for (name, state, code) in [
        ("done", Exited, 0),
        ("failed", Exited, 1),
        ("running", Running, 0),
    ] {
        old.insert(name.into(), vec![instance(name, "older", state, code)]);
    }
    let plan = run(&p, Some(&sandbox()), &old, &Probes::default());
    assert_eq!(plan.start, ["failed", "running"]);
}
