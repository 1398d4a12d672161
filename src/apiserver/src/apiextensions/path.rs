//! The JSON paths of CustomResourceDefinitions: `.spec.replicas`, `.status.conditions[0].type`,
//! `.metadata.labels['a.b/c']`, `.items[?(@.type=="Ready")].status`, `.items[*].name`.

use serde_json::Value;

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    Where {
        path: Vec<String>,
        equals: bool,
        value: Value,
    },
}

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct Path(Vec<Step>);

impl Path {
    /// Parses a path; `None` if its syntax is not supported.
    pub fn parse(text: &str) -> Option<Self> {
        let mut steps = Vec::new();
        let mut rest = text.trim();
        rest = rest.strip_prefix('$').unwrap_or(rest);
        while !rest.is_empty() {
            if let Some(tail) = rest.strip_prefix('[') {
                let end = closing(tail)?;
                let inner = tail[..end].trim();
                rest = &tail[end + 1..];
                steps.push(if inner == "*" {
                    Step::All
                } else if let Some(condition) =
                    inner.strip_prefix("?(").and_then(|c| c.strip_suffix(')'))
                {
                    filter(condition)?
                } else if let Some(name) = quoted(inner) {
                    Step::Field(name)
                } else {
                    Step::Index(inner.parse().ok()?)
                });
            } else {
                rest = rest.strip_prefix('.').unwrap_or(rest);
                if rest.is_empty() {
                    break;
                }
                let (name, end) = field_name(rest)?;
                rest = &rest[end..];
                steps.push(if name == "*" {
                    Step::All
                } else {
                    Step::Field(name)
                });
            }
        }
        Some(Self(steps))
    }

    /// Returns all values at the path.
    pub fn find<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![root];
        for step in &self.0 {
            found = found
                .into_iter()
                .flat_map(|value| -> Vec<&'a Value> {
                    match step {
                        Step::Field(name) => value.get(name).into_iter().collect(),
                        Step::Index(index) => item_at(value, *index).into_iter().collect(),
                        Step::All => match value {
                            Value::Array(items) => items.iter().collect(),
                            Value::Object(map) => map.values().collect(),
                            _ => Vec::new(),
                        },
                        Step::Where {
                            path,
                            equals,
                            value: wanted,
                        } => value
                            .as_array()
                            .into_iter()
                            .flatten()
                            .filter(|item| {
                                let found = path.iter().try_fold(*item, |v, name| v.get(name));
                                (found == Some(wanted)) == *equals
                            })
                            .collect(),
                    }
                })
                .collect();
        }
        found
    }

    /// Sets the value at a path of field names and creates missing objects. Returns `false` if the
    /// path has other steps.
    pub fn set(&self, root: &mut Value, value: Value) -> bool {
        let mut at = root;
        for step in &self.0 {
            let Step::Field(name) = step else {
                return false;
            };
            at = rkube_api::meta::map_mut(at)
                .entry(name.clone())
                .or_insert(Value::Null);
        }
        *at = value;
        true
    }
}

/// Returns the offset of the bracket that closes the one before `text`.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut depth = 0;
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(i),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn quoted(text: &str) -> Option<String> {
    let inner = ['\'', '"']
        .iter()
        .find_map(|q| text.strip_prefix(*q)?.strip_suffix(*q))?;
    Some(inner.to_owned())
}

/// Parses a filter condition such as `@.type=="Ready"`.
fn filter(condition: &str) -> Option<Step> {
    let (left, right, equals) = match condition.split_once("==") {
        Some((left, right)) => (left, right, true),
        None => {
            let (left, right) = condition.split_once("!=")?;
            (left, right, false)
        }
    };
    let path = left
        .trim()
        .strip_prefix("@.")?
        .split('.')
        .map(str::to_owned)
        .collect();
    let right = right.trim();
    let value = match quoted(right) {
        Some(text) => Value::String(text),
        None => serde_json::from_str(right).ok()?,
    };
    Some(Step::Where {
        path,
        equals,
        value,
    })
}

/// Returns the field name at the start of a path, and its end. A backslash escapes a character,
/// such as a dot.
fn field_name(path: &str) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut chars = path.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '.' | '[' => return Some((name, i)),
            '\\' => name.push(chars.next()?.1),
            c => name.push(c),
        }
    }
    Some((name, path.len()))
}

/// Returns an item of an array; a negative index counts from the end.
fn item_at(value: &Value, index: i64) -> Option<&Value> {
    let items = value.as_array()?;
    let at = if index < 0 {
        items.len() as i64 + index
    } else {
        index
    };
    items.get(usize::try_from(at).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn finds() {
        let object = json!({
            "spec": {"replicas": 3, "names": [{"name": "a"}, {"name": "b"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]},
            "metadata": {"labels": {"a.b/c": "d"}},
        });
        let find = |path: &str| -> Vec<Value> {
            Path::parse(path)
                .unwrap()
                .find(&object)
                .into_iter()
                .cloned()
                .collect()
        };
        assert_eq!(find(".spec.replicas"), [json!(3)]);
        assert_eq!(find(".spec.names[*].name"), [json!("a"), json!("b")]);
        assert_eq!(find(".spec.names[-1].name"), [json!("b")]);
        assert_eq!(
            find(".status.conditions[?(@.type==\"Ready\")].status"),
            [json!("True")]
        );
        assert_eq!(find(".metadata.labels['a.b/c']"), [json!("d")]);
        assert_eq!(find(".metadata.labels.a\\.b/c"), [json!("d")]);
        assert!(find(".nope.x").is_empty());
        assert!(Path::parse(".a[").is_none());
    }

    #[test]
    fn sets() {
        let mut object = json!({"spec": {}});
        assert!(Path::parse(".spec.a.b").unwrap().set(&mut object, json!(1)));
        assert_eq!(object, json!({"spec": {"a": {"b": 1}}}));
    }
}
