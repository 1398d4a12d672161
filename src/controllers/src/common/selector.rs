//! Label selectors over typed objects.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Labels as objects carry them.
pub type Labels = BTreeMap<String, String>;

/// No labels.
pub static NO_LABELS: Labels = BTreeMap::new();

/// Labels that may be absent.
pub fn or_none(labels: Option<&Labels>) -> &Labels {
    labels.unwrap_or(&NO_LABELS)
}

/// Whether every pair of `wanted` is in `labels`.
pub fn contains(labels: &Labels, wanted: &Labels) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether the selector selects everything, being empty.
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector
        .match_labels
        .as_ref()
        .is_none_or(BTreeMap::is_empty)
        && selector
            .match_expressions
            .as_ref()
            .is_none_or(Vec::is_empty)
}

/// Whether `labels` match; an unknown operator matches nothing, as the API
/// server does not let one in.
pub fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let by_labels = selector
        .match_labels
        .as_ref()
        .is_none_or(|wanted| contains(labels, wanted));
    by_labels
        && selector
            .match_expressions
            .iter()
            .flatten()
            .all(|requirement| {
                let value = labels.get(&requirement.key);
                let listed =
                    |value: &String| requirement.values.iter().flatten().any(|v| v == value);
                match requirement.operator.as_str() {
                    "In" => value.is_some_and(listed),
                    "NotIn" => !value.is_some_and(listed),
                    "Exists" => value.is_some(),
                    "DoesNotExist" => value.is_none(),
                    _ => false,
                }
            })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    #[test]
    fn expressions() {
        let labels = Labels::from([("app".into(), "web".into())]);
        let selects = |key: &str, operator: &str, values: &[&str]| {
            let selector = LabelSelector {
                match_expressions: Some(vec![LabelSelectorRequirement {
                    key: key.into(),
                    operator: operator.into(),
                    values: Some(values.iter().map(|v| (*v).into()).collect()),
                }]),
                match_labels: None,
            };
            matches(&selector, &labels)
        };
        assert!(selects("app", "In", &["db", "web"]));
        assert!(!selects("app", "NotIn", &["web"]));
        assert!(selects("tier", "NotIn", &["web"]));
        assert!(selects("app", "Exists", &[]));
        assert!(selects("tier", "DoesNotExist", &[]));
        assert!(!selects("app", "Gt", &["1"]));
        assert!(matches(&LabelSelector::default(), &labels));
    }
}
