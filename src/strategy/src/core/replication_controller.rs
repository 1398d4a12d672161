//! Replication controllers and pod templates.

use rkube_api::Object;
use rkube_api::status::{FieldError, Status};
use serde_json::{Value, json};

use super::{pod_defaults, pod_validation};
use crate::errors::{Errors, NOT_NEGATIVE};
use crate::generic;
use crate::tree::{at, at_mut, default_value, has, int, keep, map, put};
use crate::{Context, GarbageCollection, Strategy, selectors};

/// The strategy of kind `ReplicationController`.
pub(crate) struct ReplicationController;

impl Strategy for ReplicationController {
    fn default(&self, obj: &mut Object) {
        if let Some(labels) = map(obj, "spec.template.metadata.labels").cloned() {
            let labels = Value::Object(labels);
            for path in ["spec.selector", "metadata.labels"] {
                if crate::tree::is_empty(at(obj, path)) {
                    put(obj, path, labels.clone());
                }
            }
        }
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
        let replicas = int(obj, "spec.replicas").unwrap_or(0);
        if replicas < 0 {
            errors.invalid("spec.replicas", replicas, NOT_NEGATIVE);
        }
        if crate::tree::is_empty(at(obj, "spec.selector")) {
            errors.required("spec.selector", "");
        }
        if !has(obj, "spec.template") {
            errors.required("spec.template", "");
            return errors.0;
        }
        let labels = map(obj, "spec.template.metadata.labels");
        if !selectors::map_matches(at(obj, "spec.selector"), labels) {
            errors.invalid(
                "spec.template.metadata.labels",
                at(obj, "spec.template.metadata.labels").clone(),
                "`selector` does not match template `labels`",
            );
        }
        pod_validation::template(&mut errors, at(obj, "spec.template"), "spec.template");
        crate::apps::always_restarted(
            &mut errors,
            at(obj, "spec.template"),
            "spec.template",
            "ReplicationController",
        );
        errors.0
    }

    fn validate_status_update(&self, new: &Object, _old: &Object) -> Vec<FieldError> {
        crate::apps::replica_status(new)
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let mut warnings = super::pod_warnings::pod_spec(
            at(new, "spec.template.spec"),
            old.map(|o| at(o, "spec.template.spec")),
            "spec.template.spec",
        );
        if old.is_none() {
            warnings.extend(super::pod_warnings::name(new, "Pod names and hostnames"));
        }
        warnings
    }

    fn field_value(&self, obj: &Object, field: &str) -> Option<String> {
        match field {
            "status.replicas" => Some(int(obj, field).unwrap_or(0).to_string()),
            _ => generic::field_value(obj, field),
        }
    }

    fn default_garbage_collection(&self) -> GarbageCollection {
        GarbageCollection::Orphan
    }

    fn scale(&self, obj: &Object) -> Option<Object> {
        let selector = selectors::format_labels(obj, "spec.selector");
        Some(crate::apps::scale_of(obj, &selector))
    }

    fn set_scale(&self, obj: &mut Object, scale: &Object) -> Result<(), Status> {
        crate::apps::set_replicas(obj, scale)
    }
}

/// The strategy of kind `PodTemplate`.
pub(crate) struct PodTemplate;

impl Strategy for PodTemplate {
    fn default(&self, obj: &mut Object) {
        if let Some(template) = at_mut(obj, "template") {
            pod_defaults::template(template);
        }
    }

    fn prepare_create(&self, _ctx: &Context<'_>, obj: &mut Object) {
        put(obj, "metadata.generation", 1);
    }

    fn prepare_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        let changed = !crate::tree::same(at(new, "template"), at(old, "template"));
        generic::set_generation(new, old, changed);
    }

    fn validate_create(&self, obj: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        pod_validation::template(&mut errors, at(obj, "template"), "template");
        errors.0
    }
}
