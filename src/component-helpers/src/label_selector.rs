//! Label selectors of typed objects.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use rkube_api::selector::Operator;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// The empty set of labels.
pub static NO_LABELS: Labels = BTreeMap::new();

/// Returns the labels, or the empty set.
pub fn labels_or_empty(labels: Option<&Labels>) -> &Labels {
    labels.unwrap_or(&NO_LABELS)
}

/// Returns whether `labels` contain every pair of `wanted`.
pub fn contains(labels: &Labels, wanted: &Labels) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

/// Returns whether the selector has no requirement and thus selects everything.
pub fn is_empty(selector: &LabelSelector) -> bool {
    let labels = selector.match_labels.as_ref();
    let expressions = selector.match_expressions.as_ref();
    labels.is_none_or(BTreeMap::is_empty) && expressions.is_none_or(Vec::is_empty)
}

/// Parses the operator of a requirement in a `LabelSelector` object.
pub(crate) fn label_operator(name: &str) -> Option<Operator> {
    match name {
        "In" => Some(Operator::In),
        "NotIn" => Some(Operator::NotIn),
        "Exists" => Some(Operator::Exists),
        "DoesNotExist" => Some(Operator::DoesNotExist),
        _ => None,
    }
}

/// Returns whether a label's value, or its absence, meets a requirement.
///
/// An unknown operator is never met.
pub(crate) fn meets(operator: Option<Operator>, values: &[String], value: Option<&str>) -> bool {
    let Some(operator) = operator else {
        return false;
    };
    let listed = |value: &str| values.iter().any(|listed| listed == value);
    match operator {
        Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(listed),
        Operator::NotIn | Operator::NotEquals => !value.is_some_and(listed),
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
        Operator::GreaterThan | Operator::LessThan => {
            let number = |text: &str| text.parse::<i64>().ok();
            let bound = values.first().and_then(|text| number(text));
            match (value.and_then(number), bound) {
                (Some(value), Some(bound)) if operator == Operator::GreaterThan => value > bound,
                (Some(value), Some(bound)) => value < bound,
                _ => false,
            }
        }
    }
}

/// Returns whether a selector selects an object with these labels.
pub fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let by_labels = selector
        .match_labels
        .as_ref()
        .is_none_or(|wanted| contains(labels, wanted));
    let mut expressions = selector.match_expressions.iter().flatten();
    by_labels
        && expressions.all(|requirement| {
            meets(
                label_operator(&requirement.operator),
                requirement.values.as_deref().unwrap_or_default(),
                labels.get(&requirement.key).map(String::as_str),
            )
        })
}

/// One requirement on the value of a label or field, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Requirement {
    pub(crate) key: String,
    /// `None` for an unknown operator, which no value meets.
    pub(crate) operator: Option<Operator>,
    pub(crate) values: Vec<String>,
}

impl Requirement {
    pub(crate) fn is_met_by(&self, value: Option<&str>) -> bool {
        meets(self.operator, &self.values, value)
    }
}

/// A label selector compiled for matching many objects. The default selector selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl Selector {
    /// Returns a selector that selects no object.
    pub fn nothing() -> Self {
        Selector {
            requirements: Vec::new(),
            nothing: true,
        }
    }

    /// Compiles a `LabelSelector`. A missing one selects nothing.
    pub fn new(selector: Option<&LabelSelector>) -> Self {
        let Some(selector) = selector else {
            return Selector::nothing();
        };
        let mut compiled = Selector::from_labels(selector.match_labels.iter().flatten());
        let expressions = selector.match_expressions.iter().flatten();
        compiled
            .requirements
            .extend(expressions.map(|expression| Requirement {
                key: expression.key.clone(),
                operator: label_operator(&expression.operator),
                values: expression.values.clone().unwrap_or_default(),
            }));
        compiled
    }

    /// Returns a selector of objects that have all of these labels.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        Selector {
            requirements: labels
                .into_iter()
                .map(|(key, value)| Requirement {
                    key: key.clone(),
                    operator: Some(Operator::In),
                    values: vec![value.clone()],
                })
                .collect(),
            nothing: false,
        }
    }

    /// Adds the requirements of another selector, so that both must match.
    pub fn extend(&mut self, other: &Selector) {
        self.nothing |= other.nothing;
        self.requirements.extend(other.requirements.iter().cloned());
    }

    /// Returns whether it selects every object.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Returns whether it selects an object with these labels.
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = |key: &str| labels.get(key).map(String::as_str);
        !self.nothing && self.requirements.iter().all(|r| r.is_met_by(value(&r.key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expressions() {
        let labels = Labels::from([("app".into(), "web".into()), ("n".into(), "5".into())]);
        for (key, operator, values, selects) in [
            ("app", "In", vec!["db", "web"], true),
            ("app", "In", vec!["db"], false),
            ("tier", "In", vec!["web"], false),
            ("app", "NotIn", vec!["web"], false),
            ("tier", "NotIn", vec!["web"], true),
            ("app", "Exists", vec![], true),
            ("tier", "Exists", vec![], false),
            ("app", "DoesNotExist", vec![], false),
            ("tier", "DoesNotExist", vec![], true),
            // Operators that only node selectors have.
            ("n", "Gt", vec!["1"], false),
            ("n", "Lt", vec!["9"], false),
        ] {
            let selector: LabelSelector = serde_json::from_value(json!({
                "matchExpressions": [{"key": key, "operator": operator, "values": values}],
            }))
            .unwrap();
            assert_eq!(matches(&selector, &labels), selects, "{selector:?}");
            assert_eq!(Selector::new(Some(&selector)).matches(&labels), selects);
        }
    }

    #[test]
    fn labels_and_expressions_are_joined() {
        let selector: LabelSelector = serde_json::from_value(json!({
            "matchLabels": {"a": "1"},
            "matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["x"]}],
        }))
        .unwrap();
        let compiled = Selector::new(Some(&selector));
        for (labels, selected) in [
            (json!({"a": "1"}), true),
            (json!({"a": "1", "b": "y"}), true),
            (json!({"a": "1", "b": "x"}), false),
            (json!({"b": "y"}), false),
        ] {
            let labels: Labels = serde_json::from_value(labels).unwrap();
            assert_eq!(matches(&selector, &labels), selected, "{labels:?}");
            assert_eq!(compiled.matches(&labels), selected, "{labels:?}");
        }
    }

    #[test]
    fn empty_selects_everything_and_none_nothing() {
        let empty = LabelSelector::default();
        assert!(is_empty(&empty));
        assert!(matches(&empty, &NO_LABELS));
        assert!(Selector::new(Some(&empty)).is_everything());
        assert!(!Selector::new(None).matches(&NO_LABELS));
        let mut selector = Selector::default();
        assert!(selector.matches(&NO_LABELS));
        selector.extend(&Selector::nothing());
        assert!(!selector.matches(&NO_LABELS));
    }
}
