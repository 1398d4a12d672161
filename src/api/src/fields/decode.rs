//! Parses JSON and YAML into trees. The memory in use is bounded by a fixed multiple of
//! the input's size, also for hostile input.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{
    Deserialize as _, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Number, Value};

use crate::Object;
use crate::status::Status;

use super::path::Path;
use super::syntax::json_fault;
use super::yaml;

/// The deepest nesting of objects. The parsers have the same limit.
pub const MAX_DEPTH: usize = 127;

/// Returns whether a tree is nested no deeper than what can be parsed.
pub fn is_readable(value: &Value) -> bool {
    fn fits(value: &Value, left: usize) -> bool {
        match value {
            Value::Array(items) => left > 0 && items.iter().all(|item| fits(item, left - 1)),
            Value::Object(map) => left > 0 && map.values().all(|item| fits(item, left - 1)),
            _ => true,
        }
    }
    fits(value, MAX_DEPTH)
}

/// The largest number of duplicate keys that are reported.
const MAX_DUPLICATES: usize = 100;

/// The remaining memory budget of a document, and the duplicate keys found in it.
struct State {
    path: Path,
    duplicates: Vec<String>,
    budget: usize,
}

impl State {
    fn new(bytes: &[u8]) -> RefCell<Self> {
        // Without aliases every node and every string takes at least its bytes of input.
        let budget = bytes.len().saturating_mul(10).saturating_add(10_000);
        RefCell::new(Self {
            path: Path::default(),
            duplicates: Vec::new(),
            budget,
        })
    }
}

/// Parses JSON and returns the tree with messages about duplicate keys,
/// `duplicate field "…"`. The last value of a key counts.
///
/// As in Go, bytes that are not UTF-8 and halves of surrogate pairs become U+FFFD.
///
/// # Errors
/// 400 with Go's message.
pub fn parse_json(bytes: &[u8]) -> Result<(Object, Vec<String>), Status> {
    read_json(bytes)
        .or_else(|error| match well_formed(bytes) {
            Some(text) => read_json(text.as_bytes()),
            None => Err(error),
        })
        .map_err(|e| {
            // A fault that only this parser sees is its limit of nesting.
            let why = json_fault(bytes).unwrap_or_else(|| e.to_string());
            Status::bad_request(format!("{JSON_ERROR}{why}"))
        })
}

/// Prefix of the message of the JSON decoder.
pub const JSON_ERROR: &str = "couldn't get version/kind; json parse error: ";

fn read_json(bytes: &[u8]) -> Result<(Object, Vec<String>), serde_json::Error> {
    let state = State::new(bytes);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Seed {
        state: &state,
        depth: 0,
    }
    .deserialize(&mut deserializer)
    .and_then(|value| deserializer.end().map(|()| value))?;
    Ok((value, state.into_inner().duplicates))
}

/// Returns JSON without what is no Unicode text; `None` if it has nothing of that.
fn well_formed(bytes: &[u8]) -> Option<String> {
    const REPLACEMENT: &str = "\\ufffd";
    let text = String::from_utf8_lossy(bytes);
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut out = String::with_capacity(text.len());
    let (mut done, mut at) = (0, 0);
    while let Some(found) = text[at..].find('\\') {
        let start = at + found;
        at = match (unit(start), unit(start + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => start + 12,
            (Some(0xd800..=0xdfff), _) => {
                out.push_str(&text[done..start]);
                out.push_str(REPLACEMENT);
                done = start + 6;
                done
            }
            // An escape, of which the second character may be a backslash.
            _ => match text[start + 1..].chars().next() {
                Some(next) => start + 1 + next.len_utf8(),
                None => text.len(),
            },
        };
    }
    let changed = done > 0 || matches!(text, std::borrow::Cow::Owned(_));
    out.push_str(&text[done..]);
    changed.then_some(out)
}

/// Parses the first document of a YAML text, like [`parse_json`]. As upstream, YAML is version
/// 1.1: `yes` is true and `0644` is 420. Keys that are numbers or booleans become strings.
///
/// # Errors
/// 400 with go-yaml's message.
pub fn parse_yaml(bytes: &[u8]) -> Result<(Object, Vec<String>), Status> {
    check_nesting(bytes)?;
    let budget = State::new(bytes).into_inner().budget;
    yaml::read(bytes, budget).map_err(|failure| match failure {
        yaml::Failure::Malformed => Status::bad_request(format!("yaml: {}", yaml_fault(bytes))),
        yaml::Failure::Yaml(why) => Status::bad_request(format!("yaml: {why}")),
        yaml::Failure::Json(why) => Status::bad_request(why),
    })
}

/// Returns a text without a byte order mark, which `serde_yaml` does not skip.
fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// Returns go-yaml's message about malformed YAML, from that of the Rust parser, which is the same
/// one in another language.
fn yaml_fault(bytes: &[u8]) -> String {
    let mut documents = serde_yaml::Deserializer::from_slice(without_mark(bytes));
    let error = documents.find_map(|d| serde::de::IgnoredAny::deserialize(d).err());
    let Some(error) = error else {
        return "unknown problem parsing YAML content".into();
    };
    let text = error.to_string();
    let why = text.split(" at line ").next().unwrap_or(&text);
    let line = error.location().map_or(0, |at| at.line());
    // The parser counts lines from zero, the scanner from one.
    let of_parser = why.starts_with("did not find expected")
        || why.starts_with("found undefined tag")
        || why.starts_with("found duplicate")
        || why.starts_with("found incompatible");
    match if of_parser {
        line.saturating_sub(1)
    } else {
        line
    } {
        0 => why.to_owned(),
        line => format!("line {line}: {why}"),
    }
}

/// The largest number of brackets that may be open at once in a YAML document.
const MAX_OPEN_BRACKETS: usize = 1000;

/// Rejects documents with too many open brackets.
///
/// The parser visits every open bracket in each of its steps, so that a few hundred
/// kilobytes of them would take minutes. Brackets in strings count too; no valid document
/// opens so many more than it closes.
fn check_nesting(bytes: &[u8]) -> Result<(), Status> {
    let mut open = 0usize;
    for byte in bytes {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => continue,
        }
        if open > MAX_OPEN_BRACKETS {
            return Err(Status::bad_request(format!(
                "yaml: exceeded max depth of {MAX_OPEN_BRACKETS}"
            )));
        }
    }
    Ok(())
}

/// Returns upstream's message about the first repeated key of a YAML document, with its
/// line counted from 1; `None` if no key is repeated.
pub fn yaml_duplicate(bytes: &[u8]) -> Option<String> {
    check_nesting(bytes).ok()?;
    let error = Strict
        .deserialize(serde_yaml::Deserializer::from_slice(without_mark(bytes)))
        .err()?;
    let line = error.location()?.line();
    // The parser adds the position to this message.
    let text = error.to_string();
    let key = text.split_once(REPEATED)?.1.trim_start();
    let key = &key[..key.rfind(REPEATED_END)?];
    Some(format!(
        "error converting YAML to JSON: yaml: unmarshal errors:\n  line {line}: key {key} already set in map"
    ))
}

const REPEATED: &str = "repeated key";
const REPEATED_END: &str = " (repeated)";

/// Reads only the keys of a document and fails at the first repeated one.
#[derive(Clone, Copy)]
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a document")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i128<E>(self, _: i128) -> Result<(), E> {
        Ok(())
    }

    fn visit_u128<E>(self, _: u128) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(key) = entries.next_key_seed(NewKey(&seen))? {
            seen.insert(key);
            entries.next_value_seed(self)?;
        }
        Ok(())
    }
}

/// A key that must be unique. The check fails while the parser is at the key, so that
/// the error has the key's position.
struct NewKey<'s>(&'s BTreeSet<String>);

impl NewKey<'_> {
    fn check<E: serde::de::Error>(&self, key: String) -> Result<String, E> {
        if self.0.contains(&key) {
            let key = crate::text::quote(&key);
            return Err(E::custom(format!("{REPEATED} {key}{REPEATED_END}")));
        }
        Ok(key)
    }
}

impl<'de> DeserializeSeed<'de> for NewKey<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NewKey<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        KeySeed.expecting(f)
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<String, E> {
        self.check(key.to_owned())
    }

    fn visit_bool<E: serde::de::Error>(self, key: bool) -> Result<String, E> {
        self.check(KeySeed.visit_bool(key)?)
    }

    fn visit_i64<E: serde::de::Error>(self, key: i64) -> Result<String, E> {
        self.check(KeySeed.visit_i64(key)?)
    }

    fn visit_u64<E: serde::de::Error>(self, key: u64) -> Result<String, E> {
        self.check(KeySeed.visit_u64(key)?)
    }

    fn visit_f64<E: serde::de::Error>(self, key: f64) -> Result<String, E> {
        self.check(KeySeed.visit_f64(key)?)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<String, E> {
        self.check(KeySeed.visit_unit()?)
    }
}

#[derive(Clone, Copy)]
struct Seed<'s> {
    state: &'s RefCell<State>,
    depth: usize,
}

impl Seed<'_> {
    fn spend<E: serde::de::Error>(&self, cost: usize) -> Result<(), E> {
        let mut state = self.state.borrow_mut();
        state.budget = state
            .budget
            .checked_sub(cost + 1)
            .ok_or_else(|| E::custom("document contains excessive aliasing"))?;
        Ok(())
    }

    fn deeper<E: serde::de::Error>(&self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom("exceeded max depth"));
        }
        Ok(Self {
            state: self.state,
            depth: self.depth + 1,
        })
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::Null)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::from(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::from(value))
    }

    // As Go's decoder into an interface, integers beyond 64 bits become floats.
    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<Value, E> {
        self.visit_f64(value as f64)
    }

    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<Value, E> {
        self.visit_f64(value as f64)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        self.spend(0)?;
        let number = Number::from_f64(value).ok_or_else(|| E::custom("JSON has no such number"))?;
        Ok(Value::Number(number))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.spend(value.len())?;
        Ok(Value::from(value))
    }

    fn visit_string<E: serde::de::Error>(self, value: String) -> Result<Value, E> {
        self.spend(value.len())?;
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.spend(0)?;
        let inner = self.deeper()?;
        let mut out = Vec::new();
        loop {
            let at = self.state.borrow_mut().path.index(out.len());
            let item = items.next_element_seed(inner)?;
            self.state.borrow_mut().path.back(at);
            match item {
                Some(item) => out.push(item),
                None => return Ok(Value::Array(out)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.spend(0)?;
        let inner = self.deeper()?;
        let mut out = Map::new();
        while let Some(key) = entries.next_key_seed(KeySeed)? {
            self.spend(key.len())?;
            let at = self.state.borrow_mut().path.field(&key);
            let value = entries.next_value_seed(inner)?;
            let mut state = self.state.borrow_mut();
            if out.insert(key, value).is_some() && state.duplicates.len() < MAX_DUPLICATES {
                let message = format!("duplicate field {}", crate::text::quote(&state.path.text));
                if !state.duplicates.contains(&message) {
                    state.duplicates.push(message);
                }
            }
            state.path.back(at);
        }
        Ok(Value::Object(out))
    }
}

/// A map's key: a string, or another scalar of YAML as a string.
struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for KeySeed {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a scalar key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<String, E> {
        Ok(key.to_owned())
    }

    fn visit_string<E: serde::de::Error>(self, key: String) -> Result<String, E> {
        Ok(key)
    }

    fn visit_bool<E: serde::de::Error>(self, key: bool) -> Result<String, E> {
        Ok(key.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, key: i64) -> Result<String, E> {
        Ok(key.to_string())
    }

    fn visit_u64<E: serde::de::Error>(self, key: u64) -> Result<String, E> {
        Ok(key.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, key: f64) -> Result<String, E> {
        Ok(key.to_string())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<String, E> {
        Err(E::custom("null is no key"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<String, A::Error> {
        Err(A::Error::custom("a list is no key"))
    }
}
