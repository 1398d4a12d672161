//! The requirements that label selectors consist of.

use std::fmt;

use serde_json::Value;

use crate::names;
use crate::status::FieldError;

/// The comparison of a requirement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `=`.
    Equals,
    /// `==`, the same as [`Operator::Equals`].
    DoubleEquals,
    /// `!=`; a missing label also passes.
    NotEquals,
    /// `in (…)`.
    In,
    /// `notin (…)`; a missing label also passes.
    NotIn,
    /// The label exists.
    Exists,
    /// `!`: the label does not exist.
    DoesNotExist,
    /// `>`, as integers.
    GreaterThan,
    /// `<`, as integers.
    LessThan,
}

/// One requirement of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// The comparison.
    pub operator: Operator,
    /// The values compared with, sorted.
    pub values: Vec<String>,
}

impl Requirement {
    /// Creates a valid requirement.
    ///
    /// # Errors
    /// Upstream's message when key, operator and values do not fit.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Self, String> {
        let mut errors = Vec::new();
        let problems = names::qualified_name(key);
        if !problems.is_empty() {
            errors.push(FieldError::invalid("key", key, problems.join("; ")));
        }
        check_values(operator, &values, &mut errors);
        for (i, value) in values.iter().enumerate() {
            let problems = names::label_value(value);
            if !problems.is_empty() {
                errors.push(FieldError::invalid(
                    format!("values[{i}][{key}]"),
                    value.as_str(),
                    problems.join("; "),
                ));
            }
        }
        if errors.is_empty() {
            Ok(Self {
                key: key.to_owned(),
                operator,
                values,
            })
        } else {
            Err(FieldError::aggregate(&errors))
        }
    }

    /// Returns whether labels match, given a function that looks one up by key.
    pub(super) fn matches<'a>(&self, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
        let value = lookup(&self.key);
        match (self.operator, value) {
            (Operator::Equals | Operator::DoubleEquals | Operator::In, Some(v)) => {
                self.has_value(v)
            }
            (Operator::NotEquals | Operator::NotIn, Some(v)) => !self.has_value(v),
            (Operator::NotEquals | Operator::NotIn | Operator::DoesNotExist, None) => true,
            (Operator::Exists, value) => value.is_some(),
            (Operator::GreaterThan | Operator::LessThan, Some(v)) => {
                match (
                    v.parse::<i64>(),
                    self.values.first().map(|v| v.parse::<i64>()),
                ) {
                    (Ok(have), Some(Ok(than))) if self.operator == Operator::GreaterThan => {
                        have > than
                    }
                    (Ok(have), Some(Ok(than))) => have < than,
                    _ => false,
                }
            }
            _ => false,
        }
    }

    fn has_value(&self, value: &str) -> bool {
        self.values.iter().any(|v| v == value)
    }
}

/// Checks the number and form of a requirement's values.
fn check_values(operator: Operator, values: &[String], errors: &mut Vec<FieldError>) {
    let list = || Value::from(values);
    match operator {
        Operator::In | Operator::NotIn if values.is_empty() => errors.push(FieldError::invalid(
            "values",
            list(),
            "for 'in', 'notin' operators, values set can't be empty",
        )),
        Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
            errors.push(FieldError::invalid(
                "values",
                list(),
                "exact-match compatibility requires one single value",
            ))
        }
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
            errors.push(FieldError::invalid(
                "values",
                list(),
                "values set must be empty for exists and does not exist",
            ))
        }
        Operator::GreaterThan | Operator::LessThan => {
            if values.len() != 1 {
                errors.push(FieldError::invalid(
                    "values",
                    list(),
                    "for 'Gt', 'Lt' operators, exactly one value is required",
                ));
            }
            for (i, value) in values.iter().enumerate() {
                if value.parse::<i64>().is_err() {
                    errors.push(FieldError::invalid(
                        format!("values[{i}]"),
                        value.as_str(),
                        "for 'Gt', 'Lt' operators, the value must be an integer",
                    ));
                }
            }
        }
        _ => {}
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = || self.values.join(",");
        match self.operator {
            Operator::Equals => write!(f, "{}={}", self.key, values()),
            Operator::DoubleEquals => write!(f, "{}=={}", self.key, values()),
            Operator::NotEquals => write!(f, "{}!={}", self.key, values()),
            Operator::In => write!(f, "{} in ({})", self.key, values()),
            Operator::NotIn => write!(f, "{} notin ({})", self.key, values()),
            Operator::Exists => f.write_str(&self.key),
            Operator::DoesNotExist => write!(f, "!{}", self.key),
            Operator::GreaterThan => write!(f, "{}>{}", self.key, values()),
            Operator::LessThan => write!(f, "{}<{}", self.key, values()),
        }
    }
}
