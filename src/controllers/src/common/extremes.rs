//! Objects with extreme numbers, for tests.
//!
//! Validation refuses some of these numbers, but not all, and a controller must survive what an older
//! API server, a restored snapshot or a lax rule has let through.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// The numbers to try, from the lowest to the highest.
const EXTREMES: [i64; 6] = [i64::MIN, i32::MIN as i64, -1, 0, i32::MAX as i64, i64::MAX];

fn integers(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Number(number) if number.is_i64() => found.push(path.to_owned()),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                integers(item, &format!("{path}/{index}"), found);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                integers(field, &format!("{path}/{name}"), found);
            }
        }
        _ => {}
    }
}

fn with(object: &Value, changes: &[(&str, i64)]) -> Value {
    let mut changed = object.clone();
    for (path, number) in changes {
        *changed.pointer_mut(path).unwrap() = (*number).into();
    }
    changed
}

fn read<K: DeserializeOwned>(object: &Value) -> Option<K> {
    serde_json::from_str(&object.to_string()).ok()
}

/// Calls `check` with variants of `object`: each of its integers has each extreme value that its type
/// can hold, alone and together with the lowest and highest value of each other integer.
///
/// # Panics
///
/// Panics if `object` cannot be read as `K` or has no integers.
pub fn each<K: DeserializeOwned>(object: &Value, check: impl Fn(&K)) {
    check(&read(object).expect("the template must be readable"));
    let mut paths = Vec::new();
    integers(object, "", &mut paths);
    assert!(!paths.is_empty(), "the template has no integers");
    let mut bounds: Vec<(&str, [i64; 2])> = Vec::new();
    for path in &paths {
        let held: Vec<i64> = EXTREMES
            .into_iter()
            .filter(|number| {
                let variant = read(&with(object, &[(path.as_str(), *number)]));
                variant.iter().for_each(&check);
                variant.is_some()
            })
            .collect();
        bounds.push((path.as_str(), [held[0], held[held.len() - 1]]));
    }
    for (index, (path, numbers)) in bounds.iter().enumerate() {
        for (other, others) in &bounds[index + 1..] {
            for (a, b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let variant = with(object, &[(path, numbers[a]), (other, others[b])]);
                check(&read(&variant).expect("each number alone is readable"));
            }
        }
    }
    for end in [0, 1] {
        let all: Vec<(&str, i64)> = bounds.iter().map(|(path, n)| (*path, n[end])).collect();
        check(&read(&with(object, &all)).expect("each number alone is readable"));
    }
}
