//! Validation of a definition's rules (`x-kubernetes-validations`) when the definition is written.

use std::sync::Arc;

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::Value;

use super::rule_types::decl_type;
use super::rules::{Rule, compile, field_path, has_rules};

/// Maximum estimated cost of one rule, multiplied by the number of times it may run.
const MAX_RULE_COST: u64 = 10_000_000;
/// Maximum estimated cost of all rules of a version.
const MAX_SCHEMA_COST: u64 = 100_000_000;

const REASONS: [&str; 4] = [
    "FieldValueDuplicate",
    "FieldValueForbidden",
    "FieldValueInvalid",
    "FieldValueRequired",
];

struct Check {
    schema_errors: Vec<FieldError>,
    rule_errors: Vec<FieldError>,
    total: u64,
    expensive: Vec<(u64, String)>,
}

/// Checks the rules of the versions for which `fine` is true.
pub fn check(definition: &Object, fine: &[bool], errors: &mut Vec<FieldError>) {
    let versions = definition["spec"]["versions"].as_array();
    for (i, version) in versions.into_iter().flatten().enumerate() {
        let schema = &version["schema"]["openAPIV3Schema"];
        if !has_rules(schema) || fine.get(i) != Some(&true) {
            continue;
        }
        let path = format!("spec.versions[{i}].schema");
        let mut check = Check {
            schema_errors: Vec::new(),
            rule_errors: Vec::new(),
            total: 0,
            expensive: Vec::new(),
        };
        check.schema(
            schema,
            &format!("{path}.openAPIV3Schema"),
            Some(1),
            true,
            None,
        );
        errors.append(&mut check.schema_errors);
        errors.append(&mut check.rule_errors);
        if check.total > MAX_SCHEMA_COST {
            check
                .expensive
                .sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
            errors.extend(check.expensive.into_iter().take(4).map(|(_, path)| {
                FieldError::forbidden(
                    path,
                    "contributed to estimated rule cost total exceeding cost limit for entire \
                     OpenAPIv3 schema",
                )
            }));
            errors.push(FieldError::forbidden(
                format!("{path}.openAPIV3Schema"),
                over(
                    "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema",
                    check.total,
                    MAX_SCHEMA_COST,
                ),
            ));
        }
    }
}

impl Check {
    /// Checks the rules of a schema and its parts. `times` is the maximum number of its values in
    /// an object, or `None` if unbounded. `uncorrelatable` is the path of an enclosing list whose
    /// items cannot be matched with their old values.
    fn schema(
        &mut self,
        schema: &Value,
        path: &str,
        times: Option<u64>,
        root: bool,
        uncorrelatable: Option<&str>,
    ) {
        if !has_rules(schema) {
            return;
        }
        let below = match schema["type"].as_str() {
            Some("object") if schema["additionalProperties"].is_object() => {
                schema["maxProperties"].as_i64().map(|n| n.max(0) as u64)
            }
            Some("array") => schema["maxItems"].as_i64().map(|n| n.max(0) as u64),
            _ => Some(1),
        };
        let inner = times.zip(below).map(|(a, b)| a.saturating_mul(b));
        for (name, part) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.properties[{name}]");
            self.schema(part, &path, inner, false, uncorrelatable);
        }
        let additional = format!("{path}.additionalProperties");
        self.schema(
            &schema["additionalProperties"],
            &additional,
            inner,
            false,
            uncorrelatable,
        );
        // Only items of lists with keys can be matched with their old values.
        let here = match schema["x-kubernetes-list-type"].as_str() {
            Some("map") => uncorrelatable,
            _ => uncorrelatable.or(Some(path)),
        };
        self.schema(
            &schema["items"],
            &format!("{path}.items"),
            inner,
            false,
            here,
        );
        self.rules(schema, path, times, root, uncorrelatable);
    }

    fn rules(
        &mut self,
        schema: &Value,
        path: &str,
        times: Option<u64>,
        root: bool,
        uncorrelatable: Option<&str>,
    ) {
        let rules = schema["x-kubernetes-validations"].as_array();
        let Some(rules) = rules.filter(|r| !r.is_empty()) else {
            return;
        };
        let place = format!("{path}.x-kubernetes-validations");
        for (i, rule) in rules.iter().enumerate() {
            self.form(rule, schema, &format!("{place}[{i}]"));
        }
        if !self.schema_errors.is_empty() {
            return;
        }
        let embedded = schema["x-kubernetes-embedded-resource"] == true;
        let Some(decl) = decl_type(schema, root || embedded).map(Arc::new) else {
            self.rule_errors.push(FieldError::internal(
                place,
                "internal error: failed to construct type information for \
                 x-kubernetes-validations rules: unable to convert structural schema to CEL \
                 declarations",
            ));
            return;
        };
        let times = times.unwrap_or_else(|| decl.max_cardinality());
        for (i, rule) in compile(schema, &decl).iter().enumerate() {
            self.compiled(rule, &format!("{place}[{i}]"), times, uncorrelatable);
        }
    }

    /// Checks the fields of a rule, without compiling its expressions.
    fn form(&mut self, rule: &Value, schema: &Value, path: &str) {
        let given = |key: &str| rule[key].as_str().unwrap_or_default();
        let errors = &mut self.schema_errors;
        let breaks = |text: &str| text.contains(['\n', '\r']);
        let (source, message) = (given("rule").trim(), given("message").trim());
        if source.is_empty() {
            errors.push(FieldError::required(
                format!("{path}.rule"),
                "rule is not specified",
            ));
        } else if !given("message").is_empty() && message.is_empty() {
            errors.push(FieldError::invalid(
                format!("{path}.message"),
                given("message"),
                "must be non-empty if specified",
            ));
        } else if breaks(message) {
            errors.push(FieldError::invalid(
                format!("{path}.message"),
                given("message"),
                "must not contain line breaks",
            ));
        } else if breaks(source) && message.is_empty() {
            errors.push(FieldError::required(
                format!("{path}.message"),
                "message must be specified if rule contains line breaks",
            ));
        }
        let expression = given("messageExpression");
        if !expression.is_empty() && expression.trim().is_empty() {
            errors.push(FieldError::required(
                format!("{path}.messageExpression"),
                "messageExpression must be non-empty if specified",
            ));
        }
        if let Some(reason) = rule["reason"].as_str()
            && !REASONS.contains(&reason)
        {
            errors.push(FieldError::not_supported(
                format!("{path}.reason"),
                reason,
                &REASONS,
            ));
        }
        let below = given("fieldPath");
        if below.is_empty() {
            return;
        }
        let place = format!("{path}.fieldPath");
        if below.trim().is_empty() {
            errors.push(FieldError::invalid(
                place.as_str(),
                below,
                "must be non-empty if specified",
            ));
        }
        if breaks(below) {
            errors.push(FieldError::invalid(
                place.as_str(),
                below,
                "must not contain line breaks",
            ));
        }
        if field_path(below, schema).is_none() {
            errors.push(FieldError::invalid(place, below, "must be a valid path"));
        }
    }

    fn compiled(&mut self, rule: &Rule, path: &str, times: u64, uncorrelatable: Option<&str>) {
        let errors = &mut self.rule_errors;
        let mut observe = |cost: u64, path: String| {
            self.total = self.total.saturating_add(cost);
            if cost >= MAX_SCHEMA_COST / 100 {
                self.expensive.push((cost, path));
            }
        };
        let rule_path = format!("{path}.rule");
        match &rule.compiled {
            None => return,
            Some(Err(problem)) => {
                errors.push(FieldError::invalid(
                    rule_path,
                    rule.value.clone(),
                    problem.as_str(),
                ));
                return;
            }
            Some(Ok(runnable)) => {
                let cost = runnable.max_cost.saturating_mul(times);
                if cost > MAX_RULE_COST {
                    errors.push(FieldError::forbidden(
                        rule_path.as_str(),
                        over("estimated rule cost", cost, MAX_RULE_COST),
                    ));
                }
                observe(cost, rule_path.clone());
                if runnable.uses_old {
                    if let Some(at) = uncorrelatable {
                        errors.push(FieldError::invalid(
                            rule_path,
                            rule.value["rule"].clone(),
                            format!(
                                "oldSelf cannot be used on the uncorrelatable portion of the \
                                 schema within {at}"
                            ),
                        ));
                    }
                } else if !rule.value["optionalOldSelf"].is_null() {
                    errors.push(FieldError::invalid(
                        format!("{path}.optionalOldSelf"),
                        rule.value["optionalOldSelf"].clone(),
                        "may not be set if oldSelf is not used in rule",
                    ));
                }
            }
        }
        let message_path = format!("{path}.messageExpression");
        match &rule.message {
            None => {}
            Some(Err(problem)) => errors.push(FieldError::invalid(
                message_path,
                rule.value.clone(),
                problem.as_str(),
            )),
            Some(Ok(runnable)) => {
                if runnable.max_cost > MAX_RULE_COST {
                    errors.push(FieldError::forbidden(
                        message_path.as_str(),
                        over(
                            "estimated messageExpression cost",
                            runnable.max_cost,
                            MAX_RULE_COST,
                        ),
                    ));
                }
                observe(runnable.max_cost, message_path);
            }
        }
    }
}

/// Returns by which factor a cost exceeds its limit.
fn over(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let shown = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {shown} (try simplifying the rule, or adding maxItems, \
         maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}
