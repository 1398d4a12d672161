//! The facts of upstream's test suites, as tables of expressions and their values.
//!
//! Left out is what Kubernetes' environment has not: types of protocol buffers, mixed
//! literals, quoted field names, and newer versions of the string library.
//!
//! A line of a table is an expression, a tab, and a literal of the same type and value;
//! `error` if compilation or evaluation fails, or `type` and a name for a type. The
//! messages of errors are tested with the cases in Rust.

use super::outcome::outcome;

const SPEC: &str = include_str!("spec.txt");
const LIBRARIES: &str = include_str!("libraries.txt");

/// Asserts every line of a table and reports all differences.
#[track_caller]
fn assert_table(table: &str) {
    let mut differences = Vec::new();
    let mut section = "";
    for line in table.lines() {
        if line.starts_with('#') {
            section = line;
            continue;
        }
        let (expression, value) = line.split_once('\t').expect(line);
        let got = outcome(expression);
        let (fits, want) = match value {
            "error" => (got.starts_with('!'), value.to_owned()),
            value => {
                let want = match value.strip_prefix("type ") {
                    Some(name) => format!("type({name})"),
                    None => outcome(value),
                };
                (got == want && !want.starts_with('!'), want)
            }
        };
        if !fits {
            differences.push(format!(
                "{section}: {expression}\n   got: {got}\n  want: {want}"
            ));
        }
    }
    assert!(
        differences.is_empty(),
        "{} differences\n{}",
        differences.len(),
        differences.join("\n")
    );
}

#[test]
fn expressions_have_the_values_of_cel_spec() {
    assert_table(SPEC);
}

#[test]
fn expressions_have_the_values_of_kubernetes() {
    assert_table(LIBRARIES);
}
