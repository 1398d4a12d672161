//! Aggregated cluster roles, such as `admin` and `view`, whose rules are collected from other
//! roles.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use crate::context::{Context, Error, Result, optional};
use crate::controller::{Controller, Watches};
use crate::informers::Key;
use crate::queue::Queue;
use rkube_component_helpers::label_selector;

const NAME: &str = "clusterrole-aggregation-controller";

/// Returns the distinct rules of all roles that the role's aggregation rule selects, or `None` if
/// it has no such rule.
pub fn rules(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role
        .aggregation_rule
        .as_ref()?
        .cluster_role_selectors
        .clone()
        .unwrap_or_default();
    let mut rules: Vec<PolicyRule> = Vec::new();
    // Stores list objects in name order, so the result is deterministic.
    for other in all
        .iter()
        .filter(|other| other.metadata.name != role.metadata.name)
    {
        let labels = label_selector::labels_or_empty(other.metadata.labels.as_ref());
        if selectors
            .iter()
            .any(|wanted| label_selector::matches(wanted, labels))
        {
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    Some(rules)
}

/// The controller of aggregated cluster roles.
pub struct ClusterRoleController {
    ctx: Context,
    queue: Queue<Key>,
}

impl ClusterRoleController {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
        }
    }
}

impl Controller for ClusterRoleController {
    type Item = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        let store = self.ctx.informers.cluster_roles.clone();
        watches.watches(&self.ctx.informers.cluster_roles, move |change, queue| {
            // Any role may be selected by any aggregated one.
            if change.object().aggregation_rule.is_some() {
                queue.add(Key::of(&change.object().metadata));
            }
            if store.is_synced() {
                for role in store
                    .list()
                    .iter()
                    .filter(|role| role.aggregation_rule.is_some())
                {
                    queue.add(Key::of(&role.metadata));
                }
            }
        });
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        sync(&self.ctx, key).await
    }
}

async fn sync(ctx: &Context, key: Key) -> Result<()> {
    let store = &ctx.informers.cluster_roles;
    let Some(role) = store.by_key(&key) else {
        return Ok(());
    };
    let Some(rules) = rules(&role, &store.list()) else {
        return Ok(());
    };
    if role.rules.as_deref().unwrap_or_default() == rules {
        return Ok(());
    }
    let applied = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": key.name},
        "rules": rules,
    });
    let params = PatchParams::apply(NAME).force();
    let answer = Api::<ClusterRole>::all(ctx.client.clone())
        .patch(&key.name, &params, &Patch::Apply(applied))
        .await
        .map_err(Error::from);
    if let Some(role) = optional(answer)? {
        store.observe(role);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::rbac::v1::AggregationRule;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

    #[test]
    fn rules_are_gathered_once() {
        let part = |name: &str, resource: &str| {
            Arc::new(ClusterRole {
                metadata: ObjectMeta {
                    name: Some(name.into()),
                    labels: Some([("to".to_owned(), "view".to_owned())].into()),
                    ..Default::default()
                },
                rules: Some(vec![PolicyRule {
                    resources: Some(vec![resource.into()]),
                    verbs: vec!["get".into()],
                    ..Default::default()
                }]),
                aggregation_rule: None,
            })
        };
        let whole = ClusterRole {
            metadata: ObjectMeta {
                name: Some("view".into()),
                ..Default::default()
            },
            aggregation_rule: Some(AggregationRule {
                cluster_role_selectors: Some(vec![LabelSelector {
                    match_labels: Some([("to".to_owned(), "view".to_owned())].into()),
                    match_expressions: None,
                }]),
            }),
            rules: None,
        };
        let all = [part("a", "pods"), part("b", "pods"), part("c", "jobs")];
        assert_eq!(rules(&whole, &all).unwrap().len(), 2);
        assert_eq!(rules(&all[0], &all), None);
    }
}
