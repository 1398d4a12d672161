//! Validation of a definition's defaults against its own schema. Also checks patterns, because a
//! default cannot be validated against an invalid one.

use rkube_api::Object;
use rkube_api::schema::Structural;
use rkube_api::status::FieldError;
use rkube_cel::RUNTIME_BUDGET;
use rkube_go_regexp::Pattern;
use serde_json::Value;

use super::rules::Rules;
use super::validate;

/// Validates the patterns and defaults of all versions. Returns, per version, whether its
/// validation rules should be checked: like upstream, only if there are no errors here.
pub fn check(definition: &Object, old: Option<&Object>, errors: &mut Vec<FieldError>) -> Vec<bool> {
    // Defaults with unknown fields are tolerated if the stored definition has some already.
    let pruned =
        old.is_none_or(|old| !versions(old).any(|(_, s)| any_unpruned(&Structural::root(s))));
    versions(definition)
        .map(|(i, schema)| {
            let path = format!("spec.versions[{i}].schema.openAPIV3Schema");
            let before = errors.len();
            patterns(schema, &path, errors);
            if errors.len() == before {
                let mut defaults = Defaults {
                    errors,
                    budget: RUNTIME_BUDGET,
                    pruned,
                };
                // An exhausted budget has already been reported and ends the check.
                let _ = defaults.walk(schema, &path, true, false);
            }
            errors.len() == before
        })
        .collect()
}

fn versions(definition: &Object) -> impl Iterator<Item = (usize, &Value)> {
    definition["spec"]["versions"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
        .map(|(i, v)| (i, &v["schema"]["openAPIV3Schema"]))
}

/// Rejects patterns that do not compile, in all schemas whose values are validated.
fn patterns(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(pattern) = schema["pattern"].as_str().filter(|p| !p.is_empty())
        && let Err(error) = Pattern::new(pattern)
    {
        let detail = format!("must be a valid regular expression, but isn't: {error}");
        errors.push(FieldError::invalid(
            format!("{path}.pattern"),
            pattern,
            detail,
        ));
    }
    for (name, part) in schema["properties"].as_object().into_iter().flatten() {
        patterns(part, &format!("{path}.properties[{name}]"), errors);
    }
    for key in ["items", "additionalProperties", "not"] {
        if schema[key].is_object() {
            patterns(&schema[key], &format!("{path}.{key}"), errors);
        }
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for (i, part) in schema[key].as_array().into_iter().flatten().enumerate() {
            patterns(part, &format!("{path}.{key}[{i}]"), errors);
        }
    }
}

/// The cost budget of the rules is exhausted.
struct Exhausted;

struct Defaults<'e> {
    errors: &'e mut Vec<FieldError>,
    /// The remaining cost budget of all rules.
    budget: u64,
    /// Whether defaults with unknown fields are rejected.
    pruned: bool,
}

impl Defaults<'_> {
    /// Validates the defaults of a schema and its parts. `root` is true for schemas of objects with
    /// metadata, `inside` within such metadata, where all fields are known.
    fn walk(
        &mut self,
        schema: &Value,
        path: &str,
        root: bool,
        inside: bool,
    ) -> Result<(), Exhausted> {
        let root = root || schema["x-kubernetes-embedded-resource"] == true;
        let inside = inside && !root;
        if let Some(default) = schema.get("default").filter(|d| !d.is_null()) {
            self.default(schema, default, &format!("{path}.default"), root, inside)?;
        }
        // As upstream, additionalProperties is not descended into.
        if schema["items"].is_object() {
            self.walk(&schema["items"], &format!("{path}.items"), false, inside)?;
        }
        for (name, part) in schema["properties"].as_object().into_iter().flatten() {
            let metadata = root && matches!(name.as_str(), "metadata" | "apiVersion" | "kind");
            let path = format!("{path}.properties[{name}]");
            self.walk(part, &path, false, inside || metadata)?;
        }
        Ok(())
    }

    fn default(
        &mut self,
        schema: &Value,
        default: &Value,
        path: &str,
        root: bool,
        inside: bool,
    ) -> Result<(), Exhausted> {
        if self.pruned && !inside && has_unknown(&Structural::from_value(schema), default) {
            self.errors.push(FieldError::invalid(
                path,
                default.clone(),
                "must not have unknown fields",
            ));
        }
        let mut found = Vec::new();
        validate::validate(schema, default, None, "", &mut found);
        if !found.is_empty() {
            self.errors
                .extend(found.into_iter().map(|error| prefix_field(path, error)));
            return Ok(());
        }
        let Some(rules) = Rules::build(schema, root) else {
            return Ok(());
        };
        // Evaluate the rules with the default as the old value, for transition rules, and then
        // without an old value.
        let mut left = self.budget;
        for old in [Some(default), None] {
            let run = rules.validate_part(path, default, old, self.budget);
            let failed = !run.errors.is_empty();
            self.errors.extend(run.errors);
            let Some(rest) = run.left else {
                return Err(Exhausted);
            };
            left = left.min(rest);
            if failed {
                break;
            }
        }
        self.budget = left;
        Ok(())
    }
}

/// Prefixes an error's field with `path`.
fn prefix_field(path: &str, mut error: FieldError) -> FieldError {
    error.field = match error.field.as_str() {
        "" => path.to_owned(),
        field if field.starts_with('[') => format!("{path}{field}"),
        field => format!("{path}.{field}"),
    };
    error
}

fn any_unpruned(schema: &Structural) -> bool {
    schema
        .default
        .as_ref()
        .is_some_and(|d| has_unknown(schema, d))
        || schema.items.as_deref().is_some_and(any_unpruned)
        || schema.properties.values().any(any_unpruned)
}

/// Returns whether pruning would remove a part of the value.
fn has_unknown(schema: &Structural, value: &Value) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(name, value)| {
            if schema.resource && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                return false;
            }
            match (schema.properties.get(name), &schema.additional) {
                (Some(property), _) => has_unknown(property, value),
                (None, Some(additional)) => has_unknown(additional, value),
                (None, None) => !schema.preserve_unknown_fields && !schema.additional_any,
            }
        }),
        Value::Array(items) => items.iter().any(|item| match &schema.items {
            Some(schema) => has_unknown(schema, item),
            None => !schema.preserve_unknown_fields && holds_objects(item),
        }),
        _ => false,
    }
}

/// Returns whether a value without a schema contains a non-empty object, which pruning would empty.
fn holds_objects(value: &Value) -> bool {
    match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => items.iter().any(holds_objects),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Returns the errors for a definition with the given property schema.
    fn problems(property: Value) -> Vec<String> {
        problems_after(property, None)
    }

    fn problems_after(property: Value, old: Option<Value>) -> Vec<String> {
        let definition = |property: Value| {
            json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"p": property},
            }}}]}})
        };
        let mut errors = Vec::new();
        check(
            &definition(property),
            old.map(definition).as_ref(),
            &mut errors,
        );
        let at = "spec.versions[0].schema.openAPIV3Schema.properties[p]";
        errors
            .iter()
            .map(|e| format!("{}: {}", e.field.replace(at, "@"), e.body()))
            .collect()
    }

    #[test]
    fn defaults_obey_their_schema() {
        assert_eq!(
            problems(json!({"type": "integer", "minimum": 2, "default": 2})),
            [""; 0]
        );
        assert_eq!(
            problems(json!({"type": "string", "maxLength": 1, "default": "abc"})).len(),
            1
        );
        let found = problems(
            json!({"type": "object", "default": {"a": 1, "b": {}}, "properties": {
                "a": {"type": "string"}, "b": {"type": "object", "required": ["c"]},
            }}),
        );
        assert_eq!(
            found,
            [
                "@.default.a: Invalid value: \"integer\": a in body must be of type string: \"integer\"",
                "@.default.b.c: Required value",
            ]
        );
    }

    #[test]
    fn defaults_obey_their_rules() {
        let schema = |default: Value| {
            json!({"type": "object", "default": default, "properties": {
                "min": {"type": "integer"}, "max": {"type": "integer"},
            }, "x-kubernetes-validations": [
                {"rule": "self.min <= self.max", "message": "min is too large"},
            ]})
        };
        assert_eq!(problems(schema(json!({"min": 1, "max": 2}))), [""; 0]);
        assert_eq!(
            problems(schema(json!({"min": 3, "max": 2}))),
            ["@.default: Invalid value: min is too large"]
        );
        // A rule of a nested schema applies to the default of the outer one.
        let nested = json!({"type": "object", "default": {"n": 0}, "properties": {"n": {
            "type": "integer", "x-kubernetes-validations": [{"rule": "self > 0"}],
        }}});
        assert_eq!(
            problems(nested),
            ["@.default.n: Invalid value: 0: failed rule: self > 0"]
        );
    }

    #[test]
    fn rules_that_look_back_see_the_default_itself_and_nothing() {
        let schema = |rule: Value| json!({"type": "integer", "default": 1, "x-kubernetes-validations": [rule]});
        assert_eq!(
            problems(schema(json!({"rule": "self == oldSelf"}))),
            [""; 0]
        );
        assert_eq!(problems(schema(json!({"rule": "self > oldSelf"}))).len(), 1);
        assert_eq!(
            problems(schema(
                json!({"rule": "oldSelf.hasValue()", "optionalOldSelf": true})
            ))
            .len(),
            1,
            "it must be fit to be new"
        );
    }

    #[test]
    fn rules_that_cost_too_much_end_the_check() {
        let items: Vec<u32> = (0..3000).collect();
        let found = problems(json!({
            "type": "array", "items": {"type": "integer"}, "default": items,
            "x-kubernetes-validations": [{"rule": "self.all(a, self.all(b, self.all(c, a + b + c >= 0)))"}],
        }));
        assert_eq!(found.len(), 1);
        assert!(
            found[0].contains("no further validation rules will be run"),
            "{found:?}"
        );
    }

    #[test]
    fn unknown_fields_are_refused_unless_they_were_there() {
        let schema =
            json!({"type": "object", "default": {"x": 1}, "properties": {"a": {"type": "string"}}});
        assert_eq!(
            problems(schema.clone()),
            ["@.default: Invalid value: {\"x\":1}: must not have unknown fields"]
        );
        assert_eq!(problems_after(schema.clone(), Some(schema)), [""; 0]);
        let open = json!({"type": "object", "default": {"x": 1}, "x-kubernetes-preserve-unknown-fields": true});
        assert_eq!(problems(open), [""; 0]);
    }

    #[test]
    fn patterns_must_compile() {
        assert_eq!(
            problems(json!({"type": "string", "pattern": "a(", "default": 1})),
            [
                "@.pattern: Invalid value: \"a(\": must be a valid regular expression, but isn't: \
              error parsing regexp: missing closing ): `a(`"
            ]
        );
        assert_eq!(
            problems(json!({"type": "string", "pattern": "^\\p{L}+$", "default": "é"})),
            [""; 0]
        );
        assert_eq!(
            problems(json!({"type": "string", "anyOf": [{"pattern": "*"}]})).len(),
            1
        );
    }
}
