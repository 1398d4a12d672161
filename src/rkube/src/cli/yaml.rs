//! Reads files of the user's in YAML, and says in which line and column they are wrong.

use std::fmt;
use std::io::Read as _;
use std::path::Path;

use rkube_cluster::io_failure;
use rkube_failure::{Failure, Kind, Source};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

/// A file of the user's.
pub struct Document {
    /// Its name, for messages.
    name: String,
    text: String,
}

impl Document {
    /// Reads a file, or the standard input if its name is `-`.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let (name, read) = match path.to_str() {
            Some("-") => {
                let mut text = String::new();
                let read = std::io::stdin().lock().read_to_string(&mut text);
                ("the standard input".to_owned(), read.map(|_| text))
            }
            _ => (path.display().to_string(), std::fs::read_to_string(path)),
        };
        let text = read.map_err(|e| io_failure("read", path, &e))?;
        Ok(Self { name, text })
    }

    /// Returns a document with this text.
    #[cfg(test)]
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            text: text.into(),
        }
    }

    /// Parses the document.
    ///
    /// # Errors
    /// Fails with `Kind::Config` at the place of the first mistake.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_yaml::from_str(&self.text).map_err(|e| self.failure(&e))
    }

    /// Returns the failure of a value that is wrong. `path` leads to it, such as `nodes[1].role`.
    pub fn wrong(&self, path: &str, message: impl fmt::Display) -> Failure {
        let message = message.to_string();
        let probe = Probe {
            path: &steps(path),
            message: &message,
        };
        match probe.deserialize(serde_yaml::Deserializer::from_str(&self.text)) {
            Err(e) => self.failure(&e),
            // The value is missing.
            Ok(()) => config(format!("{}: {path}: {message}", self.name)),
        }
    }

    fn failure(&self, e: &serde_yaml::Error) -> Failure {
        let name = &self.name;
        match e.location() {
            Some(place) => {
                let (line, column) = (place.line(), place.column());
                let text = e.to_string();
                let text = text.replace(&format!(" at line {line} column {column}"), "");
                config(format!("{name}:{line}:{column}: {text}"))
            }
            None => config(format!("{name}: {e}")),
        }
    }
}

fn config(message: String) -> Failure {
    Failure::new(Source::Program, Kind::Config, message)
}

/// A step of a path.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// Takes a path apart, such as `nodes[1].role`.
fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for part in path.split('.') {
        let mut names = part.split('[');
        steps.extend(names.next().map(|key| Step::Key(key.to_owned())));
        let indices = names.filter_map(|index| index.trim_end_matches(']').parse().ok());
        steps.extend(indices.map(Step::Index));
    }
    steps
}

/// Fails with a message at the end of a path, so that the parser adds the place.
struct Probe<'a> {
    path: &'a [Step],
    message: &'a str,
}

impl<'de> DeserializeSeed<'de> for Probe<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Probe<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.end()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.end()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.end()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.end()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.end()
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.end()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Some((Step::Index(wanted), rest)) = self.path.split_first() else {
            return self.end();
        };
        for index in 0.. {
            let probe = Probe {
                path: rest,
                message: self.message,
            };
            let more = match index == *wanted {
                true => items.next_element_seed(probe)?.is_some(),
                false => items.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let Some((Step::Key(wanted), rest)) = self.path.split_first() else {
            return self.end();
        };
        while let Some(key) = fields.next_key::<serde_yaml::Value>()? {
            if key.as_str() == Some(wanted) {
                let probe = Probe {
                    path: rest,
                    message: self.message,
                };
                fields.next_value_seed(probe)?;
            } else {
                fields.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

impl Probe<'_> {
    fn end<E: Error>(self) -> Result<(), E> {
        Err(E::custom(self.message))
    }
}

/// Whether a value asks for nothing: null, false, or an empty text, list or mapping.
pub fn is_empty(value: &serde_yaml::Value) -> bool {
    use serde_yaml::Value;
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::String(text) => text.is_empty(),
        Value::Sequence(items) => items.is_empty(),
        Value::Mapping(fields) => fields.is_empty(),
        Value::Number(_) | Value::Tagged(_) => false,
    }
}

/// Returns a text or number as it is written.
pub fn scalar(value: &serde_yaml::Value) -> Option<String> {
    use serde_yaml::Value;
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(on) => Some(on.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_have_a_place() {
        let text = "a: 1\nnodes:\n- role: x\n- role: y\n  labels: {b: c}\n";
        let document = Document::new("f.yaml", text);
        let wrong = |path: &str| document.wrong(path, "no").message;
        assert_eq!(wrong("nodes[1].role"), "f.yaml:4:9: nodes[1].role: no");
        assert_eq!(wrong("nodes[1].labels"), "f.yaml:5:11: nodes[1].labels: no");
        assert_eq!(wrong("nodes"), "f.yaml:3:1: nodes: no");
        assert_eq!(wrong("nodes[7].role"), "f.yaml: nodes[7].role: no");
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Small {
            #[expect(dead_code, reason = "only parsed")]
            a: u8,
        }
        let unknown = document.parse::<Small>().unwrap_err();
        assert_eq!(unknown.exit_code(), 18);
        assert!(
            unknown.message.starts_with("f.yaml:2:1: "),
            "{}",
            unknown.message
        );
        assert!(unknown.message.contains("unknown field `nodes`"));
    }
}
