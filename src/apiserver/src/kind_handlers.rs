//! The kinds and subresources that the generic handlers do not serve.

use std::sync::Arc;

use http::Response;
use rkube_api::status::Status;
use rkube_request::RequestInfo;

use crate::ApiServer;
use crate::body::Body;
use crate::call::{Call, Incoming};
use crate::resources::Resource;
use crate::{eviction, reviews, subresources, usage};

/// The handler of one kind or subresource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KindHandler {
    /// Token, access and self-subject reviews.
    Review,
    /// `componentstatuses`.
    ComponentStatus,
    /// The kinds of `metrics.k8s.io`.
    Usage,
    /// `bindings` and `pods/binding`.
    Binding,
    /// The subresource `scale`.
    Scale,
    /// `pods/eviction`.
    Eviction,
    /// `serviceaccounts/token`.
    Token,
}

impl KindHandler {
    /// Returns the handler of a request; nothing if the generic handlers serve it.
    pub fn find(resource: &Resource, info: &RequestInfo) -> Option<Self> {
        match info.subresource.as_str() {
            "" => Self::find_main(resource),
            "scale" => Some(Self::Scale),
            "binding" => Some(Self::Binding),
            "eviction" => Some(Self::Eviction),
            "token" => Some(Self::Token),
            _ => None,
        }
    }

    fn find_main(resource: &Resource) -> Option<Self> {
        if reviews::is_review(resource) {
            Some(Self::Review)
        } else if resource.is("", "componentstatuses") {
            Some(Self::ComponentStatus)
        } else if usage::is_of_group(resource.row()) {
            Some(Self::Usage)
        } else if resource.is("", "bindings") {
            Some(Self::Binding)
        } else {
            None
        }
    }

    /// Serves a request, whose scope and verb have been checked.
    pub async fn handle(
        self,
        server: &ApiServer,
        call: &Call,
        resource: &Arc<Resource>,
        request: Incoming,
    ) -> Result<Response<Body>, Status> {
        let (storage, backend) = (&*server.storage, server.backend());
        let security = &server.security;
        call.warn(resource.deprecation());
        match self {
            Self::Review => reviews::handle(backend, security, call, resource, request).await,
            Self::ComponentStatus => {
                subresources::component_statuses(backend, &server.components, call, resource).await
            }
            Self::Usage => usage::handle(server, call, resource).await,
            Self::Binding => subresources::bind(storage, call, resource, request).await,
            Self::Scale => subresources::scale(storage, call, resource, request).await,
            Self::Eviction => eviction::evict(storage, call, resource, request).await,
            Self::Token => {
                subresources::token(storage, &security.signer, call, resource, request).await
            }
        }
    }
}
