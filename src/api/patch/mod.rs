//! The three kinds of patch that are not server-side apply.

use crate::Object;
use crate::schema::Type;
use crate::status::Status;

/// RFC 6902.
pub fn json_patch(object: &Object, patch: &Object) -> Result<Object, Status> {
    let _ = (object, patch);
    Err(Status::internal("not built yet"))
}

/// RFC 7386.
pub fn merge_patch(object: &Object, patch: &Object) -> Result<Object, Status> {
    let _ = (object, patch);
    Err(Status::internal("not built yet"))
}

/// Strategic merge patch, by the type's merge keys and strategies.
pub fn strategic_merge<'a>(
    ty: impl Into<Type<'a>>,
    object: &Object,
    patch: &Object,
) -> Result<Object, Status> {
    let _ = (ty.into(), object, patch);
    Err(Status::internal("not built yet"))
}
