//! Why a handler did not do what was asked.

use rkube_api::GroupResource;
use rkube_api::status::Status;

use crate::input::list::Continue;

/// Why a handler did not do what was asked. Handlers distinguish the first ones; clients receive
/// each as a [`Status`].
#[derive(Debug)]
pub enum HandlerError {
    /// The object does not exist.
    NotFound(GroupResource, String),
    /// An object of the name exists.
    AlreadyExists(GroupResource, String),
    /// The revision of a continue token is gone; holds a token that continues with the current
    /// state.
    Expired(Continue),
    /// The request is refused, or the server cannot serve it.
    Refused(Status),
}

impl From<Status> for HandlerError {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

impl From<HandlerError> for Status {
    fn from(error: HandlerError) -> Self {
        match error {
            HandlerError::NotFound(resource, name) => Self::not_found(&resource, &name),
            HandlerError::AlreadyExists(resource, name) => Self::already_exists(&resource, &name),
            HandlerError::Expired(fresh) => Self::gone(
                "The provided continue parameter is too old to display a consistent list result. \
                 You can start a new list without the continue parameter, or use the continue \
                 token in this response to retrieve the remainder of the results. Continuing with \
                 the provided token results in an inconsistent list - objects that were created, \
                 modified, or deleted between the time the first chunk was returned and now may \
                 show up in the list.",
            )
            .with_continue(fresh.encode()),
            HandlerError::Refused(status) => status,
        }
    }
}
