//! Whether a node is one that a pod asks for.

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

use crate::common::selector;

fn meets(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let listed = |value: &str| {
        requirement
            .values
            .iter()
            .flatten()
            .any(|listed| listed == value)
    };
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = || {
        requirement
            .values
            .as_ref()?
            .first()
            .and_then(|text| number(text))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => {
            matches!((value.and_then(number), bound()), (Some(value), Some(bound)) if value > bound)
        }
        "Lt" => {
            matches!((value.and_then(number), bound()), (Some(value), Some(bound)) if value < bound)
        }
        _ => false,
    }
}

/// Whether a node meets one term of a node selector; an empty term matches none.
pub fn meets_term(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = selector::or_none(node.metadata.labels.as_ref());
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let by_label = |requirement: &NodeSelectorRequirement| {
        meets(
            requirement,
            labels.get(&requirement.key).map(String::as_str),
        )
    };
    let by_field = |requirement: &NodeSelectorRequirement| {
        requirement.key == "metadata.name" && meets(requirement, node.metadata.name.as_deref())
    };
    expressions.iter().all(by_label) && fields.iter().all(by_field)
}

/// Whether the node has what the pod's node selector and required node affinity ask for.
pub fn matches(spec: &PodSpec, node: &Node) -> bool {
    let labels = selector::or_none(node.metadata.labels.as_ref());
    let by_selector = spec
        .node_selector
        .as_ref()
        .is_none_or(|wanted| selector::contains(labels, wanted));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    by_selector
        && required.is_none_or(|required| {
            required
                .node_selector_terms
                .iter()
                .any(|term| meets_term(term, node))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    #[test]
    fn terms() {
        let node = Node {
            metadata: ObjectMeta {
                name: Some("n1".into()),
                labels: Some([("cpus".to_owned(), "8".to_owned())].into()),
                ..Default::default()
            },
            ..Default::default()
        };
        let requirement = |key: &str, operator: &str, value: &str| NodeSelectorRequirement {
            key: key.into(),
            operator: operator.into(),
            values: Some(vec![value.into()]),
        };
        let label = |operator: &str, value: &str| NodeSelectorTerm {
            match_expressions: Some(vec![requirement("cpus", operator, value)]),
            match_fields: None,
        };
        assert!(meets_term(&label("Gt", "4"), &node));
        assert!(!meets_term(&label("Lt", "4"), &node));
        assert!(meets_term(&label("In", "8"), &node));
        assert!(!meets_term(&NodeSelectorTerm::default(), &node));
        let field = NodeSelectorTerm {
            match_fields: Some(vec![requirement("metadata.name", "In", "n1")]),
            match_expressions: None,
        };
        assert!(meets_term(&field, &node));
    }
}
