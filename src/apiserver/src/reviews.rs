//! Review resources, which are answered without being stored: token, access and self-subject
//! reviews.

use http::{Response, StatusCode};
use rkube_api::status::Status;
use rkube_api::{Object, meta};
use rkube_auth::authn::Authenticators;
use serde_json::json;

use crate::Security;
use crate::backend::Backend;
use crate::body::{self, Body};
use crate::call::{Call, Incoming};
use crate::handlers::decode::decode;
use crate::handlers::options::WriteOptions;
use crate::negotiate;
use crate::resources::Resource;

/// Returns whether the resource is a review.
pub fn is_review(resource: &Resource) -> bool {
    matches!(
        &*resource.group,
        "authorization.k8s.io" | "authentication.k8s.io"
    ) && !resource.is_stored()
}

/// Serves a review.
pub async fn handle(
    backend: &Backend,
    security: &Security,
    call: &Call,
    resource: &Resource,
    request: Incoming,
) -> Result<Response<Body>, Status> {
    let accepted = negotiate::accept(&call.headers, negotiate::MediaTypes::Plain)?;
    let options = WriteOptions::read(call, "CreateOptions")?;
    let encoding = negotiate::content_encoding(&call.headers)?;
    let bytes = body::read(request.body).await?;
    let review = decode(call, resource, &bytes, encoding, options.validation)?;
    backend.cache.consistent().await;
    let answer = match &*resource.kind {
        "TokenReview" => token_review(&security.authenticators, &review)?,
        "SelfSubjectReview" => {
            let mut answer = review;
            meta::set_creation_timestamp(&mut answer, &meta::now_rfc3339());
            answer["status"] = json!({"userInfo": call.user.to_value()});
            answer
        }
        kind => security
            .authorizer
            .review(kind, &call.info.namespace, &review, &call.user)?,
    };
    Ok(backend
        .tree_response(call, resource, StatusCode::CREATED, accepted, answer)
        .await)
}

fn token_review(authenticators: &Authenticators, review: &Object) -> Result<Object, Status> {
    if review["spec"]["token"]
        .as_str()
        .unwrap_or_default()
        .is_empty()
    {
        return Err(Status::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    Ok(authenticators.token_review(review))
}
