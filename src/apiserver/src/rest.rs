//! The way of a request for objects: its input is read, a handler acts on it, and the outcome is
//! encoded. Each step uses only what is below it.

use std::sync::Arc;

use http::Response;
use rkube_api::status::Status;

use crate::ApiServer;
use crate::body::Body;
use crate::call::{Call, Incoming};
use crate::handlers;
use crate::handlers::ownership::ObjectPart;
use crate::input::Input;
use crate::kind_handlers::KindHandler;
use crate::resources::Resource;
use crate::respond;

/// Serves a request for a resource, whose scope and verb have been checked. Without a handler of
/// its own, the generic one serves it.
///
/// # Errors
///
/// The status of the step that refuses the request.
pub async fn serve(
    server: &ApiServer,
    call: &Call,
    resource: &Arc<Resource>,
    own: Option<KindHandler>,
    request: Incoming,
) -> Result<Response<Body>, Status> {
    call.warn(resource.deprecation());
    let Incoming {
        mut extensions,
        body,
    } = request;
    let (accepted, outcome) = match own {
        Some(own) => Box::pin(own.handle(server, call, resource, body)).await?,
        None => {
            let part = ObjectPart::of(&call.info.subresource)?;
            let (accepted, input) = Input::read(call, resource, body).await?;
            let (storage, metrics) = (&*server.storage, &server.metrics);
            let outcome = handlers::handle(storage, metrics, call, resource, part, input).await?;
            (accepted, outcome)
        }
    };
    let backend = server.backend();
    respond::outcome(backend, call, resource, accepted, outcome, &mut extensions).await
}
