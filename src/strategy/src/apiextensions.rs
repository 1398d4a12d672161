//! Custom resource definitions and API services.

use std::collections::BTreeSet;

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::{Value, json};

use crate::core::service::immutable;
use crate::errors::{Errors, child, index};
use crate::generic::{self, Rules};
use crate::tree::{
    at, at_mut, default_text, default_value, ensure, flag, has, int, keep, list, put, same, text,
};
use crate::{Context, Strategy, names};

/// Returns the strategy of a kind of this module, `None` for kinds without one.
pub(crate) fn strategy_for(kind: &str) -> Option<&'static dyn Strategy> {
    Some(match kind {
        "CustomResourceDefinition" => &Crd,
        "APIService" => &API_SERVICE,
        _ => return None,
    })
}

/// The strategy of kind `CustomResourceDefinition`.
struct Crd;

/// Finalizer that delays the deletion of a definition until its custom resources are deleted.
const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

impl Strategy for Crd {
    fn default(&self, obj: &mut Object) {
        if let Some(spec) = at_mut(obj, "spec") {
            if let Some(names) = at_mut(spec, "names") {
                let kind = text(names, "kind").to_owned();
                if !kind.is_empty() {
                    default_text(names, "singular", &kind.to_lowercase());
                    default_text(names, "listKind", &format!("{kind}List"));
                }
            }
            ensure(spec, "conversion");
            if let Some(conversion) = at_mut(spec, "conversion") {
                default_text(conversion, "strategy", "None");
                if let Some(service) = at_mut(conversion, "webhook.clientConfig.service") {
                    default_value(service, "port", 443);
                }
            }
        }
    }

    fn prepare_create(&self, _ctx: &Context<'_>, obj: &mut Object) {
        put(obj, "metadata.generation", 1);
        let stored: Vec<Value> = list(obj, "spec.versions")
            .iter()
            .filter(|v| flag(v, "storage"))
            .map(|v| at(v, "name").clone())
            .collect();
        put(
            obj,
            "status",
            json!({
                "storedVersions": stored,
                "conditions": [],
                "acceptedNames": {"plural": "", "kind": ""},
            }),
        );
        let mut finalizers = list(obj, "metadata.finalizers").to_vec();
        if !finalizers.iter().any(|f| f == CLEANUP_FINALIZER) {
            finalizers.push(CLEANUP_FINALIZER.into());
        }
        put(obj, "metadata.finalizers", finalizers);
    }

    fn prepare_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        keep(new, old, "status");
        generic::set_generation(new, old, !same(at(new, "spec"), at(old, "spec")));
        // From now on objects may be stored in this version.
        let storage = list(new, "spec.versions")
            .iter()
            .find(|v| flag(v, "storage"))
            .map(|v| at(v, "name").clone());
        if let Some(name) = storage {
            let mut stored = list(new, "status.storedVersions").to_vec();
            if !stored.contains(&name) {
                stored.push(name);
                put(new, "status.storedVersions", stored);
            }
        }
    }

    fn prepare_status_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        let mut next = old.clone();
        keep(&mut next, new, "status");
        for path in ["metadata.managedFields", "metadata.resourceVersion"] {
            keep(&mut next, new, path);
        }
        *new = next;
    }

    fn validate_create(&self, obj: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let name = format!(
            "{}.{}",
            text(obj, "spec.names.plural"),
            text(obj, "spec.group")
        );
        if text(obj, "metadata.name") != name {
            errors.invalid(
                "metadata.name",
                text(obj, "metadata.name"),
                "must be spec.names.plural+\".\"+spec.group",
            );
        }
        definition(&mut errors, obj);
        errors.0
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        definition(&mut errors, new);
        for path in ["spec.group", "spec.names.plural"] {
            immutable(&mut errors, new, old, path);
        }
        let established = list(old, "status.conditions")
            .iter()
            .any(|c| text(c, "type") == "Established" && text(c, "status") == "True");
        if established {
            for path in ["spec.scope", "spec.names.kind"] {
                immutable(&mut errors, new, old, path);
            }
        }
        let declared: Vec<&str> = list(new, "spec.versions")
            .iter()
            .map(|v| text(v, "name"))
            .collect();
        for (i, stored) in list(new, "status.storedVersions").iter().enumerate() {
            let stored = stored.as_str().unwrap_or_default();
            if !declared.contains(&stored) {
                errors.invalid(
                    format!("status.storedVersions[{i}]"),
                    stored,
                    format!(
                        "missing from spec.versions; {stored} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {stored} and removes {stored} from status.storedVersions"
                    ),
                );
            }
        }
        errors.0
    }
}

fn definition(errors: &mut Errors, obj: &Object) {
    let group = text(obj, "spec.group");
    if group.is_empty() {
        errors.required("spec.group", "");
    } else {
        errors.invalid_each("spec.group", group, names::dns1123_subdomain(group));
        if group.split('.').count() < 2 {
            errors.invalid(
                "spec.group",
                group,
                "should be a domain with at least one dot",
            );
        }
    }
    match text(obj, "spec.scope") {
        "Cluster" | "Namespaced" => {}
        "" => errors.required("spec.scope", ""),
        other => errors.not_supported("spec.scope", other, &["Cluster", "Namespaced"]),
    }
    for (key, rule) in [
        ("plural", names::dns1035_label as fn(&str) -> Vec<String>),
        ("singular", names::dns1035_label),
        ("kind", |s| names::dns1035_label(&s.to_lowercase())),
        ("listKind", |s| names::dns1035_label(&s.to_lowercase())),
    ] {
        let path = format!("spec.names.{key}");
        let value = text(obj, &path);
        if value.is_empty() {
            if key != "singular" && key != "listKind" {
                errors.required(path, "");
            }
        } else {
            errors.invalid_each(&path, value, rule(value));
        }
    }
    if !text(obj, "spec.names.kind").is_empty()
        && text(obj, "spec.names.kind") == text(obj, "spec.names.listKind")
    {
        errors.invalid(
            "spec.names.listKind",
            text(obj, "spec.names.listKind"),
            "kind and listKind may not be the same",
        );
    }
    let versions = list(obj, "spec.versions");
    if versions.is_empty() {
        errors.required("spec.versions", "");
    }
    let mut seen = BTreeSet::new();
    let mut storage = 0;
    for (i, version) in versions.iter().enumerate() {
        let field = index("spec.versions", i);
        let name = text(version, "name");
        errors.invalid_each(&child(&field, "name"), name, names::dns1035_label(name));
        if !seen.insert(name) {
            errors.invalid(
                "spec.versions",
                at(obj, "spec.versions").clone(),
                "must contain unique version names",
            );
        }
        storage += usize::from(flag(version, "storage"));
        version_schema(errors, version, &field);
    }
    if !versions.is_empty() && storage != 1 {
        errors.invalid(
            "spec.versions",
            at(obj, "spec.versions").clone(),
            "must have exactly one version marked as storage version",
        );
    }
    match text(obj, "spec.conversion.strategy") {
        "None" => {
            if has(obj, "spec.conversion.webhook") {
                errors.forbidden(
                    "spec.conversion.webhook",
                    "should not be set when strategy is not set to Webhook",
                );
            }
        }
        "Webhook" => {
            if !has(obj, "spec.conversion.webhook.clientConfig") {
                errors.required(
                    "spec.conversion.webhookClientConfig",
                    "required when strategy is set to Webhook",
                );
            }
            if list(obj, "spec.conversion.webhook.conversionReviewVersions").is_empty() {
                errors.required("spec.conversion.conversionReviewVersions", "");
            }
        }
        "" => errors.required("spec.conversion.strategy", ""),
        other => errors.not_supported("spec.conversion.strategy", other, &["None", "Webhook"]),
    }
}

fn version_schema(errors: &mut Errors, version: &Value, field: &str) {
    let path = format!("{field}.schema.openAPIV3Schema");
    let schema = at(version, "schema.openAPIV3Schema");
    if schema.is_null() {
        errors.required(path, "schemas are required");
        return;
    }
    structural(errors, schema, &path, true);
    for (i, column) in list(version, "additionalPrinterColumns").iter().enumerate() {
        let field = index(&child(field, "additionalPrinterColumns"), i);
        for key in ["name", "jsonPath"] {
            if text(column, key).is_empty() {
                errors.required(child(&field, key), "");
            }
        }
        match text(column, "type") {
            "integer" | "number" | "string" | "boolean" | "date" => {}
            "" => errors.required(
                child(&field, "type"),
                "must be one of integer,number,string,boolean,date",
            ),
            other => errors.invalid(
                child(&field, "type"),
                other,
                "must be one of boolean,date,integer,number,string",
            ),
        }
    }
}

/// Validates that a schema is structural; among other rules, every node must have a type.
fn structural(errors: &mut Errors, schema: &Value, path: &str, root: bool) {
    let kind = text(schema, "type");
    let free = flag(schema, "x-kubernetes-int-or-string")
        || flag(schema, "x-kubernetes-preserve-unknown-fields");
    if root && kind != "object" {
        if kind.is_empty() {
            errors.required(child(path, "type"), "must not be empty at the root");
        } else {
            errors.invalid(child(path, "type"), kind, "must be object at the root");
        }
    } else if kind.is_empty() && !free {
        errors.required(
            child(path, "type"),
            "must not be empty for specified object fields",
        );
    } else if !matches!(
        kind,
        "" | "object" | "array" | "string" | "integer" | "number" | "boolean"
    ) {
        errors.not_supported(
            child(path, "type"),
            kind,
            &["array", "boolean", "integer", "number", "object", "string"],
        );
    }
    if has(schema, "properties") && has(schema, "additionalProperties") {
        errors.forbidden(
            child(path, "additionalProperties"),
            "additionalProperties and properties are mutual exclusive",
        );
    }
    if flag(schema, "uniqueItems") {
        errors.forbidden(
            child(path, "uniqueItems"),
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        );
    }
    for (name, property) in at(schema, "properties").as_object().into_iter().flatten() {
        structural(
            errors,
            property,
            &format!("{path}.properties[{name}]"),
            false,
        );
    }
    for key in ["items", "additionalProperties"] {
        let inner = at(schema, key);
        if inner.is_object() {
            structural(errors, inner, &child(path, key), false);
        }
    }
    if kind == "array" && !has(schema, "items") {
        errors.required(child(path, "items"), "must be specified");
    }
    match text(schema, "x-kubernetes-list-type") {
        "" | "atomic" | "set" => {}
        "map" => {
            if list(schema, "x-kubernetes-list-map-keys").is_empty() {
                errors.required(
                    child(path, "x-kubernetes-list-map-keys"),
                    "must not be empty if x-kubernetes-list-type is map",
                );
            }
        }
        other => errors.not_supported(
            child(path, "x-kubernetes-list-type"),
            other,
            &["atomic", "map", "set"],
        ),
    }
}

static API_SERVICE: Rules = Rules {
    default: |obj| {
        if let Some(service) = at_mut(obj, "spec.service") {
            default_value(service, "port", 443);
        }
    },
    validate: |obj| {
        let mut errors = Errors::new();
        let name = format!("{}.{}", text(obj, "spec.version"), text(obj, "spec.group"));
        if text(obj, "metadata.name") != name {
            errors.invalid(
                "metadata.name",
                text(obj, "metadata.name"),
                format!("must be `spec.version+\".\"+spec.group`: {name:?}"),
            );
        }
        for (key, low, high) in [
            ("groupPriorityMinimum", 1, 20_000),
            ("versionPriority", 1, 1_000),
        ] {
            let path = child("spec", key);
            let n = int(obj, &path).unwrap_or(0);
            if n < low || n > high {
                errors.invalid(path, n, format!("must be positive and less than {high}"));
            }
        }
        if has(obj, "spec.service") {
            for key in ["namespace", "name"] {
                let path = format!("spec.service.{key}");
                if text(obj, &path).is_empty() {
                    errors.required(path, "");
                }
            }
            if flag(obj, "spec.insecureSkipTLSVerify") && !text(obj, "spec.caBundle").is_empty() {
                errors.invalid(
                    "spec.insecureSkipTLSVerify",
                    true,
                    "may not be true if caBundle is present",
                );
            }
        }
        errors.0
    },
    ..Rules::SPEC_AND_STATUS_PLAIN
};

#[cfg(test)]
mod tests {
    use super::*;

    fn crd() -> Object {
        let mut c = json!({"metadata": {"name": "foos.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "foos", "kind": "Foo"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}]}});
        Crd.default(&mut c);
        Crd.prepare_create(&Context::new(jiff::Timestamp::UNIX_EPOCH, "t"), &mut c);
        c
    }

    #[test]
    fn defaults() {
        let c = crd();
        assert_eq!(
            c["spec"]["names"],
            json!({"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList"})
        );
        assert_eq!(c["status"]["storedVersions"], json!(["v1"]));
        assert_eq!(c["spec"]["conversion"]["strategy"], "None");
        assert_eq!(Crd.validate_create(&c), vec![]);
    }

    #[test]
    fn stored_versions_stay_declared() {
        let old = crd();
        let mut new = old.clone();
        new["spec"]["versions"][0]["name"] = json!("v2");
        Crd.prepare_update(
            &Context::new(jiff::Timestamp::UNIX_EPOCH, "t"),
            &mut new,
            &old,
        );
        assert_eq!(new["status"]["storedVersions"], json!(["v1", "v2"]));
        assert_eq!(
            Crd.validate_update(&new, &old)[0].field,
            "status.storedVersions[0]"
        );
    }
}
