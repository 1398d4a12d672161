//! Manifests as kubectl reads them: YAML 1.1, with the scalars of Go's library.
//!
//! The parser resolves plain scalars as YAML 1.2 does, where `yes` and `0644` are texts. They are
//! resolved once more here. Facts are those of `sigs.k8s.io/yaml` (`resolve` and the conversion to
//! JSON).

use std::fmt;

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Reads all documents of a text. Documents with comments only are null.
///
/// # Errors
/// Each document has its own result; the error has line and column. Repeated keys are errors, and
/// so are tags that JSON does not have.
pub fn documents(text: &str) -> impl Iterator<Item = Result<Value, serde_yaml::Error>> + '_ {
    serde_yaml::Deserializer::from_str(text).map(move |document| {
        let node = Reader { text }.deserialize(document)?;
        Ok(node.value)
    })
}

/// Reads a document whose fields keep their order. Null if the text is empty.
///
/// # Errors
/// Fails as [`documents`] does, and if there are several documents.
pub fn ordered(text: &str) -> Result<serde_yaml::Value, serde_yaml::Error> {
    let mut value = serde_yaml::from_str(text)?;
    if let Some(resolved) = documents(text).next() {
        resolve_all(&mut value, &resolved?);
    }
    Ok(value)
}

/// Replaces the texts of `value` that `resolved`, the same document, has as something else.
fn resolve_all(value: &mut serde_yaml::Value, resolved: &Value) {
    use serde_yaml::Value as Yaml;
    match (value, resolved) {
        (Yaml::Mapping(fields), Value::Object(resolved)) => {
            for (key, value) in fields {
                if let Some(resolved) = key.as_str().and_then(|key| resolved.get(key)) {
                    resolve_all(value, resolved);
                }
            }
        }
        (Yaml::Sequence(items), Value::Array(resolved)) => {
            for (item, resolved) in items.iter_mut().zip(resolved) {
                resolve_all(item, resolved);
            }
        }
        (value @ Yaml::String(_), Value::Bool(on)) => *value = Yaml::Bool(*on),
        (value @ Yaml::String(_), Value::Number(number)) => {
            // Numbers that only one of the libraries has stay texts.
            if let Ok(number) = serde_yaml::to_value(number) {
                *value = number;
            }
        }
        _ => {}
    }
}

/// Stand before and after a text that needs quotes. Characters for private use.
const QUOTES: [char; 2] = ['\u{e000}', '\u{e001}'];

/// Writes a document for readers of YAML 1.1, too: texts that are something else there, such as `on`
/// or `007`, are quoted.
///
/// # Errors
/// Fails if the value cannot be YAML.
pub fn to_string(value: &impl serde::Serialize) -> Result<String, serde_yaml::Error> {
    let mut value = serde_yaml::to_value(value)?;
    let mut marked = Vec::new();
    mark(&mut value, &mut marked);
    let mut text = serde_yaml::to_string(&value)?;
    let [open, close] = QUOTES;
    for word in marked {
        // Such words have no character that needs an escape.
        text = text.replace(&format!("{open}{word}{close}"), &format!("'{word}'"));
    }
    Ok(text)
}

/// Marks the texts of a value, also keys, that need quotes in YAML 1.1. Adds them to `marked`.
fn mark(value: &mut serde_yaml::Value, marked: &mut Vec<String>) {
    use serde_yaml::Value as Yaml;
    match value {
        Yaml::String(text) => {
            // The library quotes what is no text in YAML 1.2 itself.
            let other = serde_yaml::from_str::<Yaml>(text).is_ok_and(|read| !read.is_string());
            if resolve(text).is_some() && !other {
                let [open, close] = QUOTES;
                marked.push(text.clone());
                *text = format!("{open}{text}{close}");
            }
        }
        Yaml::Sequence(items) => items.iter_mut().for_each(|item| mark(item, marked)),
        Yaml::Mapping(fields) => {
            let old = std::mem::take(fields);
            for (mut key, mut value) in old {
                mark(&mut key, marked);
                mark(&mut value, marked);
                fields.insert(key, value);
            }
        }
        Yaml::Tagged(tagged) => mark(&mut tagged.value, marked),
        Yaml::Null | Yaml::Bool(_) | Yaml::Number(_) => {}
    }
}

/// Reads a boolean of YAML 1.1, such as `yes`, for fields of types with
/// `#[serde(deserialize_with)]`.
pub fn boolean<'de, D: serde::Deserializer<'de>>(input: D) -> Result<bool, D::Error> {
    struct Boolean;

    impl Visitor<'_> for Boolean {
        type Value = bool;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a boolean")
        }

        fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
            Ok(value)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
            match resolve(text) {
                Some(Value::Bool(value)) => Ok(value),
                _ => Err(E::invalid_type(serde::de::Unexpected::Str(text), &self)),
            }
        }

        /// As Go reads null.
        fn visit_unit<E: Error>(self) -> Result<bool, E> {
            Ok(false)
        }
    }
    input.deserialize_any(Boolean)
}

/// A value, and whether it is the key that merges mappings.
struct Node {
    value: Value,
    merges: bool,
}

impl From<Value> for Node {
    fn from(value: Value) -> Self {
        Self {
            value,
            merges: false,
        }
    }
}

/// Reads one value. `text` is the whole input, which tells quoted from plain scalars.
#[derive(Clone, Copy)]
struct Reader<'de> {
    text: &'de str,
}

impl<'de> Reader<'de> {
    /// Whether a scalar is written without quotes and without a tag. `scalar` is a part of the input.
    fn is_plain(&self, scalar: &'de str) -> bool {
        let start = (scalar.as_ptr() as usize).wrapping_sub(self.text.as_ptr() as usize);
        let Some(before) = self.text.get(..start) else {
            return false;
        };
        if before.ends_with(['"', '\'']) {
            return false;
        }
        // Properties of a node are words before it, an anchor and a tag in any order.
        let words = before.rsplit_terminator(char::is_whitespace);
        let properties = words
            .skip_while(|word| word.is_empty())
            .map(|word| word.trim_start_matches(['[', '{', ',']))
            .take(2)
            .take_while(|word| word.starts_with(['&', '!']));
        !properties.into_iter().any(|word| word.starts_with('!'))
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'de> {
    type Value = Node;

    fn deserialize<D: serde::Deserializer<'de>>(self, input: D) -> Result<Node, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'de> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON has")
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        Ok(Value::Null.into())
    }

    /// An empty document.
    fn visit_none<E: Error>(self) -> Result<Node, E> {
        self.visit_unit()
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Node, E> {
        Ok(Value::Bool(value).into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Node, E> {
        Ok(Value::from(value).into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Node, E> {
        Ok(Value::from(value).into())
    }

    #[expect(clippy::cast_precision_loss, reason = "as Go's library reads it")]
    fn visit_i128<E: Error>(self, value: i128) -> Result<Node, E> {
        self.visit_f64(value as f64)
    }

    #[expect(clippy::cast_precision_loss, reason = "as Go's library reads it")]
    fn visit_u128<E: Error>(self, value: u128) -> Result<Node, E> {
        self.visit_f64(value as f64)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Node, E> {
        let number = number(value).ok_or_else(|| E::custom(format!("JSON has no {value}")))?;
        Ok(number.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Node, E> {
        Ok(Value::from(value).into())
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Node, E> {
        if !self.is_plain(value) {
            return self.visit_str(value);
        }
        let resolved = resolve(value).unwrap_or_else(|| Value::from(value));
        Ok(Node {
            value: resolved,
            merges: value == "<<",
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut values = Vec::new();
        while let Some(node) = items.next_element_seed(self)? {
            values.push(node.value);
        }
        Ok(Value::Array(values).into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Node, A::Error> {
        let mut map = Map::new();
        let mut merged = Vec::new();
        while let Some(key) = fields.next_key_seed(self)? {
            if key.merges {
                match fields.next_value_seed(self)?.value {
                    Value::Array(values) => merged.extend(values),
                    value => merged.push(value),
                }
                continue;
            }
            let key = match key.value {
                Value::String(text) => text,
                Value::Bool(_) | Value::Number(_) => key.value.to_string(),
                _ => return Err(A::Error::custom("a key must be a text")),
            };
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("duplicate key \"{key}\"")));
            }
            let value = fields.next_value_seed(self)?.value;
            map.insert(key, value);
        }
        for other in merged {
            let Value::Object(other) = other else {
                return Err(A::Error::custom("only mappings can be merged"));
            };
            // Own fields and earlier mappings precede.
            for (key, value) in other {
                map.entry(key).or_insert(value);
            }
        }
        Ok(Value::Object(map).into())
    }
}

/// Resolves a plain scalar that YAML 1.2 takes for a text. Returns `None` if it is one in YAML 1.1,
/// too.
fn resolve(text: &str) -> Option<Value> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Some(true.into()),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Some(false.into()),
        _ => {}
    }
    let first = text.bytes().next()?;
    if !first.is_ascii_digit() && !matches!(first, b'+' | b'-') {
        return None;
    }
    let plain = text.replace('_', "");
    if let Some(value) = integer(&plain) {
        return Some(value);
    }
    let float = plain.strip_prefix(['+', '-']).unwrap_or(&plain);
    let is_float = float.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && float.contains(|c: char| c.is_ascii_digit())
        && float
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
    if !is_float {
        return None;
    }
    number(plain.parse().ok()?)
}

/// Parses an integer as Go does with base 0: `0x1f`, `0b1`, `0o17` and `017`, with a sign.
fn integer(text: &str) -> Option<Value> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let prefix = digits.get(..2).map(str::to_ascii_lowercase);
    let (base, digits) = match prefix.as_deref() {
        Some("0x") => (16, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    // A second sign is none of Go's.
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let value = sign * i128::from_str_radix(digits, base).ok()?;
    let signed = i64::try_from(value).map(Value::from);
    signed
        .or_else(|_| u64::try_from(value).map(Value::from))
        .ok()
}

/// Returns a number as Go's JSON has it: whole ones without a fraction.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the range is checked before"
)]
fn number(value: f64) -> Option<Value> {
    // All whole numbers up to here are exact.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        return Some(Value::from(value as i64));
    }
    Number::from_f64(value).map(Value::Number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Value {
        let mut all = documents(text);
        let value = all.next().unwrap().unwrap();
        assert!(all.next().is_none());
        value
    }

    #[test]
    fn plain_scalars_are_those_of_yaml_1_1() {
        for (text, expected) in [
            ("yes", json!(true)),
            ("Y", json!(true)),
            ("on", json!(true)),
            ("OFF", json!(false)),
            ("n", json!(false)),
            ("True", json!(true)),
            ("yEs", json!("yEs")),
            ("~", json!(null)),
            ("0644", json!(420)),
            ("-0644", json!(-420)),
            ("0o644", json!(420)),
            ("0b11", json!(3)),
            ("0x1F", json!(31)),
            ("1_000", json!(1000)),
            ("0x_ff", json!(255)),
            ("+12", json!(12)),
            ("08", json!(8)),
            ("1_0.5", json!(10.5)),
            ("1e3", json!(1000)),
            ("1.50", json!(1.5)),
            ("18446744073709551615", json!(u64::MAX)),
            ("9223372036854775808", json!(9_223_372_036_854_775_808u64)),
            // No numbers in Go either.
            ("12:30:45", json!("12:30:45")),
            ("2001-12-14", json!("2001-12-14")),
            ("100m", json!("100m")),
            ("1.2.3", json!("1.2.3")),
            ("0x", json!("0x")),
            ("+-1", json!("+-1")),
            ("1e", json!("1e")),
            ("_1", json!("_1")),
        ] {
            assert_eq!(read(text), expected, "{text}");
            assert_eq!(read(&format!("[{text}]"))[0], expected, "{text}");
        }
    }

    #[test]
    fn quoted_scalars_stay_texts() {
        for text in [
            "'yes'",
            "\"yes\"",
            "!!str yes",
            "&a !!str yes",
            "!!str &a yes",
            "\"y\\x65s\"",
            "|-\n  yes",
            ">-\n  yes",
        ] {
            assert_eq!(read(&format!("a: {text}\n")), json!({"a": "yes"}), "{text}");
        }
        assert_eq!(read("[!!str yes, yes]"), json!(["yes", true]));
        assert_eq!(read("a: &x yes\nb: *x"), json!({"a": true, "b": true}));
        assert_eq!(read("'on': yes\non: 'x'"), json!({"on": true, "true": "x"}));
        assert_eq!(read("# it's\na: yes"), json!({"a": true}));
        assert_eq!(read("{\"a\":yes,'b':no}"), json!({"a": true, "b": false}));
        assert_eq!(read("7: a\n0x10: b"), json!({"7": "a", "16": "b"}));
    }

    #[test]
    fn mappings_are_merged_and_not_repeated() {
        let text = "a: &a {x: 1, y1: 2}\nb: {<<: *a, x: yes}\nc: {<<: [*a, {z: 3}]}\nd: {'<<': 1}";
        assert_eq!(
            read(text),
            json!({
                "a": {"x": 1, "y1": 2},
                "b": {"x": true, "y1": 2},
                "c": {"x": 1, "y1": 2, "z": 3},
                "d": {"<<": 1},
            })
        );
        for (text, part) in [
            ("a: 1\na: 2", "duplicate key \"a\""),
            ("a: {<<: 1}", "merged"),
            ("a: !thing x", "a value that JSON has"),
            ("a: .nan", "JSON has no NaN"),
            ("? [x]\n: 1", "a key must be a text"),
        ] {
            let error = documents(text).next().unwrap().unwrap_err();
            assert!(error.to_string().contains(part), "{text}: {error}");
            assert!(error.location().is_some(), "{text}: {error}");
        }
    }

    #[test]
    fn typed_booleans_are_those_of_yaml_1_1() {
        #[derive(Debug, serde::Deserialize)]
        struct Typed {
            #[serde(default, deserialize_with = "boolean")]
            on: bool,
        }
        for (text, expected) in [
            ("'on': yes", true),
            ("'on': On", true),
            ("'on': true", true),
            ("'on': n", false),
            ("'on': OFF", false),
            ("'on': ~", false),
            ("{}", false),
        ] {
            let typed: Typed = serde_yaml::from_str(text).unwrap();
            assert_eq!(typed.on, expected, "{text}");
        }
        for text in ["'on': maybe", "'on': 1", "'on': [yes]"] {
            let error = serde_yaml::from_str::<Typed>(text).unwrap_err();
            assert!(error.to_string().contains("a boolean"), "{text}: {error}");
            assert!(error.location().is_some(), "{text}");
        }
    }

    #[test]
    fn fields_keep_their_order() {
        let text = "z: yes\na: ['on', on, 010]\nm: {y: 'no'}\n";
        let written = to_string(&ordered(text).unwrap()).unwrap();
        assert_eq!(
            written,
            "z: true\na:\n- 'on'\n- true\n- 8\nm:\n  'y': 'no'\n"
        );
        assert!(ordered("").unwrap().is_null());
        assert!(ordered("a: 1\n---\nb: 1").is_err());
    }

    #[test]
    fn texts_stay_texts_for_readers_of_yaml_1_1() {
        for text in [
            "on",
            "Yes",
            "n",
            "y",
            "007",
            "0x1f",
            "1_000",
            "0b1",
            "+1",
            "1e3",
            "true",
            "12",
            "~",
            "null",
            "a",
            "",
            "2001-12-14",
            "1:30",
            "a: b",
            "'on'",
            "\u{e000}on\u{e001}",
        ] {
            let value = json!({ "list": [text], "map": { text: text } });
            let written = to_string(&value).unwrap();
            assert_eq!(read(&written), value, "{written}");
        }
        assert_eq!(
            to_string(&json!([true, 7, "on"])).unwrap(),
            "- true\n- 7\n- 'on'\n"
        );
    }

    #[test]
    fn a_text_has_several_documents() {
        let all: Result<Vec<Value>, _> = documents("a: yes\n---\n# none\n---\nb: 010\n").collect();
        let expected = [json!({"a": true}), json!(null), json!({"b": 8})];
        assert_eq!(all.unwrap(), expected);
    }
}
