//! Validation of flow schemas.

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::{Value, json};

use crate::errors::{
    Errors, child, index, show_fields, shown_any, shown_list, shown_number, shown_pointer,
    shown_text,
};
use crate::names;
use crate::tree::{at, flag, has, int, list, same, text};

const VERBS: [&str; 9] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "proxy",
    "update",
    "watch",
];

/// Kinds of subjects, and the fields that name them.
const SUBJECTS: [(&str, &str); 3] = [
    ("ServiceAccount", "serviceAccount"),
    ("User", "user"),
    ("Group", "group"),
];

/// Validates a flow schema.
pub(super) fn validate(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let name = text(obj, "metadata.name");
    precedence(&mut errors, obj, name);
    let method = text(obj, "spec.distinguisherMethod.type");
    if has(obj, "spec.distinguisherMethod") && !matches!(method, "ByNamespace" | "ByUser") {
        // The value that upstream shows is not the type but the method.
        let shown = shown_method(at(obj, "spec.distinguisherMethod"));
        let known = ["ByNamespace", "ByUser"];
        errors.not_supported_shown("spec.distinguisherMethod.type", &shown, &known);
    }
    let field = "spec.priorityLevelConfiguration.name";
    let level = text(obj, field);
    if level.is_empty() {
        errors.required(field, "must reference a priority level");
    } else {
        errors.invalid_each(field, level, names::dns1123_subdomain(level));
    }
    for (i, rule) in list(obj, "spec.rules").iter().enumerate() {
        policy_rule(&mut errors, rule, &index("spec.rules", i));
    }
    mandatory(&mut errors, obj, name);
    errors.0
}

fn precedence(errors: &mut Errors, obj: &Object, name: &str) {
    let field = "spec.matchingPrecedence";
    let precedence = int(obj, field).unwrap_or(0);
    if precedence <= 0 {
        errors.invalid(field, precedence, "must be a positive value");
    } else if precedence > 10_000 {
        errors.invalid(field, precedence, "must not be greater than 10000");
    } else if precedence == 1 && name != "exempt" {
        let why = "only the schema named 'exempt' may have matchingPrecedence 1";
        errors.invalid(field, precedence, why);
    }
}

/// Validates that a mandatory schema is as the server made it.
fn mandatory(errors: &mut Errors, obj: &Object, name: &str) {
    let groups: &[&str] = match name {
        "exempt" => &["system:masters"],
        "catch-all" => &["system:unauthenticated", "system:authenticated"],
        _ => return,
    };
    let subjects: Vec<Value> = groups
        .iter()
        .map(|group| json!({"kind": "Group", "group": {"name": group}}))
        .collect();
    let mut want = json!({
        "priorityLevelConfiguration": {"name": name},
        "matchingPrecedence": if name == "exempt" { 1 } else { 10_000 },
        "rules": [{
            "subjects": subjects,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"],
                "clusterScope": true, "namespaces": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }],
    });
    if name == "catch-all" {
        want["distinguisherMethod"] = json!({"type": "ByUser"});
    }
    if !same(at(obj, "spec"), &want) {
        let why = format!("spec of '{name}' must equal the fixed value");
        errors.invalid_shown("spec", &shown_spec(at(obj, "spec")), &why);
    }
}

fn shown_method(method: &Value) -> String {
    show_fields(&[("Type", shown_text(method, "type"))])
}

fn shown_spec(spec: &Value) -> String {
    let level = at(spec, "priorityLevelConfiguration");
    let method = at(spec, "distinguisherMethod");
    show_fields(&[
        (
            "PriorityLevelConfiguration",
            show_fields(&[("Name", shown_text(level, "name"))]),
        ),
        (
            "MatchingPrecedence",
            shown_number(spec, "matchingPrecedence"),
        ),
        ("DistinguisherMethod", shown_pointer(method, shown_method)),
        ("Rules", shown_list(at(spec, "rules"), shown_rule)),
    ])
}

fn shown_rule(rule: &Value) -> String {
    show_fields(&[
        ("Subjects", shown_list(at(rule, "subjects"), shown_subject)),
        (
            "ResourceRules",
            shown_list(at(rule, "resourceRules"), |rule| {
                show_fields(&[
                    ("Verbs", shown_any(rule, "verbs")),
                    ("APIGroups", shown_any(rule, "apiGroups")),
                    ("Resources", shown_any(rule, "resources")),
                    ("ClusterScope", flag(rule, "clusterScope").to_string()),
                    ("Namespaces", shown_any(rule, "namespaces")),
                ])
            }),
        ),
        (
            "NonResourceRules",
            shown_list(at(rule, "nonResourceRules"), |rule| {
                show_fields(&[
                    ("Verbs", shown_any(rule, "verbs")),
                    ("NonResourceURLs", shown_any(rule, "nonResourceURLs")),
                ])
            }),
        ),
    ])
}

fn shown_subject(subject: &Value) -> String {
    let named = |value: &Value| show_fields(&[("Name", shown_text(value, "name"))]);
    let account = |value: &Value| {
        show_fields(&[
            ("Namespace", shown_text(value, "namespace")),
            ("Name", shown_text(value, "name")),
        ])
    };
    show_fields(&[
        ("Kind", shown_text(subject, "kind")),
        ("User", shown_pointer(at(subject, "user"), named)),
        ("Group", shown_pointer(at(subject, "group"), named)),
        (
            "ServiceAccount",
            shown_pointer(at(subject, "serviceAccount"), account),
        ),
    ])
}

fn policy_rule(errors: &mut Errors, rule: &Value, field: &str) {
    let subjects = child(field, "subjects");
    if list(rule, "subjects").is_empty() {
        let why = "subjects must contain at least one value";
        errors.required(subjects.clone(), why);
    }
    for (i, item) in list(rule, "subjects").iter().enumerate() {
        subject(errors, item, &index(&subjects, i));
    }
    let resources = list(rule, "resourceRules");
    let urls = list(rule, "nonResourceRules");
    if resources.is_empty() && urls.is_empty() {
        errors.required(
            field,
            "at least one of resourceRules and nonResourceRules has to be non-empty",
        );
    }
    for (i, rule) in resources.iter().enumerate() {
        resource_rule(errors, rule, &index(&child(field, "resourceRules"), i));
    }
    for (i, rule) in urls.iter().enumerate() {
        let field = index(&child(field, "nonResourceRules"), i);
        verbs(errors, rule, &field);
        non_resource_urls(errors, rule, &field);
    }
}

/// Validates that a subject has the field of its kind and no other.
fn subject(errors: &mut Errors, subject: &Value, field: &str) {
    let kind = text(subject, "kind");
    let Some((_, own)) = SUBJECTS.iter().find(|(name, _)| *name == kind) else {
        errors.not_supported(
            child(field, "kind"),
            kind,
            &["Group", "ServiceAccount", "User"],
        );
        return;
    };
    let path = child(field, own);
    if has(subject, own) {
        let named = at(subject, own);
        let name = text(named, "name");
        if name.is_empty() {
            errors.required(child(&path, "name"), "");
        } else if *own == "serviceAccount" && name != "*" {
            errors.invalid_each(&child(&path, "name"), name, names::dns1123_subdomain(name));
        }
        if *own == "serviceAccount" {
            let namespace = text(named, "namespace");
            let path = child(&path, "namespace");
            if namespace.is_empty() {
                errors.required(path, "must specify namespace for service account");
            } else {
                errors.invalid_each(&path, namespace, names::dns1123_label(namespace));
            }
        }
    } else {
        let why = format!("{own} is required when subject kind is '{kind}'");
        errors.required(path, why);
    }
    for (name, other) in SUBJECTS {
        if other != *own && has(subject, other) {
            errors.forbidden(
                child(field, other),
                format!("{other} is forbidden when subject kind is not '{name}'"),
            );
        }
    }
}

/// Returns whether a list has the wildcard, and validates that it is alone.
fn wildcard(errors: &mut Errors, rule: &Value, key: &str, what: &str, field: &str) -> bool {
    let values = list(rule, key);
    let all = values.iter().any(|value| value == "*");
    if all && values.len() > 1 {
        errors.invalid(
            child(field, key),
            values.to_vec(),
            format!("if '*' is present, must not specify other {what}"),
        );
    }
    all
}

fn verbs(errors: &mut Errors, rule: &Value, field: &str) {
    let known = |verb: &Value| verb.as_str().is_some_and(|verb| VERBS.contains(&verb));
    let all = list(rule, "verbs");
    if all.is_empty() {
        let why = "verbs must contain at least one value";
        errors.required(child(field, "verbs"), why);
    } else if !wildcard(errors, rule, "verbs", "verbs", field) && !all.iter().all(known) {
        let shown = at(rule, "verbs").to_string();
        errors.not_supported_shown(child(field, "verbs"), &shown, &VERBS);
    }
}

fn resource_rule(errors: &mut Errors, rule: &Value, field: &str) {
    verbs(errors, rule, field);
    for (key, one, others) in [
        ("apiGroups", "api group", "api groups"),
        ("resources", "resource", "resources"),
    ] {
        if list(rule, key).is_empty() {
            let why = format!("resource rules must supply at least one {one}");
            errors.required(child(field, key), why);
        } else {
            wildcard(errors, rule, key, others, field);
        }
    }
    let path = child(field, "namespaces");
    if list(rule, "namespaces").is_empty() && !flag(rule, "clusterScope") {
        errors.required(
            path,
            "resource rules that are not cluster scoped must supply at least one namespace",
        );
    } else if !wildcard(errors, rule, "namespaces", "namespaces", field) {
        for (i, namespace) in list(rule, "namespaces").iter().enumerate() {
            let namespace = namespace.as_str().unwrap_or_default();
            for why in names::dns1123_label(namespace) {
                let why =
                    format!("each member of this list must be '*' or a DNS-1123 label; {why}");
                errors.invalid(index(&path, i), namespace, why);
            }
        }
    }
}

fn non_resource_urls(errors: &mut Errors, rule: &Value, field: &str) {
    let key = "nonResourceURLs";
    let path = child(field, key);
    if list(rule, key).is_empty() {
        errors.required(path, "nonResourceURLs must contain at least one value");
    } else if !wildcard(errors, rule, key, "non-resource URLs", field) {
        for (i, url) in list(rule, key).iter().enumerate() {
            let url = url.as_str().unwrap_or_default();
            if let Some(why) = url_problem(url) {
                errors.invalid(index(&path, i), url, why);
            }
        }
    }
}

/// Returns what is wrong with the path of a non-resource URL. Its last segment may be `*`.
fn url_problem(path: &str) -> Option<&'static str> {
    let stars = path.matches('*').count();
    match path {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !path.starts_with('/') => Some("must start with slash"),
        _ if path.contains(' ') => Some("must not contain white-space"),
        _ if path.contains("//") => Some("must not contain double slash"),
        _ if stars > 1 || (stars == 1 && !path.ends_with("/*")) => {
            Some("wildcard can only do suffix matching")
        }
        _ => None,
    }
}
