//! Authorization checks.

use std::fmt;
use std::sync::Arc;

/// Attributes of a request that a check is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Namespace and name of the service account to check instead of the user.
    pub service_account: Option<(String, String)>,
    /// Path of a non-resource request.
    pub path: Option<String>,
    /// API group of the resource.
    pub group: String,
    /// Resource, in the plural.
    pub resource: String,
    /// Subresource; empty for none.
    pub subresource: String,
    /// Namespace; empty for none.
    pub namespace: String,
    /// Name of the object; empty for none.
    pub name: String,
    /// Field selector, unparsed.
    pub field_selector: Option<String>,
    /// Label selector, unparsed.
    pub label_selector: Option<String>,
    /// Verb of the request.
    pub verb: String,
}

/// Decision of the authorizer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request is allowed.
    pub allowed: bool,
    /// Reason; empty if the authorizer gives none.
    pub reason: String,
    /// Error of the evaluation, if any.
    pub error: Option<String>,
}

/// Source of decisions for the variable `authorizer`.
pub trait Authorizer {
    /// Decides about the attributes, for the request's user or for the service
    /// account in the attributes.
    fn authorize(&self, attributes: &Attributes) -> Decision;
}

/// State of a check that an expression builds, or its decision.
#[derive(Clone, Debug, PartialEq)]
pub enum Check {
    /// `Authorizer`: the user or service account.
    Authorizer(Attributes),
    /// `PathCheck`
    Path(Attributes),
    /// `GroupCheck`
    Group(Attributes),
    /// `ResourceCheck`
    Resource(Attributes),
    /// `Decision`
    Decision(Decision),
}

impl Check {
    /// Returns the value of the variable `authorizer`.
    pub fn start() -> Arc<Self> {
        Arc::new(Self::Authorizer(Attributes::default()))
    }

    /// Returns the value of the variable `authorizer.requestResource`.
    pub fn resource(attributes: Attributes) -> Arc<Self> {
        Arc::new(Self::Resource(attributes))
    }

    /// Returns the name of the CEL type.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Authorizer(_) => "kubernetes.authorization.Authorizer",
            Self::Path(_) => "kubernetes.authorization.PathCheck",
            Self::Group(_) => "kubernetes.authorization.GroupCheck",
            Self::Resource(_) => "kubernetes.authorization.ResourceCheck",
            Self::Decision(_) => "kubernetes.authorization.Decision",
        }
    }
}

/// Authorizer that denies everything, for contexts without one.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoAuthorizer;

impl Authorizer for NoAuthorizer {
    fn authorize(&self, _: &Attributes) -> Decision {
        Decision {
            error: Some("there is no authorizer to ask".into()),
            ..Decision::default()
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.type_name())
    }
}
