//! Replication controllers and pod templates.

use rkube_api::Object;
use rkube_api::status::{FieldError, Status};
use serde_json::{Value, json};

use super::container_types::Allowances;
use super::{pod_defaults, pod_validation};
use crate::errors::{Errors, NOT_NEGATIVE, ratcheted};
use crate::generic;
use crate::tree::{at, at_mut, default_value, int, keep, map, put};
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
        drop_from(obj, "spec.template");
    }

    fn prepare_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        drop_from(new, "spec.template");
        generic::prepare_spec_update(new, old);
    }

    fn prepare_status_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_status_update(new, old);
        keep(new, old, "spec");
    }

    fn validate_create(&self, obj: &Object) -> Vec<FieldError> {
        controller(obj, Allowances::default())
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let allowed = Allowances::of(at(old, "spec.template"));
        ratcheted(controller(new, allowed), || controller(old, allowed))
    }

    fn validate_status_update(&self, new: &Object, _old: &Object) -> Vec<FieldError> {
        crate::apps::replica_status(new)
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let template = |o| super::pod_warnings::template(at(o, "spec.template"), "spec.template");
        let generation = |o: &Object| int(o, "metadata.generation");
        match old {
            None => {
                let named = super::pod_warnings::name(new, "Pod names and hostnames");
                named.into_iter().chain(template(new)).collect()
            }
            Some(old) if generation(old) == generation(new) => Vec::new(),
            // As upstream, the warnings are about the template from before.
            Some(old) => template(old),
        }
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
        drop_from(obj, "template");
    }

    fn prepare_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        drop_from(new, "template");
        let changed = !crate::tree::same(at(new, "template"), at(old, "template"));
        generic::set_generation(new, old, changed);
    }

    fn validate_create(&self, obj: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        pod_validation::template(&mut errors, at(obj, "template"), "template");
        errors.0
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let allowed = Allowances::of(at(old, "template"));
        let errors_of = |obj| {
            let mut errors = Errors::new();
            pod_validation::template_with(&mut errors, at(obj, "template"), allowed, "template");
            errors.0
        };
        ratcheted(errors_of(new), || errors_of(old))
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let generation = |o: &Object| int(o, "metadata.generation");
        match old {
            Some(old) if generation(old) == generation(new) => Vec::new(),
            _ => super::pod_warnings::template(at(new, "template"), "template"),
        }
    }
}

/// Removes the fields of features that are off from the template at a path.
fn drop_from(obj: &mut Object, path: &str) {
    if let Some(template) = at_mut(obj, path) {
        super::pod_drops::from_template(template);
    }
}

/// Validates a controller and its template in upstream's order.
fn controller(obj: &Object, allowed: Allowances) -> Vec<FieldError> {
    let mut errors = Errors::new();
    for key in ["spec.minReadySeconds", "spec.replicas"] {
        let number = int(obj, key).unwrap_or(0);
        if number < 0 {
            errors.invalid(key, number, NOT_NEGATIVE);
        }
    }
    if crate::tree::is_empty(at(obj, "spec.selector")) {
        errors.required("spec.selector", "");
    }
    let template = at(obj, "spec.template");
    if template.is_null() {
        errors.required("spec.template", "");
        return errors.0;
    }
    let labels = map(template, "metadata.labels");
    if !selectors::map_matches(at(obj, "spec.selector"), labels) {
        errors.invalid(
            "spec.template.metadata.labels",
            at(template, "metadata.labels").clone(),
            "`selector` does not match template `labels`",
        );
    }
    pod_validation::template_with(&mut errors, template, allowed, "spec.template");
    let owner = "ReplicationController";
    crate::apps::always_restarted(&mut errors, template, "spec.template", owner);
    errors.0
}
