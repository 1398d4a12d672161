//! Certificate signing requests.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::{Map, Value};

use crate::errors::{Errors, index};
use crate::generic;
use crate::tree::{at, ensure, int, keep, list, list_mut, put, remove, same, set, text};
use crate::{Context, NameRule, Strategy, Subresource, names, pem};

/// Returns the strategy of a kind of this module, `None` for kinds without one.
pub(crate) fn strategy_for(kind: &str) -> Option<&'static dyn Strategy> {
    (kind == "CertificateSigningRequest").then_some(&Csr)
}

/// The strategy of kind `CertificateSigningRequest`.
struct Csr;

impl Strategy for Csr {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn prepare_create(&self, ctx: &Context<'_>, obj: &mut Object) {
        remove(obj, "status");
        // The identity is that of the authenticated user; values in the request are ignored.
        let spec = ensure(obj, "spec");
        for key in ["username", "uid", "groups", "extra"] {
            spec.remove(key);
        }
        spec.insert("username".into(), ctx.user.into());
        if !ctx.uid.is_empty() {
            spec.insert("uid".into(), ctx.uid.into());
        }
        if !ctx.groups.is_empty() {
            spec.insert("groups".into(), ctx.groups.to_vec().into());
        }
        if !ctx.extra.is_empty() {
            let extra: Map<String, Value> = ctx
                .extra
                .iter()
                .map(|(k, v)| (k.clone(), v.clone().into()))
                .collect();
            spec.insert("extra".into(), extra.into());
        }
    }

    fn prepare_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_update_plain(new, old);
        // The spec is immutable.
        keep(new, old, "spec");
        keep(new, old, "status");
    }

    fn prepare_status_update(&self, ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_status_update(new, old);
        keep(new, old, "spec");
        // Approvals and denials are set through the subresource `approval`. Those that are there
        // stay as they are, unless some are added or removed, which is an error.
        for kind in ["Approved", "Denied"] {
            let of = |obj: &Object| -> Vec<Value> {
                let all = list(obj, "status.conditions").iter();
                all.filter(|c| text(c, "type") == kind).cloned().collect()
            };
            let before = of(old);
            if of(new).len() != before.len() {
                continue;
            }
            let mut before = before.into_iter();
            for condition in list_mut(new, "status.conditions") {
                if text(condition, "type") == kind
                    && let Some(before) = before.next()
                {
                    *condition = before;
                }
            }
        }
        stamp(ctx, new, old);
    }

    fn prepare_subresource_update(
        &self,
        ctx: &Context<'_>,
        _subresource: Subresource,
        new: &mut Object,
        old: &Object,
    ) {
        let conditions = at(new, "status.conditions").clone();
        generic::prepare_update_plain(new, old);
        keep(new, old, "spec");
        keep(new, old, "status");
        if conditions.is_null() {
            remove(new, "status.conditions");
        } else {
            put(new, "status.conditions", conditions);
        }
        stamp(ctx, new, old);
    }

    fn validate_create(&self, obj: &Object) -> Vec<FieldError> {
        validate(obj, None).0
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        update(new, old, false, false)
    }

    fn validate_status_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        update(new, old, false, true)
    }

    fn validate_subresource_update(
        &self,
        _subresource: Subresource,
        new: &Object,
        old: &Object,
    ) -> Vec<FieldError> {
        update(new, old, true, false)
    }

    fn field_value(&self, obj: &Object, field: &str) -> Option<String> {
        match field {
            "spec.signerName" => Some(text(obj, field).to_owned()),
            _ => generic::field_value(obj, field),
        }
    }
}

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// Sets missing times of conditions: that of the last transition to that of the old condition
/// if its status is unchanged, else to now.
fn stamp(ctx: &Context<'_>, new: &mut Object, old: &Object) {
    let now = rkube_api::meta::rfc3339(ctx.now);
    let before = list(old, "status.conditions");
    for condition in list_mut(new, "status.conditions") {
        if text(condition, "lastUpdateTime").is_empty() {
            set(condition, "lastUpdateTime", now.clone());
        }
        if text(condition, "lastTransitionTime").is_empty() {
            let same = |old: &&Value| {
                text(old, "type") == text(condition, "type")
                    && text(old, "status") == text(condition, "status")
                    && !text(old, "lastTransitionTime").is_empty()
            };
            let time = match before.iter().find(same) {
                Some(old) => text(old, "lastTransitionTime").to_owned(),
                None => now.clone(),
            };
            set(condition, "lastTransitionTime", time);
        }
    }
}

fn of_type<'a>(obj: &'a Object, kind: &str) -> Vec<&'a Value> {
    let all = list(obj, "status.conditions").iter();
    all.filter(|c| text(c, "type") == kind).collect()
}

fn has_twice(values: impl Iterator<Item = impl Ord>) -> bool {
    let mut seen = BTreeSet::new();
    let mut values = values;
    !values.all(|value| seen.insert(value))
}

/// Validates a request, or the new state of one. An update tolerates what was wrong before.
fn validate(obj: &Object, old: Option<&Object>) -> Errors {
    let mut errors = Errors::new();
    let request = at(obj, "spec.request");
    if let Some(why) = pem::request_problem(&decoded(obj, "spec.request")) {
        errors.invalid("spec.request", request.clone(), why);
    }
    let usages = list(obj, "spec.usages");
    if usages.is_empty() {
        errors.required("spec.usages", "");
    }
    let known = |usage: &Value| usage.as_str().is_some_and(|usage| USAGES.contains(&usage));
    let before = old.map(|old| list(old, "spec.usages")).unwrap_or_default();
    let tolerates_unknown = !before.iter().all(known);
    let tolerates_twice = has_twice(before.iter().map(|usage| usage.as_str()));
    for (i, usage) in usages.iter().enumerate().filter(|_| !tolerates_unknown) {
        if !known(usage) {
            let usage = usage.as_str().unwrap_or_default();
            errors.not_supported(index("spec.usages", i), usage, &USAGES);
        }
    }
    let mut seen = BTreeSet::new();
    for (i, usage) in usages.iter().enumerate().filter(|_| !tolerates_twice) {
        if !seen.insert(usage.as_str()) {
            errors.duplicate(index("spec.usages", i), usage.clone());
        }
    }
    let signer = text(obj, "spec.signerName");
    let legacy = "kubernetes.io/legacy-unknown";
    let was_legacy = old.is_some_and(|old| text(old, "spec.signerName") == legacy);
    if signer == legacy && !was_legacy {
        let why = "the legacy signerName is not allowed via this API version";
        errors.invalid("spec.signerName", signer, why);
    } else {
        signer_name(&mut errors, signer, "spec.signerName");
    }
    if let Some(seconds) = int(obj, "spec.expirationSeconds")
        && seconds < 600
    {
        errors.invalid(
            "spec.expirationSeconds",
            seconds,
            "may not specify a duration less than 600 seconds (10 minutes)",
        );
    }
    conditions(&mut errors, obj, old);
    let path = "status.certificate";
    let problem = |obj| pem::certificates_problem(&decoded(obj, path));
    let tolerated =
        old.is_some_and(|old| text(old, path) == text(obj, path) || problem(old).is_some());
    if !tolerated && let Some(why) = problem(obj) {
        errors.invalid(path, "<certificate data>", why);
    }
    errors
}

/// Returns the bytes of a field; the schema has seen to their encoding.
fn decoded(obj: &Object, path: &str) -> Vec<u8> {
    STANDARD.decode(text(obj, path)).unwrap_or_default()
}

/// Validates the name of a signer: a domain and a path (upstream: `ValidateSignerName`).
fn signer_name(errors: &mut Errors, signer: &str, field: &str) {
    const MAX_DOMAIN: usize = 253;
    const MAX: usize = 2 * MAX_DOMAIN + 63 + 2;
    if signer.is_empty() {
        errors.required(field, "");
        return;
    }
    let (domain, path) = match signer.split_once('/') {
        Some((domain, path)) if !path.contains('/') => (domain, path),
        _ => {
            let why =
                "must be a fully qualified domain and path of the form 'example.com/signer-name'";
            errors.invalid(field, signer, why);
            return;
        }
    };
    if domain.len() > MAX_DOMAIN {
        errors.too_long(field, MAX_DOMAIN);
    }
    let labels = |errors: &mut Errors, text: &str, rule: fn(&str) -> Vec<String>| {
        for label in text.split('.') {
            let problems = rule(label);
            for why in &problems {
                errors.invalid(field, text, format!("validating label {label:?}: {why}"));
            }
            if !problems.is_empty() {
                break;
            }
        }
    };
    labels(errors, domain, names::dns1123_label);
    if !domain.contains('.') {
        let why = "should be a domain with at least two segments separated by dots";
        errors.invalid(field, domain, why);
    }
    labels(errors, path, names::dns1123_subdomain);
    if signer.len() > MAX {
        errors.too_long(field, MAX);
    }
}

/// Validates an update; `approval` and `signing` say what it may set.
fn update(new: &Object, old: &Object, approval: bool, signing: bool) -> Vec<FieldError> {
    let mut errors = validate(new, Some(old));
    let field = "status.conditions";
    for kind in ["Approved", "Denied", "Failed"] {
        if of_type(new, kind).len() < of_type(old, kind).len() {
            let why = format!("updates may not remove a condition of type {kind:?}");
            errors.forbidden(field, why);
        }
    }
    for kind in ["Approved", "Denied"].into_iter().filter(|_| !approval) {
        let (now, before) = (of_type(new, kind), of_type(old, kind));
        if now.len() > before.len() {
            let why = format!("updates may not add a condition of type {kind:?}");
            errors.forbidden(field, why);
        } else if now.len() == before.len() && !now.iter().zip(&before).all(|(a, b)| same(a, b)) {
            let why = format!("updates may not modify a condition of type {kind:?}");
            errors.forbidden(field, why);
        }
    }
    let path = "status.certificate";
    let before = text(old, path);
    if text(new, path) != before {
        if !signing {
            errors.forbidden(path, "updates may not set certificate content");
        } else if !before.is_empty() {
            errors.forbidden(path, "updates may not modify existing certificate content");
        }
    }
    errors.0
}

fn conditions(errors: &mut Errors, obj: &Object, old: Option<&Object>) {
    let before = old
        .map(|old| list(old, "status.conditions"))
        .unwrap_or_default();
    let was = |kind: &str| before.iter().any(|c| text(c, "type") == kind);
    let tolerates_both = was("Approved") && was("Denied");
    let tolerates_empty = was("");
    let tolerates_twice = has_twice(before.iter().map(|c| text(c, "type")));
    let mut seen = BTreeSet::new();
    for (i, condition) in list(obj, "status.conditions").iter().enumerate() {
        let field = index("status.conditions", i);
        let kind = text(condition, "type");
        if kind.is_empty() && !tolerates_empty {
            errors.required(format!("{field}.type"), "");
        }
        let known: &[&str] = match kind {
            "Approved" | "Denied" | "Failed" => &["True"],
            _ => &["False", "True", "Unknown"],
        };
        match text(condition, "status") {
            "" => errors.required(format!("{field}.status"), ""),
            status if known.contains(&status) => {}
            other => errors.not_supported(format!("{field}.status"), other, known),
        }
        let other = match kind {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "\0",
        };
        if seen.contains(other) && !tolerates_both {
            errors.invalid(
                "status.conditions",
                kind,
                "Approved and Denied conditions are mutually exclusive",
            );
        }
        if !seen.insert(kind) && !tolerates_twice {
            errors.duplicate(format!("{field}.type"), kind);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_server_says_who_asks() {
        let groups = ["g".to_owned()];
        let ctx = Context {
            groups: &groups,
            ..Context::new(jiff::Timestamp::UNIX_EPOCH, "alice")
        };
        let mut c = json!({"spec": {"username": "root", "extra": {"a": ["b"]}, "signerName": "example.com/s"}});
        Csr.prepare_create(&ctx, &mut c);
        assert_eq!(
            c["spec"],
            json!({"username": "alice", "groups": ["g"], "signerName": "example.com/s"})
        );
    }

    #[test]
    fn certificates_are_pem() {
        let old = json!({"metadata": {}, "spec": {}, "status": {}});
        let told = |text: &str| {
            let mut new = old.clone();
            new["status"]["certificate"] = STANDARD.encode(text).into();
            let errors = Csr.validate_status_update(&new, &old);
            let errors = errors.iter().map(ToString::to_string);
            errors
                .filter(|e| e.contains("status.certificate"))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            told("x"),
            [
                "status.certificate: Invalid value: \"<certificate data>\": must contain at least one CERTIFICATE PEM block"
            ]
        );
        let good = "-----BEGIN CERTIFICATE-----\nMAIwAA==\n-----END CERTIFICATE-----\n";
        assert_eq!(told(good), [""; 0]);
    }

    #[test]
    fn approval_is_for_good() {
        let ctx = Context::new(jiff::Timestamp::UNIX_EPOCH, "a");
        let old = json!({"metadata": {}, "spec": {}, "status": {}});
        let mut new = json!({"metadata": {}, "spec": {"x": 1}, "status": {"conditions": [{"type": "Approved", "status": "True"}], "certificate": "c"}});
        Csr.prepare_subresource_update(&ctx, Subresource::Approval, &mut new, &old);
        assert!(new["status"].get("certificate").is_none());
        assert_eq!(
            new["status"]["conditions"][0]["lastUpdateTime"],
            "1970-01-01T00:00:00Z"
        );
        let errors = Csr.validate_update(&old, &new);
        let removals = errors
            .iter()
            .filter(|e| e.to_string().contains("may not remove a condition"));
        assert_eq!(removals.count(), 1);
    }
}
