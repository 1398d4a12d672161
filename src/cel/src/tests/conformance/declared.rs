//! The facts of upstream's test suites about expressions with declared variables, as tables:
//! validation rules of custom resources, types and errors of the checker, errors of the parser,
//! and costs.
//!
//! A type is written in JSON: the name of a type or format of OpenAPI; `["list", T]`,
//! `["set", T]`, `["listmap", [KEY…], T]` or `["map", T]`; or an object with the types of its
//! fields.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::{
    DeclField, DeclType, Env, Issues, PER_CALL_LIMIT, Read, Sizes, Type, Unknown, Value, escape,
};

/// The tokens that begin an expression, as the parser's messages list them.
const EXPRESSION: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, \
    NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

/// Returns the type for its notation.
fn decl(notation: &Json) -> DeclType {
    let read = |ty, read| {
        let mut decl = DeclType::simple(ty, 0, 1);
        decl.read = read;
        decl
    };
    match notation {
        Json::String(name) => match name.as_str() {
            "integer" => DeclType::simple(Type::Int, 0, 1),
            "number" => DeclType::simple(Type::Double, 0, 1),
            "boolean" => DeclType::simple(Type::Bool, 0, 4),
            "string" => DeclType::simple(Type::String, 0, 2),
            "byte" => read(Type::Bytes, Read::Bytes),
            "duration" => read(Type::Duration, Read::Duration),
            "date" => read(Type::Timestamp, Read::Date),
            "date-time" => read(Type::Timestamp, Read::DateTime),
            "any" => DeclType::any(),
            other => panic!("unknown type {other}"),
        },
        Json::Array(parts) => {
            let element = Arc::new(decl(&parts[parts.len() - 1]));
            let list = |read| {
                let mut list = DeclType::list(element.clone(), 0);
                list.read = read;
                list
            };
            match parts[0].as_str().expect("a kind") {
                "list" => list(Read::Plain),
                "set" => list(Read::Set),
                "listmap" => list(Read::ListMap(
                    serde_json::from_value(parts[1].clone()).expect("keys"),
                )),
                "map" => DeclType::map(element, 0),
                other => panic!("unknown kind {other}"),
            }
        }
        Json::Object(fields) => {
            let field = |(name, ty): (&String, &Json)| {
                let field = DeclField {
                    name: name.clone(),
                    ty: Arc::new(decl(ty)),
                    required: false,
                    default: None,
                };
                Some((escape(name)?, field))
            };
            DeclType::object("object", fields.iter().filter_map(field).collect())
        }
        other => panic!("not a type: {other}"),
    }
}

/// Returns an environment with variables, and their types.
fn declare(variables: &Json) -> (Env, BTreeMap<String, Arc<DeclType>>) {
    let mut env = Env::new();
    let mut types = BTreeMap::new();
    for (name, ty) in variables.as_object().into_iter().flatten() {
        let decl = Arc::new(decl(ty)).named(&format!("{name}Type"));
        env = env.declared(name, &decl);
        types.insert(name.clone(), decl);
    }
    (env, types)
}

fn json(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// Collects the differences of a table, with their section.
#[derive(Default)]
struct Report(Vec<String>);

impl Report {
    fn check(&mut self, section: &str, case: &str, got: &str, want: &str) {
        if got != want {
            self.0
                .push(format!("{section}: {case}\n   got: {got}\n  want: {want}"));
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let (count, list) = (self.0.len(), self.0.join("\n"));
            assert!(self.0.is_empty(), "{count} differences\n{list}");
        }
    }
}

/// Returns the outcome of a rule about `self` as text, and its cost.
fn evaluate(env: &Env, rule: &str, object: &Json, decl: &DeclType) -> (String, u64) {
    let compiled = match env.compile(rule) {
        Ok(compiled) => compiled,
        Err(issues) => return (format!("!{issues}"), 0),
    };
    let program = match compiled.program() {
        Ok(program) => program,
        Err(message) => return (format!("!{message}"), 0),
    };
    let value = Value::typed(object, decl).expect("a value of the type");
    let run = program.run(&[value], PER_CALL_LIMIT);
    let outcome = match run.outcome {
        Ok(Value::Bool(value)) => value.to_string(),
        Ok(other) => other.type_of().to_string(),
        Err(error) => format!("!{error}"),
    };
    (outcome, run.cost)
}

#[test]
fn validation_rules_have_the_outcomes_and_costs_of_kubernetes() {
    let mut report = Report::default();
    let (mut section, mut object) = ("", Json::Null);
    let (mut env, mut types) = declare(&Json::Null);
    for line in include_str!("rules.txt").lines() {
        let mut columns = line.split('\t');
        let first = columns.next().unwrap_or_default();
        if first.starts_with('#') {
            section = first;
            continue;
        }
        let want = columns.next().expect(line);
        match first {
            "schema" => (env, types) = declare(&serde_json::json!({ "self": json(want) })),
            "object" => object = json(want),
            rule => {
                let (got, cost) = evaluate(&env, rule, &object, &types["self"]);
                // Errors are compared in the part that upstream's tests look for.
                let part = want
                    .strip_prefix('!')
                    .is_some_and(|part| got.starts_with('!') && got.contains(part));
                report.check(section, rule, if part { want } else { &got }, want);
                if let Some(want) = columns.next() {
                    report.check(section, rule, &cost.to_string(), want);
                }
            }
        }
    }
}

/// Writes errors as the tables do.
fn errors(issues: &Issues) -> String {
    let lines = issues.list().iter().map(|issue| {
        let message = issue.message.replace(EXPRESSION, "EXPRESSION");
        format!("\t{}:{}\t{message}\n", issue.line, issue.column + 1)
    });
    lines.collect()
}

/// Returns the lines that begin a case, each with the indented lines below it.
fn blocks(table: &str) -> Vec<(&str, String)> {
    let mut blocks: Vec<(&str, String)> = Vec::new();
    for line in table.lines().filter(|l| !l.starts_with('#')) {
        match blocks.last_mut() {
            Some((_, errors)) if line.starts_with('\t') => *errors += &format!("{line}\n"),
            _ => blocks.push((line, String::new())),
        }
    }
    blocks
}

/// The parser stops at the first error that the grammar finds; cel-go's goes on behind it.
#[test]
fn first_syntax_errors_have_the_positions_and_messages_of_cel_go() {
    let mut report = Report::default();
    for (expression, want) in blocks(include_str!("syntax.txt")) {
        let source = json(expression);
        let issues =
            crate::parser::parse(source.as_str().expect(expression)).expect_err(expression);
        let got = errors(&issues);
        let missing = got.lines().any(|line| !want.lines().any(|w| w == line));
        if missing || got.lines().next() != want.lines().next() {
            report.check("", expression, &got, &want);
        }
    }
}

#[test]
fn expressions_have_the_types_of_cel_go() {
    let mut report = Report::default();
    for (line, mut want) in blocks(include_str!("types.txt")) {
        let mut columns = line.split('\t');
        let expression = columns.next().expect(line);
        let ty = columns.next().expect(line);
        if ty != "error" {
            want = ty.to_owned();
        }
        let (env, _) = declare(&columns.next().map_or(Json::Null, json));
        let got = match env.compile(expression) {
            Ok(compiled) => compiled.output().to_string(),
            Err(issues) => errors(&issues),
        };
        report.check("", expression, &got, &want);
    }
}

/// Sizes given by path, with steps joined by dots.
struct Given(BTreeMap<String, u64>);

impl Sizes for Given {
    fn max(&self, path: &[String]) -> Option<u64> {
        self.0.get(&path.join(".")).copied()
    }
}

#[test]
fn costs_are_those_of_upstream() {
    let mut report = Report::default();
    let mut section = "";
    for line in include_str!("costs.txt").lines() {
        if line.starts_with('#') {
            section = line;
            continue;
        }
        let columns: Vec<&str> = line.split('\t').collect();
        let [expression, estimate, actual, ..] = columns[..] else {
            panic!("{line}");
        };
        let given = columns.get(3).map_or(Json::Null, |text| json(text));
        let (env, types) = declare(&given["types"]);
        let env = env.patches();
        let compiled = match env.compile(expression) {
            Ok(compiled) => compiled,
            Err(issues) => {
                report.check(section, expression, &issues.to_string(), "compiles");
                continue;
            }
        };
        if estimate != "-" {
            let range = match given.get("sizes") {
                Some(sizes) => {
                    let sizes = serde_json::from_value(sizes.clone()).expect(line);
                    compiled.estimate(&Given(sizes))
                }
                None => compiled.estimate(&Unknown),
            };
            let got = format!("{} {}", range.min, range.max);
            let want = estimate.replace("max", &u64::MAX.to_string());
            report.check(section, expression, &got, &want);
        }
        if actual != "-" {
            let values: Vec<Value<'_>> = types
                .iter()
                .map(|(name, decl)| Value::typed(&given["values"][name], decl).expect(line))
                .collect();
            let program = compiled.program().expect(expression);
            let run = program.run(&values, PER_CALL_LIMIT);
            report.check(section, expression, &run.cost.to_string(), actual);
        }
    }
}
