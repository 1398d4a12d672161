//! Replica sets.

use rkube_api::Object;
use rkube_api::status::{FieldError, Status};
use serde_json::json;

use super::{
    immutable_selector, not_negative, replica_status, scale_of, selector_and_template, set_replicas,
};
use crate::core::pod_defaults;
use crate::errors::Errors;
use crate::generic;
use crate::tree::{at, at_mut, default_value, int, keep, put};
use crate::{Context, Strategy, selectors};

/// The strategy of kind `ReplicaSet`.
pub(crate) struct ReplicaSet;

impl Strategy for ReplicaSet {
    fn default(&self, obj: &mut Object) {
        if let Some(spec) = at_mut(obj, "spec") {
            default_value(spec, "replicas", 1);
            if let Some(template) = at_mut(spec, "template") {
                pod_defaults::template(template);
            }
        }
    }

    fn prepare_create(&self, _ctx: &Context<'_>, obj: &mut Object) {
        put(obj, "status", json!({"replicas": 0}));
        put(obj, "metadata.generation", 1);
    }

    fn prepare_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_spec_update(new, old);
    }

    fn prepare_status_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_status_update(new, old);
        keep(new, old, "spec");
    }

    fn validate_create(&self, obj: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        not_negative(&mut errors, obj, "spec", &["replicas", "minReadySeconds"]);
        selector_and_template(&mut errors, obj, "deployment");
        errors.0
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        errors.extend(crate::errors::ratcheted(self.validate_create(new), || {
            self.validate_create(old)
        }));
        immutable_selector(&mut errors, new, old);
        errors.0
    }

    fn validate_status_update(&self, new: &Object, _old: &Object) -> Vec<FieldError> {
        replica_status(new)
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        super::named_warnings(new, old)
    }

    fn field_value(&self, obj: &Object, field: &str) -> Option<String> {
        match field {
            "status.replicas" => Some(int(obj, field).unwrap_or(0).to_string()),
            _ => generic::field_value(obj, field),
        }
    }

    fn scale(&self, obj: &Object) -> Option<Object> {
        Some(scale_of(obj, &selectors::format(at(obj, "spec.selector"))))
    }

    fn set_scale(&self, obj: &mut Object, scale: &Object) -> Result<(), Status> {
        set_replicas(obj, scale)
    }
}
