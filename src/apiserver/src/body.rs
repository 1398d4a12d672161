//! Request and response bodies, and response compression.

use std::io::Write as _;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited, StreamBody};
use rkube_api::status::Status;

/// The error type of bodies.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body type of every request and response inside the server.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Maximum size of a request body in bytes; upstream's limit.
pub const MAX_REQUEST_BYTES: usize = 3 << 20;

/// Responses larger than this many bytes are compressed if the client accepts gzip.
const GZIP_THRESHOLD: usize = 128 << 10;

/// Returns a body of the given bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Returns an empty body.
pub fn empty() -> Body {
    full(Bytes::new())
}

/// Returns a body that is produced while it is sent.
pub fn stream(chunks: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Body {
    use futures::StreamExt as _;
    StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data))).boxed_unsync()
}

/// Converts any body into [`Body`].
pub fn boxed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// Reads a request body to its end.
///
/// # Errors
///
/// 413 if the body exceeds [`MAX_REQUEST_BYTES`].
pub fn read(body: Body) -> BoxFuture<'static, Result<Bytes, Status>> {
    let collected = Limited::new(body, MAX_REQUEST_BYTES)
        .collect()
        .map(|result| match result {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(Status::request_too_large(
                format!("limit is {MAX_REQUEST_BYTES}"),
            )),
            Err(error) => Err(Status::bad_request(format!(
                "the request's body could not be read: {error}"
            ))),
        });
    Box::pin(collected)
}

/// Returns whether the client accepts gzip.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|coding| {
            let mut parts = coding.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let refused =
                parts.any(|p| matches!(p.strip_prefix("q=").map(str::parse::<f32>), Some(Ok(0.0))));
            (name.eq_ignore_ascii_case("gzip") || name == "*") && !refused
        })
}

/// Returns a response with the given bytes, compressed if they are large and `gzip` is set.
pub async fn respond(mut response: Response<()>, bytes: Bytes, gzip: bool) -> Response<Body> {
    let bytes = if gzip && bytes.len() > GZIP_THRESHOLD {
        response
            .headers_mut()
            .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
            .headers_mut()
            .insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        // Compressing megabytes would block the other tasks of this thread.
        let plain = bytes.clone();
        match tokio::task::spawn_blocking(move || compress(&plain)).await {
            Ok(compressed) => compressed,
            Err(_) => {
                response.headers_mut().remove(header::CONTENT_ENCODING);
                bytes
            }
        }
    } else {
        bytes
    };
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    response.map(|()| full(bytes))
}

fn compress(plain: &[u8]) -> Bytes {
    let mut encoder = flate2::write::GzEncoder::new(
        Vec::with_capacity(plain.len() / 4),
        flate2::Compression::fast(),
    );
    encoder.write_all(plain).expect("a vector takes every byte");
    encoder.finish().expect("a vector takes every byte").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, value.parse().unwrap());
        accepts_gzip(&headers)
    }

    #[test]
    fn gzip_is_taken_when_named_and_not_refused() {
        assert!(accepts("gzip"));
        assert!(accepts("br, gzip;q=0.5"));
        assert!(!accepts("gzip;q=0"));
        assert!(!accepts("br, deflate"));
    }

    #[tokio::test]
    async fn large_bodies_are_refused() {
        assert_eq!(
            read(full(vec![0; MAX_REQUEST_BYTES + 1]))
                .await
                .unwrap_err()
                .code,
            413
        );
        assert_eq!(read(full("abc")).await.unwrap(), "abc");
    }

    #[tokio::test]
    async fn large_responses_are_compressed() {
        use std::io::Read as _;
        let bytes = Bytes::from(vec![b'x'; GZIP_THRESHOLD + 1]);
        let response = respond(Response::new(()), bytes.clone(), true).await;
        assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&body[..])
            .read_to_end(&mut plain)
            .unwrap();
        assert_eq!(plain, bytes);
    }
}
