//! `serviceaccounts/token`: tokens of service accounts.

use http::StatusCode;
use jiff::Timestamp;
use rkube_api::Object;
use rkube_api::schema::Schema;
use rkube_api::status::Status;
use rkube_auth::token::TokenSigner;

use super::ownership::Tracking;
use super::posted::admit;
use crate::admission::attributes::SubresourceKind;
use crate::call::Call;
use crate::input::options::WriteOptions;
use crate::outcome::Outcome;
use crate::reader::CacheReader;
use crate::resources::Resource;
use crate::storage::RestStorage;
use crate::versions::SchemaRef;

/// The kind of the posted object.
pub const TOKEN_REQUEST: SubresourceKind<'static> = SubresourceKind {
    group: "authentication.k8s.io",
    version: "v1",
    kind: "TokenRequest",
    definition: "io.k8s.api.authentication.v1.TokenRequest",
};

/// Issues a token for a service account.
pub async fn token(
    storage: &RestStorage,
    signer: &TokenSigner,
    call: &Call,
    resource: &Resource,
    options: &WriteOptions,
    mut review: Object,
) -> Result<Outcome, Status> {
    storage.backend.cache.consistent().await;
    if let Some(ty) = Schema::builtin().definition(TOKEN_REQUEST.definition) {
        let tracking = Tracking::of_posted(SchemaRef::Builtin(ty), call, &review);
        review = tracking.created(review);
    }
    admit(storage, call, resource, TOKEN_REQUEST, options, &mut review).await?;
    let reader = CacheReader(storage.backend.cache.clone());
    let answer = signer.token_request(
        &reader,
        &call.info.namespace,
        &call.info.name,
        &review,
        Timestamp::now(),
    )?;
    Ok(Outcome::Value(StatusCode::CREATED, answer))
}
