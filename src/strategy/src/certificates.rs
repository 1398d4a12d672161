//! Certificate signing requests.

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::{Map, Value};

use crate::errors::{Errors, IMMUTABLE};
use crate::generic;
use crate::tree::{at, ensure, has, int, keep, list, list_mut, put, remove, same, set, text};
use crate::{Context, NameRule, Strategy, Subresource};

/// Returns the strategy of a kind of this module, `None` for kinds without one.
pub(crate) fn strategy_for(kind: &str) -> Option<&'static dyn Strategy> {
    (kind == "CertificateSigningRequest").then_some(&Csr)
}

/// The strategy of kind `CertificateSigningRequest`.
struct Csr;

impl Strategy for Csr {
    fn name_rule(&self) -> NameRule {
        NameRule::Dns1123Subdomain
    }

    fn prepare_create(&self, ctx: &Context<'_>, obj: &mut Object) {
        generic::prepare_create_plain(obj);
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
        // Approvals and denials can only be set through the subresource `approval`.
        let decided = |c: &Value| matches!(text(c, "type"), "Approved" | "Denied");
        let mut conditions: Vec<Value> = list(old, "status.conditions")
            .iter()
            .filter(|c| decided(c))
            .cloned()
            .collect();
        conditions.extend(
            list(new, "status.conditions")
                .iter()
                .filter(|c| !decided(c))
                .cloned(),
        );
        if !conditions.is_empty() || has(new, "status.conditions") {
            put(new, "status.conditions", conditions);
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
        let mut errors = Errors::new();
        if text(obj, "spec.request").is_empty() {
            errors.invalid(
                "spec.request",
                "",
                "PEM block type must be CERTIFICATE REQUEST",
            );
        }
        if list(obj, "spec.usages").is_empty() {
            errors.required("spec.usages", "usages must be provided");
        }
        for (i, usage) in list(obj, "spec.usages").iter().enumerate() {
            let usage = usage.as_str().unwrap_or_default();
            if !USAGES.contains(&usage) {
                errors.not_supported(format!("spec.usages[{i}]"), usage, &USAGES);
            }
        }
        let signer = text(obj, "spec.signerName");
        match signer.split_once('/') {
            _ if signer.is_empty() => errors.required("spec.signerName", ""),
            Some((domain, path)) if !path.is_empty() => {
                if !domain.contains('.') {
                    errors.invalid(
                        "spec.signerName",
                        signer,
                        "should be a domain with at least two segments separated by dots",
                    );
                }
                errors.invalid_each(
                    "spec.signerName",
                    domain,
                    crate::names::dns1123_subdomain(domain),
                );
                if signer == "kubernetes.io/legacy-unknown" {
                    errors.invalid(
                        "spec.signerName",
                        signer,
                        "the legacy signerName is not allowed via this API version",
                    );
                }
            }
            _ => errors.invalid(
                "spec.signerName",
                signer,
                "must be a fully qualified domain and path of the form 'example.com/signer-name'",
            ),
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
        errors.0
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        conditions(&mut errors, new, old);
        errors.0
    }

    fn validate_status_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let before = text(old, "status.certificate");
        if !before.is_empty() && text(new, "status.certificate") != before {
            errors.forbidden(
                "status.certificate",
                "updates may not set certificate content if existing certificate is set",
            );
        }
        conditions(&mut errors, new, old);
        errors.0
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

/// Sets missing times of conditions: those of the old condition if it is unchanged, else now.
fn stamp(ctx: &Context<'_>, new: &mut Object, old: &Object) {
    let now = rkube_api::meta::rfc3339(ctx.now);
    let before: Vec<Value> = list(old, "status.conditions").to_vec();
    for condition in list_mut(new, "status.conditions") {
        let old = before
            .iter()
            .find(|c| text(c, "type") == text(condition, "type"));
        if text(condition, "lastTransitionTime").is_empty() {
            let time = old
                .filter(|o| text(o, "status") == text(condition, "status"))
                .map(|o| text(o, "lastTransitionTime").to_owned())
                .filter(|t| !t.is_empty())
                .unwrap_or_else(|| now.clone());
            set(condition, "lastTransitionTime", time);
        }
        if text(condition, "lastUpdateTime").is_empty() {
            let kept = old.filter(|o| {
                ["status", "reason", "message"]
                    .iter()
                    .all(|k| text(o, k) == text(condition, k))
            });
            let time = kept
                .map(|o| text(o, "lastUpdateTime").to_owned())
                .filter(|t| !t.is_empty())
                .unwrap_or_else(|| now.clone());
            set(condition, "lastUpdateTime", time);
        }
    }
}

fn conditions(errors: &mut Errors, new: &Object, old: &Object) {
    let of = |o: &Object, kind: &str| {
        list(o, "status.conditions")
            .iter()
            .find(|c| text(c, "type") == kind)
            .cloned()
    };
    for (i, condition) in list(new, "status.conditions").iter().enumerate() {
        let field = format!("status.conditions[{i}]");
        let kind = text(condition, "type");
        if kind.is_empty() {
            errors.required(format!("{field}.type"), "");
        }
        let status = text(condition, "status");
        match (kind, status) {
            (_, "") => errors.required(format!("{field}.status"), ""),
            ("Approved" | "Denied" | "Failed", "False" | "Unknown") => {
                errors.not_supported(format!("{field}.status"), status, &["True"]);
            }
            (_, "True" | "False" | "Unknown") => {}
            (_, other) => {
                errors.not_supported(
                    format!("{field}.status"),
                    other,
                    &["False", "True", "Unknown"],
                );
            }
        }
    }
    if of(new, "Approved").is_some() && of(new, "Denied").is_some() {
        errors.invalid(
            "status.conditions",
            "Denied",
            "Approved and Denied conditions are mutually exclusive",
        );
    }
    for kind in ["Approved", "Denied"] {
        match (of(old, kind), of(new, kind)) {
            (Some(_), None) => errors.forbidden(
                "status.conditions",
                format!("updates may not remove a condition of type {kind:?}"),
            ),
            (Some(old), Some(new)) if !same(&old, &new) => {
                errors.forbidden("status.conditions", IMMUTABLE);
            }
            _ => {}
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
        assert_eq!(Csr.validate_update(&old, &new).len(), 1);
    }
}
