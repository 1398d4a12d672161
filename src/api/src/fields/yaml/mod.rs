//! Reads YAML as upstream does: version 1.1, the first document of a text, as JSON.

mod events;
mod resolve;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::decode::MAX_DEPTH;
use super::path::Path;
use events::{Event, Events};
use resolve::{infinite_key, is_base60, is_timestamp, resolve};

/// The largest number of duplicate keys that are reported.
const MAX_DUPLICATES: usize = 100;

/// Why a text could not be read.
#[derive(Debug, PartialEq)]
pub(super) enum Failure {
    /// It is no YAML; another parser knows the reason.
    Malformed,
    /// It has something that YAML allows and go-yaml refuses.
    Yaml(String),
    /// It has something that JSON cannot express.
    Json(String),
}

/// Reads the first document of a text, and a message for each duplicate key. The memory in use
/// is bounded by `budget`, also with aliases.
pub(super) fn read(text: &[u8], budget: usize) -> Result<(Value, Vec<String>), Failure> {
    let mut reader = Reader {
        events: Events::new(text).ok_or(Failure::Malformed)?,
        anchors: BTreeMap::new(),
        path: Path::default(),
        duplicates: Vec::new(),
        budget,
    };
    let value = match reader.next()? {
        Event::Over => Value::Null,
        event => reader.value(event, 0)?,
    };
    Ok((value, reader.duplicates))
}

/// Returns whether some reader of version 1.1 takes a plain scalar for something else than its
/// text.
pub fn is_no_text(text: &str) -> bool {
    text == "<<"
        || is_timestamp(text)
        || is_base60(text)
        || resolve(None, text) != Ok(Value::from(text))
}

struct Reader<'a> {
    events: Events<'a>,
    /// The values of anchors; `None` while the value is being read.
    anchors: BTreeMap<String, Option<Value>>,
    path: Path,
    duplicates: Vec<String>,
    budget: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Result<Event, Failure> {
        self.events.next().ok_or(Failure::Malformed)
    }

    fn spend(&mut self, cost: usize) -> Result<(), Failure> {
        let left = self.budget.checked_sub(cost + 1);
        self.budget =
            left.ok_or_else(|| Failure::Yaml("document contains excessive aliasing".into()))?;
        Ok(())
    }

    fn value(&mut self, event: Event, depth: usize) -> Result<Value, Failure> {
        if depth > MAX_DEPTH {
            return Err(Failure::Yaml("exceeded max depth".into()));
        }
        let (anchor, value) = match event {
            Event::Alias(name) => return self.alias(&name),
            Event::Scalar {
                anchor,
                tag,
                value,
                implicit,
            } => {
                self.spend(value.len())?;
                (anchor, scalar(tag.as_deref(), value, implicit)?)
            }
            Event::List(anchor) => {
                self.begin(anchor.as_ref())?;
                (anchor, self.list(depth)?)
            }
            Event::Map(anchor) => {
                self.begin(anchor.as_ref())?;
                (anchor, self.map(depth)?)
            }
            Event::End | Event::Over => return Err(Failure::Malformed),
        };
        if let Some(name) = anchor {
            self.spend(weight(&value))?;
            self.anchors.insert(name, Some(value.clone()));
        }
        Ok(value)
    }

    /// Accounts for a list or a map.
    fn begin(&mut self, anchor: Option<&String>) -> Result<(), Failure> {
        if let Some(name) = anchor {
            self.anchors.insert(name.clone(), None);
        }
        self.spend(0)
    }

    fn alias(&mut self, name: &str) -> Result<Value, Failure> {
        let value = match self.anchors.get(name) {
            None => return Err(Failure::Yaml(format!("unknown anchor '{name}' referenced"))),
            Some(None) => {
                return Err(Failure::Yaml(format!(
                    "anchor '{name}' value contains itself"
                )));
            }
            Some(Some(value)) => value.clone(),
        };
        self.spend(weight(&value))?;
        Ok(value)
    }

    fn list(&mut self, depth: usize) -> Result<Value, Failure> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                Event::End => return Ok(Value::Array(items)),
                event => {
                    let at = self.path.index(items.len());
                    items.push(self.value(event, depth + 1)?);
                    self.path.back(at);
                }
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, Failure> {
        let mut fields = Map::new();
        loop {
            let event = match self.next()? {
                Event::End => return Ok(Value::Object(fields)),
                event => event,
            };
            let merges = matches!(
                &event,
                Event::Scalar { value, implicit: true, .. } if value == "<<"
            );
            let infinite = match &event {
                Event::Scalar {
                    anchor: None,
                    tag: None,
                    value,
                    implicit: true,
                } => infinite_key(value),
                _ => None,
            };
            let key = match infinite {
                Some(key) => key.into(),
                None => self.value(event, depth + 1)?,
            };
            let next = self.next()?;
            if merges {
                let value = self.value(next, depth + 1)?;
                merge(&mut fields, value)?;
                continue;
            }
            let text = self.key(key)?;
            let at = self.path.field(&text);
            let value = self.value(next, depth + 1)?;
            if fields.insert(text, value).is_some() && self.duplicates.len() < MAX_DUPLICATES {
                let path = crate::text::quote(&self.path.text);
                self.duplicates.push(format!("duplicate field {path}"));
            }
            self.path.back(at);
        }
    }

    /// Returns a key as a text.
    fn key(&self, key: Value) -> Result<String, Failure> {
        match key {
            Value::String(text) => Ok(text),
            Value::Bool(_) | Value::Number(_) => Ok(crate::text::go_value(&key)),
            Value::Null => Err(Failure::Json(
                "unsupported map key of type: %!s(<nil>)".into(),
            )),
            other => Err(Failure::Yaml(format!(
                "invalid map key: {}",
                crate::text::go_syntax(&other)
            ))),
        }
    }
}

/// Returns the value of a scalar. A quoted one without a tag is a text.
fn scalar(tag: Option<&str>, value: String, implicit: bool) -> Result<Value, Failure> {
    match tag {
        None | Some("!") if !implicit => Ok(value.into()),
        Some("!") => Ok(value.into()),
        tag => resolve(tag, &value).map_err(|why| match why.starts_with("json: ") {
            true => Failure::Json(why),
            false => Failure::Yaml(why),
        }),
    }
}

/// Sets the fields of a merged map, or of each of a list of maps, the first of which wins.
fn merge(fields: &mut Map<String, Value>, value: Value) -> Result<(), Failure> {
    let refused =
        || Failure::Yaml("map merge requires map or sequence of maps as the value".into());
    match value {
        Value::Object(map) => fields.extend(map),
        Value::Array(items) => {
            for item in items.into_iter().rev() {
                let Value::Object(map) = item else {
                    return Err(refused());
                };
                fields.extend(map);
            }
        }
        _ => return Err(refused()),
    }
    Ok(())
}

/// Estimates the memory of a value.
fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 1,
        Value::Array(items) => 1 + items.iter().map(weight).sum::<usize>(),
        Value::Object(map) => {
            let fields = map.iter();
            1 + fields.map(|(k, v)| k.len() + 1 + weight(v)).sum::<usize>()
        }
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn value(text: &str) -> Result<Value, Failure> {
        read(text.as_bytes(), 10_000).map(|(value, _)| value)
    }

    #[test]
    fn documents_are_read_as_1_1() {
        for (text, expected) in [
            (
                "a: yes\nb: 'yes'\nc: !!str yes",
                json!({"a": true, "b": "yes", "c": "yes"}),
            ),
            (
                "on: 1\n2: x\n1.5: z",
                json!({"true": 1, "2": "x", "1.5": "z"}),
            ),
            (
                "a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}",
                json!({"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2}}),
            ),
            ("- |\n  a\n  b\n- >-\n  a\n  b", json!(["a\nb\n", "a b"])),
            // Only the first document counts.
            ("---\na: 1\n---\nb: [", json!({"a": 1})),
            ("# nothing", json!(null)),
            ("\u{feff}a: 1\nb: 2\n", json!({"a": 1, "b": 2})),
            (
                ".INF: 1\n-.inf: 2\n.NaN: 3\n",
                json!({".inf": 1, "-.inf": 2, ".nan": 3}),
            ),
            ("a:\n- b:\n", json!({"a": [{"b": null}]})),
        ] {
            assert_eq!(value(text).unwrap(), expected, "{text}");
        }
        let (_, duplicates) = read(b"a: {b: 1, b: 2}", 1000).unwrap();
        assert_eq!(duplicates, ["duplicate field \"a.b\""]);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        assert_eq!(value("a: ["), Err(Failure::Malformed));
        assert!(matches!(value("a: *b"), Err(Failure::Yaml(_))));
        assert!(matches!(value("a: &a [*a]"), Err(Failure::Yaml(_))));
        assert!(matches!(value("~: a"), Err(Failure::Json(_))));
        assert!(matches!(value("<<: a"), Err(Failure::Yaml(_))));
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c]";
        assert!(matches!(read(bomb.as_bytes(), 2000), Err(Failure::Yaml(_))));
    }
}
