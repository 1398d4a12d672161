//! Webhook configurations and admission policies.

pub(crate) mod client;
mod policies;
mod rules;

use std::collections::BTreeSet;

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::{Value, json};

use crate::Strategy;
use crate::errors::{Errors, child, index};
use crate::generic::{Generation, Rules, StatusMetadata};
use crate::tree::{at, at_mut, default_value, ensure, has, int, list, list_mut, same_at, text};
use crate::{names, selectors};

/// Returns the strategy of a kind of this module, `None` for kinds without one.
pub(crate) fn strategy_for(kind: &str) -> Option<&'static dyn Strategy> {
    Some(match kind {
        "MutatingWebhookConfiguration" => &MUTATING,
        "ValidatingWebhookConfiguration" => &VALIDATING,
        "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy" => &POLICY,
        "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding" => &BINDING,
        _ => return None,
    })
}

static MUTATING: Rules = Rules {
    default: |obj| webhooks(obj, true),
    validate_new: |obj| validate(obj, WebhookAllowances::default()),
    validate_update: |new, old| validate(new, WebhookAllowances::of(new, old)),
    warnings: static_suffix,
    generation: Generation::Counted,
    unconditional: false,
    ..Rules::PLAIN
};

static VALIDATING: Rules = Rules {
    default: |obj| webhooks(obj, false),
    validate_new: |obj| validate(obj, WebhookAllowances::default()),
    validate_update: |new, old| validate(new, WebhookAllowances::of(new, old)),
    warnings: static_suffix,
    generation: Generation::Counted,
    unconditional: false,
    ..Rules::PLAIN
};

/// Returns the warning about names that upstream reserves for what comes from files.
fn static_suffix(new: &Object, _old: Option<&Object>) -> Vec<String> {
    const SUFFIX: &str = ".static.k8s.io";
    match text(new, "metadata.name").ends_with(SUFFIX) {
        true => vec![format!(
            "metadata.name: names ending with {SUFFIX:?} are reserved for static manifest-based configurations and cannot be managed via the API"
        )],
        false => Vec::new(),
    }
}

fn webhooks(obj: &mut Object, mutating: bool) {
    for hook in list_mut(obj, "webhooks") {
        default_value(hook, "failurePolicy", "Fail");
        default_value(hook, "matchPolicy", "Equivalent");
        default_value(hook, "namespaceSelector", json!({}));
        default_value(hook, "objectSelector", json!({}));
        default_value(hook, "timeoutSeconds", 10);
        if mutating {
            default_value(hook, "reinvocationPolicy", "Never");
        }
        default_scopes(hook, "rules");
        if let Some(service) = at_mut(hook, "clientConfig.service") {
            default_value(service, "port", 443);
        }
    }
}

fn default_scopes(holder: &mut Value, path: &str) {
    for rule in list_mut(holder, path) {
        default_value(rule, "scope", "*");
    }
}

/// Rules that an update of webhooks need not meet because the old ones break them already.
#[derive(Clone, Copy, Default)]
struct WebhookAllowances {
    side_effects: bool,
    review_versions: bool,
    names: bool,
    conditions: bool,
}

impl WebhookAllowances {
    /// Returns what the old configuration lacks.
    fn of(new: &Object, old: &Object) -> WebhookAllowances {
        let hooks = list(old, "webhooks");
        let mut seen = BTreeSet::new();
        let now = list(new, "webhooks");
        WebhookAllowances {
            side_effects: hooks
                .iter()
                .any(|hook| !NO_SIDE_EFFECTS.contains(&text(hook, "sideEffects"))),
            review_versions: hooks.iter().any(|hook| {
                let versions = list(hook, "admissionReviewVersions");
                !versions.is_empty() && !versions.iter().any(is_review_version)
            }),
            names: hooks.iter().any(|hook| !seen.insert(text(hook, "name"))),
            conditions: now.len() == hooks.len()
                && now
                    .iter()
                    .zip(hooks)
                    .all(|(now, old)| same_at(now, old, "matchConditions")),
        }
    }
}

/// Classes of webhooks without side effects, the only ones that `v1` takes.
const NO_SIDE_EFFECTS: [&str; 2] = ["None", "NoneOnDryRun"];

fn is_review_version(version: &Value) -> bool {
    version == "v1" || version == "v1beta1"
}

fn validate(obj: &Object, allowances: WebhookAllowances) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let mut seen = BTreeSet::new();
    for (i, hook) in list(obj, "webhooks").iter().enumerate() {
        let field = index("webhooks", i);
        let name = text(hook, "name");
        qualified_name(&mut errors, name, &child(&field, "name"));
        webhook(&mut errors, hook, allowances, &field);
        review_versions(&mut errors, hook, allowances, &field);
        if !name.is_empty() && !seen.insert(name) && !allowances.names {
            errors.duplicate(child(&field, "name"), name);
        }
    }
    errors.0
}

/// Validates the name of a webhook: a domain of at least three segments.
fn qualified_name(errors: &mut Errors, name: &str, field: &str) {
    let problems = names::dns1123_subdomain(name);
    if name.is_empty() {
        errors.required(field, "");
    } else if !problems.is_empty() {
        errors.invalid(field, name, problems.join(","));
    } else if name.split('.').count() < 3 {
        let why = "should be a domain with at least three segments separated by dots";
        errors.invalid(field, name, why);
    }
}

fn review_versions(errors: &mut Errors, hook: &Value, allowances: WebhookAllowances, field: &str) {
    let field = child(field, "admissionReviewVersions");
    let versions = list(hook, "admissionReviewVersions");
    if versions.is_empty() {
        errors.required(field, "must specify one of v1, v1beta1");
        return;
    }
    for (i, version) in versions.iter().enumerate() {
        let path = index(&field, i);
        let name = version.as_str().unwrap_or_default();
        if versions[..i].contains(version) {
            errors.invalid(path, name, "duplicate version");
        } else {
            errors.invalid_each(&path, name, names::dns1035_label(name));
        }
    }
    if !allowances.review_versions && !versions.iter().any(is_review_version) {
        let why = "must include at least one of v1, v1beta1";
        errors.invalid(field, versions.to_vec(), why);
    }
}

/// Validates a webhook, except its name and the versions of its reviews.
fn webhook(errors: &mut Errors, hook: &Value, allowances: WebhookAllowances, field: &str) {
    for (j, rule) in list(hook, "rules").iter().enumerate() {
        rules::validate(errors, rule, &index(&child(field, "rules"), j));
    }
    one_of(errors, hook, "failurePolicy", &["Fail", "Ignore"], field);
    one_of(errors, hook, "matchPolicy", &["Equivalent", "Exact"], field);
    let effects: &[&str] = match allowances.side_effects {
        true => &["None", "NoneOnDryRun", "Some", "Unknown"],
        false => &NO_SIDE_EFFECTS,
    };
    if has(hook, "sideEffects") {
        one_of(errors, hook, "sideEffects", effects, field);
    } else {
        let why = format!("must specify one of {}", effects.join(", "));
        errors.required(child(field, "sideEffects"), why);
    }
    if let Some(seconds) = int(hook, "timeoutSeconds")
        && !(1..=30).contains(&seconds)
    {
        errors.invalid(
            child(field, "timeoutSeconds"),
            seconds,
            "the timeout value must be between 1 and 30 seconds",
        );
    }
    for key in ["namespaceSelector", "objectSelector"] {
        if has(hook, key) {
            selectors::validate(errors, at(hook, key), &child(field, key));
        }
    }
    client_config(errors, hook, &child(field, "clientConfig"));
    if !allowances.conditions {
        policies::match_conditions(errors, hook, &child(field, "matchConditions"));
    }
    one_of(
        errors,
        hook,
        "reinvocationPolicy",
        &["IfNeeded", "Never"],
        field,
    );
}

/// Validates the client configuration of a webhook: either a URL or a service.
fn client_config(errors: &mut Errors, hook: &Value, config: &str) {
    let (url, service) = ("clientConfig.url", "clientConfig.service");
    match (has(hook, url), has(hook, service)) {
        (true, true) | (false, false) => {
            errors.required(config, "exactly one of url or service is required");
        }
        (true, false) => client::url(errors, text(hook, url), &child(config, "url")),
        (false, true) => client::service(errors, at(hook, service), &child(config, "service")),
    }
}

fn one_of(errors: &mut Errors, holder: &Value, key: &str, known: &[&str], field: &str) {
    let value = text(holder, key);
    if has(holder, key) && !known.contains(&value) {
        errors.not_supported(child(field, key), value, known);
    }
}

static POLICY: Rules = Rules {
    default: |obj| {
        if let Some(spec) = at_mut(obj, "spec") {
            default_value(spec, "failurePolicy", "Fail");
            if has(spec, "matchConstraints") {
                match_resources(spec, "matchConstraints");
            }
        }
    },
    validate: policies::policy,
    validate_new: policies::conditions_of_policy,
    validate_update: |new, old| {
        let same = |path| same_at(new, old, path);
        match same("spec.paramKind") && same("spec.matchConditions") {
            true => Vec::new(),
            false => policies::conditions_of_policy(new),
        }
    },
    validate_status: |new, _| policies::status(new),
    status_metadata: StatusMetadata::Reset,
    warnings: static_suffix,
    unconditional: false,
    ..Rules::SPEC_AND_STATUS
};

fn match_resources(holder: &mut Value, key: &str) {
    ensure(holder, key);
    if let Some(resources) = at_mut(holder, key) {
        default_value(resources, "matchPolicy", "Equivalent");
        default_value(resources, "namespaceSelector", json!({}));
        default_value(resources, "objectSelector", json!({}));
        default_scopes(resources, "resourceRules");
        default_scopes(resources, "excludeResourceRules");
    }
}

static BINDING: Rules = Rules {
    default: |obj| {
        if has(obj, "spec.matchResources")
            && let Some(spec) = at_mut(obj, "spec")
        {
            match_resources(spec, "matchResources");
        }
    },
    validate: policies::binding,
    warnings: static_suffix,
    generation: Generation::Counted,
    unconditional: false,
    ..Rules::PLAIN
};
