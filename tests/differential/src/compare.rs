//! Makes answers comparable, and lists how two differ.

use serde_json::Value;

/// Removes what two servers cannot have in common: identifiers, versions, times, addresses that
/// were allocated.
pub fn settle(body: &mut Value) {
    if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["uid", "resourceVersion", "selfLink"] {
            metadata.remove(field);
        }
        if metadata
            .get("creationTimestamp")
            .is_some_and(Value::is_string)
        {
            metadata.insert("creationTimestamp".into(), "set".into());
        }
        for entry in metadata
            .get_mut("managedFields")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Some(entry) = entry.as_object_mut() {
                entry.remove("time");
            }
        }
    }
    if let Some(spec) = body.get_mut("spec").and_then(Value::as_object_mut) {
        for field in ["clusterIP", "clusterIPs", "healthCheckNodePort"] {
            if let Some(value) = spec.get_mut(field)
                && value != "None"
                && *value != serde_json::json!(["None"])
            {
                *value = "allocated".into();
            }
        }
        for port in spec
            .get_mut("ports")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Some(number) = port.get_mut("nodePort") {
                *number = "allocated".into();
            }
        }
    }
    if let Some(uid) = body.pointer_mut("/details/uid") {
        *uid = "set".into();
    }
    texts(body, &|text| {
        // The volume of a pod's token has a random name.
        if text.starts_with("kube-api-access-") {
            text.truncate("kube-api-access-".len());
        }
        forget_uids(text);
    });
}

/// Removes nulls, which protobuf cannot tell from missing fields.
pub fn prune_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, member| !member.is_null());
            fields.values_mut().for_each(prune_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(prune_nulls),
        _ => {}
    }
}

/// Calls `change` with every text.
fn texts(value: &mut Value, change: &impl Fn(&mut String)) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(|v| texts(v, change)),
        Value::Array(items) => items.iter_mut().for_each(|v| texts(v, change)),
        Value::String(text) => change(text),
        _ => {}
    }
}

/// Replaces UIDs in a text. Jobs have theirs in labels, and so in messages about labels.
fn forget_uids(text: &mut String) {
    const LENGTH: usize = 36;
    let mut from = 0;
    while let Some(window) = text.as_bytes().get(from..from + LENGTH) {
        if is_uid(window) {
            text.replace_range(from..from + LENGTH, "UID");
        }
        from += 1;
    }
}

fn is_uid(text: &[u8]) -> bool {
    text.iter().enumerate().all(|(index, byte)| match index {
        8 | 13 | 18 | 23 => *byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    })
}

/// Lists the places in which two values differ, as `path: left | right`.
pub fn differences(left: &Value, right: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(left, right, &mut String::new(), &mut found);
    found
}

fn walk(left: &Value, right: &Value, path: &mut String, found: &mut Vec<String>) {
    let depth = path.len();
    match (left, right) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                path.push('.');
                path.push_str(key);
                match (a.get(key), b.get(key)) {
                    (Some(x), Some(y)) => walk(x, y, path, found),
                    (Some(x), None) => found.push(format!("{path}: {x} | -")),
                    (None, Some(y)) => found.push(format!("{path}: - | {y}")),
                    (None, None) => {}
                }
                path.truncate(depth);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (x, y)) in a.iter().zip(b).enumerate() {
                path.push_str(&format!("[{index}]"));
                walk(x, y, path, found);
                path.truncate(depth);
            }
        }
        _ if left == right => {}
        _ => found.push(format!("{path}: {left} | {right}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn places_are_named() {
        let left = json!({"a": [1, {"b": null}], "c": "x"});
        let right = json!({"a": [1, {}], "c": "y", "d": []});
        assert_eq!(
            differences(&left, &right),
            [".a[1].b: null | -", ".c: \"x\" | \"y\"", ".d: - | []"]
        );
        assert_eq!(differences(&left, &left), [""; 0]);
    }

    #[test]
    fn what_servers_choose_does_not_differ() {
        let mut one = json!({"metadata": {"uid": "1", "resourceVersion": "5", "creationTimestamp": "a"},
            "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 1, "nodePort": 30000}]}});
        let mut two = json!({"metadata": {"uid": "2", "resourceVersion": "6", "creationTimestamp": "b"},
            "spec": {"clusterIP": "10.0.0.2", "ports": [{"port": 1, "nodePort": 30001}]}});
        settle(&mut one);
        settle(&mut two);
        assert_eq!(one, two);
        let mut told = json!({"message": "é 4bf36933-5939-483a-8ff0-31b4a3612fbc, 4bf36933-5939"});
        settle(&mut told);
        assert_eq!(told["message"], "é UID, 4bf36933-5939");
        let mut headless = json!({"spec": {"clusterIP": "None"}});
        settle(&mut headless);
        assert_ne!(headless["spec"]["clusterIP"], two["spec"]["clusterIP"]);
    }
}
