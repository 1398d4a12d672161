//! Evaluates pod failure policies.

use k8s_openapi::api::batch::v1::{PodFailurePolicy, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::Pod;

/// The consequence of a pod's failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The failure counts towards the back-off limit.
    Count,
    /// The failure is ignored.
    Ignore,
    /// The whole job fails, with this message.
    FailJob(String),
    /// The pod's completion index fails.
    FailIndex,
}

fn exit_code(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<(String, i32)> {
    let wanted = rule.on_exit_codes.as_ref()?;
    let status = pod.status.as_ref()?;
    let containers = status.container_statuses.iter().flatten();
    containers
        .chain(status.init_container_statuses.iter().flatten())
        .filter(|container| {
            wanted
                .container_name
                .as_ref()
                .is_none_or(|name| *name == container.name)
        })
        .find_map(|container| {
            let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
            let listed = wanted.values.contains(&code);
            let hit = code != 0
                && if wanted.operator == "In" {
                    listed
                } else {
                    wanted.operator == "NotIn" && !listed
                };
            hit.then(|| (container.name.clone(), code))
        })
}

fn condition<'a>(rule: &PodFailurePolicyRule, pod: &'a Pod) -> Option<&'a str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    // The pod's first condition that any pattern matches is the one in the message.
    let found = conditions.iter().find(|condition| {
        rule.on_pod_conditions.iter().flatten().any(|pattern| {
            let status = pattern.status.as_deref().unwrap_or("True");
            condition.type_ == pattern.type_ && condition.status == status
        })
    })?;
    Some(found.type_.as_str())
}

/// Returns the consequence of a pod's failure according to the first matching rule, by default
/// [`Verdict::Count`].
pub fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    let name = format!(
        "{}/{}",
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        pod.metadata.name.as_deref().unwrap_or_default()
    );
    for (index, rule) in policy
        .into_iter()
        .flat_map(|policy| &policy.rules)
        .enumerate()
    {
        let action = &rule.action;
        let message = if let Some((container, code)) = exit_code(rule, pod) {
            format!(
                "Container {container} for pod {name} failed with exit code {code} matching {action} rule at index {index}"
            )
        } else if let Some(condition) = condition(rule, pod) {
            format!("Pod {name} has condition {condition} matching {action} rule at index {index}")
        } else {
            continue;
        };
        return match action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailJob" => Verdict::FailJob(message),
            "FailIndex" => Verdict::FailIndex,
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::pods::testing::pod;
    use k8s_openapi::api::batch::v1::{
        PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
    };
    use k8s_openapi::api::core::v1::{
        ContainerState, ContainerStateTerminated, ContainerStatus, PodCondition,
    };

    #[test]
    fn the_first_rule_that_matches_counts() {
        let policy = PodFailurePolicy {
            rules: vec![
                PodFailurePolicyRule {
                    action: "Ignore".into(),
                    on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
                        type_: "DisruptionTarget".into(),
                        status: None,
                    }]),
                    on_exit_codes: None,
                },
                PodFailurePolicyRule {
                    action: "FailJob".into(),
                    on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
                        container_name: None,
                        operator: "In".into(),
                        values: vec![42],
                    }),
                    on_pod_conditions: None,
                },
            ],
        };
        let mut failed = pod("a", "n", "Failed", None);
        let exited = |code| {
            Some(vec![ContainerStatus {
                name: "c".into(),
                state: Some(ContainerState {
                    terminated: Some(ContainerStateTerminated {
                        exit_code: code,
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }])
        };
        failed.status.as_mut().unwrap().container_statuses = exited(1);
        assert_eq!(judge(Some(&policy), &failed), Verdict::Count);
        failed.status.as_mut().unwrap().container_statuses = exited(42);
        let message =
            "Container c for pod ns/a failed with exit code 42 matching FailJob rule at index 1";
        assert_eq!(
            judge(Some(&policy), &failed),
            Verdict::FailJob(message.into())
        );
        failed.status.as_mut().unwrap().conditions = Some(vec![PodCondition {
            type_: "DisruptionTarget".into(),
            status: "True".into(),
            ..Default::default()
        }]);
        assert_eq!(judge(Some(&policy), &failed), Verdict::Ignore);
        assert_eq!(judge(None, &failed), Verdict::Count);
    }
}
