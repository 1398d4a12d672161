//! Starts, stops and restarts of containers, and their times.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rkube_runtime::ContainerState::{Created, Exited, Running};

use super::super::backoff::{Backoff, go_duration, go_duration_fine};
use super::super::instance::testing::instance;
use super::super::instance::{Instance, Instances};
use super::super::plan::{Observed, ProbeView, SandboxView, hash, plan, restarts};
use super::super::probes::Thresholds;
use super::pod;
use crate::kinds::*;

/// Probes of which none has failed, and all containers have started but `unstarted`.
struct Probes(&'static [&'static str]);

impl ProbeView for Probes {
    fn started(&self, container: &str) -> bool {
        !self.0.contains(&container)
    }
    fn failed(&self, _: &str) -> Option<&'static str> {
        None
    }
}

/// Returns attempts written as `NAME=STATE`.
///
/// A state is `running`, `created`, or the exit code of a container that has ended. `changed` is a
/// running one with another definition. A state with a `~` is of an older sandbox.
fn instances(text: &str) -> Instances {
    let mut all = Instances::new();
    for word in text.split_whitespace() {
        let (name, state) = word.split_once('=').expect(word);
        let (sandbox, state) = match state.strip_prefix('~') {
            Some(state) => ("old", state),
            None => ("s", state),
        };
        let mut attempt: Instance = match state {
            "running" | "changed" => instance(name, sandbox, Running, 0),
            "created" => instance(name, sandbox, Created, 0),
            code => instance(name, sandbox, Exited, code.parse().expect(word)),
        };
        if state == "changed" {
            attempt.hash = Some("another".into());
        }
        all.entry(name.to_owned()).or_default().push(attempt);
    }
    all
}

/// Returns the plan as text: `finished`, `sandbox N`, `start NAME…`, `kill NAME…`.
fn planned(pod: &Pod, sandbox: Option<bool>, attempts: &str, unstarted: &'static [&str]) -> String {
    let sandbox = sandbox.map(|ready| SandboxView {
        id: "s".into(),
        attempt: 2,
        ready,
    });
    let plan = plan(&Observed {
        pod,
        sandbox: sandbox.as_ref(),
        instances: &instances(attempts),
        probes: &Probes(unstarted),
        busy: &HashSet::new(),
        resize: &HashSet::new(),
    });
    let mut text = Vec::new();
    if plan.finished {
        text.push("finished".to_owned());
    }
    text.extend(plan.create_sandbox.map(|n| format!("sandbox {n}")));
    let kill: Vec<&str> = plan.kill.iter().map(|k| k.name.as_str()).collect();
    for (word, names) in [("start", plan.start.join(" ")), ("kill", kill.join(" "))] {
        if !names.is_empty() {
            text.push(format!("{word} {names}"));
        }
    }
    text.join(", ")
}

/// Returns a pod of the containers `a`, `b`, `c`, after init containers with these names; those
/// that begin with `s` are sidecars.
fn pod_with(policy: &str, init: &str) -> Pod {
    let init: Vec<String> = init
        .split_whitespace()
        .map(|name| match name.starts_with('s') {
            true => format!(r#"{{"name": "{name}", "restartPolicy": "Always"}}"#),
            false => format!(r#"{{"name": "{name}"}}"#),
        })
        .collect();
    pod(&format!(
        r#"{{"restartPolicy": "{policy}", "initContainers": [{}],
            "containers": [{{"name": "a"}}, {{"name": "b"}}, {{"name": "c"}}]}}"#,
        init.join(", ")
    ))
}

/// `TestComputePodActions`.
#[test]
fn steps_of_a_pod() {
    let ready = Some(true);
    for (policy, sandbox, attempts, steps) in [
        ("Always", None, "", "sandbox 0"),
        ("Always", ready, "", "start a b c"),
        ("Always", ready, "a=running b=running c=running", ""),
        // Containers that ended, by policy.
        ("Always", ready, "a=0 b=1 c=running", "start a b"),
        ("OnFailure", ready, "a=0 b=1 c=running", "start b"),
        ("Never", ready, "a=0 b=1 c=running", ""),
        ("Never", ready, "a=0 b=1 c=0", "finished"),
        ("OnFailure", ready, "a=0 b=0 c=0", "finished"),
        ("OnFailure", ready, "a=0 b=0 c=137", "start c"),
        ("Always", ready, "a=0 b=0 c=0", "start a b c"),
        // A container that was never started is, whatever the policy.
        ("Never", ready, "a=0 b=1", "start c"),
        ("Never", ready, "a=running b=running", "start c"),
        // One that was created and not started is made again.
        ("Always", ready, "a=created b=running c=running", "start a"),
        // A changed definition.
        ("Always", ready, "a=running b=changed c=running", "kill b"),
        ("Never", ready, "a=running b=changed c=running", "kill b"),
        // A lost sandbox takes its containers with it.
        (
            "Always",
            Some(false),
            "a=running b=running c=running",
            "sandbox 3",
        ),
        ("Always", Some(false), "a=0 b=0 c=0", "sandbox 3"),
        ("OnFailure", Some(false), "a=0 b=running c=0", "sandbox 3"),
        ("OnFailure", Some(false), "a=0 b=0 c=0", "finished"),
        ("OnFailure", Some(false), "a=0 b=1 c=0", "sandbox 3"),
        ("Never", Some(false), "a=0 b=1 c=0", "finished"),
        ("Never", Some(false), "", "sandbox 3"),
        // In the new sandbox, only those run that would be started again.
        ("Always", ready, "a=~0 b=~1 c=~137", "start a b c"),
        ("OnFailure", ready, "a=~0 b=~1 c=~137", "start b c"),
        ("Never", ready, "a=~0 b=~1 c=~0", "finished"),
    ] {
        assert_eq!(
            planned(&pod_with(policy, ""), sandbox, attempts, &[]),
            steps,
            "{policy} {sandbox:?} {attempts}"
        );
    }
}

/// `TestComputePodActionsWithInitContainers`.
#[test]
fn steps_of_init_containers() {
    let ready = Some(true);
    for (policy, sandbox, attempts, steps) in [
        ("Always", ready, "", "start i"),
        ("Always", ready, "i=running", ""),
        ("Always", ready, "i=0", "start j"),
        ("Always", ready, "i=0 j=running", ""),
        ("Always", ready, "i=0 j=0", "start k"),
        ("Always", ready, "i=0 j=0 k=0", "start a b c"),
        (
            "Always",
            ready,
            "i=0 j=0 k=0 a=running b=running c=running",
            "",
        ),
        // A failed one runs again, unless the pod never restarts.
        ("Always", ready, "i=0 j=1", "start j"),
        ("OnFailure", ready, "i=0 j=1", "start j"),
        ("Never", ready, "i=0 j=1", "finished"),
        ("Never", ready, "i=1", "finished"),
        ("Never", ready, "i=0 j=0 k=running", ""),
        // Once a main container was created, init containers are done, also removed ones.
        ("Always", ready, "a=running b=running c=running", ""),
        (
            "Always",
            ready,
            "i=0 j=0 k=0 a=1 b=running c=running",
            "start a",
        ),
        ("OnFailure", ready, "i=0 j=0 k=0 a=0 b=0 c=0", "finished"),
        ("Never", ready, "i=0 j=0 k=0 a=0 b=1 c=0", "finished"),
        // A new sandbox starts over.
        (
            "Always",
            Some(false),
            "i=0 j=0 k=0 a=running b=0 c=0",
            "sandbox 3",
        ),
        ("Always", ready, "i=~0 j=~0 k=~0 a=~0 b=~0 c=~0", "start i"),
        ("Never", Some(false), "i=1", "finished"),
        ("Never", Some(false), "i=0", "sandbox 3"),
        ("Always", Some(false), "i=1", "sandbox 3"),
    ] {
        assert_eq!(
            planned(&pod_with(policy, "i j k"), sandbox, attempts, &[]),
            steps,
            "{policy} {sandbox:?} {attempts}"
        );
    }
}

/// `TestComputePodActionsWithRestartableInitContainers`.
#[test]
fn steps_of_sidecars() {
    for (policy, attempts, unstarted, steps) in [
        ("Always", "", &[][..], "start s1"),
        // The next one follows when the startup probe has succeeded.
        ("Always", "s1=running", &["s1"], ""),
        ("Always", "s1=running", &[], "start i"),
        ("Always", "s1=running i=running", &[], ""),
        ("Always", "s1=running i=0", &[], "start s2"),
        ("Always", "s1=running i=0 s2=running", &["s2"], ""),
        ("Always", "s1=running i=0 s2=running", &[], "start a b c"),
        // They are started again whatever the pod's policy, before and after the main containers.
        ("Never", "s1=0", &[], "start s1"),
        ("Never", "s1=1 i=running", &[], "start s1"),
        (
            "Never",
            "s1=0 i=0 s2=1 a=running b=running c=running",
            &[],
            "start s1 s2",
        ),
        // A probe that succeeded once does not hold others back after a restart.
        (
            "Always",
            "s1=running i=0 s2=running a=running b=1 c=running",
            &["s1", "s2"],
            "start b",
        ),
        // They do not keep a pod alive.
        (
            "Never",
            "s1=running i=0 s2=running a=0 b=1 c=0",
            &[],
            "finished",
        ),
        (
            "OnFailure",
            "s1=running i=0 s2=1 a=0 b=0 c=0",
            &[],
            "finished",
        ),
        ("Never", "s1=running i=1", &[], "finished"),
        (
            "Always",
            "s1=changed i=0 s2=running a=running b=running c=running",
            &[],
            "kill s1",
        ),
    ] {
        assert_eq!(
            planned(
                &pod_with(policy, "s1 i s2"),
                Some(true),
                attempts,
                unstarted
            ),
            steps,
            "{policy} {attempts}"
        );
    }
}

/// `TestShouldContainerBeRestarted` and `TestContainerRestartRules` (KEP-5307): policy of the pod,
/// the container's policy and rules, and the exit codes after which it runs again.
#[test]
fn rules_of_restarts() {
    let rule = |operator: &str, codes: &str| {
        format!(
            r#", "restartPolicyRules": [{{"action": "Restart", "exitCodes": {{"operator": "{operator}", "values": {codes}}}}}]"#
        )
    };
    let own = |policy: &str, rule: &str| format!(r#", "restartPolicy": "{policy}"{rule}"#);
    for (policy, container, again) in [
        ("Always", String::new(), &[0, 1, 42, 137][..]),
        ("OnFailure", String::new(), &[1, 42, 137]),
        ("Never", String::new(), &[]),
        // The container's own policy replaces the pod's.
        ("Always", own("Never", ""), &[]),
        ("Never", own("Always", ""), &[0, 1, 42, 137]),
        ("Always", own("OnFailure", ""), &[1, 42, 137]),
        // A rule that matches restarts; otherwise the policy decides.
        ("Never", own("Never", &rule("In", "[42]")), &[42]),
        ("Never", own("Never", &rule("In", "[]")), &[]),
        ("Never", own("Never", &rule("NotIn", "[0, 42]")), &[1, 137]),
        (
            "Never",
            own("OnFailure", &rule("In", "[0]")),
            &[0, 1, 42, 137],
        ),
        (
            "Always",
            own("OnFailure", &rule("In", "[42]")),
            &[1, 42, 137],
        ),
    ] {
        let pod = pod(&format!(
            r#"{{"restartPolicy": "{policy}", "containers": [{{"name": "c"{container}}}]}}"#
        ));
        for code in [0, 1, 42, 137] {
            assert_eq!(
                restarts(&pod, &pod.spec().containers[0], code),
                again.contains(&code),
                "{policy}{container} {code}"
            );
        }
    }
}

/// `TestHashContainer`: the hash is kept in the runtime's annotations, so it must never change,
/// and only name and image count.
#[test]
fn hashes_are_stable() {
    for (container, same) in [
        (r#""name": "test_container", "image": "foo/image:v1""#, true),
        (
            r#""name": "test_container", "image": "foo/image:v1", "args": ["a"]"#,
            true,
        ),
        (
            r#""name": "test_container", "image": "foo/image:v1", "resources": {"limits": {"cpu": "1"}}"#,
            true,
        ),
        (
            r#""name": "test_container", "image": "foo/image:v2""#,
            false,
        ),
        (r#""name": "another", "image": "foo/image:v1""#, false),
        (r#""name": "test_container""#, false),
    ] {
        let pod = pod(&format!(r#"{{"containers": [{{{container}}}]}}"#));
        assert_eq!(
            hash(&pod.spec().containers[0]) == "14e4dc83",
            same,
            "{container}"
        );
    }
}

/// `TestSlowBackoff`, `TestBackoffReset`, `TestBackoffHighWaterMark` and `TestBackoffGC` of
/// client-go: the delays of a container that ends at these seconds.
#[test]
fn delays_double_and_are_forgotten() {
    for (ends, delays) in [
        (
            &[0, 0, 0, 0, 0, 0, 0, 0][..],
            &[10, 20, 40, 80, 160, 300, 300, 300][..],
        ),
        (&[0, 100, 200, 300], &[10, 20, 40, 80]),
        // Twice the maximum without an end.
        (&[0, 10, 610, 620], &[10, 20, 40, 80]),
        (&[0, 10, 611, 612], &[10, 20, 10, 20]),
        (&[0, 3600, 7200], &[10, 10, 10]),
    ] {
        let mut backoff = Backoff::default();
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let got: Vec<u64> = ends
            .iter()
            .map(|end| {
                backoff.next("k", at(*end), at(*end));
                let held = backoff.holds("k", at(*end), at(*end)).expect("a delay");
                held.0.as_secs()
            })
            .collect();
        assert_eq!(got, delays, "{ends:?}");
    }
}

/// `time.Duration.String`: seconds in messages of back-off, and times of pulls.
#[test]
fn durations_are_gos() {
    for (seconds, text) in [
        (1, "1s"),
        (59, "59s"),
        (60, "1m0s"),
        (80, "1m20s"),
        (3599, "59m59s"),
        (7260, "2h1m0s"),
    ] {
        assert_eq!(go_duration(Duration::from_secs(seconds)), text);
    }
    for (nanos, text) in [
        (0, "0s"),
        (500, "500ns"),
        (1_500, "1.5µs"),
        (999_000, "999µs"),
        (7_000_000, "7ms"),
        (1_001_000_000, "1.001s"),
        (59_999_000_000, "59.999s"),
        (125_000_000_000, "2m5s"),
    ] {
        assert_eq!(go_duration_fine(Duration::from_nanos(nanos)), text);
    }
}

/// `TestFailureThreshold`, `TestSuccessThreshold` and `TestStartupProbeFailureThreshold`: results
/// (`+` or `-`) and the state after each (`.` while it is undecided).
#[test]
fn thresholds_of_probes() {
    for (success, failure, results, states) in [
        (1, 1, "+-+-", "+-+-"),
        (1, 3, "---+", "..-+"),
        (1, 3, "--+--+---", "..+..+..-"),
        (3, 1, "++-+++", "..-..+"),
        (2, 2, "+-+-++--", ".....+.-"),
        (1, 3, "-----", "..---"),
        // Absent or zero: one and three.
        (0, 0, "+---", "+..-"),
    ] {
        let mut thresholds = Thresholds::new(&Probe {
            success_threshold: Some(success),
            failure_threshold: Some(failure),
            ..Default::default()
        });
        let got: String = results
            .chars()
            .map(|result| match thresholds.observe(result == '+') {
                Some(true) => '+',
                Some(false) => '-',
                None => '.',
            })
            .collect();
        assert_eq!(got, states, "{success} {failure} {results}");
    }
}
