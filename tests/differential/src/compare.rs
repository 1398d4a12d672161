//! Makes answers comparable, and lists how two differ.

use serde_json::Value;

/// Replaces what two servers cannot have in common: identifiers, versions, times, addresses that
/// were allocated. Lists, tables and events of watches are settled item by item.
pub fn settle(body: &mut Value) {
    if let Some(events) = body.as_array_mut() {
        for event in events {
            settle(event);
        }
        return;
    }
    if let Some(object) = body.get_mut("object") {
        settle(object);
    }
    for list in ["items", "rows"] {
        let items = body.get_mut(list).and_then(Value::as_array_mut);
        items.into_iter().flatten().for_each(settle);
    }
    if let Some(cells) = body.get_mut("cells").and_then(Value::as_array_mut) {
        cells.iter_mut().for_each(settle_cell);
    }
    if let Some(metadata) = body.get_mut("metadata") {
        settle_metadata(metadata);
    }
    if let Some(spec) = body.get_mut("spec") {
        settle_spec(spec);
    }
    if let Some(uid) = body.pointer_mut("/details/uid") {
        *uid = "set".into();
    }
    // Upstream validates metadata twice, and repeats the causes but not the message.
    if let Some(causes) = body.pointer_mut("/details/causes")
        && let Some(causes) = causes.as_array_mut()
    {
        let mut seen = Vec::new();
        causes.retain(|cause| {
            let new = !seen.contains(cause);
            seen.push(cause.clone());
            new
        });
    }
    if body.get("gitVersion").is_some()
        && let Some(fields) = body.as_object_mut()
    {
        for value in fields.values_mut() {
            *value = "set".into();
        }
    }
    texts(body, &|text| {
        // The volume of a pod's token has a random name.
        if text.starts_with("kube-api-access-") {
            text.truncate("kube-api-access-".len());
        }
        forget_uids(text);
        forget_times(text);
        forget_versions(text);
    });
}

/// Replaces the versions of objects in messages about preconditions.
fn forget_versions(text: &mut String) {
    const BEFORE: &str = "ResourceVersion in record (";
    let Some(start) = text.find(BEFORE).map(|at| at + BEFORE.len()) else {
        return;
    };
    if let Some(length) = text[start..].find(')') {
        text.replace_range(start..start + length, "VERSION");
    }
}

fn settle_metadata(metadata: &mut Value) {
    let Some(metadata) = metadata.as_object_mut() else {
        return;
    };
    for field in ["uid", "resourceVersion", "selfLink"] {
        metadata.remove(field);
    }
    for field in ["creationTimestamp", "deletionTimestamp", "continue"] {
        if metadata
            .get(field)
            .is_some_and(|v| v.is_string() && v != "")
        {
            metadata.insert(field.into(), "set".into());
        }
    }
    let entries = metadata.get_mut("managedFields");
    let entries = entries.and_then(Value::as_array_mut);
    if let Some(entries) = entries {
        for entry in entries.iter_mut().filter_map(Value::as_object_mut) {
            entry.remove("time");
        }
        // Their order depends on the second in which each was written.
        entries.sort_by_cached_key(|entry| {
            ["operation", "manager", "apiVersion", "subresource"]
                .map(|key| entry[key].as_str().unwrap_or_default().to_owned())
        });
    }
}

fn settle_spec(spec: &mut Value) {
    for field in ["clusterIP", "clusterIPs", "healthCheckNodePort"] {
        if let Some(value) = spec.get_mut(field)
            && value != "None"
            && *value != serde_json::json!(["None"])
        {
            *value = "allocated".into();
        }
    }
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten() {
        if let Some(number) = port.get_mut("nodePort") {
            *number = "allocated".into();
        }
    }
}

/// Replaces ages, times and allocated addresses in a cell of a table.
fn settle_cell(cell: &mut Value) {
    let Some(text) = cell.as_str() else { return };
    let is_age = text.len() > 1
        && text.ends_with(['s', 'm', 'h', 'd'])
        && text.starts_with(|c: char| c.is_ascii_digit())
        && text
            .chars()
            .all(|c| c.is_ascii_digit() || "smhd".contains(c));
    if is_age {
        *cell = "age".into();
    } else if text.starts_with("10.96.") {
        *cell = "allocated".into();
    }
}

/// Replaces the value at a JSON pointer; `*` stands for every item or member.
pub fn forget(value: &mut Value, pointer: &str) {
    let Some((_, rest)) = pointer.split_once('/') else {
        *value = "not compared".into();
        return;
    };
    let (key, rest) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let key = key.replace("~1", "/").replace("~0", "~");
    match value {
        Value::Array(items) if key == "*" => items.iter_mut().for_each(|v| forget(v, rest)),
        Value::Array(items) => {
            if let Some(item) = key.parse().ok().and_then(|i: usize| items.get_mut(i)) {
                forget(item, rest);
            }
        }
        Value::Object(fields) if key == "*" => fields.values_mut().for_each(|v| forget(v, rest)),
        Value::Object(fields) => {
            if let Some(member) = fields.get_mut(&key) {
                forget(member, rest);
            }
        }
        _ => {}
    }
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

/// Replaces points in time of this century with seconds, as servers set and tell them.
fn forget_times(text: &mut String) {
    const SHAPE: &[u8] = b"20dd-dd-ddTdd:dd:dd";
    if text.len() < SHAPE.len() || !text.is_ascii() {
        return;
    }
    let is_time = SHAPE.iter().zip(text.as_bytes()).all(|(s, b)| match s {
        b'd' => b.is_ascii_digit(),
        _ => s == b,
    });
    let now = is_time && !text.starts_with("2026-01-01");
    if !now {
        return;
    }
    // The digits of a fraction differ, but their number is a rule.
    if let Some(fraction) = text[SHAPE.len()..].strip_prefix('.') {
        let from = SHAPE.len() + 1;
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        text.replace_range(from..from + digits, &"0".repeat(digits));
    }
    text.replace_range(..SHAPE.len(), "time");
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
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() && keys(a) == keys(b) => {
            for (index, (x, y)) in a.iter().zip(b).enumerate() {
                path.push_str(&format!("[{index}]"));
                walk(x, y, path, found);
                path.truncate(depth);
            }
        }
        _ if left == right => {}
        (Value::Array(a), Value::Array(b)) => items(a, b, path, found),
        _ => found.push(format!("{path}: {left} | {right}")),
    }
}

/// Returns what tells the items of a list apart, if something does.
fn keys(items: &[Value]) -> Option<Vec<String>> {
    let key = |item: &Value| match item {
        Value::String(text) => Some(text.clone()),
        Value::Object(fields) => {
            let names = ["name", "resource", "version", "groupVersion", "subresource"];
            let own = names.iter().find_map(|n| fields.get(*n)?.as_str());
            let own = own.or_else(|| fields.get("metadata")?.get("name")?.as_str());
            let place = fields.get("in").and_then(Value::as_str).unwrap_or_default();
            own.map(|own| format!("{own}{place}"))
        }
        _ => None,
    };
    let all: Vec<String> = items.iter().map(key).collect::<Option<_>>()?;
    let mut sorted = all.clone();
    sorted.sort();
    sorted.dedup();
    (sorted.len() == all.len()).then_some(all)
}

/// Compares lists whose items have keys: what is missing, what differs, and the order.
fn items(left: &[Value], right: &[Value], path: &mut String, found: &mut Vec<String>) {
    let depth = path.len();
    let (Some(a), Some(b)) = (keys(left), keys(right)) else {
        let (left, right) = (Value::from(left), Value::from(right));
        found.push(format!("{path}: {left} | {right}"));
        return;
    };
    let (mut common_a, mut common_b) = (a.clone(), b.clone());
    common_a.retain(|key| b.contains(key));
    common_b.retain(|key| a.contains(key));
    if common_a != common_b {
        let (a, b) = (common_a.join(" "), common_b.join(" "));
        found.push(format!("{path} order: {a} | {b}"));
    }
    for (key, item) in a.iter().zip(left) {
        path.push_str(&format!("[{key}]"));
        match b.iter().position(|other| other == key) {
            Some(at) => walk(item, &right[at], path, found),
            None => found.push(format!("{path}: {item} | -")),
        }
        path.truncate(depth);
    }
    for (key, item) in b.iter().zip(right) {
        if !a.contains(key) {
            found.push(format!("{path}[{key}]: - | {item}"));
        }
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
    fn items_are_found_by_their_names() {
        let left = json!([{"name": "a", "x": 1}, {"name": "b"}, {"name": "c"}]);
        let right = json!([{"name": "c"}, {"name": "a", "x": 2}]);
        assert_eq!(
            differences(&left, &right),
            [
                " order: a c | c a",
                "[a].x: 1 | 2",
                "[b]: {\"name\":\"b\"} | -"
            ]
        );
    }

    #[test]
    fn places_are_forgotten_by_their_pointers() {
        let mut body = json!({"a": [{"b": 1}, {"b": 2}], "c": {"d/e": 3}});
        forget(&mut body, "/a/*/b");
        forget(&mut body, "/c/d~1e");
        let gone = "not compared";
        assert_eq!(
            body,
            json!({"a": [{"b": gone}, {"b": gone}], "c": {"d/e": gone}})
        );
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
        for (text, left) in [
            ("2026-11-30T18:00:00Z", "timeZ"),
            ("2026-11-30T18:00:00.123456Z", "time.000000Z"),
            ("2026-11-30T18:00:00Z is late by 5", "timeZ is late by 5"),
            ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ] {
            let mut told = json!({"message": text});
            settle(&mut told);
            assert_eq!(told["message"], left);
        }
        let mut told = json!({"message": "the ResourceVersion in record (53804). The"});
        settle(&mut told);
        assert_eq!(
            told["message"],
            "the ResourceVersion in record (VERSION). The"
        );
        let mut headless = json!({"spec": {"clusterIP": "None"}});
        settle(&mut headless);
        assert_ne!(headless["spec"]["clusterIP"], two["spec"]["clusterIP"]);
    }
}
