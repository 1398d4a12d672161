//! `/rkube/v1/store`: a dump of the whole store, for `rkube snapshot`.
//!
//! The dump contains Secrets in plain text. Only users that may GET this path can read it; of the
//! default roles, only `cluster-admin` grants that.

use futures::StreamExt as _;
use http::{HeaderValue, Method, Response, header};
use rkube_api::status::Status;

use crate::backend::Backend;
use crate::body::{self, Body};
use crate::cache::PREFIX;
use crate::call::Call;

/// The path of the dump.
pub const PATH: &str = "/rkube/v1/store";

/// Serves the dump as a stream.
pub fn handle(backend: &Backend, call: &Call) -> Result<Response<Body>, Status> {
    if call.info.path != PATH || call.method != Method::GET {
        return Err(Status::page_not_found());
    }
    let chunks = rkube_store::dump::dump(backend.store.clone(), PREFIX.into());
    let mut response = Response::new(body::stream(chunks.map(|chunk| chunk.map_err(Into::into))));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    Ok(response)
}
