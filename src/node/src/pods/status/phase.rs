//! A pod's phase.

use super::super::plan;
use super::containers::RESTARTING_ALL;
use super::types::find;
use crate::kinds::*;

/// Returns how a waiting container ended the last time.
fn last_exit<'a>(
    s: &ContainerState,
    status: &'a ContainerStatus,
) -> Option<&'a ContainerStateTerminated> {
    s.waiting.as_ref()?;
    status.last_state.as_ref()?.terminated.as_ref()
}

/// Returns whether a container that ended like this is restarted.
fn restartable(pod: &Pod, container: &Container, end: &ContainerStateTerminated) -> bool {
    plan::restarts(pod, container, end.exit_code) || end.reason.as_deref() == Some(RESTARTING_ALL)
}

/// Returns the phase of a pod whose phase is not final yet (upstream: `getPhase`).
pub(super) fn phase(
    pod: &Pod,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    terminal: bool,
    initialized: bool,
) -> &'static str {
    let (mut pending_init, mut failed_init, mut failed_for_good) = (0, 0, 0);
    let mut stopped_for_good = 0;
    let (mut unknown, mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0, 0);
    let mut pending_sidecars = 0;
    for c in pod.init_containers() {
        let status = find(init, &c.name);
        let state = status.and_then(|s| s.state.as_ref());
        let (Some(status), Some(state)) = (status, state) else {
            if is_sidecar(c) {
                unknown += 1;
            } else {
                pending_init += 1;
            }
            continue;
        };
        if is_sidecar(c) {
            if state.running.is_some() {
                running += 1;
                if status.started != Some(true) {
                    pending_sidecars += 1;
                }
            } else if state.waiting.is_some() && last_exit(state, status).is_none() {
                pending_sidecars += 1;
                waiting += 1;
            }
        } else if let Some(end) = state.terminated.as_ref().or(last_exit(state, status)) {
            if end.exit_code != 0 {
                failed_init += 1;
                failed_for_good += i32::from(!restartable(pod, c, end));
            }
        } else {
            pending_init += 1;
        }
    }
    for c in &pod.spec().containers {
        let status = find(main, &c.name);
        let state = status.and_then(|s| s.state.as_ref());
        let (Some(status), Some(state)) = (status, state) else {
            unknown += 1;
            continue;
        };
        if state.running.is_some() {
            running += 1;
        } else if let Some(end) = state.terminated.as_ref().or(last_exit(state, status)) {
            stopped += 1;
            stopped_for_good += i32::from(!restartable(pod, c, end));
            succeeded += i32::from(state.terminated.is_some() && end.exit_code == 0);
        } else {
            waiting += 1;
        }
    }
    if failed_for_good > 0 || (failed_init > 0 && terminal) {
        return "Failed";
    }
    if terminal && stopped > 0 && running == 0 {
        // Nothing is running or will be started.
        return if stopped == succeeded && waiting == 0 && unknown == 0 {
            "Succeeded"
        } else {
            "Failed"
        };
    }
    if pending_init > 0 || (pending_sidecars > 0 && !initialized) || waiting > 0 {
        return if terminal { "Failed" } else { "Pending" };
    }
    if running > 0 && unknown == 0 {
        return "Running";
    }
    if running == 0 && stopped > 0 && unknown == 0 {
        return if stopped != stopped_for_good {
            "Running"
        } else if stopped == succeeded {
            "Succeeded"
        } else {
            "Failed"
        };
    }
    if terminal { "Failed" } else { "Pending" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(name: &str, state: ContainerState, last_exit: Option<i32>) -> ContainerStatus {
        ContainerStatus {
            name: name.into(),
            started: Some(state.running.is_some()),
            state: Some(state),
            last_state: last_exit.map(exited),
            ..Default::default()
        }
    }

    fn exited(code: i32) -> ContainerState {
        ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: code,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Returns a container status for a state name that upstream's tests use.
    fn named(name: &str, word: &str) -> Option<ContainerStatus> {
        let running = ContainerState {
            running: Some(ContainerStateRunning::default()),
            ..Default::default()
        };
        let waiting = ContainerState {
            waiting: Some(ContainerStateWaiting::default()),
            ..Default::default()
        };
        Some(match word {
            "running" => status(name, running, None),
            "succeeded" => status(name, exited(0), None),
            "failed" => status(name, exited(1), None),
            "waiting" => status(name, waiting, None),
            "crash-loop" => status(name, waiting, Some(1)),
            "restarting" => status(name, waiting, Some(0)),
            _ => return None,
        })
    }

    fn pod(policy: &str, init: &[&str], main: &[&str]) -> Pod {
        let container = |name: &&str| Container {
            name: (*name).into(),
            restart_policy: name.starts_with("sidecar").then(|| "Always".into()),
            ..Default::default()
        };
        Pod {
            spec: Some(PodSpec {
                restart_policy: Some(policy.into()),
                init_containers: Some(init.iter().map(container).collect()),
                containers: main.iter().map(container).collect(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn two(policy: &str, a: &str, b: &str, terminal: bool) -> &'static str {
        let main: Vec<_> = named("a", a).into_iter().chain(named("b", b)).collect();
        phase(&pod(policy, &[], &["a", "b"]), &[], &main, terminal, true)
    }

    /// Cases of upstream's `TestPodPhaseWithRestartAlways`, `…Never` and `…OnFailure`.
    #[test]
    fn main_containers() {
        for (policy, a, b, expected) in [
            ("Always", "unknown", "unknown", "Pending"),
            ("Always", "running", "running", "Running"),
            ("Always", "succeeded", "failed", "Running"),
            ("Always", "running", "succeeded", "Running"),
            ("Always", "running", "unknown", "Pending"),
            ("Always", "running", "waiting", "Pending"),
            ("Always", "running", "crash-loop", "Running"),
            ("Never", "unknown", "unknown", "Pending"),
            ("Never", "running", "running", "Running"),
            ("Never", "succeeded", "succeeded", "Succeeded"),
            ("Never", "failed", "failed", "Failed"),
            ("Never", "running", "failed", "Running"),
            ("Never", "succeeded", "failed", "Failed"),
            ("Never", "running", "unknown", "Pending"),
            ("OnFailure", "unknown", "unknown", "Pending"),
            ("OnFailure", "running", "running", "Running"),
            ("OnFailure", "succeeded", "succeeded", "Succeeded"),
            ("OnFailure", "failed", "failed", "Running"),
            ("OnFailure", "running", "succeeded", "Running"),
            ("OnFailure", "succeeded", "crash-loop", "Running"),
            ("OnFailure", "running", "waiting", "Pending"),
        ] {
            assert_eq!(two(policy, a, b, false), expected, "{policy} {a} {b}");
        }
    }

    #[test]
    fn a_pod_that_was_stopped_is_over() {
        for (a, b, expected) in [
            ("succeeded", "succeeded", "Succeeded"),
            ("succeeded", "failed", "Failed"),
            ("succeeded", "waiting", "Failed"),
            ("succeeded", "unknown", "Failed"),
            ("waiting", "waiting", "Failed"),
            ("unknown", "unknown", "Failed"),
        ] {
            assert_eq!(two("Always", a, b, true), expected, "{a} {b}");
        }
    }

    /// Cases of upstream's tests of init containers.
    #[test]
    fn init_containers() {
        for (policy, init, main, expected) in [
            ("Always", "waiting", "unknown", "Pending"),
            ("Always", "running", "unknown", "Pending"),
            ("Always", "failed", "unknown", "Pending"),
            ("Always", "succeeded", "unknown", "Pending"),
            ("Always", "succeeded", "running", "Running"),
            ("OnFailure", "crash-loop", "unknown", "Pending"),
            ("Never", "failed", "unknown", "Failed"),
            ("Never", "crash-loop", "unknown", "Failed"),
            ("Never", "succeeded", "succeeded", "Succeeded"),
        ] {
            let init: Vec<_> = named("i", init).into_iter().collect();
            let main: Vec<_> = named("a", main).into_iter().collect();
            let pod = pod(policy, &["i"], &["a"]);
            assert_eq!(
                phase(&pod, &init, &main, false, !main.is_empty()),
                expected,
                "{policy} {init:?} {main:?}"
            );
        }
    }

    #[test]
    fn sidecars_hold_the_pod_back_until_they_have_started() {
        let pod = pod("Always", &["sidecar"], &["a"]);
        let main: Vec<_> = named("a", "running").into_iter().collect();
        let mut sidecar = named("sidecar", "running").unwrap();
        let phase_of = |s: &ContainerStatus, main: &[ContainerStatus], initialized| {
            phase(&pod, std::slice::from_ref(s), main, false, initialized)
        };
        assert_eq!(phase_of(&sidecar, &main, true), "Running");
        sidecar.started = Some(false);
        assert_eq!(phase_of(&sidecar, &[], false), "Pending");
        assert_eq!(phase_of(&sidecar, &main, true), "Running");
        let waiting = named("sidecar", "waiting").unwrap();
        assert_eq!(phase_of(&waiting, &[], false), "Pending");
    }
}
