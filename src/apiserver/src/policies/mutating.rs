//! `MutatingAdmissionPolicy`: policies that change objects before they are stored.

use std::borrow::Cow;
use std::sync::Arc;

use rkube_api::gvk::api_version;
use rkube_api::patch::json_patch;
use rkube_api::schema::{Kind, ListType, Schema, Type};
use rkube_api::status::{Cause, Status};
use rkube_api::{Object, apply, meta};
use rkube_cel::{Object as CelObject, RUNTIME_BUDGET, Value as Cel};
use serde_json::{Value, json};

use super::compiled::Mutation;
use super::matching::{Match, matches, params};
use super::{Hook, Policies, Subject, about};
use crate::admission::attributes::Admission;
use crate::admission::reinvocation::Reinvocation;
use crate::admission::review::{maybe_seen_in, seen_in};
use crate::resources::Resource;

/// The reason for which a policy failed.
struct Problem {
    message: String,
    reason: &'static str,
}

/// One invocation of a policy: a binding and its parameters.
struct Invocation<'h> {
    hook: &'h Hook,
    binding: String,
    params: Option<Value>,
    /// The version in which the policy evaluates the object, if it is not the request's.
    version: Option<Arc<Resource>>,
    /// Identifies the invocation for reinvocation.
    key: String,
}

impl Policies {
    /// Runs the mutating policies in order.
    ///
    /// # Errors
    ///
    /// A policy failed and its failure policy is `Fail`.
    pub async fn mutate(
        &self,
        admission: &Admission<'_>,
        object: &mut Object,
        old: Option<&Object>,
        rounds: &mut Reinvocation,
    ) -> Result<(), Status> {
        let hooks = self.hooks(
            admission,
            "mutatingadmissionpolicies",
            "mutatingadmissionpolicybindings",
        );
        if hooks.is_empty() {
            return Ok(());
        }
        rounds.begin(object);
        let mut refusals = Vec::new();
        for invocation in self.invocations(admission, &hooks, object, old, &mut refusals) {
            if rounds.skips(&invocation.key) {
                continue;
            }
            let changed = match &invocation.version {
                None => self.invoke(admission, &invocation, object, old, &mut refusals)?,
                Some(version) => {
                    let mut seen = Box::pin(seen_in(admission, version, object)).await?;
                    let seen_old = Box::pin(maybe_seen_in(admission, version, old)).await?;
                    let through = admission.through(version);
                    let old = seen_old.as_ref();
                    let changed =
                        self.invoke(&through, &invocation, &mut seen, old, &mut refusals)?;
                    if changed {
                        *object = Box::pin(seen_in(admission, admission.resource, &seen)).await?;
                    }
                    changed
                }
            };
            let again = invocation.hook.policy["spec"]["reinvocationPolicy"] == "IfNeeded";
            rounds.called(&invocation.key, changed, again);
        }
        rounds.end(object);
        let Some((message, reason)) = refusals.first().cloned() else {
            return Ok(());
        };
        let (resource, name) = about(admission, Some(object));
        let mut status = Status::forbidden(&resource, &name, "");
        status.message = message;
        if !reason.is_empty() {
            status.reason = Cow::Borrowed(reason);
        }
        if let Some(details) = &mut status.details {
            details
                .causes
                .extend(refusals.into_iter().map(|(message, _)| Cause {
                    message,
                    ..Cause::default()
                }));
        }
        Err(status)
    }

    fn invocations<'h>(
        &self,
        admission: &Admission<'_>,
        hooks: &'h [Hook],
        object: &Object,
        old: Option<&Object>,
        refusals: &mut Vec<(String, &'static str)>,
    ) -> Vec<Invocation<'h>> {
        let mut invocations = Vec::new();
        let namespace = admission.namespace(Some(object));
        for hook in hooks {
            let spec = &hook.policy["spec"];
            let constraints = &spec["matchConstraints"];
            let version = match matches(admission, constraints, Some(object), old) {
                Ok(Match::Yes(version)) => version,
                Ok(Match::No) => continue,
                Err(problem) => {
                    if !hook.ignores_failure() {
                        refusals.push((
                            format!(
                                "policy {:?} denied request: failed to configure policy: {}",
                                hook.name(),
                                problem.message
                            ),
                            "",
                        ));
                    }
                    continue;
                }
            };
            for binding in &hook.bindings {
                let name = meta::name(binding);
                let own = &binding["spec"];
                let found = match matches(admission, &own["matchResources"], Some(object), old) {
                    Ok(Match::No) => continue,
                    Ok(Match::Yes(_)) => params(admission, spec, own, &namespace),
                    Err(problem) => Err(problem.message),
                };
                match found {
                    Ok(found) => {
                        invocations.extend(found.into_iter().map(|params| Invocation {
                            hook,
                            binding: name.to_owned(),
                            key: use_key(hook.name(), name, params.as_ref()),
                            params,
                            version: version.clone(),
                        }));
                    }
                    Err(problem) => refuse(
                        hook,
                        name,
                        format!("failed to configure binding: {problem}"),
                        "",
                        refusals,
                    ),
                }
            }
        }
        invocations
    }

    /// Runs one invocation. Returns whether it changed the object.
    fn invoke(
        &self,
        admission: &Admission<'_>,
        invocation: &Invocation<'_>,
        object: &mut Object,
        old: Option<&Object>,
        refusals: &mut Vec<(String, &'static str)>,
    ) -> Result<bool, Status> {
        let hook = invocation.hook;
        let mut changed = false;
        for (i, mutation) in hook.compiled.mutations.iter().enumerate() {
            let subject = Subject::new(admission, Some(object), old)?;
            let mut scope = subject.scope(&hook.compiled, invocation.params.as_ref());
            if i == 0 {
                match hook.compiled.conditions.hold(&mut scope) {
                    Ok(true) => {}
                    Ok(false) => return Ok(false),
                    Err(problem) => {
                        refuse(hook, &invocation.binding, problem, "Invalid", refusals);
                        return Ok(false);
                    }
                }
            }
            let before = admission.served(object.clone())?;
            match patched(admission, mutation, &mut scope, &before) {
                Ok(after) if after == before => {}
                Ok(mut after) => {
                    let (group, version, kind) = admission.kind();
                    meta::set_type(&mut after, &api_version(group, version), kind);
                    *object = match admission.part {
                        None => {
                            rkube_api::fields::check(admission.resource.schema(), &mut after)?;
                            admission.resource.stored(after)?
                        }
                        Some(_) => after,
                    };
                    changed = true;
                }
                Err(problem) => refuse(
                    hook,
                    &invocation.binding,
                    problem.message,
                    problem.reason,
                    refusals,
                ),
            }
        }
        Ok(changed)
    }
}

fn use_key(policy: &str, binding: &str, params: Option<&Value>) -> String {
    let params = params.map(|params| {
        let meta = &params["metadata"];
        format!("{}/{}", meta["namespace"], meta["name"])
    });
    format!("{policy}/{binding}/{}", params.unwrap_or_default())
}

fn refuse(
    hook: &Hook,
    binding: &str,
    problem: String,
    reason: &'static str,
    refusals: &mut Vec<(String, &'static str)>,
) {
    if hook.ignores_failure() {
        return;
    }
    refusals.push((
        format!(
            "policy '{}' with binding '{binding}' denied request: {problem}",
            hook.name()
        ),
        reason,
    ));
}

/// Returns the object with one mutation applied.
fn patched<'a>(
    admission: &Admission<'_>,
    mutation: &'a Mutation,
    scope: &mut super::Scope<'a>,
    before: &Object,
) -> Result<Object, Problem> {
    let problem = |message: String| Problem {
        message,
        reason: "Invalid",
    };
    let expression = mutation
        .expression
        .as_ref()
        .map_err(|e| problem(e.clone()))?;
    let mut budget = RUNTIME_BUDGET;
    let value = scope
        .evaluate(expression, &mut budget)
        .map_err(|error| problem(error.to_string()))?;
    check_names(&value).map_err(|e| problem(format!("type mismatch: {e}")))?;
    if mutation.is_json_patch {
        let mut patch = value.to_json().map_err(|e| problem(e.message))?;
        for operation in patch.as_array_mut().into_iter().flatten() {
            // CEL objects have zero values for unset fields: remove an empty `from`.
            if let Some(map) = operation.as_object_mut()
                && map.get("from").is_some_and(|from| from == "")
            {
                map.remove("from");
            }
        }
        return match json_patch(before, &patch) {
            Ok(after) => Ok(after),
            // A failed `test` operation means that the policy changes nothing.
            Err(e) if failed_test(before, &patch) => {
                tracing::debug!(problem = e.message, "a policy's patch does not apply");
                Ok(before.clone())
            }
            Err(e) => Err(problem(format!("JSON Patch: {}", e.message))),
        };
    }
    let mut configuration = value.to_json().map_err(|e| problem(e.message))?;
    let (group, version, kind) = admission.kind();
    meta::set_type(&mut configuration, &api_version(group, version), kind);
    let ty = match &admission.part {
        None => admission.resource.schema(),
        Some(part) => match Schema::builtin().definition(part.definition) {
            Some(ty) => Type::from(ty),
            None => return Err(problem("the kind has no schema to apply to".into())),
        },
    };
    let mut atomic = Vec::new();
    find_atomic(ty, &configuration, String::new(), &mut atomic);
    if !atomic.is_empty() {
        return Err(problem(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}",
            atomic.join(", ")
        )));
    }
    let request = apply::Request {
        ty,
        api_version: &api_version(group, version),
        manager: "mutating-admission-policy",
        subresource: None,
        now: "",
        versions: None,
        reset_fields: &[],
    };
    let mut after = apply::apply(&request, Some(before), &configuration, true)
        .map_err(|e| problem(e.message))?;
    // The change is attributed to the request's manager, not to a separate one.
    match before["metadata"].get("managedFields") {
        Some(fields) => {
            meta::metadata_mut(&mut after).insert("managedFields".into(), fields.clone());
        }
        None => {
            meta::remove(&mut after, "managedFields");
        }
    }
    Ok(after)
}

/// Returns whether a patch fails at one of its `test` operations.
fn failed_test(before: &Object, patch: &Value) -> bool {
    let mut now = before.clone();
    for operation in patch.as_array().into_iter().flatten() {
        match json_patch(&now, &json!([operation])) {
            Ok(after) => now = after,
            Err(_) => return operation["op"] == "test",
        }
    }
    false
}

/// Checks that the type names of objects match their position: `Object.spec` in the field `spec`.
fn check_names(value: &Cel<'_>) -> Result<(), String> {
    match value {
        Cel::List(rkube_cel::List::Own(items)) => items.iter().try_for_each(check_names),
        Cel::Object(CelObject::Own(made)) if made.name == "JSONPatch" => {
            made.fields.iter().try_for_each(|(_, v)| check_names(v))
        }
        Cel::Object(CelObject::Own(made)) => check_below(value, &made.name),
        _ => Ok(()),
    }
}

fn check_below(value: &Cel<'_>, name: &str) -> Result<(), String> {
    match value {
        Cel::Object(CelObject::Own(made)) => {
            if made.name != name {
                return Err(format!(
                    "unexpected type name {:?}, expected {name:?}, which matches field name path \
                     from root Object type",
                    made.name
                ));
            }
            made.fields
                .iter()
                .try_for_each(|(field, value)| check_below(value, &format!("{name}.{field}")))
        }
        Cel::List(rkube_cel::List::Own(items)) => {
            items.iter().try_for_each(|item| check_below(item, name))
        }
        Cel::Map(rkube_cel::Map::Own(map)) => map
            .entries()
            .iter()
            .try_for_each(|(_, value)| check_below(value, name)),
        Cel::Optional(Some(value)) => check_below(value, name),
        _ => Ok(()),
    }
}

/// Collects the paths in a configuration that can only be replaced as a whole.
fn find_atomic(ty: Type<'_>, value: &Value, path: String, found: &mut Vec<String>) {
    match value {
        Value::Array(items) => {
            if ty.kind() == Kind::Array && ty.list_type() == ListType::Atomic {
                found.push(path);
                return;
            }
            if let Some(element) = ty.element() {
                for (i, item) in items.iter().enumerate() {
                    find_atomic(element, item, format!("{path}[{i}]"), found);
                }
            }
        }
        Value::Object(map) => {
            if ty.is_atomic_map() {
                found.push(path);
                return;
            }
            for (name, value) in map {
                let inner = ty.field(name).map(|f| f.ty).or_else(|| ty.element());
                if let Some(inner) = inner {
                    find_atomic(inner, value, format!("{path}.{name}"), found);
                }
            }
        }
        _ => {}
    }
}
