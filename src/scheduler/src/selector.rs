//! Selectors compiled for matching many objects.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
    /// Nothing known: matches nothing.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

impl Requirement {
    fn new(key: &str, operator: &str, values: Vec<String>) -> Self {
        Requirement {
            key: key.to_owned(),
            operator: match operator {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                "Gt" => Operator::Gt,
                "Lt" => Operator::Lt,
                _ => Operator::Unknown,
            },
            values,
        }
    }

    fn matches(&self, value: Option<&str>) -> bool {
        let among = |v: &str| self.values.iter().any(|have| have == v);
        match (&self.operator, value) {
            (Operator::In, Some(v)) => among(v),
            (Operator::NotIn, Some(v)) => !among(v),
            (Operator::NotIn | Operator::DoesNotExist, None) => true,
            (Operator::Exists, v) => v.is_some(),
            (Operator::Gt | Operator::Lt, Some(v)) => {
                let than = self.values.first().and_then(|v| v.parse::<i64>().ok());
                match (v.parse::<i64>().ok(), than) {
                    (Some(v), Some(than)) if self.operator == Operator::Gt => v > than,
                    (Some(v), Some(than)) => v < than,
                    _ => false,
                }
            }
            _ => false,
        }
    }
}

/// A label selector. The empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl Selector {
    /// Selects no object.
    pub fn nothing() -> Self {
        Selector {
            requirements: Vec::new(),
            nothing: true,
        }
    }

    /// Compiles a `LabelSelector`; one that is not there selects nothing.
    pub fn new(selector: Option<&LabelSelector>) -> Self {
        let Some(selector) = selector else {
            return Selector::nothing();
        };
        let mut compiled = Selector::from_labels(selector.match_labels.iter().flatten());
        for e in selector.match_expressions.iter().flatten() {
            let values = e.values.clone().unwrap_or_default();
            compiled
                .requirements
                .push(Requirement::new(&e.key, &e.operator, values));
        }
        compiled
    }

    /// Selects what has all these labels.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        Selector {
            requirements: labels
                .into_iter()
                .map(|(key, value)| Requirement::new(key, "In", vec![value.clone()]))
                .collect(),
            nothing: false,
        }
    }

    /// Adds what another selector requires.
    pub fn extend(&mut self, other: &Selector) {
        self.nothing |= other.nothing;
        self.requirements.extend(other.requirements.iter().cloned());
    }

    /// Has it no requirement?
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Does it select an object with these labels?
    pub fn matches(&self, labels: &Labels) -> bool {
        !self.nothing
            && self
                .requirements
                .iter()
                .all(|r| r.matches(labels.get(&r.key).map(String::as_str)))
    }
}

/// One term of a node selector: all of its requirements. An empty one selects
/// nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeTerm {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

impl NodeTerm {
    /// Compiles a term.
    pub fn new(term: &NodeSelectorTerm) -> Self {
        let compile = |list: &Option<Vec<NodeSelectorRequirement>>| {
            list.iter()
                .flatten()
                .map(|r| {
                    Requirement::new(&r.key, &r.operator, r.values.clone().unwrap_or_default())
                })
                .collect()
        };
        NodeTerm {
            labels: compile(&term.match_expressions),
            fields: compile(&term.match_fields),
        }
    }

    /// Does it select the node?
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        if self.labels.is_empty() && self.fields.is_empty() {
            return false;
        }
        self.labels
            .iter()
            .all(|r| r.matches(labels.get(&r.key).map(String::as_str)))
            && self
                .fields
                .iter()
                .all(|r| r.key == "metadata.name" && r.matches(Some(name)))
    }

    /// The nodes it names by `metadata.name`, when it does.
    pub fn names(&self) -> Option<&[String]> {
        self.fields
            .iter()
            .find(|r| r.key == "metadata.name" && r.operator == Operator::In)
            .map(|r| r.values.as_slice())
    }
}

/// The terms of a node selector, one of which must match.
pub fn node_terms(selector: &NodeSelector) -> Vec<NodeTerm> {
    selector
        .node_selector_terms
        .iter()
        .map(NodeTerm::new)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn label_selectors() {
        let parse = |v| Selector::new(Some(&serde_json::from_value(v).unwrap()));
        let s = parse(
            json!({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["x"]}]}),
        );
        assert!(s.matches(&labels(&[("a", "1")])));
        assert!(!s.matches(&labels(&[("a", "1"), ("b", "x")])));
        assert!(Selector::default().matches(&Labels::new()));
        assert!(!Selector::new(None).matches(&Labels::new()));
    }

    #[test]
    fn node_selector_terms() {
        let term: NodeSelectorTerm = serde_json::from_value(
            json!({"matchExpressions": [{"key": "n", "operator": "Gt", "values": ["3"]}],
            "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}),
        )
        .unwrap();
        let term = NodeTerm::new(&term);
        assert!(term.matches("a", &labels(&[("n", "4")])));
        assert!(!term.matches("a", &labels(&[("n", "3")])));
        assert!(!term.matches("b", &labels(&[("n", "4")])));
        assert!(!NodeTerm::default().matches("a", &Labels::new()));
    }
}
