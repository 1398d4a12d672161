//! `ValidatingAdmissionPolicy`: policies that reject writes.

use std::borrow::Cow;
use std::collections::BTreeMap;

use rkube_api::status::{Cause, Status};
use rkube_api::{Object, meta};
use rkube_cel::{MAX_MESSAGE, RUNTIME_BUDGET, Value as Cel};
use serde_json::{Value, json};

use super::compiled::Validation;
use super::environment::{AuthorizerBinding, EvaluationError};
use super::matching::{Match, matches, params};
use super::{Hook, Policies, Subject, about};
use crate::admission::attributes::Admission;
use crate::admission::review::both_seen_in;

/// Key of the audit annotation that lists failures of policies with action `Audit`.
const FAILURE_NOTE: &str = "validation.policy.admission.k8s.io/validation_failure";
/// Maximum length in bytes of an audit annotation's value.
const MAX_NOTE: usize = 10 << 10;

/// Audit annotations by key; values of several bindings are joined.
type Notes = BTreeMap<String, Vec<String>>;

/// A rejection: policy, binding, message and reason.
struct Denial {
    policy: String,
    binding: Option<String>,
    message: String,
    reason: String,
}

/// A failed validation.
struct Failure {
    /// The index of the validation in the policy.
    index: usize,
    message: String,
    reason: String,
}

impl Policies {
    /// Runs the validating policies.
    ///
    /// # Errors
    ///
    /// The first rejection.
    pub async fn validate(
        &self,
        admission: &Admission<'_>,
        object: Option<&Object>,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        let hooks = self.hooks(
            admission,
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
        );
        if hooks.is_empty() {
            return Ok(());
        }
        // The write in each version in which policies evaluate it.
        let mut subjects: Vec<(Option<String>, Subject<'_>)> = Vec::new();
        let mut denials = Vec::new();
        let mut notes = Notes::new();
        for hook in &hooks {
            let constraints = &hook.policy["spec"]["matchConstraints"];
            let version = match matches(admission, constraints, object, old) {
                Ok(Match::Yes(version)) => version,
                Ok(Match::No) => continue,
                Err(problem) => {
                    misconfigured(hook, None, &problem.message, &mut denials);
                    continue;
                }
            };
            let key = version.as_ref().map(|version| version.api_version());
            let at = match subjects.iter().position(|(of, _)| *of == key) {
                Some(at) => at,
                None => {
                    let subject = match &version {
                        None => Subject::new(admission, object, old)?,
                        Some(version) => {
                            let (object, old) =
                                Box::pin(both_seen_in(admission, version, object, old)).await?;
                            let seen = admission.through(version);
                            let asker = AuthorizerBinding::of(admission);
                            Subject::asked_by(asker, &seen, object.as_ref(), old.as_ref())?
                        }
                    };
                    subjects.push((key, subject));
                    subjects.len() - 1
                }
            };
            let found = (&mut notes, &mut denials);
            self.bindings(admission, hook, &subjects[at].1, (object, old), found);
        }
        for (key, values) in notes {
            admission.call.annotate(key, values.join(", "));
        }
        let Some(first) = denials.into_iter().next() else {
            return Ok(());
        };
        let message = match &first.binding {
            Some(binding) => format!(
                "ValidatingAdmissionPolicy '{}' with binding '{binding}' denied request: {}",
                first.policy, first.message
            ),
            None => format!(
                "ValidatingAdmissionPolicy '{}' denied request: {}",
                first.policy, first.message
            ),
        };
        let (resource, name) = about(admission, object.or(old));
        let mut status = Status::forbidden(&resource, &name, &message);
        let reason = if first.reason.is_empty() {
            "Invalid".to_owned()
        } else {
            first.reason
        };
        status.code = match reason.as_str() {
            "Forbidden" => 403,
            "Unauthorized" => 401,
            "RequestEntityTooLarge" => 413,
            _ => 422,
        };
        status.reason = Cow::Owned(reason);
        if let Some(details) = &mut status.details {
            details.causes.push(Cause {
                message,
                ..Cause::default()
            });
        }
        Err(status)
    }

    fn bindings(
        &self,
        admission: &Admission<'_>,
        hook: &Hook,
        subject: &Subject<'_>,
        (object, old): (Option<&Object>, Option<&Object>),
        (notes, denials): (&mut Notes, &mut Vec<Denial>),
    ) {
        for binding in &hook.bindings {
            let name = meta::name(binding);
            let spec = &binding["spec"];
            let params = match matches(admission, &spec["matchResources"], object, old) {
                Ok(Match::No) => continue,
                Ok(Match::Yes(_)) => params(
                    admission,
                    &hook.policy["spec"],
                    spec,
                    &subject.namespace_name,
                ),
                Err(problem) => Err(problem.message),
            };
            let params = match params {
                Ok(params) => params,
                Err(problem) => {
                    misconfigured(hook, Some(name), &problem, denials);
                    continue;
                }
            };
            let actions: Vec<&str> = spec["validationActions"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            for params in &params {
                for failure in failures(hook, subject, params.as_ref()) {
                    act(admission, (hook, name), failure, &actions, denials);
                }
                annotations(hook, name, subject, params.as_ref(), (notes, denials));
            }
        }
    }
}

/// Takes a binding's actions on a failed validation.
fn act(
    admission: &Admission<'_>,
    (hook, binding): (&Hook, &str),
    failure: Failure,
    actions: &[&str],
    denials: &mut Vec<Denial>,
) {
    if actions.contains(&"Warn") {
        admission.call.warn([format!(
            "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{binding}': {}",
            hook.name(),
            failure.message
        )]);
    }
    if actions.contains(&"Audit") {
        let noted = json!([{
            "message": failure.message,
            "policy": hook.name(),
            "binding": binding,
            "expressionIndex": failure.index,
            "validationActions": actions,
        }]);
        admission.call.annotate(FAILURE_NOTE, noted.to_string());
    }
    if actions.contains(&"Deny") {
        denials.push(Denial {
            policy: hook.name().to_owned(),
            binding: Some(binding.to_owned()),
            message: failure.message,
            reason: failure.reason,
        });
    }
}

fn misconfigured(hook: &Hook, binding: Option<&str>, problem: &str, denials: &mut Vec<Denial>) {
    if hook.ignores_failure() {
        return;
    }
    let what = if binding.is_some() {
        "binding"
    } else {
        "policy"
    };
    denials.push(Denial {
        policy: hook.name().to_owned(),
        binding: binding.map(str::to_owned),
        message: format!("failed to configure {what}: {problem}"),
        reason: String::new(),
    });
}

/// Returns the failed validations, including those that could not be evaluated.
fn failures(hook: &Hook, subject: &Subject<'_>, params: Option<&Value>) -> Vec<Failure> {
    let mut scope = subject.scope(&hook.compiled, params);
    let failed = |index: usize, message: String| Failure {
        index,
        message,
        reason: String::new(),
    };
    // Evaluation errors count as failures unless the failure policy is `Ignore`.
    let problem = |index: usize, message: String| match hook.ignores_failure() {
        true => Vec::new(),
        false => vec![failed(index, message)],
    };
    match hook.compiled.conditions.hold(&mut scope) {
        Ok(true) => {}
        Ok(false) => return Vec::new(),
        Err(message) => return problem(0, message),
    }
    let mut budget = RUNTIME_BUDGET;
    let mut outcomes = Vec::new();
    for (index, validation) in hook.compiled.validations.iter().enumerate() {
        outcomes.push(match &validation.expression {
            Err(message) => Err(format!("compilation error: {message}")),
            Ok(expression) => match scope.evaluate(expression, &mut budget) {
                Err(error @ EvaluationError::OutOfBudget) => {
                    return problem(index, error.to_string());
                }
                Err(EvaluationError::Expression(message)) => Err(message),
                Ok(value) => Ok(matches!(value, Cel::Bool(true))),
            },
        });
    }
    let mut failures = Vec::new();
    let outcomes = hook.compiled.validations.iter().zip(outcomes);
    for (index, (validation, outcome)) in outcomes.enumerate() {
        match outcome {
            Ok(true) => {}
            Err(message) => failures.extend(problem(index, message)),
            Ok(false) => {
                let given = match message(validation, &mut scope, &mut budget) {
                    Ok(given) => given,
                    Err(message) => {
                        failures.extend(problem(index, message));
                        continue;
                    }
                };
                let text = |key: &str| {
                    validation.value[key]
                        .as_str()
                        .unwrap_or_default()
                        .trim()
                        .to_owned()
                };
                let own = Some(text("message")).filter(|m| !m.is_empty());
                failures.push(Failure {
                    index,
                    message: given
                        .or(own)
                        .unwrap_or_else(|| format!("failed expression: {}", text("expression"))),
                    reason: Some(text("reason"))
                        .filter(|r| !r.is_empty())
                        .unwrap_or_else(|| "Invalid".to_owned()),
                });
            }
        }
    }
    failures
}

/// Returns the message of a validation's `messageExpression`, if it is usable.
fn message<'a>(
    validation: &'a Validation,
    scope: &mut super::Scope<'a>,
    budget: &mut u64,
) -> Result<Option<String>, String> {
    let Some(Ok(expression)) = &validation.message else {
        return Ok(None);
    };
    match scope.evaluate(expression, budget) {
        Err(error @ EvaluationError::OutOfBudget) => {
            Err(format!("failed messageExpression: {error}"))
        }
        Ok(Cel::String(text)) => {
            let text = text.trim();
            let fine = !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n');
            Ok(fine.then(|| text.to_owned()))
        }
        // The message of the validation is used instead.
        Ok(_) | Err(EvaluationError::Expression(_)) => Ok(None),
    }
}

/// Returns the audit annotations. An annotation that cannot be evaluated rejects the write.
fn annotations(
    hook: &Hook,
    binding: &str,
    subject: &Subject<'_>,
    params: Option<&Value>,
    (notes, denials): (&mut Notes, &mut Vec<Denial>),
) {
    if hook.compiled.annotations.is_empty() {
        return;
    }
    let mut scope = subject.scope(&hook.compiled, params);
    if !matches!(hook.compiled.conditions.hold(&mut scope), Ok(true)) {
        return;
    }
    let mut budget = RUNTIME_BUDGET;
    for (key, expression) in &hook.compiled.annotations {
        let outcome = match expression {
            Err(problem) => Err(format!("compilation error: {problem}")),
            Ok(expression) => scope
                .evaluate(expression, &mut budget)
                .map_err(|error| error.to_string()),
        };
        match outcome {
            Ok(Cel::String(text)) if !text.trim().is_empty() => {
                let mut text = text.trim().to_owned();
                text.truncate(text.floor_char_boundary(MAX_NOTE));
                let values = notes.entry(format!("{}/{key}", hook.name())).or_default();
                if !values.contains(&text) {
                    values.push(text);
                }
            }
            Ok(_) => {}
            Err(_) if hook.ignores_failure() => {}
            Err(message) => denials.push(Denial {
                policy: hook.name().to_owned(),
                binding: Some(binding.to_owned()),
                message,
                reason: String::new(),
            }),
        }
    }
}
