//! Encodes objects as JSON and YAML.

use serde_json::Value;

use crate::Object;

/// Stand for the quotes of a text that version 1.1 of YAML would not read as a text.
const QUOTES: [char; 2] = ['\u{e000}', '\u{e001}'];

/// Encodes an object as YAML, with keys sorted. Texts like `yes` and `0644` are quoted, as
/// readers of version 1.1 need it.
pub fn to_yaml(object: &Object) -> String {
    let mut marked = object.clone();
    quote_words(&mut marked);
    // A JSON tree has only keys and numbers that YAML can express.
    if object.to_string().contains(QUOTES) {
        // JSON is YAML too.
        return object.to_string() + "\n";
    }
    serde_yaml::to_string(&marked)
        .unwrap_or_default()
        .replace(QUOTES, "\"")
}

/// Marks the texts that need quotes.
fn quote_words(value: &mut Value) {
    let [open, close] = QUOTES;
    match value {
        Value::String(text) if crate::fields::is_no_yaml_text(text) => {
            *text = format!("{open}{text}{close}");
        }
        Value::Array(items) => items.iter_mut().for_each(quote_words),
        Value::Object(map) => {
            for (mut key, mut value) in std::mem::take(map) {
                if crate::fields::is_no_yaml_text(&key) {
                    key = format!("{open}{key}{close}");
                }
                quote_words(&mut value);
                map.insert(key, value);
            }
        }
        _ => {}
    }
}

/// Encodes an object as compact JSON.
pub fn to_json(object: &Object) -> Vec<u8> {
    object.to_string().into_bytes()
}

/// Encodes an object as JSON indented by two, as `?pretty` requests.
pub fn to_json_pretty(object: &Object) -> Vec<u8> {
    // Serialising a tree into memory cannot fail.
    serde_json::to_vec_pretty(object).unwrap_or_default()
}

/// Removes nulls in maps, recursively; no wire format contains them.
pub fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::to_yaml;
    use serde_json::json;

    #[test]
    fn words_of_yaml_1_1_are_quoted() {
        let object = json!({"y": "n", "a": ["yes", "0644", "", "1_0", "b", "<<"], "c": true});
        let text = to_yaml(&object);
        assert!(text.contains("\"y\": \"n\""), "{text}");
        let (read, _) = crate::fields::parse_yaml(text.as_bytes()).unwrap();
        assert_eq!(read, object);
    }

    #[test]
    fn times_and_numbers_to_base_60_are_quoted() {
        for (text, quoted) in [
            ("22:22", true),
            ("-1_0:59:0.5_", true),
            ("22:60", false),
            ("22:", false),
            ("a:1", false),
            ("2026-01-01", true),
            ("2026-1-1", true),
            ("2026-01-01T10:00:00Z", true),
            ("2026-01-01t10:00:00.5+01:00", true),
            ("2026-01-01 10:00:00", true),
            ("2026-01-01 10:00:00Z", false),
            ("2026-01-01T10:00", false),
            ("2026-01-01 x", false),
            ("26-01-01", false),
        ] {
            let shown = to_yaml(&json!([text]));
            let quotes = format!("- \"{text}\"\n");
            assert_eq!(shown == quotes, quoted, "{shown}");
        }
        let odd = json!(["2026-01-01 \"# x", "2026-01-01T\n", "2026-01-01 : x"]);
        let (read, _) = crate::fields::parse_yaml(to_yaml(&odd).as_bytes()).unwrap();
        assert_eq!(read, odd);
    }
}
