//! The admission chain: built-in plugins, then policies, then webhooks.

use std::sync::Arc;

use rkube_admission::{Operation, Plugins};
use rkube_api::status::Status;
use rkube_api::{Object, meta};
use rkube_auth::authz::Authorizer;
use serde_json::{Value, json};

use super::attributes::{Admission, SubresourceKind};
use super::quotas::StoredQuotas;
use super::reinvocation::Reinvocation;
use crate::backend::Backend;
use crate::call::Call;
use crate::policies::Policies;
use crate::resources::Resource;
use crate::webhooks::Webhooks;

/// Everything that may change or reject a write before it is stored.
pub struct AdmissionChain {
    /// The built-in plugins.
    pub plugins: Plugins,
    /// Authorizes for policies (CEL `authorizer`) and escalation checks.
    pub authorizer: Arc<Authorizer>,
    /// Admission policies (CEL).
    pub policies: Arc<Policies>,
    /// Admission webhooks.
    pub webhooks: Webhooks,
}

/// Returns the function that adds a plugin's annotations to the request's audit event.
fn annotate(call: &Call) -> impl FnMut(&str, String) {
    move |key: &str, value: String| call.annotate(key, value)
}

impl AdmissionChain {
    /// Runs the mutating plugins, policies and webhooks. If a policy or webhook changed the object,
    /// the chain runs a second time, so that for example an injected container gets its defaults.
    pub async fn mutate(
        &self,
        admission: &Admission<'_>,
        object: &mut Object,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        let (name, namespace) = admission.name_and_namespace(object);
        let request = admission.plugin_request(Some(&mut *object), old, &name, &namespace);
        self.plugins.wait_until_ready(&request).await;
        let mut policies = Reinvocation::default();
        let mut webhooks = Reinvocation::default();
        loop {
            let mut request = admission.plugin_request(Some(&mut *object), old, &name, &namespace);
            let warnings = self.plugins.mutate(&mut request)?;
            admission.call.warn(warnings);
            self.policies
                .mutate(admission, object, old, &mut policies)
                .await?;
            self.webhooks
                .mutate(admission, object, old, &mut webhooks)
                .await?;
            let again = [&mut policies, &mut webhooks].map(Reinvocation::next);
            if !again.contains(&true) {
                return Ok(());
            }
        }
    }

    /// Runs the validating plugins, policies and webhooks.
    ///
    /// # Errors
    ///
    /// The first rejection.
    pub async fn validate(
        &self,
        admission: &Admission<'_>,
        object: &mut Object,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        let (name, namespace) = admission.name_and_namespace(object);
        let request = admission.plugin_request(Some(&mut *object), old, &name, &namespace);
        let warnings = self
            .plugins
            .validate(&request, &mut annotate(admission.call))?;
        admission.call.warn(warnings);
        self.policies.validate(admission, Some(object), old).await?;
        self.webhooks.validate(admission, Some(object), old).await
    }

    /// Runs admission for a deletion.
    pub async fn admit_deletion(
        &self,
        admission: &Admission<'_>,
        old: &Object,
    ) -> Result<(), Status> {
        let (name, namespace) = admission.name_and_namespace(old);
        let mut request = admission.plugin_request(None, Some(old), &name, &namespace);
        let mut warnings = self.plugins.mutate(&mut request)?;
        warnings.extend(
            self.plugins
                .validate(&request, &mut annotate(admission.call))?,
        );
        admission.call.warn(warnings);
        self.policies.validate(admission, None, Some(old)).await?;
        self.webhooks.validate(admission, None, Some(old)).await
    }

    /// Charges the namespace's resource quotas. Must be the last step before the object is stored.
    pub async fn charge_quota(
        &self,
        admission: &Admission<'_>,
        object: &mut Object,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        let (name, namespace) = admission.name_and_namespace(object);
        let request = admission.plugin_request(Some(object), old, &name, &namespace);
        self.plugins
            .charge_quota(&request, &StoredQuotas(admission.backend))
            .await
    }

    /// Runs admission for a connection to a pod, service or node.
    pub async fn admit_connection(
        &self,
        backend: &Backend,
        call: &Call,
        kind: &str,
    ) -> Result<(), Status> {
        let info = &call.info;
        let Some(resource) = backend
            .resources
            .find(&info.group, &info.version, &info.resource)
        else {
            return Err(Status::page_not_found());
        };
        let mut options = json!({"kind": kind, "apiVersion": "v1"});
        for key in ["stdin", "stdout", "stderr", "tty"] {
            if info.query.get(key).is_some() {
                options[key] = info.query.is_true(key).into();
            }
        }
        if let Some(container) = info.query.non_empty("container") {
            options["container"] = container.into();
        }
        let command: Vec<&str> = info.query.all("command").collect();
        if !command.is_empty() {
            options["command"] = json!(command);
        }
        let none = Value::Null;
        let definition = format!("io.k8s.api.core.v1.{kind}");
        let admission = Admission {
            backend,
            authorizer: &self.authorizer,
            call,
            requested: None,
            resource: &resource,
            operation: Operation::Connect,
            dry_run: false,
            options: &none,
            part: Some(SubresourceKind {
                group: "",
                version: "v1",
                kind,
                definition: &definition,
            }),
        };
        self.mutate(&admission, &mut options, None).await?;
        self.validate(&admission, &mut options, None).await
    }

    /// Rejects roles and bindings that grant more permissions than the user has.
    pub fn check_escalation(
        &self,
        call: &Call,
        resource: &Resource,
        new: &Object,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        if resource.group != "rbac.authorization.k8s.io" {
            return Ok(());
        }
        self.authorizer.check_escalation(
            &call.user,
            &resource.plural,
            meta::namespace(new),
            new,
            old,
        )
    }
}
