//! Resources that only answer: who am I, may I, is this token good.

use std::sync::Arc;

use http::{Response, StatusCode};
use rkube_api::status::Status;
use rkube_api::{Object, meta};
use serde_json::json;

use crate::ApiServer;
use crate::body::{self, Body};
use crate::call::{Call, Incoming};
use crate::handlers::decode::decode;
use crate::handlers::options::WriteOptions;
use crate::negotiate;
use crate::resources::Resource;

/// Whether the resource is answered rather than stored.
pub fn is_review(resource: &Resource) -> bool {
    matches!(
        &*resource.group,
        "authorization.k8s.io" | "authentication.k8s.io"
    ) && !resource.is_stored()
}

/// Answers a review.
pub async fn handle(
    server: &Arc<ApiServer>,
    call: &Call,
    resource: &Resource,
    request: Incoming,
) -> Result<Response<Body>, Status> {
    let accepted = negotiate::accept(&call.headers, negotiate::Offer::Plain)?;
    let options = WriteOptions::read(call, "CreateOptions")?;
    let encoding = negotiate::content_encoding(&call.headers)?;
    let bytes = body::read(request.body).await?;
    let review = decode(call, resource, &bytes, encoding, options.validation)?;
    server.cache.consistent().await;
    let answer = match &*resource.kind {
        "TokenReview" => token_review(server, &review)?,
        "SelfSubjectReview" => {
            let mut answer = review;
            meta::set_creation_timestamp(&mut answer, &meta::now_rfc3339());
            answer["status"] = json!({"userInfo": call.user.to_value()});
            answer
        }
        kind => server
            .authorizer
            .review(kind, &call.info.namespace, &review, &call.user)?,
    };
    Ok(server
        .tree_response(call, resource, StatusCode::CREATED, accepted, answer)
        .await)
}

fn token_review(server: &ApiServer, review: &Object) -> Result<Object, Status> {
    if review["spec"]["token"]
        .as_str()
        .unwrap_or_default()
        .is_empty()
    {
        return Err(Status::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    Ok(server.authenticators.token_review(review))
}
