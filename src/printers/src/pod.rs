//! Rows of pods. The Status column summarizes the states of the containers.

use jiff::Timestamp;
use rkube_component_helpers::resource::is_sidecar_object as is_sidecar;
use rkube_strategy::tree::{at, flag, has, int, list, text};
use rkube_strategy::{Object, pod_addresses};
use serde_json::Value;

use crate::cells::{age, is_true, name, since, text_or};
use crate::types::{AGE, Column, NAME, Printer, string, wide};

/// Printers of pods.
pub(crate) static PRINTERS: &[Printer] = &[Printer {
    group: "",
    kind: "Pod",
    columns: COLUMNS,
    cells,
}];

const COLUMNS: &[Column] = &[
    NAME,
    string("Ready"),
    string("Status"),
    string("Restarts"),
    AGE,
    wide("IP"),
    wide("Node"),
    wide("Nominated Node"),
    wide("Readiness Gates"),
];

/// Summary of the states of all containers.
struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<String>,
}

fn cells(pod: &Object, now: Timestamp) -> Vec<Value> {
    let summary = summarize(pod);
    let restarts = match &summary.last_restart {
        Some(time) if summary.restarts != 0 => {
            format!("{} ({} ago)", summary.restarts, since(time, now))
        }
        _ => summary.restarts.to_string(),
    };
    let gates = list(pod, "spec.readinessGates");
    let gates = if gates.is_empty() {
        "<none>".to_owned()
    } else {
        let open = gates
            .iter()
            .filter(|g| is_true(pod, text(g, "conditionType")))
            .count();
        format!("{open}/{}", gates.len())
    };
    vec![
        name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        age(pod, now),
        text_or(
            pod_addresses(pod).first().copied().unwrap_or_default(),
            "<none>",
        )
        .into(),
        text_or(text(pod, "spec.nodeName"), "<none>").into(),
        text_or(text(pod, "status.nominatedNodeName"), "<none>").into(),
        gates.into(),
    ]
}

/// Updates `latest` if the container's last termination is later. The timestamps are RFC 3339
/// in UTC and therefore sort as text.
fn update_latest(latest: &mut Option<String>, status: &Value) {
    let time = text(status, "lastState.terminated.finishedAt");
    if !time.is_empty() && latest.as_deref().is_none_or(|l| l < time) {
        *latest = Some(time.to_owned());
    }
}

/// Formats the exit code or signal of a terminated container that has no reason.
fn exit_text(terminated: &Value, prefix: &str) -> String {
    match int(terminated, "signal").unwrap_or(0) {
        0 => format!(
            "{prefix}ExitCode:{}",
            int(terminated, "exitCode").unwrap_or(0)
        ),
        signal => format!("{prefix}Signal:{signal}"),
    }
}

fn summarize(pod: &Object) -> Summary {
    let phase = text(pod, "status.phase");
    let mut reason = text_or(text(pod, "status.reason"), phase).to_owned();
    let gated = list(pod, "status.conditions")
        .iter()
        .any(|c| text(c, "type") == "PodScheduled" && text(c, "reason") == "SchedulingGated");
    if gated {
        "SchedulingGated".clone_into(&mut reason);
    }
    let init = list(pod, "spec.initContainers");
    let sidecar = |name: &str| {
        init.iter()
            .find(|c| text(c, "name") == name)
            .is_some_and(is_sidecar)
    };
    let total = list(pod, "spec.containers").len() + init.iter().filter(|c| is_sidecar(c)).count();
    let mut ready = 0;
    let mut restarts: i64 = 0;
    let mut last_restart = None;
    let mut sidecar_restarts: i64 = 0;
    let mut last_sidecar_restart = None;

    let mut initializing = false;
    for (i, status) in list(pod, "status.initContainerStatuses").iter().enumerate() {
        let count = int(status, "restartCount").unwrap_or(0);
        restarts = restarts.saturating_add(count);
        update_latest(&mut last_restart, status);
        let is_sidecar = sidecar(text(status, "name"));
        if is_sidecar {
            sidecar_restarts = sidecar_restarts.saturating_add(count);
            update_latest(&mut last_sidecar_restart, status);
        }
        let terminated = at(status, "state.terminated");
        let waiting = text(status, "state.waiting.reason");
        if !terminated.is_null() && int(terminated, "exitCode").unwrap_or(0) == 0 {
            continue;
        }
        if is_sidecar && flag(status, "started") {
            ready += usize::from(flag(status, "ready"));
            continue;
        }
        reason = if !terminated.is_null() {
            match text(terminated, "reason") {
                "" => exit_text(terminated, "Init:"),
                why => format!("Init:{why}"),
            }
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{i}/{}", init.len())
        };
        initializing = true;
        break;
    }

    if !initializing || is_true(pod, "Initialized") {
        restarts = sidecar_restarts;
        last_restart = last_sidecar_restart;
        let mut running = false;
        for status in list(pod, "status.containerStatuses").iter().rev() {
            restarts = restarts.saturating_add(int(status, "restartCount").unwrap_or(0));
            update_latest(&mut last_restart, status);
            let terminated = at(status, "state.terminated");
            let waiting = text(status, "state.waiting.reason");
            if !waiting.is_empty() {
                waiting.clone_into(&mut reason);
            } else if !terminated.is_null() {
                reason = match text(terminated, "reason") {
                    "" => exit_text(terminated, ""),
                    why => why.to_owned(),
                };
            } else if flag(status, "ready") && has(status, "state.running") {
                running = true;
                ready += 1;
            }
        }
        if reason == "Completed" && running {
            let whole = is_true(pod, "Ready");
            reason = if whole { "Running" } else { "NotReady" }.to_owned();
        }
    }
    if has(pod, "metadata.deletionTimestamp") {
        if text(pod, "status.reason") == "NodeLost" {
            "Unknown".clone_into(&mut reason);
        } else if !matches!(phase, "Succeeded" | "Failed") {
            "Terminating".clone_into(&mut reason);
        }
    }
    Summary {
        ready,
        total,
        reason,
        restarts,
        last_restart,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(pod: Value) -> Vec<String> {
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        cells(&pod, now)
            .iter()
            .take(4)
            .map(|v| v.as_str().unwrap().to_owned())
            .collect()
    }

    fn spec() -> Value {
        json!({"containers": [{"name": "a"}, {"name": "b"}]})
    }

    #[test]
    fn pending_and_running() {
        let p = json!({"metadata": {"name": "p"}, "spec": spec(), "status": {"phase": "Pending"}});
        assert_eq!(row(p), ["p", "0/2", "Pending", "0"]);
        let p = json!({"metadata": {"name": "p"}, "spec": spec(), "status": {"phase": "Running", "containerStatuses": [
            {"name": "a", "ready": true, "restartCount": 2, "state": {"running": {}},
             "lastState": {"terminated": {"finishedAt": "2026-01-01T00:55:00Z"}}},
            {"name": "b", "ready": true, "restartCount": 0, "state": {"running": {}}}]}});
        assert_eq!(row(p), ["p", "2/2", "Running", "2 (5m ago)"]);
    }

    #[test]
    fn waiting_and_ended() {
        let one = |state: Value| {
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "a", "restartCount": 0, "state": state}]}})
        };
        assert_eq!(
            row(one(json!({"waiting": {"reason": "CrashLoopBackOff"}})))[2],
            "CrashLoopBackOff"
        );
        assert_eq!(
            row(one(
                json!({"terminated": {"exitCode": 1, "reason": "Error"}})
            ))[2],
            "Error"
        );
        assert_eq!(
            row(one(json!({"terminated": {"exitCode": 3}})))[2],
            "ExitCode:3"
        );
        assert_eq!(
            row(one(json!({"terminated": {"exitCode": 0, "signal": 9}})))[2],
            "Signal:9"
        );
    }

    #[test]
    fn completed_beside_a_running_one() {
        let p = |ready: &str| {
            json!({"metadata": {"name": "p"}, "spec": spec(), "status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": ready}],
            "containerStatuses": [
                {"name": "a", "restartCount": 0, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
                {"name": "b", "ready": true, "restartCount": 0, "state": {"running": {}}}]}})
        };
        assert_eq!(row(p("True"))[2], "Running");
        assert_eq!(row(p("False")), ["p", "1/2", "NotReady", "0"]);
    }

    #[test]
    fn initializing() {
        let p = |statuses: Value| {
            json!({"metadata": {"name": "p"},
            "spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]},
            "status": {"phase": "Pending", "initContainerStatuses": statuses,
                "containerStatuses": [{"name": "a", "restartCount": 0, "state": {"waiting": {"reason": "PodInitializing"}}}]}})
        };
        let done = json!({"name": "i", "restartCount": 0, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        let running = json!({"name": "j", "restartCount": 1, "state": {"running": {}}});
        assert_eq!(
            row(p(json!([done, running]))),
            ["p", "0/1", "Init:1/2", "1"]
        );
        let failed = json!({"name": "j", "restartCount": 1, "state": {"waiting": {"reason": "CrashLoopBackOff"}}});
        assert_eq!(row(p(json!([done, failed])))[2], "Init:CrashLoopBackOff");
        let error =
            json!({"name": "j", "restartCount": 1, "state": {"terminated": {"exitCode": 2}}});
        assert_eq!(row(p(json!([done, error])))[2], "Init:ExitCode:2");
    }

    #[test]
    fn sidecars_count() {
        let p = json!({"metadata": {"name": "p"},
            "spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "s", "restartPolicy": "Always"}]},
            "status": {"phase": "Running",
                "initContainerStatuses": [{"name": "s", "restartCount": 1, "ready": true, "started": true, "state": {"running": {}}}],
                "containerStatuses": [{"name": "a", "restartCount": 0, "ready": true, "state": {"running": {}}}]}});
        assert_eq!(row(p), ["p", "2/2", "Running", "1"]);
    }

    #[test]
    fn leaving() {
        let p = json!({"metadata": {"name": "p", "deletionTimestamp": "x"}, "spec": spec(), "status": {"phase": "Running"}});
        assert_eq!(row(p)[2], "Terminating");
        let p = json!({"metadata": {"name": "p", "deletionTimestamp": "x"}, "spec": spec(), "status": {"phase": "Running", "reason": "NodeLost"}});
        assert_eq!(row(p)[2], "Unknown");
        let p = json!({"metadata": {"name": "p"}, "spec": spec(), "status": {"phase": "Failed", "reason": "Evicted"}});
        assert_eq!(row(p)[2], "Evicted");
    }
}
