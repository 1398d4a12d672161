//! Compile checks of the expressions in policies and webhooks when these are written.

use rkube_api::Object;
use rkube_api::status::FieldError;
use rkube_cel::Type;
use serde_json::Value;

use super::environment::{Environment, GROUP, Options};
use crate::resources::Resource;

/// Returns the expressions of policies, webhooks and selectors of devices that do not compile.
/// Other kinds have none. What is wrong otherwise, the validation of the kind tells.
pub fn problems(resource: &Resource, object: &Object) -> Vec<FieldError> {
    if &*resource.group == "resource.k8s.io" {
        return super::devices::problems(&resource.kind, object);
    }
    if resource.group != GROUP {
        return Vec::new();
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
    check.errors
}

fn list<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = (usize, &'v Value)> {
    value[key].as_array().into_iter().flatten().enumerate()
}

fn source(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

struct Check {
    errors: Vec<FieldError>,
}

impl Check {
    fn expression(
        &mut self,
        environment: &Environment,
        text: &str,
        types: &[Type],
        path: String,
    ) -> Option<Type> {
        if text.trim().is_empty() {
            return None;
        }
        match environment.compile(text, types) {
            Ok((_, ty)) => Some(ty),
            Err(problem) => {
                self.errors.push(FieldError::invalid(path, text, problem));
                None
            }
        }
    }

    fn conditions(&mut self, environment: &Environment, holder: &Value, path: &str) {
        for (i, condition) in list(holder, "matchConditions") {
            let place = format!("{path}.matchConditions[{i}].expression");
            let text = source(&condition["expression"]).trim();
            self.expression(environment, text, &[Type::Bool], place);
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
        // Match conditions have no variables.
        self.conditions(&environment, spec, "spec");
        for (i, variable) in list(spec, "variables") {
            let name = variable["name"].as_str().unwrap_or_default();
            let place = format!("spec.variables[{i}].expression");
            let ty = self
                .expression(&environment, source(&variable["expression"]), &[], place)
                .unwrap_or(Type::Dyn);
            environment.define(name, ty.clone());
            plain.define(name, ty);
        }
        for (i, validation) in list(spec, "validations") {
            let path = format!("spec.validations[{i}]");
            let place = format!("{path}.expression");
            let text = source(&validation["expression"]);
            self.expression(&environment, text, &[Type::Bool], place);
            let place = format!("{path}.messageExpression");
            let text = source(&validation["messageExpression"]);
            self.expression(&plain, text, &[Type::String], place);
        }
        for (i, annotation) in list(spec, "auditAnnotations") {
            let types = [Type::String, Type::Null];
            let place = format!("spec.auditAnnotations[{i}].valueExpression");
            let text = source(&annotation["valueExpression"]);
            let before = self.errors.len();
            self.expression(&environment, text.trim(), &types, place);
            // As upstream, messages have the text as it is, but places without its leading space.
            for error in &mut self.errors[before..] {
                error.value = Some(text.into());
            }
        }
        self.mutations(&environment, spec);
    }

    fn mutations(&mut self, environment: &Environment, spec: &Value) {
        for (i, mutation) in list(spec, "mutations") {
            let (key, ty) = match mutation["patchType"].as_str().unwrap_or_default() {
                "JSONPatch" => ("jsonPatch", Type::list(Type::object("JSONPatch"))),
                "ApplyConfiguration" => ("applyConfiguration", Type::object("Object")),
                _ => continue,
            };
            let place = format!("spec.mutations[{i}].{key}.expression");
            let text = source(&mutation[key]["expression"]).trim();
            self.expression(environment, text, &[ty], place);
        }
    }
}
