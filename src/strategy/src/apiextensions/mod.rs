//! Custom resource definitions and API services.

mod schema;
mod versions;

use std::collections::BTreeSet;

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::{Value, json};

pub use self::versions::hoist;
use self::versions::{definition_versions, stored_versions};
use crate::admissionregistration::client;
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
        stored_versions(&mut errors, obj);
        api_approval(&mut errors, obj, None);
        preserve_unknown_fields(&mut errors, obj);
        hoist(obj, &mut errors.0);
        errors.0
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let formats = |obj: &Object| {
            let mut found = BTreeSet::new();
            for version in list(obj, "spec.versions") {
                schema::unknown_formats(at(version, "schema.openAPIV3Schema"), &mut found);
            }
            found
        };
        let before = old.map(formats).unwrap_or_default();
        formats(new)
            .difference(&before)
            .map(|format| format!("unrecognized format {format:?}"))
            .collect()
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        definition(&mut errors, new);
        api_approval(&mut errors, new, Some(old));
        if !flag(old, "spec.preserveUnknownFields") {
            preserve_unknown_fields(&mut errors, new);
        }
        // A value that was accepted once stays accepted.
        let mut before = Errors::new();
        definition(&mut before, old);
        errors.0.retain(|error| !before.0.contains(error));
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
        stored_versions(&mut errors, new);
        hoist(new, &mut errors.0);
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
    definition_names(errors, obj);
    if !text(obj, "spec.names.kind").is_empty()
        && text(obj, "spec.names.kind") == text(obj, "spec.names.listKind")
    {
        errors.invalid(
            "spec.names.listKind",
            text(obj, "spec.names.listKind"),
            "kind and listKind may not be the same",
        );
    }
    definition_versions(errors, obj);
    conversion(errors, obj);
}

fn definition_names(errors: &mut Errors, obj: &Object) {
    for key in ["plural", "singular", "kind", "listKind"] {
        let path = format!("spec.names.{key}");
        let value = text(obj, &path);
        if value.is_empty() {
            if key != "singular" && key != "listKind" {
                errors.required(path, "");
            }
            continue;
        }
        if matches!(key, "plural" | "singular") {
            errors.invalid_each(&path, value, names::dns1035_label(value));
            continue;
        }
        let wrong = names::dns1035_label(&value.to_lowercase());
        if !wrong.is_empty() {
            let detail = format!(
                "may have mixed case, but should otherwise match: {}",
                wrong.join(",")
            );
            errors.invalid(path, value, detail);
        }
    }
    for key in ["shortNames", "categories"] {
        let path = format!("spec.names.{key}");
        for (i, name) in list(obj, &path).iter().enumerate() {
            let name = name.as_str().unwrap_or_default();
            let wrong = names::dns1035_label(name);
            if !wrong.is_empty() {
                errors.invalid(index(&path, i), name, wrong.join(","));
            }
        }
    }
}

/// Groups of the Kubernetes project need a note that their API is approved, or that it is not.
fn api_approval(errors: &mut Errors, new: &Object, old: Option<&Object>) {
    const ANNOTATION: &str = "api-approved.kubernetes.io";
    const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
    #[derive(PartialEq)]
    enum State {
        Missing,
        Fine,
        Wrong,
    }
    let group = text(new, "spec.group");
    let is_protected = ["k8s.io", "kubernetes.io"].iter().any(|domain| {
        group
            .strip_suffix(domain)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    });
    if !is_protected {
        return;
    }
    let value = |obj: &Object| {
        let annotations = at(obj, "metadata.annotations");
        text_of(annotations, ANNOTATION).to_owned()
    };
    let state = |value: &str| {
        let is_url = value.split_once("://").is_some_and(|(scheme, rest)| {
            !scheme.is_empty() && !rest.split('/').next().unwrap_or_default().is_empty()
        });
        if value.is_empty() {
            State::Missing
        } else if value.starts_with("unapproved") || is_url {
            State::Fine
        } else {
            State::Wrong
        }
    };
    let now = value(new);
    let found = state(&now);
    if old.is_some_and(|old| state(&value(old)) == found) {
        return;
    }
    let path = format!("metadata.annotations[{ANNOTATION}]");
    match found {
        State::Fine => {}
        State::Missing => errors.required(
            path,
            format!("protected groups must have approval annotation {ANNOTATION:?}, {SEE}"),
        ),
        State::Wrong => errors.invalid(
            path,
            now,
            format!(
                "protected groups must have approval annotation {ANNOTATION:?} with either a URL or a reason starting with \"unapproved\", {SEE}"
            ),
        ),
    }
}

/// Returns the string of a key that may contain dots; empty if there is none.
fn text_of<'a>(map: &'a Value, key: &str) -> &'a str {
    map.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn preserve_unknown_fields(errors: &mut Errors, obj: &Object) {
    if flag(obj, "spec.preserveUnknownFields") {
        errors.invalid(
            "spec.preserveUnknownFields",
            true,
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        );
    }
}

fn conversion(errors: &mut Errors, obj: &Object) {
    match text(obj, "spec.conversion.strategy") {
        "None" => {
            let why = "should not be set when strategy is not set to Webhook";
            if has(obj, "spec.conversion.webhook.clientConfig") {
                errors.forbidden("spec.conversion.webhookClientConfig", why);
            }
            if !list(obj, "spec.conversion.webhook.conversionReviewVersions").is_empty() {
                errors.forbidden("spec.conversion.conversionReviewVersions", why);
            }
        }
        "Webhook" => {
            if !has(obj, "spec.conversion.webhook.clientConfig") {
                errors.required(
                    "spec.conversion.webhookClientConfig",
                    "required when strategy is set to Webhook",
                );
            } else {
                let config = at(obj, "spec.conversion.webhook.clientConfig");
                let path = "spec.conversion.webhookClientConfig";
                match (has(config, "url"), has(config, "service")) {
                    (true, false) => client::url(errors, text(config, "url"), &child(path, "url")),
                    (false, true) => {
                        client::service(errors, at(config, "service"), &child(path, "service"));
                    }
                    _ => errors.required(path, "exactly one of url or service is required"),
                }
            }
            let path = "spec.conversion.conversionReviewVersions";
            let known = at(obj, "spec.conversion.webhook.conversionReviewVersions");
            match known.as_array() {
                Some(versions) if !versions.is_empty() => {
                    for (i, version) in versions.iter().enumerate() {
                        let name = version.as_str().unwrap_or_default();
                        if versions[..i].contains(version) {
                            errors.invalid(index(path, i), name, "duplicate version");
                        } else {
                            let wrong = names::dns1035_label(name);
                            errors.invalid_each(&index(path, i), name, wrong);
                        }
                    }
                    if !versions.iter().any(|v| v == "v1" || v == "v1beta1") {
                        let detail = "must include at least one of v1, v1beta1";
                        errors.invalid(path, known.clone(), detail);
                    }
                }
                _ => errors.required(path, ""),
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
        errors.required(path, "");
        return;
    }
    let has_status = has(version, "subresources.status");
    schema::validate(errors, schema, &path, has_status);
    scale(
        errors,
        at(version, "subresources.scale"),
        &format!("{field}.subresources.scale"),
    );
    deprecation(errors, version, field);
    for (i, column) in list(version, "additionalPrinterColumns").iter().enumerate() {
        let field = index(&child(field, "additionalPrinterColumns"), i);
        if text(column, "name").is_empty() {
            errors.required(child(&field, "name"), "");
        }
        match text(column, "type") {
            "integer" | "number" | "string" | "boolean" | "date" => {}
            "" => errors.required(
                child(&field, "type"),
                "must be one of boolean,date,integer,number,string",
            ),
            other => errors.invalid(
                child(&field, "type"),
                other,
                "must be one of boolean,date,integer,number,string",
            ),
        }
        if !matches!(
            text(column, "format"),
            "" | "int32"
                | "int64"
                | "float"
                | "double"
                | "byte"
                | "date"
                | "date-time"
                | "password"
        ) {
            errors.invalid(
                child(&field, "format"),
                text(column, "format"),
                "must be one of byte,date,date-time,double,float,int32,int64,password",
            );
        }
        match text(column, "jsonPath") {
            "" => errors.required(child(&field, "JSONPath"), ""),
            path => simple_path(errors, path, &child(&field, "JSONPath")),
        }
    }
}

/// Checks a path to a field. Returns nothing else than its errors: a path has only names.
fn simple_path(errors: &mut Errors, path: &str, field: &str) {
    if !path.starts_with('.') {
        errors.invalid(field, path, "must be a simple json path starting with .");
    }
}

/// Checks the paths of the scale subresource, which are below the spec and the status.
fn scale(errors: &mut Errors, scale: &Value, field: &str) {
    if scale.is_null() {
        return;
    }
    for (key, roots, required) in [
        ("specReplicasPath", &[".spec."][..], true),
        ("statusReplicasPath", &[".status."][..], true),
        ("labelSelectorPath", &[".spec.", ".status."][..], false),
    ] {
        let field = child(field, key);
        let path = text(scale, key);
        if path.is_empty() {
            if required {
                errors.required(field, "");
            }
        } else if !path.starts_with('.') {
            simple_path(errors, path, &field);
        } else if !roots.iter().any(|root| path.starts_with(root)) {
            let place = match roots {
                [root] => root.trim_end_matches('.').to_owned(),
                _ => "either .spec or .status".to_owned(),
            };
            errors.invalid(field, path, format!("should be a json path under {place}"));
        }
    }
}

fn deprecation(errors: &mut Errors, version: &Value, field: &str) {
    let field = child(field, "deprecationWarning");
    let Some(warning) = at(version, "deprecationWarning").as_str() else {
        return;
    };
    if !flag(version, "deprecated") {
        errors.invalid(field, warning, "can only be set for deprecated versions");
        return;
    }
    if warning.len() > 256 {
        errors.invalid(&field, warning, "must be <= 256 characters long");
    }
    if warning.is_empty() {
        errors.invalid(field, warning, "must not be an empty string");
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
