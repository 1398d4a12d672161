//! Sends the same requests to two servers and compares the answers.

use anyhow::Result;
use serde_json::Value;

use crate::generate::Case;
use crate::server::Server;
use crate::{life, script};

/// A difference between two servers.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The request, for people.
    pub request: String,
    /// The beginning of the request's body.
    pub body: String,
    /// The places that differ, as `path: left | right`.
    pub places: Vec<String>,
}

/// Sends a case to both servers; [`life`] says which requests.
///
/// # Errors
/// A connection fails.
pub async fn run(left: &Server, right: &Server, case: &Case) -> Result<Vec<Difference>> {
    script::run(left, right, &life::script(left, case)).await
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
    use serde_json::json;

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
