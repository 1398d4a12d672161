//! Compile checks of the expressions in policies and webhooks when these are written.

use rkube_api::status::{FieldError, Status};
use rkube_api::{Object, meta};
use rkube_cel::Type;
use serde_json::Value;

use super::environment::{Environment, GROUP, Options};
use crate::resources::Resource;

/// Rejects policies and webhooks whose expressions do not compile. Accepts all other kinds.
///
/// # Errors
///
/// 422 with all problems.
pub fn check(resource: &Resource, object: &Object) -> Result<(), Status> {
    if resource.group != GROUP {
        return Ok(());
    }
    let mut check = Check { errors: Vec::new() };
    match &*resource.plural {
        "validatingadmissionpolicies" | "mutatingadmissionpolicies" => {
            check.policy(&object["spec"]);
        }
        "validatingwebhookconfigurations" | "mutatingwebhookconfigurations" => {
            let environment = Environment::new(Options {
                authorizer: true,
                ..Options::default()
            });
            for (i, hook) in list(object, "webhooks") {
                check.conditions(&environment, hook, &format!("webhooks[{i}]"));
            }
        }
        _ => {}
    }
    if check.errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(
        &resource.group_kind(),
        meta::name(object),
        check.errors,
    ))
}

fn list<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = (usize, &'v Value)> {
    value[key].as_array().into_iter().flatten().enumerate()
}

struct Check {
    errors: Vec<FieldError>,
}

impl Check {
    fn expression(
        &mut self,
        environment: &Environment,
        source: &Value,
        types: &[Type],
        path: String,
    ) -> Option<Type> {
        let text = source.as_str().unwrap_or_default();
        if text.trim().is_empty() {
            // Report a missing expression only if schema validation has not done so for the same
            // field.
            let told = self.errors.iter().any(|e| e.field == path);
            if !told {
                self.errors.push(FieldError::required(path, ""));
            }
            return None;
        }
        match environment.compile(text.trim(), types) {
            Ok((_, ty)) => Some(ty),
            Err(problem) => {
                self.errors.push(FieldError::invalid(path, text, problem));
                None
            }
        }
    }

    fn conditions(&mut self, environment: &Environment, holder: &Value, path: &str) {
        const MOST: usize = 64;
        let count = holder["matchConditions"].as_array().map_or(0, Vec::len);
        let path = format!("{path}.matchConditions");
        if count > MOST {
            self.errors
                .push(FieldError::too_many(path.as_str(), count, MOST));
        }
        let mut names = Vec::new();
        for (i, condition) in list(holder, "matchConditions") {
            let name = condition["name"].as_str().unwrap_or_default();
            let place = format!("{path}[{i}].name");
            if name.is_empty() {
                self.errors.push(FieldError::required(place, ""));
            } else {
                for problem in rkube_api::names::qualified_name(name) {
                    self.errors
                        .push(FieldError::invalid(place.as_str(), name, problem));
                }
                if names.contains(&name) {
                    self.errors.push(FieldError::duplicate(place, name));
                }
            }
            names.push(name);
            let place = format!("{path}[{i}].expression");
            self.expression(environment, &condition["expression"], &[Type::Bool], place);
        }
    }

    fn policy(&mut self, spec: &Value) {
        let options = Options {
            params: spec["paramKind"].is_object(),
            authorizer: true,
            patches: spec["mutations"].is_array(),
        };
        let mut environment = Environment::new(options);
        let mut plain = Environment::new(Options {
            authorizer: false,
            ..options
        });
        let mut names: Vec<&str> = Vec::new();
        for (i, variable) in list(spec, "variables") {
            let path = format!("spec.variables[{i}]");
            let name = variable["name"].as_str().unwrap_or_default();
            let fits = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if name.is_empty() {
                self.errors.push(FieldError::required(
                    format!("{path}.name"),
                    "name is not specified",
                ));
            } else if !fits {
                self.errors.push(FieldError::invalid(
                    format!("{path}.name"),
                    name,
                    "name is not a valid CEL identifier",
                ));
            } else if names.contains(&name) {
                self.errors
                    .push(FieldError::duplicate(format!("{path}.name"), name));
            }
            names.push(name);
            let place = format!("{path}.expression");
            let ty = self
                .expression(&environment, &variable["expression"], &[], place)
                .unwrap_or(Type::Dyn);
            if fits {
                environment.define(name, ty.clone());
                plain.define(name, ty);
            }
        }
        self.conditions(&environment, spec, "spec");
        for (i, validation) in list(spec, "validations") {
            let path = format!("spec.validations[{i}]");
            let place = format!("{path}.expression");
            self.expression(
                &environment,
                &validation["expression"],
                &[Type::Bool],
                place,
            );
            if validation["messageExpression"]
                .as_str()
                .is_some_and(|e| !e.is_empty())
            {
                let place = format!("{path}.messageExpression");
                let source = &validation["messageExpression"];
                self.expression(&plain, source, &[Type::String], place);
            }
            let given = |key: &str| validation[key].as_str().unwrap_or_default();
            if given("message").trim().contains('\n') {
                self.errors.push(FieldError::invalid(
                    format!("{path}.message"),
                    given("message"),
                    "message must not contain line breaks",
                ));
            }
            if given("expression").trim().contains('\n') && given("message").is_empty() {
                self.errors.push(FieldError::required(
                    format!("{path}.message"),
                    "message must be specified if expression contains line breaks",
                ));
            }
            let reasons = [
                "Forbidden",
                "Invalid",
                "RequestEntityTooLarge",
                "Unauthorized",
            ];
            if !given("reason").is_empty() && !reasons.contains(&given("reason")) {
                self.errors.push(FieldError::not_supported(
                    format!("{path}.reason"),
                    given("reason"),
                    &reasons,
                ));
            }
        }
        for (i, annotation) in list(spec, "auditAnnotations") {
            let path = format!("spec.auditAnnotations[{i}]");
            let types = [Type::String, Type::Null];
            let place = format!("{path}.valueExpression");
            self.expression(&environment, &annotation["valueExpression"], &types, place);
            if annotation["key"].as_str().unwrap_or_default().is_empty() {
                self.errors.push(FieldError::required(
                    format!("{path}.key"),
                    "key is not specified",
                ));
            }
        }
        self.mutations(&environment, spec);
    }

    fn mutations(&mut self, environment: &Environment, spec: &Value) {
        for (i, mutation) in list(spec, "mutations") {
            let path = format!("spec.mutations[{i}]");
            let (key, ty) = match mutation["patchType"].as_str().unwrap_or_default() {
                "JSONPatch" => ("jsonPatch", Type::list(Type::object("JSONPatch"))),
                "ApplyConfiguration" => ("applyConfiguration", Type::object("Object")),
                "" => {
                    self.errors
                        .push(FieldError::required(format!("{path}.patchType"), ""));
                    continue;
                }
                other => {
                    self.errors.push(FieldError::not_supported(
                        format!("{path}.patchType"),
                        other,
                        &["ApplyConfiguration", "JSONPatch"],
                    ));
                    continue;
                }
            };
            if !mutation[key].is_object() {
                self.errors.push(FieldError::required(
                    format!("{path}.{key}"),
                    "must be specified for the patch type",
                ));
                continue;
            }
            let place = format!("{path}.{key}.expression");
            self.expression(environment, &mutation[key]["expression"], &[ty], place);
        }
    }
}
