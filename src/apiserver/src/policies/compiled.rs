//! Compiled expressions of policies.

use rkube_cel::{MATCH_CONDITIONS_BUDGET, Type, Value as Cel};
use serde_json::Value;

use super::environment::{Environment, EvaluationError, Expression, Options, Scope};

/// A compiled expression, or its compile error.
pub type Outcome = Result<Expression, String>;

/// Match conditions in their order.
pub struct Conditions(Vec<Outcome>);

impl Conditions {
    fn new(environment: &Environment, conditions: &Value) -> Self {
        let conditions = conditions.as_array().into_iter().flatten();
        Self(
            conditions
                .map(|condition| compile(environment, &condition["expression"], &[Type::Bool]))
                .collect(),
        )
    }

    /// Compiles the match conditions of a webhook.
    pub fn of_webhook(conditions: &Value) -> Self {
        let environment = Environment::new(Options {
            authorizer: true,
            ..Options::default()
        });
        Self::new(&environment, conditions)
    }

    /// Returns whether all conditions are true. A condition that is false decides, even if others
    /// fail.
    pub fn hold<'a>(&'a self, scope: &mut Scope<'a>) -> Result<bool, String> {
        let mut budget = MATCH_CONDITIONS_BUDGET;
        let mut problems = Vec::new();
        for condition in &self.0 {
            match condition {
                Err(problem) => problems.push(format!("compilation error: {problem}")),
                Ok(expression) => match scope.evaluate(expression, &mut budget) {
                    Err(error @ EvaluationError::OutOfBudget) => return Err(error.to_string()),
                    Err(EvaluationError::Expression(problem)) => problems.push(problem),
                    Ok(Cel::Bool(false)) => return Ok(false),
                    Ok(_) => {}
                },
            }
        }
        match problems.as_slice() {
            [] => Ok(true),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }
}

/// A compiled validation.
pub struct Validation {
    /// The expression that must be true.
    pub expression: Outcome,
    /// The expression that returns the message, if any.
    pub message: Option<Outcome>,
    /// The validation as written in the policy.
    pub value: Value,
}

/// A compiled mutation.
pub struct Mutation {
    /// Whether the result is a JSON patch instead of an apply configuration.
    pub is_json_patch: bool,
    /// The expression that returns the patch or the configuration.
    pub expression: Outcome,
}

/// All compiled expressions of a policy.
pub struct Compiled {
    /// Variables in their order.
    pub variables: Vec<(String, Outcome)>,
    /// The conditions under which the policy applies.
    pub conditions: Conditions,
    /// The validations of a validating policy.
    pub validations: Vec<Validation>,
    /// Audit annotations: key and value expression.
    pub annotations: Vec<(String, Outcome)>,
    /// The mutations of a mutating policy.
    pub mutations: Vec<Mutation>,
}

fn compile(environment: &Environment, source: &Value, types: &[Type]) -> Outcome {
    let source = source.as_str().unwrap_or_default();
    Ok(environment.compile(source, types)?.0)
}

fn list<'v>(spec: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    spec[key].as_array().into_iter().flatten()
}

impl Compiled {
    /// Compiles the spec of a policy.
    pub fn new(spec: &Value) -> Self {
        let params = spec["paramKind"].is_object();
        let patches = spec["mutations"].is_array();
        let mut environment = Environment::new(Options {
            params,
            authorizer: true,
            patches,
        });
        // Message expressions have no access to `authorizer`.
        let mut plain = Environment::new(Options {
            params,
            authorizer: false,
            patches,
        });
        let mut variables = Vec::new();
        for variable in list(spec, "variables") {
            let name = variable["name"].as_str().unwrap_or_default();
            let source = variable["expression"].as_str().unwrap_or_default();
            let (outcome, ty) = match environment.compile(source, &[]) {
                Ok((expression, ty)) => (Ok(expression), ty),
                Err(problem) => (Err(problem), Type::Dyn),
            };
            environment.define(name, ty.clone());
            plain.define(name, ty);
            variables.push((name.to_owned(), outcome));
        }
        Self {
            variables,
            conditions: Conditions::new(&environment, &spec["matchConditions"]),
            validations: list(spec, "validations")
                .map(|validation| Validation {
                    expression: compile(&environment, &validation["expression"], &[Type::Bool]),
                    message: validation["messageExpression"]
                        .as_str()
                        .filter(|e| !e.is_empty())
                        .map(|_| {
                            compile(&plain, &validation["messageExpression"], &[Type::String])
                        }),
                    value: validation.clone(),
                })
                .collect(),
            annotations: list(spec, "auditAnnotations")
                .map(|annotation| {
                    let types = [Type::String, Type::Null];
                    (
                        annotation["key"].as_str().unwrap_or_default().to_owned(),
                        compile(&environment, &annotation["valueExpression"], &types),
                    )
                })
                .collect(),
            mutations: list(spec, "mutations")
                .map(|mutation| {
                    let is_json_patch = mutation["patchType"] == "JSONPatch";
                    let (key, ty) = if is_json_patch {
                        ("jsonPatch", Type::list(Type::object("JSONPatch")))
                    } else {
                        ("applyConfiguration", Type::object("Object"))
                    };
                    Mutation {
                        is_json_patch,
                        expression: compile(&environment, &mutation[key]["expression"], &[ty]),
                    }
                })
                .collect(),
        }
    }
}
