//! Server-side apply and the tracking of who owns which field.

use crate::Object;
use crate::schema::Type;
use crate::status::Status;

/// Converts an object between versions of its kind, for field sets that were
/// recorded in another version than the request's.
pub trait Versions {
    /// The object in `api_version`, and its type there; `None` if that version
    /// is not served any more.
    fn convert<'s>(&'s self, object: &Object, api_version: &str) -> Option<(Object, Type<'s>)>;
}

/// One write, as field ownership sees it.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The kind's type in the request's version.
    pub ty: Type<'a>,
    /// The field manager's name.
    pub manager: &'a str,
    /// The subresource written, as `status`.
    pub subresource: Option<&'a str>,
    /// The time, RFC 3339 in seconds.
    pub now: &'a str,
    /// Conversion between the kind's versions, when there are several.
    pub versions: Option<&'a dyn Versions>,
    /// Fields that this write resets, which nobody can therefore own, as paths
    /// of names: `[["status"]]`.
    pub reset_fields: &'a [&'a [&'a str]],
}

/// Merges an applied configuration into the live object (none on create).
/// Fails with 409 and causes where others own fields, unless `force`.
pub fn apply(
    request: &Request<'_>,
    live: Option<&Object>,
    applied: &Object,
    force: bool,
) -> Result<Object, Status> {
    let _ = (request, live, applied, force);
    Err(Status::internal("not built yet"))
}

/// Records who changed what when `new` (as it is to be stored) replaces the
/// live object (none on create); answers `new` with its `managedFields`.
pub fn update(request: &Request<'_>, live: Option<&Object>, new: Object) -> Object {
    let _ = (request, live);
    new
}
