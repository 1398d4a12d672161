//! Evaluation of a case, and its outcome as text.

use crate::{Env, PER_CALL_LIMIT, Value};

/// Evaluates an expression without variables and returns the outcome as text.
pub(super) fn outcome(expression: &str) -> String {
    let compiled = match Env::new().compile(expression) {
        Ok(compiled) => compiled,
        Err(issues) => return format!("!{}", first_message(&issues.to_string())),
    };
    let program = match compiled.program() {
        Ok(program) => program,
        Err(message) => return format!("!{message}"),
    };
    match program.run(&[], PER_CALL_LIMIT).outcome {
        Ok(value) => render(&value),
        Err(error) => format!("!{error}"),
    }
}

/// Returns the first of a compilation's messages, without position and source.
fn first_message(issues: &str) -> String {
    let line = issues.lines().next().unwrap_or_default();
    line.splitn(5, ':').nth(4).unwrap_or(line).trim().to_owned()
}

/// Writes a value with its type, much as a literal of the language; maps in
/// the order of their written keys.
pub(super) fn render(value: &Value<'_>) -> String {
    match value {
        Value::Uint(u) => format!("{u}u"),
        Value::Double(d) => format!("{d:?}"),
        Value::String(s) => serde_json::Value::from(&**s).to_string(),
        Value::Bytes(b) => {
            let digits: Vec<String> = b.iter().map(|b| format!("{b:02x}")).collect();
            format!("b\"{}\"", digits.concat())
        }
        Value::Duration(d) => format!("duration({})", crate::time::format_duration(*d)),
        Value::Timestamp(t) => format!("timestamp({})", t),
        Value::List(list) => {
            let items: Vec<String> = list.iter().map(|v| render(&v.unwrap())).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(map) => {
            let mut entries: Vec<String> = map
                .keys()
                .iter()
                .map(|k| {
                    let value = map.get(k).expect("an entry").unwrap();
                    format!("{}: {}", render(k), render(&value))
                })
                .collect();
            entries.sort();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Type(ty) => format!("type({})", ty.runtime_name()),
        Value::Optional(None) => "none".into(),
        Value::Optional(Some(value)) => format!("some({})", render(value)),
        Value::Quantity(q) => format!("quantity({q})"),
        other => other.to_text().unwrap_or_else(|_| other.to_display()),
    }
}
