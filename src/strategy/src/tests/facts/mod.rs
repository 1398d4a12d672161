//! The facts of upstream's tests of defaulting, of registry strategies and of validation, as tables.
//!
//! A section begins with `# GROUP KIND BASE`, where `-` is the core group. Columns are separated by
//! tabs; objects are written in JSON and as merge patches (RFC 7386) for the section's base.

use rkube_api::status::FieldError;
use serde_json::{Value, json};

use super::validation::{prepared, report, summary};
use crate::{Context, strategy_for};

/// One line of a table with its section.
struct Fact<'a> {
    group: &'a str,
    kind: &'a str,
    base: Value,
    columns: Vec<&'a str>,
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn facts(table: &str) -> Vec<Fact<'_>> {
    let mut section = ("", "", Value::Null);
    let mut facts = Vec::new();
    for line in table
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with("//"))
    {
        if let Some(head) = line.strip_prefix("# ") {
            let mut words = head.splitn(3, ' ');
            let group = words.next().expect(line).trim_matches('-');
            let kind = words.next().expect(line);
            section = (group, kind, parse(words.next().unwrap_or("{}")));
            continue;
        }
        facts.push(Fact {
            group: section.0,
            kind: section.1,
            base: section.2.clone(),
            columns: line.split('\t').collect(),
        });
    }
    facts
}

fn context() -> Context<'static> {
    Context::new(jiff::Timestamp::UNIX_EPOCH, "user")
}

/// Returns what differs from `want`: values by JSON pointer, `null` for those that must be absent.
fn differences(object: &Value, want: &Value) -> Vec<String> {
    want.as_object()
        .expect("an object of pointers")
        .iter()
        .filter_map(|(pointer, want)| {
            let got = object.pointer(pointer).unwrap_or(&Value::Null);
            (got != want).then(|| format!("{pointer} is {got}, want {want}"))
        })
        .collect()
}

/// An object and the values that defaulting sets.
#[test]
fn defaults() {
    let mut wrong = Vec::new();
    for fact in facts(include_str!("defaults.txt")) {
        let strategy = strategy_for(fact.group, fact.kind);
        let mut object = super::validation::patched(&fact.base, fact.columns[0]);
        strategy.default(&mut object);
        for difference in differences(&object, &parse(fact.columns[1])) {
            wrong.push(format!("{} {}: {difference}", fact.kind, fact.columns[0]));
        }
        let once = object.clone();
        strategy.default(&mut object);
        if object != once {
            wrong.push(format!(
                "{} {}: defaults change twice",
                fact.kind, fact.columns[0]
            ));
        }
    }
    report(&wrong);
}

/// Compares the object that a create, or an update of the base, sends with the one that is stored.
#[test]
fn preparation() {
    let mut wrong = Vec::new();
    for fact in facts(include_str!("preparation.txt")) {
        let strategy = strategy_for(fact.group, fact.kind);
        let [action, patch, want] = fact.columns[..] else {
            panic!("{:?}", fact.columns);
        };
        let mut object = super::validation::patched(&fact.base, patch);
        match action {
            "create" => strategy.prepare_create(&context(), &mut object),
            "update" => strategy.prepare_update(&context(), &mut object, &fact.base),
            "status" => strategy.prepare_status_update(&context(), &mut object, &fact.base),
            other => panic!("unknown action {other}"),
        }
        for difference in differences(&object, &parse(want)) {
            wrong.push(format!("{} {action} {patch}: {difference}", fact.kind));
        }
    }
    report(&wrong);
}

/// A patch of a valid object, and the errors of the result as `Kind field`, separated by commas.
#[test]
fn validation_of_creates() {
    let mut wrong = Vec::new();
    for fact in facts(include_str!("create.txt")) {
        let strategy = strategy_for(fact.group, fact.kind);
        let base = prepared(fact.group, fact.kind, fact.base);
        let valid = summary(&strategy.validate_create(&base));
        if !valid.is_empty() {
            wrong.push(format!("the base of {}: {valid}", fact.kind));
            continue;
        }
        let object = super::validation::patched(&base, fact.columns[0]);
        let got = summary(&strategy.validate_create(&object));
        let want = fact.columns.get(1).copied().unwrap_or_default();
        if got != want {
            let (kind, patch) = (fact.kind, fact.columns[0]);
            wrong.push(format!("{kind} {patch}\n   got: {got}\n  want: {want}"));
        }
    }
    report(&wrong);
}

/// As [`validation_of_creates`], for an update of the base.
#[test]
fn validation_of_updates() {
    let mut wrong = Vec::new();
    for fact in facts(include_str!("update.txt")) {
        let strategy = strategy_for(fact.group, fact.kind);
        let mut base = prepared(fact.group, fact.kind, fact.base);
        base["metadata"]["resourceVersion"] = json!("1");
        let object = super::validation::patched(&base, fact.columns[0]);
        let got = summary(&strategy.validate_update(&object, &base));
        let want = fact.columns.get(1).copied().unwrap_or_default();
        if got != want {
            let (kind, patch) = (fact.kind, fact.columns[0]);
            wrong.push(format!("{kind} {patch}\n   got: {got}\n  want: {want}"));
        }
    }
    report(&wrong);
}

/// A patch of a valid object, and the errors of creating the result or of updating the base to it
/// as upstream words them, in columns.
#[test]
fn answers() {
    let mut wrong = Vec::new();
    for fact in facts(include_str!("answers.txt")) {
        let strategy = strategy_for(fact.group, fact.kind);
        let [action, patch, want @ ..] = &fact.columns[..] else {
            panic!("{:?}", fact.columns);
        };
        let mut base = fact.base;
        let name = base
            .pointer("/metadata/name")
            .cloned()
            .unwrap_or(json!("x"));
        base["metadata"] = json!({"name": name, "namespace": "n", "uid": "u"});
        if *action == "create" {
            base = super::validation::patched(&base, patch);
        }
        strategy.default(&mut base);
        strategy.prepare_create(&context(), &mut base);
        let mut object = super::validation::patched(&base, patch);
        let errors = match *action {
            "create" => strategy.validate_create(&base),
            "update" => {
                strategy.default(&mut object);
                strategy.prepare_update(&context(), &mut object, &base);
                strategy.validate_update(&object, &base)
            }
            "status" => {
                strategy.default(&mut object);
                strategy.prepare_status_update(&context(), &mut object, &base);
                strategy.validate_status_update(&object, &base)
            }
            other => panic!("unknown action {other}"),
        };
        let shown = |error: &FieldError| error.to_string().replace('\n', "\\n");
        let got: Vec<String> = errors.iter().map(shown).collect();
        if got != *want {
            let kind = fact.kind;
            wrong.push(format!(
                "{kind} {action} {patch}\n   got: {got:#?}\n  want: {want:#?}"
            ));
        }
    }
    report(&wrong);
}
