//! Sends the same requests to two servers and compares the answers.

use anyhow::Result;
use serde_json::{Value, json};

use crate::compare::{differences, settle};
use crate::generate::Case;
use crate::server::{Answer, Server, named};

/// A difference between two servers.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The request, for people.
    pub request: String,
    /// The places that differ, as `path: left | right`.
    pub places: Vec<String>,
}

/// The modes of `fieldValidation`.
const MODES: [&str; 3] = ["Strict", "Warn", "Ignore"];

/// Sends a case to both servers: dry runs in each mode of field validation, then a creation,
/// reads, an update and an apply that change nothing, and the deletion.
///
/// # Errors
/// A connection fails.
pub async fn run(left: &Server, right: &Server, case: &Case) -> Result<Vec<Difference>> {
    let mut found = Vec::new();
    let name = format!("d{}", case.number);
    for mode in MODES {
        let query = format!("?dryRun=All&fieldValidation={mode}");
        let both = both(left, right, case, "POST", "", &query, Some(&name)).await?;
        note(&mut found, format!("POST {query}"), both);
    }
    let created = both(left, right, case, "POST", "", "", Some(&name)).await?;
    let (a, b) = (created.0.is_ok(), created.1.is_ok());
    note(&mut found, "POST".into(), created);
    if a && b {
        let place = format!("/{name}");
        let read = both(left, right, case, "GET", &place, "", None).await?;
        note(&mut found, "GET".into(), read);
        for (request, media) in [
            ("apply", "application/apply-patch+yaml"),
            ("merge patch", "application/merge-patch+json"),
        ] {
            let query = match request {
                "apply" => "?fieldManager=differential&force=true",
                _ => "",
            };
            let body = |server: &Server| named(server, case, &name).to_string().into_bytes();
            let path = |server: &Server| format!("{}{place}{query}", server.collection(case));
            let answers = (
                left.send("PATCH", &path(left), media, body(left)).await?,
                right
                    .send("PATCH", &path(right), media, body(right))
                    .await?,
            );
            note(&mut found, request.into(), answers);
        }
    }
    for server in [left, right] {
        remove(server, case, &name).await?;
    }
    Ok(found)
}

/// Deletes an object at once, whatever finalizers it has.
///
/// # Errors
/// The connection fails.
pub async fn remove(server: &Server, case: &Case, name: &str) -> Result<()> {
    let path = format!("{}/{name}", server.collection(case));
    let now = json!({"gracePeriodSeconds": 0}).to_string();
    let gone = server
        .send("DELETE", &path, "application/json", now.into_bytes())
        .await?;
    if gone.code != 404 {
        let none = json!({"metadata": {"finalizers": null}}).to_string();
        server
            .send(
                "PATCH",
                &path,
                "application/merge-patch+json",
                none.into_bytes(),
            )
            .await?;
    }
    Ok(())
}

async fn both(
    left: &Server,
    right: &Server,
    case: &Case,
    method: &str,
    place: &str,
    query: &str,
    name: Option<&str>,
) -> Result<(Answer, Answer)> {
    let path = |server: &Server| format!("{}{place}{query}", server.collection(case));
    let body = |server: &Server| match name {
        Some(name) => named(server, case, name).to_string().into_bytes(),
        None => Vec::new(),
    };
    Ok((
        left.send(method, &path(left), "application/json", body(left))
            .await?,
        right
            .send(method, &path(right), "application/json", body(right))
            .await?,
    ))
}

fn note(found: &mut Vec<Difference>, request: String, (left, right): (Answer, Answer)) {
    let shown = |answer: Answer| -> Value {
        let mut body = answer.body;
        settle(&mut body);
        json!({"code": answer.code, "warnings": answer.warnings, "body": body})
    };
    let places = differences(&shown(left), &shown(right));
    if !places.is_empty() {
        found.push(Difference { request, places });
    }
}

/// Removes from a case what its difference does not need: field by field, as long as the same
/// request still differs in the wanted places.
///
/// # Errors
/// A connection fails.
pub async fn minimise(
    left: &Server,
    right: &Server,
    case: &Case,
    wanted: &Difference,
) -> Result<Case> {
    let mut smallest = case.clone();
    let mut paths = Vec::new();
    pointers(&case.object, &mut String::new(), &mut paths);
    for pointer in paths {
        if matches!(pointer.as_str(), "/apiVersion" | "/kind" | "/metadata") {
            continue;
        }
        let mut smaller = smallest.clone();
        if !remove_at(&mut smaller.object, &pointer) {
            continue;
        }
        let found = run(left, right, &smaller).await?;
        let heads = |difference: &Difference| -> Vec<String> {
            let heads = difference
                .places
                .iter()
                .map(|p| p.split(": ").next().unwrap_or(p));
            heads.map(str::to_owned).collect()
        };
        let shown = heads(wanted);
        if found.iter().any(|d| {
            let places = heads(d);
            d.request == wanted.request && shown.iter().all(|place| places.contains(place))
        }) {
            smallest = smaller;
        }
    }
    Ok(smallest)
}

/// Collects the JSON pointers of all members of objects, outer ones first.
fn pointers(value: &Value, path: &mut String, found: &mut Vec<String>) {
    let depth = path.len();
    match value {
        Value::Object(fields) => {
            for (key, member) in fields {
                path.push('/');
                path.push_str(&key.replace('~', "~0").replace('/', "~1"));
                found.push(path.clone());
                pointers(member, path, found);
                path.truncate(depth);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                path.push_str(&format!("/{index}"));
                pointers(item, path, found);
                path.truncate(depth);
            }
        }
        _ => {}
    }
}

fn remove_at(object: &mut Value, pointer: &str) -> bool {
    let Some((parent, last)) = pointer.rsplit_once('/') else {
        return false;
    };
    let key = last.replace("~1", "/").replace("~0", "~");
    let parent = object.pointer_mut(parent).and_then(Value::as_object_mut);
    parent.is_some_and(|fields| fields.remove(&key).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_and_removed_by_their_pointers() {
        let mut object = json!({"a/b": [{"c": 1}], "d": {}});
        let mut found = Vec::new();
        pointers(&object, &mut String::new(), &mut found);
        assert_eq!(found, ["/a~1b", "/a~1b/0/c", "/d"]);
        assert!(remove_at(&mut object, "/a~1b/0/c"));
        assert!(!remove_at(&mut object, "/a~1b/0/c"));
        assert_eq!(object, json!({"a/b": [{}], "d": {}}));
    }
}
