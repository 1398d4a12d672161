//! Validation rules of definitions (`x-kubernetes-validations`): compilation and evaluation.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use rkube_api::Object;
use rkube_api::status::FieldError;
use rkube_cel::{
    Compiled, DeclType, Env, MAX_MESSAGE, PER_CALL_LIMIT, Program, RUNTIME_BUDGET, Type,
    Value as Cel,
};
use serde_json::Value;

use super::rule_types::decl_type;

/// A compiled rule.
pub struct Rule {
    /// The rule as written in the schema.
    pub value: Value,
    /// The compiled rule, or its compile error; `None` if the rule is empty.
    pub compiled: Option<Result<Runnable, String>>,
    /// The compiled `messageExpression`, or its compile error; `None` if there is none.
    pub message: Option<Result<Runnable, String>>,
    /// The path of the field at which a failure is reported, relative to the schema.
    field_path: String,
}

/// A compiled expression.
pub struct Runnable {
    program: Program,
    /// Whether the expression uses `oldSelf`.
    pub uses_old: bool,
    /// The maximum estimated cost, from the size limits of the schema.
    pub max_cost: u64,
}

/// The rules of a schema and of its parts.
pub struct Rules {
    /// The schema's type, for error messages.
    type_name: String,
    decl: Option<Arc<DeclType>>,
    own: Vec<Rule>,
    properties: BTreeMap<String, Rules>,
    additional: Option<Box<Rules>>,
    items: Option<Box<Rules>>,
    /// The keys by which list items are matched with their old values.
    list_keys: Option<Vec<String>>,
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

/// Compiles the rules of one schema, without those of its parts.
pub fn compile(schema: &Value, decl: &Arc<DeclType>) -> Vec<Rule> {
    let named = decl.named("selfType");
    let plain = Env::new()
        .declared("self", &named)
        .variable("oldSelf", named.ty.clone());
    let optional = Env::new()
        .declared("self", &named)
        .variable("oldSelf", Type::optional(named.ty.clone()));
    let rules = schema["x-kubernetes-validations"].as_array();
    rules
        .into_iter()
        .flatten()
        .map(|rule| {
            let env = if rule["optionalOldSelf"] == true {
                &optional
            } else {
                &plain
            };
            let source = text(rule, "rule");
            let compiled = (!source.trim().is_empty()).then(|| {
                runnable(env, source, &Type::Bool, decl).map_err(|e| match e {
                    Problem::Compilation(issues) => format!("compilation failed: {issues}"),
                    Problem::Type => "cel expression must evaluate to a bool".into(),
                    Problem::Program(e) => format!("program instantiation failed: {e}"),
                })
            });
            let source = text(rule, "messageExpression");
            let fine = matches!(compiled, Some(Ok(_)));
            let message = (fine && !source.is_empty()).then(|| {
                runnable(env, source, &Type::String, decl).map_err(|e| match e {
                    Problem::Compilation(issues) => {
                        format!("messageExpression compilation failed: {issues}")
                    }
                    Problem::Type => "messageExpression must evaluate to a string".into(),
                    Problem::Program(e) => {
                        format!("messageExpression instantiation failed: {e}")
                    }
                })
            });
            Rule {
                value: rule.clone(),
                compiled,
                message,
                field_path: field_path(text(rule, "fieldPath"), schema).unwrap_or_default(),
            }
        })
        .collect()
}

enum Problem {
    Compilation(rkube_cel::Issues),
    Type,
    Program(String),
}

fn runnable(env: &Env, source: &str, ty: &Type, sizes: &DeclType) -> Result<Runnable, Problem> {
    let compiled: Compiled = env.compile(source).map_err(Problem::Compilation)?;
    if compiled.output() != ty {
        return Err(Problem::Type);
    }
    Ok(Runnable {
        program: compiled.program().map_err(Problem::Program)?,
        uses_old: compiled.uses("oldSelf"),
        max_cost: compiled.estimate(sizes).max,
    })
}

/// Converts a rule's `fieldPath` to the form used in errors; `None` if the path is not in the
/// schema.
pub fn field_path(path: &str, schema: &Value) -> Option<String> {
    let mut schema = schema;
    let mut shown = String::new();
    let mut rest = path.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let name;
        if let Some(after) = rest.strip_prefix("['") {
            let mut inner = String::new();
            let mut chars = after.char_indices();
            let end = loop {
                match chars.next()? {
                    (at, '\'') => break at,
                    (_, '\\') => inner.push(match chars.next()?.1 {
                        'a' => '\x07',
                        'b' => '\x08',
                        'f' => '\x0c',
                        'n' => '\n',
                        'r' => '\r',
                        't' => '\t',
                        'v' => '\x0b',
                        c @ ('\'' | '\\') => c,
                        _ => return None,
                    }),
                    (_, c) => inner.push(c),
                }
            };
            rest = after[end + 1..].strip_prefix(']')?;
            name = inner;
        } else {
            let after = rest.strip_prefix('.')?;
            let end = after.find(['.', '[', ']']).unwrap_or(after.len());
            name = after[..end].to_owned();
            rest = &after[end..];
        }
        if name.is_empty() {
            return None;
        }
        if schema["properties"].is_object() {
            schema = schema["properties"].get(&name)?;
            if !shown.is_empty() {
                shown.push('.');
            }
            shown.push_str(&name);
        } else if schema["additionalProperties"].is_object() {
            schema = &schema["additionalProperties"];
            shown.push_str(&format!("[{name}]"));
        } else {
            return None;
        }
    }
    Some(shown)
}

impl Rules {
    /// Returns the rules of a schema, to be compiled on first use; `None` if there are none. Equal
    /// schemas share their rules as long as they are in use.
    pub fn of(schema: &Value) -> Option<Arc<OnceLock<Option<Self>>>> {
        type Cache = Mutex<HashMap<Vec<u8>, Weak<OnceLock<Option<Rules>>>>>;
        static CACHE: OnceLock<Cache> = OnceLock::new();
        if !has_rules(schema) {
            return None;
        }
        let digest = ring::digest::digest(&ring::digest::SHA256, schema.to_string().as_bytes());
        let mut cache = CACHE.get_or_init(Cache::default).lock();
        cache.retain(|_, rules| rules.strong_count() > 0);
        let key = digest.as_ref().to_vec();
        if let Some(found) = cache.get(&key).and_then(Weak::upgrade) {
            return Some(found);
        }
        let rules = Arc::new(OnceLock::new());
        cache.insert(key, Arc::downgrade(&rules));
        Some(rules)
    }

    /// Compiles the rules of a schema and of all its parts.
    pub fn build(schema: &Value, root: bool) -> Option<Self> {
        if !has_rules(schema) {
            return None;
        }
        let embedded = schema["x-kubernetes-embedded-resource"] == true;
        let wants = schema["x-kubernetes-validations"]
            .as_array()
            .is_some_and(|r| !r.is_empty());
        let decl = wants
            .then(|| decl_type(schema, root || embedded))
            .flatten()
            .map(Arc::new);
        let child = |part: &Value| Self::build(part, false).map(Box::new);
        Some(Self {
            type_name: text(schema, "type").to_owned(),
            own: match &decl {
                Some(decl) => compile(schema, decl),
                None => Vec::new(),
            },
            decl,
            properties: schema["properties"]
                .as_object()
                .into_iter()
                .flatten()
                .filter_map(|(name, part)| Some((name.clone(), Self::build(part, false)?)))
                .collect(),
            additional: child(&schema["additionalProperties"]),
            items: child(&schema["items"]),
            list_keys: (schema["x-kubernetes-list-type"] == "map").then(|| {
                schema["x-kubernetes-list-map-keys"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|k| k.as_str().map(str::to_owned))
                    .collect()
            }),
        })
    }

    /// Evaluates the rules on an object. `old` is its previous state, if any.
    pub fn validate(&self, object: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut run = Run {
            errors: Vec::new(),
            budget: RUNTIME_BUDGET,
            ratchets: true,
        };
        let unchanged = old == Some(object);
        // An exhausted budget has already been reported as an error.
        let _ = self.walk(&mut run, "", object, old, unchanged);
        run.errors
    }

    /// Evaluates the rules on a value, without ratcheting: unchanged values are validated too.
    pub fn validate_part(
        &self,
        path: &str,
        value: &Value,
        old: Option<&Value>,
        budget: u64,
    ) -> PartRun {
        let mut run = Run {
            errors: Vec::new(),
            budget,
            ratchets: false,
        };
        let done = self.walk(&mut run, path, value, old, false);
        PartRun {
            errors: run.errors,
            left: done.is_ok().then_some(run.budget),
        }
    }

    fn walk(
        &self,
        run: &mut Run,
        path: &str,
        value: &Value,
        old: Option<&Value>,
        unchanged: bool,
    ) -> Result<(), Exhausted> {
        if value.is_null() {
            return Ok(());
        }
        let old = old.filter(|old| !old.is_null());
        if let Some(decl) = &self.decl {
            self.check(run, decl, path, value, old, unchanged)?;
        }
        match value {
            Value::Array(items) => {
                let Some(rules) = &self.items else {
                    return Ok(());
                };
                let before = old.and_then(Value::as_array);
                let former = self.former(before);
                for (i, item) in items.iter().enumerate() {
                    let (was, same) = match &self.list_keys {
                        Some(keys) => {
                            let was = former.get(&identity(item, keys)).copied();
                            (was, was == Some(item))
                        }
                        None => (None, unchanged),
                    };
                    rules.walk(run, &format!("{path}[{i}]"), item, was, same)?;
                }
            }
            Value::Object(map) => {
                for (name, value) in map {
                    let was = old.and_then(|old| old.get(name));
                    let same = was == Some(value);
                    if let Some(rules) = self.properties.get(name) {
                        let path = match path {
                            "" => name.clone(),
                            path => format!("{path}.{name}"),
                        };
                        rules.walk(run, &path, value, was, same)?;
                    }
                    if let Some(rules) = &self.additional {
                        rules.walk(run, &format!("{path}[{name}]"), value, was, same)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn former<'v>(&self, items: Option<&'v Vec<Value>>) -> HashMap<String, &'v Value> {
        let Some(keys) = &self.list_keys else {
            return HashMap::new();
        };
        items
            .into_iter()
            .flatten()
            .map(|item| (identity(item, keys), item))
            .collect()
    }

    fn check(
        &self,
        run: &mut Run,
        decl: &DeclType,
        path: &str,
        value: &Value,
        old: Option<&Value>,
        unchanged: bool,
    ) -> Result<(), Exhausted> {
        let place = if path.is_empty() { "<nil>" } else { path };
        let invalid = |errors: &mut Vec<FieldError>, detail: String| {
            errors.push(FieldError::invalid(place, self.type_name.as_str(), detail));
        };
        for rule in &self.own {
            let shown = message_or_rule(&rule.value);
            let runnable = match &rule.compiled {
                None => continue,
                Some(Err(error)) => {
                    invalid(&mut run.errors, format!("rule compile error: {error}"));
                    continue;
                }
                Some(Ok(runnable)) => runnable,
            };
            let optional = rule.value["optionalOldSelf"] == true;
            if runnable.uses_old && old.is_none() && !optional {
                continue;
            }
            const OVER: &str = "validation failed due to running out of cost budget, no further \
                                validation rules will be run";
            let me = match Cel::typed(value, decl) {
                Ok(me) => me,
                Err(e) => {
                    invalid(&mut run.errors, format!("{e} evaluating rule: {shown}"));
                    continue;
                }
            };
            let before = old.map(|old| Cel::typed(old, decl));
            let mut values = vec![me];
            match (before, optional) {
                (Some(Ok(before)), true) => values.push(Cel::some(before)),
                (Some(Ok(before)), false) => values.push(before),
                (_, true) => values.push(Cel::Optional(None)),
                _ => {}
            }
            let done = runnable.program.run(&values, PER_CALL_LIMIT);
            if done.cost > run.budget {
                invalid(&mut run.errors, OVER.into());
                return Err(Exhausted);
            }
            run.budget -= done.cost;
            match done.outcome {
                Ok(Cel::Bool(true)) => continue,
                Ok(_) => {}
                Err(e) if e.is_over_limit() => {
                    invalid(
                        &mut run.errors,
                        format!(
                            "'{e}': no further validation rules will be run due to call cost \
                             exceeds limit for rule: {shown}"
                        ),
                    );
                    return Err(Exhausted);
                }
                Err(e) if e.message.starts_with("no such overload") => {
                    invalid(
                        &mut run.errors,
                        format!(
                            "'{e}': call arguments did not match a supported operator, function \
                             or macro signature for rule: {shown}"
                        ),
                    );
                    continue;
                }
                Err(e) => {
                    invalid(&mut run.errors, format!("{e} evaluating rule: {shown}"));
                    continue;
                }
            }
            // Ratcheting: violations in unchanged values are tolerated.
            if run.ratchets && !runnable.uses_old && unchanged {
                continue;
            }
            self.report(run, rule, path, value, &values)?;
        }
        Ok(())
    }

    /// Adds the error of a violated rule. `values` are `self` and the old `self` of its expressions.
    fn report(
        &self,
        run: &mut Run,
        rule: &Rule,
        path: &str,
        value: &Value,
        values: &[Cel<'_>],
    ) -> Result<(), Exhausted> {
        let at = violated_path(path, &rule.field_path);
        let detail = match &rule.message {
            Some(Ok(message)) => match self.message(run, rule, message, values) {
                Ok(detail) => detail,
                Err(problem) => {
                    run.errors
                        .push(FieldError::invalid(at, self.type_name.as_str(), problem));
                    return Err(Exhausted);
                }
            },
            _ => None,
        };
        let detail = detail.unwrap_or_else(|| match text(&rule.value, "message") {
            "" => format!("failed rule: {}", message_or_rule(&rule.value)),
            message => message.trim().to_owned(),
        });
        let bad = (!matches!(self.type_name.as_str(), "object" | "array")).then(|| value.clone());
        run.errors.push(violation(&rule.value, at, detail, bad));
        Ok(())
    }

    /// Returns the result of a rule's `messageExpression`; `None` if it is unusable. Returns an
    /// error if the budget is exhausted.
    fn message(
        &self,
        run: &mut Run,
        rule: &Rule,
        message: &Runnable,
        values: &[Cel<'_>],
    ) -> Result<Option<String>, String> {
        let done = message.program.run(values, PER_CALL_LIMIT);
        if done.cost > run.budget {
            return Err(
                "messageExpression evaluation failed due to running out of cost budget, no \
                 further validation rules will be run"
                    .into(),
            );
        }
        run.budget -= done.cost;
        match done.outcome {
            Ok(Cel::String(text)) => {
                let text = text.trim();
                let fine = !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n');
                Ok(fine.then(|| text.to_owned()))
            }
            Err(e) if e.is_over_limit() => Err(format!(
                "no further validation rules will be run due to call cost exceeds limit for \
                 messageExpression: {:?}",
                text(&rule.value, "messageExpression")
            )),
            _ => Ok(None),
        }
    }
}

/// The budget is exhausted; the error has been added.
struct Exhausted;

struct Run {
    errors: Vec<FieldError>,
    budget: u64,
    /// Whether violations in unchanged values are tolerated.
    ratchets: bool,
}

/// The result of [`Rules::validate_part`].
pub struct PartRun {
    /// The violations.
    pub errors: Vec<FieldError>,
    /// The remaining budget; `None` if it is exhausted.
    pub left: Option<u64>,
}

/// Returns the message of a rule, or its expression if there is none.
fn message_or_rule(rule: &Value) -> &str {
    match text(rule, "message") {
        "" => text(rule, "rule").trim(),
        message => message.trim(),
    }
}

/// Returns a string that identifies an item of a list map by its keys.
fn identity(item: &Value, keys: &[String]) -> String {
    let parts: Vec<_> = keys
        .iter()
        .map(|key| item[key.as_str()].to_string())
        .collect();
    parts.join("\u{0}")
}

/// Returns whether a schema or any of its parts has rules.
pub fn has_rules(schema: &Value) -> bool {
    let Value::Object(map) = schema else {
        return false;
    };
    map.get("x-kubernetes-validations")
        .and_then(Value::as_array)
        .is_some_and(|r| !r.is_empty())
        || map
            .get("properties")
            .and_then(Value::as_object)
            .is_some_and(|p| p.values().any(has_rules))
        || ["items", "additionalProperties"]
            .iter()
            .any(|part| map.get(*part).is_some_and(has_rules))
}

/// Returns the path of the field that a violated rule names.
fn violated_path(path: &str, below: &str) -> String {
    match (path, below) {
        ("", "") => "<nil>".to_owned(),
        (path, "") => path.to_owned(),
        ("", below) => below.to_owned(),
        (path, below) if below.starts_with('[') => format!("{path}{below}"),
        (path, below) => format!("{path}.{below}"),
    }
}

/// Returns the error of a violated rule, of the type that its `reason` specifies.
fn violation(rule: &Value, at: String, detail: String, bad: Option<Value>) -> FieldError {
    match rule["reason"].as_str() {
        Some("FieldValueForbidden") => FieldError::forbidden(at, detail),
        Some("FieldValueRequired") => FieldError::required(at, detail),
        Some("FieldValueDuplicate") => {
            let mut error = FieldError::duplicate(at, Value::Null);
            error.value = bad;
            error
        }
        _ => {
            let mut error = FieldError::invalid(at, Value::Null, detail);
            error.value = bad;
            error
        }
    }
}
