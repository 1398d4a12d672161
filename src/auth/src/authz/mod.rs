//! Authorization: decides whether a user may perform a request.
//!
//! The order is upstream's: members of `system:masters` are always allowed, then the Node
//! authorizer and RBAC decide. Both can only allow; a request that none allows is forbidden.

use std::sync::Arc;

use rkube_api::Object;
use rkube_api::gvk::GroupResource;
use rkube_api::status::Status;

use crate::{ObjectReader, UserInfo, names};

mod escalation;
mod node;
mod rbac;
mod review;
pub(crate) mod rule;
#[cfg(test)]
mod tests;
mod types;

pub use types::{Attributes, Decision};

/// The chain of authorizers: Node and RBAC.
pub struct Authorizer {
    node: node::NodeAuthorizer,
    rbac: rbac::Rbac,
}

impl Authorizer {
    /// Creates an authorizer that reads roles and bindings through `reader`.
    pub fn new(reader: Arc<dyn ObjectReader>) -> Authorizer {
        Authorizer {
            node: node::NodeAuthorizer::new(reader.clone()),
            rbac: rbac::Rbac::new(reader),
        }
    }

    /// Decides on one request.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.in_group(names::MASTERS) {
            return Decision::Allow(String::new());
        }
        let mut reasons = Vec::new();
        match self.node.authorize(attributes) {
            Decision::NoOpinion(reason) if !reason.is_empty() => reasons.push(reason),
            Decision::NoOpinion(_) => {}
            decided => return decided,
        }
        match self.by_rules(attributes) {
            Decision::NoOpinion(reason) if !reason.is_empty() => reasons.push(reason),
            Decision::NoOpinion(_) => {}
            decided => return decided,
        }
        Decision::NoOpinion(reasons.join("\n"))
    }

    fn by_rules(&self, attributes: &Attributes<'_>) -> Decision {
        let mut allowed = None;
        let mut errors = Vec::new();
        self.rbac
            .visit_rules(attributes.user, attributes.namespace, &mut |found| {
                match found {
                    Ok((source, rule)) if rule.allows(attributes) => {
                        allowed = Some(format!("RBAC: allowed by {source}"));
                        return false;
                    }
                    Ok(_) => {}
                    Err(why) => errors.push(why),
                }
                true
            });
        match allowed {
            Some(reason) => Decision::Allow(reason),
            None if errors.is_empty() => Decision::NoOpinion(String::new()),
            None => Decision::NoOpinion(format!("RBAC: {}", aggregate(&errors))),
        }
    }

    /// Returns a 403 status unless [`Self::authorize`] allows the request.
    pub fn require(&self, attributes: &Attributes<'_>) -> Result<(), Status> {
        match self.authorize(attributes) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => {
                Err(forbidden(attributes, &reason))
            }
        }
    }

    /// Returns the status of a `SelfSubjectRulesReview`.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> Object {
        let (rules, mut errors) = self.rbac.rules_for(user, namespace);
        let incomplete = node::NodeAuthorizer::is_node(user);
        if incomplete {
            errors.insert(
                0,
                "node authorizer does not support user rule resolution".into(),
            );
        }
        let rules_about = |is_path: bool| -> Vec<Object> {
            let about = rules
                .iter()
                .filter(|rule| !if is_path { &rule.urls } else { &rule.resources }.is_empty());
            about
                .map(|rule| {
                    let mut object = rule.to_object();
                    let kept =
                        |field: &str| field == "verbs" || (field == "nonResourceURLs") == is_path;
                    if let Some(fields) = object.as_object_mut() {
                        fields.retain(|field, _| kept(field));
                    }
                    object
                })
                .collect()
        };
        let mut status = serde_json::json!({
            "resourceRules": rules_about(false),
            "nonResourceRules": rules_about(true),
            "incomplete": incomplete,
        });
        if !errors.is_empty() {
            status["evaluationError"] = aggregate(&errors).into();
        }
        status
    }
}

/// Formats distinct errors as one message: a single one unchanged, several as `[a, b]`.
pub fn aggregate(errors: &[String]) -> String {
    let mut distinct: Vec<&str> = Vec::new();
    for error in errors {
        if !distinct.contains(&error.as_str()) {
            distinct.push(error);
        }
    }
    match distinct[..] {
        [one] => one.to_owned(),
        _ => format!("[{}]", distinct.join(", ")),
    }
}

/// Returns the 403 status of a request, with upstream's message.
pub fn forbidden(attributes: &Attributes<'_>, reason: &str) -> Status {
    // Escaped, because browsers may render the message.
    let mut message = describe(attributes)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    if !reason.is_empty() {
        message.push_str(": ");
        message.push_str(reason);
    }
    let resource = GroupResource::new(attributes.api_group, attributes.resource);
    Status::forbidden(&resource, attributes.name, message)
}

fn describe(attributes: &Attributes<'_>) -> String {
    let Attributes {
        verb,
        api_group,
        namespace,
        path,
        ..
    } = attributes;
    let user = &attributes.user.name;
    if !attributes.is_resource_request {
        return format!("User {user:?} cannot {verb} path {path:?}");
    }
    let resource = match attributes.subresource {
        "" => attributes.resource.to_owned(),
        subresource => format!("{}/{subresource}", attributes.resource),
    };
    let scope = match *namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    format!("User {user:?} cannot {verb} resource {resource:?} in API group {api_group:?} {scope}")
}
