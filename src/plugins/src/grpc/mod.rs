//! gRPC over Unix sockets: unary calls and streams of the server, on hyper's HTTP/2.
//!
//! Messages are limited to [`MAX_MESSAGE`] bytes, as by Go's implementation. Compression is neither
//! offered nor accepted.

use bytes::{Buf as _, Bytes, BytesMut};

mod authority;
mod client;
mod server;
mod status;

pub use client::{Channel, Stream};
pub use server::{Reply, Service, answer, listen, serve};
pub use status::{Code, Status};

/// Maximum length of a message in bytes: the default of Go's implementation.
pub const MAX_MESSAGE: usize = 4 << 20;

/// Returns a message with its frame's head.
fn frame(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(message.len() + 5);
    out.extend_from_slice(&[0]);
    // A message of more than 4 GiB cannot be in memory twice.
    out.extend_from_slice(&(message.len() as u32).to_be_bytes());
    out.extend_from_slice(message);
    out.freeze()
}

/// Removes the first whole frame from `buffer` and returns its message; `None` if more bytes are
/// needed.
///
/// # Errors
///
/// Fails as soon as the head announces a message that is too long, or is compressed.
fn unframe(buffer: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    let Some((head, _)) = buffer.split_first_chunk::<5>() else {
        return Ok(None);
    };
    if head[0] != 0 {
        return Err(Status::new(
            Code::Internal,
            "grpc: compressed flag set with identity or empty encoding",
        ));
    }
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length > MAX_MESSAGE {
        return Err(Status::new(
            Code::ResourceExhausted,
            format!("grpc: received message larger than max ({length} vs. {MAX_MESSAGE})"),
        ));
    }
    if buffer.len() < 5 + length {
        return Ok(None);
    }
    buffer.advance(5);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// Formats an error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_in_pieces() {
        let mut buffer = BytesMut::new();
        let mut seen = Vec::new();
        for byte in [frame(b"one"), frame(b""), frame(b"three")].concat() {
            buffer.extend_from_slice(&[byte]);
            while let Some(message) = unframe(&mut buffer).unwrap() {
                seen.push(message);
            }
        }
        assert_eq!(seen, [&b"one"[..], b"", b"three"]);
    }

    #[test]
    fn huge_messages_are_refused_by_their_head() {
        let unframe = |head: &[u8]| unframe(&mut BytesMut::from(head));
        let status = unframe(&[0, 0x7f, 0, 0, 0]).unwrap_err();
        assert_eq!(
            status.to_string(),
            "rpc error: code = ResourceExhausted desc = grpc: received message larger than max \
             (2130706432 vs. 4194304)"
        );
        assert_eq!(unframe(&[1, 0, 0, 0, 0]).unwrap_err().code, Code::Internal);
        assert_eq!(unframe(&[0, 0, 0x40, 0, 0]), Ok(None));
    }
}
