//! Review resources, which are answered without being stored: token, access and self-subject
//! reviews.

use http::StatusCode;
use rkube_api::status::Status;
use rkube_api::{Object, meta};
use rkube_auth::authn::Authenticators;
use serde_json::json;

use super::ownership::Tracking;
use crate::Security;
use crate::backend::Backend;
use crate::call::Call;
use crate::outcome::Outcome;
use crate::resources::Resource;
use crate::versions::SchemaRef;

/// Returns whether the resource is a review.
pub fn is_review(resource: &Resource) -> bool {
    matches!(
        &*resource.group,
        "authorization.k8s.io" | "authentication.k8s.io"
    ) && !resource.is_stored()
}

/// Answers a review.
pub async fn answer(
    backend: &Backend,
    security: &Security,
    call: &Call,
    resource: &Resource,
    review: Object,
) -> Result<Outcome, Status> {
    backend.cache.consistent().await;
    // Only what the client sent has an owner.
    let schema = SchemaRef::of(resource)?;
    let review = Tracking::of_posted(schema, call, &review).created(review);
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
    Ok(Outcome::Object(StatusCode::CREATED, answer))
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
