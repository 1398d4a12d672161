//! `status.typeChecking` of validating policies: type errors of the expressions with the schemas of
//! the matched kinds.

use std::sync::Arc;

use rkube_api::{Object, meta};
use rkube_store::Expect;
use serde_json::{Value, json};

use super::environment::{Environment, GROUP, Options};
use super::matching::resource_of_kind;
use super::types::declared;
use crate::backend::Backend;
use crate::cache::{Event, Filter};
use crate::codec::encode;
use crate::observer::CacheObserver;
use crate::resources::Resource;

const PLURAL: &str = "validatingadmissionpolicies";
/// Maximum number of kinds against which a policy is checked.
const MAX_KINDS: usize = 10;

/// Writes the type errors of policies to their status.
pub struct TypeChecker {
    /// The source of the policies and of the resources that they match.
    pub backend: Arc<Backend>,
}

impl CacheObserver for TypeChecker {
    fn resources(&self) -> Vec<(&'static str, &'static str)> {
        vec![(GROUP, PLURAL)]
    }

    async fn resync(&mut self) {
        check_all(&self.backend).await;
    }

    async fn handle_events(&mut self, _: usize, _: &[Arc<Event>]) {
        check_all(&self.backend).await;
    }
}

async fn check_all(backend: &Backend) {
    let Some(cache) = backend.cache.existing(GROUP, PLURAL) else {
        return;
    };
    for object in cache.list(&Filter::default()) {
        let policy = object.tree();
        let generation = meta::generation(&policy);
        if policy["status"]["observedGeneration"] == generation {
            continue;
        }
        let warnings = warnings(backend, &policy);
        let mut new = (*policy).clone();
        let mut checking = json!({});
        if !warnings.is_empty() {
            checking["expressionWarnings"] = warnings.into();
        }
        if !new["status"].is_object() {
            new["status"] = json!({});
        }
        new["status"]["observedGeneration"] = generation.into();
        new["status"]["typeChecking"] = checking;
        let Ok(bytes) = encode(&mut new) else {
            continue;
        };
        let key = format!("/registry/{GROUP}/{PLURAL}/{}", meta::name(&policy));
        // If the policy has changed meanwhile, its event triggers the check again.
        if let Err(error) = backend
            .store
            .put(&key, bytes, Expect::Revision(object.revision))
            .await
        {
            tracing::debug!(%error, "a policy's status was not written");
        }
    }
}

/// Returns the kinds that a policy matches without wildcards.
fn kinds(backend: &Backend, spec: &Value) -> Vec<Arc<Resource>> {
    let texts = |value: &Value| -> Vec<String> {
        let list = value.as_array().into_iter().flatten();
        list.filter_map(|t| t.as_str().map(str::to_owned)).collect()
    };
    let mut found: Vec<Arc<Resource>> = Vec::new();
    let rules = spec["matchConstraints"]["resourceRules"].as_array();
    for rule in rules.into_iter().flatten() {
        let (versions, plurals) = (texts(&rule["apiVersions"]), texts(&rule["resources"]));
        for group in texts(&rule["apiGroups"]) {
            let pairs = versions
                .iter()
                .flat_map(|version| plurals.iter().map(move |plural| (version, plural)));
            found.extend(pairs.filter_map(|(version, plural)| {
                let wild = [&group, version, plural].iter().any(|t| t.contains('*'));
                (!wild && !plural.contains('/'))
                    .then(|| backend.resources.find(&group, version, plural))?
            }));
        }
    }
    found.sort_by_key(|r| {
        (
            r.group.to_string(),
            r.version.to_string(),
            r.kind.to_string(),
        )
    });
    found.dedup_by_key(|r| {
        (
            r.group.to_string(),
            r.version.to_string(),
            r.kind.to_string(),
        )
    });
    found.truncate(MAX_KINDS);
    found
}

fn warnings(backend: &Backend, policy: &Object) -> Vec<Value> {
    let spec = &policy["spec"];
    let params = spec["paramKind"].is_object().then(|| {
        let text = |key: &str| spec["paramKind"][key].as_str().unwrap_or_default();
        resource_of_kind(backend, text("apiVersion"), text("kind"))
            .map(|r| Arc::new(declared(r.schema())).named("typeOfParams"))
    });
    let mut environments = Vec::new();
    for resource in kinds(backend, spec) {
        let object = Arc::new(declared(resource.schema())).named("typeOfObject");
        let mut environment = Environment::typed(
            Options {
                params: params.is_some(),
                authorizer: true,
                patches: false,
            },
            Some(&object),
            params.as_ref().and_then(Option::as_ref),
        );
        let variables = spec["variables"].as_array();
        for variable in variables.into_iter().flatten() {
            let text = |key: &str| variable[key].as_str().unwrap_or_default();
            let ty = match environment.compile(text("expression"), &[]) {
                Ok((_, ty)) => ty,
                Err(_) => rkube_cel::Type::Dyn,
            };
            environment.define(text("name"), ty);
        }
        let kind = format!(
            "{}, Kind={}",
            rkube_api::gvk::api_version(&resource.group, &resource.version),
            resource.kind
        );
        environments.push((kind, environment));
    }
    let mut found = Vec::new();
    let validations = spec["validations"].as_array();
    for (i, validation) in validations.into_iter().flatten().enumerate() {
        for key in ["expression", "messageExpression"] {
            let source = validation[key].as_str().unwrap_or_default();
            if source.is_empty() {
                continue;
            }
            let problems: Vec<String> = environments
                .iter()
                .filter_map(|(kind, environment)| {
                    let problem = environment.compile(source, &[]).err()?;
                    let problem = problem
                        .strip_prefix("compilation failed: ")
                        .unwrap_or(&problem);
                    Some(format!("{kind}: {problem}\n"))
                })
                .collect();
            if !problems.is_empty() {
                found.push(json!({
                    "fieldRef": format!("spec.validations[{i}].{key}"),
                    "warning": problems.join("\n"),
                }));
            }
        }
    }
    found
}
