//! Blobs: reading and deleting.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH,
    IF_RANGE, RANGE,
};
use hyper::{HeaderMap, Response, StatusCode};

use super::{Body, CONTENT_DIGEST, Registry, bare, blocking};
use crate::error::{Code, Refusal};
use crate::name::{Digest, Repository};

/// The size of the pieces in which a blob is read.
const PIECE: u64 = 256 << 10;
/// The media type of blobs.
const OCTETS: &str = "application/octet-stream";

impl Registry {
    /// Answers with a blob, or a part of it.
    pub(super) async fn blob(
        self: &Arc<Self>,
        name: Repository,
        digest: &Digest,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, Refusal> {
        let (store, wanted) = (self.store.clone(), digest.clone());
        let found = blocking(move || store.blob(&name, &wanted)).await?;
        let (file, size) = found.ok_or_else(|| unknown(digest))?;
        let tag = format!("\"{digest}\"");
        if matches(headers, IF_NONE_MATCH, &tag) {
            return Ok(bare(StatusCode::NOT_MODIFIED, &[(ETAG, tag)]));
        }
        let whole = 0..size;
        // A part is of use only if it is of the same content.
        let of_this = !headers.contains_key(IF_RANGE) || matches(headers, IF_RANGE, &tag);
        let part = match headers.get(RANGE).and_then(|range| range.to_str().ok()) {
            Some(range) if of_this => parse_range(range, size).map_err(|()| {
                Refusal::new(Code::RangeInvalid, format!("the blob has {size} bytes"))
                    .header(CONTENT_RANGE, format!("bytes */{size}"))
            })?,
            _ => None,
        };
        let status = match part {
            Some(_) => StatusCode::PARTIAL_CONTENT,
            None => StatusCode::OK,
        };
        let mut fields = described(digest, part.as_ref().unwrap_or(&whole));
        fields.push((ETAG, tag));
        if let Some(part) = &part {
            let text = format!("bytes {}-{}/{size}", part.start, part.end - 1);
            fields.push((CONTENT_RANGE, text));
        }
        let mut response = bare(status, &fields);
        let stream = pieces(file, part.unwrap_or(whole));
        *response.body_mut() = StreamBody::new(stream).boxed_unsync();
        Ok(response)
    }

    /// Answers whether a repository has a blob.
    pub(super) async fn has_blob(
        self: &Arc<Self>,
        name: Repository,
        digest: &Digest,
    ) -> Result<Response<Body>, Refusal> {
        let (store, wanted) = (self.store.clone(), digest.clone());
        // The client will not send it, and names it in a manifest.
        let found = blocking(move || store.see_blob(&name, &wanted));
        let size = found.await?.ok_or_else(|| unknown(digest))?;
        Ok(bare(StatusCode::OK, &described(digest, &(0..size))))
    }

    /// Takes a blob from a repository.
    pub(super) async fn delete_blob(
        self: &Arc<Self>,
        name: Repository,
        digest: &Digest,
    ) -> Result<Response<Body>, Refusal> {
        let (store, wanted) = (self.store.clone(), digest.clone());
        match blocking(move || store.remove_blob(&name, &wanted)).await? {
            true => Ok(bare(StatusCode::ACCEPTED, &[])),
            false => Err(unknown(digest)),
        }
    }
}

fn unknown(digest: &Digest) -> Refusal {
    Refusal::new(
        Code::BlobUnknown,
        format!("the repository has no blob {digest}"),
    )
}

fn described(digest: &Digest, part: &Range<u64>) -> Vec<(HeaderName, String)> {
    vec![
        (CONTENT_LENGTH, (part.end - part.start).to_string()),
        (CONTENT_TYPE, OCTETS.to_owned()),
        (CONTENT_DIGEST, digest.to_string()),
        (ACCEPT_RANGES, "bytes".to_owned()),
    ]
}

/// Whether a header names an entity.
pub(super) fn matches(headers: &HeaderMap, name: HeaderName, tag: &str) -> bool {
    let given = headers.get(name).and_then(|value| value.to_str().ok());
    given.is_some_and(|text| {
        text.split(',')
            .any(|one| matches!(one.trim(), "*") || one.trim() == tag)
    })
}

/// Reads the header `Range`. Without a meaning, or with several parts, it asks for everything
/// (RFC 9110, 14.2): `None`. Fails if the part is not in the blob.
fn parse_range(text: &str, size: u64) -> Result<Option<Range<u64>>, ()> {
    let Some((first, last)) = text
        .strip_prefix("bytes=")
        .and_then(|part| part.split_once('-'))
    else {
        return Ok(None);
    };
    let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
        // A number that is too large is beyond the end.
        true => Some(text.parse().unwrap_or(u64::MAX)),
        false => None,
    };
    let (Some(first_number), Some(last_number)) = (number(first), number(last)) else {
        return Ok(None);
    };
    let part = match (first, last) {
        ("", "") => return Ok(None),
        ("", _) => size.saturating_sub(last_number)..size,
        (_, "") => first_number..size,
        _ if last_number < first_number => return Ok(None),
        _ => first_number..size.min(last_number.saturating_add(1)),
    };
    match part.is_empty() {
        true => Err(()),
        false => Ok(Some(part)),
    }
}

/// Reads a part of a file while it is sent.
fn pieces(file: File, part: Range<u64>) -> impl Stream<Item = Result<Frame<Bytes>, io::Error>> {
    futures::stream::try_unfold((Some(file), part), |(file, part)| async move {
        let Some(mut file) = file.filter(|_| !part.is_empty()) else {
            return Ok(None);
        };
        blocking(move || {
            let size = PIECE.min(part.end - part.start);
            file.seek(SeekFrom::Start(part.start))?;
            let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
            (&mut file).take(size).read_to_end(&mut bytes)?;
            if bytes.is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            let rest = part.start + bytes.len() as u64..part.end;
            Ok(Some((Frame::data(Bytes::from(bytes)), (Some(file), rest))))
        })
        .await
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (text, expected) in [
            ("bytes=0-0", Ok(Some(0..1))),
            ("bytes=2-", Ok(Some(2..10))),
            ("bytes=-3", Ok(Some(7..10))),
            ("bytes=-99", Ok(Some(0..10))),
            ("bytes=5-99999999999999999999", Ok(Some(5..10))),
            ("bytes=10-", Err(())),
            ("bytes=99999999999999999999-", Err(())),
            ("bytes=-0", Err(())),
            ("bytes=-", Ok(None)),
            ("bytes=3-2", Ok(None)),
            ("bytes=0-1,3-4", Ok(None)),
            ("bytes=a-b", Ok(None)),
            ("lines=0-1", Ok(None)),
        ] {
            assert_eq!(parse_range(text, 10), expected, "{text}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Err(()));
    }
}
