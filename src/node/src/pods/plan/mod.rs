//! Plans a pod's next steps as a pure function of its specification and observed state.

use std::collections::HashSet;

mod reset;

use super::instance::{Instance, Instances, latest};
use crate::kinds::*;

pub(crate) use reset::{Reset, is_restarting_all, may_restart_all};

/// The latest sandbox of the pod.
#[derive(Clone, Debug)]
pub(crate) struct SandboxView {
    pub id: String,
    pub attempt: u32,
    /// Whether the sandbox's namespaces exist and its network is attached.
    pub ready: bool,
}

/// Read access to the probe state of running containers.
pub(crate) trait ProbeView {
    /// Returns whether the container has no startup probe, or the probe has succeeded once.
    fn started(&self, container: &str) -> bool;
    /// Returns the failed probe (`liveness` or `startup`) that requires a restart of the container.
    fn failed(&self, container: &str) -> Option<&'static str>;
}

/// A pod's specification and observed state.
pub(crate) struct Observed<'a> {
    pub pod: &'a Pod,
    pub sandbox: Option<&'a SandboxView>,
    pub instances: &'a Instances,
    pub probes: &'a dyn ProbeView,
    /// Names of containers that are being started or stopped.
    pub busy: &'a HashSet<String>,
    /// Names of containers whose resize requires a restart.
    pub resize: &'a HashSet<String>,
}

/// A container to stop, with the message of its event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kill {
    pub id: String,
    pub name: String,
    pub message: String,
    /// The probe that failed, if that is the reason.
    pub probe: Option<&'static str>,
}

/// A pod's next steps.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Whether nothing is left to run: running containers and the sandbox are to be stopped.
    pub finished: bool,
    /// Attempt number of the sandbox to create; an older sandbox is stopped first.
    pub create_sandbox: Option<u32>,
    /// Containers to stop and remove, in order, before the pod starts over.
    pub reset: Vec<Reset>,
    pub kill: Vec<Kill>,
    /// Containers to start now, in order.
    pub start: Vec<String>,
}

/// Returns the hash of a container's name and image. A running container whose hash differs from
/// its specification's is restarted.
pub(crate) fn hash(container: &Container) -> String {
    // FNV-1a: unlike std's hashers, it is stable across releases of rkube and Rust.
    let mut h: u64 = 0xcbf2_9ce4_8422_2325;
    for part in [
        container.name.as_str(),
        "\0",
        container.image.as_deref().unwrap_or_default(),
    ] {
        for b in part.bytes() {
            h = (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{:08x}", (h >> 32) ^ (h & 0xffff_ffff))
}

/// Returns whether a container that exited with this code is restarted. Back-off is not considered.
pub(crate) fn restarts(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    let Some(policy) = container.restart_policy.as_deref() else {
        return by_policy(pod.restart_policy(), exit_code);
    };
    // The first rule that matches decides.
    let action = reset::rule(container, exit_code).map(|rule| rule.action.as_str());
    matches!(action, Some("Restart" | "RestartAllContainers")) || by_policy(policy, exit_code)
}

/// Returns whether a restart policy restarts a container that exited with this code.
fn by_policy(policy: &str, exit_code: i32) -> bool {
    match policy {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// Returns whether an init container that exited with this code is restarted.
fn init_restarts(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    if container.restart_policy.is_some() {
        return restarts(pod, container, exit_code);
    }
    exit_code != 0 && pod.restart_policy() != "Never"
}

/// Returns whether initialization is complete.
///
/// It is once a main container was created in `sandbox` (in any sandbox if `None`), and for a pod
/// without init containers.
pub(crate) fn initialized(pod: &Pod, instances: &Instances, sandbox: Option<&str>) -> bool {
    let any_main = pod.spec().containers.iter().any(|c| {
        latest(instances, &c.name).is_some_and(|i| sandbox.is_none_or(|s| i.sandbox_id == s))
    });
    any_main || pod.init_containers().is_empty()
}

/// Plans the pod's next steps.
pub(crate) fn plan(o: &Observed<'_>) -> Plan {
    let pod = o.pod;
    let ready = o.sandbox.filter(|s| s.ready);
    let Some(sandbox) = ready else {
        return without_sandbox(o);
    };
    let mut plan = Plan {
        reset: reset::resets(pod, o.instances, &sandbox.id),
        ..Plan::default()
    };
    if !plan.reset.is_empty() {
        return plan;
    }
    for container in pod.ephemeral() {
        // Ephemeral containers run once.
        if latest(o.instances, &container.name).is_none() && !o.busy.contains(&container.name) {
            plan.start.push(container.name);
        }
    }
    match init(o, &sandbox.id, &mut plan) {
        Init::Done => {}
        Init::Waits => return plan,
        Init::Failed => {
            plan.start.clear();
            plan.finished = true;
            return plan;
        }
    }
    let mut keeps = 0;
    for container in &pod.spec().containers {
        let name = &container.name;
        if o.busy.contains(name) {
            keeps += 1;
            continue;
        }
        match in_sandbox(o, name, &sandbox.id) {
            None => {
                // If it exited in an earlier sandbox and is not restarted, it is finished.
                match latest(o.instances, name) {
                    Some(old) if old.exited() && !restarts(pod, container, old.exit_code) => {}
                    _ => {
                        plan.start.push(name.clone());
                        keeps += 1;
                    }
                }
            }
            Some(i) if i.running() => {
                keeps += 1;
                if let Some(kill) = kill_reason(o, container, i) {
                    plan.kill.push(kill);
                }
            }
            Some(i) if i.exited() && !restarts(pod, container, i.exit_code) => {}
            Some(_) => {
                plan.start.push(name.clone());
                keeps += 1;
            }
        }
    }
    if keeps == 0 {
        plan.start.clear();
        plan.kill.clear();
        plan.finished = true;
    }
    plan
}

/// Returns the latest attempt of a container if it belongs to this sandbox.
fn in_sandbox<'a>(o: &Observed<'a>, name: &str, sandbox: &str) -> Option<&'a Instance> {
    latest(o.instances, name).filter(|i| i.sandbox_id == sandbox)
}

/// Returns the reason to stop a running container, if there is one.
fn kill_reason(o: &Observed<'_>, container: &Container, i: &Instance) -> Option<Kill> {
    let name = &container.name;
    let kill = |message, probe| {
        Some(Kill {
            id: i.id.clone(),
            name: name.clone(),
            message,
            probe,
        })
    };
    if i.hash.as_deref().is_some_and(|h| h != hash(container)) {
        return kill(
            format!("Container {name} definition changed, will be restarted"),
            None,
        );
    }
    if o.resize.contains(name) {
        return kill(format!("Container {name} resize requires restart"), None);
    }
    let probe = o.probes.failed(name)?;
    let again = container.restart_policy.is_some() || o.pod.restart_policy() != "Never";
    let end = if again { ", will be restarted" } else { "" };
    kill(
        format!("Container {name} failed {probe} probe{end}"),
        Some(probe),
    )
}

/// Plans the next steps while no sandbox is ready: finish the pod or create a sandbox.
fn without_sandbox(o: &Observed<'_>) -> Plan {
    let pod = o.pod;
    let mains = &pod.spec().containers;
    let any = mains.iter().any(|c| latest(o.instances, &c.name).is_some());
    let attempt = o.sandbox.map_or(0, |s| s.attempt + 1);
    let over = match o.sandbox {
        // If the main containers ran and none is restarted, the pod is finished. A container that
        // was lost with its sandbox counts as killed (137).
        Some(_) if any => mains.iter().all(|c| {
            latest(o.instances, &c.name)
                .is_some_and(|i| !restarts(pod, c, if i.exited() { i.exit_code } else { 137 }))
        }),
        _ => false,
    };
    // An init container failed and is not restarted.
    let failed_init = pod
        .init_containers()
        .iter()
        .filter(|c| !is_sidecar(c))
        .any(|c| {
            latest(o.instances, &c.name).is_some_and(|i| {
                i.exited() && i.exit_code != 0 && !init_restarts(pod, c, i.exit_code)
            })
        });
    if over || failed_init {
        return Plan {
            finished: true,
            ..Plan::default()
        };
    }
    Plan {
        create_sandbox: Some(attempt),
        ..Plan::default()
    }
}

/// Result of planning the init containers.
enum Init {
    Done,
    Waits,
    Failed,
}

/// Plans the init containers, which run in order.
fn init(o: &Observed<'_>, sandbox: &str, plan: &mut Plan) -> Init {
    let pod = o.pod;
    let initialized = initialized(pod, o.instances, Some(sandbox));
    for container in pod.init_containers() {
        let name = &container.name;
        let sidecar = is_sidecar(container);
        if o.busy.contains(name) {
            if initialized {
                continue;
            }
            return Init::Waits;
        }
        match in_sandbox(o, name, sandbox) {
            Some(i) if i.running() => {
                if let Some(kill) = kill_reason(o, container, i).filter(|_| sidecar) {
                    plan.kill.push(kill);
                }
                if !sidecar || !(initialized || o.probes.started(name)) {
                    return Init::Waits;
                }
            }
            Some(i) if i.exited() && !sidecar => {
                if initialized || i.exit_code == 0 {
                    continue;
                }
                if !init_restarts(pod, container, i.exit_code) {
                    return Init::Failed;
                }
                plan.start.push(name.clone());
                return Init::Waits;
            }
            None if initialized && !sidecar => {}
            _ => {
                plan.start.push(name.clone());
                if !initialized {
                    return Init::Waits;
                }
            }
        }
    }
    Init::Done
}

#[cfg(test)]
mod tests;
