use super::query::Query;
use super::{Answer, text};
use std::sync::Arc;
pub(crate) async fn serve(
    _a: Arc<crate::agent::Agent>,
    _s: crate::pods::Snapshot,
    _q: Query,
    _r: http::Request<hyper::body::Incoming>,
) -> Answer {
    text(http::StatusCode::BAD_REQUEST, "not yet")
}
