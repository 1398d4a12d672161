//! The files of the page.

use std::io::Read;

use base64::Engine as _;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use crate::answer::{self, Body};

/// A file of the page.
pub struct Asset {
    path: &'static str,
    kind: &'static str,
    etag: &'static str,
    gzip: &'static [u8],
}

static ASSETS: &[Asset] = include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// The page's only inline script.
const BOOT: &str = include_str!(concat!(env!("OUT_DIR"), "/boot.js"));

/// Returns the source expression by which a content security policy allows the inline
/// script (<https://www.w3.org/TR/CSP3/#grammardef-hash-source>).
pub fn inline_source() -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, BOOT.as_bytes());
    let text = base64::engine::general_purpose::STANDARD.encode(hash);
    format!("'sha256-{text}'")
}

/// Returns the file at a path; the page itself is at `/`.
pub fn find(path: &str) -> Option<&'static Asset> {
    let path = if path == "/" { "/index.html" } else { path };
    ASSETS.iter().find(|a| a.path == path)
}

/// Responds with the file, or with 304 if the browser has it already.
pub fn serve(asset: &'static Asset, request: &HeaderMap) -> Response<Body> {
    let list = |name| {
        request
            .get_all(name)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .map(str::trim)
    };
    let known = list(header::IF_NONE_MATCH).any(|tag| tag.trim_start_matches("W/") == asset.etag);
    let mut response = if known {
        let mut response = Response::new(answer::full(""));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else if list(header::ACCEPT_ENCODING).any(|e| {
        e.split(';')
            .next()
            .is_some_and(|name| name.trim() == "gzip")
    }) {
        let mut response = answer::typed(StatusCode::OK, asset.kind, answer::full(asset.gzip));
        response
            .headers_mut()
            .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
    } else {
        let mut plain = Vec::new();
        match flate2::read::GzDecoder::new(asset.gzip).read_to_end(&mut plain) {
            Ok(_) => answer::typed(StatusCode::OK, asset.kind, answer::full(plain)),
            Err(e) => answer::text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, HeaderValue::from_static(asset.etag));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    response
}
