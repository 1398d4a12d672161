//! Label selectors, in the query form (`app in (a, b), !legacy`) and as the
//! `LabelSelector` object.

use std::fmt;

use serde_json::{Map, Value};

use crate::status::Status;

use super::parse::parse;
use super::requirement::{Operator, Requirement};

/// A conjunction of requirements on labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    /// Whether it matches no object, as a selector that is nil in Go does.
    nothing: bool,
}

impl Default for LabelSelector {
    fn default() -> Self {
        Self::everything()
    }
}

impl LabelSelector {
    /// Returns the selector that matches every object.
    pub fn everything() -> Self {
        Self {
            requirements: Vec::new(),
            nothing: false,
        }
    }

    /// Returns the selector that matches no object.
    pub fn nothing() -> Self {
        Self {
            requirements: Vec::new(),
            nothing: true,
        }
    }

    /// Parses the query form.
    ///
    /// # Errors
    /// Upstream's message, `unable to parse requirement: …`.
    pub fn parse(text: &str) -> Result<Self, Status> {
        let mut requirements = parse(text).map_err(Status::bad_request)?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self {
            requirements,
            nothing: false,
        })
    }

    /// Converts a `LabelSelector` object (`matchLabels`, `matchExpressions`). Null
    /// matches nothing, an empty object everything.
    ///
    /// # Errors
    /// 400 with upstream's message when a requirement is invalid.
    pub fn from_value(value: &Value) -> Result<Self, Status> {
        if value.is_null() {
            return Ok(Self::nothing());
        }
        let mut requirements = Vec::new();
        for (key, value) in value
            .get("matchLabels")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(
                Requirement::new(key, Operator::Equals, vec![value])
                    .map_err(Status::bad_request)?,
            );
        }
        for expression in value
            .get("matchExpressions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let text = |f: &str| {
                expression
                    .get(f)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            let operator = match text("operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(Status::bad_request(format!(
                        "{} is not a valid label selector operator",
                        crate::text::quote(other)
                    )));
                }
            };
            let mut values: Vec<String> = expression
                .get("values")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            values.sort_unstable();
            requirements.push(
                Requirement::new(text("key"), operator, values).map_err(Status::bad_request)?,
            );
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self {
            requirements,
            nothing: false,
        })
    }

    /// Converts a map of labels that must all be equal, as a Service's selector. As
    /// upstream, it does not validate them.
    pub fn from_map(map: &Map<String, Value>) -> Self {
        Self::from_pairs(
            map.iter()
                .filter_map(|(k, v)| Some((k.as_str(), v.as_str()?))),
        )
    }

    /// Returns the selector of labels that must all be equal, without validation.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut requirements: Vec<Requirement> = pairs
            .into_iter()
            .map(|(key, value)| Requirement {
                key: key.to_owned(),
                operator: Operator::Equals,
                values: vec![value.to_owned()],
            })
            .collect();
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self {
            requirements,
            nothing: false,
        }
    }

    /// Returns whether it matches every object.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Returns whether it matches no object, whatever the labels.
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// Returns the requirements, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Returns whether an object with these labels matches.
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.matches_with(|key| labels?.get(key)?.as_str())
    }

    /// Returns whether an object matches, given a function that looks up its labels.
    pub fn matches_with<'a>(&self, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(&lookup))
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{r}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Map<String, Value> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), Value::from(*v)))
            .collect()
    }

    #[test]
    fn parses_upstreams_good_strings() {
        for text in [
            "x=a,y=b,z=c",
            "",
            "x!=a,y=b",
            "x=",
            "x= ",
            "x=,z= ",
            "x= ,z= ",
            "!x",
            "x>1",
            "x>1,z<5",
            "x in (a,b)",
            "x notin ()",
            "x in (,a)",
            "x in (a,)",
            "a in (in, notin)",
            "in",
            "notin in (in)",
        ] {
            assert!(LabelSelector::parse(text).is_ok(), "{text}");
        }
        for text in [
            "x=a||y=b",
            "x==a==b",
            "!x=a",
            "x<a",
            "x in a",
            "x,",
            ",x",
            "x in (",
            "x y",
            "(x)",
            "x in (a b)",
        ] {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn matches_as_upstream() {
        let have = labels(&[("env", "prod"), ("n", "7"), ("empty", "")]);
        let yes = [
            "",
            "env",
            "env=prod",
            "env==prod",
            "env!=dev",
            "x!=1",
            "!x",
            "env in (dev,prod)",
            "x notin (1)",
            "n>6",
            "n<8",
            "empty=",
        ];
        let no = [
            "!env",
            "env=dev",
            "x",
            "x=1",
            "env notin (prod)",
            "n>7",
            "env>1",
            "x in (1)",
        ];
        for text in yes {
            assert!(
                LabelSelector::parse(text).unwrap().matches(Some(&have)),
                "{text}"
            );
        }
        for text in no {
            assert!(
                !LabelSelector::parse(text).unwrap().matches(Some(&have)),
                "{text}"
            );
        }
    }

    #[test]
    fn reads_the_object_form() {
        let selector = LabelSelector::from_value(&json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["db"]}],
        }))
        .unwrap();
        assert_eq!(selector.to_string(), "app=web,tier notin (db)");
        assert!(selector.matches(Some(&labels(&[("app", "web")]))));
        assert!(
            LabelSelector::from_value(&json!(null))
                .unwrap()
                .is_nothing()
        );
        assert!(LabelSelector::from_value(&json!({})).unwrap().matches(None));
        assert_eq!(
            LabelSelector::from_value(
                &json!({"matchExpressions": [{"key": "a", "operator": "Gt"}]})
            )
            .unwrap_err()
            .message,
            r#""Gt" is not a valid label selector operator"#
        );
    }

    proptest! {
        #![proptest_config(crate::testing::config())]

        #[test]
        fn never_panics_and_prints_what_it_parsed(text in "[a-c!=<>(), intox0-9]{0,30}") {
            if let Ok(selector) = LabelSelector::parse(&text) {
                prop_assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector);
            }
        }

        #[test]
        fn never_panics_on_anything(text in ".{0,60}") {
            let _ = LabelSelector::parse(&text);
        }

        /// Selectors of every form against what each form means.
        #[test]
        fn matches_as_the_model_says(
            labels in proptest::collection::btree_map("[a-c]", "[x-z1-3]", 0..4),
            wanted in proptest::collection::vec(
                ("[a-c]", 0..8usize, proptest::collection::btree_set("[x-z1-3]", 1..3)),
                1..4,
            ),
        ) {
            let mut texts = Vec::new();
            let mut expected = true;
            for (key, form, values) in &wanted {
                let value = labels.get(key);
                let first = values.iter().next().unwrap();
                let list = values.iter().cloned().collect::<Vec<_>>().join(",");
                let contains = value.is_some_and(|v| values.contains(v));
                let number = |text: &String| text.parse::<i64>().ok();
                let bound = number(first).unwrap_or(2);
                let (text, holds) = match form {
                    0 => (format!("{key} in ({list})"), contains),
                    1 => (format!("{key} notin ({list})"), !contains),
                    2 => (key.clone(), value.is_some()),
                    3 => (format!("!{key}"), value.is_none()),
                    4 => (format!("{key}={first}"), value == Some(first)),
                    5 => (format!("{key}!={first}"), value != Some(first)),
                    6 => (format!("{key}>{bound}"), value.and_then(number).is_some_and(|n| n > bound)),
                    _ => (format!("{key}<{bound}"), value.and_then(number).is_some_and(|n| n < bound)),
                };
                texts.push(text);
                expected &= holds;
            }
            let selector = LabelSelector::parse(&texts.join(",")).unwrap();
            let found = selector.matches_with(|key| labels.get(key).map(String::as_str));
            prop_assert_eq!(found, expected, "{} of {:?}", selector, labels);
        }
    }
}
