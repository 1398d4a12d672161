//! Conversion of store errors to API errors.

use rkube_api::status::Status;
use rkube_store::StoreError;

use crate::resources::Resource;

/// Converts a store error to the API error that the client receives.
pub fn store_error(resource: &Resource, name: &str, error: StoreError) -> Status {
    match error {
        StoreError::Conflict { found: None } => Status::not_found(&resource.group_resource(), name),
        StoreError::Conflict { found: Some(_) } => {
            Status::modified(&resource.group_resource(), name)
        }
        StoreError::Compacted { asked, oldest } => Status::gone(format!(
            "The resourceVersion for the provided list is too old. ({asked}, oldest {oldest})"
        )),
        StoreError::Future { asked, newest } => too_large(asked, newest),
        StoreError::Unavailable(why) => {
            Status::service_unavailable(format!("the store failed: {why}"))
        }
        StoreError::Full(why) => Status::new(
            507,
            "InsufficientStorage",
            format!("the control plane has no room for the object: its disk is full: {why}"),
        ),
        StoreError::Closed => Status::service_unavailable("the server is shutting down"),
        error => Status::internal(error),
    }
}

/// Returns the 504 error for a revision that the store has not reached. Clients identify it by its
/// cause.
pub fn too_large(asked: u64, now: u64) -> Status {
    let mut status = Status::new(
        504,
        "Timeout",
        format!("Too large resource version: {asked}, current: {now}"),
    );
    let mut details = rkube_api::status::Details {
        retry_after_seconds: 1,
        ..Default::default()
    };
    details.causes.push(rkube_api::status::Cause {
        reason: "ResourceVersionTooLarge".into(),
        message: "Too large resource version".into(),
        field: String::new(),
    });
    status = status.with_details(details);
    status
}
