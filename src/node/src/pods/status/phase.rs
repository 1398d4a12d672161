//! A pod's phase.

use super::find;
use crate::kinds::*;

fn last_exit(s: &ContainerState, status: &ContainerStatus) -> Option<i32> {
    s.waiting.as_ref()?;
    let last = status.last_state.as_ref()?.terminated.as_ref()?;
    Some(last.exit_code)
}

/// Upstream's phase of a pod whose phase is not final yet.
pub(super) fn phase(
    pod: &Pod,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    terminal: bool,
    initialized: bool,
) -> &'static str {
    let never = pod.restart_policy() == "Never";
    let (mut pending_init, mut failed_init) = (0, 0);
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
        } else if let Some(t) = &state.terminated {
            if t.exit_code != 0 {
                failed_init += 1;
            }
        } else if let Some(code) = last_exit(state, status) {
            if code != 0 {
                failed_init += 1;
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
        } else if let Some(t) = &state.terminated {
            stopped += 1;
            if t.exit_code == 0 {
                succeeded += 1;
            }
        } else if last_exit(state, status).is_some() {
            stopped += 1;
        } else {
            waiting += 1;
        }
    }
    if failed_init > 0 && (never || terminal) {
        return "Failed";
    }
    if terminal && stopped > 0 && running == 0 {
        // Nothing runs any more and nothing will.
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
        return match pod.restart_policy() {
            "Always" => "Running",
            _ if stopped == succeeded => "Succeeded",
            "Never" => "Failed",
            _ => "Running",
        };
    }
    if terminal { "Failed" } else { "Pending" }
}
