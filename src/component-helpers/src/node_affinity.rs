//! Node selectors and required node affinity, as in upstream's
//! `k8s.io/component-helpers/scheduling/corev1/nodeaffinity`.

use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec,
};
use rkube_api::selector::Operator;

use crate::label_selector::{Labels, Requirement, contains, label_operator, meets};

/// The only field that a node selector can name.
const NAME_FIELD: &str = "metadata.name";

fn node_operator(name: &str) -> Option<Operator> {
    match name {
        "Gt" => Some(Operator::GreaterThan),
        "Lt" => Some(Operator::LessThan),
        _ => label_operator(name),
    }
}

fn requirement_met(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    meets(node_operator(&requirement.operator), values, value)
}

/// Returns whether a term selects the node. An empty term selects no node.
pub fn term_matches(term: &NodeSelectorTerm, name: &str, labels: &Labels) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let by_label = |requirement: &NodeSelectorRequirement| {
        requirement_met(
            requirement,
            labels.get(&requirement.key).map(String::as_str),
        )
    };
    let by_field = |requirement: &NodeSelectorRequirement| {
        requirement.key == NAME_FIELD && requirement_met(requirement, Some(name))
    };
    expressions.iter().all(by_label) && fields.iter().all(by_field)
}

/// Returns whether the node meets the node selector and the required node
/// affinity of a pod.
pub fn pod_matches_node(spec: &PodSpec, name: &str, labels: &Labels) -> bool {
    let by_selector = spec
        .node_selector
        .as_ref()
        .is_none_or(|wanted| contains(labels, wanted));
    let affinity = spec.affinity.as_ref();
    let required = affinity
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    by_selector
        && required.is_none_or(|required| {
            let mut terms = required.node_selector_terms.iter();
            terms.any(|term| term_matches(term, name, labels))
        })
}

/// A node selector term compiled for matching many nodes. The default term is empty and selects no
/// node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeTerm {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

impl NodeTerm {
    /// Compiles a term.
    pub fn new(term: &NodeSelectorTerm) -> Self {
        let compile = |requirements: &Option<Vec<NodeSelectorRequirement>>| {
            let requirements = requirements.iter().flatten();
            requirements
                .map(|requirement| Requirement {
                    key: requirement.key.clone(),
                    operator: node_operator(&requirement.operator),
                    values: requirement.values.clone().unwrap_or_default(),
                })
                .collect()
        };
        NodeTerm {
            labels: compile(&term.match_expressions),
            fields: compile(&term.match_fields),
        }
    }

    /// Returns whether the term selects the node.
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        if self.labels.is_empty() && self.fields.is_empty() {
            return false;
        }
        let value = |key: &str| labels.get(key).map(String::as_str);
        self.labels.iter().all(|r| r.is_met_by(value(&r.key)))
            && self
                .fields
                .iter()
                .all(|r| r.key == NAME_FIELD && r.is_met_by(Some(name)))
    }

    /// Returns the node names that the term lists with `In` in `matchFields`, if any.
    pub fn names(&self) -> Option<&[String]> {
        self.fields
            .iter()
            .find(|r| r.key == NAME_FIELD && r.operator == Some(Operator::In))
            .map(|r| r.values.as_slice())
    }
}

/// Compiles the terms of a node selector, of which one must match.
pub fn node_terms(selector: &NodeSelector) -> Vec<NodeTerm> {
    let terms = selector.node_selector_terms.iter();
    terms.map(NodeTerm::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn terms() {
        let labels = Labels::from([("cpus".into(), "8".into())]);
        let label = |operator: &str, value: &str| json!({"matchExpressions": [{"key": "cpus", "operator": operator, "values": [value]}]});
        let field = |key: &str, name: &str| json!({"matchFields": [{"key": key, "operator": "In", "values": [name]}]});
        for (term, selects) in [
            (label("Gt", "4"), true),
            (label("Gt", "8"), false),
            (label("Lt", "9"), true),
            (label("Lt", "4"), false),
            (label("Lt", "x"), false),
            (label("In", "8"), true),
            (label("NotIn", "8"), false),
            (label("Exists", ""), true),
            (label("DoesNotExist", ""), false),
            (field("metadata.name", "n1"), true),
            (field("metadata.name", "n2"), false),
            (field("metadata.uid", "n1"), false),
            (json!({}), false),
        ] {
            let parsed: NodeSelectorTerm = serde_json::from_value(term.clone()).unwrap();
            assert_eq!(term_matches(&parsed, "n1", &labels), selects, "{term}");
            let compiled = NodeTerm::new(&parsed);
            assert_eq!(compiled.matches("n1", &labels), selects, "{term}");
        }
        let named: NodeSelectorTerm = serde_json::from_value(field("metadata.name", "a")).unwrap();
        assert_eq!(NodeTerm::new(&named).names(), Some(&["a".to_owned()][..]));
    }

    #[test]
    fn selector_and_affinity_of_a_pod() {
        let labels = Labels::from([("zone".into(), "a".into())]);
        let fits = |spec: Value| {
            let mut spec = spec;
            spec["containers"] = json!([]);
            pod_matches_node(&serde_json::from_value(spec).unwrap(), "n", &labels)
        };
        let affinity = |terms: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}});
        let zone = |zone: &str| json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]});
        assert!(fits(json!({})));
        assert!(fits(json!({"nodeSelector": {"zone": "a"}})));
        assert!(!fits(json!({"nodeSelector": {"zone": "b"}})));
        assert!(fits(affinity(json!([zone("b"), zone("a")]))));
        assert!(!fits(affinity(json!([zone("b")]))));
        assert!(!fits(affinity(json!([]))));
    }
}
