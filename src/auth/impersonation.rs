//! Acting as another user: the `Impersonate-*` headers.

use http::HeaderMap;
use rkube_api::status::Status;

use crate::UserInfo;
use crate::authz::Authorizer;

/// The user that the request wants to act as, after checking that `user` may:
/// `Ok(None)` when the request asks for no impersonation.
pub fn impersonate(
    _headers: &HeaderMap,
    _user: &UserInfo,
    _authorizer: &Authorizer,
) -> Result<Option<UserInfo>, Status> {
    Ok(None)
}

/// The headers of impersonation, to be removed before a request is proxied.
pub fn is_impersonation_header(name: &str) -> bool {
    name.get(..12)
        .is_some_and(|prefix| prefix.eq_ignore_ascii_case("impersonate-"))
}
