//! Restarts of all containers of a pod in place (`RestartAllContainers` rules).
//!
//! All containers are stopped and removed from the runtime. Then the pod starts over with its init
//! containers, in the same sandbox and with the same volumes. Those whose exit asks for it are
//! removed last: as long as they exist, a restarted agent knows what it was doing.

use k8s_openapi::api::core::v1::ContainerRestartRule;

use super::super::instance::{Instances, latest};
use crate::kinds::*;

/// Action of a rule that restarts all containers.
const ALL: &str = "RestartAllContainers";

/// A container to remove from the runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reset {
    pub id: String,
    pub name: String,
    pub attempt: u32,
    /// Whether it has to be stopped first.
    pub running: bool,
    /// Whether its exit asks for the restart.
    pub cause: bool,
}

/// Returns the first rule of a container that matches an exit code.
pub(super) fn rule(container: &Container, exit_code: i32) -> Option<&ContainerRestartRule> {
    let rules = container.restart_policy_rules.iter().flatten();
    rules.into_iter().find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.iter().flatten().any(|c| *c == exit_code);
            match codes.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        })
    })
}

fn restarts_all(container: &Container, exit_code: i32) -> bool {
    rule(container, exit_code).is_some_and(|rule| rule.action == ALL)
}

/// Returns whether an exit of one of the pod's containers may restart all of them.
pub(crate) fn may_restart_all(pod: &Pod) -> bool {
    let all = pod.init_containers().iter().chain(&pod.spec().containers);
    all.flat_map(|c| c.restart_policy_rules.iter().flatten())
        .any(|rule| rule.action == ALL)
}

/// Returns whether a container has exited so that all of them are to be restarted. With a sandbox,
/// only its containers count.
pub(crate) fn is_restarting_all(pod: &Pod, instances: &Instances, sandbox: Option<&str>) -> bool {
    let mut all = pod.init_containers().iter().chain(&pod.spec().containers);
    all.any(|c| {
        latest(instances, &c.name).is_some_and(|i| {
            sandbox.is_none_or(|s| i.sandbox_id == s) && i.exited() && restarts_all(c, i.exit_code)
        })
    })
}

/// Returns the containers to remove, in order; none unless all are to be restarted.
pub(super) fn resets(pod: &Pod, instances: &Instances, sandbox: &str) -> Vec<Reset> {
    if !is_restarting_all(pod, instances, Some(sandbox)) {
        return Vec::new();
    }
    let (mut others, mut causes) = (Vec::new(), Vec::new());
    for container in pod.spec().containers.iter().chain(pod.init_containers()) {
        for i in instances.get(&container.name).into_iter().flatten() {
            let is_cause = i.exited() && restarts_all(container, i.exit_code);
            let list = if is_cause { &mut causes } else { &mut others };
            list.push(Reset {
                id: i.id.clone(),
                name: i.name.clone(),
                attempt: i.attempt,
                running: i.running(),
                cause: is_cause,
            });
        }
    }
    others.append(&mut causes);
    others
}

#[cfg(test)]
mod tests {
    use super::super::{Observed, ProbeView, plan, restarts};
    use super::*;
    use crate::pods::instance::testing::instance;
    use crate::pods::plan::SandboxView;
    use k8s_openapi::api::core::v1::ContainerRestartRuleOnExitCodes;
    use rkube_runtime::ContainerState::{Exited, Running};
    use std::collections::HashSet;

    struct Healthy;

    impl ProbeView for Healthy {
        fn started(&self, _: &str) -> bool {
            true
        }
        fn failed(&self, _: &str) -> Option<&'static str> {
            None
        }
    }

    fn rules(rules: &[(&str, &str, &[i32])]) -> Option<Vec<ContainerRestartRule>> {
        let rules = rules
            .iter()
            .map(|(action, operator, values)| ContainerRestartRule {
                action: (*action).into(),
                exit_codes: Some(ContainerRestartRuleOnExitCodes {
                    operator: (*operator).into(),
                    values: Some(values.to_vec()),
                }),
            });
        Some(rules.collect())
    }

    fn pod() -> Pod {
        let container = |name: &str| Container {
            name: name.into(),
            ..Default::default()
        };
        let source = Container {
            restart_policy: Some("Never".into()),
            restart_policy_rules: rules(&[("Restart", "In", &[1]), (ALL, "In", &[1, 42])]),
            ..container("source")
        };
        Pod {
            spec: Some(PodSpec {
                restart_policy: Some("Never".into()),
                init_containers: Some(vec![container("init")]),
                containers: vec![source, container("other")],
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn planned(instances: &Instances) -> super::super::Plan {
        plan(&Observed {
            pod: &pod(),
            sandbox: Some(&SandboxView {
                id: "s".into(),
                attempt: 0,
                ready: true,
            }),
            instances,
            probes: &Healthy,
            busy: &HashSet::new(),
            resize: &HashSet::new(),
        })
    }

    #[test]
    fn an_exit_resets_all_containers_and_its_own_last() {
        let mut instances = Instances::new();
        for (name, state, code) in [
            ("init", Exited, 0),
            ("source", Exited, 42),
            ("other", Running, 0),
        ] {
            instances.insert(name.into(), vec![instance(name, "s", state, code)]);
        }
        let planned_now = planned(&instances);
        let order: Vec<(&str, bool)> = planned_now
            .reset
            .iter()
            .map(|r| (r.name.as_str(), r.running))
            .collect();
        assert_eq!(order, [("other", true), ("init", false), ("source", false)]);
        let causes: Vec<bool> = planned_now.reset.iter().map(|r| r.cause).collect();
        assert_eq!(causes, [false, false, true]);
        assert!(planned_now.start.is_empty() && !planned_now.finished);
        // Then the pod starts over.
        assert_eq!(planned(&Instances::new()).start, ["init"]);
        // The first matching rule counts, and an exit in another sandbox does not.
        for (sandbox, code) in [("s", 1), ("s", 0), ("older", 42)] {
            instances.insert(
                "source".into(),
                vec![instance("source", sandbox, Exited, code)],
            );
            assert!(planned(&instances).reset.is_empty(), "{sandbox} {code}");
        }
    }

    #[test]
    fn matching_rules_restart() {
        let pod = pod();
        let source = &pod.spec().containers[0];
        for (code, again) in [(0, false), (1, true), (42, true), (2, false)] {
            assert_eq!(restarts(&pod, source, code), again, "{code}");
        }
        assert!(may_restart_all(&pod));
        assert!(!may_restart_all(&Pod {
            spec: Some(PodSpec::default()),
            ..Default::default()
        }));
    }
}
