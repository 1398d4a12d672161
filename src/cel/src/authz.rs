//! Questions to the authorizer.

use std::fmt;
use std::sync::Arc;

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Another identity than the request's: a service account's namespace and name.
    pub service_account: Option<(String, String)>,
    /// A path that is no resource's.
    pub path: Option<String>,
    /// A resource's group.
    pub group: String,
    /// The resource.
    pub resource: String,
    /// Its subresource, if any.
    pub subresource: String,
    /// The namespace, if any.
    pub namespace: String,
    /// The object's name, if any.
    pub name: String,
    /// A field selector as text.
    pub field_selector: Option<String>,
    /// A label selector as text.
    pub label_selector: Option<String>,
    /// What would be done.
    pub verb: String,
}

/// What was answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may be done.
    pub allowed: bool,
    /// Why, if the authorizer says.
    pub reason: String,
    /// What went wrong, if anything.
    pub error: Option<String>,
}

/// Answers questions.
pub trait Authorizer {
    /// Whether the request's user, or the service account named, may do it.
    fn authorize(&self, attributes: &Attributes) -> Decision;
}

/// A question in the making, or its answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Check {
    /// Whom to ask for.
    Authorizer(Attributes),
    /// About a path.
    Path(Attributes),
    /// About a group.
    Group(Attributes),
    /// About a resource.
    Resource(Attributes),
    /// The answer.
    Decision(Decision),
}

impl Check {
    /// The value of the variable `authorizer`.
    pub fn start() -> Arc<Self> {
        Arc::new(Self::Authorizer(Attributes::default()))
    }

    /// The value of the variable `authorizer.requestResource`.
    pub fn resource(attributes: Attributes) -> Arc<Self> {
        Arc::new(Self::Resource(attributes))
    }

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

/// Refuses everything: for where no authorizer is.
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
