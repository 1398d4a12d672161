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
