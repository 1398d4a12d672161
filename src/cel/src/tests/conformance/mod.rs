//! Expressions with known outcomes.
//!
//! The cases state facts that Kubernetes' environment supports. They are from the
//! language's conformance suite (cel-spec, `tests/simple`) and from the tests of
//! Kubernetes' function libraries (`k8s.io/apiserver/pkg/cel/library`). A case
//! is an expression and its outcome as [`outcome::outcome`] writes it. An error is
//! its message after `!`.
//!
//! Outcomes are those of Kubernetes where it differs from cel-spec: the string
//! library is of version 2, literals are homogeneous, and `getMilliseconds` of
//! a duration counts the whole duration.

mod collections;
mod comparisons;
mod costs;
mod declared;
mod kubernetes;
mod language;
mod outcome;
mod strings;
mod tables;
mod time;

use outcome::outcome;

use crate::{Env, PER_CALL_LIMIT, Unknown};

/// Asserts the outcomes of all cases and reports every difference.
#[track_caller]
fn assert_outcomes(cases: &[(&str, &str)]) {
    let differences: Vec<String> = cases
        .iter()
        .filter_map(|(expression, want)| {
            let got = outcome(expression);
            (got != *want).then(|| format!("{expression}\n   got: {got}\n  want: {want}"))
        })
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn literals_and_syntax() {
    assert_outcomes(language::LITERALS);
    assert_outcomes(language::SYNTAX);
}

#[test]
fn logic() {
    assert_outcomes(language::LOGIC);
}

#[test]
fn arithmetic() {
    assert_outcomes(language::ARITHMETIC);
}

#[test]
fn conversions() {
    assert_outcomes(language::CONVERSIONS);
}

#[test]
fn comparisons() {
    assert_outcomes(comparisons::CASES);
}

#[test]
fn values_are_ordered() {
    for values in comparisons::ASCENDING {
        for (i, a) in values.iter().enumerate() {
            for (j, b) in values.iter().enumerate() {
                for (operator, holds) in [
                    ("<", i < j),
                    ("<=", i <= j),
                    (">", i > j),
                    (">=", i >= j),
                    ("==", i == j),
                    ("!=", i != j),
                ] {
                    let expression = format!("dyn({a}) {operator} dyn({b})");
                    assert_eq!(outcome(&expression), holds.to_string(), "{expression}");
                }
            }
        }
    }
}

#[test]
fn values_of_different_types_differ() {
    for (i, a) in comparisons::DISTINCT.iter().enumerate() {
        for (j, b) in comparisons::DISTINCT.iter().enumerate() {
            let expression = format!("dyn({a}) == dyn({b})");
            assert_eq!(outcome(&expression), (i == j).to_string(), "{expression}");
        }
    }
}

#[test]
fn fields() {
    assert_outcomes(collections::FIELDS);
}

#[test]
fn macros() {
    assert_outcomes(collections::MACROS);
}

#[test]
fn optionals() {
    assert_outcomes(collections::OPTIONALS);
}

#[test]
fn lists_and_sets() {
    assert_outcomes(collections::LISTS);
}

#[test]
fn strings() {
    assert_outcomes(strings::STRINGS);
}

#[test]
fn formatted_strings() {
    assert_outcomes(strings::FORMAT);
}

#[test]
fn regular_expressions() {
    assert_outcomes(strings::REGEX);
}

#[test]
fn timestamps_and_durations() {
    assert_outcomes(time::CASES);
}

#[test]
fn urls() {
    assert_outcomes(kubernetes::URLS);
}

#[test]
fn addresses() {
    assert_outcomes(kubernetes::IPS);
    assert_outcomes(kubernetes::CIDRS);
}

#[test]
fn quantities() {
    assert_outcomes(kubernetes::QUANTITIES);
}

#[test]
fn semantic_versions() {
    assert_outcomes(kubernetes::SEMVERS);
}

#[test]
fn formats() {
    assert_outcomes(kubernetes::FORMATS);
}

#[test]
fn costs_of_libraries() {
    let mut differences = Vec::new();
    for (expression, min, max, actual) in costs::CASES {
        let compiled = Env::new().compile(expression).expect(expression);
        let estimate = compiled.estimate(&Unknown);
        let program = compiled.program().expect(expression);
        let run = program.run(&[], PER_CALL_LIMIT);
        let got = (estimate.min, estimate.max, run.cost);
        if got != (*min, *max, *actual) {
            differences.push(format!(
                "{expression}: {got:?}, want {:?}",
                (min, max, actual)
            ));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
