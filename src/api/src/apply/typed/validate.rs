//! Validation of values against their types.

use serde_json::Value;

use crate::apply::field_type::field_type;
use crate::apply::path::{PathElement, path_text};
use crate::schema::{Kind, Type};
use crate::text::{go_syntax, go_type, go_value};

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
                return fail(path, not_scalar(known.kind(), value));
            }
            let fits = match known.kind() {
                Kind::String | Kind::Bytes | Kind::Time | Kind::MicroTime => value.is_string(),
                Kind::Integer | Kind::Number => value.is_number(),
                Kind::Boolean => value.is_boolean(),
                _ => true,
            };
            if fits {
                return Ok(());
            }
            fail(path, not_scalar(known.kind(), value))
        }
        Atom::Map { .. } => {
            let Value::Object(map) = value else {
                return fail(path, format!("expected map, got &{{{}}}", go_value(value)));
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
                return fail(path, format!("expected list, got &{{{}}}", go_value(value)));
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

/// Returns the message about a value that is not the scalar of a kind. Upstream formats the value
/// in another way for each kind.
fn not_scalar(kind: Kind, value: &Value) -> String {
    match kind {
        Kind::Integer | Kind::Number => {
            let ty = go_type(value);
            format!("expected numeric (int or float), got {ty}")
        }
        Kind::Boolean => format!("expected boolean, got &{{{}}}", go_value(value)),
        Kind::IntOrString | Kind::Quantity => {
            format!("expected any scalar, got &{{{}}}", go_value(value))
        }
        _ => format!(
            "expected string, got &value.valueUnstructured{{Value:{}}}",
            go_syntax(value)
        ),
    }
}
