//! The kinds and subresources that the generic handlers do not serve.

use rkube_api::status::Status;
use rkube_request::RequestInfo;

use crate::ApiServer;
use crate::body::Body;
use crate::call::Call;
use crate::handlers::{binding, component_status, eviction, review, scale, token};
use crate::input::options::WriteOptions;
use crate::input::scale::ScaleInput;
use crate::input::{self, posted};
use crate::negotiate::Accepted;
use crate::outcome::Outcome;
use crate::resources::Resource;
use crate::usage;

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
        if review::is_review(resource) {
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

    /// Serves a request, whose scope and verb have been checked. Returns the answer, and the form in
    /// which the client wants it.
    ///
    /// # Errors
    ///
    /// Fails if the request is malformed, or the handler refuses it.
    pub async fn handle(
        self,
        server: &ApiServer,
        call: &Call,
        resource: &Resource,
        body: Body,
    ) -> Result<(Accepted, Outcome), Status> {
        let (storage, backend) = (&*server.storage, server.backend());
        let security = &server.security;
        let whole = || input::accept_whole(call);
        Ok(match self {
            Self::ComponentStatus => {
                let (accepted, wanted) = input::read_computed(call, resource)?;
                let (components, wanted) = (&server.components, wanted.as_ref());
                let outcome =
                    component_status::read(backend, components, call, resource, wanted).await?;
                (accepted, outcome)
            }
            Self::Usage => {
                let (accepted, wanted) = input::read_computed(call, resource)?;
                let outcome = usage::read(server, call, resource, wanted.as_ref()).await?;
                (accepted, outcome)
            }
            Self::Review => {
                let accepted = whole()?;
                let options = WriteOptions::read(call, "CreateOptions")?;
                let review = input::read_as(call, resource, body, &options).await?;
                let outcome = review::answer(backend, security, call, resource, review).await?;
                (accepted, outcome)
            }
            Self::Scale => {
                let accepted = whole()?;
                let input = ScaleInput::read(call, resource, body).await?;
                let outcome = scale::handle(storage, call, resource, input).await?;
                (accepted, outcome)
            }
            Self::Eviction => {
                let accepted = whole()?;
                let (options, object) = posted::read(call, body, &eviction::EVICTION).await?;
                let outcome = eviction::evict(storage, call, resource, &options, object).await?;
                (accepted, outcome)
            }
            Self::Token => {
                let accepted = whole()?;
                let (options, object) = posted::read(call, body, &token::TOKEN_REQUEST).await?;
                let signer = &security.signer;
                let outcome =
                    token::token(storage, signer, call, resource, &options, object).await?;
                (accepted, outcome)
            }
            Self::Binding => {
                let accepted = whole()?;
                let (options, object) = posted::read(call, body, &binding::BINDING).await?;
                let outcome = binding::bind(storage, call, resource, &options, object).await?;
                (accepted, outcome)
            }
        })
    }
}
