//! `/rkube/v1/store`: everything that the store holds, for `rkube snapshot`.
//!
//! Secrets are in it as they are stored: only who may GET that very path gets it,
//! which no role but `cluster-admin` allows.

use futures::StreamExt as _;
use http::{HeaderValue, Method, Response, header};
use rkube_api::status::Status;

use crate::backend::Backend;
use crate::body::{self, Body};
use crate::cache::PREFIX;
use crate::call::Call;

/// The path.
pub const PATH: &str = "/rkube/v1/store";

/// Serves the dump.
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
