//! Go's quoting of strings, as by `%q` in error messages.

use std::fmt::Write as _;

use serde_json::Value;

/// Returns `text` in double quotes with Go's escapes, as `strconv.Quote`.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c if !is_printable(c) && c as u32 <= 0xffff => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c if !is_printable(c) => {
                let _ = write!(out, "\\U{:08x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Returns whether Go prints a character as it is (`unicode.IsPrint`): letters, marks,
/// numbers, punctuation, symbols, and of all spaces only U+0020.
pub fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return c == ' ' || c.is_ascii_graphic();
    }
    // Rust has the same rule for its own quotes. It escapes marks too, but only at the
    // start of a text.
    let mut text = String::from("a");
    text.push(c);
    text.escape_debug().nth(1) != Some('\\')
}

/// Formats a value as Go's `fmt` does with `%+v` if it holds maps and lists of interfaces.
pub fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_value).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            let entries: Vec<String> = entries
                .into_iter()
                .map(|(key, value)| format!("{key}:{}", go_value(value)))
                .collect();
            format!("map[{}]", entries.join(" "))
        }
        Value::Number(number) if number.is_f64() => {
            let number = number.as_f64().unwrap_or_default();
            // Go shows a float without a fraction like an integer.
            match number.fract() == 0.0 && number.abs() < 1e21 {
                true => format!("{number:.0}"),
                false => number.to_string(),
            }
        }
        other => other.to_string(),
    }
}

/// Returns the Go type of a decoded value, as `fmt` shows it with `%T`.
pub fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// Formats a value in Go's syntax, as `fmt` does with `%#v`.
pub fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".into(),
        Value::String(text) => quote(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_syntax).collect();
            format!("[]interface {{}}{{{}}}", items.join(", "))
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            let entry =
                |(key, value): (&String, &Value)| format!("{}:{}", quote(key), go_syntax(value));
            let entries: Vec<String> = entries.into_iter().map(entry).collect();
            format!("map[string]interface {{}}{{{}}}", entries.join(", "))
        }
        other => go_value(other),
    }
}

#[cfg(test)]
mod tests {
    use super::{go_syntax, go_type, go_value, quote};

    #[test]
    fn values_are_shown_in_gos_syntax() {
        let value = serde_json::json!({"b": [1, "x", null], "a": {"c": true}});
        assert_eq!(
            go_syntax(&value),
            r#"map[string]interface {}{"a":map[string]interface {}{"c":true}, "b":[]interface {}{1, "x", interface {}(nil)}}"#
        );
        assert_eq!(go_syntax(&serde_json::json!(1000.0)), "1000");
        assert_eq!(go_type(&value), "map[string]interface {}");
        assert_eq!(go_type(&value["b"]), "[]interface {}");
    }

    #[test]
    fn values_are_shown_as_by_go() {
        let value = serde_json::json!({"b": [1, "x", null, {}], "a": {"c": true, "d": 1.5}});
        assert_eq!(
            go_value(&value),
            "map[a:map[c:true d:1.5] b:[1 x <nil> map[]]]"
        );
    }

    #[test]
    fn quotes_as_go_does() {
        for (text, quoted) in [
            ("a\"b\\c\n\u{1}ü", r#""a\"b\\c\n\x01ü""#),
            ("\u{7}\u{8}\u{b}\u{c}\r\t\u{7f}", r#""\a\b\v\f\r\t\x7f""#),
            // Spaces, format characters and controls that look like nothing.
            (
                "a\u{a0}b\u{200b}c\u{2028}\u{ad}\u{feff}",
                r#""a\u00a0b\u200bc\u2028\u00ad\ufeff""#,
            ),
            ("\u{85}\u{e000}\u{378}", r#""\u0085\ue000\u0378""#),
            ("\u{e0001}\u{10ffff}", r#""\U000e0001\U0010ffff""#),
            // Marks, symbols and letters of all scripts.
            ("e\u{301} 日本 😀 ٣ €", "\"e\u{301} 日本 😀 ٣ €\""),
            ("\u{301}", "\"\u{301}\""),
        ] {
            assert_eq!(quote(text), quoted);
        }
    }
}
