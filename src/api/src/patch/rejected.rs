//! The error of patches that do not fit their object.

use crate::status::{Details, Status};

/// Returns 422 for a patch that is well-formed and does not fit the object. As upstream,
/// it does not tell the reason.
pub(super) fn rejected() -> Status {
    Status::new(
        422,
        "Invalid",
        "the server rejected our request due to an error in our request",
    )
    .with_details(Details::default())
}
