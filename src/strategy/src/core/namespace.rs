//! Namespaces.

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::json;

use crate::errors::{Errors, index};
use crate::generic::{self, deleting};
use crate::tree::{ensure, keep, list, put, text};
use crate::{Context, NameRule, Strategy, Subresource};

/// The strategy of kind `Namespace`.
pub(crate) struct Namespace;

/// Finalizer of the namespace controller, in `spec.finalizers`.
const FINALIZER: &str = "kubernetes";
/// Label with the name of the namespace, for namespace selectors.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

impl Strategy for Namespace {
    fn name_rule(&self) -> NameRule {
        NameRule::Dns1123Label
    }

    fn default(&self, obj: &mut Object) {
        let name = text(obj, "metadata.name").to_owned();
        if !name.is_empty() {
            ensure(obj, "metadata.labels").insert(NAME_LABEL.to_owned(), name.into());
        }
        if text(obj, "status.phase").is_empty() {
            put(obj, "status.phase", "Active");
        }
    }

    fn prepare_create(&self, _ctx: &Context<'_>, obj: &mut Object) {
        generic::prepare_create_plain(obj);
        put(obj, "status", json!({"phase": "Active"}));
        let mut finalizers = list(obj, "spec.finalizers").to_vec();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            finalizers.push(FINALIZER.into());
        }
        put(obj, "spec.finalizers", finalizers);
        // Defaulting runs again because a generated name is only known now.
        self.default(obj);
    }

    fn prepare_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_update_plain(new, old);
        keep(new, old, "spec.finalizers");
        keep(new, old, "status");
    }

    fn validate_create(&self, obj: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        for finalizer in list(obj, "spec.finalizers") {
            let name = finalizer.as_str().unwrap_or_default();
            crate::metadata::finalizer_name(&mut errors, name, "spec.finalizers");
        }
        errors.0
    }

    fn prepare_subresource_update(
        &self,
        _ctx: &Context<'_>,
        _subresource: Subresource,
        new: &mut Object,
        old: &Object,
    ) {
        // `finalize` may change `spec.finalizers`; the status is kept.
        generic::prepare_update_plain(new, old);
        keep(new, old, "status");
    }

    fn validate_subresource_update(
        &self,
        _subresource: Subresource,
        new: &Object,
        _old: &Object,
    ) -> Vec<FieldError> {
        let mut errors = Errors::new();
        for (i, finalizer) in list(new, "spec.finalizers").iter().enumerate() {
            crate::metadata::finalizer_name(
                &mut errors,
                finalizer.as_str().unwrap_or_default(),
                &index("spec.finalizers", i),
            );
        }
        errors.0
    }

    fn validate_status_update(&self, new: &Object, _old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let phase = text(new, "status.phase");
        if deleting(new) {
            if phase != "Terminating" {
                errors.invalid(
                    "status.Phase",
                    phase,
                    "may only be 'Terminating' if `deletionTimestamp` is not empty",
                );
            }
        } else if phase != "Active" {
            errors.invalid(
                "status.Phase",
                phase,
                "may only be 'Active' if `deletionTimestamp` is empty",
            );
        }
        errors.0
    }

    fn field_value(&self, obj: &Object, field: &str) -> Option<String> {
        match field {
            "status.phase" | "name" => Some(
                text(
                    obj,
                    if field == "name" {
                        "metadata.name"
                    } else {
                        field
                    },
                )
                .to_owned(),
            ),
            _ => generic::field_value(obj, field),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn created_active_and_labelled() {
        let ctx = Context::new(jiff::Timestamp::UNIX_EPOCH, "test");
        let mut ns = json!({"metadata": {"name": "a"}});
        Namespace.default(&mut ns);
        Namespace.prepare_create(&ctx, &mut ns);
        assert_eq!(
            ns,
            json!({"metadata": {"name": "a", "labels": {"kubernetes.io/metadata.name": "a"}},
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
        );
    }
}
