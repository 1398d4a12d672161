//! Tests of declared types.

use std::sync::Arc;

use serde_json::json;

use crate::{DeclField, DeclType, Env, PER_CALL_LIMIT, Read, Type, Value, escape, unescape};

fn field(name: &str, ty: DeclType) -> (String, DeclField) {
    (
        escape(name).unwrap(),
        DeclField {
            name: name.into(),
            ty: Arc::new(ty),
            required: false,
            default: None,
        },
    )
}

#[test]
fn names_are_escaped_and_back() {
    for (name, escaped) in [
        ("a", Some("a")),
        (
            "a.b-c/d__e",
            Some("a__dot__b__dash__c__slash__d__underscores__e"),
        ),
        ("namespace", Some("__namespace__")),
        ("1a", None),
        ("a b", None),
        ("", None),
    ] {
        assert_eq!(escape(name).as_deref(), escaped, "{name}");
        if let Some(escaped) = escaped {
            assert_eq!(unescape(escaped).as_deref(), Some(name));
        }
    }
}

#[test]
fn fields_have_their_declared_types() {
    let mut moment = DeclType::simple(Type::Timestamp, 32, 21);
    moment.read = Read::DateTime;
    let mut set = DeclType::list(Arc::new(DeclType::simple(Type::String, 10, 2)), 5);
    set.read = Read::Set;
    let object = DeclType::object(
        "object",
        [
            field("when", moment),
            field("set", set),
            field("n", DeclType::simple(Type::Double, 0, 1)),
            field("if", DeclType::simple(Type::Int, 0, 1)),
        ]
        .into_iter()
        .collect(),
    );
    let decl = Arc::new(object).named("selfType");
    let env = Env::new()
        .declared("self", &decl)
        .variable("oldSelf", decl.ty.clone());
    let document = json!({"when": "2024-01-01T00:00:00Z", "set": ["a", "b"], "n": 1, "if": 2});
    let other = json!({"set": ["b", "a"], "n": 1.0});
    for (rule, value) in [
        ("self.when < timestamp('2025-01-01T00:00:00Z')", true),
        ("self.set == oldSelf.set", true),
        ("self.set + ['a', 'c'] == ['a', 'b', 'c']", true),
        ("self.n == oldSelf.n", true),
        ("self.if == 2 && !has(oldSelf.if)", true),
        ("oldSelf == self", false),
    ] {
        let compiled = env.compile(rule).unwrap();
        let program = compiled.program().unwrap();
        let values = [
            Value::typed(&document, &decl).unwrap(),
            Value::typed(&other, &decl).unwrap(),
        ];
        let run = program.run(&values, PER_CALL_LIMIT);
        assert!(
            matches!(run.outcome, Ok(Value::Bool(b)) if b == value),
            "{rule}: {run:?}"
        );
    }
    let problem = env.compile("self.nope").unwrap_err().to_string();
    assert_eq!(
        problem,
        "ERROR: <input>:1:5: undefined field 'nope'\n | self.nope\n | ....^"
    );
    // The set has at most five strings of at most ten characters.
    let bounded = env.compile("self.set.all(x, x == 'aaaaaaaaaaaa')").unwrap();
    assert_eq!(bounded.estimate(&*decl).max, 2 + 1 + 5 * (2 + 3));
}

#[test]
fn declared_sets_and_maps_are_joined_by_their_keys() {
    let strings = DeclType::list(Arc::new(DeclType::simple(Type::String, 10, 2)), 5);
    let item = DeclType::object(
        "item",
        [
            field("k", DeclType::simple(Type::String, 10, 2)),
            field("v", DeclType::simple(Type::Int, 0, 1)),
        ]
        .into_iter()
        .collect(),
    );
    let mut set = strings.clone();
    set.read = Read::Set;
    let mut map = DeclType::list(Arc::new(item), 5);
    map.read = Read::ListMap(vec!["k".into()]);
    let object = DeclType::object(
        "object",
        [field("list", strings), field("set", set), field("map", map)]
            .into_iter()
            .collect(),
    );
    let decl = Arc::new(object).named("selfType");
    let env = Env::new()
        .declared("self", &decl)
        .variable("oldSelf", decl.ty.clone());
    let document = json!({
        "list": ["a", "b"],
        "set": ["a", "b"],
        "map": [{"k": "x", "v": 1}, {"k": "y", "v": 2}],
    });
    let other = json!({
        "list": ["b", "a"],
        "set": ["b", "c"],
        "map": [{"k": "z", "v": 3}, {"k": "x", "v": 4}],
    });
    for (rule, value) in [
        // A list: order counts, and items are appended.
        ("self.list == oldSelf.list", false),
        ("self.list + oldSelf.list == ['a', 'b', 'b', 'a']", true),
        // A set: what is added appears once, and the sum is a set again.
        (
            "self.set + ['b', 'c', 'c', 'd'] == ['a', 'b', 'c', 'd']",
            true,
        ),
        ("(self.set + ['c', 'c']).size() == 3", true),
        ("self.set + ['c'] == ['c', 'b', 'a']", true),
        (
            "self.set + ['c'] + ['c', 'd'] == ['d', 'c', 'b', 'a']",
            true,
        ),
        ("self.set + oldSelf.set == oldSelf.set + self.set", true),
        ("['c'] + self.set == ['c', 'b', 'a']", false),
        ("self.set + [] == self.set", true),
        // A map: what is added replaces the items of the same keys in their places.
        ("(self.map + oldSelf.map).map(i, i.v) == [4, 2, 3]", true),
        ("(oldSelf.map + self.map).map(i, i.v) == [3, 1, 2]", true),
        ("self.map + self.map == self.map", true),
        ("self.map == oldSelf.map", false),
    ] {
        let compiled = env.compile(rule).unwrap();
        let program = compiled.program().unwrap();
        let values = [
            Value::typed(&document, &decl).unwrap(),
            Value::typed(&other, &decl).unwrap(),
        ];
        let run = program.run(&values, PER_CALL_LIMIT);
        assert!(
            matches!(run.outcome, Ok(Value::Bool(b)) if b == value),
            "{rule}: {run:?}"
        );
    }
}

#[test]
fn hostile_texts_of_declared_types_are_errors() {
    let mut date = DeclType::simple(Type::Timestamp, 32, 12);
    date.read = Read::Date;
    let mut moment = DeclType::simple(Type::Timestamp, 32, 21);
    moment.read = Read::DateTime;
    let types = [
        date,
        moment,
        DeclType::simple(Type::Duration, 32, 1),
        DeclType::simple(Type::Bytes, 32, 1),
    ];
    for text in [
        "",
        "\u{e9}",
        "2024-01-01T00:00\u{e9}\u{e9}:00Z",
        "2024-01-01T00:00:0\u{e9}0Z",
        "\u{1f600}\u{1f600}\u{1f600}\u{1f600}\u{1f600}\u{1f600}\u{1f600}Z",
        "+",
        "-",
        "1\u{e9}",
        "9999999999999999999999999999999999999999999999h",
        "=",
    ] {
        for decl in &types {
            // None of them is a value, but for base64, of nothing.
            let value = Value::typed(&json!(text), decl).map(|v| format!("{v:?}"));
            let empty_bytes = text.is_empty() && decl.ty == Type::Bytes;
            assert_eq!(
                value.is_ok(),
                empty_bytes,
                "{text:?} as {}: {value:?}",
                decl.ty
            );
        }
    }
}
