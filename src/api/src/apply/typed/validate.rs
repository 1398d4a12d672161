//! Validation of values against their types.

use serde_json::Value;

use crate::apply::field_type::field_type;
use crate::apply::path::{PathElement, path_text};
use crate::schema::{Kind, Type};

use super::atom::{Atom, atom, item_element};

/// Checks that a value fits its type.
///
/// # Errors
/// Upstream's message, with the path of the value.
pub(in crate::apply) fn validate(
    ty: Option<Type<'_>>,
    value: &Value,
    allow_duplicates: bool,
    path: &mut Vec<PathElement>,
) -> Result<(), String> {
    let fail = |path: &[PathElement], what: String| {
        let at = path_text(path);
        Err(if at.is_empty() {
            what
        } else {
            format!("{at}: {what}")
        })
    };
    if value.is_null() {
        return Ok(());
    }
    let Some(known) = ty else { return Ok(()) };
    match atom(ty, value) {
        Atom::Scalar => {
            if value.is_object() || value.is_array() {
                let expected = match known.kind() {
                    Kind::Integer | Kind::Number => "numeric (int or float)",
                    Kind::Boolean => "boolean",
                    Kind::IntOrString | Kind::Quantity => "scalar",
                    _ => "string",
                };
                return fail(path, format!("expected {expected}, got {value}"));
            }
            let wrong = match known.kind() {
                Kind::String | Kind::Bytes | Kind::Time | Kind::MicroTime if !value.is_string() => {
                    "string"
                }
                Kind::Integer | Kind::Number if !value.is_number() => "numeric (int or float)",
                Kind::Boolean if !value.is_boolean() => "boolean",
                _ => return Ok(()),
            };
            fail(path, format!("expected {wrong}, got {}", go_value(value)))
        }
        Atom::Map { .. } => {
            let Value::Object(map) = value else {
                return fail(path, format!("expected map, got {}", go_value(value)));
            };
            for (key, value) in map {
                let (below, declared) = field_type(ty, key);
                path.push(PathElement::field(key));
                if known.kind() == Kind::Object
                    && !declared
                    && below.is_none()
                    && !known.preserves_unknown()
                {
                    return fail(path, "field not declared in schema".into());
                }
                validate(below, value, allow_duplicates, path)?;
                path.pop();
            }
            Ok(())
        }
        Atom::List { associative } => {
            let Value::Array(items) = value else {
                return fail(path, format!("expected list, got {}", go_value(value)));
            };
            let mut seen: Vec<PathElement> = Vec::new();
            for (i, item) in items.iter().enumerate() {
                let step = if associative {
                    match item_element(known, item) {
                        Ok(step) => step,
                        Err(e) => return fail(path, format!("element {i}: {e}")),
                    }
                } else {
                    PathElement::Index(i64::try_from(i).unwrap_or(i64::MAX))
                };
                if associative && !allow_duplicates {
                    if seen.contains(&step) {
                        return fail(path, format!("duplicate entries for key {step}"));
                    }
                    seen.push(step.clone());
                }
                path.push(step);
                validate(known.element(), item, allow_duplicates, path)?;
                path.pop();
            }
            Ok(())
        }
    }
}

fn go_value(value: &Value) -> String {
    match value {
        Value::String(text) => format!(
            "&value.valueUnstructured{{Value:{}}}",
            crate::text::quote(text)
        ),
        other => format!("&value.valueUnstructured{{Value:{other}}}"),
    }
}
