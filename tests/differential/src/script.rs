//! Sends the requests of a script to two servers at once and compares the answers.
//!
//! Paths and bodies may name what earlier answers gave: `@ns@` the namespace, `@rv@` the resource
//! version of the last answer, `@uid@` its UID, `@continue@` its continue token, and what steps
//! save. `WAIT` is no method: it waits until a path is served.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

use crate::compare::{differences, forget, settle};
use crate::pair::Difference;
use crate::server::{Answer, Ask, Server};
use crate::step::{Script, Step};

/// The state of a script on one server.
struct State<'a> {
    server: &'a Server,
    vars: BTreeMap<String, String>,
    last: Value,
}

/// Runs a script with both servers and returns the differences of their answers.
///
/// # Errors
/// A connection fails, or a step is malformed.
pub async fn run(left: &Server, right: &Server, script: &Script) -> Result<Vec<Difference>> {
    let mut left = State::new(left, script);
    let mut right = State::new(right, script);
    let mut found = Vec::new();
    clean(&left, &right, script).await?;
    for step in &script.steps {
        for (text, step) in repeated(step) {
            // Texts that a step names may name this one.
            for state in [&mut left, &mut right] {
                state.vars.insert("each".into(), text.clone());
            }
            let (a, b) = tokio::join!(left.send(&step), right.send(&step));
            let (a, b) = (a?, b?);
            let goes_on = !step.must || (a.is_ok() && b.is_ok());
            note(&mut found, &step, a, b);
            if !goes_on {
                clean(&left, &right, script).await?;
                return Ok(found);
            }
        }
    }
    clean(&left, &right, script).await?;
    Ok(found)
}

/// Returns each text of a step with the step that has it.
fn repeated(step: &Step) -> Vec<(String, Step)> {
    if step.each.is_empty() {
        return vec![(String::new(), step.clone())];
    }
    let with = |text: &String| {
        let put = |place: &str| place.replace("@each@", text);
        let mut step = step.clone();
        step.send = put(&step.send);
        step.text = step.text.map(|t| put(&t));
        step.media = step.media.map(|t| put(&t));
        step.accept = step.accept.map(|t| put(&t));
        step.json = step
            .json
            .map(|j| serde_json::from_str(&put(&j.to_string())).unwrap_or(j));
        (text.clone(), step)
    };
    step.each.iter().map(with).collect()
}

async fn clean(left: &State<'_>, right: &State<'_>, script: &Script) -> Result<()> {
    for path in &script.made {
        let (a, b) = tokio::join!(
            remove(left.server, left.filled(path)),
            remove(right.server, right.filled(path))
        );
        a?;
        b?;
    }
    Ok(())
}

/// Deletes an object at once, whatever finalizers it has.
///
/// # Errors
/// The connection fails.
pub async fn remove(server: &Server, path: String) -> Result<()> {
    let now = json!({"gracePeriodSeconds": 0}).to_string();
    let media = "application/json";
    let gone = server.send("DELETE", &path, media, now.into()).await?;
    if gone.code == 404 {
        return Ok(());
    }
    let none = json!({"metadata": {"finalizers": null}}).to_string();
    let merge = "application/merge-patch+json";
    let rest = server.send("PATCH", &path, merge, none.into()).await?;
    // No controller empties namespaces here.
    if rest.body["kind"] == "Namespace" {
        let mut namespace = rest.body;
        namespace["spec"] = json!({});
        let path = format!("{path}/finalize");
        let body = namespace.to_string().into();
        server.send("PUT", &path, media, body).await?;
    }
    Ok(())
}

impl<'a> State<'a> {
    fn new(server: &'a Server, script: &Script) -> Self {
        let mut state = Self {
            server,
            vars: BTreeMap::from([("ns".into(), server.namespace.clone())]),
            last: Value::Null,
        };
        for (name, text) in &script.vars {
            state.vars.insert(name.clone(), text.clone());
        }
        state
    }

    /// Replaces the names in a text. Texts of scripts may have names in them.
    fn filled(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for _ in 0..4 {
            for (name, value) in &self.vars {
                text = text.replace(&format!("@{name}@"), value);
            }
        }
        text
    }

    fn body(&self, step: &Step) -> Vec<u8> {
        if let Some(bytes) = &step.bytes {
            return bytes.clone();
        }
        if let Some(text) = &step.text {
            return self.filled(text).into();
        }
        if let Some(json) = &step.json {
            return self.filled(&json.to_string()).into();
        }
        let Some(changes) = &step.last else {
            return Vec::new();
        };
        let mut object = self.last.clone();
        for (pointer, value) in changes {
            change(&mut object, pointer, value);
        }
        self.filled(&object.to_string()).into()
    }

    async fn send(&mut self, step: &Step) -> Result<Answer> {
        let (method, path) = step.send.split_once(' ').context("a method and a path")?;
        let path = self.filled(path);
        if method == "WAIT" {
            return self.wait(&path).await;
        }
        let ask = Ask {
            method,
            path: &path,
            media: step.media.as_deref().unwrap_or("application/json"),
            body: self.body(step),
            accept: step.accept.as_deref().unwrap_or("application/json"),
            headers: &step.headers,
            until: step.until.as_deref(),
        };
        let answer = self.server.ask(ask).await?;
        if answer.is_ok() {
            self.learn(step, &answer);
        }
        Ok(answer)
    }

    /// Waits until a path and its OpenAPI document are served, as after the creation of a
    /// definition. Returns an answer that is the same everywhere.
    async fn wait(&self, path: &str) -> Result<Answer> {
        let json = "application/json";
        for path in [path.to_owned(), format!("/openapi/v3{path}")] {
            for _ in 0..200 {
                let answer = self.server.send("GET", &path, json, Vec::new()).await?;
                if answer.is_ok() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        // Discovery may tell of the group before its objects are served.
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(Answer::default())
    }

    fn learn(&mut self, step: &Step, answer: &Answer) {
        let metadata = &answer.body["metadata"];
        for (name, field) in [
            ("rv", "resourceVersion"),
            ("uid", "uid"),
            ("continue", "continue"),
        ] {
            if let Some(text) = metadata[field].as_str() {
                self.vars.insert(name.into(), text.into());
                if let (Some(save), "rv") = (&step.save, name) {
                    self.vars.insert(save.clone(), text.into());
                }
            }
        }
        if metadata["uid"].is_string() {
            self.last = answer.body.clone();
        }
    }
}

/// Sets the value at a JSON pointer, and makes the objects on its way; null removes it.
fn change(object: &mut Value, pointer: &str, value: &Value) {
    let mut place = object;
    let mut parts = pointer.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let key = part.replace("~1", "/").replace("~0", "~");
        let last = parts.peek().is_none();
        if place.is_array() {
            let index = key.parse().unwrap_or(usize::MAX);
            let Some(item) = place.get_mut(index) else {
                return;
            };
            place = item;
        } else {
            if !place.is_object() {
                *place = json!({});
            }
            let Some(fields) = place.as_object_mut() else {
                return;
            };
            if last && value.is_null() {
                fields.remove(&key);
                return;
            }
            place = fields.entry(key).or_insert(Value::Null);
        }
    }
    *place = value.clone();
}

fn note(found: &mut Vec<Difference>, step: &Step, left: Answer, right: Answer) {
    let shown = |answer: Answer| -> Value {
        let mut body = match (&answer.body, answer.bytes.is_empty()) {
            (Value::Null, false) if answer.is_text() => {
                String::from_utf8_lossy(&answer.bytes).into_owned().into()
            }
            _ => answer.body,
        };
        settle(&mut body);
        for pointer in &step.ignore {
            forget(&mut body, pointer);
        }
        json!({"code": answer.code, "headers": answer.headers, "body": body})
    };
    let places = differences(&shown(left), &shown(right));
    if places.is_empty() {
        return;
    }
    let mut request = step.send.clone();
    if let Some(accept) = &step.accept {
        request.push_str(&format!(" accept {accept}"));
    }
    if let Some(media) = &step.media {
        request.push_str(&format!(" {media}"));
    }
    let body = match step {
        Step {
            text: Some(text), ..
        } => text.clone(),
        Step {
            json: Some(json), ..
        } => json.to_string(),
        Step {
            last: Some(last), ..
        } => format!("last object with {last:?}"),
        _ => String::new(),
    };
    found.push(Difference {
        request,
        body: body.chars().take(300).collect(),
        places,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_set_make_and_remove() {
        let mut object = json!({"a": [{"b": 1}], "c": 2});
        change(&mut object, "/a/0/b", &json!(3));
        change(&mut object, "/d/e~1f", &json!("x"));
        change(&mut object, "/c", &Value::Null);
        assert_eq!(object, json!({"a": [{"b": 3}], "d": {"e/f": "x"}}));
    }

    #[test]
    fn steps_are_repeated_with_each_text() {
        let step = Step {
            each: vec!["a".into(), "b".into()],
            json: Some(json!({"x": "@each@"})),
            ..Step::new("GET /@each@")
        };
        let all = repeated(&step);
        assert_eq!((all.len(), &*all[1].1.send), (2, "GET /b"));
        assert_eq!(all[0].1.json, Some(json!({"x": "a"})));
    }
}
