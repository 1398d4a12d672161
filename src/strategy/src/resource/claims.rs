//! Validation of claims of devices.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::common::{as_text, configuration, distinct, label, limited, selectors, toleration};
use crate::errors::{Errors, child, index};
use crate::names;
use crate::tree::{at, has, int, list, text};

/// Most requests of a claim, constraints, configurations, and results of an allocation.
pub(super) const MAX_REQUESTS: usize = 32;
/// Most alternatives of a request.
const MAX_ALTERNATIVES: usize = 8;
const NOT_A_REQUEST: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

/// The requests of a claim by name, with the names of their alternatives.
pub(super) struct Requests<'a>(BTreeMap<&'a str, BTreeSet<&'a str>>);

impl<'a> Requests<'a> {
    /// Reads the requests of `spec.devices`.
    pub(super) fn of(devices: &'a Value) -> Self {
        let named = |value: &'a Value| text(value, "name");
        let requests = list(devices, "requests").iter().map(|request| {
            let alternatives = list(request, "firstAvailable").iter().map(named).collect();
            (named(request), alternatives)
        });
        Self(requests.collect())
    }

    fn has(&self, name: &str) -> bool {
        match name.split_once('/') {
            None => self.0.contains_key(name),
            Some((request, alternative)) => self
                .0
                .get(request)
                .is_some_and(|names| names.contains(alternative)),
        }
    }

    /// Validates a reference to a request, or to an alternative of one.
    pub(super) fn reference(&self, errors: &mut Errors, name: &str, field: &str) {
        let segments: Vec<&str> = name.split('/').collect();
        if segments.len() > 2 {
            errors.invalid(field, name, NOT_A_REQUEST);
            return;
        }
        for segment in segments {
            label(errors, segment, field);
        }
        if !self.has(name) {
            errors.invalid(field, name, NOT_A_REQUEST);
        }
    }

    /// Validates a list of references.
    pub(super) fn references(&self, errors: &mut Errors, names: &Value, field: &str) {
        let item = |errors: &mut Errors, name: &Value, field: &str| {
            self.reference(errors, as_text(name), field);
        };
        distinct(errors, names, MAX_REQUESTS, field, item, as_text);
    }
}

/// Validates the devices that a claim asks for (upstream: `validateDeviceClaim`).
pub(super) fn devices(errors: &mut Errors, devices: &Value, field: &str) {
    let requests = Requests::of(devices);
    let path = child(field, "requests");
    distinct(
        errors,
        at(devices, "requests"),
        MAX_REQUESTS,
        &path,
        request,
        |request| text(request, "name"),
    );
    let path = child(field, "constraints");
    let constraints = at(devices, "constraints");
    limited(
        errors,
        constraints,
        MAX_REQUESTS,
        &path,
        |errors, item, field| {
            constraint(errors, item, &requests, field);
        },
    );
    let path = child(field, "config");
    limited(
        errors,
        at(devices, "config"),
        MAX_REQUESTS,
        &path,
        |errors, config, field| {
            requests.references(errors, at(config, "requests"), &child(field, "requests"));
            configuration(errors, config, field);
        },
    );
}

fn request(errors: &mut Errors, request: &Value, field: &str) {
    label(errors, text(request, "name"), &child(field, "name"));
    let alternatives = at(request, "firstAvailable");
    let several = !list(request, "firstAvailable").is_empty();
    match (has(request, "exactly"), several) {
        (false, false) => errors.required(
            field,
            "exactly one of `exactly` or `firstAvailable` is required",
        ),
        (true, true) => errors.invalid(
            field,
            Value::Null,
            "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
        ),
        (true, false) => exact(errors, at(request, "exactly"), &child(field, "exactly")),
        (false, true) => {
            let path = child(field, "firstAvailable");
            let item = |errors: &mut Errors, alternative: &Value, field: &str| {
                label(errors, text(alternative, "name"), &child(field, "name"));
                exact(errors, alternative, field);
            };
            distinct(
                errors,
                alternatives,
                MAX_ALTERNATIVES,
                &path,
                item,
                |request| text(request, "name"),
            );
        }
    }
}

/// Validates a request that has no alternatives, or one alternative.
fn exact(errors: &mut Errors, request: &Value, field: &str) {
    let class = text(request, "deviceClassName");
    let path = child(field, "deviceClassName");
    if class.is_empty() {
        errors.required(path, "");
    } else {
        errors.invalid_each(&path, class, names::dns1123_subdomain(class));
    }
    selectors(errors, at(request, "selectors"), &child(field, "selectors"));
    let count = int(request, "count").unwrap_or(0);
    match text(request, "allocationMode") {
        "All" => {
            if count != 0 {
                let why = "must not be specified when allocationMode is 'All'";
                errors.invalid(child(field, "count"), count, why);
            }
        }
        "ExactCount" => {
            if count <= 0 {
                errors.invalid(child(field, "count"), count, "must be greater than zero");
            }
        }
        other => errors.not_supported(
            child(field, "allocationMode"),
            other,
            &["All", "ExactCount"],
        ),
    }
    for (i, item) in list(request, "tolerations").iter().enumerate() {
        toleration(errors, item, &index(&child(field, "tolerations"), i));
    }
}

fn constraint(errors: &mut Errors, constraint: &Value, requests: &Requests<'_>, field: &str) {
    requests.references(
        errors,
        at(constraint, "requests"),
        &child(field, "requests"),
    );
    for key in ["matchAttribute", "distinctAttribute"] {
        if has(constraint, key) {
            let name = text(constraint, key);
            super::common::fully_qualified_name(errors, name, &child(field, key));
            return;
        }
    }
    // The wording is upstream's, although no field is set.
    errors.required(
        field,
        "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
    );
}

/// Validates that a template's metadata has labels and annotations only.
pub(super) fn template_metadata(errors: &mut Errors, metadata: &Value, field: &str) {
    for (key, value) in metadata.as_object().into_iter().flatten() {
        if !matches!(key.as_str(), "labels" | "annotations") && !crate::tree::is_empty(value) {
            errors.forbidden(child(field, key), "cannot be set");
        }
    }
}
