//! Admission policies and match conditions in CEL.
//!
//! Policies and bindings are read from the watch cache. Their expressions are compiled on first use
//! and kept until the policy changes.

mod check;
mod compiled;
mod devices;
mod environment;
mod matching;
mod mutating;
mod type_check;
mod types;
mod validating;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rkube_api::status::Status;
use rkube_api::{Object, meta};
use serde_json::Value;

use crate::admission::attributes::Admission;
use crate::admission::review::review;
use crate::cache::Filter;

pub use check::problems;
use compiled::{Compiled, Conditions};
use environment::{AuthorizerBinding, GROUP, Scope};
pub use type_check::TypeChecker;

/// Compiled expressions of policies and webhooks, by their origin.
#[derive(Default)]
pub struct Policies {
    compiled: Mutex<HashMap<String, (String, Arc<Compiled>)>>,
    conditions: Mutex<HashMap<String, Arc<Conditions>>>,
}

/// Maximum number of cached compilations; normally there is one per policy.
const MAX_COMPILED: usize = 1024;

/// A policy and its bindings.
struct Hook {
    policy: Arc<Object>,
    bindings: Vec<Arc<Object>>,
    compiled: Arc<Compiled>,
}

impl Hook {
    fn name(&self) -> &str {
        meta::name(&self.policy)
    }

    /// Returns whether failures of the policy are ignored.
    fn ignores_failure(&self) -> bool {
        self.policy["spec"]["failurePolicy"] == "Ignore"
    }
}

/// The data that all policies evaluated for one write share.
struct Subject<'a> {
    request: Value,
    object: Option<Value>,
    old: Option<Value>,
    namespace: Option<Arc<Object>>,
    namespace_name: String,
    asker: AuthorizerBinding<'a>,
}

impl<'a> Subject<'a> {
    fn new(
        admission: &'a Admission<'_>,
        object: Option<&Object>,
        old: Option<&Object>,
    ) -> Result<Self, Status> {
        Self::asked_by(AuthorizerBinding::of(admission), admission, object, old)
    }

    /// As [`Self::new`], for a write that is evaluated in another version.
    fn asked_by(
        asker: AuthorizerBinding<'a>,
        admission: &Admission<'_>,
        object: Option<&Object>,
        old: Option<&Object>,
    ) -> Result<Self, Status> {
        let (_, mut review) = review(admission, object, old)?;
        let mut request = review["request"].take();
        let mut take = |field: &str| Some(request[field].take()).filter(|v| !v.is_null());
        let (new, former) = (take("object"), take("oldObject"));
        let named = object.or(old);
        let namespace_name = admission.namespace(named);
        let namespace = if namespace_name.is_empty() || admission.resource.is("", "namespaces") {
            None
        } else {
            admission
                .backend
                .cache
                .existing("", "namespaces")
                .and_then(|cache| cache.get("", &namespace_name))
                .map(|object| object.tree())
        };
        Ok(Self {
            request,
            object: new,
            old: former,
            namespace,
            namespace_name,
            asker,
        })
    }

    fn scope<'s>(&'s self, compiled: &'s Compiled, params: Option<&'s Value>) -> Scope<'s> {
        let mut scope = Scope::new(&self.request, &self.asker, &compiled.variables);
        scope.object = self.object.as_ref();
        scope.old = self.old.as_ref();
        scope.namespace = self.namespace.as_deref();
        scope.params = params;
        scope
    }
}

impl Policies {
    /// Returns the policies of a kind that have bindings, ordered by name.
    fn hooks(&self, admission: &Admission<'_>, policies: &str, bindings: &str) -> Vec<Hook> {
        let cache = &admission.backend.cache;
        let Some(found) = cache.existing(GROUP, policies).filter(|c| !c.is_empty()) else {
            return Vec::new();
        };
        // Policies do not apply to admission configuration, so that a broken policy can be
        // repaired.
        if admission.resource.group == GROUP {
            return Vec::new();
        }
        let Some(bound) = cache.existing(GROUP, bindings).filter(|c| !c.is_empty()) else {
            return Vec::new();
        };
        let bound: Vec<_> = bound
            .list(&Filter::default())
            .iter()
            .map(|b| b.tree())
            .collect();
        let mut hooks = Vec::new();
        for policy in found.list(&Filter::default()) {
            let policy = policy.tree();
            let name = meta::name(&policy);
            let bindings: Vec<_> = bound
                .iter()
                .filter(|b| b["spec"]["policyName"] == name)
                .cloned()
                .collect();
            if bindings.is_empty() {
                continue;
            }
            let compiled = self.compiled(policies, &policy);
            hooks.push(Hook {
                policy,
                bindings,
                compiled,
            });
        }
        hooks
    }

    fn compiled(&self, plural: &str, policy: &Object) -> Arc<Compiled> {
        let key = format!("{plural}/{}", meta::name(policy));
        let state = format!("{}/{}", meta::uid(policy), meta::generation(policy));
        if let Some((of, compiled)) = self.compiled.lock().get(&key)
            && *of == state
        {
            return compiled.clone();
        }
        let compiled = Arc::new(Compiled::new(&policy["spec"]));
        let mut kept = self.compiled.lock();
        if kept.len() >= MAX_COMPILED {
            kept.clear();
        }
        kept.insert(key, (state, compiled.clone()));
        compiled
    }

    /// Returns whether a webhook's match conditions are true. Evaluation errors are subject to the
    /// webhook's failure policy.
    ///
    /// # Errors
    ///
    /// A condition failed and the failure policy is `Fail`.
    pub fn conditions_hold(
        &self,
        admission: &Admission<'_>,
        hook: &Value,
        object: Option<&Object>,
        old: Option<&Object>,
    ) -> Result<bool, Status> {
        let conditions = &hook["matchConditions"];
        if conditions.as_array().is_none_or(Vec::is_empty) {
            return Ok(true);
        }
        let key = conditions.to_string();
        let found = self.conditions.lock().get(&key).cloned();
        let compiled = match found {
            Some(compiled) => compiled,
            None => {
                let compiled = Arc::new(Conditions::of_webhook(conditions));
                let mut kept = self.conditions.lock();
                if kept.len() >= MAX_COMPILED {
                    kept.clear();
                }
                kept.insert(key, compiled.clone());
                compiled
            }
        };
        let subject = Subject::new(admission, object, old)?;
        let mut scope = Scope::new(&subject.request, &subject.asker, &[]);
        scope.object = subject.object.as_ref();
        scope.old = subject.old.as_ref();
        match compiled.hold(&mut scope) {
            Ok(hold) => Ok(hold),
            Err(_) if hook["failurePolicy"] == "Ignore" => Ok(false),
            Err(problem) => {
                let (group_resource, name) = about(admission, object.or(old));
                Err(Status::forbidden(&group_resource, &name, problem))
            }
        }
    }
}

/// Returns the resource and the name to report in a rejection.
fn about(admission: &Admission<'_>, object: Option<&Object>) -> (rkube_api::GroupResource, String) {
    (admission.resource.group_resource(), admission.name(object))
}
