//! Errors and warnings about the kinds and versions of requests: those that do not fit, and those
//! that are deprecated.

use rkube_api::status::{FieldError, Status};
use rkube_api::{GroupKind, GroupVersionKind, Object, meta};

use crate::resources::Resource;

/// Returns the error for an object of another kind or version than `own`, with the message of
/// Go's scheme. `internal` is the name of its Go type without a version.
pub fn wrong_kind(own: &GroupVersionKind, internal: &str, api_version: &str, kind: &str) -> Status {
    let own_version = rkube_api::gvk::api_version(&own.group, &own.version);
    let api_version = if api_version.is_empty() {
        &own_version
    } else {
        api_version
    };
    let kind = if kind.is_empty() { &own.kind } else { kind };
    let (group, version) = rkube_api::gvk::parse_api_version(api_version);
    let find = |kind: &str| rkube_api::registry::find_kind(group, version, kind).is_some();
    let known = find(kind)
        || kind.strip_suffix("List").is_some_and(find)
        || api_version == "v1" && matches!(kind, "List" | "Status" | "DeleteOptions");
    if known && group == own.group && kind == own.kind {
        return wrong_version(&own_version, api_version);
    }
    let why = match known {
        true => format!("converting ({version}.{kind}) to ({internal}): unknown conversion"),
        false => format!(
            "no kind {} is registered for version {} in scheme \"k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30\"",
            rkube_api::text::quote(kind),
            rkube_api::text::quote(api_version)
        ),
    };
    Status::bad_request(format!(
        "{kind} in version {} cannot be handled as a {}: {why}",
        rkube_api::text::quote(version),
        own.kind
    ))
}

fn wrong_version(own: &str, given: &str) -> Status {
    Status::bad_request(format!(
        "the API version in the data ({given}) does not match the expected API version ({own})"
    ))
}

impl Resource {
    /// Returns the error for an object of another kind or version.
    pub(crate) fn wrong_kind(&self, api_version: &str, kind: &str) -> Status {
        if self.crd_version().is_none() {
            let own = self.gvk();
            return wrong_kind(&own, &self.internal_type(), api_version, kind);
        }
        if api_version != self.api_version() {
            return wrong_version(&self.api_version(), api_version);
        }
        let why = format!("must be {}", self.kind);
        let error = FieldError::invalid("kind", kind, why);
        Status::invalid(&GroupKind::new(&*self.group, kind), "", vec![error])
    }

    /// Returns what is wrong with an object's kind for a custom resource, which needs both
    /// `apiVersion` and `kind`.
    pub fn check_identified(&self, object: &Object) -> Result<(), Status> {
        if self.crd_version().is_none() {
            return Ok(());
        }
        if meta::kind(object).is_empty() {
            return Err(Status::bad_request(format!(
                "Object 'Kind' is missing in '{object}'"
            )));
        }
        Ok(())
    }

    /// Returns what is wrong with a custom resource that names no `apiVersion`.
    pub fn check_versioned(&self, object: &Object) -> Result<(), Status> {
        if self.crd_version().is_some() && meta::api_version(object).is_empty() {
            return Err(wrong_version(&self.api_version(), ""));
        }
        Ok(())
    }

    /// Returns the warning about requests for a deprecated version of a kind.
    pub fn deprecation(&self) -> Option<String> {
        if self.is("", "endpoints") {
            return Some(
                "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"
                    .into(),
            );
        }
        match self.crd_version()?.deprecated()? {
            "" => {
                let (version, kind) = (self.api_version(), &self.kind);
                Some(format!("{version} {kind} is deprecated"))
            }
            own => Some(own.to_owned()),
        }
    }

    /// Returns the name of the Go type of this kind without a version, as in messages:
    /// `core.Pod`.
    pub fn internal_type(&self) -> String {
        let package = match self.group.split('.').next().unwrap_or_default() {
            "" | "events" => "core",
            "internal" => "apiserverinternal",
            package => package,
        };
        format!("{package}.{}", self.kind)
    }
}
