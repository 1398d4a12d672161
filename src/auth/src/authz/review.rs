//! `SubjectAccessReview` and related kinds.

use rkube_api::gvk::GroupKind;
use rkube_api::selector::{FieldSelector, LabelSelector};
use rkube_api::status::{FieldError, Status};
use rkube_api::{Object, meta};
use serde_json::{Map, json};

use super::Authorizer;
use super::types::{Attributes, Decision};
use crate::{UserInfo, tree};

const GROUP: &str = "authorization.k8s.io";

impl Authorizer {
    /// Processes a `SubjectAccessReview`, `SelfSubjectAccessReview`,
    /// `LocalSubjectAccessReview` or `SelfSubjectRulesReview` (`kind`) that `caller` creates in
    /// `namespace`. Returns the object with its status.
    pub fn review(
        &self,
        kind: &str,
        namespace: &str,
        review: &Object,
        caller: &UserInfo,
    ) -> Result<Object, Status> {
        if kind == "SelfSubjectRulesReview" {
            let asked = tree::text(review, &["spec", "namespace"]);
            if asked.is_empty() {
                return Err(Status::bad_request("no namespace on request"));
            }
            let mut answer = review.clone();
            answer["status"] = self.rules_for(caller, asked);
            return Ok(answer);
        }
        let errors = validate(kind, review);
        if !errors.is_empty() {
            return Err(Status::invalid(&GroupKind::new(GROUP, kind), "", errors));
        }
        if kind == "LocalSubjectAccessReview" {
            if namespace.is_empty() {
                return Err(Status::bad_request("namespace is required on this type: "));
            }
            if tree::namespace(review) != namespace {
                let text =
                    format!("spec.resourceAttributes.namespace must match namespace: {namespace}");
                return Err(Status::bad_request(text));
            }
        }
        let subject;
        let user = if kind == "SelfSubjectAccessReview" {
            caller
        } else {
            subject = subject_of(review);
            &subject
        };
        let (decision, problems) = self.decide(user, review);
        let mut answer = review.clone();
        answer["status"] = status(&decision, &problems);
        Ok(answer)
    }

    /// Decides on the attributes of a review. Also returns parse errors of its selectors.
    fn decide(&self, user: &UserInfo, review: &Object) -> (Decision, Vec<String>) {
        if let Some(asked) = tree::at(review, &["spec", "nonResourceAttributes"]) {
            let ask = Attributes::path(
                user,
                tree::text(asked, &["verb"]),
                tree::text(asked, &["path"]),
            );
            return (self.authorize(&ask), Vec::new());
        }
        let empty = Object::Null;
        let asked = tree::at(review, &["spec", "resourceAttributes"]).unwrap_or(&empty);
        let text = |field| tree::text(asked, &[field]);
        let mut problems = Vec::new();
        let field_selector = field_selector(asked, &mut problems);
        let label_selector = tree::text(asked, &["labelSelector", "rawSelector"]);
        if LabelSelector::parse(label_selector).is_err() {
            problems
                .push("spec.resourceAttributes.labelSelector ignored due to parse error".into());
        }
        let ask = Attributes {
            api_version: if text("version").is_empty() {
                "*"
            } else {
                text("version")
            },
            subresource: text("subresource"),
            namespace: text("namespace"),
            name: text("name"),
            field_selector: &field_selector,
            label_selector,
            ..Attributes::resource(user, text("verb"), text("group"), text("resource"))
        };
        (self.authorize(&ask), problems)
    }
}

fn subject_of(review: &Object) -> UserInfo {
    let owned = |values: Vec<&str>| values.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let extra = tree::entries(review, &["spec", "extra"]);
    UserInfo {
        name: tree::text(review, &["spec", "user"]).to_owned(),
        uid: tree::text(review, &["spec", "uid"]).to_owned(),
        groups: owned(tree::strings(review, &["spec", "groups"])),
        extra: extra
            .map(|(key, values)| (key.to_owned(), owned(tree::strings(values, &[]))))
            .collect(),
    }
}

fn status(decision: &Decision, problems: &[String]) -> Object {
    let mut status = Map::new();
    status.insert("allowed".into(), decision.is_allowed().into());
    if matches!(decision, Decision::Deny(_)) {
        status.insert("denied".into(), true.into());
    }
    if !decision.reason().is_empty() {
        status.insert("reason".into(), decision.reason().into());
    }
    if !problems.is_empty() {
        status.insert("evaluationError".into(), problems.join("; ").into());
    }
    Object::Object(status)
}

/// Returns the field selector in query syntax. Invalid requirements are dropped, which makes
/// the request broader, and reported in `problems`.
fn field_selector(asked: &Object, problems: &mut Vec<String>) -> String {
    let requirements = tree::items(asked, &["fieldSelector", "requirements"]);
    if requirements.is_empty() {
        let raw = tree::text(asked, &["fieldSelector", "rawSelector"]);
        if FieldSelector::parse(raw).is_err() {
            problems
                .push("spec.resourceAttributes.fieldSelector ignored due to parse error".into());
            return String::new();
        }
        return raw.to_owned();
    }
    let mut parts = Vec::new();
    for requirement in requirements {
        let key = tree::text(requirement, &["key"]);
        match (
            tree::text(requirement, &["operator"]),
            &tree::strings(requirement, &["values"])[..],
        ) {
            ("In", [value]) => parts.push(format!("{key}={}", escape(value))),
            ("NotIn", [value]) => parts.push(format!("{key}!={}", escape(value))),
            _ => {}
        }
    }
    if parts.len() < requirements.len() {
        let how_much = if parts.is_empty() { "" } else { "partially " };
        problems.push(format!(
            "spec.resourceAttributes.fieldSelector {how_much}ignored due to parse error"
        ));
    }
    parts.join(",")
}

fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace(',', "\\,")
        .replace('=', "\\=")
}

fn validate(kind: &str, review: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let present = |field| tree::at(review, &["spec", field]).filter(|value| value.is_object());
    let (resource, path) = (
        present("resourceAttributes"),
        present("nonResourceAttributes"),
    );
    match (resource, path) {
        (Some(_), Some(path)) => errors.push(FieldError::invalid(
            "spec.nonResourceAttributes",
            path.clone(),
            "cannot be specified in combination with resourceAttributes",
        )),
        (None, None) => errors.push(FieldError::invalid(
            "spec.resourceAttributes",
            Object::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => {}
    }
    let nobody = tree::text(review, &["spec", "user"]).is_empty()
        && tree::items(review, &["spec", "groups"]).is_empty();
    if kind != "SelfSubjectAccessReview" && nobody {
        errors.push(FieldError::invalid(
            "spec.user",
            "",
            "at least one of user or group must be specified",
        ));
    }
    for selector in ["fieldSelector", "labelSelector"] {
        let Some(given) = resource
            .and_then(|r| r.get(selector))
            .filter(|s| s.is_object())
        else {
            continue;
        };
        let field = format!("spec.resourceAttributes.{selector}");
        let raw = tree::text(given, &["rawSelector"]);
        match (
            raw.is_empty(),
            tree::items(given, &["requirements"]).is_empty(),
        ) {
            (false, false) => errors.push(FieldError::invalid(
                format!("{field}.rawSelector"),
                raw,
                "may not specified at the same time as requirements",
            )),
            (true, true) => errors.push(FieldError::required(
                format!("{field}.requirements"),
                format!("when {field} is specified, requirements or rawSelector is required"),
            )),
            _ => {}
        }
    }
    let local = kind == "LocalSubjectAccessReview";
    let mut metadata = review.get("metadata").cloned().unwrap_or_else(|| json!({}));
    if let Some(fields) = metadata.as_object_mut() {
        fields.retain(|field, value| {
            field != "managedFields" && !value.is_null() && !(local && field == "namespace")
        });
        if !fields.is_empty() {
            let detail = if local {
                "must be empty except for namespace"
            } else {
                "must be empty"
            };
            errors.push(FieldError::invalid("metadata", metadata, detail));
        }
    }
    if local {
        if let Some(resource) = resource
            && tree::text(resource, &["namespace"]) != meta::namespace(review)
        {
            errors.push(FieldError::invalid(
                "spec.resourceAttributes.namespace",
                tree::text(resource, &["namespace"]),
                "must match metadata.namespace",
            ));
        }
        if let Some(path) = path {
            let detail = "disallowed on this kind of request";
            errors.push(FieldError::invalid(
                "spec.nonResourceAttributes",
                path.clone(),
                detail,
            ));
        }
    }
    errors
}
