//! Values as upstream's errors show them: all fields, in the order and with the names of its
//! internal types.

use serde_json::Value;

use crate::tree::at;

/// The form of a field in upstream's internal type.
pub(super) enum Form {
    /// A value that is null if it is unset.
    Optional,
    /// A text.
    Text,
    /// Fields, all of which are null if they are unset.
    Fields(&'static [Field]),
    /// A list of values with fields, which is null if it is unset.
    Items(&'static [Field]),
}

/// A field: its name in objects, its name in the internal type, and what it has.
pub(super) struct Field(
    pub(super) &'static str,
    pub(super) &'static str,
    pub(super) Form,
);

/// Returns a value with the given fields in upstream's notation.
pub(super) fn show(value: &Value, fields: &[Field]) -> String {
    let shown: Vec<String> = fields
        .iter()
        .map(|Field(name, internal, form)| {
            let value = at(value, name);
            let shown = match form {
                Form::Text if value.is_null() => "\"\"".to_owned(),
                Form::Fields(fields) if !value.is_null() => show(value, fields),
                Form::Items(fields) if !value.is_null() => {
                    let items = value.as_array().into_iter().flatten();
                    let shown: Vec<String> = items.map(|item| show(item, fields)).collect();
                    format!("[{}]", shown.join(","))
                }
                _ => escaped(value),
            };
            format!("\"{internal}\":{shown}")
        })
        .collect();
    format!("{{{}}}", shown.join(","))
}

/// Returns a value in JSON as Go writes it: what has a meaning in HTML is escaped.
fn escaped(value: &Value) -> String {
    let mut text = value.to_string();
    for (character, escape) in [
        ('<', "\\u003c"),
        ('>', "\\u003e"),
        ('&', "\\u0026"),
        ('\u{2028}', "\\u2028"),
        ('\u{2029}', "\\u2029"),
    ] {
        if text.contains(character) {
            text = text.replace(character, escape);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_in_order() {
        const INNER: &[Field] = &[Field("t", "Text", Form::Text)];
        let fields = [
            Field("z", "Zed", Form::Optional),
            Field("a", "A", Form::Fields(INNER)),
            Field("b", "B", Form::Fields(INNER)),
        ];
        assert_eq!(
            show(&json!({"a": {}, "z": ["<&>"]}), &fields),
            r#"{"Zed":["\u003c\u0026\u003e"],"A":{"Text":""},"B":null}"#
        );
    }
}
