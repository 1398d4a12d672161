//! The attributes of a request to authorize, and decisions.

use crate::UserInfo;

/// The attributes of a request to authorize (upstream: `authorizer.Attributes`). Use struct
/// update syntax with [`Attributes::resource`] or [`Attributes::path`].
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// The user of the request.
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
    /// The subresource; empty if there is none.
    pub subresource: &'a str,
    /// The namespace; empty for a cluster-scoped resource or all namespaces.
    pub namespace: &'a str,
    /// The object's name; empty if the request has none.
    pub name: &'a str,
    /// The path of a non-resource request.
    pub path: &'a str,
    /// Whether the request is for a resource and not for a path.
    pub is_resource_request: bool,
    /// The field selector in query syntax; empty if there is none.
    pub field_selector: &'a str,
    /// The label selector in query syntax; empty if there is none.
    pub label_selector: &'a str,
}

impl<'a> Attributes<'a> {
    /// Creates the attributes of a resource request.
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

    /// Creates the attributes of a non-resource request.
    pub fn path(user: &'a UserInfo, verb: &'a str, path: &'a str) -> Attributes<'a> {
        Attributes {
            path,
            is_resource_request: false,
            ..Attributes::resource(user, verb, "", "")
        }
    }
}

/// The decision of an authorizer, with the reason for the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The request is allowed.
    Allow(String),
    /// The request is denied; later authorizers are not asked.
    Deny(String),
    /// No authorizer allows the request, so it is forbidden.
    NoOpinion(String),
}

impl Decision {
    /// Returns whether the request is allowed.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }

    /// Returns the reason of any decision.
    pub fn reason(&self) -> &str {
        match self {
            Decision::Allow(r) | Decision::Deny(r) | Decision::NoOpinion(r) => r,
        }
    }
}
