//! End-to-end tests: from expression to value, cost or error message.

mod authorization;
mod conformance;
mod language;
mod libraries;
mod robustness;
mod schemas;

use serde_json::{Value as Json, json};

use crate::{Env, Type, Unknown, Value};

/// The document that `self` refers to.
fn sample() -> Json {
    json!({
        "a": {"b": {"c": "deep"}, "i": 1},
        "list": [1, 2, 3],
        "s": "hello", "n": 2, "f": 1.5, "nothing": null,
        "m": {"k/1": "v", "k2": "w"},
    })
}

/// Evaluates an expression; returns the value as text, or the error after `!`.
fn run(expression: &str) -> String {
    let document = sample();
    let compiled = match Env::new().variable("self", Type::Dyn).compile(expression) {
        Ok(compiled) => compiled,
        Err(issues) => return format!("!{issues}"),
    };
    let program = match compiled.program() {
        Ok(program) => program,
        Err(error) => return format!("!{error}"),
    };
    let run = program.run(&[Value::json(&document)], crate::PER_CALL_LIMIT);
    match run.outcome {
        Ok(value) => match value.to_json() {
            Ok(json) => json.to_string(),
            Err(_) => value.type_of().to_string(),
        },
        Err(error) => format!("!{error}"),
    }
}

/// Returns the actual, minimum and maximum cost of an expression.
fn costs(expression: &str) -> (u64, u64, u64) {
    let document = sample();
    let env = Env::new().variable("self", Type::Dyn);
    let compiled = env.compile(expression).expect(expression);
    let range = compiled.estimate(&Unknown);
    let program = compiled.program().expect(expression);
    let run = program.run(&[Value::json(&document)], crate::PER_CALL_LIMIT);
    (run.cost, range.min, range.max)
}
